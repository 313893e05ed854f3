//! Whose turn it is to write: own transfers with work, strict ones before bulk.
//!
//! An entry has a number, and means its transfer as long as the transfer says the same one. So a transfer leaves its lane
//! without being looked for, however many wait there; what it leaves behind is passed over at the front, and swept out
//! when it is more than half of a lane.

use std::collections::VecDeque;

use crate::api::TransferId;

/// Strict, bulk.
pub(super) const LANES: usize = 2;
/// Fewer entries than these are not worth a sweep.
const SWEPT_FROM: usize = 64;

/// A place in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn(u64);

#[derive(Debug, Default)]
pub(super) struct Turns {
    lanes: [VecDeque<(TransferId, Turn)>; LANES],
    /// Entries of each lane that mean nothing any more.
    left_behind: [usize; LANES],
    next: u64,
}

impl Turns {
    pub(super) fn clear(&mut self) {
        self.lanes.iter_mut().for_each(VecDeque::clear);
        self.left_behind = [0; LANES];
    }

    /// Behind all others of the lane.
    pub(super) fn push(&mut self, lane: usize, id: TransferId) -> Turn {
        self.next += 1;
        let turn = Turn(self.next);
        self.lanes[lane].push_back((id, turn));
        turn
    }

    pub(super) fn front(&self, lane: usize) -> Option<(TransferId, Turn)> {
        self.lanes[lane].front().copied()
    }

    /// The first has had its turn, and has no more to write.
    pub(super) fn pop(&mut self, lane: usize) {
        self.lanes[lane].pop_front();
    }

    /// The first was left behind.
    pub(super) fn pass_over(&mut self, lane: usize) {
        self.lanes[lane].pop_front();
        self.left_behind[lane] = self.left_behind[lane].saturating_sub(1);
    }

    /// The first has had its turn, and goes behind all others.
    pub(super) fn rotate(&mut self, lane: usize) {
        self.lanes[lane].rotate_left(1);
    }

    /// Others wait in this lane.
    pub(super) fn is_shared(&self, lane: usize) -> bool {
        self.lanes[lane].len() > 1
    }

    /// An entry of this lane means nothing any more. `means` says of an entry whether it does.
    pub(super) fn leave(&mut self, lane: usize, means: impl Fn(TransferId, Turn) -> bool) {
        self.left_behind[lane] += 1;
        let entries = &mut self.lanes[lane];
        if entries.len() >= SWEPT_FROM && self.left_behind[lane] > entries.len() / 2 {
            entries.retain(|(id, turn)| means(*id, *turn));
            self.left_behind[lane] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_swept_out_and_the_rest_keeps_its_order() {
        let mut turns = Turns::default();
        let stays: Vec<_> = (0..100).map(|id| (TransferId(id), turns.push(1, TransferId(id)))).collect();
        for _ in 0..10_000 {
            turns.push(1, TransferId(1000));
            turns.leave(1, |id, turn| stays.contains(&(id, turn)));
            assert!(turns.lanes[1].len() <= 2 * stays.len() + 2);
        }
        let mut left = Vec::new();
        while let Some((id, turn)) = turns.front(1) {
            turns.pass_over(1);
            left.extend(stays.contains(&(id, turn)).then_some((id, turn)));
        }
        assert_eq!(left, stays);
        assert!(turns.front(0).is_none() && !turns.is_shared(1));
    }
}
