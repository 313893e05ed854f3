//! Loss and reordering of one direction of a link over sliding windows.
//!
//! ```text
//!   sequence numbers ──► totals ──► differences, once a second ──► 60 buckets of 1 s ──► sums over the last 10 s and 60 s
//! ```
//!
//! The packet path only counts totals; everything here happens off it. A window is the running second and as many whole ones
//! before it as its name says, so it is up to one second longer.

use crate::time::Nanos;

/// The short window, seconds: what is shown as "now", and may degrade a link.
pub const SHORT_SECONDS: u64 = 10;
/// The long window, seconds: what a link has to show to be normal again.
pub const LONG_SECONDS: u64 = 60;

const BUCKETS: usize = LONG_SECONDS as usize + 1;
const SECOND_NS: u64 = 1_000_000_000;
/// One part in a million.
pub(in crate::oam) const PPM: u64 = 1_000_000;

/// What happened between two looks. Frames that were thought lost and come late make it negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Delta {
    /// Frames that ought to have come.
    pub(super) expected: i64,
    /// Those that did not.
    pub(super) lost: i64,
    /// Those that came behind one with a higher number.
    pub(super) reordered: i64,
}

impl Delta {
    fn add(&mut self, other: Self) {
        self.expected = self.expected.saturating_add(other.expected);
        self.lost = self.lost.saturating_add(other.lost);
        self.reordered = self.reordered.saturating_add(other.reordered);
    }
}

/// What a window saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames that ought to have come.
    pub expected: u64,
    /// Those that did not; never more than `expected`.
    pub lost: u64,
    /// Those that came out of order; never more than `expected`.
    pub reordered: u64,
}

impl Seen {
    /// Share of frames that were lost, in millionths; `None` without frames.
    #[must_use]
    pub fn loss_ppm(&self) -> Option<u32> {
        ppm(self.lost, self.expected)
    }

    /// Share of the frames that came which came out of order, in millionths; `None` without frames.
    #[must_use]
    pub fn reorder_ppm(&self) -> Option<u32> {
        ppm(self.reordered, self.expected - self.lost)
    }
}

fn ppm(part: u64, whole: u64) -> Option<u32> {
    let share = (u128::from(part) * u128::from(PPM)).checked_div(u128::from(whole))?;
    u32::try_from(share.min(u128::from(PPM))).ok()
}

/// The last minute of one direction.
#[derive(Debug, Clone)]
pub(super) struct Windows {
    buckets: [Delta; BUCKETS],
    /// The second that the newest bucket stands for.
    second: u64,
    /// Frames since the last lost one, as far as looks can tell.
    clean: u64,
}

impl Windows {
    /// Nothing seen.
    #[must_use]
    pub(super) fn new(now: Nanos) -> Self {
        Self { buckets: [Delta::default(); BUCKETS], second: now.0 / SECOND_NS, clean: 0 }
    }

    /// Adds what happened until `now` and since the last call.
    pub(super) fn add(&mut self, now: Nanos, delta: Delta) {
        self.turn(now);
        self.buckets[self.second as usize % BUCKETS].add(delta);
        if delta.lost > 0 {
            self.clean = 0;
        } else {
            self.clean = self.clean.saturating_add(u64::try_from(delta.expected).unwrap_or(0));
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, now: Nanos) {
        *self = Self::new(now);
    }

    /// The last `seconds`, at most [`LONG_SECONDS`], and the running one.
    #[must_use]
    pub(super) fn last(&self, now: Nanos, seconds: u64) -> Seen {
        let newest = now.0 / SECOND_NS;
        let mut sum = Delta::default();
        for age in 0..=seconds.min(LONG_SECONDS) {
            // Seconds after the newest bucket are empty, those a minute before it gone.
            if let Some(second) = newest.checked_sub(age)
                && second <= self.second
                && self.second - second < BUCKETS as u64
            {
                sum.add(self.buckets[second as usize % BUCKETS]);
            }
        }
        let expected = u64::try_from(sum.expected).unwrap_or(0);
        let within = |n: i64| u64::try_from(n).unwrap_or(0).min(expected);
        Seen { expected, lost: within(sum.lost), reordered: within(sum.reordered) }
    }

    /// Frames since the last lost one, in steps of a look; all frames if none was lost.
    #[must_use]
    pub(super) fn clean(&self) -> u64 {
        self.clean
    }

    fn turn(&mut self, now: Nanos) {
        let second = (now.0 / SECOND_NS).max(self.second);
        for empty in 1..=(second - self.second).min(BUCKETS as u64) {
            self.buckets[(self.second + empty) as usize % BUCKETS] = Delta::default();
        }
        self.second = second;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * SECOND_NS)
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut windows = Windows::new(at(100));
        windows.add(at(100), Delta { expected: 10, lost: 5, reordered: 1 });
        assert_eq!(windows.last(at(110), SHORT_SECONDS), Seen { expected: 10, lost: 5, reordered: 1 });
        assert_eq!(windows.last(at(110), SHORT_SECONDS).loss_ppm(), Some(500_000));
        assert_eq!(windows.last(at(110), SHORT_SECONDS).reorder_ppm(), Some(200_000));
        assert_eq!(windows.last(at(111), SHORT_SECONDS).loss_ppm(), None);
        assert_eq!(windows.last(at(160), LONG_SECONDS).lost, 5);
        assert_eq!(windows.last(at(161), LONG_SECONDS), Seen::default());
        // A long silence does not bring an old second back under a new number.
        windows.add(at(100 + 10 * BUCKETS as u64), Delta { expected: 1, ..Delta::default() });
        assert_eq!(
            windows.last(at(100 + 10 * BUCKETS as u64), LONG_SECONDS),
            Seen { expected: 1, lost: 0, reordered: 0 }
        );
        assert_eq!(windows.clean(), 1);
    }

    #[test]
    fn late_frames_take_loss_back() {
        let mut windows = Windows::new(at(0));
        windows.add(at(0), Delta { expected: 10, lost: 2, reordered: 0 });
        windows.add(at(1), Delta { expected: 0, lost: -2, reordered: 2 });
        assert_eq!(windows.last(at(1), SHORT_SECONDS), Seen { expected: 10, lost: 0, reordered: 2 });
        assert_eq!(windows.last(at(11), SHORT_SECONDS), Seen::default());
    }

    proptest! {
        // Against a list of everything that ever happened.
        #[test]
        fn a_window_is_the_sum_of_its_seconds(
            steps in prop::collection::vec((0_u64..40, 0_i64..100, 0_i64..100), 1..60),
            seconds in 0_u64..80,
        ) {
            let mut windows = Windows::new(at(7));
            let mut second = 7;
            let mut all = Vec::new();
            for (pause, expected, lost) in steps {
                second += pause;
                let lost = lost.min(expected);
                windows.add(at(second), Delta { expected, lost, reordered: 0 });
                all.push((second, expected as u64, lost as u64));
                let within = || all.iter().filter(|(when, ..)| second - when <= seconds.min(LONG_SECONDS));
                let seen = windows.last(at(second), seconds);
                prop_assert_eq!(seen.expected, within().map(|(_, expected, _)| expected).sum::<u64>());
                prop_assert_eq!(seen.lost, within().map(|(.., lost)| lost).sum::<u64>());
            }
        }
    }
}
