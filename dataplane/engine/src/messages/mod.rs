//! Command messages: acknowledged, exactly once, never behind bulk.
//!
//! ```text
//!  sender    datagram, if it fits one ──►   credit?  ──► gateway writes it ──► MessageWritten
//!            reliable copy on a stream ──►                                         │
//!            ◄── acknowledgement: a datagram for a datagram, `Received` for a stream ─┘
//! ```
//!
//! A message that fits one datagram leaves as a datagram at once, with a reliable copy behind it on a stream of its
//! own, so that a single loss costs no round trip; a larger one goes by stream only. The receiver delivers the
//! first that arrives and drops the other. Messages outlive connections.
//!
//! **What an acknowledgement promises**: the receiving gateway has written the message where its programs read it.
//!
//! **Credit** bounds what a sender can make the receiver hold. A message is taken only while less than
//! [`CREDIT_MESSAGES`] and [`CREDIT_BYTES`] are with the gateway unwritten. Beyond that a datagram is dropped and
//! counted, for its copy follows, and streams are not read: a stream is free again when its message is taken, not when
//! it has arrived, so QUIC's limit of `MESSAGE_STREAMS` open streams of one message each holds the sender back.
//! Together [`CREDIT_BYTES`] + `MESSAGE_STREAMS` × `MESSAGE_STREAM_BYTES` = 6 MiB of messages for each peer; 11 MiB of one
//! whose streams are longer than a message, because QUIC's window moves on as a stream is read, before it is stopped.

mod receive;
mod send;

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use quinn_proto::{Connection, Dir, StreamId, VarInt};
use rustc_hash::FxHashMap;

use self::receive::{Arrival, Inbox, MAX_ACKS};
use self::send::{Copied, Waiting, write_copy};
use crate::api::{Event, MessageCounters};
use crate::config::PeerId;
use crate::session::{Message, Session};
use crate::time::Nanos;

/// Received messages that the gateway may have and not have written, per peer.
const CREDIT_MESSAGES: usize = 1024;
/// Their bytes.
const CREDIT_BYTES: usize = 2 << 20;
/// Own messages that wait for acknowledgement, per peer; more are refused by name.
const MAX_WAITING: usize = 4096;
/// Their bytes.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Ids in one `Received`: with the longest encoding, less than the smallest packet.
const RECEIVED_IDS: usize = 100;
const KIND_MESSAGE: u8 = 1;
const KIND_ACK: u8 = 2;
const DATAGRAM_HEADER_BYTES: usize = 9;
const STREAM_HEADER_BYTES: usize = 8;

/// State of one control connection.
#[derive(Default)]
pub(crate) struct ControlConn {
    pub(crate) session: Session,
    /// Messages that arrive by stream.
    inbound: FxHashMap<StreamId, BytesMut>,
    /// Those of them that have something to read for which there was no credit, in order of arrival.
    held: VecDeque<StreamId>,
    /// Own copies written whole, until QUIC says that they arrived.
    copies: FxHashMap<StreamId, u64>,
}

/// All messages with one peer.
pub(crate) struct Messages {
    inbox: Inbox,
    waiting: FxHashMap<u64, Waiting>,
    waiting_bytes: usize,
    /// Own messages to send as a datagram, then as a copy.
    datagrams: VecDeque<u64>,
    copies: VecDeque<u64>,
}

impl Messages {
    pub(crate) fn new(peer: PeerId) -> Self {
        Self {
            inbox: Inbox::new(peer),
            waiting: FxHashMap::default(),
            waiting_bytes: 0,
            datagrams: VecDeque::new(),
            copies: VecDeque::new(),
        }
    }

    pub(crate) fn counters(&self) -> MessageCounters {
        self.inbox.counters()
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
    pub(crate) fn feed(
        &mut self,
        conn: &mut ControlConn,
        quic: &mut Connection,
        limit: usize,
        events: &mut VecDeque<Event>,
    ) -> bool {
        if conn.session.ready && !conn.session.is_busy() {
            self.push_received(&mut conn.session);
            // Acknowledgements that left may have been what credit was short of.
            self.take(conn, quic, events);
        }
        if conn.session.feed(quic, limit) > 0 {
            return true;
        }
        if !conn.session.ready {
            return false;
        }
        if let Some(id) = self.inbox.datagram_acks.front().copied() {
            if quic.datagrams().send(datagram(KIND_ACK, id, &[]), false).is_ok() {
                self.inbox.datagram_acks.pop_front();
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
                Copied::Refused => {
                    self.copies.pop_front();
                    self.refused(id, events);
                }
            }
        }
        false
    }

    /// What was written of the messages that came by stream, as far as it fits the session.
    fn push_received(&mut self, session: &mut Session) {
        if self.inbox.receipts.is_empty() {
            return;
        }
        if session.reconciles() {
            let count = self.inbox.receipts.len().min(RECEIVED_IDS);
            session.push(&Message::Received { ids: self.inbox.receipts.drain(..count).collect() });
        } else {
            // The peer's version knows datagrams only; it also takes the end of the stream for an acknowledgement.
            let acks = &mut self.inbox.datagram_acks;
            let count = MAX_ACKS.saturating_sub(acks.len()).min(self.inbox.receipts.len());
            acks.extend(self.inbox.receipts.drain(..count));
        }
    }

    /// Whether a datagram of the control connection is a message's; the others are the portal's (`datagrams`).
    pub(crate) fn is_ours(datagram: &[u8]) -> bool {
        matches!(datagram.first(), Some(&(KIND_MESSAGE | KIND_ACK)))
    }

    pub(crate) fn datagram_received(
        &mut self,
        now: Nanos,
        quic: &mut Connection,
        datagram: &[u8],
        events: &mut VecDeque<Event>,
    ) {
        let Some((header, payload)) = datagram.split_first_chunk::<DATAGRAM_HEADER_BYTES>() else { return };
        let [kind, id @ ..] = *header;
        let id = u64::from_be_bytes(id);
        match kind {
            // Copied: what waits for the gateway must not keep a whole block of received packets.
            KIND_MESSAGE => self.inbox.datagram(id, payload, events),
            KIND_ACK => self.acknowledged(now, quic, id, events),
            _ => {}
        }
    }

    /// A session message of an established session.
    pub(crate) fn message(
        &mut self,
        now: Nanos,
        quic: &mut Connection,
        message: &Message,
        events: &mut VecDeque<Event>,
    ) {
        if let Message::Received { ids } = message {
            for id in ids {
                self.acknowledged(now, quic, *id, events);
            }
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

    /// A stream has bytes, or its end.
    pub(crate) fn readable(
        &mut self,
        conn: &mut ControlConn,
        quic: &mut Connection,
        stream: StreamId,
        events: &mut VecDeque<Event>,
    ) {
        if !conn.held.contains(&stream) {
            conn.held.push_back(stream);
        }
        self.take(conn, quic, events);
    }

    /// The gateway has written a message.
    pub(crate) fn written(
        &mut self,
        conn: Option<(&mut ControlConn, &mut Connection)>,
        id: u64,
        events: &mut VecDeque<Event>,
    ) {
        self.inbox.written(id);
        if let Some((conn, quic)) = conn {
            self.take(conn, quic, events);
        }
    }

    /// Read what has arrived by stream, as far as credit goes.
    fn take(&mut self, conn: &mut ControlConn, quic: &mut Connection, events: &mut VecDeque<Event>) {
        while self.inbox.has_credit()
            && let Some(stream) = conn.held.pop_front()
        {
            let Some(mut buffer) = conn.inbound.remove(&stream) else { continue };
            match receive::read(&mut buffer, quic, stream) {
                Arrival::Part => {
                    conn.inbound.insert(stream, buffer);
                }
                Arrival::Whole => {
                    if let Some(id) = buffer.first_chunk::<STREAM_HEADER_BYTES>() {
                        let id = u64::from_be_bytes(*id);
                        self.inbox.stream(id, buffer.freeze().slice(STREAM_HEADER_BYTES..), events);
                    }
                }
                Arrival::Gone => {}
            }
        }
    }

    /// QUIC says that a stream of ours has arrived whole.
    pub(crate) fn stream_finished(
        &mut self,
        now: Nanos,
        conn: &mut ControlConn,
        quic: &mut Connection,
        stream: StreamId,
        events: &mut VecDeque<Event>,
    ) {
        // It lies in the peer's QUIC, and is not taken: an acknowledgement comes when it is written. A peer of session
        // version 1 sends none that cannot be lost.
        if let Some(id) = conn.copies.remove(&stream)
            && !conn.session.reconciles()
        {
            self.acknowledged(now, quic, id, events);
        }
    }

    /// The peer does not want a stream of ours that is written whole.
    pub(crate) fn stream_stopped(
        &mut self,
        conn: &mut ControlConn,
        quic: &mut Connection,
        stream: StreamId,
        events: &mut VecDeque<Event>,
    ) {
        if let Some(id) = conn.copies.remove(&stream) {
            // A stopped stream counts against the peer's limit of streams until it is reset.
            let _ = quic.send_stream(stream).reset(VarInt::from_u32(0));
            self.refused(id, events);
        }
    }
}

fn datagram(kind: u8, id: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(DATAGRAM_HEADER_BYTES + payload.len());
    out.put_u8(kind);
    out.put_u64(id);
    out.extend_from_slice(payload);
    out.freeze()
}
