//! Quelay's Thrift API: its clients work against this node unchanged (`control/idl/quelay.thrift`, `docs/src/quelay.md`).
//!
//! ```text
//!  client ── calls ──► server ─► calls ─► agent ─────────────┐
//!    ▲                  one thread a connection              │ open, read, ask
//!    ├─ events ◄─ callback ◄─ outbox ◄─ transfers ◄─ watch ◄─┤ relay (the node's control socket)
//!    │              one thread a client       one thread     │
//!    └─ bytes ──► port ─► sending ──────────────────────────►│
//!       bytes ◄── port ◄─ receiving ◄────────────────────────┘
//!                          one thread a running transfer
//! ```
//!
//! [`types`], [`wire`], [`calls`] and [`events`] are the protocol; [`outbox`] is the order in which a client hears things;
//! [`transfers`] is who owns which stream. Threads are bounded: [`MAX_CONNECTIONS`](server), [`clients::MAX_CLIENTS`],
//! [`transfers::MAX_TRANSFERS`], one more watches the node.
//!
//! Invariants: a stream has exactly one end, said once, to the client that has it; nothing of a transfer outlives its end but
//! the last write to its client.

mod agent;
mod callback;
mod calls;
mod clients;
mod events;
pub mod fuzzing;
mod node;
mod outbox;
mod plan;
mod port;
mod receiving;
pub mod relay;
mod sending;
mod server;
#[cfg(test)]
mod tests;
mod transfers;
mod types;
mod watch;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::thread;

pub use plan::{ThriftPlan, VERSIONS};

use crate::client::Node;
use agent::Agent;

/// Name of all streams of this API at the node: by it the receiver's clients get them.
pub const STREAM_NAME: &str = "quelay";

/// Enough for a thread that copies through the heap.
const STACK_BYTES: usize = 256 << 10;
const THREAD_REFUSED: &str = "the system gives no more threads";

/// Serves for ever, as a client of the control socket at `socket`.
pub fn serve(plan: ThriftPlan, socket: &Path) {
    let listener = crate::services::listen("Quelay's Thrift API", plan.listen);
    let agent = Agent::new(plan, Arc::new(Node::new(socket)));
    let watching = Arc::clone(&agent);
    thread::spawn(move || watch::watch(&watching));
    server::serve(&listener, &agent);
}

/// A thread that is not waited for; `false` = there is none to be had.
fn small_thread(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    let spawned = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work);
    if let Err(error) = &spawned {
        tracing::error!("thrift: no thread for {name}: {error}");
    }
    spawned.is_ok()
}
