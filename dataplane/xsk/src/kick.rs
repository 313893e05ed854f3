//! When to make the system call that asks the kernel to send: a pure decision.
//!
//! A kick is worth its cost (about 1 µs plus the kernel's work) when there is enough to send, or when what there is has
//! waited long enough. In zero-copy mode the driver says through the need-wakeup flag whether it is awake; in copy
//! mode nothing ever leaves without a kick, because the sender's system call *is* the transmission.

/// Frames on the TX ring that are worth a kick at once.
///
/// 32 is what one `sendto` sends in copy mode (TX_BATCH_SIZE, net/xdp/xsk.c).
pub const KICK_BATCH_FRAMES: u32 = 32;

/// How long fewer frames than [`KICK_BATCH_FRAMES`] may wait, in nanoseconds.
///
/// 20 µs is the serialisation time of two 1250-byte frames at 1 Gbit/s, and about ten times the cost of a kick.
pub const TAIL_FLUSH_NS: u64 = 20_000;

/// Pause after the kernel refused (EBUSY, ENOBUFS), in nanoseconds: five times the tail flush.
pub const RETRY_NS: u64 = 100_000;

/// Pause after ENETDOWN, in nanoseconds. An interface comes back in milliseconds at best.
pub const DOWN_RETRY_NS: u64 = 10_000_000;

/// How often to nudge a zero-copy driver that sleeps on frames it has taken but not completed, in nanoseconds. Some
/// drivers reap their TX descriptors only in NAPI, which runs when kicked.
pub const COMPLETION_NUDGE_NS: u64 = 100_000;

/// Kicks in one call while the kernel answers EAGAIN and makes progress. Bounds the time in the kernel.
pub const KICK_ROUNDS: u32 = 8;

/// What a kick would be decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KickInput {
    /// Now, in nanoseconds of any monotonic clock.
    pub now_ns: u64,
    /// Frames on the TX ring that the kernel has not taken.
    pub pending: u32,
    /// Frames sent and not completed (including pending).
    pub outstanding: u32,
    /// The ring's need-wakeup flag.
    pub needs_wakeup: bool,
    /// The socket is bound in copy mode.
    pub copy_mode: bool,
}

/// The decision, with what it remembers: since when frames wait, and until when the kernel wants to be left alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct KickPolicy {
    waiting_since_ns: Option<u64>,
    not_before_ns: u64,
    last_ns: u64,
}

impl KickPolicy {
    /// Whether to kick now.
    #[must_use]
    pub fn due(&mut self, input: &KickInput) -> bool {
        if input.outstanding == 0 && input.pending == 0 {
            self.waiting_since_ns = None;
            return false;
        }
        if !input.copy_mode && !input.needs_wakeup {
            self.waiting_since_ns = None;
            return false;
        }
        if input.now_ns < self.not_before_ns {
            return false;
        }
        if input.pending == 0 {
            self.waiting_since_ns = None;
            return !input.copy_mode && input.now_ns.saturating_sub(self.last_ns) >= COMPLETION_NUDGE_NS;
        }
        let since = *self.waiting_since_ns.get_or_insert(input.now_ns);
        input.pending >= KICK_BATCH_FRAMES || input.now_ns.saturating_sub(since) >= TAIL_FLUSH_NS
    }

    /// A kick was made at `now_ns` and `pending` frames still wait.
    pub fn kicked(&mut self, now_ns: u64, pending: u32) {
        self.last_ns = now_ns;
        self.waiting_since_ns = (pending > 0).then_some(now_ns);
    }

    /// The kernel refused; leave it alone for `pause_ns`.
    pub fn refused(&mut self, now_ns: u64, pause_ns: u64) {
        self.last_ns = now_ns;
        self.not_before_ns = now_ns.saturating_add(pause_ns);
    }

    /// When [`due`](Self::due) could next say yes for frames that wait; `None` if none wait.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        self.waiting_since_ns.map(|since| since.saturating_add(TAIL_FLUSH_NS).max(self.not_before_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(now_ns: u64, pending: u32) -> KickInput {
        KickInput { now_ns, pending, outstanding: pending, needs_wakeup: true, copy_mode: false }
    }

    #[test]
    fn a_full_batch_goes_at_once() {
        assert!(KickPolicy::default().due(&input(0, KICK_BATCH_FRAMES)));
    }

    #[test]
    fn a_few_frames_wait_for_the_tail_flush() {
        let mut policy = KickPolicy::default();
        assert!(!policy.due(&input(1_000, 1)));
        assert_eq!(policy.deadline_ns(), Some(1_000 + TAIL_FLUSH_NS));
        assert!(!policy.due(&input(1_000 + TAIL_FLUSH_NS - 1, 2)));
        assert!(policy.due(&input(1_000 + TAIL_FLUSH_NS, 2)));
        policy.kicked(1_000 + TAIL_FLUSH_NS, 0);
        assert_eq!(policy.deadline_ns(), None);
        assert!(!policy.due(&input(500_000, 0)));
    }

    #[test]
    fn an_awake_driver_is_not_kicked_but_copy_mode_always_is() {
        let awake = KickInput { needs_wakeup: false, ..input(0, 100) };
        assert!(!KickPolicy::default().due(&awake));
        assert!(KickPolicy::default().due(&KickInput { copy_mode: true, ..awake }));
    }

    #[test]
    fn a_refusal_is_respected() {
        let mut policy = KickPolicy::default();
        assert!(policy.due(&input(0, 64)));
        policy.refused(0, RETRY_NS);
        assert!(!policy.due(&input(RETRY_NS - 1, 64)));
        assert!(policy.due(&input(RETRY_NS, 64)));
    }

    #[test]
    fn a_sleeping_zero_copy_driver_is_nudged_for_completions() {
        let taken = |now_ns| KickInput { pending: 0, outstanding: 5, ..input(now_ns, 0) };
        let mut policy = KickPolicy::default();
        policy.kicked(1_000, 0);
        assert!(!policy.due(&taken(1_000 + COMPLETION_NUDGE_NS - 1)));
        assert!(policy.due(&taken(1_000 + COMPLETION_NUDGE_NS)));
        assert!(!policy.due(&KickInput { copy_mode: true, ..taken(u64::MAX) }));
    }
}
