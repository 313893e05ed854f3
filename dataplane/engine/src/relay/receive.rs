//! The receiver's half of a transfer.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Buf;
use quinn_proto::{Connection, ReadError, StreamId, VarInt};

use super::{BulkConn, GivenUp, NO_STREAMS, OTHER_WAY, Relay, STRIPE_HEADER_BYTES, check_meta};
use crate::api::{Event, TransferId, TransferMeta};
use crate::config::Limits;
use crate::session::Message;
use crate::time::Nanos;

/// Confirm at once when this much was written since the last confirmation …
const CONFIRM_STEP_BYTES: u64 = 1 << 20;
/// … and otherwise after this long, so that progress is seen on slow links without a message per packet.
const CONFIRM_DELAY: Duration = Duration::from_millis(200);
/// Largest piece handed to the gateway in one event, in bytes.
const PIECE_BYTES: u64 = 64 << 10;

/// A stripe that arrives.
#[derive(Debug, Default)]
pub(super) struct StripeIn {
    header: [u8; STRIPE_HEADER_BYTES],
    have: usize,
    transfer: Option<TransferId>,
    /// Offset in the file of the next byte to read from the stream.
    next: u64,
}

/// A transfer that this node receives.
#[derive(Debug)]
pub(super) struct Incoming {
    name: String,
    size: Option<u64>,
    /// Bytes that may be handed to the gateway and not be written.
    window: u64,
    /// Its sender sends on credit.
    on_credit: bool,
    /// Its sender has offered it on this session.
    pub(super) offered: bool,
    /// The gateway has accepted it.
    accepted: bool,
    /// First byte not yet handed to the gateway.
    delivered: u64,
    /// First byte that the gateway has not written.
    written: u64,
    confirmed: u64,
    confirm_at: Option<Nanos>,
    /// Stripes of this connection that may have something to read, by their next offset. Several can be at the same: one
    /// whose end has not been seen, and the one that goes on from there.
    waiting: BTreeSet<(u64, StreamId)>,
    end: Option<(u64, [u8; 32])>,
    end_delivered: bool,
}

impl Incoming {
    fn new(meta: &TransferMeta, limits: &Limits) -> Self {
        let on_credit = meta.size.is_none();
        Self {
            window: u64::from(if on_credit { limits.stream_credit_bytes } else { limits.unwritten_bytes }),
            on_credit,
            name: meta.name.clone(),
            size: meta.size,
            offered: true,
            accepted: false,
            delivered: 0,
            written: 0,
            confirmed: 0,
            confirm_at: None,
            waiting: BTreeSet::new(),
            end: None,
            end_delivered: false,
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.offered = false;
        self.waiting.clear();
        self.confirm_at = None;
        self.confirmed = 0;
        if !self.end_delivered {
            self.end = None;
        }
    }

    pub(super) fn finish(&mut self, size: u64, digest: [u8; 32]) {
        self.end.get_or_insert((size, digest));
    }

    /// Everything below `offset` is written; and so much more may be sent.
    pub(super) fn push_confirm(&self, conn: &mut BulkConn, id: TransferId, offset: u64) {
        conn.session.push(&Message::Confirm { id: id.0, offset });
        self.push_credit(conn, id);
    }

    fn push_credit(&self, conn: &mut BulkConn, id: TransferId) {
        if self.on_credit {
            conn.session.push(&Message::Credit { id: id.0, limit: self.written.saturating_add(self.window) });
        }
    }

    /// Send from `offset` on. What was written while there was no connection is confirmed with it: the sender of a stream
    /// may wait for nothing but room.
    fn push_accept(&mut self, conn: &mut BulkConn, id: TransferId, offset: u64) {
        conn.session.push(&Message::Accept { id: id.0, offset });
        self.confirmed = self.written;
        self.push_confirm(conn, id, self.written);
    }

    /// The confirmation that was made due for `at`. `busy`: the peer does not read what it is told; confirmations can be
    /// one later.
    pub(super) fn confirm_due(&mut self, at: Nanos, now: Nanos, busy: bool) -> Confirm {
        if self.confirm_at != Some(at) {
            return Confirm::Not;
        }
        if busy {
            let later = now + CONFIRM_DELAY;
            self.confirm_at = Some(later);
            return Confirm::Later(later);
        }
        self.confirm_at = None;
        self.confirmed = self.written;
        Confirm::Now(self.written)
    }
}

/// What to do about a confirmation whose time has come.
pub(super) enum Confirm {
    /// Everything below is written.
    Now(u64),
    /// Ask again then.
    Later(Nanos),
    /// It went with an earlier one.
    Not,
}

impl Relay {
    pub(super) fn offered(
        &mut self,
        conn: &mut BulkConn,
        id: TransferId,
        meta: TransferMeta,
        events: &mut VecDeque<Event>,
    ) {
        if meta.size.is_none() && !conn.session.carries_streams() {
            conn.session.push_cancel(id, NO_STREAMS);
            // One that began while the peer was a newer one.
            if self.incoming.remove(&id).is_some() {
                events.push_back(Event::TransferEnded { id, result: Err(NO_STREAMS.to_owned()) });
            }
            return;
        }
        if let Some((name, size)) = self.done.get(id) {
            if *name == meta.name && *size == meta.size {
                // Our `Done` was lost with the connection; nothing is sent again.
                conn.session.push(&Message::Done { id: id.0 });
            } else {
                conn.session.push_cancel(id, "this id was another file's, which has arrived");
            }
            return;
        }
        if let Some(given_up) = self.given_up.get_mut(id) {
            if !given_up.told {
                given_up.told = true;
                conn.session.push_cancel(id, &given_up.reason);
                return;
            }
            self.given_up.remove(id);
        }
        if let Some(transfer) = self.incoming.get_mut(&id) {
            if !std::mem::replace(&mut transfer.offered, true) && transfer.accepted {
                transfer.push_accept(conn, id, transfer.delivered);
            }
            return;
        }
        let refusal = if self.outgoing.contains_key(&id) {
            Err(OTHER_WAY)
        } else if self.is_full() {
            Err("the receiver's limit of transfers is reached")
        } else {
            check_meta(&meta)
        };
        if let Err(reason) = refusal {
            conn.session.push_cancel(id, reason);
            return;
        }
        self.incoming.insert(id, Incoming::new(&meta, &self.limits));
        events.push_back(Event::Offered { peer: self.peer, id, meta });
    }

    /// The sender has offered all that it knows.
    pub(super) fn reconcile(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        boot: u64,
        events: &mut VecDeque<Event>,
    ) {
        let same = self.peer_boot.replace(boot) == Some(boot);
        // What is here whole is the gateway's to complete, whatever its sender remembers.
        let forgotten = self.incoming.iter().filter(|(_, transfer)| !transfer.offered && !transfer.end_delivered);
        let mut forgotten: Vec<_> = forgotten.map(|(id, _)| *id).collect();
        // By id, so that equal seeds do the same.
        forgotten.sort_unstable();
        for id in forgotten {
            if same {
                let reason = "its sender gave it up while there was no connection".to_owned();
                self.end_incoming(conn, quic, id, Err(reason), events);
            } else if self.remove_incoming(conn, quic, id) {
                events.push_back(Event::TransferShelved { id });
            }
        }
        // What was given up here and is not offered any more is known to the sender.
        self.given_up.retain(|given_up| given_up.told);
    }

    /// An incoming transfer ends here, by this end.
    pub(super) fn give_up(&mut self, id: TransferId, reason: &str, told: bool) {
        self.given_up.insert(id, GivenUp { reason: reason.to_owned(), told });
    }

    /// The gateway takes an offered transfer from `offset` on.
    pub(crate) fn accept(&mut self, conn: Option<&mut BulkConn>, id: TransferId, offset: u64) {
        let Some(transfer) = self.incoming.get_mut(&id).filter(|t| !t.accepted) else { return };
        transfer.accepted = true;
        transfer.delivered = offset;
        transfer.written = offset;
        if let Some(conn) = conn.filter(|conn| conn.session.ready) {
            transfer.push_accept(conn, id, offset);
        }
    }

    /// The gateway has written everything below `offset`.
    pub(crate) fn written(
        &mut self,
        now: Nanos,
        conn: Option<(&mut BulkConn, &mut Connection)>,
        id: TransferId,
        offset: u64,
        events: &mut VecDeque<Event>,
    ) {
        let Some(transfer) = self.incoming.get_mut(&id) else { return };
        if offset <= transfer.written || offset > transfer.delivered {
            return;
        }
        transfer.written = offset;
        let Some((conn, quic)) = conn else { return };
        self.confirm_written(now, conn, id);
        self.deliver(conn, quic, id, events);
    }

    /// Confirm what is written, now or soon.
    fn confirm_written(&mut self, now: Nanos, conn: &mut BulkConn, id: TransferId) {
        let Some(transfer) = self.incoming.get_mut(&id) else { return };
        if transfer.written - transfer.confirmed >= CONFIRM_STEP_BYTES && !conn.session.is_busy() {
            transfer.confirmed = transfer.written;
            transfer.confirm_at = None;
            transfer.push_confirm(conn, id, transfer.written);
        } else if transfer.confirm_at.is_none() {
            let at = now + CONFIRM_DELAY;
            transfer.confirm_at = Some(at);
            self.due.push(at, id);
        }
    }

    /// The gateway is through with the whole.
    pub(crate) fn complete(
        &mut self,
        conn: Option<(&mut BulkConn, &mut Connection)>,
        id: TransferId,
        result: Result<(), String>,
        events: &mut VecDeque<Event>,
    ) {
        let Some(transfer) = self.incoming.get(&id) else { return };
        if result.is_ok() {
            self.done.insert(id, (transfer.name.clone(), transfer.size));
        }
        // Otherwise the offer of this session is still to come, and is answered then.
        let offered = transfer.offered;
        if let Err(reason) = &result {
            self.give_up(id, reason, conn.is_some() && offered);
        }
        match conn {
            Some((conn, quic)) => {
                match &result {
                    _ if !offered => {}
                    Ok(()) => conn.session.push(&Message::Done { id: id.0 }),
                    Err(reason) => conn.session.push_cancel(id, reason),
                }
                self.end_incoming(conn, quic, id, result, events);
            }
            None => {
                self.incoming.remove(&id);
                events.push_back(Event::TransferEnded { id, result });
            }
        }
    }

    /// A stripe has bytes, or its end.
    pub(crate) fn readable(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        stream: StreamId,
        events: &mut VecDeque<Event>,
    ) {
        let Some(stripe) = conn.stripes.get_mut(&stream) else { return };
        let id = match stripe.transfer {
            Some(id) => id,
            None => match read_header(stripe, quic, stream) {
                Header::Whole(id) => id,
                Header::Partial => return,
                Header::Broken => {
                    conn.stripes.remove(&stream);
                    return;
                }
            },
        };
        let Some(transfer) = self.incoming.get_mut(&id).filter(|t| t.accepted) else {
            // Nobody waits for it (cancelled here): say so, and let its bytes go.
            let _ = quic.recv_stream(stream).stop(VarInt::from_u32(0));
            conn.stripes.remove(&stream);
            return;
        };
        transfer.waiting.insert((stripe.next, stream));
        self.deliver(conn, quic, id, events);
    }

    /// Hand on what is in order, as far as the gateway keeps up.
    pub(super) fn deliver(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        id: TransferId,
        events: &mut VecDeque<Event>,
    ) {
        let Some(transfer) = self.incoming.get_mut(&id).filter(|t| t.accepted) else { return };
        let ceiling = transfer.written.saturating_add(transfer.window);
        while let Some(&(at, stream)) = transfer.waiting.first() {
            if at > transfer.delivered || transfer.delivered >= ceiling {
                break;
            }
            transfer.waiting.pop_first();
            let Some(stripe) = conn.stripes.get_mut(&stream) else { continue };
            let mut receiver = quic.recv_stream(stream);
            let Ok(mut chunks) = receiver.read(true) else {
                conn.stripes.remove(&stream);
                continue;
            };
            // All that is there in one go: opening a stream for reading and closing it costs as much as a chunk.
            let stopped = loop {
                let budget = ceiling.saturating_sub(transfer.delivered).min(PIECE_BYTES);
                if budget == 0 {
                    break Stopped::Full;
                }
                match chunks.next(usize::try_from(budget).unwrap_or(usize::MAX)) {
                    Ok(Some(chunk)) => {
                        let mut data = chunk.bytes;
                        // Bytes that an older connection has brought already are read and skipped.
                        let skip = (transfer.delivered - stripe.next).min(data.len() as u64);
                        stripe.next += data.len() as u64;
                        data.advance(skip as usize);
                        if !data.is_empty() {
                            let offset = transfer.delivered;
                            transfer.delivered += data.len() as u64;
                            events.push_back(Event::Data { id, offset, data });
                        }
                    }
                    Ok(None) | Err(ReadError::Reset(_)) => break Stopped::Ended,
                    Err(ReadError::Blocked) => break Stopped::Blocked,
                }
            };
            // Window updates leave with the next packet: the connection is polled after every event anyway.
            let _ = chunks.finalize();
            match stopped {
                Stopped::Full => {
                    transfer.waiting.insert((stripe.next, stream));
                }
                // `readable` brings it back.
                Stopped::Blocked => {}
                Stopped::Ended => {
                    conn.stripes.remove(&stream);
                }
            }
        }
        if let Some((size, digest)) = transfer.end
            && !transfer.end_delivered
        {
            if transfer.delivered == size {
                transfer.end_delivered = true;
                events.push_back(Event::DataEnd { id, size, digest });
            } else if transfer.delivered > size {
                let reason = format!("the sender says {size} bytes but has sent more");
                conn.session.push_cancel(id, &reason);
                self.end_incoming(conn, quic, id, Err(reason), events);
            }
        }
    }

    pub(super) fn end_incoming(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        id: TransferId,
        result: Result<(), String>,
        events: &mut VecDeque<Event>,
    ) {
        if self.remove_incoming(conn, quic, id) {
            events.push_back(Event::TransferEnded { id, result });
        }
    }

    fn remove_incoming(&mut self, conn: &mut BulkConn, quic: &mut Connection, id: TransferId) -> bool {
        if self.incoming.remove(&id).is_none() {
            return false;
        }
        conn.stripes.retain(|stream, stripe| {
            let ours = stripe.transfer == Some(id);
            if ours {
                let _ = quic.recv_stream(*stream).stop(VarInt::from_u32(0));
            }
            !ours
        });
        true
    }
}

/// Why reading a stripe has stopped.
enum Stopped {
    /// The gateway has enough to write.
    Full,
    /// Nothing more is here.
    Blocked,
    /// Nothing more will come.
    Ended,
}

enum Header {
    Whole(TransferId),
    Partial,
    Broken,
}

fn read_header(stripe: &mut StripeIn, quic: &mut Connection, stream: StreamId) -> Header {
    while stripe.have < STRIPE_HEADER_BYTES {
        match read_chunk(quic, stream, STRIPE_HEADER_BYTES - stripe.have) {
            Read::Bytes(data) => {
                stripe.header[stripe.have..stripe.have + data.len()].copy_from_slice(&data);
                stripe.have += data.len();
            }
            Read::Blocked => return Header::Partial,
            Read::Ended => return Header::Broken,
        }
    }
    let [id @ .., _, _, _, _, _, _, _, _] = stripe.header;
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, offset @ ..] = stripe.header;
    let id = TransferId(u128::from_be_bytes(id));
    stripe.transfer = Some(id);
    stripe.next = u64::from_be_bytes(offset);
    Header::Whole(id)
}

enum Read {
    Bytes(bytes::Bytes),
    Blocked,
    Ended,
}

fn read_chunk(quic: &mut Connection, stream: StreamId, limit: usize) -> Read {
    let mut receiver = quic.recv_stream(stream);
    let Ok(mut chunks) = receiver.read(true) else { return Read::Ended };
    let read = match chunks.next(limit) {
        Ok(Some(chunk)) => Read::Bytes(chunk.bytes),
        Ok(None) | Err(ReadError::Reset(_)) => Read::Ended,
        Err(ReadError::Blocked) => Read::Blocked,
    };
    // Window updates leave with the next packet: the connection is polled after every event anyway.
    let _ = chunks.finalize();
    read
}

#[cfg(test)]
mod tests;
