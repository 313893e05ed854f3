//! The four rings as four types, so that a misuse does not compile.
//!
//! ```text
//!               user space                          kernel
//!   FillRing        ── free frames, empty ────────►  to receive into
//!   RxRing          ◄─ received frames, held ──────
//!   TxRing          ── held frames, full ─────────►  to send
//!   CompletionRing  ◄─ sent frames, free ──────────
//! ```
//!
//! Fill, RX and completion rings are xsk-rs's queues, called in batches of [`BATCH_FRAMES`]. The TX ring is written by
//! this crate, see [`tx`](self).
//!
//! No call here allocates, locks, or makes a system call, except [`TxRing::kick`] and [`FillRing::wake`], which make at
//! most the calls that they count.

mod rx;
mod tx;

pub use rx::{CompletionRing, FillRing, RxRing};
pub(crate) use tx::TxMapping;
pub use tx::{Kick, SendError, TxRing};

/// Descriptors moved through a ring with one reserve/submit pair. 64 is the NAPI budget (NAPI_POLL_WEIGHT,
/// linux/netdevice.h): what a driver moves at once.
pub const BATCH_FRAMES: usize = 64;
