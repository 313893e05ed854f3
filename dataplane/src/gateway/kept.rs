//! What the book has of this node's transfers, and what a start makes of it.
//!
//! Own transfers are in it from their order to their end, with what a new start needs: where the file is and which it was, its
//! hash as far as it was read, what was confirmed. That changes with every packet, and is written each 16 MiB: a start reads that
//! much again.

mod ends;

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use florelay_engine::Event;
use florelay_engine::api::{FailCode, Failure, Kept as KeptOfEngine, TransferId, TransferMeta};
use florelay_engine::config::PeerId;
use florelay_spool::book::{Change, IncomingTransfer, OwnTransfer, Progress, Source};
use uuid::Uuid;

pub(super) use self::ends::status_of;
use super::book::Keeper;
use super::outgoing::OutgoingFile;
use super::{Gateway, Input, Replies, peer_index, peer_worker};
use crate::ipc::TransferState;

/// Confirmed or hashed bytes after which the book is told.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Partial files by sender and id.
type Partials = HashMap<(String, TransferId), Progress>;

/// The gateway's side of the book.
pub(super) struct Kept {
    keeper: Keeper,
    own: HashMap<TransferId, OwnTransfer>,
    partials: Partials,
    /// What engines said of files that were not found: the place, and how far.
    unsupplied: HashMap<TransferId, Vec<Event>>,
    /// Their engines have given these up, and are about to say the end.
    given_up: HashSet<TransferId>,
    /// Who has asked for the end of a transfer, and hears when the book has it.
    cancelling: HashMap<TransferId, Vec<(u64, Replies)>>,
    orders: u64,
}

impl Kept {
    pub(super) fn new(keeper: Keeper, incoming: Vec<IncomingTransfer>, inbox: &Path) -> Self {
        let mut partials = Partials::new();
        for IncomingTransfer { id, peer, progress, .. } in incoming {
            // Removed by somebody, or put into the inbox just before the end.
            if super::incoming::partial_path(inbox, TransferId(id)).exists() {
                partials.insert((peer, TransferId(id)), progress);
            } else {
                keeper.note(Change::IncomingGone(peer, id));
            }
        }
        Self {
            keeper,
            own: HashMap::new(),
            partials,
            unsupplied: HashMap::new(),
            given_up: HashSet::new(),
            cancelling: HashMap::new(),
            orders: 0,
        }
    }

    /// The engine wants bytes of a file that is not here: when it is, it is told.
    pub(super) fn supply_later(&mut self, id: TransferId, event: Event) {
        if !self.own.contains_key(&id) {
            return;
        }
        let events = self.unsupplied.entry(id).or_default();
        match event {
            Event::SupplyFrom { .. } => *events = vec![event],
            _ => {
                events.truncate(1);
                events.push(event);
            }
        }
    }

    /// What is synced of a partial file.
    pub(super) fn partial(&self, peer: &str, id: TransferId) -> Option<Progress> {
        self.partials.get(&(peer.to_owned(), id)).cloned()
    }

    /// Bytes of a partial file that are on the disk, as the book says.
    pub(super) fn synced(&self, peer: &str, id: TransferId) -> u64 {
        self.partials.get(&(peer.to_owned(), id)).map_or(0, |progress| progress.synced)
    }

    /// A partial file was synced so far; `Input::Synced` follows when the book has it.
    pub(super) fn partial_synced(
        &mut self,
        peer: &str,
        id: TransferId,
        meta: (String, Option<u64>),
        progress: Progress,
    ) {
        let offset = progress.synced;
        self.partials.insert((peer.to_owned(), id), progress.clone());
        let (name, size) = meta;
        let transfer = IncomingTransfer { id: id.0, peer: peer.to_owned(), name, size, progress };
        self.keeper.note_then(Change::Incoming(transfer), Input::Synced(id, offset));
    }

    /// A partial file was opened, and is synced as far as this.
    pub(super) fn partial_opened(&mut self, peer: &str, id: TransferId, progress: Progress) {
        if progress.synced > 0 {
            self.partials.insert((peer.to_owned(), id), progress);
        }
    }

    /// Wait until the book has what it was told, and is closed.
    pub(super) fn close(&self) {
        self.keeper.close();
    }

    /// Its file is about to be another's.
    pub(super) fn partial_lost(&mut self, peer: &str, id: TransferId) {
        self.partial_gone(peer, id).into_iter().for_each(|change| self.keeper.note(change));
    }

    fn partial_gone(&mut self, peer: &str, id: TransferId) -> Option<Change> {
        self.partials.remove(&(peer.to_owned(), id)).map(|_| Change::IncomingGone(peer.to_owned(), id.0))
    }

    /// `Input::Synced` follows when the book has it.
    fn put(&mut self, transfer: OwnTransfer) {
        let id = TransferId(transfer.id);
        self.keeper.note_then(Change::Own(transfer.clone()), Input::Synced(id, 0));
        self.own.insert(id, transfer);
    }

    fn change(&mut self, id: TransferId, change: impl FnOnce(&mut OwnTransfer)) {
        if let Some(transfer) = self.own.get_mut(&id) {
            change(transfer);
            self.keeper.note(Change::Own(transfer.clone()));
        }
    }

    /// Its engine knows of it.
    pub(super) fn begun(&mut self, id: TransferId) {
        self.change(id, |transfer| transfer.begun = true);
    }

    pub(super) fn held(&mut self, id: TransferId, held: bool) {
        self.change(id, |transfer| transfer.held = held);
    }

    pub(super) fn is_held(&self, id: TransferId) -> bool {
        self.own.get(&id).is_some_and(|transfer| transfer.held)
    }

    pub(super) fn priority(&mut self, id: TransferId, priority: u8) {
        self.change(id, |transfer| transfer.priority = priority);
    }

    /// A stream's writer has said its end; `Input::Synced` follows when the book has it.
    pub(super) fn stream_end(&mut self, id: TransferId, size: u64, digest: [u8; 32]) {
        if let Some(transfer) = self.own.get_mut(&id)
            && let Source::Stream { end, .. } = &mut transfer.source
        {
            *end = Some((size, digest));
            self.keeper.note_then(Change::Own(transfer.clone()), Input::Synced(id, 0));
        }
    }

    /// Size and BLAKE3 of a stream whose end was said.
    pub(super) fn end_of_stream(&self, id: TransferId) -> Option<(u64, [u8; 32])> {
        match self.own.get(&id)?.source {
            Source::Stream { end, .. } => end,
            Source::File { .. } => None,
        }
    }

    /// The receiver has confirmed so much; `hash` is what is known of the file by now.
    pub(super) fn confirmed(&mut self, id: TransferId, offset: u64, file: Option<&OutgoingFile>) {
        let Some(transfer) = self.own.get_mut(&id) else { return };
        let mut due = offset >= transfer.confirmed.saturating_add(PROGRESS_BYTES);
        if let (Source::File { hash, .. }, Some(file)) = (&mut transfer.source, file)
            && (due || file.hashed() >= hash.offset().saturating_add(PROGRESS_BYTES))
        {
            *hash = file.state();
            due = true;
        }
        if due {
            transfer.confirmed = offset.max(transfer.confirmed);
            self.keeper.note(Change::Own(transfer.clone()));
        }
    }
}

impl Gateway {
    /// A new own transfer goes into the book.
    pub(super) fn book_order(&mut self, id: TransferId, source: Source) {
        let Some(status) = self.transfers.running(id) else { return };
        // What was said of its id before is not said again: it would be taken for this one's end.
        if self.transfers.known_end(id).is_some() {
            self.kept.keeper.note(Change::Heard(status.peer.clone(), true, id.0));
        }
        self.kept.orders += 1;
        let transfer = OwnTransfer {
            id: id.0,
            peer: status.peer.clone(),
            name: status.name.clone(),
            source,
            size: status.size.or(status.declared),
            priority: status.priority,
            attributes: status.attributes.clone(),
            deadline_unix_ns: status.deadline_unix_ns,
            started_unix_ns: crate::wall::now_unix_ns(),
            held: false,
            begun: false,
            order: self.kept.orders,
            confirmed: 0,
        };
        self.kept.put(transfer);
    }

    /// Everything that was under way when the dataplane ended goes on.
    pub(super) fn recover(&mut self, own: Vec<OwnTransfer>) {
        let mut peers = Vec::new();
        for transfer in own {
            let id = TransferId(transfer.id);
            self.kept.orders = self.kept.orders.max(transfer.order);
            let Some(peer) = peer_index(&self.plan, &transfer.peer) else {
                let failure = Failure::new(FailCode::LostPlace, "this node has no such peer any more");
                self.forget_order(&transfer, failure);
                continue;
            };
            match self.bring_back(peer, id, &transfer) {
                Ok((state, kept)) => {
                    self.kept.own.insert(id, transfer.clone());
                    self.restore(peer, &transfer, kept, state);
                    peers.push(peer);
                }
                Err(failure) => self.forget_order(&transfer, failure),
            }
        }
        for peer in peers {
            self.begin_next(peer);
        }
        self.show_accepted();
        self.settle();
    }

    /// The source of a transfer as it was; the state that it is in, if it has to wait for somebody.
    fn bring_back(
        &mut self,
        peer: PeerId,
        id: TransferId,
        transfer: &OwnTransfer,
    ) -> Result<(Option<TransferState>, KeptOfEngine), Failure> {
        match &transfer.source {
            Source::File { path, identity, hash } => {
                let opened = match path {
                    Some(path) => {
                        OutgoingFile::reopen(id, Path::new(std::ffi::OsStr::from_bytes(path)), identity, hash)
                    }
                    None => Err("its path is not known".to_owned()),
                };
                let state = match opened {
                    Ok(file) => {
                        self.outgoing.insert(id, file);
                        None
                    }
                    Err(reason) => Some(TransferState::NoFile(reason)),
                };
                Ok((state, KeptOfEngine { confirmed: transfer.confirmed, head: identity.size }))
            }
            Source::Stream { end, linger_ns } => {
                let (confirmed, head) =
                    self.recover_stream(peer, id, transfer.confirmed, transfer.size, *end, *linger_ns)?;
                Ok((None, KeptOfEngine { confirmed: confirmed.min(head), head }))
            }
        }
    }

    fn forget_order(&mut self, transfer: &OwnTransfer, failure: Failure) {
        let id = TransferId(transfer.id);
        tracing::error!(transfer = %Uuid::from_u128(id.0), peer = transfer.peer, reason = failure.reason, "transfer cannot go on");
        self.transfers.started(id, &transfer.peer, &meta_of(transfer), true);
        self.transfers.ended(id, Err(failure));
    }

    /// Whether this is a file that was not found after a restart.
    pub(super) fn lacks_file(&self, id: TransferId) -> bool {
        self.transfers.running(id).is_some_and(|status| matches!(status.state, TransferState::NoFile(_)))
            && !self.outgoing.contains_key(&id)
    }

    /// The same order again for a transfer whose file was not found: it goes on with this one.
    pub(super) fn give_back(
        &mut self,
        id: TransferId,
        peer: PeerId,
        file: std::fs::File,
        path: Option<PathBuf>,
    ) -> Result<(), String> {
        let Some(Source::File { identity, hash, .. }) = self.kept.own.get(&id).map(|own| own.source.clone()) else {
            return Ok(());
        };
        let mut file = OutgoingFile::resume_or_begin(id, file, &identity, &hash)?;
        let source = file.source(path);
        for event in self.kept.unsupplied.remove(&id).unwrap_or_default() {
            file.event(&event);
        }
        self.turns.set(peer_worker(&self.plan, peer), id, file.is_ready());
        self.outgoing.insert(id, file);
        self.kept.change(id, |own| own.source = source);
        self.release(peer, id);
        Ok(())
    }
}

/// What its receiver learns of it, and what its status says.
pub(super) fn meta_of(transfer: &OwnTransfer) -> TransferMeta {
    let stream = matches!(transfer.source, Source::Stream { .. });
    TransferMeta {
        name: transfer.name.clone(),
        size: transfer.size.filter(|_| !stream),
        declared: transfer.size.filter(|_| stream),
        priority: transfer.priority,
        attributes: transfer.attributes.clone(),
    }
}

#[cfg(test)]
mod tests;
