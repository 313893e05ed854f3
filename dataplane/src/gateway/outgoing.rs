//! Files that this node sends, as the gateway's thread uses them: [`florelay_spool::outgoing`] between the engine's events and its
//! commands.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use florelay_engine::Command;
use florelay_engine::api::{Event, Failure, TransferId};
use florelay_spool::book::Source;
use florelay_spool::hash::HashState;
use florelay_spool::outgoing::{Outgoing, OutgoingError};
use florelay_spool::storage::{Identity, RealFile};

use super::pieces::Pieces;

/// An open file on its way out.
pub(crate) struct OutgoingFile {
    id: TransferId,
    file: Outgoing,
    /// Next byte to supply.
    next: u64,
    limit: u64,
    end_said: bool,
    flowing: bool,
}

impl OutgoingFile {
    /// `file` must be a regular file.
    pub(crate) fn new(id: TransferId, file: File) -> Result<Self, String> {
        Ok(Self::of(id, Outgoing::new(Arc::new(RealFile::new(file))).map_err(|error| error.to_string())?))
    }

    /// The file that was being sent before a restart.
    pub(super) fn reopen(id: TransferId, path: &Path, identity: &Identity, hash: &HashState) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        let outgoing = Outgoing::resume(Arc::new(RealFile::new(file)), identity, hash);
        Ok(Self::of(id, outgoing.map_err(|error| format!("{}: {error}", path.display()))?))
    }

    /// A file that somebody says is the one that was being sent: it is, or it is hashed from its beginning, and the receiver finds
    /// out.
    pub(super) fn resume_or_begin(
        id: TransferId,
        file: File,
        identity: &Identity,
        hash: &HashState,
    ) -> Result<Self, String> {
        let file = Arc::new(RealFile::new(file));
        match Outgoing::resume(file.clone(), identity, hash) {
            Err(OutgoingError::Another) => Outgoing::new(file),
            other => other,
        }
        .map(|file| Self::of(id, file))
        .map_err(|error| error.to_string())
    }

    fn of(id: TransferId, file: Outgoing) -> Self {
        Self { id, file, next: 0, limit: 0, end_said: false, flowing: false }
    }

    /// What the book has of it.
    pub(super) fn source(&self, path: Option<PathBuf>) -> Source {
        let path = path.map(|path| path.as_os_str().as_bytes().to_vec());
        Source::File { path, identity: self.file.identity(), hash: self.state() }
    }

    /// BLAKE3 as far as it was read.
    pub(super) fn state(&self) -> HashState {
        self.file.state()
    }

    pub(super) fn hashed(&self) -> u64 {
        self.file.hashed()
    }

    /// Whether both are the same file of the disk.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        self.file.identity().is_same_file(&other.file.identity())
    }

    pub(crate) fn size(&self) -> u64 {
        self.file.size()
    }

    pub(crate) fn event(&mut self, event: &Event) {
        match *event {
            Event::SupplyFrom { offset, .. } => {
                self.next = offset;
                self.limit = offset;
                self.end_said = false;
                self.flowing = true;
            }
            Event::SupplyUpTo { limit, .. } => self.limit = limit,
            _ => {}
        }
    }

    /// Whether `step` has something to do.
    pub(crate) fn is_ready(&self) -> bool {
        // The engine's limit leaves room for several pieces.
        self.flowing && !self.end_said && self.file.piece_end(self.next) <= self.limit.max(self.next)
    }

    /// The next command for the engine; `None` while the hash is behind. An error ends the transfer.
    pub(crate) fn step(&mut self, pieces: &mut Pieces) -> Result<Option<Command>, Failure> {
        if !self.is_ready() {
            return Ok(None);
        }
        if self.next >= self.size() {
            self.file.hash_towards(self.size()).map_err(|error| error.failure())?;
            let Some(digest) = self.digest() else { return Ok(None) };
            self.file.check_unchanged().map_err(|error| error.failure())?;
            self.end_said = true;
            return Ok(Some(Command::SupplyEnd { id: self.id, size: self.size(), digest }));
        }
        let offset = self.next;
        let want = (self.file.piece_end(offset) - offset) as usize;
        let mut buffer = pieces.take();
        // What the receiver already has was not read here yet: the hash covers it too, and catches up on the way.
        self.file.read(&mut buffer[..want], offset).map_err(|error| error.failure())?;
        self.next += want as u64;
        let buffer = buffer.freeze();
        let data = buffer.slice(..want);
        pieces.remember(buffer);
        Ok(Some(Command::Supply { id: self.id, offset, data }))
    }

    /// BLAKE3 of the whole, if all of it was read.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        self.file.digest()
    }

    /// BLAKE3 of the whole, also of what the receiver had already and was not read here. Slow: not on the gateway thread.
    pub(crate) fn into_digest(mut self) -> Result<[u8; 32], Failure> {
        let digest = loop {
            match self.digest() {
                Some(digest) => break digest,
                None => self.file.hash_towards(self.size()).map_err(|error| error.failure())?,
            }
        };
        self.file.check_unchanged().map_err(|error| error.failure())?;
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::pieces::READ_BYTES;
    use super::*;

    const ID: TransferId = TransferId(1);
    /// What one step hashes at most.
    const CATCH_UP_BYTES: u64 = 1 << 20;

    fn supplied(file: &mut OutgoingFile) -> (Vec<u8>, Option<(u64, [u8; 32])>) {
        let (mut bytes, mut pieces) = (Vec::new(), Pieces::new(4));
        loop {
            match file.step(&mut pieces).unwrap() {
                Some(Command::Supply { data, .. }) => bytes.extend_from_slice(&data),
                Some(Command::SupplyEnd { size, digest, .. }) => return (bytes, Some((size, digest))),
                Some(other) => panic!("unexpected {other:?}"),
                None if file.is_ready() => {}
                None => return (bytes, None),
            }
        }
    }

    #[test]
    fn supplies_within_the_limit_and_hashes_the_whole_after_a_rewind() {
        let content: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let mut temp = tempfile::tempfile().unwrap();
        temp.write_all(&content).unwrap();
        let mut file = OutgoingFile::new(ID, temp).unwrap();
        assert!(!file.is_ready());
        file.event(&Event::SupplyFrom { id: ID, offset: 150_000 });
        file.event(&Event::SupplyUpTo { id: ID, limit: 198_000 });
        let (bytes, end) = supplied(&mut file);
        // To the end of the piece that begins at 131,072.
        assert_eq!((bytes.as_slice(), end), (&content[150_000..196_608], None));
        file.event(&Event::SupplyFrom { id: ID, offset: 100 });
        file.event(&Event::SupplyUpTo { id: ID, limit: 1 << 20 });
        let (bytes, end) = supplied(&mut file);
        assert_eq!(bytes, content[100..]);
        assert_eq!(end, Some((200_000, *blake3::hash(&content).as_bytes())));
    }

    #[test]
    fn a_resume_far_into_a_file_hashes_a_bounded_piece_at_a_time() {
        let content: Vec<u8> = (0..(CATCH_UP_BYTES * 4) as u32 + 77).map(|i| (i / 251) as u8).collect();
        let size = content.len() as u64;
        let mut temp = tempfile::tempfile().unwrap();
        temp.write_all(&content).unwrap();
        let mut file = OutgoingFile::new(ID, temp).unwrap();
        file.event(&Event::SupplyFrom { id: ID, offset: size - 10 });
        file.event(&Event::SupplyUpTo { id: ID, limit: size });
        let mut before = 0;
        loop {
            let command = file.step(&mut Pieces::new(4)).unwrap();
            assert!(file.hashed() - before <= CATCH_UP_BYTES + READ_BYTES as u64);
            before = file.hashed();
            if let Some(Command::SupplyEnd { digest, .. }) = command {
                assert_eq!(digest, *blake3::hash(&content).as_bytes());
                return;
            }
            assert!(file.is_ready());
        }
    }

    #[test]
    fn a_buffer_is_read_into_again_only_when_nobody_holds_it() {
        let content: Vec<u8> = (0..READ_BYTES as u32 * 3).map(|i| (i / 251) as u8).collect();
        let mut temp = tempfile::tempfile().unwrap();
        temp.write_all(&content).unwrap();
        let mut file = OutgoingFile::new(ID, temp).unwrap();
        file.event(&Event::SupplyFrom { id: ID, offset: 0 });
        file.event(&Event::SupplyUpTo { id: ID, limit: 1 << 30 });
        let mut pieces = Pieces::new(4);
        let mut piece = || match file.step(&mut pieces).unwrap() {
            Some(Command::Supply { data, .. }) => data,
            other => panic!("unexpected {other:?}"),
        };
        let first = piece();
        let at = first.as_ptr();
        let second = piece();
        assert_ne!(second.as_ptr(), at);
        assert_eq!((&first[..], &second[..]), (&content[..READ_BYTES], &content[READ_BYTES..READ_BYTES * 2]));
        drop(first);
        let third = piece();
        assert_eq!((third.as_ptr(), &third[..]), (at, &content[READ_BYTES * 2..]));
    }

    #[test]
    fn an_empty_file_ends_at_once_and_a_changed_one_is_an_error() {
        let mut file = OutgoingFile::new(ID, tempfile::tempfile().unwrap()).unwrap();
        file.event(&Event::SupplyFrom { id: ID, offset: 0 });
        assert_eq!(supplied(&mut file).1, Some((0, *blake3::hash(b"").as_bytes())));

        let mut temp = tempfile::tempfile().unwrap();
        temp.write_all(b"12345").unwrap();
        let mut file = OutgoingFile::new(ID, temp.try_clone().unwrap()).unwrap();
        file.event(&Event::SupplyFrom { id: ID, offset: 0 });
        file.event(&Event::SupplyUpTo { id: ID, limit: 10 });
        temp.set_len(3).unwrap();
        assert!(file.step(&mut Pieces::new(4)).unwrap_err().reason.contains("cut short"));
    }
}
