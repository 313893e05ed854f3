//! Memory to read files and pipes into, used again and again.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use florelay_spool::outgoing::PIECE_BYTES;

/// Bytes of a piece.
pub(super) const READ_BYTES: usize = PIECE_BYTES;
/// Pieces that are remembered of files: what engine and transport hold of one on a short path, twice.
pub(super) const OF_FILES: usize = 64;
/// The same of pipes: what a stream has in memory (`stream-spool`, 16 MiB, counts what is on its way to the disk twice).
pub(super) const OF_PIPES: usize = 160;
/// Remembered pieces that are looked at for one that is free.
const LOOKED_AT: usize = 4;
/// A piece begins at a multiple of this, in bytes. The kernel copies with `rep movsb`, which on some processors takes a quarter
/// longer where the allocator's 16 bytes are all that is kept to.
const ALIGN: usize = 64;

/// Fresh memory costs a page fault for every 4 KiB, so pieces that were acknowledged are read into again.
pub(super) struct Pieces {
    remembered: VecDeque<Bytes>,
    most: usize,
}

impl Pieces {
    /// Holds no more than `most` of `READ_BYTES`.
    pub(super) fn new(most: usize) -> Self {
        Self { remembered: VecDeque::new(), most }
    }

    /// `READ_BYTES` that nobody else holds; what is in them is of no interest.
    pub(super) fn take(&mut self) -> BytesMut {
        for _ in 0..LOOKED_AT.min(self.remembered.len()) {
            match self.remembered.pop_front().map(Bytes::try_into_mut) {
                Some(Ok(free)) => return free,
                Some(Err(held)) => self.remembered.push_back(held),
                None => break,
            }
        }
        let mut fresh = BytesMut::zeroed(READ_BYTES + ALIGN);
        fresh.advance(fresh.as_ptr().align_offset(ALIGN).min(ALIGN));
        fresh.truncate(READ_BYTES);
        fresh
    }

    /// The whole of what `take` gave.
    pub(super) fn remember(&mut self, piece: Bytes) {
        if self.remembered.len() == self.most {
            self.remembered.pop_front();
        }
        self.remembered.push_back(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_given_again_when_nobody_holds_it_and_as_it_was() {
        let mut pieces = Pieces::new(5);
        let mut at = Vec::new();
        let mut held = Vec::new();
        for _ in 0..3 {
            let piece = pieces.take();
            assert_eq!((piece.len(), piece.as_ptr().align_offset(ALIGN)), (READ_BYTES, 0));
            let piece = piece.freeze();
            at.push(piece.as_ptr());
            held.push(piece.slice(100..200));
            pieces.remember(piece);
        }
        held.remove(1);
        let again = pieces.take();
        assert_eq!((again.as_ptr(), again.len()), (at[1], READ_BYTES));
        pieces.remember(again.freeze());
        for _ in 0..10 {
            let piece = pieces.take().freeze();
            held.push(piece.clone());
            pieces.remember(piece);
        }
        assert_eq!(pieces.remembered.len(), 5);
    }
}
