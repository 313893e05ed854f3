//! Bytes of a stream in memory, in the pieces in which they came: what is handed on is not copied.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

/// Smaller pieces are gathered: each costs some dozens of bytes beside what is in it.
const SMALL_BYTES: usize = 16 << 10;
/// Most bytes gathered into one piece.
const GATHERED_BYTES: usize = 64 << 10;

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub struct Memory {
    pieces: VecDeque<Bytes>,
    /// Small ones, behind all of `pieces`.
    gathered: Vec<u8>,
    /// Of both.
    bytes: u64,
}

impl Memory {
    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Add at the end.
    pub fn push(&mut self, data: Bytes) {
        self.bytes += data.len() as u64;
        let small = data.len() < SMALL_BYTES;
        if !self.gathered.is_empty() && (!small || self.gathered.len() + data.len() > GATHERED_BYTES) {
            let mut whole = std::mem::take(&mut self.gathered);
            whole.shrink_to_fit();
            self.pieces.push_back(whole.into());
        }
        if small { self.gathered.extend_from_slice(&data) } else { self.pieces.push_back(data) }
    }

    /// Let go of the first bytes, as many as there are at most.
    pub fn let_go(&mut self, count: u64) {
        let mut left = count.min(self.bytes) as usize;
        self.bytes -= left as u64;
        while left > 0 {
            match self.pieces.front_mut() {
                Some(piece) if piece.len() > left => {
                    piece.advance(left);
                    left = 0;
                }
                Some(piece) => {
                    left -= piece.len();
                    self.pieces.pop_front();
                }
                None => {
                    self.gathered.drain(..left);
                    left = 0;
                }
            }
        }
    }

    /// Take the first piece, if it has at most so many bytes.
    pub fn pop(&mut self, most: u64) -> Option<Bytes> {
        let first = self.pieces.front().map_or(self.gathered.len(), Bytes::len) as u64;
        if first == 0 || first > most {
            return None;
        }
        self.bytes -= first;
        Some(self.pieces.pop_front().unwrap_or_else(|| std::mem::take(&mut self.gathered).into()))
    }

    /// At most so many bytes from a place on: some, if there are any.
    pub fn from(&self, at: u64, most: usize) -> Bytes {
        let Some(mut back) = self.bytes.checked_sub(at) else { return Bytes::new() };
        let gathered = self.gathered.len() as u64;
        if back <= gathered {
            let rest = &self.gathered[(gathered - back) as usize..];
            return Bytes::copy_from_slice(&rest[..rest.len().min(most)]);
        }
        back -= gathered;
        // What is asked for is mostly near the end.
        for piece in self.pieces.iter().rev() {
            let length = piece.len() as u64;
            if back <= length {
                let from = (length - back) as usize;
                return piece.slice(from..piece.len().min(from.saturating_add(most)));
            }
            back -= length;
        }
        Bytes::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn large_pieces_are_handed_on_and_small_ones_gathered() {
        let mut memory = Memory::default();
        let large = Bytes::from(vec![1; SMALL_BYTES]);
        memory.push(large.clone());
        for _ in 0..1000 {
            memory.push(Bytes::from_static(&[2; 100]));
        }
        memory.push(large.clone());
        assert_eq!(memory.from(10, 100).as_ptr(), large[10..].as_ptr());
        assert!(memory.pieces.len() <= 4, "{}", memory.pieces.len());
        assert_eq!(memory.bytes(), 2 * SMALL_BYTES as u64 + 100_000);
        assert_eq!(memory.pop(SMALL_BYTES as u64 - 1), None);
        assert_eq!(memory.pop(SMALL_BYTES as u64).map(|piece| piece.as_ptr()), Some(large.as_ptr()));
        assert_eq!(memory.pop(u64::MAX).map(|piece| piece.len() % 100), Some(0));
        memory.push(Bytes::from_static(&[3; 100]));
        memory.let_go(memory.bytes() - 50);
        assert_eq!(memory.pop(50), Some(Bytes::from_static(&[3; 50])));
        assert_eq!(memory.pop(u64::MAX), None);
        memory.push(large);
        memory.let_go(u64::MAX);
        assert_eq!((memory.bytes(), memory.pieces.len(), memory.gathered.len()), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn it_has_the_bytes_that_were_given_and_not_let_go(
            steps in prop::collection::vec((prop_oneof![0..100usize, 10_000..40_000usize], 0..30_000u64, 1..70_000usize), 1..30),
        ) {
            let (mut memory, mut model, mut next) = (Memory::default(), Vec::<u8>::new(), 0u32);
            for (length, gone, most) in steps {
                let data: Vec<u8> = (0..length).map(|_| { next += 1; (next.wrapping_mul(2_654_435_761) >> 24) as u8 }).collect();
                model.extend_from_slice(&data);
                memory.push(data.into());
                memory.let_go(gone);
                model.drain(..(gone as usize).min(model.len()));
                prop_assert_eq!(memory.bytes(), model.len() as u64);
                let mut at = 0;
                while at < model.len() {
                    let piece = memory.from(at as u64, most);
                    prop_assert!(!piece.is_empty() && piece.len() <= most);
                    prop_assert_eq!(&piece[..], &model[at..at + piece.len()]);
                    at += piece.len();
                }
                prop_assert!(memory.from(at as u64, most).is_empty() && memory.from(at as u64 + 1, most).is_empty());
            }
        }
    }
}
