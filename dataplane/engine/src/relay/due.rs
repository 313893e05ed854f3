//! Confirmations that wait for company. All wait equally long, so that the order in which they began to wait is the order
//! of their times: what is not due is not looked at, however many transfers there are.

use std::collections::VecDeque;

use crate::api::TransferId;
use crate::time::Nanos;

/// When which transfer is to be confirmed, the earliest first. An entry stays where its confirmation has gone early, or its
/// transfer has ended; it then means nothing, for at most the delay of a confirmation.
#[derive(Default)]
pub(super) struct DueConfirmations {
    waiting: VecDeque<(Nanos, TransferId)>,
    /// Entries looked at so far.
    #[cfg(test)]
    pub(super) looked_at: std::cell::Cell<u64>,
}

impl DueConfirmations {
    /// `at` may not be before the one that was pushed last.
    pub(super) fn push(&mut self, at: Nanos, id: TransferId) {
        self.waiting.push_back((at, id));
    }

    /// The earliest, if its time has come.
    pub(super) fn pop(&mut self, now: Nanos) -> Option<(Nanos, TransferId)> {
        self.next().filter(|at| *at <= now)?;
        self.waiting.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Time of the earliest.
    pub(super) fn next(&self) -> Option<Nanos> {
        #[cfg(test)]
        self.looked_at.update(|count| count + 1);
        self.waiting.front().map(|(at, _)| *at)
    }
}
