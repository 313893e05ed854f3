//! A peer's queue: which of the own transfers to it run, and which is the next. A state machine without clock and effects.
//!
//! ```text
//!            enter                next                     leave
//!   refused ◄───── ┌─────────┐ ───────────► ┌────────┐ ──────────►
//!                  │ waiting │              │ active │
//!                  └─────────┘ ◄─┐      ┌── └────────┘
//!                    │  pause    │resume│ pause
//!                    └────────► paused ◄┘
//! ```
//!
//! Invariants: at most `max_concurrent` are active unless that was lowered under them; of those that wait, the next is the one
//! with the highest priority, and of equal ones the one that was ordered first, also if it was paused in between; what has
//! entered is never refused afterwards.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use florelay_engine::api::TransferId;

use crate::plan::QueuePlan;

/// Active at most, also without a limit.
const MAX_ACTIVE: u32 = QueuePlan::MAX_CONCURRENT;

/// Where a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It waits for its turn.
    Waiting,
    /// It runs.
    Active,
    /// Its operator holds it.
    Paused,
}

#[derive(Debug)]
struct Member {
    priority: u8,
    arrival: u64,
    place: Place,
}

/// As many wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The queue of one peer.
#[derive(Debug)]
pub(super) struct Queue {
    max_concurrent: u32,
    max_pending: u32,
    arrivals: u64,
    members: HashMap<TransferId, Member>,
    active: u32,
    /// By priority, the highest first, then by arrival. No level is empty.
    waiting: BTreeMap<Reverse<u8>, BTreeMap<u64, TransferId>>,
    pending: u32,
}

impl Queue {
    pub(super) fn new(QueuePlan { max_concurrent, max_pending }: QueuePlan) -> Self {
        Self {
            max_concurrent,
            max_pending,
            arrivals: 0,
            members: HashMap::new(),
            active: 0,
            waiting: BTreeMap::new(),
            pending: 0,
        }
    }

    /// A new transfer waits for its turn, which `next` may say at once. Its id is not in this queue.
    pub(super) fn enter(&mut self, id: TransferId, priority: u8) -> Result<(), Full> {
        let begins = self.active.saturating_add(self.pending) < self.most_active();
        if !begins && self.pending >= self.max_pending {
            return Err(Full);
        }
        self.arrivals += 1;
        self.members.insert(id, Member { priority, arrival: self.arrivals, place: Place::Paused });
        self.wait(id);
        Ok(())
    }

    /// One that was in this queue before a restart: it waits again, or is paused, however many do.
    pub(super) fn restore(&mut self, id: TransferId, priority: u8, paused: bool) {
        self.arrivals += 1;
        self.members.insert(id, Member { priority, arrival: self.arrivals, place: Place::Paused });
        if !paused {
            self.wait(id);
        }
    }

    /// The one that is to begin now, if there is one and a place for it; from now on it is active.
    pub(super) fn next(&mut self) -> Option<TransferId> {
        if self.active >= self.most_active() {
            return None;
        }
        let id = *self.waiting.first_key_value()?.1.first_key_value()?.1;
        self.take_out(id);
        self.members.get_mut(&id)?.place = Place::Active;
        self.active += 1;
        Some(id)
    }

    /// It has ended, wherever it stood.
    pub(super) fn leave(&mut self, id: TransferId) {
        self.take_out(id);
        self.members.remove(&id);
    }

    /// Hold it. Its place is free for another.
    pub(super) fn pause(&mut self, id: TransferId) {
        self.take_out(id);
        if let Some(member) = self.members.get_mut(&id) {
            member.place = Place::Paused;
        }
    }

    /// If it was paused, it waits again.
    pub(super) fn resume(&mut self, id: TransferId) {
        if self.place(id) == Some(Place::Paused) {
            self.wait(id);
        }
    }

    pub(super) fn set_priority(&mut self, id: TransferId, priority: u8) {
        let Some(place) = self.place(id) else { return };
        if place == Place::Waiting {
            self.take_out(id);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.priority = priority;
        }
        if place == Place::Waiting {
            self.wait(id);
        }
    }

    /// `None` = keep. Nothing that runs or waits is stopped.
    pub(super) fn set_limits(&mut self, max_concurrent: Option<u32>, max_pending: Option<u32>) {
        self.max_concurrent = max_concurrent.unwrap_or(self.max_concurrent);
        self.max_pending = max_pending.unwrap_or(self.max_pending);
    }

    pub(super) fn place(&self, id: TransferId) -> Option<Place> {
        self.members.get(&id).map(|member| member.place)
    }

    /// 1 = the next to begin; `None` = it does not wait.
    pub(super) fn position(&self, id: TransferId) -> Option<u32> {
        let member = self.members.get(&id).filter(|member| member.place == Place::Waiting)?;
        let before = self.waiting.range(..Reverse(member.priority)).map(|(_, level)| level.len()).sum::<usize>();
        let level = self.waiting.get(&Reverse(member.priority))?;
        // Most who ask have just entered.
        let behind = level.range(member.arrival..).count();
        u32::try_from(before + level.len() - behind + 1).ok()
    }

    /// Those that wait, the next first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = TransferId> {
        self.waiting.values().flat_map(|level| level.values().copied())
    }

    pub(super) fn active(&self) -> u32 {
        self.active
    }

    pub(super) fn pending(&self) -> u32 {
        self.pending
    }

    pub(super) fn max_concurrent(&self) -> u32 {
        self.max_concurrent
    }

    pub(super) fn max_pending(&self) -> u32 {
        self.max_pending
    }

    /// How many may be active.
    pub(super) fn most_active(&self) -> u32 {
        if self.max_concurrent == 0 { MAX_ACTIVE } else { self.max_concurrent.min(MAX_ACTIVE) }
    }

    fn wait(&mut self, id: TransferId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.place = Place::Waiting;
        self.waiting.entry(Reverse(member.priority)).or_default().insert(member.arrival, id);
        self.pending += 1;
    }

    /// Neither active nor waiting any more.
    fn take_out(&mut self, id: TransferId) {
        let Some(member) = self.members.get(&id) else { return };
        match member.place {
            Place::Active => self.active -= 1,
            Place::Waiting => {
                if let Some(level) = self.waiting.get_mut(&Reverse(member.priority)) {
                    level.remove(&member.arrival);
                    if level.is_empty() {
                        self.waiting.remove(&Reverse(member.priority));
                    }
                    self.pending -= 1;
                }
            }
            Place::Paused => {}
        }
    }
}

#[cfg(test)]
mod tests;
