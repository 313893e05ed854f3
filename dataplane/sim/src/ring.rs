//! The ring from one worker of a simulated node to another: bounded, and every frame in it accounted for.
//!
//! The frames in it are copies and belong to no pool, as in the daemon. It stands at its sender, so that a full ring is
//! seen at once; the network takes from it what the receiver drains in a burst.

use std::collections::VecDeque;
use std::time::Duration;

use florelay_engine::config::LinkId;
use florelay_engine::port::Crossing;

use crate::link::Packet;

/// How the rings of a node are.
#[derive(Debug, Clone, Copy)]
pub struct RingModel {
    /// Frames that one holds.
    pub capacity: usize,
    /// Frames that the receiver takes in a burst.
    pub batch: usize,
    /// From the bell to the receiver's burst.
    pub wake: Duration,
}

impl Default for RingModel {
    fn default() -> Self {
        Self { capacity: 1024, batch: 64, wake: Duration::from_micros(20) }
    }
}

/// What a frame in a ring is for.
#[derive(Debug, Clone, Copy)]
pub enum Freight {
    /// It arrived at the wrong worker's queue: ingress of this link.
    Received(LinkId),
    /// It was looked up and relabelled.
    Transit(Crossing),
}

/// Counters of one ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Received frames put in.
    pub received: u64,
    /// Transit frames put in.
    pub transit: u64,
    /// Frames that found it full.
    pub full: u64,
    /// Frames taken out.
    pub taken: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SimRing {
    pub(crate) model: RingModel,
    waiting: VecDeque<(Freight, Packet)>,
    counters: RingCounters,
    /// The receiver's burst is on the calendar.
    pub(crate) rung: bool,
}

impl SimRing {
    pub(crate) fn new(model: RingModel) -> Self {
        Self { model, waiting: VecDeque::new(), counters: RingCounters::default(), rung: false }
    }

    /// `false`, and counted, if it is full.
    pub(crate) fn push(&mut self, freight: Freight, packet: Packet) -> bool {
        if self.waiting.len() >= self.model.capacity {
            self.counters.full += 1;
            return false;
        }
        match freight {
            Freight::Received(_) => self.counters.received += 1,
            Freight::Transit(_) => self.counters.transit += 1,
        }
        self.waiting.push_back((freight, packet));
        true
    }

    /// A burst.
    pub(crate) fn take(&mut self) -> Vec<(Freight, Packet)> {
        let burst: Vec<_> = self.waiting.drain(..self.model.batch.min(self.waiting.len())).collect();
        self.counters.taken += burst.len() as u64;
        burst
    }

    /// Frames in it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> &RingCounters {
        &self.counters
    }

    /// Is every frame that was put in still there or taken?
    #[must_use]
    pub fn conserved(&self) -> bool {
        let RingCounters { received, transit, taken, .. } = self.counters;
        received + transit == taken + self.waiting.len() as u64 && self.waiting.len() <= self.model.capacity
    }
}
