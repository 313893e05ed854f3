//! Whose turn it is to write: own transfers with work, strict ones before bulk.
//!
//! ```text
//!   lane     0 strict, 1 bulk         in turns, a packet for each unit of weight
//!   behind   0 strict, 1 bulk         the peer allows no further stripe now
//! ```
//!
//! An entry has a number, and means its transfer as long as the transfer says the same one. So a transfer leaves its queue
//! without being looked for, however many wait there; what it leaves behind is passed over at the front, and swept out
//! when it is more than half of a queue.

use std::collections::VecDeque;

use crate::api::TransferId;

/// Strict, bulk.
pub(super) const LANES: usize = 2;
/// Fewer entries than these are not worth a sweep.
const SWEPT_FROM: usize = 64;

/// Which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// Of those that write, by lane.
    Lane(usize),
    /// Of those that want to open a stripe, by lane.
    Behind(usize),
}

impl Queue {
    fn index(self) -> usize {
        match self {
            Self::Lane(lane) => lane,
            Self::Behind(lane) => LANES + lane,
        }
    }
}

/// A place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    queue: Queue,
    number: u64,
}

#[derive(Debug, Default)]
pub(super) struct Turns {
    queues: [VecDeque<(TransferId, Turn)>; 2 * LANES],
    /// Entries of each queue that mean nothing any more.
    left_behind: [usize; 2 * LANES],
    next: u64,
}

impl Turns {
    pub(super) fn clear(&mut self) {
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.left_behind = [0; 2 * LANES];
    }

    /// Behind all others of the queue.
    pub(super) fn push(&mut self, queue: Queue, id: TransferId) -> Turn {
        self.next += 1;
        let turn = Turn { queue, number: self.next };
        self.queues[queue.index()].push_back((id, turn));
        turn
    }

    pub(super) fn front(&self, queue: Queue) -> Option<(TransferId, Turn)> {
        self.queues[queue.index()].front().copied()
    }

    /// The first leaves.
    pub(super) fn pop(&mut self, queue: Queue) {
        self.queues[queue.index()].pop_front();
    }

    /// The first was left behind.
    pub(super) fn pass_over(&mut self, queue: Queue) {
        self.pop(queue);
        let left = &mut self.left_behind[queue.index()];
        *left = left.saturating_sub(1);
    }

    /// The first goes behind all others.
    pub(super) fn rotate(&mut self, queue: Queue) {
        self.queues[queue.index()].rotate_left(1);
    }

    /// Transfers that have a place in any queue.
    pub(super) fn len(&self) -> usize {
        let entries: usize = self.queues.iter().map(VecDeque::len).sum();
        entries.saturating_sub(self.left_behind.iter().sum())
    }

    /// Others wait in this queue.
    pub(super) fn is_shared(&self, queue: Queue) -> bool {
        self.queues[queue.index()].len() > 1
    }

    /// This entry means nothing any more. `means` says of others whether they do.
    pub(super) fn leave(&mut self, turn: Turn, means: impl Fn(TransferId, Turn) -> bool) {
        let index = turn.queue.index();
        self.left_behind[index] += 1;
        let entries = &mut self.queues[index];
        if entries.len() >= SWEPT_FROM && self.left_behind[index] > entries.len() / 2 {
            entries.retain(|(id, turn)| means(*id, *turn));
            self.left_behind[index] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_swept_out_and_the_rest_keeps_its_order() {
        let bulk = Queue::Lane(1);
        let mut turns = Turns::default();
        let stays: Vec<_> = (0..100).map(|id| (TransferId(id), turns.push(bulk, TransferId(id)))).collect();
        for _ in 0..10_000 {
            let turn = turns.push(bulk, TransferId(1000));
            turns.leave(turn, |id, turn| stays.contains(&(id, turn)));
            assert!(turns.queues[1].len() <= 2 * stays.len() + 2);
        }
        let mut left = Vec::new();
        while let Some((id, turn)) = turns.front(bulk) {
            turns.pass_over(bulk);
            left.extend(stays.contains(&(id, turn)).then_some((id, turn)));
        }
        assert_eq!(left, stays);
        assert!(turns.front(Queue::Behind(1)).is_none() && !turns.is_shared(bulk));
    }
}
