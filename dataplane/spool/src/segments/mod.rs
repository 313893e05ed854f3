//! The spool of one open-ended stream on disk: what its writer has written and its receiver has not confirmed.
//!
//! ```text
//!   folder/0000000000000000.seg   folder/0000000000800000.seg   …          named by their first offset, in hexadecimal
//!   │ header │ record │ record │ …                                         see `format`
//!
//!   0 ──── base ≤ confirmed ──────── synced ──────── head
//!     gone      │        there after a power cut │ there after a kill │
//! ```
//!
//! - A segment is removed when all of it is confirmed and a later one is on disk: the last one stays, and with it the place
//!   where the stream stands.
//! - A segment is synced before the next one is begun, so only the last can have a torn tail. It is cut at the first record
//!   that is wrong.
//! - Each header carries the [state](crate::hash::HashState) of BLAKE3 at its base: a recovery reads one segment, whatever the
//!   length of the stream.
//! - What was confirmed before it was written need not be written ([`Segments::skip`]): the next segment begins behind it.
//! - Where a sync has failed, the kernel may have forgotten what it did not write: the segment is written anew before anything
//!   is called synced again.
//!
//! Limits: a damaged record in the middle shows when it is read. Damage in the last segment cannot be told from a torn tail;
//! the caller, who knows what was synced once, compares (`at_least` of [`Segments::open`]). If a failed sync is followed by a
//! kill and then a power cut, what that sync was for may be missing although it was found between the two.

mod account;
mod format;
mod reading;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use florelay_engine::api::{FailCode, Failure};

pub use account::Account;
pub use format::check;

use self::account::Share;
use self::format::{HEADER_BYTES, Header, RECORD_BYTES, put_record};
use self::reading::Cursor;
use crate::hash::{BLOCK_BYTES, TreeHasher};
use crate::storage::{FileRef, Open, Storage};

/// Stream bytes written at once, at most.
const WRITE_BYTES: usize = 1 << 20;

/// How a stream's segments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Stream bytes in a segment: a multiple of [`BLOCK_BYTES`], at least two of them; rounded to that.
    pub segment_bytes: u64,
    /// Most bytes on disk, headers included.
    pub limit_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, limit_bytes: u64::MAX }
    }
}

/// Why something of a spool could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The disk refused. Nothing is lost by it, and it can be tried again.
    #[error("the spool on disk: {0}")]
    Disk(#[from] io::Error),
    /// A limit of the configuration is reached.
    #[error("the spool on disk is full")]
    Full,
    /// What is on disk is not what was written.
    #[error("the spool on disk is damaged at offset {offset}")]
    Damaged {
        /// First byte of the stream that cannot be had.
        offset: u64,
    },
    /// Below what was confirmed.
    #[error("offset {offset} was confirmed, and is not kept any more; the spool begins at {base}")]
    Gone {
        /// What was asked for.
        offset: u64,
        /// First byte that is kept.
        base: u64,
    },
    /// Written by a later version, and left alone.
    #[error("the spool on disk has version {0}; this node knows {known}", known = format::VERSION)]
    Newer(u16),
}

impl SegmentError {
    /// As both ends of the stream hear it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(FailCode::Storage, self.to_string())
    }
}

#[derive(Debug)]
struct Segment {
    base: u64,
    /// Bytes of its file.
    bytes: u64,
}

/// The spool of one stream. Not for two threads at once.
#[derive(Debug)]
pub struct Segments {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    id: u128,
    segment_bytes: u64,
    share: Share,
    /// The last is the one that is written to.
    segments: VecDeque<Segment>,
    file: Option<FileRef>,
    confirmed: u64,
    synced: u64,
    /// Covers everything below `head`, which is its count.
    hasher: TreeHasher,
    /// Of what was skipped since the last segment: the bytes since the last multiple of `BLOCK_BYTES`.
    skipped: Option<Vec<u8>>,
    /// The name of the last segment is not synced.
    unnamed: bool,
    /// A sync has failed: what is in the last segment may not stay there.
    suspect: bool,
    cursor: Option<Cursor>,
    scratch: Vec<u8>,
}

impl Segments {
    fn empty(storage: Arc<dyn Storage>, folder: PathBuf, id: u128, settings: Settings, account: &Account) -> Self {
        let blocks = (settings.segment_bytes / BLOCK_BYTES).max(2);
        Self {
            storage,
            folder,
            id,
            segment_bytes: blocks * BLOCK_BYTES,
            share: Share::new(account, settings.limit_bytes),
            segments: VecDeque::new(),
            file: None,
            confirmed: 0,
            synced: 0,
            hasher: TreeHasher::new(),
            skipped: None,
            unnamed: false,
            suspect: false,
            cursor: None,
            scratch: Vec::new(),
        }
    }

    /// Add bytes at the end. There after a kill; after a power cut once `sync` has said so. An error leaves `head` where the
    /// bytes end that were added: to try again is to append the others.
    ///
    /// # Errors
    /// The disk refused, or a limit is reached.
    pub fn append(&mut self, mut data: &[u8]) -> Result<(), SegmentError> {
        while !data.is_empty() {
            self.mend()?;
            let room = match self.segments.back() {
                Some(last) if self.skipped.is_none() => (last.base + self.segment_bytes).saturating_sub(self.head()),
                _ => 0,
            };
            if room == 0 {
                self.begin()?;
                continue;
            }
            let (now, later) = data.split_at((room.min(WRITE_BYTES as u64) as usize).min(data.len()));
            self.write(now)?;
            data = later;
        }
        Ok(())
    }

    /// Bytes at the end that the receiver has confirmed already: `confirmed` is beyond them. Where it pays they are not written.
    ///
    /// # Errors
    /// As `append`.
    pub fn skip(&mut self, data: &[u8]) -> Result<(), SegmentError> {
        let before = self.head();
        let end = before + data.len() as u64;
        let edge = end / BLOCK_BYTES * BLOCK_BYTES;
        // A segment begins at a multiple of a block, and with two blocks before it its hash state is one.
        let behind = self.skipped.is_some()
            || edge >= before.max(2 * BLOCK_BYTES) && self.segments.back().is_none_or(|last| edge > last.base);
        if self.confirmed < end || !behind {
            return self.append(data);
        }
        self.hasher.update(data);
        let tail = self.skipped.get_or_insert_default();
        if edge >= before {
            tail.clear();
            tail.extend_from_slice(&data[(edge - before) as usize..]);
        } else {
            tail.extend_from_slice(data);
        }
        Ok(())
    }

    /// Everything below the offset that this gives is there after a power cut, too; it is `head`.
    ///
    /// # Errors
    /// The disk refused, or a limit is reached.
    pub fn sync(&mut self) -> Result<u64, SegmentError> {
        self.mend()?;
        self.shrink()?;
        if self.skipped.is_some() {
            self.begin()?;
        }
        if self.synced < self.head() || self.unnamed {
            self.flush()?;
            self.let_go();
        }
        Ok(self.synced)
    }

    /// The receiver has everything below this offset. What is not needed any more is removed.
    pub fn confirm(&mut self, offset: u64) {
        self.confirmed = self.confirmed.max(offset);
        self.let_go();
    }

    /// Remove it from the disk: the stream has ended. What cannot be removed is found again at the next start.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove(mut self) -> io::Result<()> {
        self.file = None;
        remove_all(&*self.storage, &self.folder)
    }

    /// First byte that can be read.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.confirmed.min(self.head())
    }

    /// First byte that was not appended.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.hasher.count()
    }

    /// First byte that a power cut may take.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Confirmed by the receiver, as far as is known here; perhaps beyond `head` after a restart.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Bytes on disk, headers included.
    #[must_use]
    pub fn on_disk(&self) -> u64 {
        self.share.used()
    }

    /// Stream bytes that can be appended before a limit is reached, about: 0 = full.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.share.room().saturating_sub(2 * HEADER_BYTES as u64) / 64 * 63
    }

    /// BLAKE3 of everything below `head`.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    fn path(&self, base: u64) -> PathBuf {
        self.folder.join(format::name(base))
    }

    /// Begin the next segment at `head`, or behind what was skipped.
    fn begin(&mut self) -> Result<(), SegmentError> {
        if self.skipped.is_none() && !self.segments.is_empty() {
            // Only the last one can be torn.
            self.flush()?;
        }
        let tail = self.skipped.as_deref().unwrap_or_default();
        let base = self.head() - tail.len() as u64;
        let state = self.hasher.state();
        debug_assert_eq!(state.offset(), base, "segments begin at whole blocks");
        self.scratch.clear();
        Header { id: self.id, base, confirmed: self.confirmed, state }.put(&mut self.scratch);
        if !tail.is_empty() {
            put_record(&mut self.scratch, self.id, base, tail);
        }
        let bytes = self.scratch.len() as u64;
        // Beyond the limit, too: what it lets go of is more.
        self.share.found(bytes);
        let path = self.path(base);
        let made = self.storage.open(&path, Open::Empty);
        let made = made.and_then(|file| file.write_all_at(&self.scratch, 0).map(|()| file));
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                self.share.give_back(bytes);
                // If it stays, the next attempt empties it, and a recovery knows it for what it is.
                let _ = self.storage.remove(&path);
                return Err(error.into());
            }
        };
        self.segments.push_back(Segment { base, bytes });
        (self.file, self.skipped, self.unnamed, self.suspect) = (Some(file), None, true, false);
        Ok(())
    }

    /// Records of these bytes, behind the last.
    fn write(&mut self, data: &[u8]) -> Result<(), SegmentError> {
        let (Some(segment), Some(file)) = (self.segments.back_mut(), &self.file) else {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        };
        let mut offset = self.hasher.count();
        self.scratch.clear();
        for piece in data.chunks(RECORD_BYTES) {
            put_record(&mut self.scratch, self.id, offset, piece);
            offset += piece.len() as u64;
        }
        let bytes = self.scratch.len() as u64;
        self.share.take(bytes)?;
        if let Err(error) = file.write_all_at(&self.scratch, segment.bytes) {
            self.share.give_back(bytes);
            // The next attempt writes over what is there of it, and no reader takes it for a record.
            let _ = file.set_length(segment.bytes);
            return Err(error.into());
        }
        segment.bytes += bytes;
        self.hasher.update(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SegmentError> {
        let Some(file) = &self.file else { return Ok(()) };
        let synced = file.sync().and_then(|()| match self.unnamed {
            true => self.storage.sync_folder(&self.folder),
            false => Ok(()),
        });
        if let Err(error) = synced {
            self.suspect = true;
            return Err(error.into());
        }
        self.unnamed = false;
        self.synced = self.head();
        Ok(())
    }

    /// After a sync that failed: write the last segment anew, from what can still be read of it.
    fn mend(&mut self) -> Result<(), SegmentError> {
        let (true, Some(segment), Some(file)) = (self.suspect, self.segments.back(), &self.file) else {
            return Ok(());
        };
        if self.skipped.is_some() {
            // All of it is confirmed, and the next segment begins behind it.
            return Ok(());
        }
        let mut bytes = vec![0; segment.bytes as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let (_, end) = format::walk(&bytes, self.id, segment.base, |_, _| {})?;
        if end != self.hasher.count() {
            return Err(SegmentError::Damaged { offset: end });
        }
        let (new, path) = (self.folder.join(format::NEW_NAME), self.path(segment.base));
        let file = self.storage.open(&new, Open::Empty)?;
        file.write_all_at(&bytes, 0)?;
        file.sync()?;
        self.storage.rename(&new, &path)?;
        self.storage.sync_folder(&self.folder)?;
        (self.file, self.suspect, self.unnamed, self.synced, self.cursor) = (Some(file), false, false, end, None);
        Ok(())
    }

    /// Where room is scarce and all is confirmed, the last segment is replaced by an empty one: streams that are idle must not keep
    /// what others need.
    fn shrink(&mut self) -> Result<(), SegmentError> {
        let head = self.head();
        let edge = head / BLOCK_BYTES * BLOCK_BYTES;
        let Some(last) = self.segments.back() else { return Ok(()) };
        let pays = last.bytes > 4 * BLOCK_BYTES && edge > last.base && edge >= 2 * BLOCK_BYTES;
        if self.skipped.is_some() || self.confirmed < head || !pays || !self.share.is_scarce() {
            return Ok(());
        }
        let (mut tail, mut body) = (Vec::new(), Vec::new());
        while edge + (tail.len() as u64) < head {
            let from = self.record_at(edge + tail.len() as u64, &mut body)?;
            tail.extend_from_slice(&body[from..]);
        }
        self.skipped = Some(tail);
        Ok(())
    }

    /// Remove segments of which all is confirmed, while a later one is on disk.
    fn let_go(&mut self) {
        while self.segments.len() > 1 && !self.unnamed && !self.suspect && self.segments[1].base <= self.confirmed {
            // Tried again with the next confirmation.
            if let Err(error) = self.storage.remove(&self.path(self.segments[0].base))
                && error.kind() != io::ErrorKind::NotFound
            {
                return;
            }
            self.share.give_back(self.segments[0].bytes);
            self.segments.pop_front();
            self.cursor = None;
        }
    }
}

/// Remove what is in a spool's folder, the newest last, and the folder.
///
/// # Errors
/// The disk refused.
pub fn remove_all(storage: &dyn Storage, folder: &Path) -> io::Result<()> {
    let mut names = storage.list(folder)?;
    names.sort_unstable();
    for name in names {
        storage.remove(&folder.join(name))?;
    }
    match storage.remove_folder(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
