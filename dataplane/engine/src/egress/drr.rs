//! Which flow is next: deficit round robin (Shreedhar & Varghese 1996) for bulk, plain round robin for control.
//!
//! ```text
//!   woke up ──► new list ──(its free turn is over, or it is empty)──► old list ──(empty)──► idle
//!                                                                       ▲  │ deficit used up: + quantum, to the tail
//!                                                                       └──┘
//! ```
//!
//! As in DRR++ and FQ-CoDel (RFC 8290 section 4.2), a flow that wakes up is served before the backlogged ones, once. A
//! flow may overdraw its deficit by one frame; the debt stays with it, also while it sleeps, so waking up often gains nothing.
//!
//! Invariants
//! - A quantum is at least the largest frame, so one visit always makes a deficit positive: O(1) per packet, however many flows.
//! - Lists are threaded through the flows themselves; nothing is allocated after `add`.

use super::FlowKey;
use super::queue::{FrameQueue, NIL};

/// Where a flow stands in the bulk schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    Idle,
    New,
    Old,
}

/// One flow of a link.
pub(super) struct Flow {
    pub(super) key: FlowKey,
    /// Transit frames; unused by local flows, whose packets are pulled.
    pub(super) bulk: FrameQueue,
    pub(super) control: FrameQueue,
    weight: u16,
    quantum: i64,
    deficit: i64,
    bulk_next: u32,
    listed: Listed,
    control_next: u32,
    control_listed: bool,
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NIL, tail: NIL };

/// All flows of a link and their turns.
pub(super) struct Flows {
    flows: Vec<Flow>,
    max_frame: u64,
    min_weight: u16,
    new: List,
    old: List,
    control: List,
    /// Flows looked at, in either class.
    #[cfg(test)]
    pub(super) steps: u64,
}

impl Flows {
    /// `max_frame` = the largest frame in bytes at layer 2.
    pub(super) fn new(max_frame: u64) -> Self {
        Self {
            flows: Vec::new(),
            max_frame,
            min_weight: u16::MAX,
            new: EMPTY,
            old: EMPTY,
            control: EMPTY,
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Adds a flow and returns its index.
    pub(super) fn add(&mut self, key: FlowKey, weight: u16) -> u32 {
        let weight = weight.max(1);
        self.flows.push(Flow {
            key,
            bulk: FrameQueue::new(),
            control: FrameQueue::new(),
            weight,
            quantum: self.quantum(weight),
            deficit: 0,
            bulk_next: NIL,
            listed: Listed::Idle,
            control_next: NIL,
            control_listed: false,
        });
        if weight < self.min_weight {
            self.set_min_weight(weight);
        }
        (self.flows.len() - 1) as u32
    }

    /// Changes a weight; O(flows).
    pub(super) fn set_weight(&mut self, at: u32, weight: u16) {
        self.flows[at as usize].weight = weight.max(1);
        let min = self.flows.iter().map(|flow| flow.weight).min();
        self.set_min_weight(min.unwrap_or(1));
    }

    /// Quanta are the largest frame × weight / the smallest weight of the link: a round is no longer than it must be.
    fn quantum(&self, weight: u16) -> i64 {
        self.max_frame as i64 * i64::from(weight) / i64::from(self.min_weight)
    }

    fn set_min_weight(&mut self, min: u16) {
        self.min_weight = min;
        for at in 0..self.flows.len() {
            self.flows[at].quantum = self.quantum(self.flows[at].weight);
        }
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Flow {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        &mut self.flows[at as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// A bulk flow has something to send: gives it its free turn unless it has its place already.
    pub(super) fn wake_bulk(&mut self, at: u32) {
        let flow = &mut self.flows[at as usize];
        if flow.listed == Listed::Idle {
            flow.deficit = flow.deficit.min(0) + flow.quantum;
            flow.listed = Listed::New;
            self.push_bulk(at, Listed::New);
        }
    }

    /// The flow whose turn it is. It stays in its place until `charge` or `sleep_bulk`.
    pub(super) fn bulk_turn(&mut self) -> Option<u32> {
        loop {
            let list = if self.new.head == NIL { Listed::Old } else { Listed::New };
            let at = if list == Listed::New { self.new.head } else { self.old.head };
            if at == NIL {
                return None;
            }
            let flow = self.get_mut(at);
            if flow.deficit > 0 {
                return Some(at);
            }
            flow.deficit += flow.quantum;
            self.pop_bulk(list);
            self.push_bulk(at, Listed::Old);
        }
    }

    /// The flow in turn has sent a frame of `bytes`.
    pub(super) fn charge(&mut self, at: u32, bytes: u64) {
        self.flows[at as usize].deficit -= bytes as i64;
    }

    /// The flow in turn has nothing to send. From the new list it goes to the old one once, so that it cannot come back
    /// ahead of flows that wait there (RFC 8290 section 4.2).
    pub(super) fn sleep_bulk(&mut self, at: u32) {
        let listed = self.flows[at as usize].listed;
        self.pop_bulk(listed);
        if listed == Listed::New && self.old.head != NIL {
            self.push_bulk(at, Listed::Old);
        } else {
            self.flows[at as usize].listed = Listed::Idle;
        }
    }

    pub(super) fn bulk_waiting(&self) -> bool {
        self.new.head != NIL || self.old.head != NIL
    }

    /// A control flow has something to send.
    pub(super) fn wake_control(&mut self, at: u32) {
        let flow = &mut self.flows[at as usize];
        if flow.control_listed {
            return;
        }
        flow.control_listed = true;
        flow.control_next = NIL;
        if self.control.tail == NIL {
            self.control.head = at;
        } else {
            self.flows[self.control.tail as usize].control_next = at;
        }
        self.control.tail = at;
    }

    /// The control flow whose turn it is.
    pub(super) fn control_turn(&self) -> Option<u32> {
        (self.control.head != NIL).then_some(self.control.head)
    }

    /// The control flow in turn has nothing to send.
    pub(super) fn sleep_control(&mut self, at: u32) {
        let flow = &mut self.flows[at as usize];
        flow.control_listed = false;
        self.control.head = flow.control_next;
        if self.control.head == NIL {
            self.control.tail = NIL;
        }
    }

    /// The control flow in turn has sent: the next one's turn.
    pub(super) fn rotate_control(&mut self, at: u32) {
        self.sleep_control(at);
        self.wake_control(at);
    }

    fn list(&mut self, listed: Listed) -> &mut List {
        if listed == Listed::New { &mut self.new } else { &mut self.old }
    }

    fn pop_bulk(&mut self, listed: Listed) {
        let head = self.list(listed).head;
        let next = self.flows[head as usize].bulk_next;
        let list = self.list(listed);
        list.head = next;
        if next == NIL {
            list.tail = NIL;
        }
    }

    fn push_bulk(&mut self, at: u32, listed: Listed) {
        let flow = &mut self.flows[at as usize];
        flow.listed = listed;
        flow.bulk_next = NIL;
        let list = self.list(listed);
        let tail = std::mem::replace(&mut list.tail, at);
        if tail == NIL {
            list.head = at;
        } else {
            self.flows[tail as usize].bulk_next = at;
        }
    }
}
