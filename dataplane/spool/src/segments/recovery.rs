//! A stream's spool as a start finds it.

use std::path::PathBuf;
use std::sync::Arc;

use super::account::Account;
use super::format::{self, Header};
use super::{Segment, SegmentError, Segments, Settings};
use crate::hash::TreeHasher;
use crate::storage::{FileRef, Open, Storage};

impl Segments {
    /// Open what is in the folder, or begin with nothing. `confirmed` is what the caller knows to be confirmed, `at_least` what
    /// it knows to have been synced. What is found is synced; if that cannot be, `synced` is less than `head`.
    ///
    /// # Errors
    /// The disk refused; or the spool is damaged, or a later version's: then nothing is changed.
    pub fn open(
        storage: Arc<dyn Storage>,
        folder: PathBuf,
        id: u128,
        settings: Settings,
        account: &Account,
        confirmed: u64,
        at_least: u64,
    ) -> Result<Self, SegmentError> {
        storage.make_folder(&folder)?;
        let mut spool = Self::empty(storage, folder, id, settings, account);
        let names = spool.storage.list(&spool.folder)?;
        let mut bases: Vec<u64> = names.iter().filter_map(|name| format::base_of(name)).collect();
        bases.sort_unstable();
        let mut torn = Vec::new();
        let found = loop {
            let Some(base) = bases.pop() else { break None };
            match spool.load(base)? {
                Some(found) => break Some((base, found)),
                // It was just begun, and the power was cut: the one before was synced before that, or what was in it confirmed.
                None if torn.len() < 2 => torn.push(base),
                None => return Err(SegmentError::Damaged { offset: base }),
            }
        };
        let head = found.as_ref().map_or(0, |(_, last)| last.hasher.count());
        if head < at_least {
            return Err(SegmentError::Damaged { offset: head });
        }
        for base in &bases {
            let bytes = spool.storage.open(&spool.path(*base), Open::Existing)?.length()?;
            spool.segments.push_back(Segment { base: *base, bytes });
        }
        // From here on things are changed, and nothing that may be needed is.
        if names.iter().any(|name| name == format::NEW_NAME) {
            spool.storage.remove(&spool.folder.join(format::NEW_NAME))?;
        }
        for base in torn {
            spool.storage.remove(&spool.path(base))?;
        }
        spool.confirmed = confirmed;
        if let Some((base, last)) = found {
            if last.torn {
                last.file.set_length(last.bytes)?;
            }
            // A segment is only removed when all of it was confirmed.
            let first = bases.first().copied().unwrap_or(base);
            spool.confirmed = confirmed.max(last.confirmed).max(first);
            spool.segments.push_back(Segment { base, bytes: last.bytes });
            (spool.file, spool.hasher, spool.unnamed) = (Some(last.file), last.hasher, true);
            spool.synced = at_least;
        }
        spool.share.found(spool.segments.iter().map(|segment| segment.bytes).sum());
        // Whether what a killed process wrote has reached the disk is not known.
        if let Err(error) = spool.sync() {
            tracing::warn!(folder = %spool.folder.display(), %error, "recovered spool not synced");
        }
        Ok(spool)
    }

    /// The segment that was written last. `None` = it has no header.
    fn load(&self, base: u64) -> Result<Option<Found>, SegmentError> {
        let file = self.storage.open(&self.path(base), Open::Existing)?;
        let mut bytes = vec![0; file.length()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let Some(Header { id, state, confirmed, base: said }) = Header::parse(&bytes)? else { return Ok(None) };
        if (id, said) != (self.id, base) {
            return Err(SegmentError::Damaged { offset: base });
        }
        let mut hasher = TreeHasher::resume(&state);
        let (end, _) = format::walk(&bytes, id, base, |_, record| hasher.update(record))?;
        Ok(Some(Found { file, bytes: end as u64, torn: end < bytes.len(), hasher, confirmed }))
    }
}

struct Found {
    file: FileRef,
    /// Those that are right.
    bytes: u64,
    torn: bool,
    hasher: TreeHasher,
    confirmed: u64,
}
