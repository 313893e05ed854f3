//! Whose turn it is to be read: the files that are ready, by the worker that sends them. Files that wait for their receiver
//! are not among them, and cost nothing.

use std::collections::BTreeSet;
use std::ops::Bound;

use florelay_engine::api::TransferId;

#[derive(Default)]
struct Round {
    ready: BTreeSet<TransferId>,
    /// The one that had the last turn.
    last: Option<TransferId>,
}

/// The files that are ready, going round by worker.
pub(super) struct Turns {
    workers: Vec<Round>,
    /// The worker that is asked first the next time.
    first: usize,
}

impl Turns {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Round::default()).collect(), first: 0 }
    }

    /// A file of this worker has something to do, or has not any more.
    pub(super) fn set(&mut self, worker: usize, id: TransferId, ready: bool) {
        let Some(round) = self.workers.get_mut(worker) else { return };
        if ready {
            round.ready.insert(id);
        } else {
            round.ready.remove(&id);
        }
    }

    /// The next file, of a worker that may be supplied, and its worker. Workers take turns, and the files of each.
    pub(super) fn next(&mut self, may: impl Fn(usize) -> bool) -> Option<(usize, TransferId)> {
        let count = self.workers.len();
        for worker in (self.first..count).chain(0..self.first) {
            if !may(worker) {
                continue;
            }
            let Round { ready, last } = &mut self.workers[worker];
            let after = last.map_or(Bound::Unbounded, Bound::Excluded);
            let Some(next) = ready.range((after, Bound::Unbounded)).next().or(ready.first()).copied() else { continue };
            *last = Some(next);
            self.first = (worker + 1) % count;
            return Some((worker, next));
        }
        None
    }

    /// Files that are ready.
    pub(super) fn len(&self) -> usize {
        self.workers.iter().map(|round| round.ready.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(turns: &mut Turns, count: usize, may: impl Fn(usize) -> bool) -> Vec<(usize, u128)> {
        (0..count).filter_map(|_| turns.next(&may)).map(|(worker, id)| (worker, id.0)).collect()
    }

    #[test]
    fn workers_take_turns_and_so_do_the_files_of_each() {
        let mut turns = Turns::new(3);
        for id in [5, 1, 9] {
            turns.set(0, TransferId(id), true);
        }
        turns.set(2, TransferId(3), true);
        assert_eq!(taken(&mut turns, 7, |_| true), [(0, 1), (2, 3), (0, 5), (2, 3), (0, 9), (2, 3), (0, 1)]);
        // A worker that does not keep up is passed over, and goes on where it was.
        assert_eq!(taken(&mut turns, 2, |worker| worker != 0), [(2, 3), (2, 3)]);
        turns.set(2, TransferId(3), false);
        turns.set(0, TransferId(5), false);
        assert_eq!((taken(&mut turns, 3, |_| true), turns.len()), (vec![(0, 9), (0, 1), (0, 9)], 2));
        assert_eq!(turns.next(|worker| worker != 0), None);
    }
}
