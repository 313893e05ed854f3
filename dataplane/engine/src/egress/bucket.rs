//! Token bucket (CIR and CBS of RFC 2697) in exact integers.
//!
//! Tokens are whole bytes; what a refill leaves over, less than a byte, is carried as (bit/s)·ns to the next one. So no
//! rounding ever leaks rate or invents it, whatever the times between refills, and across changes of the rate.
//!
//! A clock that was read is not the wire: what is consumed at one refill leaves between that refill and the next, late if the
//! sender was put aside meanwhile. A bucket that ran full in between would let a burst follow the late bytes at once, two
//! bursts in no time. So what was consumed counts as having left at the next refill, the latest that it can be:
//!
//! ```text
//!   refill t₁   consume s     s leaves        refill t₂: tokens ≤ burst − s, the bucket could not have held more
//!   ────┴───────────┴────────────┴────────────────┴────►
//! ```
//!
//! The same for what the sender says it still has ([`TokenBucket::still_here`]). That costs what was earned from t₁ to t₂ beyond
//! it, where the bucket would have run full before t₂: refill once more as soon as what was consumed is handed over, before
//! sleeping.
//!
//! Invariant: over any window between two departures, bytes ≤ Σ rate × time + the largest burst of the window, if what is
//! consumed leaves before the next refill, or half a burst of it is said to be still here.

use std::time::Duration;

use crate::time::Nanos;

/// (bit/s)·ns that make one byte.
const BIT_NS_PER_BYTE: u64 = 8 * 1_000_000_000;

/// A token bucket, or no limit at all.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate_bps: Option<u64>,
    burst_bytes: u64,
    tokens: u64,
    /// Below `BIT_NS_PER_BYTE`.
    carry: u64,
    refilled: Nanos,
    /// Consumed since the last refill, or still here then.
    unsent: u64,
}

impl TokenBucket {
    /// A full bucket. `rate_bps` = CIR in bit/s, `None` = uncapped; `burst_bytes` = CBS.
    #[must_use]
    pub fn new(now: Nanos, rate_bps: Option<u64>, burst_bytes: u64) -> Self {
        Self { rate_bps, burst_bytes, tokens: burst_bytes, carry: 0, refilled: now, unsent: 0 }
    }

    /// Changes rate and burst. Credit earned so far at the old rate is kept, up to the new burst. A bucket that becomes
    /// capped starts empty: what was sent uncapped a moment ago was not paid for.
    pub fn set_rate(&mut self, now: Nanos, rate_bps: Option<u64>, burst_bytes: u64) {
        self.refill(now);
        if self.rate_bps.is_none() {
            self.tokens = 0;
            self.carry = 0;
        }
        self.rate_bps = rate_bps;
        self.burst_bytes = burst_bytes;
        self.cap(burst_bytes);
    }

    /// Adds what was earned since the last refill; what was consumed since then has left by `now`, or is said to be still here
    /// next. Time that goes back adds nothing.
    pub fn refill(&mut self, now: Nanos) {
        let unsent = std::mem::take(&mut self.unsent);
        let elapsed = now.0.saturating_sub(self.refilled.0);
        self.refilled = self.refilled.max(now);
        let Some(rate) = self.rate_bps else { return };
        if let Some(earned) = rate.checked_mul(elapsed).and_then(|e| e.checked_add(self.carry)) {
            self.tokens = self.tokens.saturating_add(earned / BIT_NS_PER_BYTE);
            self.carry = earned % BIT_NS_PER_BYTE;
        } else {
            // Seldom: more than 2^64 (bit/s)·ns, e.g. 18 s at 1 Gbit/s.
            let earned = u128::from(rate) * u128::from(elapsed) + u128::from(self.carry);
            let bytes = earned / u128::from(BIT_NS_PER_BYTE);
            self.tokens = self.tokens.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            self.carry = (earned % u128::from(BIT_NS_PER_BYTE)) as u64;
        }
        self.cap(self.burst_bytes.saturating_sub(unsent));
    }

    /// After a refill: of what was consumed before it, so many bytes have perhaps not left. They leave before the next refill,
    /// or are named again. No more than half a burst counts: what completes as slowly as it is earned must not hold up itself.
    pub fn still_here(&mut self, bytes: u64) {
        self.unsent += bytes.min(self.burst_bytes / 2);
    }

    /// Takes `bytes`; `false`, and nothing taken, if there are not enough.
    #[must_use]
    pub fn consume(&mut self, bytes: u64) -> bool {
        if self.rate_bps.is_none() {
            return true;
        }
        match self.tokens.checked_sub(bytes) {
            Some(left) => {
                self.tokens = left;
                self.unsent += bytes;
                true
            }
            None => false,
        }
    }

    /// Bytes that may go now, as of the last refill; `u64::MAX` if uncapped.
    #[must_use]
    pub fn available(&self) -> u64 {
        if self.rate_bps.is_some() { self.tokens } else { u64::MAX }
    }

    /// Time from the last refill until `bytes` are available; `None` = never (a rate of 0, or more than the burst).
    #[must_use]
    pub fn time_until(&self, bytes: u64) -> Option<Duration> {
        let missing = bytes.saturating_sub(self.available());
        if missing == 0 {
            return Some(Duration::ZERO);
        }
        let rate = self.rate_bps.filter(|rate| *rate > 0 && bytes <= self.burst_bytes)?;
        let need = u128::from(missing) * u128::from(BIT_NS_PER_BYTE) - u128::from(self.carry);
        let nanos = need.div_ceil(u128::from(rate));
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// When `bytes` are available; `None` = never. In the past, or now, if they are already.
    #[must_use]
    pub fn ready_at(&self, bytes: u64) -> Option<Nanos> {
        Some(self.refilled + self.time_until(bytes)?)
    }

    /// CIR in bit/s; `None` = uncapped.
    #[must_use]
    pub fn rate_bps(&self) -> Option<u64> {
        self.rate_bps
    }

    /// CBS in bytes.
    #[must_use]
    pub fn burst_bytes(&self) -> u64 {
        self.burst_bytes
    }

    fn cap(&mut self, most: u64) {
        if self.tokens >= most {
            self.tokens = most;
            self.carry = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_nanosecond_polled_earns_exactly_the_rate() {
        // 7 bit/s over 8 s is 7 bytes, however finely it is refilled.
        let mut bucket = TokenBucket::new(Nanos(0), Some(7), 100);
        assert!(bucket.consume(100));
        bucket.refill(Nanos(0));
        for step in 1..=800_000u64 {
            bucket.refill(Nanos(step * 10_000));
        }
        assert_eq!((bucket.available(), bucket.carry), (7, 0));
    }

    #[test]
    fn a_century_at_full_rate_is_one_burst() {
        let mut bucket = TokenBucket::new(Nanos(0), Some(400_000_000_000), 9000);
        assert!(bucket.consume(9000) && !bucket.consume(1));
        bucket.refill(Nanos(0));
        bucket.refill(Nanos(u64::MAX));
        assert_eq!(bucket.available(), 9000);
    }

    #[test]
    fn credit_earned_before_a_change_of_rate_is_kept_to_the_bit() {
        // 3 bit/s for 3 s, then 5 bit/s for 3 s: 24 bits, three bytes, of which the change finds 9 bits.
        for (first, second) in [(3, 5), (5, 3)] {
            let mut bucket = TokenBucket::new(Nanos(0), Some(first), 100);
            assert!(bucket.consume(100));
            bucket.refill(Nanos(0));
            bucket.set_rate(Nanos(3_000_000_000), Some(second), 50);
            bucket.refill(Nanos(6_000_000_000));
            assert_eq!((bucket.available(), bucket.carry), (3, 0));
        }
        // More credit than the new burst holds is gone.
        let mut bucket = TokenBucket::new(Nanos(0), Some(8), 100);
        bucket.set_rate(Nanos(0), Some(8), 60);
        assert_eq!(bucket.available(), 60);
        bucket.set_rate(Nanos(0), Some(8), 100);
        assert_eq!(bucket.available(), 60, "a larger burst is no gift");
    }

    #[test]
    fn what_left_late_is_followed_by_no_second_burst() {
        // One byte per µs, burst 1000. 1000 consumed at 0, put aside until 600 µs, and only then on the wire.
        let mut bucket = TokenBucket::new(Nanos(0), Some(8_000_000), 1000);
        assert!(bucket.consume(1000));
        bucket.refill(Nanos(600_000));
        assert_eq!(bucket.available(), 0);
        // A bucket that was not full has room for what is earned meanwhile.
        bucket.refill(Nanos(1_000_000));
        assert!(bucket.consume(300));
        bucket.refill(Nanos(1_200_000));
        assert_eq!(bucket.available(), 300);
        // Handed over and refilled at once: nothing is lost.
        bucket.refill(Nanos(1_900_000));
        assert!(bucket.consume(1000));
        bucket.refill(Nanos(1_900_001));
        bucket.refill(Nanos(2_400_000));
        assert_eq!(bucket.available(), 499);
    }

    #[test]
    fn what_never_comes_is_never() {
        let mut bucket = TokenBucket::new(Nanos(0), Some(0), 1500);
        assert!(bucket.consume(1500));
        bucket.refill(Nanos(0));
        assert_eq!(bucket.time_until(1), None);
        bucket.set_rate(Nanos(5), Some(1000), 1500);
        assert_eq!(bucket.time_until(1501), None);
        assert_eq!(bucket.time_until(1500), Some(Duration::from_secs(12)));
        assert_eq!(bucket.ready_at(125), Some(Nanos(1_000_000_005)));
    }

    #[test]
    fn uncapped_to_capped_starts_empty() {
        let mut bucket = TokenBucket::new(Nanos(0), None, 1500);
        assert_eq!(bucket.available(), u64::MAX);
        assert!(bucket.consume(1 << 40));
        bucket.set_rate(Nanos(10), Some(8_000_000_000), 1500);
        assert_eq!(bucket.available(), 0);
        bucket.refill(Nanos(20));
        assert_eq!(bucket.available(), 10);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Take(u64),
        TakeWhenReady(u64),
        Rate(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u64..3_000_000).prop_map(Step::Wait),
            4 => (1u64..4000).prop_map(Step::Take),
            4 => (1u64..1500).prop_map(Step::TakeWhenReady),
            1 => (1u64..20_000_000_000, 1500u64..100_000).prop_map(|(r, b)| Step::Rate(r, b)),
        ]
    }

    proptest! {
        // The sender is put aside for any time between its clock and the wire: the cap holds between departures.
        #[test]
        fn the_cap_holds_where_bytes_leave_late(
            rate in 1_000u64..20_000_000_000, burst in 1500u64..100_000,
            bursts in prop::collection::vec((0u64..3_000_000, 1u64..100_000, 0u64..3_000_000, any::<bool>()), 1..100),
        ) {
            let mut bucket = TokenBucket::new(Nanos(0), Some(rate), burst);
            // Given to the sender and not on the wire: half a burst at most, as a transmit ring's limit is.
            let (mut now, mut held) = (0, 0);
            // Excess over the rate, (bit/s)·ns, and when it was looked at.
            let (mut level, mut looked) = (0u128, 0u64);
            for (pause, bytes, late, kicked) in bursts {
                now += pause;
                bucket.refill(Nanos(now));
                bucket.still_here(held);
                let taken = bytes.min(bucket.available()).min(if kicked { u64::MAX } else { burst / 2 - held });
                prop_assert!(bucket.consume(taken));
                held += taken;
                let sent = if kicked { std::mem::take(&mut held) } else { 0 };
                now += late;
                level = level.saturating_sub(u128::from(now - looked) * u128::from(rate));
                level += u128::from(sent) * u128::from(BIT_NS_PER_BYTE);
                looked = now;
                prop_assert!(level <= u128::from(burst) * u128::from(BIT_NS_PER_BYTE), "{sent} bytes at {now}");
            }
        }

        // The cap, over every window that begins and ends at a packet, to the bit and nanosecond; and full use of it:
        // a packet that waits for `ready_at` goes then, and would not have gone one nanosecond earlier.
        #[test]
        fn never_above_rate_times_window_plus_burst(
            rate in 1u64..20_000_000_000, burst in 1500u64..100_000, steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut now = Nanos(1);
            let mut bucket = TokenBucket::new(now, Some(rate), burst);
            let (mut rate, mut largest) = (rate, burst);
            // (bit·s⁻¹·ns allowed since the start, bytes of the packet) at each packet.
            let mut allowed = 0u128;
            let mut packets: Vec<(u128, u128)> = Vec::new();
            let advance = |now: &mut Nanos, to: Nanos, rate: u64, allowed: &mut u128| {
                *allowed += u128::from(to.0 - now.0) * u128::from(rate);
                *now = to;
            };
            for step in steps {
                let mut take = None;
                match step {
                    Step::Wait(ns) => { let to = Nanos(now.0 + ns); advance(&mut now, to, rate, &mut allowed); }
                    Step::Take(bytes) => take = Some(bytes),
                    Step::TakeWhenReady(bytes) => {
                        bucket.refill(now);
                        let at = bucket.ready_at(bytes).unwrap();
                        if at > now {
                            let mut early = bucket.clone();
                            early.refill(Nanos(at.0 - 1));
                            prop_assert!(!early.consume(bytes));
                            advance(&mut now, at, rate, &mut allowed);
                        }
                        let mut on_time = bucket.clone();
                        on_time.refill(now);
                        prop_assert!(on_time.consume(bytes));
                        take = Some(bytes);
                    }
                    Step::Rate(r, b) => { bucket.set_rate(now, Some(r), b); rate = r; largest = largest.max(b); }
                }
                bucket.refill(now);
                if let Some(bytes) = take && bucket.consume(bytes) {
                    packets.push((allowed, u128::from(bytes)));
                    // Handed over at once.
                    bucket.refill(now);
                }
            }
            for first in 0..packets.len() {
                let mut sent = 0;
                for (until, bytes) in &packets[first..] {
                    sent += bytes * u128::from(BIT_NS_PER_BYTE);
                    let earned = until - packets[first].0;
                    prop_assert!(sent <= earned + u128::from(largest) * u128::from(BIT_NS_PER_BYTE));
                }
            }
        }
    }
}
