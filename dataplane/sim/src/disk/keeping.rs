//! The book's thread, as the dataplane's: one commit for what came meanwhile, and again after a second where the disk refuses.

use std::time::Duration;

use florelay_engine::api::{Command, Failure, TransferId};
use florelay_engine::time::Nanos;
use florelay_spool::book::{Change, EndedTransfer, IncomingTransfer, OwnTransfer, Progress};

use super::DiskGateway;
use super::sending::SpoolOrder;

/// The peer's name in the book.
pub(super) const PEER_NAME: &str = "peer";
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Who hears that a change is on the disk.
#[derive(Debug)]
pub(super) enum Then {
    Nobody,
    /// So much of an incoming file is synced, and the book knows; or it knows of an own transfer.
    Synced(TransferId, u64),
    /// The book has forgotten an own transfer: its segments may go.
    Gone(TransferId),
    /// The opener and the finisher wait for it.
    Opener,
    Finisher,
}

impl DiskGateway {
    pub(super) fn note(&mut self, now: Nanos, change: Change, then: Then) {
        let delay = self.delay();
        let Some(process) = &mut self.process else { return };
        process.changes.push((change, then));
        process.book_due.get_or_insert(now + delay);
    }

    pub(super) fn commit(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let Some(process) = &mut self.process else { return };
        let (changes, then): (Vec<Change>, Vec<Then>) = std::mem::take(&mut process.changes).into_iter().unzip();
        process.waiting.extend(then);
        let kept = process.book.apply(&changes).is_ok();
        process.book_due = (!kept).then_some(now + RETRY_INTERVAL);
        let mut patient = Vec::new();
        for then in std::mem::take(&mut process.waiting) {
            match then {
                Then::Nobody => {}
                Then::Synced(id, offset) if kept => self.booked(id, offset, commands),
                Then::Gone(id) if kept => {
                    if self.process.as_ref().is_some_and(|process| !process.sending.contains_key(&id)) {
                        self.spool(now, SpoolOrder::Remove(id));
                    }
                }
                Then::Synced(..) | Then::Gone(..) => patient.push(then),
                Then::Opener => self.opened(now, kept, commands),
                Then::Finisher => self.recorded(now, kept, commands),
            }
        }
        if let Some(process) = &mut self.process {
            process.waiting = patient;
        }
    }

    /// An own transfer, as the book has it, is another.
    pub(super) fn change_own(&mut self, now: Nanos, id: TransferId, change: impl FnOnce(&mut OwnTransfer)) {
        let Some(own) = self.process.as_mut().and_then(|process| process.own.get_mut(&id)) else { return };
        change(own);
        let own = own.clone();
        self.note(now, Change::Own(own), Then::Nobody);
    }

    pub(super) fn note_end(
        &mut self,
        now: Nanos,
        id: TransferId,
        outgoing: bool,
        digest: Option<[u8; 32]>,
        result: &Result<(), Failure>,
    ) {
        let ended = ended(id, outgoing, digest, result);
        self.note(now, Change::Ended(ended), Then::Nobody);
    }
}

pub(super) fn ended(
    id: TransferId,
    outgoing: bool,
    digest: Option<[u8; 32]>,
    result: &Result<(), Failure>,
) -> EndedTransfer {
    EndedTransfer {
        id: id.0,
        peer: PEER_NAME.into(),
        name: String::new(),
        outgoing,
        stream: false,
        size: 0,
        digest: digest.filter(|_| result.is_ok()),
        failed: result.as_ref().err().map(|failure| (failure.code.number(), failure.reason.clone())),
        path: None,
        ended_unix_ns: 0,
    }
}

pub(super) fn incoming(id: TransferId, progress: Progress) -> Change {
    let (peer, name) = (PEER_NAME.to_owned(), String::new());
    Change::Incoming(IncomingTransfer { id: id.0, peer, name, size: None, progress })
}
