//! What a program asks a node with: requests, subscriptions, and the two ends of a stream. Blocking; threads of std.
//!
//! ```text
//!   Node ───────── control socket, many requests at once, found again ───► control process ──► dataplane
//!   StreamWriter ─ keeps what is not accepted (at most 16 MiB) ─ pipe ───────────────────────► dataplane
//!   StreamReader ◄ counts and hashes what was read ◄──────────── pipe ────────────────────────  dataplane
//! ```
//!
//! A [`Node`] is cheap to clone and may be used from any thread. A request that was under way when the connection ended is
//! [`ClientError::Lost`]: whether it was carried out is not known, and asking again is the caller's decision. The two ends
//! of a stream decide that themselves, and go on where they were.

mod answers;
mod error;
mod interrupt;
mod node;
mod pump;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use self::answers::Answers;
pub(crate) use self::answers::{Heard, Sink};
pub use self::error::ClientError;
pub use self::interrupt::Interrupt;
pub use self::node::{Node, PATIENCE};
pub(crate) use self::node::{RETRY, Subscription};
pub use self::reader::{Processed, StreamReader, Wanted};
pub use self::writer::{Running, StreamWriter, WINDOW_BYTES, Watcher};
