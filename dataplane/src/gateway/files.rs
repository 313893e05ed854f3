//! Transfers at the gateway: offers taken or refused, files supplied in turns, ends.

use std::time::Instant;

use florelay_engine::Command;
use florelay_engine::api::{FailCode, Failure, TransferId, TransferMeta};
use florelay_engine::config::PeerId;
use florelay_spool::book::Progress;

use super::disk::{Open, Opened, Opening, Slow};
use super::outgoing::OutgoingFile;
use super::{Gateway, InOpener, Wanted, incoming};
use crate::ring::ToWorker;

/// Chunks of files read before requests and events have their turn: however many files are sent, a command waits for
/// 1 MiB to be read and hashed.
const SUPPLY_BATCH: usize = 16;

impl Gateway {
    /// Read the next chunk of some of the files that are ready, going round. Says whether there were any: a step that only
    /// hashed is work too.
    pub(super) fn supply(&mut self) -> bool {
        // One that is ready alone has two turns.
        let most = SUPPLY_BATCH.min(2 * self.turns.len());
        for turn in 0..most {
            // Back-pressure: a worker that does not keep up is not read for.
            let Some((worker, id)) = self.turns.next(|worker| self.backlog[worker].is_empty()) else {
                return turn > 0;
            };
            let Some(file) = self.outgoing.get_mut(&id) else {
                self.turns.set(worker, id, false);
                continue;
            };
            let step = file.step(&mut self.pieces);
            // What could not be read is given up; nothing more is read of it until the engine has heard.
            self.turns.set(worker, id, step.is_ok() && file.is_ready());
            let given_up = |failure| Some(Command::Cancel { id, failure });
            if let Some(command) = step.unwrap_or_else(given_up) {
                self.tell_worker(worker, ToWorker::Engine(command));
            }
        }
        most > 0
    }

    /// Write what was gathered, and say so: one write for a batch of packets. It is confirmed when it is synced.
    pub(super) fn write_out(&mut self) {
        for (worker, id) in std::mem::take(&mut self.touched) {
            let Some(file) = self.incoming.get_mut(&id) else { continue };
            let command = match file.flush() {
                Ok(()) => Command::Written { id, offset: file.written() },
                Err(failure) => Command::Cancel { id, failure },
            };
            self.tell_worker(worker, ToWorker::Engine(command));
        }
    }

    /// Have what was written synced, where it is time.
    pub(super) fn sync_files(&mut self, now: Instant) {
        for file in self.incoming.values_mut() {
            if let Some(syncing) = file.sync_due(now) {
                // The syncer lives as long as the gateway.
                let _ = self.syncer.send(syncing);
            }
        }
    }

    /// A partial file is on the disk so far: that goes into the book, so that a new start knows what it may believe.
    pub(super) fn file_synced(&mut self, id: TransferId, name: String, result: Result<Progress, Failure>) {
        if let Some(file) = self.incoming.get_mut(&id) {
            file.was_synced();
        }
        // It may have ended meanwhile.
        let Some(status) = self.transfers.running(id).filter(|status| !status.outgoing) else { return };
        match result {
            Ok(progress) => self.kept.partial_synced(&status.peer, id, (name, status.size), progress),
            Err(failure) => self.tell_transfer(id, Command::Cancel { id, failure }),
        }
    }

    /// The book has it, too: it is confirmed. Or it has a new order.
    pub(super) fn booked(&mut self, id: TransferId, offset: u64) {
        self.stream_booked(id);
        if self.transfers.running(id).is_some_and(|status| !status.outgoing) {
            self.transfers.confirmed(id, offset);
            self.tell_transfer(id, Command::Synced { id, offset });
        }
    }

    /// Open the partial file elsewhere: what lies behind its last sync is hashed again, which may take long.
    pub(super) fn offered(&mut self, worker: usize, peer: PeerId, id: TransferId, meta: TransferMeta) {
        let refusal = if self.finishing.contains(&id) {
            Some("the file is just being put into the inbox".to_owned())
        } else {
            incoming::unfit(&meta.name)
        };
        if let Some(reason) = refusal {
            let failure = Failure::new(FailCode::Refused, reason);
            self.tell_worker(worker, ToWorker::Engine(Command::Cancel { id, failure }));
            return;
        }
        let number = self.number();
        self.opening.insert(id, InOpener { number, wanted: Wanted::Accept, worker, peer });
        let from = self.plan.peers.get(usize::from(peer.0)).map_or_else(String::new, |peer| peer.name.clone());
        // Its partial file takes the place of another peer's with this id: that one is not believed any more.
        for other in self.plan.peers.iter().filter(|other| other.name != from) {
            self.kept.partial_lost(&other.name, id);
        }
        // The opener lives as long as the gateway.
        let known = self.kept.partial(&from, id);
        let opening = Opening { inbox: self.plan.inbox.clone(), worker, from, id, meta, known, number };
        let _ = self.opener.send(Open::Offered(Box::new(opening)));
    }

    pub(super) fn opened(&mut self, opening: &Opening, result: Opened) {
        let Opening { worker, from, id, meta, .. } = opening;
        match self.opening.get(id) {
            Some(InOpener { number, wanted, .. }) if *number == opening.number => {
                let wanted = *wanted;
                self.opening.remove(id);
                if wanted == Wanted::Keep {
                    return;
                }
            }
            // Offered again meanwhile: that one's answer counts.
            Some(_) => return,
            None => {
                // Given up meanwhile.
                let used = self.incoming.contains_key(id) || self.finishing.contains(id);
                if let Opened::File(file) = result
                    && !used
                {
                    file.discard();
                }
                return;
            }
        }
        let command = match result {
            Opened::File(file) => {
                let offset = file.synced();
                self.transfers.started(*id, from, meta, false);
                self.transfers.confirmed(*id, offset);
                self.kept.partial_opened(from, *id, file.progress());
                self.incoming.insert(*id, *file);
                Command::Accept { id: *id, offset }
            }
            Opened::Arrived => Command::Complete { id: *id, result: Ok(()) },
            Opened::Refused(failure) => Command::Cancel { id: *id, failure },
        };
        self.tell_worker(*worker, ToWorker::Engine(command));
    }

    pub(super) fn ended(&mut self, worker: usize, id: TransferId, result: Result<(), Failure>) {
        self.opening.remove(&id);
        let outgoing = self.outgoing.remove(&id);
        self.turns.set(worker, id, false);
        let sent = outgoing.as_ref().and_then(OutgoingFile::digest);
        if let Some(file) = outgoing.filter(|_| sent.is_none() && result.is_ok()) {
            // The receiver had it since an earlier run: it was not read to the end, and is not ended before that.
            let _ = self.finisher.send(Slow::Hash(id, Box::new(file)));
            return;
        }
        if let Some(file) = self.incoming.remove(&id) {
            match &result {
                Err(failure) if failure.code == FailCode::Storage => {
                    file.keep(self.kept.synced(self.transfers.peer_of(id).unwrap_or_default(), id));
                }
                _ => file.discard(),
            }
        }
        let digest = self.digests.remove(&id).or(sent).unwrap_or_default();
        self.transfers.ended(id, result.map(|()| digest));
    }

    /// An own file was hashed which its receiver had already, by an earlier order of its id. That one's bytes are what the
    /// receiver has; with others this order has sent nothing, and may not pass for done.
    pub(super) fn hashed(&mut self, id: TransferId, result: Result<[u8; 32], Failure>) {
        let before = self.transfers.known_end(id).filter(|end| matches!(end.ended, Some(Ok(_)))).cloned();
        match before {
            Some(before) if result.is_ok() && before.ended != result.clone().ok().map(Ok) => {
                let reason =
                    "the receiver has the file that had this id before, and this one is another; give another id";
                self.transfers.ended(id, Err(Failure::new(FailCode::SourceChanged, reason)));
                self.transfers.ended_before(before);
            }
            _ => self.transfers.ended(id, result),
        }
    }

    /// The sender does not know the transfer any more: what has arrived is kept for a while, in case it is sent again.
    pub(super) fn shelved(&mut self, id: TransferId) {
        if let Some(opening) = self.opening.get_mut(&id) {
            opening.wanted = Wanted::Keep;
        }
        if let Some(mut file) = self.incoming.remove(&id)
            && let Err(Failure { reason: error, .. }) = file.flush()
        {
            tracing::warn!(transfer = %uuid::Uuid::from_u128(id.0), error, "the last bytes are lost");
        }
        self.digests.remove(&id);
        let reason = "its sender was restarted and does not know it any more; what has arrived is kept for a week";
        self.transfers.ended(id, Err(Failure::new(FailCode::Forgotten, reason)));
    }

    pub(super) fn sweep(&mut self) {
        let known = self.incoming.keys().chain(self.opening.keys()).chain(&self.finishing);
        // The opener lives as long as the gateway.
        let _ = self.opener.send(Open::Sweep(self.plan.inbox.clone(), known.copied().collect()));
    }
}
