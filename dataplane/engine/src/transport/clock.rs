//! A path's own clock, which stands still while the path is dark.
//!
//! quinn-proto's timers (PTO backoff, idle) must not run during an outage, at either end; all connections of a
//! peer share this clock, so that `Endpoint::handle`, which routes a packet to one of them, has the right time.

use std::time::{Duration, Instant};

use crate::time::Nanos;

/// Maps the driver's time to a path's time. Monotonic.
#[derive(Debug)]
pub(crate) struct PathClock {
    /// An arbitrary `Instant`, because quinn-proto speaks `Instant`; only differences matter.
    epoch: Instant,
    /// Time spent dark so far.
    dark: Duration,
    /// Since when the clock stands.
    stopped: Option<Nanos>,
}

impl PathClock {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self { epoch, dark: Duration::ZERO, stopped: None }
    }

    /// Stop at `now`; nothing if stopped already.
    pub(crate) fn stop(&mut self, now: Nanos) {
        self.stopped.get_or_insert(now);
    }

    /// Go on at `now`; nothing if it runs.
    pub(crate) fn start(&mut self, now: Nanos) {
        if let Some(since) = self.stopped.take() {
            self.dark += now.since(since);
        }
    }

    /// The path's time.
    pub(crate) fn instant(&self, now: Nanos) -> Instant {
        let now = self.stopped.unwrap_or(now);
        self.epoch + now.since(Nanos::ZERO).saturating_sub(self.dark)
    }

    /// When the path's time will be `at`; never while it stands.
    pub(crate) fn wakeup(&self, at: Instant) -> Option<Nanos> {
        if self.stopped.is_some() {
            return None;
        }
        Some(Nanos::ZERO + at.saturating_duration_since(self.epoch) + self.dark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn stands_still_while_stopped_and_never_jumps() {
        let mut clock = PathClock::new(Instant::now());
        let t = |s: u64| Nanos::ZERO + SECOND * s as u32;
        let before = clock.instant(t(10));
        clock.stop(t(10));
        clock.stop(t(20));
        assert_eq!(clock.instant(t(1000)), before);
        assert_eq!(clock.wakeup(before + SECOND), None);
        clock.start(t(70));
        assert_eq!(clock.instant(t(70)), before);
        assert_eq!(clock.instant(t(73)), before + 3 * SECOND);
        assert_eq!(clock.wakeup(before + 5 * SECOND), Some(t(75)));
    }
}
