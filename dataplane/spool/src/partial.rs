//! A file on its way in: written in order into a partial file, verified, synced, then given its name in one step, so that nobody
//! ever sees half a file.
//!
//! ```text
//!   0 ──── hash state ≤ synced ─────── written ──── + gathered
//!          (in the book)  there after     there after
//!                         a power cut     a kill
//! ```
//!
//! What was written is believed as long as the kernel that took it runs, which its boot id tells; after that, what was synced.
//! So a resume hashes less than 64 MiB, however large the file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use florelay_engine::api::{FailCode, Failure};

use crate::book::Progress;
use crate::hash::TreeHasher;
use crate::storage::{FileRef, Open, Storage};

/// Bytes gathered before they are written and hashed: packets are small, and BLAKE3 is fastest on long pieces.
const GATHER_BYTES: usize = 256 << 10;
/// Bytes read at a time where a hash is taken up.
const READ_BYTES: usize = 256 << 10;
/// Most bytes that are hashed again at a resume; what lies beyond is received again.
pub const MAX_REHASH_BYTES: u64 = 64 << 20;
/// A name is tried with `.1`, `.2` … up to this before the transfer fails.
const MAX_RENAMES: u32 = 10_000;
/// Longest name that a file can have (Linux: NAME_MAX), in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Why a received file is not put into the inbox.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// The disk refused.
    #[error("cannot write to the inbox: {0}")]
    Disk(#[from] io::Error),
    /// A write has failed before, and how much of it is on file is not known: nothing may follow it.
    #[error("cannot write to the inbox: an earlier write has failed")]
    Broken,
    /// Not the next bytes.
    #[error("bytes at {offset} where {expected} was expected")]
    Order {
        /// Where they begin.
        offset: u64,
        /// Where they ought to.
        expected: u64,
    },
    /// It is longer or shorter than the sender said.
    #[error("{written} bytes were written, {announced} were announced")]
    Size {
        /// Bytes that are here.
        written: u64,
        /// Bytes that the sender has said.
        announced: u64,
    },
    /// It is another file.
    #[error("the received bytes do not have the sender's BLAKE3")]
    Digest,
}

impl PartialError {
    /// As both ends of the transfer hear it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let code = match self {
            Self::Digest => FailCode::Digest,
            Self::Size { .. } => FailCode::Size,
            Self::Disk(_) | Self::Broken | Self::Order { .. } => FailCode::Storage,
        };
        Failure::new(code, self.to_string())
    }
}

/// A partial file.
#[derive(Debug)]
pub struct Partial {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    file: FileRef,
    boot: String,
    written: u64,
    gathered: Vec<u8>,
    failed: bool,
    hasher: TreeHasher,
}

impl Partial {
    /// Open a partial file, or make it. `known` is what the book has of it, `boot` the kernel's boot id. Without a record nothing
    /// of it is believed.
    ///
    /// # Errors
    /// The disk refused.
    pub fn open(
        storage: Arc<dyn Storage>,
        path: PathBuf,
        known: Option<&Progress>,
        boot: &str,
    ) -> Result<Self, PartialError> {
        let file = storage.open(&path, Open::OrCreate)?;
        let length = file.length()?;
        // A file that is shorter than what was synced of it is another one.
        let (from, believed) = match known.filter(|known| known.synced <= length && known.hash.offset() <= known.synced)
        {
            None => (TreeHasher::new(), 0),
            Some(known) => {
                let believed = if known.boot == boot { length } else { known.synced };
                (TreeHasher::resume(&known.hash), believed.min(known.hash.offset() + MAX_REHASH_BYTES))
            }
        };
        if believed < length {
            file.set_length(believed)?;
        }
        let mut hasher = from;
        let mut buffer = vec![0; READ_BYTES];
        while hasher.count() < believed {
            let take = (believed - hasher.count()).min(READ_BYTES as u64) as usize;
            file.read_exact_at(&mut buffer[..take], hasher.count())?;
            hasher.update(&buffer[..take]);
        }
        let boot = boot.to_owned();
        Ok(Self { storage, path, file, boot, written: believed, gathered: Vec::new(), failed: false, hasher })
    }

    /// Take the next bytes. They are on file after `flush`.
    ///
    /// # Errors
    /// They are not the next ones, or the disk refused.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), PartialError> {
        let expected = self.written + self.gathered.len() as u64;
        if offset != expected {
            return Err(PartialError::Order { offset, expected });
        }
        self.gathered.extend_from_slice(data);
        if self.gathered.len() >= GATHER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Write what was gathered.
    ///
    /// # Errors
    /// The disk refused, now or before.
    pub fn flush(&mut self) -> Result<(), PartialError> {
        if self.failed {
            return Err(PartialError::Broken);
        }
        if let Err(error) = self.file.write_all_at(&self.gathered, self.written) {
            self.failed = true;
            return Err(error.into());
        }
        self.hasher.update(&self.gathered);
        self.written += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    /// Bytes that are on file.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What can be written into the book once [`file`](Self::file) was synced after this was called, and its folder if this is
    /// the first time.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { synced: self.written, hash: self.hasher.state(), boot: self.boot.clone() }
    }

    /// The file, to be synced by a thread that may wait for it.
    #[must_use]
    pub fn file(&self) -> FileRef {
        self.file.clone()
    }

    /// Sync what is on file; what this gives can be written into the book.
    ///
    /// # Errors
    /// The disk refused. What was written is not believed any more.
    pub fn sync(&mut self) -> Result<Progress, PartialError> {
        let progress = self.progress();
        if let Err(error) = self.file.sync() {
            self.failed = true;
            return Err(error.into());
        }
        Ok(progress)
    }

    /// It is whole: size and BLAKE3 are the sender's, and all of it is on the disk. Its name need not be: that is
    /// [`Arriving`](crate::arriving::Arriving)'s, who knows whether it was synced before.
    ///
    /// # Errors
    /// It is not.
    pub fn verify(&mut self, size: u64, digest: &[u8; 32]) -> Result<(), PartialError> {
        if self.failed {
            return Err(PartialError::Broken);
        }
        if self.written != size {
            return Err(PartialError::Size { written: self.written, announced: size });
        }
        if self.hasher.finalize() != blake3::Hash::from_bytes(*digest) {
            return Err(PartialError::Digest);
        }
        self.sync()?;
        Ok(())
    }

    /// Give it its name, or the first free `name.N`: a file that is there is never replaced. Gives the path that it has then,
    /// also after a power cut.
    ///
    /// # Errors
    /// The disk refused; the partial file is still there.
    pub fn place(&self, name: &str) -> Result<PathBuf, PartialError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        for attempt in 0..MAX_RENAMES {
            let target = folder.join(numbered(name, attempt));
            match self.storage.rename_new(&self.path, &target) {
                Ok(()) => {
                    if let Err(error) = self.storage.sync_folder(folder) {
                        // Nobody is to take a file for whole whose transfer has failed.
                        let _ = self.storage.rename_new(&target, &self.path);
                        return Err(error.into());
                    }
                    return Ok(target);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
    }

    /// Remove it.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove(self) -> io::Result<()> {
        self.storage.remove(&self.path)
    }
}

/// The name for the `attempt`-th try: `name`, then `name.1` … A name that would become too long loses the end of its stem.
fn numbered(name: &str, attempt: u32) -> String {
    if attempt == 0 {
        return name.to_owned();
    }
    let number = format!(".{attempt}");
    let most = MAX_NAME_BYTES - number.len();
    let end = (0..=name.len().min(most)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name[..end].to_owned() + &number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Faults, SimStorage};

    const PATH: &str = "inbox/.x.part";

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    fn open(disk: &SimStorage, known: Option<&Progress>, boot: &str) -> Partial {
        Partial::open(Arc::new(disk.clone()), PATH.into(), known, boot).unwrap()
    }

    #[test]
    fn the_longest_name_can_come_twice_and_nothing_is_replaced() {
        let disk = SimStorage::new(1);
        let name = "ä".repeat(126) + ".gz";
        assert_eq!(name.len(), MAX_NAME_BYTES);
        for expected in [name.clone(), "ä".repeat(126) + "..1", "ä".repeat(126) + "..2"] {
            let mut file = open(&disk, None, "boot");
            file.verify(0, blake3::hash(b"").as_bytes()).unwrap();
            assert_eq!(file.place(&name).unwrap(), Path::new("inbox").join(expected));
        }
        assert_eq!(numbered(&"ä".repeat(127), 10_000), "ä".repeat(124) + ".10000");
    }

    #[test]
    fn what_is_believed_after_a_kill_is_what_was_written_and_after_another_boot_what_was_synced() {
        let disk = SimStorage::new(1);
        let bytes = content(1_000_000);
        let digest = *blake3::hash(&bytes).as_bytes();
        let mut file = open(&disk, None, "one");
        file.write(0, &bytes[..700_000]).unwrap();
        assert!(matches!(file.write(5, b"x"), Err(PartialError::Order { offset: 5, expected: 700_000 })));
        file.flush().unwrap();
        let progress = file.sync().unwrap();
        disk.sync_folder(Path::new("inbox")).unwrap();
        assert_eq!((progress.synced, progress.hash.offset()), (700_000, 655_360));
        file.write(700_000, &bytes[700_000..900_000]).unwrap();
        file.flush().unwrap();
        disk.kill();
        let read = disk.bytes_read();
        let file = open(&disk, Some(&progress), "one");
        assert_eq!(file.written(), 900_000);
        assert_eq!(disk.bytes_read() - read, 900_000 - 655_360, "only what lies behind the state is read");
        disk.power_cut();
        let mut file = open(&disk, Some(&progress), "two");
        assert_eq!(file.written(), 700_000);
        file.write(700_000, &bytes[700_000..]).unwrap();
        file.flush().unwrap();
        assert!(matches!(file.verify(999, &digest), Err(PartialError::Size { .. })));
        assert!(matches!(file.verify(1_000_000, &[0; 32]), Err(PartialError::Digest)));
        file.verify(1_000_000, &digest).unwrap();
        file.place("image.tif").unwrap();
        disk.power_cut();
        assert_eq!(disk.content(Path::new("inbox/image.tif")), Some(bytes));
        assert_eq!(disk.content(Path::new(PATH)), None);
    }

    #[test]
    fn without_a_record_and_where_it_cannot_be_its_file_nothing_is_believed() {
        let disk = SimStorage::new(1);
        disk.put(Path::new(PATH), b"some bytes of somebody");
        assert_eq!(open(&disk, None, "one").written(), 0);
        let progress = Progress { synced: 10, hash: Default::default(), boot: "one".into() };
        disk.put(Path::new(PATH), b"short");
        assert_eq!(open(&disk, Some(&progress), "one").written(), 0);
    }

    #[test]
    fn nothing_follows_a_write_or_a_sync_that_failed() {
        let disk = SimStorage::new(1);
        for faults in
            [Faults { room_bytes: Some(2), ..Faults::default() }, Faults { fail_sync: Some(0), ..Faults::default() }]
        {
            let mut file = open(&disk, None, "one");
            disk.set_faults(faults);
            file.write(0, b"abc").unwrap();
            assert!(file.flush().is_err() || file.sync().is_err());
            disk.set_faults(Faults::default());
            assert!(matches!(file.flush(), Err(PartialError::Broken)));
            assert!(matches!(file.verify(3, blake3::hash(b"abc").as_bytes()), Err(PartialError::Broken)));
            file.remove().unwrap();
        }
    }

    #[test]
    fn a_file_comes_whole_whatever_happens_on_its_way() {
        let bytes = content(400_000);
        let digest = *blake3::hash(&bytes).as_bytes();
        for seed in 0..300u64 {
            let disk = SimStorage::new(seed);
            let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |bound: u64| {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                (chance >> 11) % bound
            };
            let (mut boot, mut known) = (0, None);
            let mut file = open(&disk, None, "0");
            for _ in 0..200 {
                let at = file.written() as usize;
                match below(12) {
                    0 => {
                        let kill = below(2) == 0;
                        if kill {
                            disk.kill();
                        } else {
                            disk.power_cut();
                        }
                        boot += u32::from(!kill);
                        drop(file);
                        file = open(&disk, known.as_ref(), &boot.to_string());
                        let synced = known.as_ref().map_or(0, |known: &Progress| known.synced);
                        assert!(file.written() >= synced, "seed {seed}");
                    }
                    1 | 2 => {
                        known = Some(file.sync().unwrap());
                        disk.sync_folder(Path::new("inbox")).unwrap();
                    }
                    _ if at < bytes.len() => {
                        let end = (at + 1 + below(30_000) as usize).min(bytes.len());
                        file.write(at as u64, &bytes[at..end]).unwrap();
                        file.flush().unwrap();
                    }
                    _ => break,
                }
            }
            if file.written() == bytes.len() as u64 {
                file.verify(file.written(), &digest).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
        }
    }
}
