//! Command messages: acknowledged, exactly once, never behind bulk.
//!
//! A message that fits one datagram leaves as a datagram at once, with a reliable copy behind it on a stream of its
//! own, so that a single loss costs no round trip; a larger one goes by stream only. The receiver delivers the
//! first that arrives, drops the other, and acknowledges each. Messages outlive connections.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use quinn_proto::{Connection, Dir, ReadError, StreamId, VarInt};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::api::{Event, MAX_MESSAGE_BYTES};
use crate::config::PeerId;
use crate::session::Session;
use crate::time::Nanos;

/// Own messages that wait for acknowledgement, per peer; more are refused by name.
const MAX_WAITING: usize = 4096;
/// Their bytes.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Received message ids remembered per peer.
const MAX_SEEN: usize = 16_384;
const KIND_MESSAGE: u8 = 1;
const KIND_ACK: u8 = 2;
const DATAGRAM_HEADER_BYTES: usize = 9;
const STREAM_HEADER_BYTES: usize = 8;

struct Waiting {
    payload: Bytes,
    since: Nanos,
    /// The reliable copy's stream on this connection, and bytes of it written (header included).
    copy: Option<(StreamId, usize)>,
}

/// State of one control connection.
#[derive(Default)]
pub(crate) struct ControlConn {
    pub(crate) session: Session,
    /// Messages that arrive by stream.
    inbound: FxHashMap<StreamId, BytesMut>,
    /// Own copies written whole, until QUIC says that they arrived.
    copies: FxHashMap<StreamId, u64>,
}

/// All messages with one peer.
pub(crate) struct Messages {
    peer: PeerId,
    waiting: FxHashMap<u64, Waiting>,
    waiting_bytes: usize,
    /// Own messages to send as a datagram, then as a copy.
    datagrams: VecDeque<u64>,
    copies: VecDeque<u64>,
    acks: VecDeque<u64>,
    seen: FxHashSet<u64>,
    seen_order: VecDeque<u64>,
}

impl Messages {
    pub(crate) fn new(peer: PeerId) -> Self {
        Self {
            peer,
            waiting: FxHashMap::default(),
            waiting_bytes: 0,
            datagrams: VecDeque::new(),
            copies: VecDeque::new(),
            acks: VecDeque::new(),
            seen: FxHashSet::default(),
            seen_order: VecDeque::with_capacity(MAX_SEEN),
        }
    }

    pub(crate) fn send(&mut self, now: Nanos, id: u64, payload: Bytes, events: &mut VecDeque<Event>) {
        let refusal = if payload.len() > MAX_MESSAGE_BYTES {
            Some(format!("the message has {} bytes, the limit is {MAX_MESSAGE_BYTES}", payload.len()))
        } else if self.waiting.contains_key(&id) {
            Some(format!("message {id} is on its way already"))
        } else if self.waiting.len() >= MAX_WAITING || self.waiting_bytes + payload.len() > MAX_WAITING_BYTES {
            Some(format!("{} messages wait for this peer, which is the limit", self.waiting.len()))
        } else {
            None
        };
        if let Some(reason) = refusal {
            events.push_back(Event::MessageFailed { id, reason });
            return;
        }
        self.waiting_bytes += payload.len();
        self.waiting.insert(id, Waiting { payload, since: now, copy: None });
        self.datagrams.push_back(id);
    }

    /// A new connection is established: everything that is not acknowledged goes again, in order of age.
    pub(crate) fn connected(&mut self) {
        self.copies.clear();
        self.datagrams.clear();
        let mut ids: Vec<_> = self.waiting.iter().map(|(id, waiting)| (waiting.since, *id)).collect();
        ids.sort_unstable();
        self.datagrams.extend(ids.into_iter().map(|(_, id)| id));
        for waiting in self.waiting.values_mut() {
            waiting.copy = None;
        }
    }

    /// Write one packet's worth, at most `limit` bytes on a stream: session, acknowledgements, datagrams, copies.
    pub(crate) fn feed(&mut self, conn: &mut ControlConn, quic: &mut Connection, limit: usize) -> bool {
        if conn.session.feed(quic, limit) > 0 {
            return true;
        }
        if !conn.session.ready {
            return false;
        }
        if let Some(id) = self.acks.front().copied() {
            if quic.datagrams().send(datagram(KIND_ACK, id, &[]), false).is_ok() {
                self.acks.pop_front();
                return true;
            }
            return false;
        }
        while let Some(id) = self.datagrams.pop_front() {
            let Some(waiting) = self.waiting.get(&id) else { continue };
            self.copies.push_back(id);
            let fits =
                quic.datagrams().max_size().is_some_and(|max| DATAGRAM_HEADER_BYTES + waiting.payload.len() <= max);
            // A datagram that cannot be taken now is no loss: its copy follows.
            if fits && quic.datagrams().send(datagram(KIND_MESSAGE, id, &waiting.payload), false).is_ok() {
                return true;
            }
        }
        while let Some(id) = self.copies.front().copied() {
            let Some(waiting) = self.waiting.get_mut(&id) else {
                self.copies.pop_front();
                continue;
            };
            match write_copy(id, waiting, quic, limit) {
                Copied::Part => return true,
                Copied::Whole(stream) => {
                    conn.copies.insert(stream, id);
                    self.copies.pop_front();
                    return true;
                }
                Copied::Blocked => return false,
            }
        }
        false
    }

    /// Whether a datagram of the control connection is a message's; the others are the portal's (`datagrams`).
    pub(crate) fn is_ours(datagram: &Bytes) -> bool {
        matches!(datagram.first(), Some(&(KIND_MESSAGE | KIND_ACK)))
    }

    pub(crate) fn datagram_received(&mut self, now: Nanos, datagram: &Bytes, events: &mut VecDeque<Event>) {
        let Some((header, _)) = datagram.split_first_chunk::<DATAGRAM_HEADER_BYTES>() else { return };
        let [kind, id @ ..] = *header;
        let id = u64::from_be_bytes(id);
        match kind {
            KIND_MESSAGE => self.received(id, datagram.slice(DATAGRAM_HEADER_BYTES..), events),
            KIND_ACK => self.acknowledged(now, id, events),
            _ => {}
        }
    }

    pub(crate) fn streams_opened(
        &mut self,
        conn: &mut ControlConn,
        quic: &mut Connection,
        events: &mut VecDeque<Event>,
    ) {
        while let Some(stream) = quic.streams().accept(Dir::Uni) {
            conn.inbound.insert(stream, BytesMut::new());
            self.readable(conn, quic, stream, events);
        }
    }

    pub(crate) fn readable(
        &mut self,
        conn: &mut ControlConn,
        quic: &mut Connection,
        stream: StreamId,
        events: &mut VecDeque<Event>,
    ) {
        let Some(mut buffer) = conn.inbound.remove(&stream) else { return };
        let mut receiver = quic.recv_stream(stream);
        let Ok(mut chunks) = receiver.read(true) else { return };
        let ended = loop {
            match chunks.next(MAX_MESSAGE_BYTES) {
                Ok(Some(chunk)) if buffer.len() + chunk.bytes.len() <= STREAM_HEADER_BYTES + MAX_MESSAGE_BYTES => {
                    buffer.extend_from_slice(&chunk.bytes);
                }
                Ok(Some(_)) => {
                    // Longer than any message: not wanted.
                    let _ = chunks.finalize();
                    let _ = quic.recv_stream(stream).stop(VarInt::from_u32(0));
                    return;
                }
                Ok(None) => break true,
                Err(ReadError::Blocked) => break false,
                Err(ReadError::Reset(_)) => {
                    let _ = chunks.finalize();
                    return;
                }
            }
        };
        let _ = chunks.finalize();
        if !ended {
            conn.inbound.insert(stream, buffer);
        } else if let Some(id) = buffer.first_chunk::<STREAM_HEADER_BYTES>() {
            let id = u64::from_be_bytes(*id);
            self.received(id, buffer.freeze().slice(STREAM_HEADER_BYTES..), events);
        }
    }

    fn received(&mut self, id: u64, payload: Bytes, events: &mut VecDeque<Event>) {
        if self.acks.len() < MAX_WAITING {
            self.acks.push_back(id);
        }
        if !self.seen.insert(id) {
            return;
        }
        if self.seen_order.len() == MAX_SEEN
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen_order.push_back(id);
        events.push_back(Event::Message { peer: self.peer, id, payload });
    }

    fn acknowledged(&mut self, now: Nanos, id: u64, events: &mut VecDeque<Event>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.waiting_bytes -= waiting.payload.len();
            events.push_back(Event::MessageAcked { id, rtt: now.since(waiting.since) });
        }
    }

    /// QUIC says that a stream of ours has arrived whole: as good as an acknowledgement that was lost.
    pub(crate) fn stream_finished(
        &mut self,
        now: Nanos,
        conn: &mut ControlConn,
        stream: StreamId,
        events: &mut VecDeque<Event>,
    ) {
        if let Some(id) = conn.copies.remove(&stream) {
            self.acknowledged(now, id, events);
        }
    }
}

enum Copied {
    Part,
    Whole(StreamId),
    Blocked,
}

fn write_copy(id: u64, waiting: &mut Waiting, quic: &mut Connection, limit: usize) -> Copied {
    let (stream, mut written) = match waiting.copy {
        Some(copy) => copy,
        None => match quic.streams().open(Dir::Uni) {
            Some(stream) => (stream, 0),
            None => return Copied::Blocked,
        },
    };
    let before = written;
    let header = id.to_be_bytes();
    let mut send = quic.send_stream(stream);
    if written < STREAM_HEADER_BYTES {
        written += send.write(&header[written..]).unwrap_or(0);
    }
    if written >= STREAM_HEADER_BYTES {
        let room = limit - (written - before);
        let from = written - STREAM_HEADER_BYTES;
        let take = room.min(waiting.payload.len() - from);
        let mut piece = [waiting.payload.slice(from..from + take)];
        if take > 0 {
            written += send.write_chunks(&mut piece).map_or(0, |w| w.bytes);
        }
    }
    waiting.copy = Some((stream, written));
    if written == STREAM_HEADER_BYTES + waiting.payload.len() {
        let _ = send.finish();
        Copied::Whole(stream)
    } else if written > before {
        Copied::Part
    } else {
        Copied::Blocked
    }
}

fn datagram(kind: u8, id: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(DATAGRAM_HEADER_BYTES + payload.len());
    out.put_u8(kind);
    out.put_u64(id);
    out.extend_from_slice(payload);
    out.freeze()
}
