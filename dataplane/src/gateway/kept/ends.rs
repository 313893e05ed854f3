//! How transfers end, in the book: what has ended, and of what this node has ended itself, whether its peer knows.
//!
//! An end is one commit with all that goes with it. Who asked for it is answered after that; a peer that has given a transfer up
//! hears after that, too, and then forgets it.

use std::os::unix::ffi::OsStringExt as _;

use florelay_engine::Command;
use florelay_engine::api::{FailCode, Failure, TransferId, TransferMeta};
use florelay_engine::config::PeerId;
use florelay_spool::book::{Change, EndedTransfer};

use super::super::{Gateway, Input, Replies, peer_index};
use crate::ipc::{TransferKind, TransferStatus};

impl Gateway {
    /// What has ended goes to the past.
    pub(in super::super) fn book_ends(&mut self) {
        for status in self.transfers.take_ended() {
            let id = TransferId(status.id);
            let mut changes = Vec::new();
            if status.outgoing {
                self.kept.own.remove(&id);
                self.kept.unsupplied.remove(&id);
                changes.push(Change::OwnGone(id.0));
            } else if !keeps_partial(&status) {
                changes.extend(self.kept.partial_gone(&status.peer, id));
            }
            let given_up = self.kept.given_up.remove(&id);
            let end = end_of(&status);
            let by_peer = !given_up && end.failed.is_some();
            changes.push(if given_up { Change::GaveUp(end) } else { Change::Ended(end) });
            let own = status.outgoing;
            let then = (own || by_peer).then_some(Input::EndBooked { peer: status.peer, id, own, tell: by_peer });
            let asked = self.kept.cancelling.remove(&id).unwrap_or_default();
            self.kept.keeper.note_asked(changes, then, asked);
        }
    }

    /// A stream's reader has all of it. That is in the book before its sender hears: nobody may be there to read it again.
    pub(in super::super) fn book_taken(&mut self, id: TransferId, size: u64, digest: [u8; 32]) {
        let Some(status) = self.transfers.running(id) else { return };
        let end = EndedTransfer { size, digest: Some(digest), ..end_of(status) };
        self.kept.keeper.note_then(Change::Ended(end), Input::Taken(id));
    }

    /// Whether an offered stream is one that was read to its end here.
    pub(in super::super) fn was_taken(&self, peer: PeerId, id: TransferId, meta: &TransferMeta) -> bool {
        let from = self.plan.peers.get(usize::from(peer.0)).map(|peer| peer.name.as_str());
        self.transfers.known_end(id).is_some_and(|end| {
            !end.outgoing
                && end.kind == TransferKind::Stream
                && matches!(end.ended, Some(Ok(_)))
                && (Some(end.peer.as_str()), &end.name) == (from, &meta.name)
                && (meta.declared.is_none() || meta.declared == end.size)
        })
    }

    /// Somebody has asked for the end of a transfer.
    pub(in super::super) fn asked_to_end(&mut self, id: TransferId, tag: u64, replies: &Replies) {
        self.kept.cancelling.entry(id).or_default().push((tag, replies.clone()));
    }

    /// Its engine has given a transfer up, and the end of it follows.
    pub(in super::super) fn given_up(&mut self, id: TransferId) {
        if self.transfers.is_running(id) {
            self.kept.given_up.insert(id);
        }
    }

    /// The peer knows of an end.
    pub(in super::super) fn end_heard(&mut self, peer: PeerId, id: TransferId, own: bool) {
        let Some(peer) = self.plan.peers.get(usize::from(peer.0)) else { return };
        // Of what was refused, and never ran here, the book has nothing.
        let known = |end: &TransferStatus| (end.peer.as_str(), end.outgoing) == (&peer.name, own);
        if self.transfers.known_end(id).is_some_and(known) {
            self.kept.given_up.remove(&id);
            self.kept.keeper.note(Change::Heard(peer.name.clone(), own, id.0));
        }
    }

    /// The book has the end of a transfer. Before, a start would take an own stream without segments for one that has lost its bytes.
    pub(in super::super) fn end_booked(&mut self, peer: &str, id: TransferId, own: bool, tell: bool) {
        if own {
            self.streams.forget_segments(id);
        }
        if tell && let Some(peer) = peer_index(&self.plan, peer) {
            self.tell_peer(peer, Command::EndKept { peer, id });
        }
    }

    /// What ended before this start by this node, and peers may not have heard of. To be said before what goes on.
    pub(in super::super) fn recover_ends(&mut self, unheard: Vec<EndedTransfer>) {
        for EndedTransfer { peer, id, outgoing: own, failed, .. } in unheard {
            if let (Some(peer), Some((code, reason))) = (peer_index(&self.plan, &peer), failed) {
                let (id, failure) = (TransferId(id), Failure::new(FailCode::from_number(code), reason));
                self.tell_peer(peer, Command::GaveUp { peer, id, own, failure });
            }
        }
    }
}

/// What has arrived stays, for the same transfer sent again.
fn keeps_partial(status: &TransferStatus) -> bool {
    let code = status.ended.as_ref().and_then(|ended| ended.as_ref().err()).map(|failure| failure.code);
    matches!(code, Some(FailCode::Forgotten | FailCode::Storage))
}

fn end_of(status: &TransferStatus) -> EndedTransfer {
    let failed = |ended: &Result<[u8; 32], Failure>| {
        let failure = ended.as_ref().err()?;
        Some((failure.code.number(), failure.reason.clone()))
    };
    EndedTransfer {
        id: status.id,
        peer: status.peer.clone(),
        name: status.name.clone(),
        outgoing: status.outgoing,
        stream: status.kind == TransferKind::Stream,
        size: status.size.unwrap_or(status.confirmed),
        digest: status.ended.as_ref().and_then(|ended| ended.as_ref().ok().copied()),
        failed: status.ended.as_ref().and_then(failed),
        path: status.path.clone().map(String::into_bytes),
        ended_unix_ns: crate::wall::now_unix_ns(),
    }
}

/// A transfer of the past as its status.
pub(in super::super) fn status_of(end: &EndedTransfer) -> TransferStatus {
    let ended = match (&end.failed, end.digest) {
        (Some((code, reason)), _) => Err(Failure::new(FailCode::from_number(*code), reason.clone())),
        (None, digest) => Ok(digest.unwrap_or_default()),
    };
    TransferStatus {
        id: end.id,
        peer: end.peer.clone(),
        name: end.name.clone(),
        outgoing: end.outgoing,
        kind: if end.stream { TransferKind::Stream } else { TransferKind::File },
        size: Some(end.size),
        confirmed: if ended.is_ok() { end.size } else { 0 },
        path: end.path.clone().and_then(|path| std::ffi::OsString::from_vec(path).into_string().ok()),
        ended: Some(ended),
        ..TransferStatus::default()
    }
}
