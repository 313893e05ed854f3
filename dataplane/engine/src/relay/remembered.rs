//! What is remembered of transfers that are over: the last so many, found by id.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::api::TransferId;

/// The last `most` things said of transfers, one for each id. The oldest goes first.
pub(super) struct Remembered<V> {
    most: usize,
    /// With the number under which it is in `order`.
    values: FxHashMap<TransferId, (u64, V)>,
    order: BTreeMap<u64, TransferId>,
    next: u64,
}

impl<V> Remembered<V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, values: FxHashMap::default(), order: BTreeMap::new(), next: 0 }
    }

    /// Remember this of `id`, instead of what was remembered.
    pub(super) fn insert(&mut self, id: TransferId, value: V) {
        self.take(id);
        if self.values.len() == self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
        self.values.insert(id, (self.next, value));
        self.order.insert(self.next, id);
        self.next += 1;
    }

    /// Forget this, and give it.
    pub(super) fn take(&mut self, id: TransferId) -> Option<V> {
        let (number, value) = self.values.remove(&id)?;
        self.order.remove(&number);
        Some(value)
    }

    /// All of them, the oldest first.
    pub(super) fn ids(&self) -> Vec<TransferId> {
        self.order.values().copied().collect()
    }

    pub(super) fn get_mut(&mut self, id: TransferId) -> Option<&mut V> {
        self.values.get_mut(&id).map(|(_, value)| value)
    }

    pub(super) fn get(&self, id: TransferId) -> Option<&V> {
        self.values.get(&id).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_nothing_is_left_of_what_was_removed() {
        let mut remembered = Remembered::new(3);
        for id in [1, 2, 3, 1, 4] {
            remembered.insert(TransferId(id), id);
        }
        let known = |remembered: &Remembered<u128>| [1, 2, 3, 4].map(|id| remembered.get(TransferId(id)).is_some());
        // 1 was said again after 3: 2 was the oldest.
        assert_eq!(known(&remembered), [true, false, true, true]);
        assert_eq!(remembered.ids(), [3, 1, 4].map(TransferId));
        assert_eq!((remembered.take(TransferId(3)), remembered.take(TransferId(4))), (Some(3), Some(4)));
        assert_eq!(known(&remembered), [true, false, false, false]);
        assert_eq!((remembered.values.len(), remembered.order.len()), (1, 1));
        for id in 10..1000 {
            remembered.insert(TransferId(id), id);
        }
        assert_eq!((remembered.values.len(), remembered.order.len()), (3, 3));
    }
}
