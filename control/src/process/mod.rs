//! The control process: takes requests from clients on a unix socket and passes them to the dataplane.
//!
//! ```text
//!  client ─ reader ─┐ events                          ┌─ writer ─ client
//!  client ─ reader ─┼────────► broker (one thread) ───┼─ writer ─ client
//!  dataplane reader ┘          tags, cache, deadlines └─ writer ─ dataplane
//! ```
//!
//! [`broker`] decides and touches no socket; [`server`] has the sockets and decides nothing. Each socket has a thread that
//! reads and one that writes; queues between them are bounded. A client that reads too slowly is disconnected, never
//! waited for. Nothing here is on the packet path: packets flow whether this process runs or not, and it outlives any
//! number of dataplanes.

pub mod broker;
pub mod server;
#[cfg(test)]
mod tests;
