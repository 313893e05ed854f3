//! What a gateway has of a stream that is sent from here: its last bytes in memory, and where the others are.
//!
//! ```text
//!   0 ── confirmed ──── synced ── appended ────────── head
//!             │ on disk, read back for supply │
//!                              base ─ in memory ───── head      at most what may be in memory
//! ```
//!
//! With a disk, bytes leave memory once they are appended there, the oldest first, and the writer may go on as long as what is
//! *not* appended is little and the disk has room. Without one they stay until they are confirmed. Nothing is ever dropped: no
//! room = the writer's pipe is not read (invariant 6). No syscalls, no clock.

use bytes::Bytes;
use florelay_engine::Command;
use florelay_engine::api::{Event, TransferId};

use crate::hash::TreeHasher;
use crate::memory::Memory;

/// Largest piece supplied in one command, in bytes.
const PIECE_BYTES: u64 = 64 << 10;
/// Bytes read back from the disk at a time.
const BACK_BYTES: usize = 1 << 20;

/// Where the bytes are that are not in memory.
#[derive(Debug)]
enum Where {
    /// Nowhere: all are in memory, and hashed here.
    Memory(Box<TreeHasher>),
    Disk {
        appended: u64,
        room: u64,
        synced: u64,
        /// Read back, and where it begins.
        back: (u64, Bytes),
        /// Asked for and not come yet.
        asked: Option<u64>,
    },
}

/// The sender's view of one stream.
#[derive(Debug)]
pub struct Tail {
    id: TransferId,
    /// Bytes from `base` on.
    held: Memory,
    base: u64,
    confirmed: u64,
    next: Option<u64>,
    limit: u64,
    end: Option<(u64, [u8; 32])>,
    end_said: bool,
    place: Where,
}

impl Tail {
    fn new(id: TransferId, head: u64, place: Where) -> Self {
        Self {
            id,
            held: Memory::default(),
            base: head,
            confirmed: 0,
            next: None,
            limit: 0,
            end: None,
            end_said: false,
            place,
        }
    }

    /// A new stream in memory alone.
    #[must_use]
    pub fn in_memory(id: TransferId) -> Self {
        Self::new(id, 0, Where::Memory(Box::default()))
    }

    /// One with a disk behind it, which has everything below `head`, `room` bytes for more.
    #[must_use]
    pub fn on_disk(id: TransferId, confirmed: u64, head: u64, room: u64) -> Self {
        let back = (head, Bytes::new());
        let place = Where::Disk { appended: head, room, synced: head, back, asked: None };
        Self { confirmed, ..Self::new(id, head, place) }
    }

    /// Bytes in memory.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.bytes()
    }

    /// Bytes that the program has written in all.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.base + self.held()
    }

    /// First byte that is not confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// First byte that the engine was not given.
    pub fn supplied(&self) -> u64 {
        self.next.unwrap_or(self.confirmed)
    }

    /// Bytes that are not confirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.head().saturating_sub(self.confirmed)
    }

    /// Everything below will not be lost any more.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        match &self.place {
            Where::Memory(_) => self.confirmed.min(self.head()),
            Where::Disk { synced, .. } => *synced,
        }
    }

    /// Bytes that must be in memory: that the disk does not have yet, or the receiver, where there is no disk.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        match &self.place {
            Where::Memory(_) => self.held(),
            Where::Disk { appended, .. } => self.head().saturating_sub(*appended),
        }
    }

    /// Bytes that the program may write as far as the disk is concerned.
    #[must_use]
    pub fn room(&self) -> u64 {
        match &self.place {
            _ if self.end.is_some() => 0,
            Where::Memory(_) => u64::MAX,
            Where::Disk { room, .. } => room.saturating_sub(self.pinned()),
        }
    }

    /// Bytes in all, if it has ended.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.end.map(|(size, _)| size)
    }

    /// A disk is behind it.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        matches!(self.place, Where::Disk { .. })
    }

    /// The application has written these bytes; at most `most` stay in memory if the disk has the others.
    pub fn push(&mut self, data: Bytes, most: u64) {
        if let Where::Memory(hasher) = &mut self.place {
            hasher.update(&data);
        }
        self.held.push(data);
        self.trim(most);
    }

    /// This is all; without a disk size and digest are known here.
    pub fn end(&mut self, end: Option<(u64, [u8; 32])>) -> Option<(u64, [u8; 32])> {
        let here = match &self.place {
            Where::Memory(hasher) => Some((self.head(), *hasher.finalize().as_bytes())),
            Where::Disk { .. } => None,
        };
        self.end = end.or(here).or(self.end);
        self.end
    }

    /// BLAKE3 of the whole, if it has ended.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.end.map(|(_, digest)| digest)
    }

    /// How far the disk is.
    pub fn spooled(&mut self, now_appended: u64, now_synced: u64, now_room: u64, most: u64) {
        if let Where::Disk { appended, room, synced, .. } = &mut self.place {
            (*appended, *room, *synced) = (now_appended, now_room, now_synced);
        }
        self.trim(most);
    }

    /// Bytes that were asked for have come.
    pub fn read_back(&mut self, offset: u64, data: Bytes) {
        if let Where::Disk { back, asked, .. } = &mut self.place
            && *asked == Some(offset)
        {
            (*back, *asked) = ((offset, data), None);
        }
    }

    /// What the engine said of this stream.
    pub fn handle(&mut self, event: &Event, most: u64) {
        match *event {
            Event::SupplyFrom { offset, .. } => {
                // It may be beyond what is here, if this end has lost what it had sent: the program comes there again.
                self.next = Some(offset.max(self.confirmed));
                self.limit = offset;
                self.end_said = false;
            }
            Event::SupplyUpTo { limit, .. } => self.limit = limit,
            Event::Confirmed { offset, .. } => {
                self.confirmed = self.confirmed.max(offset);
                self.next = self.next.map(|next| next.max(self.confirmed));
                self.trim(most);
            }
            _ => {}
        }
    }

    /// Let go what need not be in memory.
    fn trim(&mut self, most: u64) {
        let mut to = self.confirmed;
        if let Where::Disk { appended, .. } = &self.place {
            to = to.max(self.head().saturating_sub(most).min(*appended));
        }
        let gone = to.min(self.head()).saturating_sub(self.base);
        if gone == 0 {
            return;
        }
        self.held.let_go(gone);
        self.base += gone;
    }

    /// What is to be read back for the next step: from where, and how much.
    pub fn wants(&mut self) -> Option<(u64, usize)> {
        let next = self.next.filter(|next| *next < self.limit && *next < self.base)?;
        let Where::Disk { back: (at, data), asked, .. } = &mut self.place else { return None };
        if (*at..*at + data.len() as u64).contains(&next) || asked.is_some_and(|asked| asked == next) {
            return None;
        }
        *asked = Some(next);
        Some((next, BACK_BYTES.min((self.base - next) as usize)))
    }

    /// Whether `step` has something to say.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.next.is_some_and(|next| self.is_over(next) || next < self.limit && self.at_hand(next) > 0)
    }

    /// Bytes that can be supplied from here without reading them back.
    fn at_hand(&self, next: u64) -> u64 {
        if next >= self.base {
            return self.head().saturating_sub(next);
        }
        match &self.place {
            Where::Disk { back: (at, data), .. } if *at <= next => (*at + data.len() as u64).saturating_sub(next),
            _ => 0,
        }
    }

    /// The next command for the engine: a piece within its limit, or the end.
    pub fn step(&mut self) -> Option<Command> {
        let next = self.next?;
        let id = self.id;
        if let Some((size, digest)) = self.end.filter(|_| self.is_over(next)) {
            self.end_said = true;
            return Some(Command::SupplyEnd { id, size, digest });
        }
        let most = self.at_hand(next).min(self.limit.saturating_sub(next)).min(PIECE_BYTES) as usize;
        if most == 0 {
            return None;
        }
        let data = match (&self.place, next.checked_sub(self.base)) {
            (Where::Disk { back: (at, data), .. }, None) => {
                let from = (next - *at) as usize;
                data.slice(from..from + most)
            }
            (_, from) => self.held.from(from?, most),
        };
        self.next = Some(next + data.len() as u64);
        Some(Command::Supply { id, offset: next, data })
    }

    fn is_over(&self, next: u64) -> bool {
        self.end.is_some_and(|(size, _)| next >= size) && !self.end_said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransferId = TransferId(1);
    const MOST: u64 = 100_000;

    fn content(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(|at| (at * 7 + at / 256) as u8).collect()
    }

    /// All that it supplies now, with a disk that answers at once; and the end.
    fn supplied(tail: &mut Tail) -> (Vec<u8>, Option<(u64, [u8; 32])>) {
        let (mut bytes, mut end) = (Vec::new(), None);
        let mut from = None;
        loop {
            if let Some((offset, length)) = tail.wants() {
                assert!(!tail.is_ready());
                tail.read_back(offset, content(offset..offset + length as u64).into());
            }
            match tail.step() {
                Some(Command::Supply { offset, data, .. }) => {
                    assert!(data.len() as u64 <= PIECE_BYTES);
                    assert_eq!(offset, *from.get_or_insert(offset) + bytes.len() as u64);
                    bytes.extend_from_slice(&data);
                }
                Some(Command::SupplyEnd { size, digest, .. }) => end = Some((size, digest)),
                Some(other) => panic!("unexpected {other:?}"),
                None => break,
            }
        }
        assert!(!tail.is_ready());
        (bytes, end)
    }

    fn told(tail: &mut Tail, offset: u64, limit: u64) {
        tail.handle(&Event::SupplyFrom { id: ID, offset }, MOST);
        tail.handle(&Event::SupplyUpTo { id: ID, limit }, MOST);
    }

    #[test]
    fn in_memory_alone_bytes_stay_until_they_are_confirmed() {
        let mut tail = Tail::in_memory(ID);
        tail.push(content(0..1000).into(), MOST);
        assert_eq!((tail.held(), tail.accepted(), tail.pinned()), (1000, 0, 1000));
        told(&mut tail, 0, 600);
        assert_eq!(supplied(&mut tail).0, content(0..600));
        tail.handle(&Event::Confirmed { id: ID, offset: 250 }, MOST);
        assert_eq!((tail.held(), tail.accepted(), tail.pinned()), (750, 250, 750));
        // The connection was lost; the receiver had more than it had confirmed.
        told(&mut tail, 300, 5000);
        assert_eq!(supplied(&mut tail).0, content(300..1000));
        let end = (1000, *blake3::hash(&content(0..1000)).as_bytes());
        assert_eq!(tail.end(None), Some(end));
        assert_eq!(supplied(&mut tail), (vec![], Some(end)));
        assert_eq!(tail.room(), 0);
    }

    #[test]
    fn with_a_disk_memory_keeps_the_last_bytes_and_the_others_are_read_back() {
        let mut tail = Tail::on_disk(ID, 0, 0, 1 << 30);
        let mut appended = 0;
        for at in (0..1_000_000).step_by(10_000) {
            tail.push(content(at..at + 10_000).into(), MOST);
            assert!(tail.pinned() == tail.head() - appended);
            if at % 30_000 == 0 {
                appended = tail.head();
                tail.spooled(appended, appended - 5_000, 1 << 30, MOST);
            }
            assert!(tail.held() <= MOST.max(tail.pinned()));
        }
        assert_eq!((tail.head(), tail.accepted()), (1_000_000, appended - 5_000));
        assert_eq!(tail.held(), MOST);
        told(&mut tail, 0, 700_000);
        assert_eq!(supplied(&mut tail).0, content(0..700_000));
        tail.handle(&Event::SupplyUpTo { id: ID, limit: 2_000_000 }, MOST);
        tail.handle(&Event::Confirmed { id: ID, offset: 750_000 }, MOST);
        assert_eq!(supplied(&mut tail).0, content(750_000..1_000_000));
        // Lost, and again from the middle of what is on the disk.
        told(&mut tail, 800_001, 2_000_000);
        tail.end(Some((1_000_000, [7; 32])));
        assert_eq!(supplied(&mut tail), (content(800_001..1_000_000), Some((1_000_000, [7; 32]))));
    }

    #[test]
    fn no_room_on_disk_is_no_room() {
        let mut tail = Tail::on_disk(ID, 0, 0, 50_000);
        assert_eq!(tail.room(), 50_000);
        tail.push(content(0..50_000).into(), MOST);
        assert_eq!((tail.room(), tail.pinned()), (0, 50_000));
        tail.spooled(50_000, 0, 1 << 30, MOST);
        assert_eq!((tail.room(), tail.pinned()), (1 << 30, 0));
        tail.push(content(50_000..150_000).into(), MOST);
        tail.spooled(150_000, 0, 0, MOST);
        assert_eq!(tail.room(), 0);
        // An answer to what nobody asks any more.
        tail.read_back(77, vec![1].into());
        told(&mut tail, 100, 200);
        assert_eq!(supplied(&mut tail).0, content(100..200));
    }

    #[test]
    fn after_a_restart_it_waits_for_its_writer_where_the_receiver_has_more_than_is_kept() {
        let mut tail = Tail::on_disk(ID, 300, 500, 1 << 30);
        told(&mut tail, 800, 5000);
        tail.handle(&Event::Confirmed { id: ID, offset: 700 }, MOST);
        assert_eq!((tail.head(), tail.unconfirmed()), (500, 0));
        assert_eq!(supplied(&mut tail), (vec![], None));
        tail.push(content(500..750).into(), MOST);
        assert_eq!((tail.head(), tail.held()), (750, 50), "what is confirmed takes no room");
        assert_eq!(supplied(&mut tail), (vec![], None));
        tail.push(content(750..900).into(), MOST);
        assert_eq!(supplied(&mut tail).0, content(800..900));
        told(&mut tail, u64::MAX, u64::MAX);
        tail.handle(&Event::Confirmed { id: ID, offset: u64::MAX }, MOST);
        assert!(supplied(&mut tail).0.is_empty());
    }
}
