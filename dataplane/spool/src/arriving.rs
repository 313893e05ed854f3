//! A partial file and its syncs: what is to be synced and when, what may be confirmed, and what a new start may accept. The
//! waiting is a thread's of its own ([`Syncing`]); no clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::book::Progress;
use crate::partial::{Partial, PartialError};
use crate::storage::{FileRef, Storage};

/// Bytes that are written and not synced before they are; a thread of its own does it.
pub const SYNC_BYTES: u64 = 4 << 20;
/// Time that they may be: its sender sees progress this often.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(250);

/// A file on its way in.
#[derive(Debug)]
pub struct Arriving {
    partial: Partial,
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    /// First byte that is not said to be synced, and since when there are such.
    asked: u64,
    unsynced_since: Option<Instant>,
    syncing: bool,
    /// Its name is there after a power cut.
    named: bool,
}

impl Arriving {
    /// Open a partial file, or make it; see [`Partial::open`].
    ///
    /// # Errors
    /// The disk refused.
    pub fn open(
        storage: Arc<dyn Storage>,
        path: PathBuf,
        known: Option<&Progress>,
        boot: &str,
    ) -> Result<Self, PartialError> {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let partial = Partial::open(storage.clone(), path, known, boot)?;
        let asked = known.map_or(0, |known| known.synced.min(partial.written()));
        Ok(Self { partial, storage, folder, asked, unsynced_since: None, syncing: false, named: asked > 0 })
    }

    /// After it was opened: sync what was written and not synced before. What this gives must be in the book before it is
    /// accepted.
    ///
    /// # Errors
    /// The disk refused.
    pub fn settle(&mut self) -> Result<Option<Progress>, PartialError> {
        if self.partial.written() == self.asked {
            return Ok(None);
        }
        let progress = self.sync_now().sync()?;
        self.was_synced();
        Ok(Some(progress))
    }

    /// Take the next bytes. They are on file after `flush`.
    ///
    /// # Errors
    /// They are not the next ones, or the disk refused.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), PartialError> {
        self.partial.write(offset, data)
    }

    /// Write what was gathered.
    ///
    /// # Errors
    /// The disk refused, now or before.
    pub fn flush(&mut self) -> Result<(), PartialError> {
        self.partial.flush()
    }

    /// What is to be synced now, if it is time: so much that it matters, or for so long; one at a time.
    pub fn sync_due(&mut self, now: Instant) -> Option<Syncing> {
        let unsynced = self.partial.written() - self.asked;
        if unsynced == 0 || self.syncing {
            return None;
        }
        let since = *self.unsynced_since.get_or_insert(now);
        if unsynced < SYNC_BYTES && now.saturating_duration_since(since) < SYNC_INTERVAL {
            return None;
        }
        Some(self.sync_now())
    }

    /// What is to be synced, whether it is time or not.
    pub fn sync_now(&mut self) -> Syncing {
        // With the first bytes the name.
        let folder = (self.asked == 0).then(|| (self.storage.clone(), self.folder.clone()));
        (self.asked, self.unsynced_since, self.syncing) = (self.partial.written(), None, true);
        Syncing { file: self.partial.file(), folder, progress: self.partial.progress() }
    }

    /// The last sync is through.
    pub fn was_synced(&mut self) {
        (self.syncing, self.named) = (false, true);
    }

    /// Verify and sync it, and its name: whoever records its arrival before it is placed takes a missing partial file for a
    /// placed one. See [`Partial::verify`].
    ///
    /// # Errors
    /// It is not whole, or the disk refused.
    pub fn verify(&mut self, size: u64, digest: &[u8; 32]) -> Result<(), PartialError> {
        self.partial.verify(size, digest)?;
        if !self.named {
            self.storage.sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// Give it its name; see [`Partial::place`].
    ///
    /// # Errors
    /// The disk refused.
    pub fn place(&self, name: &str) -> Result<PathBuf, PartialError> {
        self.partial.place(name)
    }

    /// Cut off what lies behind this byte. For whoever leaves it to another attempt, that opens it with what the book has.
    ///
    /// # Errors
    /// The disk refused.
    pub fn cut(&self, behind: u64) -> std::io::Result<()> {
        self.partial.file().set_length(behind)
    }

    /// Remove it.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove(self) -> std::io::Result<()> {
        self.partial.remove()
    }

    /// First byte that is not on file.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.partial.written()
    }

    /// First byte that a power cut may take, or that is being synced.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.asked
    }

    /// What a new start may believe of it once that is synced.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.partial.progress()
    }
}

/// A partial file on its way through the thread that syncs.
#[derive(Debug)]
pub struct Syncing {
    file: FileRef,
    /// Its folder, if its name is new there.
    folder: Option<(Arc<dyn Storage>, PathBuf)>,
    progress: Progress,
}

impl Syncing {
    /// Wait for the disk. What this gives can be confirmed when the book has it.
    ///
    /// # Errors
    /// The disk refused.
    pub fn sync(self) -> Result<Progress, PartialError> {
        self.file.sync()?;
        if let Some((storage, folder)) = &self.folder {
            storage.sync_folder(folder)?;
        }
        Ok(self.progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimStorage;

    /// A small file is whole before its first sync: its arrival was recorded, the power cut, and neither name was there.
    #[test]
    fn a_verified_file_has_a_name_after_a_power_cut() {
        for seed in 0..20 {
            let disk = SimStorage::new(seed);
            let mut file = Arriving::open(Arc::new(disk.clone()), "inbox/.x.part".into(), None, "boot").unwrap();
            file.write(0, b"small").unwrap();
            file.flush().unwrap();
            file.verify(5, blake3::hash(b"small").as_bytes()).unwrap();
            disk.power_cut();
            assert_eq!(disk.content(Path::new("inbox/.x.part")).unwrap(), b"small", "seed {seed}");
        }
    }

    #[test]
    fn a_sync_is_due_for_much_or_for_long_and_once_at_a_time() {
        let disk = Arc::new(SimStorage::new(1));
        let mut file = Arriving::open(disk, "inbox/.x.part".into(), None, "boot").unwrap();
        let now = Instant::now();
        assert!(file.sync_due(now + SYNC_INTERVAL).is_none(), "nothing was written");
        file.write(0, &[1; 1000]).unwrap();
        file.flush().unwrap();
        assert!(file.sync_due(now).is_none());
        assert_eq!(file.sync_due(now + SYNC_INTERVAL).unwrap().sync().unwrap().synced, 1000);
        file.write(1000, &vec![1; SYNC_BYTES as usize]).unwrap();
        file.flush().unwrap();
        assert!(file.sync_due(now).is_none(), "one is under way");
        file.was_synced();
        assert!(file.sync_due(now).is_some());
    }
}
