//! Logs go to standard error; `RUST_LOG` chooses what. Release builds have no `trace` level (root Cargo.toml).
//!
//! In the dataplane a line goes into a bounded queue that a thread of its own empties: a worker never waits for a terminal,
//! and a storm of messages is cut off, not passed on. Lines that did not fit are lost.

use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

/// Lines that wait for the log thread, at most.
const QUEUE_LINES: usize = 4096;

/// For supervisor, control and clients: written at once.
pub fn start() {
    tracing_subscriber::fmt().with_env_filter(filter()).with_writer(std::io::stderr).with_ansi(false).init();
}

/// For the dataplane. Keep what it returns until the process ends: dropping it flushes the queue.
pub fn start_queued() -> tracing_appender::non_blocking::WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES).finish(std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter()).with_writer(writer).with_ansi(false).init();
    guard
}

fn filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"))
}
