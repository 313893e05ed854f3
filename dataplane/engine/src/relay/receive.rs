//! The receiver's half of a transfer.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Buf;
use quinn_proto::{Connection, ReadError, StreamId, VarInt};

use super::stripe_in::{Header, read_header};
use super::{BulkConn, NO_STREAMS, OTHER_WAY, Relay, STRIPE_HEADER_BYTES, check_meta, ended};
use crate::api::{Event, FailCode, Failure, TransferId, TransferMeta};
use crate::config::Limits;
use crate::session::Message;
use crate::time::Nanos;

/// Confirm at once when this much was written since the last confirmation …
const CONFIRM_STEP_BYTES: u64 = 1 << 20;
/// … and otherwise after this long, so that progress is seen on slow links without a message per packet.
const CONFIRM_DELAY: Duration = Duration::from_millis(200);
/// Largest piece handed to the gateway in one event, in bytes.
const PIECE_BYTES: u64 = 64 << 10;

/// A transfer that this node receives.
#[derive(Debug)]
pub(super) struct Incoming {
    name: String,
    size: Option<u64>,
    /// Bytes of it, where its sender has said: a file's size, or what was declared of a stream.
    whole: Option<u64>,
    /// Bytes that may be handed to the gateway and not be written.
    window: u64,
    /// Its sender sends on credit.
    on_credit: bool,
    /// How far beyond what is written, at most `window`.
    pub(super) credit: u64,
    /// Its sender has offered it on this session.
    pub(super) offered: bool,
    /// The gateway has accepted it.
    accepted: bool,
    /// First byte not yet handed to the gateway.
    delivered: u64,
    /// First byte that the gateway has not written.
    written: u64,
    /// First byte that is not to be confirmed yet: not synced of a file, not written of a stream.
    durable: u64,
    confirmed: u64,
    confirm_at: Option<Nanos>,
    /// Stripes of this connection that may have something to read, by their next offset. Several can be at the same: one
    /// whose end has not been seen, and the one that goes on from there.
    waiting: BTreeSet<(u64, StreamId)>,
    /// All its stripes of this connection.
    stripes: BTreeSet<StreamId>,
    /// Bytes of its stripes on all connections.
    pub(super) wire_bytes: u64,
    end: Option<(u64, [u8; 32])>,
    end_delivered: bool,
}

impl Incoming {
    fn new(meta: &TransferMeta, limits: &Limits) -> Self {
        let on_credit = meta.size.is_none();
        Self {
            window: u64::from(if on_credit { limits.stream_credit_bytes } else { limits.unwritten_bytes }),
            on_credit,
            credit: u64::from(limits.stream_credit_bytes),
            name: meta.name.clone(),
            size: meta.size,
            whole: meta.size.or(meta.declared),
            offered: true,
            accepted: false,
            delivered: 0,
            written: 0,
            durable: 0,
            confirmed: 0,
            confirm_at: None,
            waiting: BTreeSet::new(),
            stripes: BTreeSet::new(),
            wire_bytes: 0,
            end: None,
            end_delivered: false,
        }
    }

    /// Its gateway has all of it; a stream's reader may take as long as it likes.
    pub(super) fn is_whole_file(&self) -> bool {
        self.end_delivered && !self.on_credit
    }

    pub(super) fn disconnected(&mut self) {
        self.offered = false;
        self.waiting.clear();
        self.stripes.clear();
        self.confirm_at = None;
        self.confirmed = 0;
        if !self.end_delivered {
            self.end = None;
        }
    }

    /// Its sender has said the end.
    pub(super) fn finish(&mut self, size: u64, digest: [u8; 32]) -> Result<(), Failure> {
        if let Some(whole) = self.whole.filter(|whole| *whole != size) {
            return Err(Failure::new(FailCode::Size, format!("it ends after {size} bytes, {whole} were announced")));
        }
        self.end.get_or_insert((size, digest));
        Ok(())
    }

    /// Everything below `offset` is here for good; and so much more may be sent.
    pub(super) fn push_confirm(&self, conn: &mut BulkConn, id: TransferId, offset: u64) {
        conn.session.push(&Message::Confirm { id: id.0, offset });
        self.push_credit(conn, id);
    }

    fn push_credit(&self, conn: &mut BulkConn, id: TransferId) {
        if self.on_credit {
            conn.session.push(&Message::Credit { id: id.0, limit: self.written.saturating_add(self.credit) });
        }
    }

    /// Send from `offset` on. What was confirmed while there was no connection is said with it: the sender of a stream may
    /// wait for nothing but room.
    fn push_accept(&mut self, conn: &mut BulkConn, id: TransferId, offset: u64) {
        conn.session.push(&Message::Accept { id: id.0, offset });
        self.confirmed = self.durable;
        self.push_confirm(conn, id, self.durable);
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
        self.confirmed = self.durable;
        Confirm::Now(self.durable)
    }
}

/// What to do about a confirmation whose time has come.
pub(super) enum Confirm {
    /// Everything below is here for good.
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
            let failure = Failure::new(FailCode::Refused, NO_STREAMS);
            conn.session.push_failure(id, &failure);
            // One that began while the peer was a newer one.
            if let Some(transfer) = self.incoming.remove(&id) {
                events.push_back(ended(id, Err(failure), transfer.wire_bytes));
            }
            return;
        }
        if let Some((name, size)) = self.done.get(id) {
            if *name == meta.name && *size == meta.size {
                // Our `Done` was lost with the connection; nothing is sent again.
                conn.session.push(&Message::Done { id: id.0 });
            } else {
                let failure = Failure::new(FailCode::Refused, "this id was another transfer's, which has arrived");
                conn.session.push_failure(id, &failure);
            }
            return;
        }
        if self.answered_with_its_end(conn, id, events) {
            return;
        }
        if let Some(transfer) = self.incoming.get_mut(&id) {
            if transfer.name != meta.name || transfer.size != meta.size {
                // Its sender was restarted and has given the id to something else. What is here is shelved, then.
                let failure =
                    Failure::new(FailCode::Refused, "this id is another transfer's, which has begun to arrive");
                conn.session.push_failure(id, &failure);
            } else if !std::mem::replace(&mut transfer.offered, true) && transfer.accepted {
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
            conn.session.push_failure(id, &Failure::new(FailCode::Refused, reason));
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
                let reason = "its sender gave it up while there was no connection";
                self.end_incoming(conn, quic, id, Err(Failure::new(FailCode::Cancelled, reason)), events);
            } else if self.remove_incoming(conn, quic, id).is_some() {
                events.push_back(Event::TransferShelved { id });
            }
        }
        self.ends_not_offered(events);
    }

    /// The gateway takes an offered transfer from `offset` on.
    pub(crate) fn accept(&mut self, conn: Option<&mut BulkConn>, id: TransferId, offset: u64) {
        let Some(transfer) = self.incoming.get_mut(&id).filter(|t| !t.accepted) else { return };
        transfer.accepted = true;
        transfer.delivered = offset;
        transfer.written = offset;
        transfer.durable = offset;
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
        let confirms = transfer.on_credit;
        if confirms {
            transfer.durable = offset;
        }
        let Some((conn, quic)) = conn else { return };
        if confirms {
            self.confirm_durable(now, conn, id);
        }
        self.deliver(conn, quic, id, events);
    }

    /// The gateway has synced everything of a file below `offset`.
    pub(crate) fn synced(
        &mut self,
        now: Nanos,
        conn: Option<(&mut BulkConn, &mut Connection)>,
        id: TransferId,
        offset: u64,
        events: &mut VecDeque<Event>,
    ) {
        let Some(transfer) = self.incoming.get_mut(&id).filter(|transfer| !transfer.on_credit) else { return };
        if offset <= transfer.durable || offset > transfer.delivered {
            return;
        }
        transfer.durable = offset;
        transfer.written = transfer.written.max(offset);
        let Some((conn, quic)) = conn else { return };
        self.confirm_durable(now, conn, id);
        self.deliver(conn, quic, id, events);
    }

    /// Confirm what is here for good, now or soon.
    fn confirm_durable(&mut self, now: Nanos, conn: &mut BulkConn, id: TransferId) {
        let Some(transfer) = self.incoming.get_mut(&id) else { return };
        if transfer.durable - transfer.confirmed >= CONFIRM_STEP_BYTES && !conn.session.is_busy() {
            transfer.confirmed = transfer.durable;
            transfer.confirm_at = None;
            transfer.push_confirm(conn, id, transfer.durable);
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
        result: Result<(), Failure>,
        events: &mut VecDeque<Event>,
    ) {
        let Some(transfer) = self.incoming.get(&id) else { return };
        if result.is_ok() {
            self.done.insert(id, (transfer.name.clone(), transfer.size));
        }
        // Otherwise the offer of this session is still to come, and is answered then.
        let offered = transfer.offered;
        let wire_bytes = transfer.wire_bytes;
        if let Err(failure) = &result {
            self.give_up(id, false, failure, conn.is_some() && offered, events);
        }
        match conn {
            Some((conn, quic)) => {
                match &result {
                    _ if !offered => {}
                    Ok(()) => conn.session.push(&Message::Done { id: id.0 }),
                    Err(failure) => conn.session.push_failure(id, failure),
                }
                self.end_incoming(conn, quic, id, result, events);
            }
            None => {
                self.incoming.remove(&id);
                events.push_back(ended(id, result, wire_bytes));
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
        let (id, header_bytes) = match stripe.transfer {
            Some(id) => (id, 0),
            None => match read_header(stripe, quic, stream) {
                Header::Whole(id) => (id, STRIPE_HEADER_BYTES as u64),
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
        if header_bytes > 0 {
            transfer.wire_bytes += header_bytes;
            transfer.stripes.insert(stream);
        }
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
                transfer.stripes.remove(&stream);
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
                        transfer.wire_bytes += data.len() as u64;
                        data.advance(skip as usize);
                        if transfer.whole.is_some_and(|whole| transfer.delivered + data.len() as u64 > whole) {
                            break Stopped::TooMuch;
                        }
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
                    transfer.stripes.remove(&stream);
                }
                Stopped::TooMuch => {
                    let whole = transfer.whole.unwrap_or_default();
                    let failure = Failure::new(FailCode::Size, format!("more came than the {whole} bytes announced"));
                    self.cancel(Some((conn, quic)), id, &failure, events);
                    return;
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
                let reason = format!("the sender says {size} bytes, and {} are here", transfer.delivered);
                self.cancel(Some((conn, quic)), id, &Failure::new(FailCode::Size, reason), events);
            }
        }
    }

    pub(super) fn end_incoming(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        id: TransferId,
        result: Result<(), Failure>,
        events: &mut VecDeque<Event>,
    ) {
        if let Some(transfer) = self.remove_incoming(conn, quic, id) {
            events.push_back(ended(id, result, transfer.wire_bytes));
        }
    }

    fn remove_incoming(&mut self, conn: &mut BulkConn, quic: &mut Connection, id: TransferId) -> Option<Incoming> {
        let transfer = self.incoming.remove(&id)?;
        for stream in &transfer.stripes {
            conn.stripes.remove(stream);
            let _ = quic.recv_stream(*stream).stop(VarInt::from_u32(0));
        }
        Some(transfer)
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
    /// More came than there may be.
    TooMuch,
}

#[cfg(test)]
mod tests;
