//! Files that a node receives: opened again, written, synced, booked, confirmed; verified, recorded, put into the inbox.

use std::path::PathBuf;
use std::sync::Arc;

use florelay_engine::api::{Command, Event, FailCode, Failure, TransferId, TransferMeta};
use florelay_engine::time::Nanos;
use florelay_spool::arriving::Arriving;
use florelay_spool::book::{Change, EndedTransfer, IncomingTransfer, Progress};
use florelay_spool::partial::PartialError;

use super::DiskGateway;
use super::keeping::{PEER_NAME, Then, ended, incoming};
use crate::gateway::content;

/// What partial files' names begin with; the rest is the id.
pub(super) const PARTIAL_PREFIX: &str = "inbox/.";
/// Times that a book which refuses is asked before a resumed file is given up.
const BOOK_ATTEMPTS: u32 = 3;

/// An offer on its way through the opener.
#[derive(Debug)]
pub(super) struct Offer {
    id: TransferId,
    number: u64,
    known: Option<Progress>,
    attempts: u32,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Opened {
    File(Box<Arriving>),
    Arrived,
    Refused(Failure),
}

/// A file on its way through the finisher.
#[derive(Debug)]
pub(super) struct Finishing {
    id: TransferId,
    file: Arriving,
    size: u64,
    digest: [u8; 32],
    /// It could not be put into the inbox, and the book is to hear so.
    undone: Option<Failure>,
}

fn partial_path(id: TransferId) -> PathBuf {
    format!("{PARTIAL_PREFIX}{:032x}", id.0).into()
}

/// Name of a received file.
fn name_of(id: TransferId) -> String {
    format!("{:x}.bin", id.0)
}

impl DiskGateway {
    /// What the book has of the past: what was received, and what was on its way.
    pub(super) fn recall(&mut self, now: Nanos, incoming: Vec<IncomingTransfer>, past: &[EndedTransfer]) {
        for end in past.iter().filter(|end| !end.outgoing && end.digest.is_some()) {
            let id = TransferId(end.id);
            if self.inbox.content(&partial_path(id)).is_some() {
                // The rename did not happen.
                self.note(now, Change::NotEnded(PEER_NAME.into(), false, end.id), Then::Nobody);
                continue;
            }
            if let Some(process) = &mut self.process {
                process.arrived.insert(id);
            }
            let told = self.received.entry(id).or_default();
            if told.result() != Some(&Ok(())) {
                told.end(id, Ok(()));
            }
        }
        for IncomingTransfer { id, progress, .. } in incoming {
            let id = TransferId(id);
            if self.inbox.content(&partial_path(id)).is_none() {
                self.note(now, Change::IncomingGone(PEER_NAME.into(), id.0), Then::Nobody);
            } else if let Some(process) = &mut self.process {
                process.partials.insert(id, progress);
            }
        }
    }

    pub(super) fn receiving_event(&mut self, now: Nanos, id: TransferId, event: &Event, commands: &mut Vec<Command>) {
        match event {
            Event::Offered { meta, .. } => self.offered(now, id, meta, commands),
            Event::Data { offset, data, .. } => {
                let Some(process) = &mut self.process else { return };
                let Some(file) = process.incoming.get_mut(&id) else { return };
                assert!(*data == content(id, *offset, data.len()), "{id:?}: wrong bytes at {offset}");
                process.touched.insert(id);
                match file.write(*offset, data) {
                    Ok(()) => {}
                    Err(error @ PartialError::Order { .. }) => panic!("{id:?}: {error}"),
                    Err(error) => self.give_up(id, error.failure(), commands),
                }
            }
            Event::DataEnd { size, digest, .. } => {
                self.write_out(commands);
                let delay = self.delay();
                let Some(process) = &mut self.process else { return };
                if let Some(file) = process.incoming.remove(&id) {
                    process.digests.insert(id, *digest);
                    process.finishing.push_back(Finishing { id, file, size: *size, digest: *digest, undone: None });
                    process.finisher_due.get_or_insert(now + delay);
                }
            }
            Event::TransferShelved { .. } => {
                let Some(process) = &mut self.process else { return };
                process.opening.entry(id).and_modify(|(_, keep)| *keep = true);
                if let Some(mut file) = process.incoming.remove(&id) {
                    let _ = file.flush();
                }
                self.incoming_ended(now, id, &Err(Failure::new(FailCode::Forgotten, "forgotten")));
            }
            Event::TransferEnded { result, .. } => {
                let Some(process) = &mut self.process else { return };
                process.opening.remove(&id);
                if let Some(file) = process.incoming.remove(&id) {
                    let _ = file.remove();
                }
                self.incoming_ended(now, id, result);
            }
            _ => {}
        }
    }

    fn incoming_ended(&mut self, now: Nanos, id: TransferId, result: &Result<(), Failure>) {
        let Some(process) = &mut self.process else { return };
        let digest = process.digests.remove(&id);
        if !process.receiving.remove(&id) {
            return;
        }
        let forgotten = result.as_ref().is_err_and(|failure| failure.code == FailCode::Forgotten);
        let gone = !forgotten && process.partials.remove(&id).is_some();
        self.received.entry(id).or_default().end(id, result.clone());
        if gone {
            self.note(now, Change::IncomingGone(PEER_NAME.into(), id.0), Then::Nobody);
        }
        self.note_end(now, id, false, digest, result);
    }

    fn give_up(&mut self, id: TransferId, failure: Failure, commands: &mut Vec<Command>) {
        commands.push(Command::Cancel { id, failure });
    }

    fn offered(&mut self, now: Nanos, id: TransferId, meta: &TransferMeta, commands: &mut Vec<Command>) {
        assert_eq!(meta.name, name_of(id));
        let told = self.received.entry(id).or_default();
        if told.result().is_some() {
            told.comes_again();
        }
        let delay = self.delay();
        let Some(process) = &mut self.process else { return };
        let finishing = process.finishing.iter().chain(&process.placing).any(|finishing| finishing.id == id);
        if finishing {
            return self.give_up(id, Failure::new(FailCode::Refused, "it is just being put into the inbox"), commands);
        }
        process.next_offer += 1;
        let (number, known) = (process.next_offer, process.partials.get(&id).cloned());
        process.opening.insert(id, (number, false));
        process.offers.push_back(Offer { id, number, known, attempts: 0 });
        process.opener_due.get_or_insert(now + delay);
    }

    /// The opener takes the next offer.
    pub(super) fn open(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let boot = self.boot.to_string();
        let Some(process) = &mut self.process else { return };
        if process.opened.is_some() {
            return;
        }
        let Some(offer) = process.offers.pop_front() else { return };
        let id = offer.id;
        let result = if process.arrived.contains(&id) {
            Opened::Arrived
        } else {
            let inbox = Arc::new(self.inbox.clone());
            let opened = Arriving::open(inbox, partial_path(id), offer.known.as_ref(), &boot)
                .and_then(|mut file| file.settle().map(|progress| (file, progress)));
            match opened {
                Ok((file, None)) => Opened::File(Box::new(file)),
                // What is accepted is confirmed: a new start must know of it.
                Ok((file, Some(progress))) => {
                    process.opened = Some((offer, Opened::File(Box::new(file))));
                    return self.note(now, incoming(id, progress), Then::Opener);
                }
                Err(error) => Opened::Refused(error.failure()),
            }
        };
        process.opened = Some((offer, result));
        self.opened(now, true, commands);
    }

    /// The opener is through with an offer, unless the book refuses it.
    pub(super) fn opened(&mut self, now: Nanos, kept: bool, commands: &mut Vec<Command>) {
        let delay = self.delay();
        let Some(process) = &mut self.process else { return };
        let Some((mut offer, mut result)) = process.opened.take() else { return };
        let id = offer.id;
        if !process.offers.is_empty() {
            process.opener_due.get_or_insert(now + delay);
        }
        if !kept && let Opened::File(file) = &result {
            offer.attempts += 1;
            if offer.attempts < BOOK_ATTEMPTS {
                let progress = file.progress();
                process.opened = Some((offer, result));
                return self.note(now, incoming(id, progress), Then::Opener);
            }
            self.inbox_failed = true;
            result = Opened::Refused(Failure::new(FailCode::Storage, "the book cannot be written"));
        }
        match process.opening.get(&id).copied() {
            Some((number, keep)) if number == offer.number => {
                process.opening.remove(&id);
                if keep {
                    return;
                }
            }
            // Offered again meanwhile: that one's answer counts.
            Some(_) => return,
            None => {
                let used = process.incoming.contains_key(&id)
                    || process.finishing.iter().chain(&process.placing).any(|finishing| finishing.id == id);
                if let (Opened::File(file), false) = (result, used) {
                    let _ = file.remove();
                }
                return;
            }
        }
        commands.push(match result {
            Opened::File(file) => {
                let offset = file.synced();
                assert_eq!(offset, file.written(), "{id:?}");
                if offset > 0 {
                    process.partials.insert(id, file.progress());
                }
                process.receiving.insert(id);
                process.incoming.insert(id, *file);
                Command::Accept { id, offset }
            }
            Opened::Arrived => Command::Complete { id, result: Ok(()) },
            Opened::Refused(failure) => Command::Cancel { id, failure },
        });
    }

    /// Write what was gathered, and say so.
    pub(super) fn write_out(&mut self, commands: &mut Vec<Command>) {
        let Some(process) = &mut self.process else { return };
        for id in std::mem::take(&mut process.touched) {
            let Some(file) = process.incoming.get_mut(&id) else { continue };
            commands.push(match file.flush() {
                Ok(()) => Command::Written { id, offset: file.written() },
                Err(error) => Command::Cancel { id, failure: error.failure() },
            });
        }
    }

    /// The syncer syncs the next file.
    pub(super) fn sync(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let delay = self.delay();
        let Some(process) = &mut self.process else { return };
        let Some((id, syncing)) = process.syncs.pop_front() else { return };
        if !process.syncs.is_empty() {
            process.syncer_due = Some(now + delay);
        }
        let result = syncing.sync();
        if let Some(file) = process.incoming.get_mut(&id) {
            file.was_synced();
        }
        // It may have ended meanwhile.
        if !process.receiving.contains(&id) {
            return;
        }
        match result {
            Ok(progress) => {
                let offset = progress.synced;
                process.partials.insert(id, progress.clone());
                self.note(now, incoming(id, progress), Then::Synced(id, offset));
            }
            Err(error) => self.give_up(id, error.failure(), commands),
        }
    }

    /// The book has it, too: it is confirmed. Or it has a new order.
    pub(super) fn booked(&mut self, id: TransferId, offset: u64, commands: &mut Vec<Command>) {
        self.own_booked(id);
        if self.process.as_ref().is_some_and(|process| process.receiving.contains(&id)) {
            commands.push(Command::Synced { id, offset });
        }
    }

    /// The finisher takes the next file.
    pub(super) fn finish(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let Some(process) = &mut self.process else { return };
        if process.placing.is_some() {
            return;
        }
        let Some(mut finishing) = process.finishing.pop_front() else { return };
        let (id, digest) = (finishing.id, finishing.digest);
        match finishing.file.verify(finishing.size, &digest) {
            Ok(()) => {
                process.placing = Some(finishing);
                let end = ended(id, false, Some(digest), &Ok(()));
                self.note(now, Change::Ended(end), Then::Finisher);
            }
            Err(error) => {
                let _ = finishing.file.remove();
                self.finished(now, id, Err(error.failure()), commands);
            }
        }
    }

    /// The book has the arrival, or refuses it: that is no reason to refuse the file.
    pub(super) fn recorded(&mut self, now: Nanos, kept: bool, commands: &mut Vec<Command>) {
        let Some(process) = &mut self.process else { return };
        let Some(finishing) = process.placing.take() else { return };
        let id = finishing.id;
        if let Some(failure) = &finishing.undone {
            // Until the book has that it did not arrive, the partial file says so.
            if kept {
                let _ = finishing.file.remove();
            }
            return self.finished(now, id, Err(failure.clone()), commands);
        }
        if !kept {
            self.unrecorded.insert(id);
        }
        process.arrived.insert(id);
        match finishing.file.place(&name_of(id)) {
            Ok(path) => {
                let right = self.inbox.content(&path) == Some(content(id, 0, finishing.size as usize));
                assert!(right || self.inbox.is_dead(), "{id:?}: another file is in the inbox");
                self.finished(now, id, Ok(()), commands);
            }
            Err(error) => {
                process.arrived.remove(&id);
                process.placing = Some(Finishing { undone: Some(error.failure()), ..finishing });
                self.note(now, Change::NotEnded(PEER_NAME.into(), false, id.0), Then::Finisher);
            }
        }
    }

    fn finished(&mut self, now: Nanos, id: TransferId, result: Result<(), Failure>, commands: &mut Vec<Command>) {
        let delay = self.delay();
        let Some(process) = &mut self.process else { return };
        if !process.finishing.is_empty() {
            process.finisher_due.get_or_insert(now + delay);
        }
        commands.push(Command::Complete { id, result });
    }

    /// What is in the inbox of a received file: each copy's bytes. Partial files are not looked at.
    #[must_use]
    pub fn copies(&self, id: TransferId) -> Vec<Vec<u8>> {
        let stem = format!("inbox/{}", name_of(id));
        let names = self.inbox.names().into_iter().filter(|path| path.to_string_lossy().starts_with(&stem));
        names.filter_map(|path| self.inbox.content(&path)).collect()
    }
}
