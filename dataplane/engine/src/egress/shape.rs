//! The numbers of one link that follow from its MTU, overhead and rate plan.

use std::time::Duration;

use crate::config::{LinkConfig, RatePlan};
use crate::port::FrameBuf;

/// Smallest Ethernet frame without FCS, bytes (IEEE 802.3 clause 3.2.7).
pub const MIN_FRAME_BYTES: u32 = 60;
/// Uncompleted frames of the largest size that the transmit ring may always hold.
pub const IN_FLIGHT_MIN_FRAMES: u64 = 2;
/// Uncompleted bytes in time at the link's rate, if that is more.
pub const IN_FLIGHT_NS: u64 = 1_000_000;
/// The policer's burst is its share of the link's, but at least this many of the largest frames.
pub const CONTROL_BURST_MIN_FRAMES: u64 = 2;
/// A transit frame behind this much of its own flow's queue, in time at the link's rate, is marked CE.
pub const ECN_THRESHOLD_NS: u64 = 20_000_000;
/// But never behind less than this many of the largest frames.
pub const ECN_THRESHOLD_MIN_FRAMES: u64 = 8;

/// Sizes and thresholds of one link, bytes at layer 2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    overhead_bytes: u64,
    /// The largest frame.
    pub(super) max_frame_bytes: u64,
    /// What the transmit ring may hold uncompleted.
    pub(super) in_flight_bytes: u64,
    /// Queue of a transit flow above which frames are marked CE.
    pub(super) ecn_threshold_bytes: u64,
    transit_flow_bytes: u64,
}

impl Shape {
    pub(super) fn new(link: &LinkConfig, transit_flow_bytes: u64) -> Self {
        let overhead_bytes = u64::from(link.overhead_bytes);
        let max_frame = u64::from(link.mtu_payload) + overhead_bytes;
        let mut shape = Self {
            overhead_bytes,
            max_frame_bytes: max_frame.max(u64::from(MIN_FRAME_BYTES)),
            in_flight_bytes: 0,
            ecn_threshold_bytes: 0,
            transit_flow_bytes,
        };
        shape.set_rate(link.rate.rate_bps);
        shape
    }

    /// Follows a change of the rate.
    pub(super) fn set_rate(&mut self, rate_bps: Option<u64>) {
        let ecn = match rate_bps {
            Some(rate) => bytes_in(rate, ECN_THRESHOLD_NS),
            // No rate says how long a queue lasts.
            None => self.transit_flow_bytes / 2,
        };
        self.in_flight_bytes = self.in_flight(rate_bps);
        self.ecn_threshold_bytes = ecn.max(ECN_THRESHOLD_MIN_FRAMES * self.max_frame_bytes);
    }

    /// What the transmit ring may hold uncompleted at a rate.
    fn in_flight(&self, rate_bps: Option<u64>) -> u64 {
        // Nothing but the ring's size bounds an uncapped link.
        let in_flight = rate_bps.map_or(u64::MAX, |rate| bytes_in(rate, IN_FLIGHT_NS));
        in_flight.max(IN_FLIGHT_MIN_FRAMES * self.max_frame_bytes)
    }

    /// Time that one largest frame, a full transmit ring and a burst take at a rate: as much may be below when the last frame
    /// is given to the port.
    pub(super) fn drain_time(&self, plan: RatePlan) -> Duration {
        let Some(rate) = plan.rate_bps.filter(|rate| *rate > 0) else { return Duration::from_nanos(IN_FLIGHT_NS) };
        let (_, burst) = self.bucket(plan);
        let bytes = u128::from(self.in_flight(Some(rate)) + self.max_frame_bytes + burst);
        let nanos = (bytes * 8_000_000_000).div_ceil(u128::from(rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// CIR and CBS of the link; the burst is at least one frame, or nothing could ever leave.
    pub(super) fn bucket(&self, plan: RatePlan) -> (Option<u64>, u64) {
        (plan.rate_bps, u64::from(plan.burst_bytes).max(self.max_frame_bytes))
    }

    /// CIR and CBS of the policer over OAM and control.
    pub(super) fn policer(&self, plan: RatePlan) -> (Option<u64>, u64) {
        let percent = u64::from(plan.control_percent.clamp(1, 100));
        let share = u64::from(plan.burst_bytes) * percent / 100;
        let rate = plan.rate_bps.map(|rate| (u128::from(rate) * u128::from(percent) / 100) as u64);
        (rate, share.max(CONTROL_BURST_MIN_FRAMES * self.max_frame_bytes))
    }

    /// Bytes of a frame at layer 2.
    pub(super) fn wire_bytes<F: FrameBuf>(&self, frame: &F) -> u64 {
        (frame.bytes().len() as u64 + self.overhead_bytes).max(u64::from(MIN_FRAME_BYTES))
    }
}

/// Bytes that a rate carries in a time.
fn bytes_in(rate_bps: u64, nanos: u64) -> u64 {
    u64::try_from(u128::from(rate_bps) * u128::from(nanos) / 8_000_000_000).unwrap_or(u64::MAX)
}
