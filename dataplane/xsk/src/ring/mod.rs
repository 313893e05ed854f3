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
//! What lies in memory, and who may touch it when, is in `mapped`; it holds all the `unsafe` of the rings.
//!
//! No call here allocates, locks, or makes a system call, except [`TxRing::kick`] and [`FillRing::wake`], which make at
//! most the calls that they count.

mod mapped;
mod rx;
mod tx;

pub(crate) use mapped::{Consumer, Desc, Producer};
pub use rx::{CompletionRing, FillRing, RxRing};
pub use tx::{Kick, SendError, TxRing};

/// A good number of frames to move at once. 64 is the NAPI budget (NAPI_POLL_WEIGHT,
/// linux/netdevice.h): what a driver moves at once.
pub const BATCH_FRAMES: usize = 64;
