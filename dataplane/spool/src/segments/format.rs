//! A segment file, all numbers little-endian:
//!
//! ```text
//!   header  "FLSG" · version u16 · state length u16 · id u128 · base u64 · confirmed u64 · checksum [8] · hash state, zeros   2048
//!   record  length u32 · checksum [8] · bytes                                                                             12 + length
//! ```
//!
//! A record's checksum is the beginning of a keyed BLAKE3, with stream, offset and length as the key: a record that was written
//! somewhere else, or in an earlier life of its place, is not taken for one. `confirmed` is what was confirmed when the segment
//! was begun.

use super::SegmentError;
use crate::hash::{HashState, HashStateError, MAX_STATE_BYTES};

pub(super) const VERSION: u16 = 1;
pub(super) const HEADER_BYTES: usize = 2048;
/// Most stream bytes of a record: what is read to check one byte.
pub(super) const RECORD_BYTES: usize = 64 << 10;
pub(super) const RECORD_HEADER_BYTES: usize = 12;
/// A segment that is being written anew.
pub(super) const NEW_NAME: &str = "new";

const MAGIC: [u8; 4] = *b"FLSG";
const SUM_AT: usize = 40;
const STATE_AT: usize = 48;
const _: () = assert!(STATE_AT + MAX_STATE_BYTES <= HEADER_BYTES);

/// What a segment begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u128,
    pub(super) base: u64,
    pub(super) confirmed: u64,
    pub(super) state: HashState,
}

impl Header {
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        let state = self.state.encode();
        let from = to.len();
        to.extend_from_slice(&MAGIC);
        to.extend_from_slice(&VERSION.to_le_bytes());
        // At most `MAX_STATE_BYTES`.
        to.extend_from_slice(&(state.len() as u16).to_le_bytes());
        to.extend_from_slice(&self.id.to_le_bytes());
        to.extend_from_slice(&self.base.to_le_bytes());
        to.extend_from_slice(&self.confirmed.to_le_bytes());
        to.resize(from + STATE_AT, 0);
        to.extend_from_slice(&state);
        to.resize(from + HEADER_BYTES, 0);
        let sum = sum(&to[from..]);
        to[from + SUM_AT..from + STATE_AT].copy_from_slice(&sum);
    }

    /// `None` = not whole, or not right.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, SegmentError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let mut rest = &bytes[..];
        let mut take = |n: usize| {
            let (now, later) = rest.split_at(n);
            rest = later;
            now
        };
        if take(4) != MAGIC {
            return Ok(None);
        }
        let version = number(take(2)) as u16;
        if version > VERSION {
            return Err(SegmentError::Newer(version));
        }
        let length = number(take(2)) as usize;
        let (id, base, confirmed) = (number(take(16)), number(take(8)) as u64, number(take(8)) as u64);
        if take(8) != sum(bytes) {
            return Ok(None);
        }
        let state = rest.get(..length).map_or(Err(HashStateError::Damaged), HashState::decode);
        Ok(state.ok().filter(|state| state.offset() == base).map(|state| Self { id, base, confirmed, state }))
    }
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Of a header without its checksum.
fn sum(header: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..SUM_AT]).update(&header[STATE_AT..]);
    first(&hasher.finalize())
}

fn first(hash: &blake3::Hash) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Of a record that begins at this offset of the stream.
pub(super) fn record_sum(id: u128, offset: u64, body: &[u8]) -> [u8; 8] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&id.to_le_bytes());
    key[16..24].copy_from_slice(&offset.to_le_bytes());
    key[24..].copy_from_slice(&(body.len() as u64).to_le_bytes());
    first(&blake3::keyed_hash(&key, body))
}

/// Append a record of at most `RECORD_BYTES`.
pub(super) fn put_record(to: &mut Vec<u8>, id: u128, offset: u64, body: &[u8]) {
    to.extend_from_slice(&(body.len() as u32).to_le_bytes());
    to.extend_from_slice(&record_sum(id, offset, body));
    to.extend_from_slice(body);
}

/// Length and checksum; `None` = it is no record's.
pub(super) fn parse_record(header: &[u8; RECORD_HEADER_BYTES]) -> Option<(usize, [u8; 8])> {
    let [a, b, c, d, sum @ ..] = *header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    (1..=RECORD_BYTES).contains(&length).then_some((length, sum))
}

/// Go through a segment's bytes up to the first record that is not right; says how many bytes were, and the offset behind.
///
/// # Errors
/// The header is not this segment's.
pub(super) fn walk(
    bytes: &[u8],
    id: u128,
    base: u64,
    mut record: impl FnMut(u64, &[u8]),
) -> Result<(usize, u64), SegmentError> {
    if Header::parse(bytes)?.is_none_or(|header| (header.id, header.base) != (id, base)) {
        return Err(SegmentError::Damaged { offset: base });
    }
    let (mut at, mut offset) = (HEADER_BYTES, base);
    while let Some((header, rest)) = bytes[at..].split_first_chunk::<RECORD_HEADER_BYTES>() {
        let Some((length, sum)) = parse_record(header) else { break };
        let Some(body) = rest.get(..length).filter(|body| record_sum(id, offset, body) == sum) else { break };
        let Some(end) = offset.checked_add(length as u64) else { break };
        record(offset, body);
        (at, offset) = (at + RECORD_HEADER_BYTES + length, end);
    }
    Ok((at, offset))
}

/// File name of the segment that begins at `base`.
pub(super) fn name(base: u64) -> String {
    format!("{base:016x}.seg")
}

/// Where the segment of this name begins.
pub(super) fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let base = u64::from_str_radix(digits, 16).ok()?;
    (self::name(base) == name).then_some(base)
}

/// Read a file as a segment, whatever its bytes are; gives the stream bytes that were found, if it is one. For tools and
/// fuzzers.
#[must_use]
pub fn check(bytes: &[u8]) -> Option<u64> {
    let header = Header::parse(bytes).ok()??;
    walk(bytes, header.id, header.base, |_, _| {}).ok().map(|(_, end)| end - header.base)
}
