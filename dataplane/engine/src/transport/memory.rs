//! What is remembered of a path: written by the congestion controllers once a round trip, read when a connection begins.
//!
//! ```text
//!   PeerConfig::memory (an earlier run) ─┐
//!   controller of the bulk connection ───┴─► Measured ──► transport parameters of the next connection
//!                                                   └───► Event::Path ──► kept by the gateway
//! ```
//!
//! What is remembered is a guess about a path that may be another by now. So it decides nothing that the first answer of
//! the path does not correct: flow control is never less than without it, and a window that it opens waits for that answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Lane, PeerTransport, Transport, params};
use crate::config::{PathMemory, PeerId};

/// No path of ours has a longer round trip: configurations go up to an hour each way.
const MAX_RTT: Duration = Duration::from_secs(2 * 3600);

/// The last measurement. One writer, and a reader between packets; 0 = not known.
#[derive(Debug, Default)]
pub(super) struct Measured {
    least_ns: AtomicU64,
    smoothed_ns: AtomicU64,
    rate_bps: AtomicU64,
    planned_rate_bps: AtomicU64,
    planned_rtt_ns: AtomicU64,
    fresh: AtomicBool,
}

impl Measured {
    /// From an earlier run. What cannot be true is not taken.
    pub(super) fn recall(&self, memory: &PathMemory) {
        let credible = |rtt: Duration| !rtt.is_zero() && rtt <= MAX_RTT;
        if credible(memory.least_rtt) && credible(memory.smoothed_rtt) {
            self.store(memory);
        }
    }

    /// From a connection.
    pub(super) fn set(&self, memory: &PathMemory) {
        self.store(memory);
        self.fresh.store(true, Ordering::Relaxed);
    }

    fn store(&self, memory: &PathMemory) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.least_ns.store(nanos(memory.least_rtt), Ordering::Relaxed);
        self.smoothed_ns.store(nanos(memory.smoothed_rtt), Ordering::Relaxed);
        self.rate_bps.store(memory.rate_bps.unwrap_or(0), Ordering::Relaxed);
        self.planned_rate_bps.store(memory.planned_rate_bps.unwrap_or(0), Ordering::Relaxed);
        self.planned_rtt_ns.store(memory.planned_rtt.map_or(0, nanos), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<PathMemory> {
        let known = |number: &AtomicU64| Some(number.load(Ordering::Relaxed)).filter(|number| *number > 0);
        Some(PathMemory {
            least_rtt: Duration::from_nanos(known(&self.least_ns)?),
            smoothed_rtt: Duration::from_nanos(known(&self.smoothed_ns)?),
            rate_bps: known(&self.rate_bps),
            planned_rate_bps: known(&self.planned_rate_bps),
            planned_rtt: known(&self.planned_rtt_ns).map(Duration::from_nanos),
        })
    }
}

impl PeerTransport {
    /// Connections that begin from here on go by the present plan, and by what is remembered under it.
    pub(super) fn configure(&mut self) {
        self.remembered = self.plan.memory();
        for lane in [Lane::Control, Lane::Bulk] {
            let config = Arc::new(params::transport_config(&self.config, lane, self.congestion, &self.plan));
            self.client[lane as usize].transport_config(config.clone());
            Arc::make_mut(&mut self.server[lane as usize]).transport_config(config);
        }
    }

    /// A connection is about to begin.
    pub(super) fn recall(&mut self) {
        if self.plan.memory() != self.remembered {
            self.configure();
        }
    }
}

impl Transport {
    /// What was measured of a peer's path since this was asked last.
    pub(crate) fn take_measured(&mut self, peer: PeerId) -> Option<PathMemory> {
        let measured = self.peer(peer)?.plan.measured();
        measured.fresh.swap(false, Ordering::Relaxed).then(|| measured.get())?
    }
}
