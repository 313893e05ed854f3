//! The portal's datagrams: unreliable, boundaries kept, one QUIC DATAGRAM frame each, on the connection of their class.
//!
//! ```text
//!   Command::Datagram ─► queue of the class (bounded) ─► one at a time, when the scheduler asks ─► QUIC
//!   Event::Datagram   ◄─ at most `MAX_UNREAD` unread  ◄───────────────────────────────────────── QUIC
//! ```
//!
//! Nothing here waits: what cannot go now or soon is dropped, and each drop is counted by its reason. A full queue drops
//! its *oldest*: of telemetry and voice the newest is worth most, and age is bounded by the queue. A path that goes dark
//! empties its queues; what would come out after an outage is stale. Within `bulk`, datagrams and transfers take turns by
//! packets while both have something, so that neither starves the other; within `control`, command messages go first.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use quinn_proto::{Connection, SendDatagramError};

use crate::api::{DatagramClass, DatagramRefusal, Event};
use crate::config::PeerId;

/// First byte of every datagram of the portal; command messages have others (`messages`).
pub(crate) const KIND: u8 = 3;
/// Kind and port.
const HEADER_BYTES: usize = 3;
/// Of a full packet: short header (1 + connection id 8 + packet number 4), AEAD tag 16, and 9 that quinn-proto keeps for
/// the DATAGRAM frame's type and length.
const PACKET_OVERHEAD_BYTES: u16 = 1 + 8 + 4 + 16 + 9;
/// Queued datagrams of a class, and their bytes with headers; beyond, the oldest goes.
const MAX_QUEUED: usize = 256;
const MAX_QUEUED_BYTES: usize = 256 << 10;
/// Received datagrams of a peer that its gateway has not taken; beyond, the newest goes.
const MAX_UNREAD: usize = 1024;

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramDrop {
    /// Longer than a packet of the path; its sender was told the maximum.
    TooLarge,
    /// The oldest of a full queue.
    QueueFull,
    /// No connection, or its path is dark; also what was queued when that came.
    Dark,
    /// At the receiver: the gateway does not take them fast enough.
    Unread,
    /// At the receiver: no known kind, or cut short.
    Malformed,
}

impl DatagramDrop {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::TooLarge, Self::QueueFull, Self::Dark, Self::Unread, Self::Malformed];

    /// As counters name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::QueueFull => "queue_full",
            Self::Dark => "dark",
            Self::Unread => "unread",
            Self::Malformed => "malformed",
        }
    }
}

/// What became of the datagrams to and from a peer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DatagramCounters {
    /// Handed to QUIC.
    pub sent: u64,
    /// Handed to the gateway.
    pub received: u64,
    dropped: [u64; DatagramDrop::ALL.len()],
}

impl DatagramCounters {
    /// Dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DatagramDrop) -> u64 {
        self.dropped[reason as usize]
    }

    fn drop(&mut self, reason: DatagramDrop, count: usize) {
        self.dropped[reason as usize] += count as u64;
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.waiting.pop_front()?;
        self.bytes -= datagram.len();
        Some(datagram)
    }
}

/// All datagrams with one peer.
pub(crate) struct Datagrams {
    peer: PeerId,
    /// Payload bytes that a packet of the path takes.
    max: usize,
    queues: [Queue; 2],
    /// Received and not yet taken from the engine's events.
    unread: usize,
    /// After a transfer's packet it is a datagram's turn.
    turn: bool,
    counters: DatagramCounters,
}

impl Datagrams {
    pub(crate) fn new(peer: PeerId, quic_mtu: u16) -> Self {
        Self {
            peer,
            max: usize::from(quic_mtu.saturating_sub(PACKET_OVERHEAD_BYTES)).saturating_sub(HEADER_BYTES),
            queues: [Queue::default(), Queue::default()],
            unread: 0,
            turn: false,
            counters: DatagramCounters::default(),
        }
    }

    pub(crate) fn counters(&self) -> DatagramCounters {
        self.counters
    }

    /// Largest payload in bytes.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Queue one; `open` = there is a connection, and its path is not dark.
    pub(crate) fn send(
        &mut self,
        open: bool,
        port: u16,
        class: DatagramClass,
        payload: &[u8],
        events: &mut VecDeque<Event>,
    ) {
        if payload.len() > self.max {
            self.counters.drop(DatagramDrop::TooLarge, 1);
            let reason = DatagramRefusal::TooLarge { bytes: payload.len(), max: self.max };
            events.push_back(Event::DatagramRefused { peer: self.peer, port, reason });
            return;
        }
        if !open {
            self.counters.drop(DatagramDrop::Dark, 1);
            return;
        }
        let mut datagram = BytesMut::with_capacity(HEADER_BYTES + payload.len());
        datagram.put_u8(KIND);
        datagram.put_u16(port);
        datagram.extend_from_slice(payload);
        let queue = &mut self.queues[class as usize];
        while queue.waiting.len() >= MAX_QUEUED || queue.bytes + datagram.len() > MAX_QUEUED_BYTES {
            if queue.pop().is_none() {
                break;
            }
            self.counters.drop(DatagramDrop::QueueFull, 1);
        }
        queue.bytes += datagram.len();
        queue.waiting.push_back(datagram.freeze());
    }

    /// The path went dark, or the connection of this class is gone.
    pub(crate) fn flush(&mut self, class: DatagramClass) {
        let queue = std::mem::take(&mut self.queues[class as usize]);
        self.counters.drop(DatagramDrop::Dark, queue.waiting.len());
    }

    /// Whether the last packet was a transfer's, and a datagram's turn has come.
    pub(crate) fn has_turn(&self) -> bool {
        self.turn
    }

    /// A transfer's packet was written.
    pub(crate) fn give_turn(&mut self) {
        self.turn = true;
    }

    /// Hand the next one to QUIC. `false` = there is none, or QUIC takes none now.
    pub(crate) fn feed(&mut self, quic: &mut Connection, class: DatagramClass) -> bool {
        self.turn = false;
        let queue = &mut self.queues[class as usize];
        while let Some(datagram) = queue.pop() {
            match quic.datagrams().send(datagram, false) {
                Ok(()) => {
                    self.counters.sent += 1;
                    return true;
                }
                Err(SendDatagramError::Blocked(datagram)) => {
                    queue.bytes += datagram.len();
                    queue.waiting.push_front(datagram);
                    return false;
                }
                // The peer's own limit, which is no florelay's.
                Err(_) => self.counters.drop(DatagramDrop::TooLarge, 1),
            }
        }
        false
    }

    /// One arrived; `datagram` begins with [`KIND`] or is nobody's.
    pub(crate) fn received(&mut self, class: DatagramClass, datagram: &Bytes, events: &mut VecDeque<Event>) {
        let Some(([KIND, port @ ..], _)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
            self.counters.drop(DatagramDrop::Malformed, 1);
            return;
        };
        if self.unread >= MAX_UNREAD {
            self.counters.drop(DatagramDrop::Unread, 1);
            return;
        }
        self.unread += 1;
        self.counters.received += 1;
        // A copy, because a slice would keep the whole receive block for as long as the application keeps it.
        let payload = Bytes::copy_from_slice(&datagram[HEADER_BYTES..]);
        events.push_back(Event::Datagram { peer: self.peer, port: u16::from_be_bytes(*port), class, payload });
    }

    /// The gateway has taken one.
    pub(crate) fn taken(&mut self) {
        self.unread = self.unread.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams() -> Datagrams {
        Datagrams::new(PeerId(3), 1460)
    }

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts_it() {
        let (mut all, mut events) = (datagrams(), VecDeque::new());
        for number in 0..MAX_QUEUED as u32 + 10 {
            all.send(true, 7, DatagramClass::Bulk, &number.to_be_bytes(), &mut events);
        }
        assert_eq!(all.counters().dropped(DatagramDrop::QueueFull), 10);
        assert_eq!(&all.queues[1].waiting[0][HEADER_BYTES..], 10u32.to_be_bytes());
        // Bytes bound it too; the other class has a queue of its own.
        for _ in 0..MAX_QUEUED {
            all.send(true, 7, DatagramClass::Bulk, &[0; 1400], &mut events);
        }
        assert!(all.queues[1].bytes <= MAX_QUEUED_BYTES && all.queues[0].waiting.is_empty());
        assert_eq!(all.queues[1].bytes, all.queues[1].waiting.iter().map(Bytes::len).sum::<usize>());
        let waiting = all.queues[1].waiting.len() as u64;
        all.flush(DatagramClass::Bulk);
        assert_eq!(all.counters().dropped(DatagramDrop::Dark), waiting);
        assert!(events.is_empty());
    }

    #[test]
    fn too_large_is_refused_with_the_maximum_and_dark_is_only_counted() {
        let (mut all, mut events) = (datagrams(), VecDeque::new());
        let max = all.max();
        all.send(false, 7, DatagramClass::Control, &vec![0; max + 1], &mut events);
        all.send(false, 7, DatagramClass::Control, &vec![0; max], &mut events);
        let reason = DatagramRefusal::TooLarge { bytes: max + 1, max };
        assert_eq!(events, [Event::DatagramRefused { peer: PeerId(3), port: 7, reason }]);
        assert!(reason.to_string().contains(&max.to_string()));
        let counters = all.counters();
        assert_eq!((counters.dropped(DatagramDrop::TooLarge), counters.dropped(DatagramDrop::Dark)), (1, 1));
    }

    #[test]
    fn what_arrives_is_checked_and_bounded() {
        let (mut all, mut events) = (datagrams(), VecDeque::new());
        for bad in [&[][..], &[KIND], &[KIND, 0], &[1, 0, 0, 0], &[9; 20]] {
            all.received(DatagramClass::Bulk, &Bytes::from_static(bad), &mut events);
        }
        assert_eq!((all.counters().dropped(DatagramDrop::Malformed), events.len()), (5, 0));
        // An empty one is one.
        all.received(DatagramClass::Bulk, &Bytes::from_static(&[KIND, 1, 2]), &mut events);
        let (payload, class) = (Bytes::new(), DatagramClass::Bulk);
        assert_eq!(events, [Event::Datagram { peer: PeerId(3), port: 0x0102, class, payload }]);
        for _ in 0..MAX_UNREAD {
            all.received(class, &Bytes::from_static(&[KIND, 0, 1, 42]), &mut events);
        }
        assert_eq!((events.len(), all.counters().dropped(DatagramDrop::Unread)), (MAX_UNREAD, 1));
        all.taken();
        all.received(class, &Bytes::from_static(&[KIND, 0, 1, 42]), &mut events);
        assert_eq!(all.counters().received, MAX_UNREAD as u64 + 1);
    }
}
