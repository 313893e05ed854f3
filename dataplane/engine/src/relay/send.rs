//! The sender's half of a transfer.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::{Connection, Dir, WriteError};

use super::stripe::StripeOut;
use super::turns::{LANES, Queue, Turn};
use super::{BulkConn, NO_STREAMS, OTHER_WAY, Relay, STRIPE_HEADER_BYTES, StripeEnd, check_meta, ended};
use crate::api::{Event, FailCode, Failure, Kept, TransferId, TransferMeta};
use crate::session::Message;

/// Priorities from here on are strict over all below (COMPAT, part A).
pub(super) const STRICT_PRIORITY: u8 = 64;
/// Packets per turn and weight unit: the second-level DRR quantum.
const QUANTUM_PACKETS: u32 = 1;
/// Of stripes that are open, so many may belong to transfers that have nothing to send now. A peer allows 4096 at least;
/// those beyond that have to wait until others end.
const MOST_IDLE_STRIPES: usize = 1024;
/// Announce a higher limit only when it has grown by this share of `supply_bytes`.
const LIMIT_STEP_DIVISOR: u64 = 8;

/// A transfer that this node sends.
pub(super) struct Outgoing {
    pub(super) meta: TransferMeta,
    /// Supplied, not yet written to QUIC; begins at `sent`.
    supply: VecDeque<Bytes>,
    /// First byte not yet written to QUIC on this connection.
    pub(super) sent: u64,
    /// First byte not supplied.
    pub(super) supplied: u64,
    /// First byte that may not be supplied.
    pub(super) limit: u64,
    /// First byte that the receiver has not confirmed.
    pub(super) confirmed: u64,
    /// First byte that may not be sent: the receiver's credit of a stream. A file needs none.
    credit: u64,
    /// First byte that nobody can have: never sent on any connection, never kept, never claimed by the receiver.
    pub(super) high: u64,
    /// The receiver has said its place since the transfer was given to this engine.
    pub(super) placed: bool,
    /// Nothing of it is sent for now.
    pub(super) held: bool,
    /// Bytes of its stripes that QUIC has taken, on all connections.
    pub(super) wire_bytes: u64,
    /// Size and digest, once the gateway has said them.
    end: Option<(u64, [u8; 32])>,
    /// The open stripe.
    pub(super) stripe: Option<StripeOut>,
    /// The receiver has accepted on this connection.
    pub(super) flowing: bool,
    finish_sent: bool,
    /// Its place among those that may have something to write.
    pub(super) turn: Option<Turn>,
    /// Packets left in this turn.
    pub(super) deficit: u32,
}

impl Outgoing {
    fn new(meta: TransferMeta, kept: Kept) -> Self {
        Self {
            meta,
            supply: VecDeque::new(),
            sent: 0,
            supplied: 0,
            limit: 0,
            confirmed: kept.confirmed,
            credit: 0,
            high: kept.head.max(kept.confirmed),
            placed: false,
            held: false,
            wire_bytes: 0,
            end: None,
            stripe: None,
            flowing: false,
            finish_sent: false,
            turn: None,
            deficit: 0,
        }
    }

    pub(super) fn debug(&self) -> String {
        format!(
            "sent {} supplied {} limit {} confirmed {} credit {} end {:?} stripe {:?} flowing {} finish {} held {} turn {:?} supply {}",
            self.sent,
            self.supplied,
            self.limit,
            self.confirmed,
            self.credit,
            self.end.map(|e| e.0),
            self.stripe,
            self.flowing,
            self.finish_sent,
            self.held,
            self.turn,
            self.supply.len()
        )
    }

    pub(super) fn disconnected(&mut self) {
        self.supply.clear();
        self.stripe = None;
        self.flowing = false;
        self.finish_sent = false;
        self.turn = None;
        self.limit = 0;
    }

    /// Whether the confirmed offset has grown.
    pub(super) fn confirm(&mut self, offset: u64) -> bool {
        let grows = offset > self.confirmed && offset <= self.sent;
        if grows {
            self.confirmed = offset;
        }
        grows
    }

    pub(super) fn lane(&self) -> usize {
        usize::from(self.meta.priority < STRICT_PRIORITY)
    }

    /// Packets of a whole turn.
    pub(super) fn quantum(&self) -> u32 {
        (u32::from(self.meta.priority % STRICT_PRIORITY) + 1) * QUANTUM_PACKETS
    }

    /// Bytes of it, where that is known before its end: a file's size, or what was declared of a stream.
    fn whole(&self) -> Option<u64> {
        self.meta.size.or(self.meta.declared)
    }

    fn has_work(&self) -> bool {
        let data = !self.supply.is_empty();
        self.flowing
            && !self.held
            && ((data && self.sent < self.credit) || (!data && self.end.is_some() && !self.finish_sent))
    }
}

impl Relay {
    /// Begin a transfer, or go on with one that was kept over a restart, and offer it if there is a connection.
    pub(crate) fn send(
        &mut self,
        connected: bool,
        id: TransferId,
        meta: TransferMeta,
        kept: Kept,
        events: &mut VecDeque<Event>,
    ) {
        let refusal = if self.outgoing.contains_key(&id) {
            Err("a transfer with this id is running".to_owned())
        } else if self.incoming.contains_key(&id) {
            Err(OTHER_WAY.to_owned())
        } else if self.is_full() {
            Err(format!("{} transfers with this peer are running, which is the limit", self.limits.transfers_per_peer))
        } else {
            check_meta(&meta).map_err(str::to_owned)
        };
        if let Err(reason) = refusal {
            events.push_back(ended(id, Err(Failure::new(FailCode::Refused, reason)), 0));
            return;
        }
        if connected {
            self.offers.push_back(id);
        }
        self.outgoing.insert(id, Outgoing::new(meta, kept));
    }

    /// The receiver of a stream takes bytes below `limit`.
    pub(super) fn credited(&mut self, id: TransferId, limit: u64) {
        if let Some(transfer) = self.outgoing.get_mut(&id).filter(|t| t.flowing && t.credit < limit) {
            transfer.credit = limit;
            self.queue(id);
        }
    }

    pub(super) fn accepted(&mut self, id: TransferId, offset: u64, events: &mut VecDeque<Event>) {
        let supply = self.first_supply_bytes();
        let Some(transfer) = self.outgoing.get_mut(&id).filter(|t| !t.flowing) else { return };
        if transfer.meta.size.is_some_and(|size| offset > size) {
            // The receiver has more than the file: not the same file. It will fail the digest; start over.
            return self.accepted(id, 0, events);
        }
        transfer.flowing = true;
        transfer.placed = true;
        transfer.sent = offset;
        transfer.supplied = offset;
        transfer.high = transfer.high.max(offset);
        transfer.confirmed = transfer.confirmed.min(offset);
        transfer.limit = offset;
        transfer.credit = if transfer.meta.size.is_some() { u64::MAX } else { offset };
        transfer.end = None;
        events.push_back(Event::SupplyFrom { id, offset });
        // What is held would only fill memory.
        if !transfer.held {
            transfer.limit = offset.saturating_add(supply);
            events.push_back(Event::SupplyUpTo { id, limit: transfer.limit });
        }
    }

    /// Bytes from the gateway. What does not go on from the bytes that are here, or goes beyond the limit, is an answer
    /// to an older question. Such an answer may have been taken, though, when it happened to fit; the gateway then
    /// supplies those bytes once more, and what is here of them is cut off. An error is to end the transfer.
    pub(crate) fn supply(&mut self, id: TransferId, offset: u64, mut data: Bytes) -> Result<(), Failure> {
        let Some(transfer) = self.outgoing.get_mut(&id) else { return Ok(()) };
        let end = offset.saturating_add(data.len() as u64);
        if let Some(whole) = transfer.whole().filter(|whole| end > *whole) {
            let reason = format!("its writer goes beyond the {whole} bytes that it announced");
            return Err(Failure::new(FailCode::Size, reason));
        }
        let fits = offset <= transfer.supplied && transfer.supplied < end && end <= transfer.limit;
        if !transfer.flowing || !fits {
            return Ok(());
        }
        // Less than `data.len()`, because `supplied < end`.
        bytes::Buf::advance(&mut data, (transfer.supplied - offset) as usize);
        transfer.supplied = end;
        transfer.supply.push_back(data);
        self.queue(id);
        Ok(())
    }

    /// The gateway has said the end. An error is to end the transfer.
    pub(crate) fn supply_end(&mut self, id: TransferId, size: u64, digest: [u8; 32]) -> Result<(), Failure> {
        let Some(transfer) = self.outgoing.get_mut(&id) else { return Ok(()) };
        if let Some(whole) = transfer.whole().filter(|whole| *whole != size) {
            let reason = format!("its writer ended after {size} bytes, it announced {whole}");
            return Err(Failure::new(FailCode::Size, reason));
        }
        if !transfer.flowing {
            return Ok(());
        }
        if size < transfer.supplied {
            let reason = format!("the receiver has {} bytes of a stream that ended after {size}", transfer.supplied);
            return Err(Failure::new(FailCode::LostPlace, reason));
        }
        if size == transfer.supplied {
            transfer.end = Some((size, digest));
            self.queue(id);
        }
        Ok(())
    }

    pub(super) fn queue(&mut self, id: TransferId) {
        if let Some(transfer) = self.outgoing.get_mut(&id)
            && transfer.has_work()
            && transfer.turn.is_none()
        {
            transfer.deficit = transfer.quantum();
            transfer.turn = Some(self.turns.push(Queue::Lane(transfer.lane()), id));
        }
    }

    /// Write one packet's worth, at most `limit` bytes: session messages first, then the transfer whose turn it is.
    /// `false` = there is nothing to write, or QUIC takes nothing now.
    pub(crate) fn feed(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        limit: usize,
        events: &mut VecDeque<Event>,
    ) -> bool {
        if conn.session.ready {
            self.push_offers(conn, events);
        }
        if conn.session.feed(quic, limit) > 0 {
            return true;
        }
        if !conn.session.ready {
            return false;
        }
        let supply = self.supply_bytes();
        self.open_stripes(conn, quic);
        for lane in 0..LANES {
            let queue = Queue::Lane(lane);
            // Each round takes one transfer off its turn for good, or writes.
            while let Some((id, turn)) = self.turns.front(queue) {
                let Some(transfer) = self.outgoing.get_mut(&id).filter(|transfer| transfer.turn == Some(turn)) else {
                    self.turns.pass_over(queue);
                    continue;
                };
                if !transfer.has_work() {
                    transfer.turn = None;
                    self.turns.pop(queue);
                    if conn.open_stripes > MOST_IDLE_STRIPES {
                        conn.end_stripe(quic, &mut transfer.stripe, StripeEnd::Finish);
                    }
                    continue;
                }
                match write_packet(id, transfer, conn, quic, limit) {
                    Wrote::Data => {
                        let limit = transfer.sent.saturating_add(supply);
                        if limit.saturating_sub(transfer.limit) >= supply / LIMIT_STEP_DIVISOR {
                            transfer.limit = limit;
                            events.push_back(Event::SupplyUpTo { id, limit });
                        }
                        transfer.deficit = transfer.deficit.saturating_sub(1);
                        if transfer.deficit == 0 && self.turns.is_shared(queue) {
                            transfer.deficit = transfer.quantum();
                            self.turns.rotate(queue);
                        }
                        return true;
                    }
                    Wrote::Message => return conn.session.feed(quic, limit) > 0,
                    Wrote::Blocked => return false,
                    Wrote::NoStripe => {
                        // Those that have one go on, and so there are places again.
                        self.turns.pop(queue);
                        transfer.turn = Some(self.turns.push(Queue::Behind(lane), id));
                    }
                    Wrote::Refused => {
                        // The receiver has stopped the stripe; its message says why, and ends the transfer.
                        transfer.turn = None;
                        transfer.flowing = false;
                        self.turns.pop(queue);
                    }
                }
            }
        }
        false
    }

    /// Let those that wait for a stripe open one, as far as the peer allows it.
    fn open_stripes(&mut self, conn: &mut BulkConn, quic: &mut Connection) {
        for lane in 0..LANES {
            let queue = Queue::Behind(lane);
            while let Some((id, turn)) = self.turns.front(queue) {
                let Some(transfer) = self.outgoing.get_mut(&id).filter(|transfer| transfer.turn == Some(turn)) else {
                    self.turns.pass_over(queue);
                    continue;
                };
                if transfer.has_work() {
                    if !transfer.may_open(conn) {
                        break;
                    }
                    let Some(stream) = quic.streams().open(Dir::Uni) else { return };
                    transfer.stripe = Some(StripeOut::new(stream, id, transfer.sent));
                    conn.open_stripes += 1;
                }
                self.turns.pop(queue);
                transfer.turn = None;
                self.queue(id);
            }
        }
    }

    /// Offers wait here and not in the session, so that it stays short whatever there is to be sent.
    fn push_offers(&mut self, conn: &mut BulkConn, events: &mut VecDeque<Event>) {
        while !conn.session.is_busy() {
            if let Some(id) = self.offers.pop_front() {
                let Some(transfer) = self.outgoing.get(&id) else { continue };
                if transfer.meta.size.is_none() && !conn.session.carries_streams() {
                    // It has not begun to flow: no stripe is open.
                    let wire_bytes = transfer.wire_bytes;
                    self.outgoing.remove(&id);
                    let failure = Failure::new(FailCode::Refused, NO_STREAMS);
                    events.push_back(ended(id, Err(failure), wire_bytes));
                    continue;
                }
                conn.session.push_offer(id, &transfer.meta);
            } else {
                if std::mem::take(&mut self.offers_end) {
                    conn.session.push(&Message::OffersEnd { boot: self.boot });
                }
                return;
            }
        }
    }

    pub(super) fn end_outgoing(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        id: TransferId,
        result: Result<(), Failure>,
        events: &mut VecDeque<Event>,
    ) {
        let Some(mut transfer) = self.remove_outgoing(id) else { return };
        conn.end_stripe(quic, &mut transfer.stripe, StripeEnd::Reset);
        events.push_back(ended(id, result, transfer.wire_bytes));
    }

    /// Forget a transfer, and leave its turn.
    pub(super) fn remove_outgoing(&mut self, id: TransferId) -> Option<Outgoing> {
        let transfer = self.outgoing.remove(&id)?;
        if let Some(turn) = transfer.turn {
            self.leave_turn(turn);
        }
        Some(transfer)
    }

    /// This place is nobody's any more.
    pub(super) fn leave_turn(&mut self, turn: Turn) {
        let outgoing = &self.outgoing;
        self.turns.leave(turn, |id, turn| outgoing.get(&id).is_some_and(|transfer| transfer.turn == Some(turn)));
    }
}

enum Wrote {
    /// Stream bytes, or the end of a stripe.
    Data,
    /// A session message waits now.
    Message,
    /// Flow control holds us back; an event will tell.
    Blocked,
    /// The peer allows no further stripe; an event will tell.
    NoStripe,
    /// The peer does not want this stripe.
    Refused,
}

fn write_packet(
    id: TransferId,
    transfer: &mut Outgoing,
    conn: &mut BulkConn,
    quic: &mut Connection,
    limit: usize,
) -> Wrote {
    let mut room = limit;
    if !transfer.supply.is_empty() {
        let mut stripe = match transfer.stripe {
            Some(open) => open,
            None if !transfer.may_open(conn) => return Wrote::NoStripe,
            None => match quic.streams().open(Dir::Uni) {
                Some(stream) => {
                    conn.open_stripes += 1;
                    StripeOut::new(stream, id, transfer.sent)
                }
                None => return Wrote::NoStripe,
            },
        };
        let header = stripe.write_header(quic);
        // Kept also when nothing could be written: the next time goes on with the same stream.
        transfer.stripe = Some(stripe);
        match header {
            Ok(written) => {
                room -= written;
                transfer.wire_bytes += written as u64;
            }
            Err(WriteError::Blocked) => return Wrote::Blocked,
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                conn.end_stripe(quic, &mut transfer.stripe, StripeEnd::Reset);
                return Wrote::Refused;
            }
        }
        if stripe.header_written < STRIPE_HEADER_BYTES {
            return Wrote::Data;
        }
        let header_written = room < limit;
        room += stripe.spare_bytes();
        // A packet may take the end of one supplied piece and the beginning of the next. It is full also where the stripe
        // ends, which is at the first packet that reaches its length.
        let credit = transfer.credit.saturating_sub(transfer.sent);
        let mut room = room.min(usize::try_from(credit).unwrap_or(usize::MAX));
        let mut pieces = [Bytes::new(), Bytes::new()];
        for (piece, supplied) in pieces.iter_mut().zip(&transfer.supply) {
            *piece = supplied.slice(..room.min(supplied.len()));
            room -= piece.len();
        }
        let used = if pieces[1].is_empty() { 1 } else { 2 };
        let written = match quic.send_stream(stripe.stream).write_chunks(&mut pieces[..used]) {
            Ok(written) => written.bytes,
            Err(WriteError::Blocked) => return if header_written { Wrote::Data } else { Wrote::Blocked },
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                conn.end_stripe(quic, &mut transfer.stripe, StripeEnd::Reset);
                return Wrote::Refused;
            }
        };
        let mut gone = written;
        while let Some(front) = transfer.supply.front_mut() {
            if gone < front.len() {
                bytes::Buf::advance(front, gone);
                break;
            }
            gone -= front.len();
            transfer.supply.pop_front();
        }
        transfer.sent += written as u64;
        transfer.wire_bytes += written as u64;
        transfer.high = transfer.high.max(transfer.sent);
        stripe.left = stripe.left.saturating_sub(written as u64);
        transfer.stripe = Some(stripe);
        let whole = transfer.end.is_some_and(|(size, _)| size == transfer.sent);
        if stripe.left == 0 || whole {
            conn.end_stripe(quic, &mut transfer.stripe, StripeEnd::Finish);
        }
        return Wrote::Data;
    }
    let Some((size, digest)) = transfer.end else { return Wrote::Blocked };
    conn.end_stripe(quic, &mut transfer.stripe, StripeEnd::Finish);
    transfer.finish_sent = true;
    conn.session.push(&Message::Finish { id: id.0, size, digest });
    Wrote::Message
}

#[cfg(test)]
mod tests;
