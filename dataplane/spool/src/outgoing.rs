//! A file on its way out: read in place, each byte hashed once.
//!
//! Pieces are read from where the receiver says. The hash covers all of the file, also what the receiver has and is not read for
//! it: that is caught up with, a bounded piece at a time. Its [state](crate::hash::HashState) is kept in the book while the file
//! is sent, so that a new start reads again at most what was sent since.

use std::io;

use florelay_engine::api::{FailCode, Failure};

use crate::hash::{HashState, TreeHasher};
use crate::storage::{FileRef, Identity};

/// Bytes of a piece. Pieces end at multiples of it, so that BLAKE3 gets whole subtrees, which it hashes many chunks at a time.
pub const PIECE_BYTES: usize = 64 << 10;
/// Bytes that are hashed in one step although the receiver has them: who calls has others to serve.
const CATCH_UP_BYTES: u64 = 1 << 20;

/// Why a file cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// A folder, a pipe, a device.
    #[error("only regular files can be sent")]
    NotRegular,
    /// The disk refused.
    #[error("cannot read the file at offset {offset}: {error}")]
    Disk {
        /// Where.
        offset: u64,
        /// Why.
        error: io::Error,
    },
    /// It is shorter than it was.
    #[error("the file was cut short while it was sent")]
    CutShort,
    /// It is not what it was.
    #[error("the file was changed while it was sent; send it again")]
    Changed,
    /// It is not the file that was sent before the restart.
    #[error("this is not the file that was being sent, or it was changed meanwhile")]
    Another,
}

impl OutgoingError {
    /// As both ends of the transfer hear it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let code = match self {
            Self::Disk { .. } => FailCode::Storage,
            Self::NotRegular | Self::CutShort | Self::Changed | Self::Another => FailCode::SourceChanged,
        };
        Failure::new(code, self.to_string())
    }
}

/// A file that is sent.
#[derive(Debug)]
pub struct Outgoing {
    file: FileRef,
    identity: Identity,
    hasher: TreeHasher,
}

impl Outgoing {
    /// A file, from its beginning.
    ///
    /// # Errors
    /// It is no regular file, or cannot be examined.
    pub fn new(file: FileRef) -> Result<Self, OutgoingError> {
        let identity = file.identity().map_err(|error| OutgoingError::Disk { offset: 0, error })?;
        if !identity.regular {
            return Err(OutgoingError::NotRegular);
        }
        Ok(Self { file, identity, hasher: TreeHasher::new() })
    }

    /// A file that was being sent before a restart.
    ///
    /// # Errors
    /// As `new`; or it is another file than it was, or was changed.
    pub fn resume(file: FileRef, identity: &Identity, hash: &HashState) -> Result<Self, OutgoingError> {
        let mut outgoing = Self::new(file)?;
        if outgoing.identity != *identity || hash.offset() > identity.size {
            return Err(OutgoingError::Another);
        }
        outgoing.hasher = TreeHasher::resume(hash);
        Ok(outgoing)
    }

    /// Bytes of it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Which file it is, and in which state it is sent.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// BLAKE3 as far as it was read, for the book.
    #[must_use]
    pub fn state(&self) -> HashState {
        self.hasher.state()
    }

    /// First byte that was not hashed.
    #[must_use]
    pub fn hashed(&self) -> u64 {
        self.hasher.count()
    }

    /// Where the piece that begins at `offset` ends.
    #[must_use]
    pub fn piece_end(&self, offset: u64) -> u64 {
        let whole = (offset / PIECE_BYTES as u64 + 1).saturating_mul(PIECE_BYTES as u64);
        whole.min(self.size()).max(offset)
    }

    /// Read the piece at `offset` into the buffer, which takes as much as `piece_end` says, and hash what was not yet.
    ///
    /// # Errors
    /// It cannot be read, or was cut short.
    pub fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), OutgoingError> {
        self.read_at(buffer, offset)?;
        self.hash_towards(offset)?;
        let end = offset + buffer.len() as u64;
        if (offset..end).contains(&self.hashed()) {
            self.hasher.update(&buffer[(self.hashed() - offset) as usize..]);
        }
        Ok(())
    }

    /// Hash on, at most a bounded piece, and not beyond `end`.
    ///
    /// # Errors
    /// As `read`.
    pub fn hash_towards(&mut self, end: u64) -> Result<(), OutgoingError> {
        if self.hashed() >= end {
            return Ok(());
        }
        let end = end.min(self.hashed().saturating_add(CATCH_UP_BYTES));
        let mut buffer = vec![0; PIECE_BYTES];
        while self.hashed() < end {
            let take = (end.min(self.piece_end(self.hashed())) - self.hashed()) as usize;
            self.read_at(&mut buffer[..take], self.hashed())?;
            self.hasher.update(&buffer[..take]);
        }
        Ok(())
    }

    /// BLAKE3 of the whole, if all of it was read.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        (self.hashed() == self.size()).then(|| *self.hasher.finalize().as_bytes())
    }

    /// It is still what it was when it was opened.
    ///
    /// # Errors
    /// It is not, or cannot be examined.
    pub fn check_unchanged(&self) -> Result<(), OutgoingError> {
        match self.file.identity() {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(OutgoingError::Changed),
            Err(error) => Err(OutgoingError::Disk { offset: 0, error }),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), OutgoingError> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => OutgoingError::CutShort,
            _ => OutgoingError::Disk { offset, error },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::{Open, SimStorage, Storage as _};

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    fn file(disk: &SimStorage) -> FileRef {
        disk.open(Path::new("file"), Open::Existing).unwrap()
    }

    /// Read from `offset` on, pieces and end.
    fn read(outgoing: &mut Outgoing, mut offset: u64) -> (Vec<u8>, [u8; 32]) {
        let mut bytes = Vec::new();
        while offset < outgoing.size() {
            let end = outgoing.piece_end(offset);
            let mut buffer = vec![0; (end - offset) as usize];
            outgoing.read(&mut buffer, offset).unwrap();
            bytes.extend_from_slice(&buffer);
            offset = end;
        }
        while outgoing.digest().is_none() {
            outgoing.hash_towards(outgoing.size()).unwrap();
        }
        outgoing.check_unchanged().unwrap();
        (bytes, outgoing.digest().unwrap())
    }

    #[test]
    fn the_hash_covers_the_whole_wherever_the_receiver_goes_on() {
        let disk = SimStorage::new(1);
        let bytes = content(5_000_077);
        let digest = *blake3::hash(&bytes).as_bytes();
        disk.put(Path::new("file"), &bytes);
        for offset in [0, 100, 65_536, 3_000_001, 5_000_076, 5_000_077] {
            let mut outgoing = Outgoing::new(file(&disk)).unwrap();
            let mut piece = vec![0; 70];
            outgoing.read(&mut piece, 10).unwrap();
            assert_eq!(read(&mut outgoing, offset as u64), (bytes[offset..].to_vec(), digest));
        }
        disk.put(Path::new("empty"), b"");
        let mut empty = Outgoing::new(disk.open(Path::new("empty"), Open::Existing).unwrap()).unwrap();
        assert_eq!(read(&mut empty, 0), (vec![], *blake3::hash(b"").as_bytes()));
    }

    #[test]
    fn a_resume_reads_only_what_lies_behind_the_state() {
        let disk = SimStorage::new(1);
        let bytes = content(5_000_077);
        disk.put(Path::new("file"), &bytes);
        let mut before = Outgoing::new(file(&disk)).unwrap();
        while before.hashed() < 4_000_000 {
            before.hash_towards(4_000_000).unwrap();
        }
        let (state, identity) = (before.state(), before.identity());
        disk.kill();
        let read_before = disk.bytes_read();
        let mut outgoing = Outgoing::resume(file(&disk), &identity, &state).unwrap();
        // The receiver has more than was hashed here.
        let (rest, digest) = read(&mut outgoing, 4_500_000);
        assert_eq!((rest.as_slice(), digest), (&bytes[4_500_000..], *blake3::hash(&bytes).as_bytes()));
        assert_eq!(disk.bytes_read() - read_before, 5_000_077 - state.offset());
    }

    #[test]
    fn a_file_that_changes_is_an_error() {
        let disk = SimStorage::new(1);
        disk.put(Path::new("file"), &content(100_000));
        let mut outgoing = Outgoing::new(file(&disk)).unwrap();
        let (identity, state) = (outgoing.identity(), outgoing.state());
        file(&disk).write_all_at(b"x", 5).unwrap();
        assert!(matches!(outgoing.check_unchanged(), Err(OutgoingError::Changed)));
        assert!(matches!(Outgoing::resume(file(&disk), &identity, &state), Err(OutgoingError::Another)));
        file(&disk).set_length(3).unwrap();
        assert!(matches!(outgoing.read(&mut [0; 65_536], 0), Err(OutgoingError::CutShort)));
    }
}
