//! The sans-IO node: everything between an adapter and the gateways is a state machine driven by
//! `(now, frames | commands)` and answers with frames, events and the time at which it wants to be called again.
//! No socket, clock, thread or sleep lives here, so a whole network of nodes runs in one test under virtual time.
//!
//! ```text
//!   commands ──►  relay · datagrams · messages     ──► events
//!                        │ streams, datagrams
//!                    transport (quinn-proto)
//!                        │ QUIC packets, pulled one at a time
//!   frames  ──►  forwarding (FIB) ── oam ── egress  ──► frames (through `Port`)
//! ```
//!
//! Layers depend downward only: `egress`, `fib` and `oam` know nothing of QUIC, `transport` nothing of transfers.
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod contact;
pub mod datagrams;
pub mod egress;
pub mod fib;
#[doc(hidden)]
pub mod fuzzing;
mod messages;
mod node;
pub mod oam;
pub mod port;
mod relay;
mod session;
pub mod spool;
pub mod time;
pub mod transport;

pub use api::{Command, Event};
pub use node::{ConditionReport, Engine, EngineError, EngineStatus, LinkNotice, LinkReport, PeerReport};
pub use port::{Crossing, FrameBuf, Port};
pub use relay::check_meta;
pub use time::Nanos;
