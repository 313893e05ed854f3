//! Transfers at the gateway: offers taken or refused, files supplied in turns, ends.

use florelay_engine::Command;
use florelay_engine::api::{FailCode, Failure, TransferId, TransferMeta};
use florelay_engine::config::PeerId;

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
            let given_up =
                |reason| Some(Command::Cancel { id, failure: Failure::new(FailCode::SourceChanged, reason) });
            if let Some(command) = step.unwrap_or_else(given_up) {
                self.tell_worker(worker, ToWorker::Engine(command));
            }
        }
        most > 0
    }

    /// Write what was gathered, and say so: one write and one confirmation for a batch of packets.
    pub(super) fn write_out(&mut self) {
        for (worker, id) in std::mem::take(&mut self.touched) {
            let Some(file) = self.incoming.get_mut(&id) else { continue };
            let command = match file.flush() {
                Ok(()) => {
                    let offset = file.written();
                    self.transfers.confirmed(id, offset);
                    self.tell_worker(worker, ToWorker::Engine(Command::Written { id, offset }));
                    Command::Synced { id, offset }
                }
                Err(reason) => Command::Cancel { id, failure: Failure::new(FailCode::Storage, reason) },
            };
            self.tell_worker(worker, ToWorker::Engine(command));
        }
    }

    /// Open the partial file elsewhere: what is there already is hashed first, which may take long.
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
        // The opener lives as long as the gateway.
        let opening = Opening { inbox: self.plan.inbox.clone(), worker, from, id, meta, number };
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
                let offset = file.written();
                self.transfers.started(*id, from, meta, false);
                self.incoming.insert(*id, *file);
                Command::Accept { id: *id, offset }
            }
            Opened::Arrived => Command::Complete { id: *id, result: Ok(()) },
            Opened::Refused(reason) => Command::Cancel { id: *id, failure: Failure::new(FailCode::Refused, reason) },
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
            let _ = self.finisher.send(Slow::Hash(id, file));
            return;
        }
        if let Some(file) = self.incoming.remove(&id) {
            file.discard();
        }
        let digest = self.digests.remove(&id).or(sent).unwrap_or_default();
        self.transfers.ended(id, result.map(|()| digest));
    }

    /// The sender does not know the transfer any more: what has arrived is kept for a while, in case it is sent again.
    pub(super) fn shelved(&mut self, id: TransferId) {
        if let Some(opening) = self.opening.get_mut(&id) {
            opening.wanted = Wanted::Keep;
        }
        if let Some(mut file) = self.incoming.remove(&id)
            && let Err(error) = file.flush()
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
