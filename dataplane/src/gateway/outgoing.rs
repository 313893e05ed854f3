//! Files that this node sends: read in place, hashed as they are read, supplied as far as the engine allows.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use bytes::{Bytes, BytesMut};
use florelay_engine::Command;
use florelay_engine::api::{Event, TransferId};

/// Bytes read and supplied at a time.
const READ_BYTES: usize = 64 << 10;
/// Pieces that are remembered, to be read into again: what engine and transport hold of a file on a short path, twice.
const REMEMBERED_PIECES: usize = 64;
/// Remembered pieces that are looked at for one that is free.
const LOOKED_AT: usize = 4;
/// After a resume, bytes that are hashed in one step although the receiver has them: the gateway's other transfers and
/// requests wait that long.
const CATCH_UP_BYTES: u64 = 1 << 20;

/// An open file on its way out.
pub(crate) struct OutgoingFile {
    id: TransferId,
    file: File,
    size: u64,
    /// Modification time when it was opened: a file that changes under way is reported, not sent garbled.
    modified: (i64, i64),
    /// Next byte to supply.
    next: u64,
    limit: u64,
    /// Covers exactly the bytes below `hashed`.
    hasher: blake3::Hasher,
    hashed: u64,
    end_said: bool,
    flowing: bool,
}

/// Memory to read files into. Fresh memory costs a page fault for every 4 KiB, so pieces that were acknowledged are read
/// into again. Shared by all files; holds no more than `REMEMBERED_PIECES` of `READ_BYTES`.
#[derive(Default)]
pub(crate) struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// `READ_BYTES` that nobody else holds; what is in them is of no interest.
    fn take(&mut self) -> BytesMut {
        for _ in 0..LOOKED_AT.min(self.0.len()) {
            match self.0.pop_front().map(Bytes::try_into_mut) {
                Some(Ok(free)) => return free,
                Some(Err(held)) => self.0.push_back(held),
                None => break,
            }
        }
        BytesMut::zeroed(READ_BYTES)
    }

    fn remember(&mut self, piece: Bytes) {
        if self.0.len() == REMEMBERED_PIECES {
            self.0.pop_front();
        }
        self.0.push_back(piece);
    }
}

impl OutgoingFile {
    /// `file` must be a regular file.
    pub(crate) fn new(id: TransferId, file: File) -> Result<Self, String> {
        let metadata = file.metadata().map_err(|error| format!("cannot examine the file: {error}"))?;
        if !metadata.is_file() {
            return Err("only regular files can be sent".into());
        }
        Ok(Self {
            id,
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            file,
            next: 0,
            limit: 0,
            hasher: blake3::Hasher::new(),
            hashed: 0,
            end_said: false,
            flowing: false,
        })
    }

    /// Whether both are the same file of the disk.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        identity(&self.file) == identity(&other.file)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
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
        self.flowing && !self.end_said && self.piece_end() <= self.limit.max(self.next)
    }

    /// Where the next piece ends. Pieces end at multiples of their size, so that BLAKE3 gets whole subtrees, which it
    /// hashes many chunks at a time; the engine's limit leaves room for several.
    fn piece_end(&self) -> u64 {
        let whole = (self.next / READ_BYTES as u64 + 1).saturating_mul(READ_BYTES as u64);
        whole.min(self.size).max(self.next)
    }

    /// The next command for the engine; `None` while the hash is behind. An error ends the transfer.
    pub(crate) fn step(&mut self, pieces: &mut Pieces) -> Result<Option<Command>, String> {
        if !self.is_ready() {
            return Ok(None);
        }
        if self.next >= self.size {
            self.hash_towards(self.size)?;
            if self.hashed < self.size {
                return Ok(None);
            }
            self.check_unchanged()?;
            self.end_said = true;
            let digest = *self.hasher.finalize().as_bytes();
            return Ok(Some(Command::SupplyEnd { id: self.id, size: self.size, digest }));
        }
        let want = (self.piece_end() - self.next) as usize;
        let mut buffer = pieces.take();
        self.read(&mut buffer[..want], self.next)?;
        // What the receiver already has was not read here yet: the hash covers it too, and catches up on the way.
        self.hash_towards(self.next)?;
        if self.hashed == self.next {
            self.hasher.update(&buffer[..want]);
            self.hashed += want as u64;
        }
        let offset = self.next;
        self.next += want as u64;
        let buffer = buffer.freeze();
        let data = buffer.slice(..want);
        pieces.remember(buffer);
        Ok(Some(Command::Supply { id: self.id, offset, data }))
    }

    /// BLAKE3 of the whole, if all of it was read.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        (self.hashed == self.size).then(|| *self.hasher.finalize().as_bytes())
    }

    /// BLAKE3 of the whole, also of what the receiver had already and was not read here. Slow: not on the gateway thread.
    pub(crate) fn into_digest(mut self) -> Result<[u8; 32], String> {
        while self.hashed < self.size {
            self.hash_towards(self.size)?;
        }
        self.check_unchanged()?;
        Ok(*self.hasher.finalize().as_bytes())
    }

    /// Hash on, at most `CATCH_UP_BYTES` and not beyond `end`.
    fn hash_towards(&mut self, end: u64) -> Result<(), String> {
        if self.hashed >= end {
            return Ok(());
        }
        let end = end.min(self.hashed.saturating_add(CATCH_UP_BYTES));
        let mut buffer = vec![0; READ_BYTES];
        while self.hashed < end {
            let take = (end - self.hashed).min(READ_BYTES as u64) as usize;
            self.read(&mut buffer[..take], self.hashed)?;
            self.hasher.update(&buffer[..take]);
            self.hashed += take as u64;
        }
        Ok(())
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), String> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "the file was cut short while it was sent".to_owned(),
            _ => format!("cannot read the file at offset {offset}: {error}"),
        })
    }

    fn check_unchanged(&self) -> Result<(), String> {
        let metadata = self.file.metadata().map_err(|error| format!("cannot examine the file: {error}"))?;
        if metadata.len() == self.size && (metadata.mtime(), metadata.mtime_nsec()) == self.modified {
            Ok(())
        } else {
            Err("the file was changed while it was sent; send it again".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ID: TransferId = TransferId(1);

    fn supplied(file: &mut OutgoingFile) -> (Vec<u8>, Option<(u64, [u8; 32])>) {
        let (mut bytes, mut pieces) = (Vec::new(), Pieces::default());
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
            let command = file.step(&mut Pieces::default()).unwrap();
            assert!(file.hashed - before <= CATCH_UP_BYTES + READ_BYTES as u64);
            before = file.hashed;
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
        let mut pieces = Pieces::default();
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
        assert!(file.step(&mut Pieces::default()).unwrap_err().contains("cut short"));
    }
}
