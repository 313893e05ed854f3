//! Congestion control for a path whose rate is contracted: the window is two bandwidth-delay products of the
//! plan, so that a long link fills without tuning, and loss alone does not collapse it. The cap itself is kept
//! by the link's token bucket, which pulls packets from the connection.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

use super::plan::PathPlan;

/// Floor of the window: enough for a handshake flight and for loss probes on the slowest links.
const MIN_WINDOW_PACKETS: u64 = 16;
/// The window in bandwidth-delay products (DESIGN section 5).
const WINDOW_BDP: u64 = 2;
/// Delayed acknowledgements hold the window open this much longer than the path's round trip.
const ACK_SLACK: Duration = Duration::from_millis(30);

/// A contracted path whose cap the operator lifts is given the window of this rate: nothing but its own rings bounds it
/// then, and loss does not shrink a contracted window.
const UNCAPPED_RATE_BPS: u64 = 1_000_000_000;

/// Bytes in flight for `rate_bps` at `rtt`.
pub(crate) fn window_bytes(rate_bps: u64, rtt: Duration, mtu: u16) -> u64 {
    let rtt_ns = u64::try_from((rtt + ACK_SLACK).as_nanos()).unwrap_or(u64::MAX);
    let bdp = u128::from(rate_bps) * u128::from(rtt_ns) / 8_000_000_000;
    let window = u64::try_from(bdp * u128::from(WINDOW_BDP)).unwrap_or(u64::MAX);
    window.max(MIN_WINDOW_PACKETS * u64::from(mtu))
}

/// Makes `Contracted` controllers that follow one rate plan.
#[derive(Debug)]
pub(crate) struct ContractedConfig {
    /// Rate and round trip, changed by the engine when they are planned otherwise.
    pub(crate) plan: PathPlan,
    /// Before the first measurement.
    pub(crate) initial_rtt: Duration,
}

impl ControllerFactory for ContractedConfig {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mut controller = Contracted { rtt: self.initial_rtt, mtu: current_mtu, window: 0, config: self };
        controller.update();
        Box::new(controller)
    }
}

#[derive(Debug, Clone)]
struct Contracted {
    config: Arc<ContractedConfig>,
    rtt: Duration,
    mtu: u16,
    window: u64,
}

impl Contracted {
    fn update(&mut self) {
        let rate = self.config.plan.rate_bps().unwrap_or(UNCAPPED_RATE_BPS);
        // The least round trip ever measured may be that of an earlier contact, over a shorter way.
        let rtt = self.rtt.max(self.config.plan.rtt().unwrap_or_default());
        self.window = window_bytes(rate, rtt, self.mtu);
    }
}

impl Controller for Contracted {
    fn on_ack(&mut self, _: Instant, _: Instant, _: u64, _: bool, rtt: &RttEstimator) {
        // The least round trip, not the smoothed one: queueing behind our own packets must not widen the window.
        self.rtt = rtt.min();
    }

    fn on_end_acks(&mut self, _: Instant, _: u64, _: bool, _: Option<u64>) {
        self.update();
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.update();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_is_two_bdp_and_has_a_floor() {
        // 250 Mbit/s, 650 ms: 20.3 MB a BDP.
        let window = window_bytes(250_000_000, Duration::from_millis(650), 1460);
        assert_eq!(window, 2 * 250_000_000 / 8 * 680 / 1000);
        assert_eq!(window_bytes(1_000, Duration::from_millis(1), 1460), 16 * 1460);
        assert_eq!(window_bytes(u64::MAX, Duration::MAX / 2, 1460), u64::MAX);
    }
}
