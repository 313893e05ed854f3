//! A peer's messages on their way to the gateway: credit, duplicates, acknowledgements.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, ReadError, StreamId, VarInt};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{CREDIT_BYTES, CREDIT_MESSAGES, STREAM_HEADER_BYTES};
use crate::api::{Event, MAX_MESSAGE_BYTES, MessageCounters};
use crate::config::PeerId;

/// Received message ids remembered per peer.
const MAX_SEEN: usize = 16_384;
/// Acknowledgements of one kind that wait to be sent. Datagrams' are dropped beyond it; streams are not read.
pub(super) const MAX_ACKS: usize = 4096;

/// How a message has come, and so how it is acknowledged.
#[derive(Debug, Default, Clone, Copy)]
struct Ways {
    datagram: bool,
    stream: bool,
}

#[derive(Debug)]
struct Unwritten {
    bytes: usize,
    ways: Ways,
}

/// What has come from one peer. It outlives connections.
pub(super) struct Inbox {
    peer: PeerId,
    unwritten: FxHashMap<u64, Unwritten>,
    unwritten_bytes: usize,
    /// Written messages whose acknowledgement goes as a datagram, …
    pub(super) datagram_acks: VecDeque<u64>,
    /// … and those whose goes reliably, on the session.
    pub(super) receipts: VecDeque<u64>,
    seen: FxHashSet<u64>,
    seen_order: VecDeque<u64>,
    refused: u64,
}

impl Inbox {
    pub(super) fn new(peer: PeerId) -> Self {
        Self {
            peer,
            unwritten: FxHashMap::default(),
            unwritten_bytes: 0,
            datagram_acks: VecDeque::new(),
            receipts: VecDeque::new(),
            seen: FxHashSet::default(),
            seen_order: VecDeque::with_capacity(MAX_SEEN),
            refused: 0,
        }
    }

    pub(super) fn datagram(&mut self, id: u64, payload: &[u8], events: &mut VecDeque<Event>) {
        let ways = Ways { datagram: true, stream: false };
        if self.knows(id) {
            self.again(id, ways);
        } else if self.has_credit() {
            self.deliver(id, Bytes::copy_from_slice(payload), ways, events);
        } else {
            self.refused += 1;
        }
    }

    /// Only with credit.
    pub(super) fn stream(&mut self, id: u64, payload: Bytes, events: &mut VecDeque<Event>) {
        let ways = Ways { datagram: false, stream: true };
        if self.knows(id) {
            self.again(id, ways);
        } else {
            self.deliver(id, payload, ways, events);
        }
    }

    /// The gateway has written it.
    pub(super) fn written(&mut self, id: u64) {
        if let Some(Unwritten { bytes, ways }) = self.unwritten.remove(&id) {
            self.unwritten_bytes -= bytes;
            self.acknowledge(id, ways);
        }
    }

    /// Whether the gateway may be given one more message of any length.
    pub(super) fn has_credit(&self) -> bool {
        self.unwritten.len() < CREDIT_MESSAGES
            && self.unwritten_bytes + MAX_MESSAGE_BYTES <= CREDIT_BYTES
            && self.receipts.len() < MAX_ACKS
    }

    pub(super) fn counters(&self) -> MessageCounters {
        MessageCounters {
            unwritten: self.unwritten.len() as u64,
            unwritten_bytes: self.unwritten_bytes as u64,
            refused_datagrams: self.refused,
        }
    }

    fn knows(&self, id: u64) -> bool {
        self.seen.contains(&id) || self.unwritten.contains_key(&id)
    }

    /// A duplicate: of a message that is still with the gateway, or of one whose acknowledgement may have been lost.
    fn again(&mut self, id: u64, ways: Ways) {
        match self.unwritten.get_mut(&id) {
            Some(unwritten) => {
                unwritten.ways.datagram |= ways.datagram;
                unwritten.ways.stream |= ways.stream;
            }
            None => self.acknowledge(id, ways),
        }
    }

    fn deliver(&mut self, id: u64, payload: Bytes, ways: Ways, events: &mut VecDeque<Event>) {
        self.seen.insert(id);
        if self.seen_order.len() == MAX_SEEN
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen_order.push_back(id);
        self.unwritten_bytes += payload.len();
        self.unwritten.insert(id, Unwritten { bytes: payload.len(), ways });
        events.push_back(Event::Message { peer: self.peer, id, payload });
    }

    fn acknowledge(&mut self, id: u64, ways: Ways) {
        if ways.datagram && self.datagram_acks.len() < MAX_ACKS {
            self.datagram_acks.push_back(id);
        }
        if ways.stream {
            self.receipts.push_back(id);
        }
    }
}

pub(super) enum Arrival {
    Part,
    Whole,
    /// Reset by the sender, or stopped here.
    Gone,
}

/// Read what has arrived of a message's stream.
pub(super) fn read(buffer: &mut BytesMut, quic: &mut Connection, stream: StreamId) -> Arrival {
    let mut receiver = quic.recv_stream(stream);
    let Ok(mut chunks) = receiver.read(true) else { return Arrival::Gone };
    let arrival = loop {
        match chunks.next(MAX_MESSAGE_BYTES) {
            Ok(Some(chunk)) if buffer.len() + chunk.bytes.len() <= STREAM_HEADER_BYTES + MAX_MESSAGE_BYTES => {
                buffer.extend_from_slice(&chunk.bytes);
            }
            Ok(Some(_)) => {
                // Longer than any message: not wanted.
                let _ = chunks.finalize();
                let _ = quic.recv_stream(stream).stop(VarInt::from_u32(0));
                return Arrival::Gone;
            }
            Ok(None) => break Arrival::Whole,
            Err(ReadError::Blocked) => break Arrival::Part,
            Err(ReadError::Reset(_)) => break Arrival::Gone,
        }
    };
    let _ = chunks.finalize();
    arrival
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(events: &VecDeque<Event>) -> usize {
        let length = |event: &Event| match event {
            Event::Message { payload, .. } => payload.len(),
            other => panic!("unexpected {other:?}"),
        };
        events.iter().map(length).sum()
    }

    #[test]
    fn a_gateway_that_does_not_write_is_given_no_more_than_the_credit() {
        let mut inbox = Inbox::new(PeerId(0));
        let mut events = VecDeque::new();
        for id in 0..10_000 {
            inbox.datagram(id, &[7; 1400], &mut events);
        }
        assert!(events.len() == CREDIT_MESSAGES && bytes(&events) <= CREDIT_BYTES);
        assert_eq!(inbox.counters().refused_datagrams, 10_000 - events.len() as u64);
        // Nothing is acknowledged that is not written, and each message written makes room for one.
        assert!(inbox.datagram_acks.is_empty());
        inbox.written(3);
        inbox.written(3);
        assert_eq!(inbox.datagram_acks, [3]);
        for id in 20_000..20_010 {
            inbox.datagram(id, b"", &mut events);
        }
        assert_eq!(events.len(), CREDIT_MESSAGES + 1);

        let (mut inbox, mut events) = (Inbox::new(PeerId(0)), VecDeque::new());
        let mut id = 0;
        while inbox.has_credit() {
            inbox.stream(id, Bytes::from(vec![1; MAX_MESSAGE_BYTES]), &mut events);
            id += 1;
        }
        assert_eq!(bytes(&events), CREDIT_BYTES);
    }

    #[test]
    fn each_way_is_acknowledged_its_own_way_and_duplicates_again() {
        let mut inbox = Inbox::new(PeerId(0));
        let mut events = VecDeque::new();
        inbox.datagram(1, b"x", &mut events);
        inbox.stream(1, Bytes::from_static(b"x"), &mut events);
        assert!(inbox.receipts.is_empty());
        inbox.written(1);
        assert_eq!((events.len(), &inbox.datagram_acks, &inbox.receipts), (1, &[1].into(), &[1].into()));
        inbox.stream(1, Bytes::from_static(b"x"), &mut events);
        assert_eq!((events.len(), &inbox.receipts), (1, &[1, 1].into()));
        // Whoever repeats messages and reads no answers is not read any more.
        while inbox.has_credit() {
            inbox.stream(1, Bytes::new(), &mut events);
        }
        assert_eq!(inbox.receipts.len(), MAX_ACKS);
        for _ in 0..2 * MAX_ACKS {
            inbox.datagram(1, b"x", &mut events);
        }
        assert_eq!((events.len(), inbox.datagram_acks.len()), (1, MAX_ACKS));
    }
}
