//! Which files have arrived, remembered over restarts: a sender that did not hear `done` offers its file again, and is
//! answered instead of served.
//!
//! A record is written and synced *before* the rename into the inbox, and taken back if the rename fails. Whoever is
//! killed in between finds, at the next start, a record and the partial file together: then the rename did not happen,
//! and the record does not count.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use florelay_engine::api::{TransferId, TransferMeta};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::incoming::partial_path;
use super::journal::Journal;

const FILE_NAME: &str = "transfers.journal";
/// Files remembered, of all peers together.
const MAX_FINISHED: usize = 16_384;

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

struct Book {
    journal: Journal,
    files: HashMap<u128, Finished>,
    order: VecDeque<u128>,
}

/// The memory of finished transfers; the opener asks, the finisher writes.
pub(super) struct FinishedFiles(Mutex<Book>);

impl FinishedFiles {
    pub(super) fn open(state_dir: &Path, inbox: &Path) -> io::Result<Self> {
        let (journal, bodies) = Journal::open(state_dir.join(FILE_NAME))?;
        let mut book = Book { journal, files: HashMap::new(), order: VecDeque::new() };
        for body in bodies {
            // A record that this version cannot read is one of another's: not ours to act on.
            match postcard::from_bytes(&body) {
                Ok(Record::Finished(finished)) => book.insert(finished),
                Ok(Record::Undone { id }) => book.remove(id),
                Err(_) => {}
            }
        }
        let broken_off = book.order.iter().filter(|id| partial_path(inbox, TransferId(**id)).exists());
        for id in broken_off.copied().collect::<Vec<_>>() {
            book.undo(id)?;
        }
        Ok(Self(Mutex::new(book)))
    }

    pub(super) fn knows(&self, peer: &str, id: TransferId, meta: &TransferMeta) -> Known {
        match self.book().files.get(&id.0) {
            None => Known::No,
            Some(file) if file.peer != peer => Known::No,
            Some(file) if file.name == meta.name && meta.size.is_none_or(|size| size == file.size) => Known::Yes,
            Some(_) => Known::Another,
        }
    }

    /// Just before the rename. A journal that cannot be written is no reason to refuse the file.
    pub(super) fn record(&self, finished: Finished) {
        let mut book = self.book();
        let id = finished.id;
        let written = encode(&Record::Finished(finished.clone())).and_then(|body| book.journal.append(&body, true));
        if let Err(error) = written {
            tracing::error!(transfer = %Uuid::from_u128(id), %error, "arrival not recorded in {FILE_NAME}");
        }
        book.insert(finished);
        book.shrink();
    }

    /// The rename has failed, and the partial file is still there.
    pub(super) fn undo(&self, id: TransferId) {
        if let Err(error) = self.book().undo(id.0) {
            tracing::error!(transfer = %Uuid::from_u128(id.0), %error, "{FILE_NAME} cannot be corrected");
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn insert(&mut self, finished: Finished) {
        self.remove(finished.id);
        if self.order.len() == MAX_FINISHED
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

    fn undo(&mut self, id: u128) -> io::Result<()> {
        self.remove(id);
        self.journal.append(&encode(&Record::Undone { id })?, true)
    }

    /// Rewrite the journal when most of it does not matter any more.
    fn shrink(&mut self) {
        let Self { journal, files, order } = self;
        journal.shrink(2 * MAX_FINISHED + 1, || {
            let files = order.iter().filter_map(|id| files.get(id));
            files.map(|file| encode(&Record::Finished(file.clone()))).collect()
        });
    }
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(record).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(id: u128) -> Finished {
        Finished { id, peer: "a".into(), name: "image.tif".into(), size: 10, digest: [id as u8; 32] }
    }

    fn meta(name: &str, size: Option<u64>) -> TransferMeta {
        TransferMeta { name: name.into(), size, declared: None, priority: 0, attributes: vec![] }
    }

    fn known(files: &FinishedFiles, id: u128) -> Known {
        files.knows("a", TransferId(id), &meta("image.tif", Some(10)))
    }

    #[test]
    fn arrivals_are_known_after_a_restart_and_only_as_what_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let open = || FinishedFiles::open(folder.path(), folder.path()).unwrap();
        let files = open();
        files.record(finished(1));
        files.record(finished(2));
        files.undo(TransferId(2));
        for files in [files, open()] {
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
        let open = || FinishedFiles::open(folder.path(), folder.path()).unwrap();
        open().record(finished(3));
        let partial = partial_path(folder.path(), TransferId(3));
        std::fs::write(&partial, b"0123456789").unwrap();
        assert_eq!(known(&open(), 3), Known::No);
        // Given up afterwards: the absence of the partial file is no arrival either.
        std::fs::remove_file(partial).unwrap();
        assert_eq!(known(&open(), 3), Known::No);
    }

    #[test]
    fn killed_at_any_byte_it_knows_what_was_recorded_before() {
        let folder = tempfile::tempdir().unwrap();
        let open = || FinishedFiles::open(folder.path(), folder.path()).unwrap();
        let path = folder.path().join(FILE_NAME);
        let mut ends = Vec::new();
        {
            let files = open();
            for id in 0..4 {
                files.record(finished(id));
                ends.push(std::fs::metadata(&path).unwrap().len());
            }
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let files = open();
            for (id, end) in (0..).zip(&ends) {
                let expected = if *end <= cut as u64 { Known::Yes } else { Known::No };
                assert_eq!(known(&files, id), expected, "id {id}, cut at {cut}");
            }
        }
    }

    #[test]
    fn memory_and_journal_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let files = FinishedFiles::open(folder.path(), folder.path()).unwrap();
        {
            let mut book = files.book();
            for id in 0..2 * MAX_FINISHED as u128 + 10 {
                let body = encode(&Record::Finished(finished(id))).unwrap();
                book.journal.append(&body, false).unwrap();
                book.insert(finished(id));
            }
            book.shrink();
            assert_eq!((book.files.len(), book.order.len(), book.journal.records()), [MAX_FINISHED; 3].into());
        }
        assert_eq!((known(&files, 9), known(&files, 2 * MAX_FINISHED as u128 + 9)), (Known::No, Known::Yes));
    }
}
