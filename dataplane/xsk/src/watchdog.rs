//! Has the completion ring stopped? A pure state machine over two counters.
//!
//! A driver can stop completing for ever: after a link reset, or because SO_PREFER_BUSY_POLL keeps the interrupt of a
//! separate TX NAPI off while `sendto` returns success (seen with virtio_net, and with igb on two CPUs, kernels 6.16 to
//! 7.2). Nothing but a new socket brings the frames back in the first case; switching the option off does in the second.
//!
//! Owner: the worker, one per socket. It calls [`CompletionWatchdog::observe`] in housekeeping.

/// Frames outstanding and none completed for this long: the ring has stopped. In nanoseconds.
///
/// A second is longer than any reset seen that ends by itself (igb 400 ms), and shorter than QUIC's patience.
pub const STALL_NS: u64 = 1_000_000_000;

/// With SO_PREFER_BUSY_POLL on, so long before suspecting it, in nanoseconds: a step down is cheap, so try it first.
pub const BUSY_POLL_STALL_NS: u64 = 250_000_000;

/// What to do about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Frames complete, or none are outstanding.
    Healthy,
    /// Nothing completes since this many nanoseconds; too early to act.
    Waiting(u64),
    /// Switch SO_PREFER_BUSY_POLL off ([`prefer_busy_poll`](crate::poll::prefer_busy_poll)) and kick. Said once.
    StepDown,
    /// Close the socket and open it again. Said once per stall.
    Recycle,
}

/// Watches one socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompletionWatchdog {
    completed: u64,
    stalled_since_ns: Option<u64>,
    prefers_busy_poll: bool,
}

impl CompletionWatchdog {
    /// `prefers_busy_poll`: SO_PREFER_BUSY_POLL is on for this socket.
    #[must_use]
    pub fn new(prefers_busy_poll: bool) -> Self {
        Self { prefers_busy_poll, ..Self::default() }
    }

    /// `outstanding`: frames sent and not completed. `completed`: frames ever completed. `link_up`: the interface is
    /// running; without carrier nothing completes and nothing is wrong.
    #[must_use]
    pub fn observe(&mut self, now_ns: u64, outstanding: u32, completed: u64, link_up: bool) -> Verdict {
        if outstanding == 0 || completed != self.completed || !link_up {
            self.completed = completed;
            self.stalled_since_ns = None;
            return Verdict::Healthy;
        }
        let since = *self.stalled_since_ns.get_or_insert(now_ns);
        let stalled = now_ns.saturating_sub(since);
        if self.prefers_busy_poll && stalled >= BUSY_POLL_STALL_NS {
            self.prefers_busy_poll = false;
            self.stalled_since_ns = Some(now_ns);
            return Verdict::StepDown;
        }
        if stalled >= STALL_NS {
            self.stalled_since_ns = None;
            return Verdict::Recycle;
        }
        Verdict::Waiting(stalled)
    }

    /// Whether SO_PREFER_BUSY_POLL is thought to be on.
    #[must_use]
    pub fn prefers_busy_poll(&self) -> bool {
        self.prefers_busy_poll
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_health() {
        let mut dog = CompletionWatchdog::default();
        for i in 0..100 {
            assert_eq!(dog.observe(i * STALL_NS, 10, i + 1, true), Verdict::Healthy);
        }
        assert_eq!(dog.observe(u64::MAX, 0, 100, true), Verdict::Healthy);
    }

    #[test]
    fn a_stopped_ring_is_recycled_once_per_stall() {
        let mut dog = CompletionWatchdog::default();
        assert_eq!(dog.observe(0, 1, 0, true), Verdict::Waiting(0));
        assert_eq!(dog.observe(STALL_NS - 1, 5, 0, true), Verdict::Waiting(STALL_NS - 1));
        assert_eq!(dog.observe(STALL_NS, 5, 0, true), Verdict::Recycle);
        assert_eq!(dog.observe(STALL_NS + 1, 5, 0, true), Verdict::Waiting(0));
        assert_eq!(dog.observe(2 * STALL_NS + 1, 5, 0, true), Verdict::Recycle);
    }

    #[test]
    fn busy_polling_is_suspected_first() {
        let mut dog = CompletionWatchdog::new(true);
        assert_eq!(dog.observe(0, 1, 0, true), Verdict::Waiting(0));
        assert_eq!(dog.observe(BUSY_POLL_STALL_NS, 1, 0, true), Verdict::StepDown);
        assert!(!dog.prefers_busy_poll());
        assert_eq!(dog.observe(BUSY_POLL_STALL_NS + STALL_NS, 1, 0, true), Verdict::Recycle);
    }

    #[test]
    fn without_carrier_nothing_is_wrong() {
        let mut dog = CompletionWatchdog::default();
        assert_eq!(dog.observe(0, 1, 0, true), Verdict::Waiting(0));
        assert_eq!(dog.observe(STALL_NS, 1, 0, false), Verdict::Healthy);
        assert_eq!(dog.observe(2 * STALL_NS, 1, 0, true), Verdict::Waiting(0));
    }
}
