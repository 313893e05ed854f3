//! AF_XDP for the workers: sockets, UMEM, frames as affine types, poll modes and the rung ladder.
//!
//! What for: to move frames between a network queue and a worker without a copy where the driver can, without a system
//! call in steady state, and without ever losing track of who owns a frame. It speaks to the kernel directly, through
//! libc: include/uapi/linux/if_xdp.h is small and stable, and what is wanted here no library offers (ADR 0006).
//!
//! # The rings, and who owns a frame
//!
//! ```text
//!                         ┌──────────────────── Umem (one per worker) ───────────────────┐
//!                         │  pool of free frames · state of every frame · FrameAccount   │
//!                         └──────────────────────────────────────────────────────────────┘
//!   FreeFrame / Frame          │ refill            ▲ free │ alloc             ▲ reap
//!   exist only here ─────►     ▼                   │      ▼                   │
//!            ┌──────────┐   ┌──────┐           ┌──────────────┐         ┌────────────┐
//!            │ RxRing   │   │ Fill │           │  the worker  │         │ Completion │
//!            │          │   │ Ring │           │  holds Frame │         │ Ring       │
//!            └──────────┘   └──────┘           └──────────────┘         └────────────┘
//!                 │ receive     │                ▲          │ send            ▲
//!                 └─────────────┼────────────────┘          ▼                 │
//!   worker                      │                       ┌────────┐            │
//!  ─────────────────────────────┼───────────────────────│ TxRing │────────────┼──────────
//!   kernel                      ▼                       └────────┘            │
//!                 ▲        to receive into                  │ to send         │ sent
//!                 └── XDP redirect ── device queue i ◄──────┘─────────────────┘
//! ```
//!
//! A frame is free, in a fill ring, held, or being sent; only *held* is a value in the program ([`Frame`]), and it is
//! affine: sending or freeing consumes it. `total = free + fill + held + tx + quarantined` at all times, `leaked` is
//! zero ([`FrameAccount`]). Several sockets may share a UMEM; each has its own four rings, and a frame received on one
//! may be sent on another in place.
//!
//! # Invariants
//!
//! 1. No address from the kernel is used unchecked: it must name a chunk that the kernel has on that very socket.
//! 2. Nothing on the packet path allocates, locks, counts references, or reads a clock; `now` is an argument.
//! 3. A system call is made only where the ring asks for it and it is due, and every one is counted.
//! 4. No loop waits for the kernel: each has a bound, and what is left over is taken up by the next call.
//! 5. Zero-copy or copy is asked for explicitly, and the kernel's answer is checked.
//!
//! # Limits
//!
//! - No multi-buffer frames, no unaligned chunks, no TX metadata (checksum offload); 2048- or 4096-byte chunks.
//! - The memory of a UMEM stays mapped until the process ends.
//! - Kernel 5.4 or later, 5.10 to share a UMEM between queues.
//!
//! All `unsafe` of this crate is in `clock`, `frame`, `region`, `ring/mapped`, `sys` and `umem`.

pub mod clock;
mod driver;
mod error;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod kick;
mod ladder;
pub mod poll;
pub mod quirks;
mod region;
mod ring;
mod socket;
mod stats;
mod sys;
mod umem;
pub mod unbound;
mod watchdog;

pub use driver::{KernelVersion, driver_name};
pub use error::Error;
pub use frame::{Frame, FreeFrame, HEADROOM_BYTES};
pub use kick::{KICK_BATCH_FRAMES, KICK_ROUNDS, TAIL_FLUSH_NS};
pub use ladder::{AttachMode, Ladder, Refusal, Rung};
pub use poll::{AdaptivePoll, Decision};
pub use ring::{BATCH_FRAMES, CompletionRing, FillRing, Kick, RxRing, SendError, TxRing};
pub use socket::{BIND_PATIENCE, BindMode, DEFAULT_FILL_FRAMES, OpenOptions, Rings, Socket};
pub use stats::{FrameAccount, KickCounters, TxCounters, UmemCounters, XdpStatistics};
pub use umem::{FrameSize, MAX_SOCKETS, QUARANTINE_NS, RingSizes, Umem, UmemOptions};
pub use watchdog::{BUSY_POLL_STALL_NS, CompletionWatchdog, STALL_NS, Verdict};

/// A worker is made in one thread and runs in another.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Umem>();
    is_send::<Socket>();
    is_send::<Frame>();
};
