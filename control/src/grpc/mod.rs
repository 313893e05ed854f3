//! The gRPC API `florelay.v1`, served by the control process; `proto/florelay/v1/florelay.proto` says what it is.
//!
//! ```text
//!  client ─ connection (TLS, preface) ─ tonic ─┬─ transfers, links, commands, node ─► ask ─┐
//!                                              └─ streams ─ threads ─ StreamWriter/Reader ─┴─► client::Node ─► control.sock
//! ```
//!
//! The API is a client of the control process's own socket like any other program, so what it can do, the command line can.
//! [`requests`] turns messages into requests and touches nothing else, [`answers`] the other way round; [`error`] knows
//! gRPC's codes. One runtime of two threads serves all; whatever blocks has a thread of its own out of a bounded pool.

mod answers;
mod api;
mod ask;
mod commands;
mod connection;
mod counters;
mod error;
mod health;
mod links;
mod node;
mod plan;
pub mod proto;
pub mod requests;
mod server;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod transfers;

use std::io;
use std::path::Path;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::watch;

pub use self::error::{FAIL_CODE_KEY, REFUSAL_KEY};
pub use self::plan::{Address, DEFAULT_CONNECTIONS, DEFAULT_PORT, DEFAULT_STREAMS, GrpcPlan, TlsPlan};
use crate::client::Node;

/// Threads that serve calls; what blocks is elsewhere.
const WORKERS: usize = 2;
/// Threads for what blocks, beside those of streams: short questions.
const ASKING: usize = 32;
/// Threads of a stream.
const PER_STREAM: usize = 2;

/// A server that runs; dropped, it stops.
#[derive(Debug)]
pub struct Serving {
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Serving {
    /// Starts the server, as a client of the control process at `socket`. What it cannot listen at yet it tries again.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn start(plan: GrpcPlan, socket: &Path) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let node = Node::new(socket);
        let streams = plan.streams as usize;
        let runtime = Builder::new_multi_thread()
            .thread_name("grpc")
            .worker_threads(WORKERS)
            .max_blocking_threads(PER_STREAM * streams + ASKING)
            .enable_all()
            .build()?;
        let thread = thread::Builder::new().name("grpc".into()).spawn(move || {
            runtime.block_on(server::run(plan, node, stopped));
            // Threads of streams may still wait for the dataplane; the process ends with or without them.
            runtime.shutdown_background();
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It has said itself why it ended.
            let _ = thread.join();
        }
    }
}
