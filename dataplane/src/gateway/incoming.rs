//! Files that this node receives: written in order into a partial file, verified, synced, then renamed into the
//! inbox in one step, so that nobody ever sees half a file.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use florelay_engine::api::{TransferId, TransferMeta};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use uuid::Uuid;

use super::finished::{Finished, FinishedFiles};

/// A name is tried with `.1`, `.2` … up to this before the transfer fails.
const MAX_RENAMES: u32 = 10_000;

/// Bytes gathered before they are written and hashed: packets are small, and BLAKE3 is fastest on long pieces.
const GATHER_BYTES: usize = 256 << 10;

/// A file on its way in. Partial data lies beside the inbox's files, hidden, so that the rename never crosses
/// file systems.
pub(crate) struct IncomingFile {
    id: TransferId,
    file: File,
    partial: PathBuf,
    inbox: PathBuf,
    name: String,
    written: u64,
    gathered: Vec<u8>,
    /// A write has failed, and how much of it is on file is not known: nothing may follow it.
    failed: bool,
    hasher: blake3::Hasher,
}

/// Partial files that nobody has touched for this long are removed.
const PARTIAL_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest name that a file can have (Linux: NAME_MAX), in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Where the bytes of an unfinished transfer are.
pub(super) fn partial_path(inbox: &Path, id: TransferId) -> PathBuf {
    inbox.join(format!(".{}.part", Uuid::from_u128(id.0)))
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

/// The name for the `attempt`-th try: `name`, then `name.1` … A name that would become too long loses the end of its
/// stem.
fn numbered(name: &str, attempt: u32) -> String {
    if attempt == 0 {
        return name.to_owned();
    }
    let number = format!(".{attempt}");
    let most = MAX_NAME_BYTES - number.len();
    let end = (0..=name.len().min(most)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name[..end].to_owned() + &number
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
    /// Open, or go on with, the partial file of a transfer.
    pub(crate) fn open(inbox: &Path, id: TransferId, meta: &TransferMeta) -> Result<Self, String> {
        let partial = partial_path(inbox, id);
        let open = || -> io::Result<(File, blake3::Hasher, u64)> {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&partial)?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 256 << 10];
            let mut length = 0;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok((file, hasher, length)),
                    n => {
                        hasher.update(&buffer[..n]);
                        length += n as u64;
                    }
                }
            }
        };
        let (file, hasher, written) = open().map_err(|error| format!("cannot write to the inbox: {error}"))?;
        Ok(Self {
            id,
            file,
            partial,
            inbox: inbox.to_owned(),
            name: meta.name.clone(),
            written,
            gathered: Vec::new(),
            failed: false,
            hasher,
        })
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Take the next bytes. They are on file after `flush`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), String> {
        let expected = self.written + self.gathered.len() as u64;
        if offset != expected {
            return Err(format!("bytes at {offset} where {expected} was expected"));
        }
        self.gathered.extend_from_slice(data);
        if self.gathered.len() >= GATHER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Write what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        if self.failed {
            return Err("cannot write to the inbox: an earlier write has failed".into());
        }
        if let Err(error) = self.file.write_all(&self.gathered) {
            self.failed = true;
            return Err(format!("cannot write to the inbox: {error}"));
        }
        self.hasher.update(&self.gathered);
        self.written += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    /// Verify, sync, record, rename. Consumes the file: whatever comes of it, it is over. Slow: not on the gateway
    /// thread.
    pub(super) fn finish(
        self,
        size: u64,
        digest: &[u8; 32],
        peer: &str,
        arrived: &FinishedFiles,
    ) -> Result<PathBuf, String> {
        let result = self.try_finish(size, digest, peer, arrived);
        if result.is_err() {
            let _ = fs::remove_file(&self.partial);
        }
        result
    }

    fn try_finish(&self, size: u64, digest: &[u8; 32], peer: &str, arrived: &FinishedFiles) -> Result<PathBuf, String> {
        if self.failed {
            return Err("a write to the inbox has failed".into());
        }
        if self.written != size {
            return Err(format!("{} bytes were written, {size} were announced", self.written));
        }
        if self.hasher.finalize() != blake3::Hash::from_bytes(*digest) {
            return Err("the received bytes do not have the sender's BLAKE3".into());
        }
        let disk = |error: io::Error| format!("cannot put the file into the inbox: {error}");
        self.file.sync_all().map_err(disk)?;
        let (id, peer, name) = (self.id.0, peer.to_owned(), self.name.clone());
        arrived.record(Finished { id, peer, name, size, digest: *digest });
        let target = self.rename().map_err(|error| {
            arrived.undo(self.id);
            disk(error)
        })?;
        File::open(&self.inbox).and_then(|directory| directory.sync_all()).map_err(disk)?;
        Ok(target)
    }

    /// To its name, or the first free `name.N`: a file that is there is never overwritten.
    fn rename(&self) -> io::Result<PathBuf> {
        for attempt in 0..MAX_RENAMES {
            let target = self.inbox.join(numbered(&self.name, attempt));
            match renameat_with(CWD, &self.partial, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(target),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Cancelled: remove what was written.
    pub(crate) fn discard(self) {
        if let Err(error) = fs::remove_file(&self.partial) {
            tracing::warn!(transfer = %Uuid::from_u128(self.id.0), %error, "partial file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finished::Known;
    use super::*;

    fn meta() -> TransferMeta {
        TransferMeta { name: "image.tif".into(), size: None, declared: None, priority: 0, attributes: vec![] }
    }

    fn arrived() -> (tempfile::TempDir, FinishedFiles) {
        let state = tempfile::tempdir().unwrap();
        let files = FinishedFiles::open(state.path(), state.path()).unwrap();
        (state, files)
    }

    #[test]
    fn the_longest_name_can_come_twice() {
        let (_state, arrived) = arrived();
        let inbox = tempfile::tempdir().unwrap();
        let name = "ä".repeat(126) + ".gz";
        assert_eq!(name.len(), MAX_NAME_BYTES);
        for (id, expected) in [(1, name.clone()), (2, "ä".repeat(126) + "..1"), (3, "ä".repeat(126) + "..2")] {
            let meta = TransferMeta { name: name.clone(), ..meta() };
            let file = IncomingFile::open(inbox.path(), TransferId(id), &meta).unwrap();
            let target = file.finish(0, blake3::hash(b"").as_bytes(), "a", &arrived).unwrap();
            assert_eq!(target.file_name().unwrap().to_str(), Some(expected.as_str()));
            // What arrived under another name is the same transfer still.
            assert_eq!(arrived.knows("a", TransferId(id), &meta), Known::Yes);
        }
        assert_eq!(numbered(&"ä".repeat(127), 10_000), "ä".repeat(124) + ".10000");
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
            let file = IncomingFile::open(inbox.path(), TransferId(id), &meta()).unwrap();
            if id > 1 {
                file.file.set_modified(old).unwrap();
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
            let mut file = IncomingFile::open(inbox.path(), TransferId(5), &meta()).unwrap();
            file.write(0, b"hello ").unwrap();
            assert!(file.write(3, b"x").is_err());
            file.flush().unwrap();
            drop(file);
            // A restart goes on where the partial file ends.
            let mut file = IncomingFile::open(inbox.path(), TransferId(5), &meta()).unwrap();
            assert_eq!(file.written(), 6);
            file.write(6, b"world").unwrap();
            file.flush().unwrap();
            let target = file.finish(11, blake3::hash(b"hello world").as_bytes(), "a", &arrived).unwrap();
            assert_eq!(target.file_name().unwrap(), expected);
            assert_eq!(fs::read(target).unwrap(), b"hello world");
        }
        assert_eq!(fs::read_dir(inbox.path()).unwrap().count(), 2);
    }

    #[test]
    fn nothing_follows_a_write_that_failed() {
        let (_state, arrived) = arrived();
        let inbox = tempfile::tempdir().unwrap();
        let mut file = IncomingFile::open(inbox.path(), TransferId(8), &meta()).unwrap();
        let good = std::mem::replace(&mut file.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        file.write(0, b"abc").unwrap();
        assert!(file.flush().is_err());
        // There is room again: part of the failed write may be on file already, so its bytes must not go twice.
        file.file = good;
        assert!(file.flush().is_err());
        assert!(file.finish(3, blake3::hash(b"abc").as_bytes(), "a", &arrived).is_err());
        assert_eq!(fs::read_dir(inbox.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_wrong_digest_or_size_leaves_nothing_behind() {
        let (_state, arrived) = arrived();
        let inbox = tempfile::tempdir().unwrap();
        for (size, digest) in [(3, [0; 32]), (4, *blake3::hash(b"abc").as_bytes())] {
            let mut file = IncomingFile::open(inbox.path(), TransferId(6), &meta()).unwrap();
            file.write(0, b"abc").unwrap();
            file.flush().unwrap();
            assert!(file.finish(size, &digest, "a", &arrived).is_err());
            assert_eq!(fs::read_dir(inbox.path()).unwrap().count(), 0);
        }
    }
}
