//! CUBIC or BBR on a path without a contracted rate, bounded by what the ends' own rings hold.
//!
//! On a link of microseconds nothing but loss would stop slow start, and the loss happens in the receiver's ring: every
//! probe above it costs a burst of retransmissions. The bound follows the round trip, so that a long path is CUBIC's or BBR's.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use super::plan::{PathPlan, Signal};

/// Always allowed in flight: half of a receive ring of 2048 frames at 1500 bytes, and more than a veth or a LAN needs.
const RING_BYTES: u64 = 1 << 20;
/// Fastest rate a path is believed to have, for the part of the bound that grows with the round trip.
const MAX_RATE_BPS: u64 = 100_000_000_000;

/// Makes bounded controllers.
pub(crate) struct BoundedConfig {
    /// What bounds are put on.
    pub(crate) inner: Arc<dyn ControllerFactory + Send + Sync>,
    /// Where CE is counted.
    pub(crate) plan: PathPlan,
}

impl ControllerFactory for BoundedConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = self.inner.clone().build(now, current_mtu);
        Box::new(Bounded { inner, bound: RING_BYTES, plan: self.plan.clone() })
    }
}

struct Bounded {
    inner: Box<dyn Controller>,
    bound: u64,
    plan: PathPlan,
}

/// Bytes in flight at most for a round trip.
fn bound(rtt: Duration) -> u64 {
    let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
    let bdp = u128::from(MAX_RATE_BPS) * u128::from(nanos) / 8_000_000_000;
    u64::try_from(bdp).unwrap_or(u64::MAX).max(RING_BYTES)
}

impl Controller for Bounded {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.bound = bound(rtt.min());
        // At the bound the path is not probed: growing on would only delay the answer to a loss.
        let bounded = self.inner.window() >= self.bound;
        self.inner.on_ack(now, sent, bytes, app_limited || bounded, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        if lost_bytes == 0 {
            self.plan.signal(Signal::Ecn);
        }
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().min(self.bound)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), bound: self.bound, plan: self.plan.clone() })
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
}
