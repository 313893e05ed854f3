//! Files that this node receives, as the gateway's threads use them: [`florelay_spool::arriving`] with the inbox's names and the
//! memory of what has arrived.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use florelay_engine::api::{FailCode, Failure, TransferId, TransferMeta};
use florelay_spool::arriving::Arriving;
use florelay_spool::book::Progress;
use florelay_spool::storage::RealStorage;
use uuid::Uuid;

use super::finished::{Finished, FinishedFiles};

/// A file on its way in. Partial data lies beside the inbox's files, hidden, so that the rename never crosses
/// file systems.
pub(crate) struct IncomingFile {
    id: TransferId,
    file: Arriving,
    inbox: PathBuf,
    name: String,
}

/// Partial files that nobody has touched for this long are removed.
const PARTIAL_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Where the bytes of an unfinished transfer are.
pub(super) fn partial_path(inbox: &Path, id: TransferId) -> PathBuf {
    inbox.join(partial_name(id))
}

fn partial_name(id: TransferId) -> String {
    format!(".{}.part", Uuid::from_u128(id.0))
}

/// Remove partial files that have lain untouched for a week, except those of transfers in `keep`: their senders have
/// forgotten them. Reads the whole directory: not on the gateway thread.
pub(super) fn sweep(inbox: &Path, keep: &HashSet<TransferId>) {
    let stale = |entry: &fs::DirEntry| -> Option<Uuid> {
        let name = entry.file_name();
        let id = Uuid::try_parse(name.to_str()?.strip_prefix('.')?.strip_suffix(".part")?).ok()?;
        let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
        (age > PARTIAL_LIFE && !keep.contains(&TransferId(id.as_u128()))).then_some(id)
    };
    for entry in fs::read_dir(inbox).into_iter().flatten().flatten() {
        if let Some(id) = stale(&entry) {
            tracing::info!(transfer = %id, "partial file of a transfer that its sender forgot is removed");
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Why no file of this name goes into an inbox, asked at both ends. The engine has refused before what is no file name at all:
/// a path, control characters, `.` and `..`, more than 255 bytes.
pub(crate) fn unfit(name: &str) -> Option<String> {
    if name == super::log::FILE_NAME {
        return Some(format!("the receiver keeps the name `{name}` for itself"));
    }
    // Programs that read the inbox pass over hidden files, as they must because of ours; a shell's profile is one, too.
    name.starts_with('.').then(|| format!("`{name}` is a hidden name, and an inbox takes none"))
}

impl IncomingFile {
    /// Open, or go on with, the partial file of a transfer; `known` is what the book has of it, `boot` the kernel's boot id.
    pub(crate) fn open(
        inbox: &Path,
        id: TransferId,
        meta: &TransferMeta,
        known: Option<&Progress>,
        boot: &str,
    ) -> Result<Self, Failure> {
        let storage = Arc::new(RealStorage::new(inbox.to_owned()));
        let file = Arriving::open(storage, partial_name(id).into(), known, boot).map_err(|error| error.failure())?;
        Ok(Self { id, file, inbox: inbox.to_owned(), name: meta.name.clone() })
    }

    pub(crate) fn written(&self) -> u64 {
        self.file.written()
    }

    /// First byte that a power cut may take, or that is being synced.
    pub(crate) fn synced(&self) -> u64 {
        self.file.synced()
    }

    /// Take the next bytes. They are on file after `flush`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.file.write(offset, data).map_err(|error| error.failure())
    }

    /// Write what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.file.flush().map_err(|error| error.failure())
    }

    /// What is to be synced now, if it is time.
    pub(crate) fn sync_due(&mut self, now: Instant) -> Option<Syncing> {
        let syncing = self.file.sync_due(now)?;
        Some(Syncing { id: self.id, name: self.name.clone(), syncing })
    }

    /// After it was opened; see [`Arriving::settle`].
    pub(crate) fn settle(&mut self) -> Result<Option<Progress>, Failure> {
        self.file.settle().map_err(|error| error.failure())
    }

    /// What a new start may believe of it.
    pub(super) fn progress(&self) -> Progress {
        self.file.progress()
    }

    /// The last sync is through.
    pub(crate) fn was_synced(&mut self) {
        self.file.was_synced();
    }

    /// Verify, sync, record, rename. Consumes the file: whatever comes of it, it is over. If the disk is the reason, what is
    /// sure of it, `synced`, stays. Slow: not on the gateway thread.
    pub(super) fn finish(
        mut self,
        size: u64,
        digest: &[u8; 32],
        peer: &str,
        synced: u64,
        arrived: &FinishedFiles,
    ) -> Result<PathBuf, Failure> {
        if let Err(error) = self.file.verify(size, digest) {
            let failure = error.failure();
            self.give_up(&failure, synced);
            return Err(failure);
        }
        let (id, name) = (self.id.0, self.name.clone());
        arrived.record(Finished { id, peer: peer.to_owned(), name, size, digest: *digest });
        match self.file.place(&self.name) {
            Ok(target) => Ok(self.inbox.join(target)),
            Err(error) => {
                let failure = error.failure();
                // It may have its name already, and only the sync of that have failed.
                if arrived.undo(self.id, peer) && self.inbox.join(partial_name(self.id)).exists() {
                    self.give_up(&failure, synced);
                }
                Err(failure)
            }
        }
    }

    fn give_up(self, failure: &Failure, synced: u64) {
        if failure.code == FailCode::Storage { self.keep(synced) } else { self.discard() }
    }

    /// The disk has failed or is full: what is sure to be on it stays, so that the same transfer goes on there when it is sent
    /// again. What lies behind is cut off: after a sync that failed it may be another than what can be read.
    pub(super) fn keep(self, synced: u64) {
        let id = Uuid::from_u128(self.id.0);
        match self.file.cut(synced) {
            Ok(()) if synced > 0 => {
                tracing::warn!(transfer = %id, synced, "what is on the disk of it is kept for a week");
            }
            Ok(()) => self.discard(),
            Err(error) => {
                tracing::warn!(transfer = %id, %error, "its partial file cannot be kept");
                self.discard();
            }
        }
    }

    /// Cancelled: remove what was written.
    pub(crate) fn discard(self) {
        let id = self.id;
        if let Err(error) = self.file.remove() {
            tracing::warn!(transfer = %Uuid::from_u128(id.0), %error, "partial file not removed");
        }
    }
}

/// A partial file on its way through the thread that syncs.
pub(crate) struct Syncing {
    pub(super) id: TransferId,
    /// Name that its sender gave it.
    pub(super) name: String,
    syncing: florelay_spool::arriving::Syncing,
}

impl Syncing {
    /// Wait for the disk.
    pub(super) fn sync(self) -> (TransferId, String, Result<Progress, Failure>) {
        (self.id, self.name, self.syncing.sync().map_err(|error| error.failure()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc::channel;

    use florelay_spool::book::Book;

    use super::super::book::Keeper;
    use super::super::finished::Known;
    use super::*;
    use crate::ring::GatewayBell;

    fn meta() -> TransferMeta {
        TransferMeta { name: "image.tif".into(), size: None, declared: None, priority: 0, attributes: vec![] }
    }

    fn open(inbox: &Path, id: u128, known: Option<&Progress>) -> IncomingFile {
        IncomingFile::open(inbox, TransferId(id), &meta(), known, "boot").unwrap()
    }

    fn arrived() -> (tempfile::TempDir, FinishedFiles) {
        let state = tempfile::tempdir().unwrap();
        let storage = Arc::new(RealStorage::new(state.path().to_owned()));
        let (book, _) = Book::open(storage, "book".into()).unwrap();
        let keeper = Keeper::start(book, channel().0, GatewayBell::of_this_thread()).unwrap();
        let files = FinishedFiles::new(&[], state.path(), keeper);
        (state, files)
    }

    #[test]
    fn names_that_an_inbox_does_not_take() {
        for name in [".profile", ".x.part", "...", "messages.jsonl"] {
            assert!(unfit(name).is_some_and(|reason| reason.contains(name)), "{name}");
        }
        for name in ["image.tif", "a.", "x.part", "messages.jsonl.1", "-", "~", " "] {
            assert_eq!(unfit(name), None, "{name}");
        }
    }

    #[test]
    fn only_old_partial_files_that_nobody_uses_are_swept() {
        let inbox = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - PARTIAL_LIFE - Duration::from_secs(60);
        for id in 1..=3 {
            open(inbox.path(), id, None);
            if id > 1 {
                File::open(partial_path(inbox.path(), TransferId(id))).unwrap().set_modified(old).unwrap();
            }
        }
        for other in [".hidden", "old.part", ".x.part"] {
            File::create(inbox.path().join(other)).unwrap().set_modified(old).unwrap();
        }
        sweep(inbox.path(), &HashSet::from([TransferId(3)]));
        assert!(!partial_path(inbox.path(), TransferId(2)).exists());
        assert_eq!(fs::read_dir(inbox.path()).unwrap().count(), 5);
    }

    #[test]
    fn verified_files_appear_whole_and_never_replace_another() {
        let (_state, arrived) = arrived();
        let inbox = tempfile::tempdir().unwrap();
        for expected in ["image.tif", "image.tif.1"] {
            let mut file = open(inbox.path(), 5, None);
            file.write(0, b"hello ").unwrap();
            assert!(file.write(3, b"x").is_err());
            file.flush().unwrap();
            let progress = file.settle().unwrap();
            drop(file);
            // A restart goes on where the partial file ends.
            let mut file = open(inbox.path(), 5, progress.as_ref());
            assert_eq!(file.written(), 6);
            file.write(6, b"world").unwrap();
            file.flush().unwrap();
            let target = file.finish(11, blake3::hash(b"hello world").as_bytes(), "a", 0, &arrived).unwrap();
            assert_eq!(target, inbox.path().join(expected));
            assert_eq!(fs::read(target).unwrap(), b"hello world");
            // What arrived under another name is the same transfer still.
            assert_eq!(arrived.knows("a", TransferId(5), &meta()), Known::Yes);
        }
        assert_eq!(fs::read_dir(inbox.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_wrong_digest_or_size_leaves_nothing_behind() {
        let (_state, arrived) = arrived();
        let inbox = tempfile::tempdir().unwrap();
        for (size, digest, code) in
            [(3, [0; 32], FailCode::Digest), (4, *blake3::hash(b"abc").as_bytes(), FailCode::Size)]
        {
            let mut file = open(inbox.path(), 6, None);
            file.write(0, b"abc").unwrap();
            file.flush().unwrap();
            assert_eq!(file.finish(size, &digest, "a", 0, &arrived).unwrap_err().code, code);
        }
        assert_eq!(fs::read_dir(inbox.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_the_disk_is_the_reason_what_is_synced_stays_and_goes_on() {
        let (_state, arrived) = arrived();
        let inbox = tempfile::tempdir().unwrap();
        let nowhere = TransferMeta { name: "no-such-folder/f".into(), ..meta() };
        let mut known = None;
        for round in 0..2 {
            let id = TransferId(8);
            let mut file = IncomingFile::open(inbox.path(), id, &nowhere, known.as_ref(), "boot").unwrap();
            assert_eq!(file.written(), if round == 0 { 0 } else { 6 });
            if round == 0 {
                file.write(0, b"hello ").unwrap();
                file.flush().unwrap();
                let now = Instant::now();
                assert!(file.sync_due(now).is_none());
                known = Some(file.sync_due(now + Duration::from_secs(1)).unwrap().sync().2.unwrap());
                file.was_synced();
            }
            file.write(6, b"world").unwrap();
            file.flush().unwrap();
            let digest = blake3::hash(b"hello world");
            let failure = file.finish(11, digest.as_bytes(), "a", 6, &arrived).unwrap_err();
            assert_eq!(failure.code, FailCode::Storage);
            assert_eq!(arrived.knows("a", id, &nowhere), Known::No);
        }
        // Where nothing is sure, nothing stays.
        let mut file = open(inbox.path(), 9, None);
        file.write(0, b"abc").unwrap();
        file.flush().unwrap();
        file.keep(0);
        assert_eq!(fs::read_dir(inbox.path()).unwrap().count(), 1);
    }
}
