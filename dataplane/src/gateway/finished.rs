//! Which files have arrived, remembered over restarts: a sender that did not hear `done` offers its file again, and is
//! answered instead of served.
//!
//! It is in the book, and on the disk, *before* the rename into the inbox, and taken back if the rename fails. Whoever is
//! killed in between finds, at the next start, a record and the partial file together: then the rename did not happen,
//! and the record does not count.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use florelay_engine::api::{TransferId, TransferMeta};
use florelay_spool::book::{Book, BookError, Change, Contents, EndedTransfer, MAX_ENDED};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::book::Keeper;
use super::incoming::partial_path;
use super::journal::Journal;

/// What versions before the book had instead of it.
const JOURNAL_NAME: &str = "transfers.journal";

/// One file that has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) id: u128,
    /// Node name of the sender.
    pub(super) peer: String,
    /// Name that the sender gave it.
    pub(super) name: String,
    /// Bytes.
    pub(super) size: u64,
    /// BLAKE3.
    pub(super) digest: [u8; 32],
}

impl Finished {
    fn into_end(self) -> EndedTransfer {
        EndedTransfer {
            id: self.id,
            peer: self.peer,
            name: self.name,
            outgoing: false,
            stream: false,
            size: self.size,
            digest: Some(self.digest),
            failed: None,
            path: None,
            ended_unix_ns: crate::wall::now_unix_ns(),
        }
    }

    fn of_end(end: &EndedTransfer) -> Option<Self> {
        let digest = end.digest.filter(|_| !end.outgoing && !end.stream && end.failed.is_none())?;
        Some(Self { id: end.id, peer: end.peer.clone(), name: end.name.clone(), size: end.size, digest })
    }
}

/// A record of the journal.
#[derive(Serialize, Deserialize)]
enum Record {
    Finished(Finished),
    /// The last record of this id does not count.
    Undone {
        id: u128,
    },
}

/// What is known of an offered transfer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It has not arrived.
    No,
    /// It has, whole.
    Yes,
    /// Something else has, under this id.
    Another,
}

#[derive(Default)]
struct Memory {
    files: HashMap<u128, Finished>,
    order: VecDeque<u128>,
}

/// The memory of finished transfers; the opener asks, the finisher writes.
pub(super) struct FinishedFiles {
    memory: Mutex<Memory>,
    keeper: Keeper,
}

/// Move what a journal of an earlier version has into the book, once.
pub(super) fn import(state_dir: &Path, book: &mut Book, contents: &mut Contents) -> Result<(), BookError> {
    let path = state_dir.join(JOURNAL_NAME);
    if !path.exists() {
        return Ok(());
    }
    let mut memory = Memory::default();
    for body in Journal::open(path.clone())?.1 {
        // A record that this version cannot read is one of another's: not ours to act on.
        match postcard::from_bytes(&body) {
            Ok(Record::Finished(finished)) => memory.insert(finished),
            Ok(Record::Undone { id }) => memory.remove(id),
            Err(_) => {}
        }
    }
    let ends = memory.order.iter().filter_map(|id| memory.files.get(id)).map(|file| file.clone().into_end());
    let ends: Vec<EndedTransfer> = ends.collect();
    let changes: Vec<Change> = ends.iter().cloned().map(Change::Ended).collect();
    book.apply(&changes)?;
    contents.ended.extend(ends);
    std::fs::remove_file(path)?;
    tracing::info!(files = changes.len(), "{JOURNAL_NAME} was moved into the book of transfers");
    Ok(())
}

impl FinishedFiles {
    /// With what the book has.
    pub(super) fn new(ended: &[EndedTransfer], inbox: &Path, keeper: Keeper) -> Self {
        let mut memory = Memory::default();
        for finished in ended.iter().filter_map(Finished::of_end) {
            if partial_path(inbox, TransferId(finished.id)).exists() {
                keeper.note(Change::NotEnded(finished.peer, false, finished.id));
            } else {
                memory.insert(finished);
            }
        }
        Self { memory: Mutex::new(memory), keeper }
    }

    pub(super) fn knows(&self, peer: &str, id: TransferId, meta: &TransferMeta) -> Known {
        match self.memory().files.get(&id.0) {
            None => Known::No,
            Some(file) if file.peer != peer => Known::No,
            Some(file) if file.name == meta.name && meta.size.is_none_or(|size| size == file.size) => Known::Yes,
            Some(_) => Known::Another,
        }
    }

    /// Just before the rename; waits for the disk. A book that cannot be written is no reason to refuse the file.
    pub(super) fn record(&self, finished: Finished) {
        let id = Uuid::from_u128(finished.id);
        if !self.keeper.note_and_wait(Change::Ended(finished.clone().into_end())) {
            tracing::error!(transfer = %id, "arrival not recorded in the book of transfers");
        }
        self.memory().insert(finished);
    }

    /// The rename has failed. As long as the book does not have this (`false`), the partial file must stay: a record without one
    /// is an arrival.
    pub(super) fn undo(&self, id: TransferId, peer: &str) -> bool {
        self.memory().remove(id.0);
        self.keeper.note_and_wait(Change::NotEnded(peer.to_owned(), false, id.0))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each change leaves it whole.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn insert(&mut self, finished: Finished) {
        self.remove(finished.id);
        if self.order.len() == MAX_ENDED
            && let Some(oldest) = self.order.pop_front()
        {
            self.files.remove(&oldest);
        }
        self.order.push_back(finished.id);
        self.files.insert(finished.id, finished);
    }

    fn remove(&mut self, id: u128) {
        if self.files.remove(&id).is_some() {
            self.order.retain(|other| *other != id);
        }
    }
}

/// The error as the gateway's start tells it.
pub(super) fn as_io(error: BookError) -> io::Error {
    match error {
        BookError::Disk(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use florelay_spool::storage::RealStorage;

    use super::*;
    use crate::ring::GatewayBell;

    fn finished(id: u128) -> Finished {
        Finished { id, peer: "a".into(), name: "image.tif".into(), size: 10, digest: [id as u8; 32] }
    }

    fn meta(name: &str, size: Option<u64>) -> TransferMeta {
        TransferMeta { name: name.into(), size, declared: None, priority: 0, attributes: vec![] }
    }

    fn known(files: &FinishedFiles, id: u128) -> Known {
        files.knows("a", TransferId(id), &meta("image.tif", Some(10)))
    }

    /// As the gateway opens them.
    fn open(folder: &Path) -> FinishedFiles {
        let storage = Arc::new(RealStorage::new(folder.to_owned()));
        let (mut book, mut contents) = Book::open(storage, "transfers.redb".into()).unwrap();
        import(folder, &mut book, &mut contents).unwrap();
        let keeper = Keeper::start(book, channel().0, GatewayBell::of_this_thread()).unwrap();
        FinishedFiles::new(&contents.ended, folder, keeper)
    }

    #[test]
    fn arrivals_are_known_after_a_restart_and_only_as_what_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let files = open(folder.path());
        files.record(finished(1));
        files.record(finished(2));
        assert!(files.undo(TransferId(2), "a"), "the book has it");
        for files in [files, open(folder.path())] {
            assert_eq!((known(&files, 1), known(&files, 2)), (Known::Yes, Known::No));
            assert_eq!(files.knows("a", TransferId(1), &meta("image.tif", None)), Known::Yes);
            assert_eq!(files.knows("a", TransferId(1), &meta("image.tif", Some(11))), Known::Another);
            assert_eq!(files.knows("a", TransferId(1), &meta("other.tif", Some(10))), Known::Another);
            // Ids of another peer are its own.
            assert_eq!(files.knows("b", TransferId(1), &meta("image.tif", Some(10))), Known::No);
        }
    }

    #[test]
    fn killed_between_record_and_rename_the_file_has_not_arrived() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).record(finished(3));
        let partial = partial_path(folder.path(), TransferId(3));
        std::fs::write(&partial, b"0123456789").unwrap();
        let files = open(folder.path());
        assert_eq!(known(&files, 3), Known::No);
        files.record(finished(4));
        // Given up afterwards: the absence of the partial file is no arrival either.
        std::fs::remove_file(partial).unwrap();
        assert_eq!(known(&open(folder.path()), 3), Known::No);
    }

    #[test]
    fn what_a_journal_of_an_earlier_version_has_is_taken_over_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JOURNAL_NAME);
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let records = [Record::Finished(finished(1)), Record::Finished(finished(2)), Record::Undone { id: 1 }];
        for record in &records {
            journal.append(&postcard::to_stdvec(record).unwrap(), true).unwrap();
        }
        drop(journal);
        for _ in 0..2 {
            let files = open(folder.path());
            assert_eq!((known(&files, 1), known(&files, 2)), (Known::No, Known::Yes));
            assert!(!path.exists());
            files.record(finished(9));
        }
    }
}
