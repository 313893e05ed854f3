//! The cap, checked from outside: in **any** window, bytes at layer 2 ≤ rate × window + burst.
//!
//! Looking at every pair of frames would be quadratic. A leaky bucket gives the same answer in one step per frame: its
//! level after a frame is the largest excess, over all windows that end with this frame, of bytes sent over
//! rate × window (RFC 2697 seen from the receiver). The arithmetic is exact: levels are integers in bits × 10^9.

use florelay_engine::config::RatePlan;
use florelay_engine::time::Nanos;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A window in which too much was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// When the frame that broke the rule was sent.
    pub at: Nanos,
    /// Bytes above rate × window + burst, rounded up.
    pub excess_bytes: u64,
}

/// Checks one direction of one link.
#[derive(Debug, Clone)]
pub struct WindowRule {
    plan: RatePlan,
    /// Excess over the rate, bits × 10^9.
    level: u128,
    last: Nanos,
    sent_bytes: u64,
}

impl WindowRule {
    /// The rule for this plan; the bucket begins full.
    #[must_use]
    pub fn new(plan: RatePlan) -> Self {
        Self { plan, level: 0, last: Nanos::ZERO, sent_bytes: 0 }
    }

    /// A frame of `l2_bytes` leaves at `now`; times never go back.
    ///
    /// # Errors
    /// [`Exceeded`] if a window that ends with this frame holds too much.
    pub fn sent(&mut self, now: Nanos, l2_bytes: u32) -> Result<(), Exceeded> {
        self.sent_bytes += u64::from(l2_bytes);
        self.drain(now);
        if self.plan.rate_bps.is_none() {
            return Ok(());
        }
        self.level += u128::from(l2_bytes) * 8 * NANOS_PER_SECOND;
        let burst = burst_level(self.plan.burst_bytes);
        if self.level <= burst {
            return Ok(());
        }
        let excess = (self.level - burst).div_ceil(8 * NANOS_PER_SECOND);
        Err(Exceeded { at: now, excess_bytes: u64::try_from(excess).unwrap_or(u64::MAX) })
    }

    /// The plan changes at `now`. Windows over the change count each part at its rate; what a smaller burst no longer
    /// holds is gone.
    pub fn set_plan(&mut self, now: Nanos, plan: RatePlan) {
        self.drain(now);
        let lost = burst_level(self.plan.burst_bytes).saturating_sub(burst_level(plan.burst_bytes));
        self.level = self.level.saturating_sub(lost);
        self.plan = plan;
    }

    /// Bytes at layer 2 since the beginning.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> RatePlan {
        self.plan
    }

    fn drain(&mut self, now: Nanos) {
        assert!(now >= self.last, "time went back from {:?} to {now:?}", self.last);
        let elapsed = u128::from(now.0 - self.last.0);
        self.level = match self.plan.rate_bps {
            Some(bps) => self.level.saturating_sub(u128::from(bps) * elapsed),
            None => 0,
        };
        self.last = now;
    }
}

fn burst_level(burst_bytes: u32) -> u128 {
    u128::from(burst_bytes) * 8 * NANOS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn plan(rate_bps: u64, burst_bytes: u32) -> RatePlan {
        RatePlan { rate_bps: Some(rate_bps), burst_bytes, control_percent: 100 }
    }

    /// The rule as it is written: every window.
    fn by_definition(log: &[(u64, u32)], rate_bps: u64, burst_bytes: u32) -> bool {
        (0..log.len()).all(|first| {
            (first..log.len()).all(|last| {
                let bits: u128 = log[first..=last].iter().map(|&(_, bytes)| u128::from(bytes) * 8).sum();
                let window = u128::from(log[last].0 - log[first].0);
                bits * NANOS_PER_SECOND
                    <= u128::from(rate_bps) * window + u128::from(burst_bytes) * 8 * NANOS_PER_SECOND
            })
        })
    }

    #[test]
    fn agrees_with_the_definition_on_random_logs() {
        let mut verdicts = [0; 2];
        for seed in 0..300 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (rate, burst) = (rng.random_range(1_000_000..20_000_000), rng.random_range(3000..8000));
            let mut at = 0;
            let log: Vec<(u64, u32)> = (0..60)
                .map(|_| {
                    at += rng.random_range(0..2_500_000);
                    (at, rng.random_range(60..1500))
                })
                .collect();
            let mut rule = WindowRule::new(plan(rate, burst));
            let kept = log.iter().all(|&(at, bytes)| rule.sent(Nanos(at), bytes).is_ok());
            assert_eq!(kept, by_definition(&log, rate, burst), "seed {seed}");
            verdicts[usize::from(kept)] += 1;
        }
        assert!(verdicts.iter().all(|&n| n > 20), "both verdicts must occur: {verdicts:?}");
    }

    #[test]
    fn one_nanosecond_early_is_too_early() {
        // 8 bit/ns: 1000 bytes earn back in 1000 ns
        for (gap, kept) in [(1000, true), (999, false)] {
            let mut rule = WindowRule::new(plan(8_000_000_000, 1500));
            rule.sent(Nanos(5), 1500).unwrap();
            let second = rule.sent(Nanos(5 + gap), 1000);
            assert_eq!(second.is_ok(), kept);
            if let Err(exceeded) = second {
                assert_eq!(exceeded, Exceeded { at: Nanos(5 + gap), excess_bytes: 1 });
            }
        }
    }

    #[test]
    fn a_change_of_rate_counts_each_part_at_its_own() {
        let mut rule = WindowRule::new(plan(8_000_000_000, 2000));
        rule.sent(Nanos(0), 2000).unwrap();
        rule.set_plan(Nanos(500), plan(800_000_000, 2000));
        // 500 bytes from the first part, 50 from the second
        rule.clone().sent(Nanos(1000), 550).unwrap();
        rule.sent(Nanos(1000), 551).unwrap_err();
        assert_eq!(rule.sent_bytes(), 2551);
    }

    #[test]
    fn an_uncapped_link_has_no_rule() {
        let mut rule = WindowRule::new(RatePlan { rate_bps: None, burst_bytes: 0, control_percent: 100 });
        rule.sent(Nanos(0), 1_000_000).unwrap();
        rule.set_plan(Nanos(0), plan(8, 1000));
        rule.sent(Nanos(0), 1000).unwrap();
        rule.sent(Nanos(0), 1).unwrap_err();
    }
}
