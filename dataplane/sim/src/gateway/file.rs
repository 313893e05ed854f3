//! Files at both ends of a transfer: the bytes are a function of id and offset, so nothing is kept but positions.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::{Command, FailCode, Failure, Kept, TransferId, TransferMeta};
use florelay_engine::time::Nanos;

/// Largest piece supplied at once, in bytes.
const PIECE_BYTES: u64 = 64 << 10;

/// The bytes of file or stream `id` from `offset` on.
#[must_use]
pub fn content(id: TransferId, offset: u64, len: usize) -> Vec<u8> {
    let seed = (id.0 as u64) ^ ((id.0 >> 64) as u64).rotate_left(32);
    let (mut bytes, skip) = (Vec::with_capacity(len + 16), (offset % 8) as usize);
    let mut word = offset / 8;
    while bytes.len() < skip + len {
        // SplitMix64 (Steele, Lea, Flood 2014) on the word's number
        let mut z = seed.wrapping_add((word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        word += 1;
    }
    bytes.truncate(skip + len);
    bytes.drain(..skip);
    bytes
}

pub(super) fn digest(id: TransferId, size: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let len = PIECE_BYTES.min(size - at);
        hasher.update(&content(id, at, len as usize));
        at += len;
    }
    *hasher.finalize().as_bytes()
}

/// The sender's gateway of one file.
#[derive(Debug)]
pub struct FileSource {
    id: TransferId,
    size: u64,
    digest: [u8; 32],
    /// Next byte to supply; `None` until the engine says from where.
    next: Option<u64>,
    limit: u64,
    confirmed: u64,
    /// Each confirmation: when, and up to where.
    confirmations: Vec<(Nanos, u64)>,
    end_said: bool,
    result: Option<(Nanos, Result<(), Failure>)>,
    wire_bytes: u64,
}

impl FileSource {
    pub(super) fn new(id: TransferId, size: u64) -> Self {
        Self {
            id,
            size,
            digest: digest(id, size),
            next: None,
            limit: 0,
            confirmed: 0,
            confirmations: Vec::new(),
            end_said: false,
            result: None,
            wire_bytes: 0,
        }
    }

    /// The node was restarted. The file is there, and its book says what was confirmed.
    pub(super) fn restarted(&mut self) -> Kept {
        self.next = None;
        self.limit = 0;
        self.end_said = false;
        Kept { confirmed: self.confirmed, head: self.size }
    }

    pub(super) fn supply_from(&mut self, offset: u64) {
        assert!(offset <= self.size, "{:?}: supply from {offset} of {}", self.id, self.size);
        assert!(offset >= self.confirmed, "{:?}: supply from {offset}, {} is confirmed", self.id, self.confirmed);
        self.next = Some(offset);
        self.limit = offset;
        self.end_said = false;
    }

    pub(super) fn supply_up_to(&mut self, limit: u64, commands: &mut Vec<Command>) {
        let id = self.id;
        assert!(limit >= self.limit, "{id:?}: the limit shrank from {} to {limit}", self.limit);
        self.limit = limit;
        let next = self.next.as_mut().unwrap_or_else(|| panic!("{id:?}: a limit before an offset"));
        while *next < limit.min(self.size) {
            let len = PIECE_BYTES.min(limit.min(self.size) - *next);
            let data = Bytes::from(content(id, *next, len as usize));
            commands.push(Command::Supply { id, offset: *next, data });
            *next += len;
        }
        if *next == self.size && !self.end_said {
            self.end_said = true;
            commands.push(Command::SupplyEnd { id, size: self.size, digest: self.digest });
        }
    }

    pub(super) fn confirmed(&mut self, now: Nanos, offset: u64) {
        assert!(offset >= self.confirmed, "{:?}: confirmation fell from {} to {offset}", self.id, self.confirmed);
        assert!(offset <= self.size, "{:?}: {offset} of {} confirmed", self.id, self.size);
        self.confirmed = offset;
        self.confirmations.push((now, offset));
    }

    pub(super) fn ended(&mut self, now: Nanos, result: Result<(), Failure>, wire_bytes: u64) {
        assert!(self.result.is_none(), "{:?}: a second end: {result:?}", self.id);
        self.result = Some((now, result));
        self.wire_bytes = wire_bytes;
    }

    /// Bytes of its stripes that were sent, as the engine said at the end.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First byte that the receiver has not confirmed.
    #[must_use]
    pub fn confirmed_bytes(&self) -> u64 {
        self.confirmed
    }

    /// First byte that may not be supplied yet.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Each confirmation: when, and the first byte not confirmed.
    #[must_use]
    pub fn confirmations(&self) -> &[(Nanos, u64)] {
        &self.confirmations
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn result(&self) -> Option<&Result<(), Failure>> {
        self.result.as_ref().map(|(_, result)| result)
    }

    /// When it ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Nanos> {
        self.result.as_ref().map(|(at, _)| *at)
    }
}

/// The receiver's gateway of one file.
#[derive(Debug)]
pub struct FileSink {
    id: TransferId,
    write_delay: Duration,
    sync_delay: Duration,
    /// First byte that has not arrived.
    next: u64,
    written: u64,
    /// First byte that a power cut takes.
    synced: u64,
    /// Pieces that are being written: when done, and up to where.
    writes: VecDeque<(Nanos, u64)>,
    /// Pieces that are being synced.
    syncs: VecDeque<(Nanos, u64)>,
    end: Option<(u64, [u8; 32])>,
    complete_at: Option<Nanos>,
    /// Each arrival: when, and how many bytes.
    arrivals: Vec<(Nanos, u32)>,
    result: Option<(Nanos, Result<(), Failure>)>,
    /// The node lost its memory since the last offer, or the sender did.
    restarted: bool,
    shelved: Option<Nanos>,
}

impl FileSink {
    pub(super) fn new(id: TransferId, write_delay: Duration, sync_delay: Duration) -> Self {
        Self {
            id,
            write_delay,
            sync_delay,
            next: 0,
            written: 0,
            synced: 0,
            writes: VecDeque::new(),
            syncs: VecDeque::new(),
            end: None,
            complete_at: None,
            arrivals: Vec::new(),
            result: None,
            restarted: false,
            shelved: None,
        }
    }

    pub(super) fn offered(&mut self, _meta: &TransferMeta, commands: &mut Vec<Command>) {
        let afresh = std::mem::take(&mut self.restarted) || (self.next == 0 && self.result.is_none());
        assert!(afresh, "{:?} is offered a second time", self.id);
        // A file that was through is offered again if the sender did not hear of it.
        self.result = None;
        // What was on its way to the disk is asked for again.
        self.next = self.written;
        self.synced = self.written;
        self.writes.clear();
        self.syncs.clear();
        self.end = None;
        commands.push(Command::Accept { id: self.id, offset: self.written });
    }

    pub(super) fn data(&mut self, now: Nanos, offset: u64, data: &[u8]) {
        assert_eq!(offset, self.next, "{:?}: bytes out of order at {now:?}", self.id);
        assert!(!data.is_empty(), "{:?}: an empty piece at {offset}", self.id);
        assert!(data == content(self.id, offset, data.len()), "{:?}: wrong bytes at {offset}", self.id);
        self.next += data.len() as u64;
        self.arrivals.push((now, data.len() as u32));
        self.writes.push_back((now + self.write_delay, self.next));
    }

    pub(super) fn data_end(&mut self, now: Nanos, size: u64, digest: [u8; 32]) {
        assert_eq!(size, self.next, "{:?}: the end is said at another place", self.id);
        assert!(self.end.is_none(), "{:?}: a second end of data", self.id);
        self.end = Some((size, digest));
        self.complete_at = Some(now + self.write_delay + self.write_delay + self.sync_delay);
    }

    pub(super) fn handle_timeout(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let id = self.id;
        while let Some((_, offset)) = self.writes.pop_front_if(|(at, _)| *at <= now) {
            self.written = offset;
            self.syncs.push_back((now + self.sync_delay, offset));
            commands.push(Command::Written { id, offset });
        }
        while let Some((_, offset)) = self.syncs.pop_front_if(|(at, _)| *at <= now) {
            self.synced = offset;
            commands.push(Command::Synced { id, offset });
        }
        if self.complete_at.is_some_and(|at| at <= now)
            && let Some((size, announced)) = self.end
        {
            self.complete_at = None;
            let right = announced == digest(id, size);
            let result = if right { Ok(()) } else { Err(Failure::new(FailCode::Digest, "BLAKE3 does not match")) };
            commands.push(Command::Complete { id, result });
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Nanos> {
        let first = |queue: &VecDeque<(Nanos, u64)>| queue.front().map(|(at, _)| *at);
        first(&self.writes).into_iter().chain(first(&self.syncs)).chain(self.complete_at).min()
    }

    pub(super) fn ended(&mut self, now: Nanos, result: Result<(), Failure>) {
        assert!(self.result.is_none(), "{:?}: a second end: {result:?}", self.id);
        self.result = Some((now, result));
    }

    /// The sender has forgotten it; what is written is kept.
    pub(super) fn shelved(&mut self, now: Nanos) {
        assert!(self.result.is_none(), "{:?}: shelved after its end", self.id);
        self.shelved = Some(now);
        self.put_aside();
    }

    /// The power was cut: what is not synced is gone.
    pub(super) fn restarted(&mut self) {
        self.written = self.synced;
        self.put_aside();
    }

    fn put_aside(&mut self) {
        self.restarted = true;
        self.next = self.written;
        self.writes.clear();
        self.syncs.clear();
        self.end = None;
        self.complete_at = None;
    }

    /// When its sender was found to have forgotten it, if so.
    #[must_use]
    pub fn shelved_at(&self) -> Option<Nanos> {
        self.shelved
    }

    /// First byte that has not arrived.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.next
    }

    /// First byte that is not written.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// First byte that a power cut would take.
    #[must_use]
    pub fn synced_bytes(&self) -> u64 {
        self.synced
    }

    /// Each arrival of new bytes: when, and how many.
    #[must_use]
    pub fn arrivals(&self) -> &[(Nanos, u32)] {
        &self.arrivals
    }

    /// Bytes that arrived in `[start, end)`.
    #[must_use]
    pub fn received_between(&self, start: Nanos, end: Nanos) -> u64 {
        let within = self.arrivals.iter().filter(|(at, _)| (start..end).contains(at));
        within.map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    /// When it ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Nanos> {
        self.result.as_ref().map(|(at, _)| *at)
    }

    /// The first arrival at or after `from`.
    #[must_use]
    pub fn first_arrival_since(&self, from: Nanos) -> Option<Nanos> {
        self.arrivals.iter().map(|(at, _)| *at).find(|at| *at >= from)
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn result(&self) -> Option<&Result<(), Failure>> {
        self.result.as_ref().map(|(_, result)| result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_does_not_depend_on_where_it_is_cut() {
        let id = TransferId(77);
        let whole = content(id, 0, 1000);
        for (start, len) in [(0, 1), (7, 9), (8, 8), (13, 500), (999, 1)] {
            assert_eq!(content(id, start as u64, len), whole[start..start + len]);
        }
        assert_ne!(content(TransferId(78), 0, 1000), whole);
        assert_eq!(digest(id, 1000), *blake3::hash(&whole).as_bytes());
    }
}
