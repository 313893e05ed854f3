//! The clock error between the two ends of a link, with its bound, in the shape of NTP (RFC 5905 section 8).
//!
//! ```text
//!   neighbour      T2 ── holds ── T3           error = ((T2 − T1) + (T3 − T4)) / 2     the neighbour's clock less ours
//!                 ╱                 ╲          delay = (T4 − T1) − (T3 − T2)
//!   this end    T1                   T4        |true error − error| ≤ delay / 2, however the delay is divided
//! ```
//!
//! All four are wall clocks. T1 and T4 are ours, by the one step between our monotonic and our wall clock; T3 is in the
//! frame, and T2 is T3 less the time that the neighbour held our frame.
//!
//! Of each few seconds the exchange with the shortest delay is kept (RFC 5905 section 10), and of those the one whose bound is the
//! narrowest now: half its delay, what the readings of the clocks may be off, and what the clocks may have drifted since.
//! A sample that contradicts the best one (their bounds do not meet) says that a clock was set; what was known before is forgotten.
//!
//! Limits: a clock that is slewed faster than 200 millionths makes the bound too narrow until the samples are younger than
//! the slew, about a minute.

use std::time::Duration;

use crate::time::{Nanos, nanos};

/// How much two clocks may drift apart, in millionths: 100 for each, what bad crystals do (RFC 5905 assumes 15 for good ones).
const DRIFT_PPM: u64 = 200;
/// What the two readings "wall clock at this monotonic time" may be off, together: each end follows its wall clock in steps of 1 ms.
const READING_NS: u64 = 2_000_000;
/// One sample is kept of this time …
const STAGE_NS: u64 = 8_000_000_000;
/// … for this long: eight of them, as RFC 5905 keeps.
const STAGES: usize = 8;
const KEPT_NS: u64 = STAGES as u64 * STAGE_NS;
/// Beyond 2262, which nanoseconds since 1970 in 63 bits cannot say: no clock.
const LATEST_WALL_NS: u64 = i64::MAX as u64;

/// One exchange.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Nanos,
    error_ns: i64,
    delay_ns: u64,
    /// How long the neighbour held our frame, by its clock.
    held_ns: u64,
}

impl Sample {
    fn bound_ns(&self, now: Nanos) -> u64 {
        let drift = nanos(now.since(self.at)).saturating_add(self.held_ns) / 1_000_000 * DRIFT_PPM;
        (self.delay_ns / 2).saturating_add(READING_NS).saturating_add(drift)
    }
}

/// What is known of the clock error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockError {
    /// The neighbour's clock less ours, nanoseconds.
    pub error_ns: i64,
    /// The true error is within this of `error_ns`, nanoseconds.
    pub bound_ns: u64,
    /// One-way delay to the neighbour by the last exchange, corrected by `error_ns` and right within `bound_ns`.
    pub there: Duration,
    /// One-way delay from the neighbour, likewise.
    pub back: Duration,
}

/// Why nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockUnknown {
    /// Our wall clock is not set.
    OwnClock,
    /// The neighbour says that its wall clock is not set.
    NeighboursClock,
    /// The neighbour speaks a version that does not say.
    NeighboursVersion,
    /// No exchange lately.
    NoExchange,
}

/// Estimates the clock error of one link.
#[derive(Debug, Clone)]
pub(super) struct ClockFilter {
    stages: [Option<Sample>; STAGES],
    /// The stage that is filled now.
    stage: u64,
    /// One-way delays of the last exchange as the clocks say them, nanoseconds.
    raw: Option<(i64, i64)>,
    unknown: ClockUnknown,
}

impl Default for ClockFilter {
    fn default() -> Self {
        Self { stages: [None; STAGES], stage: 0, raw: None, unknown: ClockUnknown::NoExchange }
    }
}

/// The stamps of one exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamps {
    /// T1 on our monotonic clock, nanoseconds.
    pub(super) sent_ns: u64,
    /// T3 − T2, nanoseconds.
    pub(super) held_ns: u64,
    /// T3, nanoseconds since 1970; 0 = not set.
    pub(super) wall_ns: u64,
}

impl ClockFilter {
    /// An exchange ended at `now`. `wall_at_zero_ns`: our wall clock at our monotonic zero, `None` = not set.
    pub(super) fn exchange(&mut self, now: Nanos, wall_at_zero_ns: Option<u64>, stamps: Stamps) {
        let Some(own) = wall_at_zero_ns else { return self.lose(ClockUnknown::OwnClock) };
        if stamps.wall_ns == 0 || stamps.wall_ns > LATEST_WALL_NS {
            return self.lose(ClockUnknown::NeighboursClock);
        }
        let (own, t3) = (i128::from(own), i128::from(stamps.wall_ns));
        let (t1, t4) = (own + i128::from(stamps.sent_ns), own + i128::from(now.0));
        let t2 = t3 - i128::from(stamps.held_ns);
        let (Ok(there), Ok(back)) = (i64::try_from(t2 - t1), i64::try_from(t4 - t3)) else { return };
        let Ok(delay_ns) = u64::try_from((t4 - t1) - (t3 - t2)) else { return };
        let Ok(error_ns) = i64::try_from((i128::from(there) - i128::from(back)) / 2) else { return };
        let sample = Sample { at: now, error_ns, delay_ns, held_ns: stamps.held_ns };
        if self.best(now).is_some_and(|best| contradict(best, sample, now)) {
            self.forget();
        }
        self.raw = Some((there, back));
        self.keep(sample);
    }

    /// The neighbour's message says nothing of its clock.
    pub(super) fn not_said(&mut self) {
        self.lose(ClockUnknown::NeighboursVersion);
    }

    /// One of the clocks is another one now, or the way between them.
    pub(super) fn forget(&mut self) {
        *self = Self { unknown: self.unknown, ..Self::default() };
    }

    /// What is known at `now`.
    ///
    /// # Errors
    /// Why nothing is.
    pub(super) fn error(&self, now: Nanos) -> Result<ClockError, ClockUnknown> {
        let (Some(best), Some((there, back))) = (self.best(now), self.raw) else { return Err(self.unknown) };
        // The shortest way takes no time; a bound that reaches below zero does not make it less.
        let delay = |ns: i64| Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
        Ok(ClockError {
            error_ns: best.error_ns,
            bound_ns: best.bound_ns(now),
            there: delay(there.saturating_sub(best.error_ns)),
            back: delay(back.saturating_add(best.error_ns)),
        })
    }

    fn best(&self, now: Nanos) -> Option<Sample> {
        let kept = |sample: &&Sample| nanos(now.since(sample.at)) <= KEPT_NS;
        self.stages.iter().flatten().filter(kept).min_by_key(|sample| sample.bound_ns(now)).copied()
    }

    fn keep(&mut self, sample: Sample) {
        let stage = sample.at.0 / STAGE_NS;
        let fresh = stage != self.stage;
        self.stage = stage;
        let slot = &mut self.stages[stage as usize % STAGES];
        if fresh || slot.is_none_or(|kept| sample.bound_ns(sample.at) <= kept.bound_ns(sample.at)) {
            *slot = Some(sample);
        }
        self.unknown = ClockUnknown::NoExchange;
    }

    fn lose(&mut self, why: ClockUnknown) {
        *self = Self { unknown: why, ..Self::default() };
    }
}

/// The true error cannot be within the bounds of both.
fn contradict(a: Sample, b: Sample, now: Nanos) -> bool {
    let apart = a.error_ns.abs_diff(b.error_ns);
    apart > a.bound_ns(now).saturating_add(b.bound_ns(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;
    /// 2026.
    const WALL: u64 = 1_795_264_496 * SECOND;

    /// Exchanges of one end: its clock is right, the neighbour's is off.
    struct Ends {
        now: u64,
        filter: ClockFilter,
    }

    impl Ends {
        fn exchange(&mut self, off_ns: i64, there: u64, held: u64, back: u64) {
            let sent_ns = self.now;
            self.now += there + held + back;
            let wall_ns = (WALL + sent_ns + there + held).checked_add_signed(off_ns).unwrap();
            self.filter.exchange(Nanos(self.now), Some(WALL), Stamps { sent_ns, held_ns: held, wall_ns });
        }

        fn error(&self) -> ClockError {
            self.filter.error(Nanos(self.now)).unwrap()
        }
    }

    fn ends() -> Ends {
        Ends { now: SECOND, filter: ClockFilter::default() }
    }

    #[test]
    fn an_even_way_shows_the_error_itself() {
        let mut ends = ends();
        ends.exchange(-3_200_000, 20 * MS, 70 * MS, 20 * MS);
        let known = ends.error();
        assert_eq!((known.error_ns, known.bound_ns), (-3_200_000, 22 * MS + 14_000));
        assert_eq!((known.there, known.back), (Duration::from_millis(20), Duration::from_millis(20)));
        // Later the drift is in the bound, and in the end nothing is known any more.
        let known = ends.filter.error(Nanos(ends.now + 50 * SECOND)).unwrap();
        assert_eq!(known.bound_ns, 32 * MS + 14_000);
        assert_eq!(ends.filter.error(Nanos(ends.now + 65 * SECOND)), Err(ClockUnknown::NoExchange));
    }

    #[test]
    fn a_clock_that_is_not_set_gives_no_number() {
        let mut ends = ends();
        let stamps = Stamps { sent_ns: 1, held_ns: 1, wall_ns: WALL };
        ends.exchange(0, MS, MS, MS);
        ends.filter.exchange(Nanos(ends.now), None, stamps);
        assert_eq!(ends.filter.error(Nanos(ends.now)), Err(ClockUnknown::OwnClock));
        ends.exchange(0, MS, MS, MS);
        ends.filter.exchange(Nanos(ends.now), Some(WALL), Stamps { wall_ns: 0, ..stamps });
        assert_eq!(ends.filter.error(Nanos(ends.now)), Err(ClockUnknown::NeighboursClock));
        ends.filter.not_said();
        assert_eq!(ends.filter.error(Nanos(ends.now)), Err(ClockUnknown::NeighboursVersion));
        ends.exchange(0, MS, MS, MS);
        assert!(ends.filter.error(Nanos(ends.now)).is_ok());
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let mut ends = ends();
        for _ in 0..100 {
            ends.exchange(5_000_000, 10 * MS, 80 * MS, 10 * MS);
        }
        ends.exchange(-1_000_000_000, 10 * MS, 80 * MS, 10 * MS);
        assert_eq!(ends.error().error_ns, -1_000_000_000);
    }

    proptest! {
        // However the delay is divided, and however the clocks drift within what is allowed: the truth is within the bound,
        // and so are the one-way delays.
        #[test]
        fn the_truth_is_within_the_bound(
            off in -3_600_000_000_000_i64..3_600_000_000_000,
            drift_ppm in -200_i64..=200,
            ways in prop::collection::vec((0_u64..700 * MS, 0_u64..3000 * MS, 0_u64..700 * MS), 1..80),
        ) {
            let mut ends = ends();
            let start = ends.now;
            for (there, held, back) in ways {
                let drifted = |now: u64| off + (now - start) as i64 / 1_000_000 * drift_ppm;
                ends.exchange(drifted(ends.now + there + held), there, held, back);
                let known = ends.error();
                let truth = drifted(ends.now);
                prop_assert!(known.error_ns.abs_diff(truth) <= known.bound_ns, "{known:?}, in truth {truth}");
                let within = |shown: Duration, truth: u64| nanos(shown).abs_diff(truth) <= known.bound_ns;
                prop_assert!(within(known.there, there) && within(known.back, back), "{known:?} {there} {back}");
            }
        }

        // Stamps from outside: whatever they are, nothing overflows.
        #[test]
        fn any_stamps_are_taken(
            stamps in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..20),
        ) {
            let mut filter = ClockFilter::default();
            for (now, own, sent_ns, held_ns, wall_ns) in stamps {
                filter.exchange(Nanos(now), Some(own), Stamps { sent_ns, held_ns, wall_ns });
                let _ = filter.error(Nanos(now));
            }
        }
    }
}
