//! Log records of the XDP program, into `tracing`, at a bounded rate.
//!
//! The program itself logs one malformed frame in 1024 per CPU; this side lets at most [`RECORDS_PER_SECOND`] through
//! and says how many it held back. It also turns the number behind `reason` into the words of `wire::ParseError`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use florelay_wire::ParseError;

/// Most records passed on in a second.
const RECORDS_PER_SECOND: u32 = 8;

/// What aya-log hands records to. Its counters are atomic because `log::Log` is shared; one thread uses it.
#[derive(Debug)]
pub(super) struct Sink {
    interface: String,
    left: AtomicU32,
    held_back: AtomicU32,
}

impl Sink {
    pub(super) fn new(interface: &str) -> Self {
        Self { interface: interface.to_owned(), left: AtomicU32::new(0), held_back: AtomicU32::new(0) }
    }
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.left.store(left - 1, Ordering::Relaxed);
        let message = explain(&record.args().to_string());
        tracing::warn!(interface = %self.interface, "xdp: {message}");
    }

    fn flush(&self) {}
}

/// Hands out the allowance of a [`Sink`].
#[derive(Debug, Default)]
pub(super) struct Throttle {
    refilled: Option<Instant>,
}

impl Throttle {
    /// Call before records are read.
    pub(super) fn refill(&mut self, sink: &Sink, now: Instant) {
        if self.refilled.is_some_and(|at| now.duration_since(at) < Duration::from_secs(1)) {
            return;
        }
        self.refilled = Some(now);
        sink.left.store(RECORDS_PER_SECOND, Ordering::Relaxed);
        let held_back = sink.held_back.swap(0, Ordering::Relaxed);
        if held_back > 0 {
            tracing::warn!(interface = %sink.interface, held_back, "xdp: more log records came than are shown");
        }
    }
}

/// Replaces the number behind `reason ` at the end by the words of that parse error.
fn explain(message: &str) -> String {
    let words = message.rsplit_once("reason ").and_then(|(front, number)| {
        let error = ParseError::ALL.get(number.trim().parse::<usize>().ok()?)?;
        Some(format!("{front}{error}"))
    });
    words.unwrap_or_else(|| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Log as _;

    #[test]
    fn a_reason_number_becomes_words_and_anything_else_stays() {
        let number = ParseError::StackDepth.index();
        assert_eq!(explain(&format!("bad frame: reason {number}")), "bad frame: the label stack has the wrong depth");
        assert_eq!(explain("bad frame: reason 9999"), "bad frame: reason 9999");
        assert_eq!(explain("anything"), "anything");
    }

    #[test]
    fn a_burst_is_cut_and_the_next_second_refills() {
        let sink = Sink::new("test0");
        let mut throttle = Throttle::default();
        let start = Instant::now();
        throttle.refill(&sink, start);
        for _ in 0..RECORDS_PER_SECOND + 5 {
            sink.log(&log::Record::builder().args(format_args!("x")).build());
        }
        assert_eq!(sink.held_back.load(Ordering::Relaxed), 5);
        throttle.refill(&sink, start + Duration::from_millis(999));
        assert_eq!(sink.left.load(Ordering::Relaxed), 0);
        throttle.refill(&sink, start + Duration::from_secs(1));
        assert_eq!(sink.left.load(Ordering::Relaxed), RECORDS_PER_SECOND);
        assert_eq!(sink.held_back.load(Ordering::Relaxed), 0);
    }
}
