//! What a path is planned to be: a rate and, under a contact plan, a round trip; and the windows that follow when either
//! changes while connections live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn_proto::Dir;

use super::memory::Measured;
use super::{Lane, Transport, params};
use crate::config::{PathMemory, PeerId};

/// Shared by the engine, which changes it, and the congestion controllers of the path's connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathPlan(Arc<Numbers>);

/// 0 = not known.
#[derive(Debug, Default)]
struct Numbers {
    rate_bps: AtomicU64,
    rtt_ns: AtomicU64,
    interruptions: AtomicU64,
    signals: [AtomicU64; 3],
    measured: Measured,
}

/// What made a congestion controller act.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Ecn,
    Queue,
    LongerWay,
}

/// How often congestion control of a peer's connections acted on what the path said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CongestionSignals {
    /// Packets came marked CE, and the window was reduced (RFC 3168).
    pub ecn: u64,
    /// A queue stood on the path and went when the window was bounded; `contracted` only.
    pub queue: u64,
    /// What looked like a queue was a longer way; `contracted` only.
    pub longer_way: u64,
}

impl PathPlan {
    pub(crate) fn new(rate_bps: Option<u64>) -> Self {
        let plan = Self::default();
        plan.0.rate_bps.store(rate_bps.unwrap_or(0), Ordering::Relaxed);
        plan
    }

    /// bit/s; `None` = uncapped.
    pub(crate) fn rate_bps(&self) -> Option<u64> {
        Some(self.0.rate_bps.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Planned round trip; `None` = as configured or measured.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        Some(self.0.rtt_ns.load(Ordering::Relaxed)).filter(|rtt| *rtt > 0).map(Duration::from_nanos)
    }

    /// What is known of the path, if it was measured under this plan.
    pub(crate) fn memory(&self) -> Option<PathMemory> {
        let present = (self.rate_bps(), self.rtt());
        self.0.measured.get().filter(|memory| (memory.planned_rate_bps, memory.planned_rtt) == present)
    }

    /// Where measurements of the path are kept.
    pub(super) fn measured(&self) -> &Measured {
        &self.0.measured
    }

    /// How often the path has come back from the dark.
    pub(crate) fn interruptions(&self) -> u64 {
        self.0.interruptions.load(Ordering::Relaxed)
    }

    pub(crate) fn interrupted(&self) {
        self.0.interruptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.0.signals[signal as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn signals(&self) -> CongestionSignals {
        let [ecn, queue, longer_way] =
            [Signal::Ecn, Signal::Queue, Signal::LongerWay].map(|s| self.0.signals[s as usize].load(Ordering::Relaxed));
        CongestionSignals { ecn, queue, longer_way }
    }

    fn set(&self, rate_bps: Option<u64>, rtt: Option<Duration>) {
        let rtt = rtt.map_or(0, |rtt| u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
        self.0.rate_bps.store(rate_bps.unwrap_or(0), Ordering::Relaxed);
        self.0.rtt_ns.store(rtt, Ordering::Relaxed);
    }
}

impl Transport {
    /// Rate and round trip of a path are planned otherwise: congestion windows follow at the next acknowledgement, flow
    /// control and new connections at once. Flow control only grows: what was granted cannot be taken back.
    pub(crate) fn set_path_plan(&mut self, peer: PeerId, rate_bps: Option<u64>, rtt: Option<Duration>) {
        let Some(state) = self.peers.get_mut(usize::from(peer.0)) else { return };
        if (state.plan.rate_bps(), state.plan.rtt()) == (rate_bps, rtt) {
            return;
        }
        let before = params::windows(&state.config, &state.plan);
        state.plan.set(rate_bps, rtt);
        let after = params::windows(&state.config, &state.plan);
        state.configure();
        if after.receive <= before.receive && after.send <= before.send {
            return;
        }
        // Those of the control connection are as large as what it may hold, whatever the path is.
        for handle in state.all[Lane::Bulk as usize].clone() {
            let Some(conn) = self.conn(handle) else { continue };
            conn.quic.set_receive_window(params::varint(after.receive.max(before.receive)));
            conn.quic.set_send_window(after.send.max(before.send));
            conn.quic.set_max_concurrent_streams(Dir::Uni, params::varint(after.streams));
            self.mark_dirty(handle);
        }
    }
}
