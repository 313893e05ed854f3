//! What a sender keeps of an open-ended stream until the receiver has confirmed it.
//!
//! ```text
//!   application ─ push ─►│ base ≤ confirmed … next (supplied) … head │─ Supply, SupplyEnd ─► engine
//!                        └── at most `limit` bytes; no room = the application is not read ──┘
//! ```
//!
//! A file is its own spool and is read again after a lost connection; a stream's bytes exist once, so they stay here.
//! Nothing is ever dropped: without room, `room` says 0 and the gateway stops reading (invariant 6). No syscalls, no
//! clock: gateways and the simulation use the same code.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::api::{Command, Event, TransferId};

/// Largest piece supplied in one command, in bytes.
const PIECE_BYTES: u64 = 64 << 10;

/// The sender's memory of one stream.
#[derive(Debug)]
pub struct Spool {
    id: TransferId,
    /// Everything from `base` on that the application has written.
    held: VecDeque<u8>,
    /// First byte held: the receiver has confirmed everything below.
    base: u64,
    /// What the receiver has confirmed; beyond what is here where this end has lost what it had sent.
    confirmed: u64,
    /// Next byte to supply; `None` while the receiver has not said from where.
    next: Option<u64>,
    /// First byte that may not be supplied yet.
    limit: u64,
    /// Covers everything the application has written.
    hasher: blake3::Hasher,
    /// The application has said that this is all.
    ended: bool,
    end_said: bool,
}

impl Spool {
    /// An empty one for this stream.
    #[must_use]
    pub fn new(id: TransferId) -> Self {
        Self::recovered(id, 0, blake3::Hasher::new())
    }

    /// One that goes on after a restart: everything below `base` was confirmed, and `hasher` covers exactly that.
    #[must_use]
    pub fn recovered(id: TransferId, base: u64, hasher: blake3::Hasher) -> Self {
        Self {
            id,
            held: VecDeque::new(),
            base,
            confirmed: base,
            next: None,
            limit: 0,
            hasher,
            ended: false,
            end_said: false,
        }
    }

    /// Bytes held: written by the application and not confirmed.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.len() as u64
    }

    /// Bytes that the application has written in all.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.base + self.held()
    }

    /// BLAKE3 of what the application has written in all.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    /// Bytes that may be pushed where at most `limit` may be held.
    #[must_use]
    pub fn room(&self, limit: u64) -> u64 {
        if self.ended { 0 } else { limit.saturating_sub(self.held()) }
    }

    /// The application has written these bytes; not after `end`. How many fit is the caller's to ask before (`room`).
    pub fn push(&mut self, data: &[u8]) {
        debug_assert!(!self.ended, "bytes after the end");
        self.hasher.update(data);
        self.held.extend(data);
        self.release();
    }

    /// Let go what the receiver has for good.
    fn release(&mut self) {
        let gone = self.confirmed.min(self.head()).saturating_sub(self.base);
        self.held.drain(..gone as usize);
        self.base += gone;
        self.next = self.next.map(|next| next.max(self.base));
    }

    /// The application has said that this is all.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What the engine said of this stream.
    pub fn handle(&mut self, event: &Event) {
        match *event {
            Event::SupplyFrom { offset, .. } => {
                // The engine has checked it: not below what was confirmed. It may be beyond what is here, if this end has
                // lost what it had sent: the application comes there again.
                self.next = Some(offset.max(self.base));
                self.limit = offset;
                self.end_said = false;
            }
            Event::SupplyUpTo { limit, .. } => self.limit = limit,
            Event::Confirmed { offset, .. } => {
                self.confirmed = self.confirmed.max(offset);
                self.release();
                if self.held.capacity() > 4 * self.held.len().max(PIECE_BYTES as usize) {
                    // What one outage filled is given back, and not after every confirmation.
                    self.held.shrink_to(2 * self.held.len());
                }
            }
            _ => {}
        }
    }

    /// Whether `step` has something to say.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.next.is_some_and(|next| next < self.limit.min(self.head()) || self.is_over(next))
    }

    /// The next command for the engine: a piece within its limit, or the end.
    pub fn step(&mut self) -> Option<Command> {
        let next = self.next?;
        let id = self.id;
        if self.is_over(next) {
            self.end_said = true;
            return Some(Command::SupplyEnd { id, size: self.head(), digest: self.digest() });
        }
        let end = self.limit.min(self.head()).min(next.saturating_add(PIECE_BYTES));
        // Confirmed bytes are supplied ones: `base ≤ next`.
        let from = next.checked_sub(self.base)? as usize;
        let length = end.checked_sub(next).filter(|length| *length > 0)? as usize;
        let mut data = Vec::with_capacity(length);
        let (front, back) = self.held.as_slices();
        let first = front.get(from..).unwrap_or_default();
        data.extend_from_slice(&first[..length.min(first.len())]);
        let behind = from.saturating_sub(front.len());
        let left = length - data.len();
        data.extend_from_slice(&back[behind..behind + left]);
        self.next = Some(end);
        Some(Command::Supply { id, offset: next, data: Bytes::from(data) })
    }

    fn is_over(&self, next: u64) -> bool {
        self.ended && !self.end_said && next >= self.head()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransferId = TransferId(1);

    fn content(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(|at| (at * 7 + at / 256) as u8).collect()
    }

    /// Offset and bytes of each.
    type Pieces = Vec<(u64, Vec<u8>)>;

    /// All that it supplies now, and the end.
    fn supplied(spool: &mut Spool) -> (Pieces, Option<(u64, [u8; 32])>) {
        let (mut pieces, mut end) = (Vec::new(), None);
        while let Some(command) = spool.step() {
            match command {
                Command::Supply { offset, data, .. } => pieces.push((offset, data.to_vec())),
                Command::SupplyEnd { size, digest, .. } => end = Some((size, digest)),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(!spool.is_ready());
        (pieces, end)
    }

    fn told(spool: &mut Spool, offset: u64, limit: u64) {
        spool.handle(&Event::SupplyFrom { id: ID, offset });
        spool.handle(&Event::SupplyUpTo { id: ID, limit });
    }

    #[test]
    fn what_is_not_confirmed_is_supplied_again_and_the_rest_is_let_go() {
        let mut spool = Spool::new(ID);
        spool.push(&content(0..1000));
        assert_eq!(supplied(&mut spool).0, [], "before the receiver has said from where");
        told(&mut spool, 0, 600);
        assert_eq!(supplied(&mut spool).0, [(0, content(0..600))]);
        spool.handle(&Event::Confirmed { id: ID, offset: 250 });
        assert_eq!((spool.held(), spool.head(), spool.room(1000)), (750, 1000, 250));
        spool.push(&content(1000..1200));
        // The connection was lost; the receiver had more than it had confirmed.
        told(&mut spool, 300, 5000);
        assert_eq!(supplied(&mut spool).0, [(300, content(300..1200))]);
        spool.end();
        let digest = *blake3::hash(&content(0..1200)).as_bytes();
        assert_eq!(supplied(&mut spool), (vec![], Some((1200, digest))));
        // Lost again, with everything arrived: only the end is said again.
        told(&mut spool, 1200, 5000);
        assert_eq!(supplied(&mut spool), (vec![], Some((1200, digest))));
        spool.handle(&Event::Confirmed { id: ID, offset: 1200 });
        assert_eq!((spool.held(), spool.room(1000)), (0, 0));
    }

    #[test]
    fn after_a_restart_it_waits_for_its_writer_where_the_receiver_has_more_than_is_kept() {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&content(0..300));
        let mut spool = Spool::recovered(ID, 300, hasher);
        spool.push(&content(300..500));
        told(&mut spool, 800, 5000);
        spool.handle(&Event::Confirmed { id: ID, offset: 700 });
        assert_eq!((spool.held(), spool.head(), spool.room(1000)), (0, 500, 1000));
        assert!(!spool.is_ready());
        // Confirmed already: it takes no room.
        spool.push(&content(500..750));
        assert_eq!((spool.held(), spool.head()), (50, 750));
        assert_eq!(supplied(&mut spool), (vec![], None));
        spool.push(&content(750..900));
        assert_eq!(supplied(&mut spool).0, [(800, content(800..900))]);
        spool.end();
        assert_eq!(supplied(&mut spool).1, Some((900, *blake3::hash(&content(0..900)).as_bytes())));
    }

    #[test]
    fn pieces_are_bounded_and_whole_wherever_the_ring_wraps() {
        let mut spool = Spool::new(ID);
        let mut at = 0;
        told(&mut spool, 0, u64::MAX);
        for round in 0..50u64 {
            let take = 1 + round * 37 % 200_000;
            spool.push(&content(at..at + take));
            for (offset, data) in supplied(&mut spool).0 {
                assert!(data.len() as u64 <= PIECE_BYTES && data == content(offset..offset + data.len() as u64));
            }
            at += take;
            spool.handle(&Event::Confirmed { id: ID, offset: at - take / 3 });
            assert_eq!(spool.held(), take / 3);
        }
    }

    #[test]
    fn an_empty_stream_has_an_end_too_and_a_wrong_offset_is_no_panic() {
        let mut spool = Spool::new(ID);
        spool.end();
        told(&mut spool, 0, 0);
        assert_eq!(supplied(&mut spool).1, Some((0, *blake3::hash(b"").as_bytes())));
        told(&mut spool, u64::MAX, u64::MAX);
        spool.handle(&Event::Confirmed { id: ID, offset: u64::MAX });
        assert_eq!(supplied(&mut spool).0, []);
    }
}
