//! BLAKE3 that can be put down and taken up again.
//!
//! ```text
//!   bytes   │ block │ block │ block │ block │ bl…        blocks of 64 KiB
//!   stack   │ ───── cv ──── │   cv  │  cv   │            chaining values of whole subtrees, as many as bits are set
//!   inner                                   │ bl…        a plain hasher for the block that is not full
//! ```
//!
//! A BLAKE3 tree (BLAKE3 specification, section 2.1) has whole subtrees of 2ⁿ chunks on its left. Their chaining values say
//! all that the root needs to know of them, so a state of at most 1.6 KiB stands for any number of bytes, and whoever takes it
//! up reads on where it ends. It ends at a multiple of [`BLOCK_BYTES`]; what lies beyond, less than two blocks, is hashed
//! again.
//!
//! Invariant: `blocks` is never 1 in a state. The chaining value of one block alone is no root's child if nothing follows, and
//! whether anything does is not known.

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

/// Where a state can end. Large enough that BLAKE3 hashes as many chunks at a time as the widest vectors take (16 × 1 KiB), and
/// that the merge behind each block costs nothing beside it.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Most bytes of an encoded state: 2⁶³ bytes are 2⁴⁷ blocks.
pub const MAX_STATE_BYTES: usize = 9 + 48 * 32;

const VERSION: u8 = 1;

/// BLAKE3 of the first `offset` bytes of something, to be gone on with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct HashState {
    blocks: u64,
    stack: Vec<ChainingValue>,
}

/// Bytes that are no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashStateError {
    /// Written by a later version.
    #[error("hash state of version {0}; this node knows {VERSION}")]
    Newer(u8),
    /// Not as this version writes them.
    #[error("damaged hash state")]
    Damaged,
}

impl HashState {
    /// Bytes that it covers.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.blocks * BLOCK_BYTES
    }

    /// As bytes, at most [`MAX_STATE_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.blocks.to_le_bytes());
        self.stack.iter().for_each(|cv| bytes.extend_from_slice(cv));
        bytes
    }

    /// The inverse of `encode`.
    ///
    /// # Errors
    /// The bytes are of a later version, or no state.
    pub fn decode(bytes: &[u8]) -> Result<Self, HashStateError> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) if version > VERSION => return Err(HashStateError::Newer(version)),
            _ => return Err(HashStateError::Damaged),
        }
        let (blocks, stack) = bytes[1..].split_first_chunk().ok_or(HashStateError::Damaged)?;
        let blocks = u64::from_le_bytes(*blocks);
        let (stack, rest) = stack.as_chunks::<32>();
        let expected = if blocks == 0 { 0 } else { (blocks - 1).count_ones() as usize + 1 };
        // 2⁶³ bytes: no offset beyond it is ever hashed to.
        let possible = blocks != 1 && blocks <= 1 << 47;
        if !possible || !rest.is_empty() || stack.len() != expected {
            return Err(HashStateError::Damaged);
        }
        Ok(Self { blocks, stack: stack.to_vec() })
    }
}

impl TryFrom<Vec<u8>> for HashState {
    type Error = HashStateError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, HashStateError> {
        Self::decode(&bytes)
    }
}

impl From<HashState> for Vec<u8> {
    fn from(state: HashState) -> Self {
        state.encode()
    }
}

/// A hasher that says its state. As quick as [`blake3::Hasher`] on pieces of 64 KiB and more that begin at multiples of it.
#[derive(Debug, Clone, Default)]
pub struct TreeHasher {
    /// Of the first `blocks` blocks. Two subtrees of one size are merged only when the next block comes: the last merge of all
    /// makes the root, which is another one.
    stack: Vec<ChainingValue>,
    blocks: u64,
    /// The bytes behind those.
    inner: blake3::Hasher,
}

impl TreeHasher {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Go on from a state.
    #[must_use]
    pub fn resume(state: &HashState) -> Self {
        let mut hasher = Self { stack: state.stack.clone(), blocks: state.blocks, inner: blake3::Hasher::new() };
        hasher.inner.set_input_offset(state.offset());
        hasher
    }

    /// The next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.inner.count() == BLOCK_BYTES {
                self.push();
            }
            let room = (BLOCK_BYTES - self.inner.count()) as usize;
            let (now, later) = data.split_at(room.min(data.len()));
            self.inner.update(now);
            data = later;
        }
        // With a block before it, it is a child whatever follows.
        if self.blocks > 0 && self.inner.count() == BLOCK_BYTES {
            self.push();
        }
    }

    fn push(&mut self) {
        let value = self.inner.finalize_non_root();
        merge(&mut self.stack, self.blocks);
        self.stack.push(value);
        self.blocks += 1;
        self.inner = blake3::Hasher::new();
        self.inner.set_input_offset(self.blocks * BLOCK_BYTES);
    }

    /// Bytes so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.blocks * BLOCK_BYTES + self.inner.count()
    }

    /// The latest state that can be put down: of all bytes up to the last multiple of [`BLOCK_BYTES`], of none below two blocks.
    #[must_use]
    pub fn state(&self) -> HashState {
        match self.blocks {
            0 | 1 => HashState::default(),
            blocks => HashState { blocks, stack: self.stack.clone() },
        }
    }

    /// BLAKE3 of all bytes so far.
    #[must_use]
    pub fn finalize(&self) -> blake3::Hash {
        if self.blocks == 0 {
            return self.inner.finalize();
        }
        let mut stack = self.stack.clone();
        let mut right = if self.inner.count() > 0 {
            merge(&mut stack, self.blocks);
            self.inner.finalize_non_root()
        } else {
            stack.pop().unwrap_or_default()
        };
        while stack.len() > 1
            && let Some(left) = stack.pop()
        {
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        // Never empty: of one block alone, which would leave it so, something has followed.
        let left = stack.pop().unwrap_or_default();
        merge_subtrees_root(&left, &right, Mode::Hash)
    }
}

/// Merge until each set bit of `blocks` has one chaining value.
fn merge(stack: &mut Vec<ChainingValue>, blocks: u64) {
    while stack.len() > blocks.count_ones() as usize
        && let Some(right) = stack.pop()
        && let Some(left) = stack.pop()
    {
        stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const B: usize = BLOCK_BYTES as usize;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    /// Hash in pieces of these lengths, put down and taken up again behind each.
    fn in_pieces(bytes: &[u8], lengths: impl IntoIterator<Item = usize>) -> blake3::Hash {
        let mut hasher = TreeHasher::new();
        let mut at = 0;
        for length in lengths {
            let end = (at + length).min(bytes.len());
            hasher.update(&bytes[at..end]);
            let state = hasher.state();
            assert!(state.encode().len() <= MAX_STATE_BYTES && state.offset() <= end as u64);
            assert!(end as u64 - state.offset() < 2 * BLOCK_BYTES || state.offset() == 0 && end <= 2 * B);
            let mut taken_up = TreeHasher::resume(&HashState::decode(&state.encode()).unwrap());
            taken_up.update(&bytes[state.offset() as usize..end]);
            assert_eq!((taken_up.count(), taken_up.finalize()), (end as u64, blake3::hash(&bytes[..end])));
            at = end;
            hasher = taken_up;
        }
        hasher.update(&bytes[at..]);
        hasher.finalize()
    }

    #[test]
    fn every_length_near_an_edge_has_the_same_hash() {
        let bytes = content(17 * B + 1);
        let edges = [0, 1024, 2048, B / 2, B, 2 * B, 3 * B, 4 * B, 5 * B, 7 * B, 8 * B, 15 * B, 16 * B, 17 * B];
        for length in edges.iter().flat_map(|edge| [edge.saturating_sub(1), *edge, edge + 1]) {
            let bytes = &bytes[..length];
            for piece in [length.max(1), B, B + 1, 3 * B, 100_003] {
                assert_eq!(in_pieces(bytes, vec![piece; length / piece]), blake3::hash(bytes), "{length} by {piece}");
            }
        }
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let mut hasher = TreeHasher::new();
        hasher.update(&content(6 * B));
        let good = hasher.state().encode();
        assert_eq!(HashState::decode(&[]), Err(HashStateError::Damaged));
        assert_eq!(HashState::decode(&good[..good.len() - 1]), Err(HashStateError::Damaged));
        assert_eq!(HashState::decode(&good[..good.len() - 32]), Err(HashStateError::Damaged));
        let mut newer = good.clone();
        newer[0] = 2;
        assert_eq!(HashState::decode(&newer), Err(HashStateError::Newer(2)));
        let mut one = good;
        one.truncate(9 + 32);
        one[1] = 1;
        assert_eq!(HashState::decode(&one), Err(HashStateError::Damaged));
    }

    proptest! {
        #[test]
        fn any_split_has_the_same_hash(
            length in 0..12 * B,
            pieces in prop::collection::vec(prop_oneof![0..2048usize, 0..3 * B, Just(B), Just(2 * B)], 0..12),
        ) {
            let bytes = content(length);
            prop_assert_eq!(in_pieces(&bytes, pieces), blake3::hash(&bytes));
        }

        #[test]
        fn no_bytes_make_a_state_that_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), more in 0..3usize) {
            if let Some(version) = bytes.first_mut() {
                *version = 1;
            }
            if let Ok(state) = HashState::decode(&bytes) {
                let mut hasher = TreeHasher::resume(&state);
                hasher.update(&content(more * 1000));
                let _ = hasher.finalize();
            }
        }
    }
}
