//! AF_XDP for florelay.
#![doc = ""]

mod error;
mod frame;
pub mod kick;
mod region;
mod ring;
mod socket;
mod stats;
mod sys;
mod umem;

pub use error::Error;
pub use frame::{Frame, FreeFrame, HEADROOM_BYTES};
pub use kick::{KICK_BATCH_FRAMES, KICK_ROUNDS, TAIL_FLUSH_NS};
pub use ring::{BATCH_FRAMES, CompletionRing, FillRing, Kick, RxRing, SendError, TxRing};
pub use socket::{BIND_PATIENCE, BindMode, OpenOptions, Rings, Socket};
pub use stats::{FrameAccount, KickCounters, TxCounters, UmemCounters, XdpStatistics};
pub use umem::{FrameSize, MAX_SOCKETS, QUARANTINE_NS, RingSizes, Umem, UmemOptions};
