//! Transfers that have ended, as long as they are remembered.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use florelay_engine::api::TransferId;

use crate::ipc::TransferStatus;

/// Ended transfers that are remembered, and how much memory they may take, in bytes; the oldest are forgotten.
const MAX_ENDED: usize = 16_384;
const MAX_ENDED_BYTES: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Ended {
    by_id: BTreeMap<TransferId, (u64, TransferStatus)>,
    /// In the order of their ends: a number and the id. One whose number is not in `by_id` has ended again since.
    order: VecDeque<(u64, TransferId)>,
    next: u64,
    bytes: usize,
}

impl Ended {
    pub(super) fn insert(&mut self, status: TransferStatus) {
        let id = TransferId(status.id);
        self.next += 1;
        self.bytes += status.about_bytes();
        self.order.push_back((self.next, id));
        if let Some((_, before)) = self.by_id.insert(id, (self.next, status)) {
            self.bytes -= before.about_bytes();
        }
        while self.order.len() > MAX_ENDED || self.bytes > MAX_ENDED_BYTES {
            let Some((number, oldest)) = self.order.pop_front() else { return };
            if self.by_id.get(&oldest).is_some_and(|(current, _)| *current == number)
                && let Some((_, status)) = self.by_id.remove(&oldest)
            {
                self.bytes -= status.about_bytes();
            }
        }
    }

    pub(super) fn get(&self, id: TransferId) -> Option<&TransferStatus> {
        self.by_id.get(&id).map(|(_, status)| status)
    }

    /// The last that ended first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &TransferStatus> {
        let current = |(number, id): &(u64, TransferId)| {
            self.by_id.get(id).filter(|(current, _)| current == number).map(|(_, status)| status)
        };
        self.order.iter().rev().filter_map(current)
    }

    pub(super) fn range(
        &self,
        range: (Bound<TransferId>, Bound<TransferId>),
    ) -> impl Iterator<Item = &TransferStatus> + use<'_> {
        self.by_id.range(range).map(|(_, (_, status))| status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_within_bounds_and_an_id_once() {
        let mut ended = Ended::default();
        let status = |id, attributes| TransferStatus { id, attributes, ..TransferStatus::default() };
        for id in 0..MAX_ENDED as u128 + 10 {
            ended.insert(status(id, vec![]));
        }
        assert_eq!((ended.by_id.len(), ended.order.len()), (MAX_ENDED, MAX_ENDED));
        assert!(ended.get(TransferId(9)).is_none() && ended.get(TransferId(10)).is_some());
        // It ends again: it is the newest now, and known once.
        ended.insert(status(10, vec![]));
        ended.insert(status(u128::MAX, vec![]));
        assert!(ended.get(TransferId(10)).is_some());
        assert_eq!(ended.newest().take(2).map(|status| status.id).collect::<Vec<_>>(), [u128::MAX, 10]);
        // 64 pairs of 1024 bytes each are what an offer may have.
        let heavy = vec![("k".repeat(1024), "v".repeat(1024)); 64];
        for id in 0..1000 {
            ended.insert(status(1_000_000 + id, heavy.clone()));
        }
        assert!(ended.bytes <= MAX_ENDED_BYTES && ended.by_id.len() < 130, "{}", ended.by_id.len());
        assert_eq!(ended.bytes, ended.by_id.values().map(|(_, status)| status.about_bytes()).sum::<usize>());
    }
}
