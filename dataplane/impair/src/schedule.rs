//! What a link's schedules say of a moment: rate, delay, dark or not; and when a frame is serialised under changing rates.

use std::time::Duration;

use florelay_engine::time::Nanos;

use crate::{LinkModel, Loss};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Rates that one frame may live through in the serialiser; one that is still there after so many never leaves.
const MAX_RATES: usize = 100_000;

impl LinkModel {
    /// Whether the medium is dark.
    pub(crate) fn is_dark(&self, at: Nanos) -> bool {
        let (_, phase) = self.turn(at);
        self.outages.iter().any(|&(start, end)| start <= phase && phase < end)
    }

    /// The one-way delay of what enters the medium.
    pub(crate) fn delay_at(&self, at: Nanos) -> Duration {
        let (_, phase) = self.turn(at);
        self.delay_steps.iter().rev().find(|&&(change, _)| change <= phase).map_or(self.delay, |&(_, delay)| delay)
    }

    /// The loss of what is offered.
    pub(crate) fn loss_at(&self, at: Nanos) -> Loss {
        let (_, phase) = self.turn(at);
        self.loss_steps.iter().rev().find(|&&(change, _)| change <= phase).map_or(self.loss, |&(_, loss)| loss)
    }

    /// When `bits` that start at `start` are out.
    pub(crate) fn serialised(&self, start: Nanos, bits: u64) -> Nanos {
        // In bits × 10^9, so that no step between two rates rounds.
        let mut left = u128::from(bits) * NANOS_PER_SECOND;
        let mut at = start;
        for _ in 0..MAX_RATES {
            let (rate, change) = self.rate_at(at);
            let Some(bps) = rate else { return at };
            let done = u128::from(bps) * u128::from(change.0 - at.0);
            if done >= left || change == Nanos::MAX {
                let nanos = match bps {
                    // A link at rate zero sends never; the frame stays in the queue for good.
                    0 => u64::MAX,
                    _ => u64::try_from(left.div_ceil(bps.into())).unwrap_or(u64::MAX),
                };
                return Nanos(at.0.saturating_add(nanos));
            }
            left -= done;
            at = change;
        }
        Nanos::MAX
    }

    /// The rate at a time, and when the next change comes.
    fn rate_at(&self, at: Nanos) -> (Option<u64>, Nanos) {
        if self.rate_steps.is_empty() {
            return (self.rate_bps, Nanos::MAX);
        }
        let (began, phase) = self.turn(at);
        let next = self.rate_steps.partition_point(|&(change, _)| change <= phase);
        let rate = next.checked_sub(1).map_or(self.rate_bps, |present| self.rate_steps[present].1);
        let change = match self.rate_steps.get(next) {
            Some(&(change, _)) => began + Duration::from_nanos(change.0),
            None if self.period.is_zero() => Nanos::MAX,
            None => began + self.period,
        };
        (rate, change)
    }

    /// When the present turn of the schedules began, and the time since.
    fn turn(&self, at: Nanos) -> (Nanos, Nanos) {
        match u64::try_from(self.period.as_nanos()) {
            Ok(period) if period > 0 => (Nanos(at.0 - at.0 % period), Nanos(at.0 % period)),
            _ => (Nanos::ZERO, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn schedules_come_again() {
        let model = LinkModel {
            delay: Duration::from_millis(1),
            delay_steps: vec![(Nanos(40 * MS), Duration::from_millis(2))],
            outages: vec![(Nanos(10 * MS), Nanos(20 * MS))],
            period: Duration::from_millis(100),
            ..LinkModel::default()
        };
        for turn in [0_u64, 100, 700] {
            let at = |ms: u64| Nanos((turn + ms) * MS);
            assert_eq!([5, 10, 19, 20].map(|ms| model.is_dark(at(ms))), [false, true, true, false]);
            assert_eq!([39, 40, 99].map(|ms| model.delay_at(at(ms)).as_millis()), [1, 2, 2]);
        }
        let once = LinkModel { period: Duration::ZERO, ..model };
        assert!(!once.is_dark(Nanos(115 * MS)) && once.delay_at(Nanos(130 * MS)).as_millis() == 2);
    }

    #[test]
    fn a_rate_of_zero_ends_when_the_schedule_says() {
        // 8 Mbit/s for 10 ms of each 100, else nothing: 1000 bytes take 1 ms of the ten
        let model = LinkModel {
            rate_bps: Some(8_000_000),
            rate_steps: vec![(Nanos(10 * MS), Some(0))],
            period: Duration::from_millis(100),
            ..LinkModel::default()
        };
        assert_eq!(model.serialised(Nanos(9 * MS), 8000), Nanos(10 * MS));
        assert_eq!(model.serialised(Nanos(9 * MS + MS / 2), 8000), Nanos(100 * MS + MS / 2));
        assert_eq!(model.serialised(Nanos(50 * MS), 25 * 8000), Nanos(305 * MS));
        let never = LinkModel { rate_bps: Some(0), ..LinkModel::default() };
        assert_eq!(never.serialised(Nanos(1), 1), Nanos::MAX);
    }

    proptest! {
        #[test]
        fn cut_in_two_it_takes_as_long(
            rates in proptest::collection::vec(1_u64..2_000_000_000, 1..6),
            gap in 1_u64..5_000_000,
            period in 0_u64..2,
            start in 0_u64..50_000_000,
            bits in 2_u64..200_000,
        ) {
            let steps: Vec<_> = rates.iter().enumerate().skip(1).map(|(i, bps)| (Nanos(i as u64 * gap), Some(*bps))).collect();
            let model = LinkModel {
                rate_bps: Some(rates[0]),
                rate_steps: steps,
                period: Duration::from_nanos(period * gap * rates.len() as u64),
                ..LinkModel::default()
            };
            let whole = model.serialised(Nanos(start), bits);
            let halves = model.serialised(model.serialised(Nanos(start), bits / 2), bits - bits / 2);
            // Each piece rounds up by less than a nanosecond, in which at another rate more can be sent.
            prop_assert!(whole <= halves && halves.0 - whole.0 <= 2 + 2_000_000_000 / rates.iter().min().unwrap(),
                "{whole:?} {halves:?}");
        }
    }
}
