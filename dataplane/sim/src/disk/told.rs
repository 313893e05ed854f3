//! What people and programs were told of a transfer. They outlive nodes, and hold them to it.

use florelay_engine::api::{FailCode, Failure, TransferId};

/// What was told of one transfer at one end.
#[derive(Debug, Default)]
pub struct Told {
    confirmed: u64,
    accepted: u64,
    ended: Option<Result<(), Failure>>,
    /// Its end was told to somebody, and the node was gone before the book had it.
    again: u64,
}

impl Told {
    /// Everything below is with the receiver for good.
    pub(super) fn confirm(&mut self, offset: u64) {
        self.confirmed = self.confirmed.max(offset);
    }

    /// Everything below will not be lost.
    pub(super) fn accept(&mut self, id: TransferId, offset: u64) {
        assert!(offset >= self.accepted, "{id:?}: accepted fell from {} to {offset}", self.accepted);
        self.accepted = offset;
    }

    /// It has ended.
    pub(super) fn end(&mut self, id: TransferId, result: Result<(), Failure>) {
        match &self.ended {
            // What its sender had forgotten came again.
            Some(Err(Failure { code: FailCode::Forgotten, .. })) | None => {}
            Some(before) if self.again > 0 => {
                // Who has failed and was gone before the other end heard of it may be offered it again.
                assert!(before.is_err() || result.is_ok(), "{id:?} ends {result:?} after {before:?}");
            }
            Some(before) => panic!("{id:?}: a second end: {result:?} after {before:?}"),
        }
        self.ended = Some(result);
        self.again = 0;
    }

    /// The node has started again and does not know of its end.
    pub(super) fn comes_again(&mut self) {
        self.again += 1;
    }

    /// First byte that was not said to be confirmed.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// First byte that was not said to be accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn result(&self) -> Option<&Result<(), Failure>> {
        self.ended.as_ref()
    }
}
