//! When liveness frames leave: the interval, its share of the link's rate, its jitter, and what traffic and a search change.

use std::time::Duration;

use super::LIVENESS_FRAME_BYTES;
use crate::config::LinkConfig;
use crate::egress::MIN_FRAME_BYTES;
use crate::time::{Nanos, nanos};

/// Liveness takes at most 1/100 of the link's rate, while it looks for the link 4/100.
const RATE_SHARE: u64 = 100;
/// Frames leave after 75–100 % of the interval (RFC 5880 section 6.8.7), in percent.
const JITTER_MIN_PERCENT: u64 = 75;
/// While the link is looked for, frames leave this many times as often.
const PROBES_PER_INTERVAL: u64 = 4;
/// Shortest interval between frames.
const MIN_INTERVAL_NS: u64 = 1_000_000;

/// The pace of one end.
#[derive(Clone)]
pub(super) struct Pace {
    overhead_bytes: u64,
    configured_ns: u64,
    /// What is advertised.
    interval_ns: u64,
    /// What is kept until `announce` frames have told the neighbour of a longer interval.
    kept_ns: u64,
    announce: u8,
    detect_mult: u8,
    next: Nanos,
    last: Nanos,
    random: u64,
}

impl Pace {
    /// The first frame is due at `now`; `seed` decides the jitter.
    pub(super) fn new(link: &LinkConfig, seed: u64, now: Nanos) -> Self {
        let mut pace = Self {
            overhead_bytes: u64::from(link.overhead_bytes),
            configured_ns: nanos(link.liveness_interval).max(MIN_INTERVAL_NS),
            interval_ns: 0,
            kept_ns: 0,
            announce: 0,
            detect_mult: link.detect_multiplier.max(2),
            next: now,
            last: now,
            random: seed,
        };
        pace.interval_ns = pace.interval_for(link.rate.rate_bps);
        pace.kept_ns = pace.interval_ns;
        pace
    }

    /// A frame leaves at `now`.
    pub(super) fn leaves(&mut self, now: Nanos, looked_for: bool) {
        let jitter = JITTER_MIN_PERCENT + self.draw() % (101 - JITTER_MIN_PERCENT);
        if self.announce > 0 {
            self.announce -= 1;
        } else {
            self.kept_ns = self.interval_ns;
        }
        self.last = now;
        let pace_ns = if looked_for { self.kept_ns / PROBES_PER_INTERVAL } else { self.kept_ns };
        self.next = now + Duration::from_nanos((pace_ns / 100).saturating_mul(jitter).max(1));
    }

    /// Frames that the neighbour hears as well as liveness left at `now`.
    pub(super) fn others_left(&mut self, now: Nanos) {
        // A changed interval is announced at its own pace.
        if self.announce > 0 || self.next <= now {
            return;
        }
        // Should the neighbour not accept those frames (a wrong label, an MTU that is too large), then liveness alone still
        // comes with two intervals of the detection time to spare.
        let pace = Duration::from_nanos(self.kept_ns / 100 * JITTER_MIN_PERCENT);
        let latest = self.last + pace * u32::from(self.detect_mult).saturating_sub(2).max(1);
        self.next = self.next.max((now + pace).min(latest));
    }

    /// The next frame is due now.
    pub(super) fn hurry(&mut self, now: Nanos) {
        self.next = self.next.min(now);
    }

    /// Keeps liveness to its share of another rate. A longer interval is announced at the old pace first.
    pub(super) fn set_rate(&mut self, now: Nanos, rate_bps: Option<u64>) {
        let interval = self.interval_for(rate_bps);
        if interval == self.interval_ns {
            return;
        }
        self.announce = if interval > self.kept_ns { self.detect_mult } else { 0 };
        self.interval_ns = interval;
        self.hurry(now);
    }

    /// When the next frame is due.
    pub(super) fn next(&self) -> Nanos {
        self.next
    }

    /// Interval that is advertised, before jitter.
    pub(super) fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// Interval that is configured.
    pub(super) fn configured_ns(&self) -> u64 {
        self.configured_ns
    }

    /// Own detect multiplier.
    pub(super) fn detect_mult(&self) -> u8 {
        self.detect_mult
    }

    /// Configured interval, or longer so that frames at the shortest jitter take no more than their share of the rate.
    fn interval_for(&self, rate_bps: Option<u64>) -> u64 {
        let frame_bytes = (LIVENESS_FRAME_BYTES as u64 + self.overhead_bytes).max(u64::from(MIN_FRAME_BYTES));
        let floor = rate_bps.map_or(0, |rate| {
            let bit_ns = u128::from(frame_bytes * 8) * 1_000_000_000 * u128::from(RATE_SHARE) * 100;
            let interval = bit_ns.div_ceil(u128::from(rate.max(1)) * u128::from(JITTER_MIN_PERCENT));
            // What the wire can say: 32 bits of microseconds, a good hour.
            u64::try_from(interval).unwrap_or(u64::MAX).min(u64::from(u32::MAX) * 1000)
        });
        self.configured_ns.max(floor)
    }

    /// SplitMix64 (Steele, Lea & Flood 2014): jitter needs no more.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
