//! CUBIC or BBR on a path without a contracted rate, bounded by what the ends' own rings hold.
//!
//! On a link of microseconds nothing but loss would stop slow start, and the loss happens in the receiver's ring: every
//! probe above it costs a burst of retransmissions. The bound follows the round trip, so that a long path is CUBIC's or BBR's.
//!
//! A path that is remembered is resumed with care (draft-ietf-tsvwg-careful-resume): the connection begins like any other,
//! and when the first round trip is like the remembered one, it goes on from half of what the path carried. Slow start
//! has the rest a round trip later.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig};

use super::contracted::bdp;
use super::plan::{PathPlan, Signal};
use super::rounds::{Rounds, Unbroken};
use crate::config::PathMemory;

/// Always allowed in flight: half of a receive ring of 2048 frames at 1500 bytes, and more than a veth or a LAN needs.
const RING_BYTES: u64 = 1 << 20;
/// Fastest rate a path is believed to have, for the part of the bound that grows with the round trip.
const MAX_RATE_BPS: u64 = 100_000_000_000;
/// Initial window in packets; the link's bucket already prevents bursts above the cap.
const INITIAL_PACKETS: u64 = 64;
/// Largest window that memory opens: a wrong one costs at most so many bytes.
const MAX_START_BYTES: u64 = 8 << 20;
/// A round trip within this factor of the remembered one is of the same path.
const RTT_FACTOR: u32 = 2;
/// Part of what the path carried with which it is resumed.
const START_PART: u64 = 2;
/// Rounds of which the best says what the path carries.
const RATE_ROUNDS: usize = 8;
/// The window is in use from these eighths of it.
const LOADED_EIGHTHS: u64 = 7;

/// What bounds are put on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inner {
    /// RFC 9438.
    Cubic,
    /// quinn-proto's version 1.
    Bbr,
}

impl Inner {
    fn build(self, now: Instant, mtu: u16, window: u64) -> Box<dyn Controller> {
        match self {
            Self::Cubic => {
                let mut cubic = CubicConfig::default();
                cubic.initial_window(window);
                Arc::new(cubic).build(now, mtu)
            }
            Self::Bbr => {
                let mut bbr = BbrConfig::default();
                bbr.initial_window(window);
                Arc::new(bbr).build(now, mtu)
            }
        }
    }
}

/// Makes bounded controllers.
pub(crate) struct BoundedConfig {
    /// What bounds are put on.
    pub(crate) inner: Inner,
    /// Largest QUIC packet of the path, in bytes.
    pub(crate) mtu: u16,
    /// Where CE is counted, and what the path carries is kept.
    pub(crate) plan: PathPlan,
    /// What is remembered of the path.
    pub(crate) start: Option<PathMemory>,
    /// Whether what the connection measures is remembered: that of the bulk lane.
    pub(crate) remembers: bool,
}

impl ControllerFactory for BoundedConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bounded {
            inner: self.inner.build(now, current_mtu, INITIAL_PACKETS * u64::from(self.mtu)),
            bound: RING_BYTES,
            start: self.start,
            mtu: current_mtu,
            rounds: Rounds::default(),
            unbroken: Unbroken::new(self.plan.interruptions()),
            smoothed: Duration::ZERO,
            rates: [0; RATE_ROUNDS],
            config: self,
        })
    }
}

struct Bounded {
    config: Arc<BoundedConfig>,
    inner: Box<dyn Controller>,
    bound: u64,
    /// Until the path has answered.
    start: Option<PathMemory>,
    mtu: u16,
    rounds: Rounds,
    unbroken: Unbroken,
    /// quinn-proto's smoothed round trip.
    smoothed: Duration,
    /// What arrived per second in rounds in which the window was in use, in bits, newest first.
    rates: [u64; RATE_ROUNDS],
}

/// Bytes in flight at most for a round trip.
fn bound(rtt: Duration) -> u64 {
    bdp(MAX_RATE_BPS, rtt).max(RING_BYTES)
}

/// The window with which a remembered path is resumed after a first round trip; `None` = another path, or nothing gained.
fn resumed(memory: &PathMemory, planned_bps: Option<u64>, rtt: Duration, initial: u64) -> Option<u64> {
    let like = rtt / RTT_FACTOR <= memory.smoothed_rtt && memory.least_rtt / RTT_FACTOR <= rtt;
    let rate = memory.rate_bps.filter(|_| like)?.min(planned_bps.unwrap_or(u64::MAX));
    // The shorter of the two: a handshake that had to be sent again looks longer.
    let window = bdp(rate, rtt.min(memory.least_rtt)) / START_PART;
    Some(window.min(MAX_START_BYTES)).filter(|window| *window > initial)
}

impl Bounded {
    fn resume(&mut self, now: Instant, memory: &PathMemory, rtt: Duration) {
        let initial = INITIAL_PACKETS * u64::from(self.config.mtu);
        if let Some(window) = resumed(memory, self.config.plan.rate_bps(), rtt, initial) {
            self.inner = self.config.inner.build(now, self.mtu, window);
            self.rates[0] = memory.rate_bps.unwrap_or(0);
        }
    }

    fn round_over(&mut self, rate_bps: u64, rtt: Duration, in_flight: u64) {
        if in_flight >= self.window() / 8 * LOADED_EIGHTHS {
            self.rates.rotate_right(1);
            self.rates[0] = rate_bps;
        } else {
            // Something else held it up, a cap of ours or the application: the path carries so much at least.
            self.rates[0] = self.rates[0].max(rate_bps);
        }
        if self.config.remembers {
            self.config.plan.measured().set(&PathMemory {
                least_rtt: rtt,
                smoothed_rtt: self.smoothed.max(rtt),
                rate_bps: self.rates.iter().copied().max().filter(|rate| *rate > 0),
                planned_rate_bps: self.config.plan.rate_bps(),
                planned_rtt: self.config.plan.rtt(),
            });
        }
    }
}

impl Controller for Bounded {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.bound = bound(rtt.min());
        let unbroken = self.unbroken.is_so(self.config.plan.interruptions(), now, sent, &mut self.rounds);
        if unbroken && let Some(memory) = self.start.take() {
            self.resume(now, &memory, now.saturating_duration_since(sent));
        }
        // At the bound the path is not probed: growing on would only delay the answer to a loss.
        let bounded = self.inner.window() >= self.bound;
        self.inner.on_ack(now, sent, bytes, app_limited || bounded, rtt);
        if unbroken {
            self.rounds.acked(now, sent, bytes);
            self.smoothed = rtt.get();
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        if let Some(round) = self.rounds.end_acks(now, in_flight) {
            self.round_over(round.rate_bps, round.rtt, round.in_flight);
        }
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        if lost_bytes == 0 {
            self.config.plan.signal(Signal::Ecn);
        }
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().min(self.bound)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            config: self.config.clone(),
            inner: self.inner.clone_box(),
            rounds: self.rounds.clone(),
            unbroken: self.unbroken.clone(),
            ..*self
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_path_is_bounded_by_rings_and_a_long_one_by_cubic() {
        assert_eq!(bound(Duration::from_micros(50)), RING_BYTES);
        // 100 Gbit/s at 100 ms: no real path is bounded by that.
        assert_eq!(bound(Duration::from_millis(100)), 1_250_000_000);
        assert_eq!(bound(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_path_is_resumed_only_if_it_answers_like_the_remembered_one() {
        let ms = Duration::from_millis;
        let memory = PathMemory {
            least_rtt: ms(600),
            smoothed_rtt: ms(650),
            rate_bps: Some(20_000_000),
            planned_rate_bps: None,
            planned_rtt: None,
        };
        let at = |planned, rtt| resumed(&memory, planned, rtt, 64 * 1460);
        assert_eq!(at(None, ms(650)), Some(750_000));
        assert_eq!(at(None, ms(400)), Some(500_000));
        // Never above the plan's product.
        assert_eq!(at(Some(4_000_000), ms(650)), Some(150_000));
        for other in [Duration::ZERO, ms(299), ms(1301), Duration::MAX / 4] {
            assert_eq!(at(None, other), None, "{other:?}");
        }
        // A window that is no larger than that of any other connection.
        assert_eq!(at(Some(2_000_000), ms(650)), None);
        assert_eq!(resumed(&PathMemory { rate_bps: None, ..memory }, None, ms(650), 1), None);
        assert_eq!(
            resumed(&PathMemory { rate_bps: Some(u64::MAX), ..memory }, None, ms(650), 1),
            Some(MAX_START_BYTES)
        );
    }
}
