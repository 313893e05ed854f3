//! The sender's half of a transfer.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::{Connection, Dir, VarInt, WriteError};

use super::stripe::StripeOut;
use super::{BulkConn, NO_STREAMS, OTHER_WAY, Relay, STRIPE_HEADER_BYTES, check_meta};
use crate::api::{Event, TransferId, TransferMeta};
use crate::session::Message;

/// Priorities from here on are strict over all below (COMPAT, part A).
const STRICT_PRIORITY: u8 = 64;
/// Packets per turn and weight unit: the second-level DRR quantum.
const QUANTUM_PACKETS: u32 = 1;
/// Announce a higher limit only when it has grown by this share of `supply_bytes`.
const LIMIT_STEP_DIVISOR: u64 = 8;

/// A transfer that this node sends.
pub(super) struct Outgoing {
    pub(super) meta: TransferMeta,
    /// Supplied, not yet written to QUIC; begins at `sent`.
    supply: VecDeque<Bytes>,
    /// First byte not yet written to QUIC on this connection.
    sent: u64,
    /// First byte not supplied.
    supplied: u64,
    /// First byte that may not be supplied.
    limit: u64,
    /// First byte that the receiver has not confirmed.
    confirmed: u64,
    /// First byte that may not be sent: the receiver's credit of a stream. A file needs none.
    credit: u64,
    /// First byte that was never sent, on any connection.
    high: u64,
    /// Size and digest, once the gateway has said them.
    end: Option<(u64, [u8; 32])>,
    /// The open stripe.
    stripe: Option<StripeOut>,
    /// The receiver has accepted on this connection.
    flowing: bool,
    finish_sent: bool,
    queued: bool,
    /// Packets left in this turn.
    deficit: u32,
}

impl Outgoing {
    fn new(meta: TransferMeta) -> Self {
        Self {
            meta,
            supply: VecDeque::new(),
            sent: 0,
            supplied: 0,
            limit: 0,
            confirmed: 0,
            credit: 0,
            high: 0,
            end: None,
            stripe: None,
            flowing: false,
            finish_sent: false,
            queued: false,
            deficit: 0,
        }
    }

    pub(super) fn debug(&self) -> String {
        format!(
            "sent {} supplied {} limit {} confirmed {} credit {} end {:?} stripe {:?} flowing {} finish {} queued {} supply {}",
            self.sent,
            self.supplied,
            self.limit,
            self.confirmed,
            self.credit,
            self.end.map(|e| e.0),
            self.stripe,
            self.flowing,
            self.finish_sent,
            self.queued,
            self.supply.len()
        )
    }

    pub(super) fn disconnected(&mut self) {
        self.supply.clear();
        self.stripe = None;
        self.flowing = false;
        self.finish_sent = false;
        self.queued = false;
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

    fn lane(&self) -> usize {
        usize::from(self.meta.priority < STRICT_PRIORITY)
    }

    fn weight(&self) -> u32 {
        u32::from(self.meta.priority % STRICT_PRIORITY) + 1
    }

    fn has_work(&self) -> bool {
        let data = !self.supply.is_empty();
        self.flowing && ((data && self.sent < self.credit) || (!data && self.end.is_some() && !self.finish_sent))
    }
}

impl Relay {
    /// Begin a transfer, and offer it if there is a connection.
    pub(crate) fn send(&mut self, connected: bool, id: TransferId, meta: TransferMeta, events: &mut VecDeque<Event>) {
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
            events.push_back(Event::TransferEnded { id, result: Err(reason) });
            return;
        }
        if connected {
            self.offers.push_back(id);
        }
        self.outgoing.insert(id, Outgoing::new(meta));
    }

    /// Whether a stream can go on from `offset`. What was confirmed is gone, and nobody has what was not sent.
    pub(super) fn check_place(&self, id: TransferId, offset: u64) -> Result<(), String> {
        let Some(stream) = self.outgoing.get(&id).filter(|t| t.meta.size.is_none() && !t.flowing) else {
            return Ok(());
        };
        if (stream.confirmed..=stream.high).contains(&offset) {
            return Ok(());
        }
        Err(format!(
            "the receiver has lost its place in the stream: it asks for byte {offset}, bytes {} to {} are kept",
            stream.confirmed, stream.high
        ))
    }

    /// The receiver of a stream takes bytes below `limit`.
    pub(super) fn credited(&mut self, id: TransferId, limit: u64) {
        if let Some(transfer) = self.outgoing.get_mut(&id).filter(|t| t.flowing && t.credit < limit) {
            transfer.credit = limit;
            self.queue(id);
        }
    }

    pub(super) fn accepted(&mut self, id: TransferId, offset: u64, events: &mut VecDeque<Event>) {
        let supply = u64::from(self.limits.supply_bytes);
        let Some(transfer) = self.outgoing.get_mut(&id).filter(|t| !t.flowing) else { return };
        if transfer.meta.size.is_some_and(|size| offset > size) {
            // The receiver has more than the file: not the same file. It will fail the digest; start over.
            return self.accepted(id, 0, events);
        }
        transfer.flowing = true;
        transfer.sent = offset;
        transfer.supplied = offset;
        transfer.confirmed = transfer.confirmed.min(offset);
        transfer.limit = offset.saturating_add(supply);
        transfer.credit = if transfer.meta.size.is_some() { u64::MAX } else { offset };
        transfer.end = None;
        events.push_back(Event::SupplyFrom { id, offset });
        events.push_back(Event::SupplyUpTo { id, limit: transfer.limit });
    }

    /// Bytes from the gateway. What does not go on from the bytes that are here, or goes beyond the limit, is an answer
    /// to an older question. Such an answer may have been taken, though, when it happened to fit; the gateway then
    /// supplies those bytes once more, and what is here of them is cut off.
    pub(crate) fn supply(&mut self, id: TransferId, offset: u64, mut data: Bytes) {
        let Some(transfer) = self.outgoing.get_mut(&id) else { return };
        let end = offset.saturating_add(data.len() as u64);
        let fits = offset <= transfer.supplied && transfer.supplied < end && end <= transfer.limit;
        if !transfer.flowing || !fits {
            return;
        }
        // Less than `data.len()`, because `supplied < end`.
        bytes::Buf::advance(&mut data, (transfer.supplied - offset) as usize);
        transfer.supplied = end;
        transfer.supply.push_back(data);
        self.queue(id);
    }

    pub(crate) fn supply_end(&mut self, id: TransferId, size: u64, digest: [u8; 32]) {
        let Some(transfer) = self.outgoing.get_mut(&id) else { return };
        if transfer.flowing && size == transfer.supplied {
            transfer.end = Some((size, digest));
            self.queue(id);
        }
    }

    fn queue(&mut self, id: TransferId) {
        if let Some(transfer) = self.outgoing.get_mut(&id)
            && transfer.has_work()
            && !transfer.queued
        {
            transfer.queued = true;
            transfer.deficit = transfer.weight() * QUANTUM_PACKETS;
            self.turns[transfer.lane()].push_back(id);
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
        let supply = u64::from(self.limits.supply_bytes);
        for lane in 0..self.turns.len() {
            // Each round takes one transfer off its turn for good, or writes.
            while let Some(id) = self.turns[lane].front().copied() {
                let Some(transfer) = self.outgoing.get_mut(&id) else {
                    self.turns[lane].pop_front();
                    continue;
                };
                if !transfer.has_work() {
                    transfer.queued = false;
                    self.turns[lane].pop_front();
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
                        if transfer.deficit == 0 && self.turns[lane].len() > 1 {
                            transfer.deficit = transfer.weight() * QUANTUM_PACKETS;
                            self.turns[lane].rotate_left(1);
                        }
                        return true;
                    }
                    Wrote::Message => return conn.session.feed(quic, limit) > 0,
                    Wrote::Blocked => return false,
                    Wrote::Refused => {
                        // The receiver has stopped the stripe; its message says why, and ends the transfer.
                        transfer.queued = false;
                        transfer.flowing = false;
                        self.turns[lane].pop_front();
                    }
                }
            }
        }
        false
    }

    /// Offers wait here and not in the session, so that it stays short whatever there is to be sent.
    fn push_offers(&mut self, conn: &mut BulkConn, events: &mut VecDeque<Event>) {
        while !conn.session.is_busy() {
            if let Some(id) = self.offers.pop_front() {
                let Some(transfer) = self.outgoing.get(&id) else { continue };
                if transfer.meta.size.is_none() && !conn.session.carries_streams() {
                    // It has not begun to flow: no stripe is open.
                    self.outgoing.remove(&id);
                    events.push_back(Event::TransferEnded { id, result: Err(NO_STREAMS.to_owned()) });
                    continue;
                }
                conn.session.push(&Message::Offer { id: id.0, meta: transfer.meta.clone() });
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
        id: TransferId,
        result: Result<(), String>,
        quic: &mut Connection,
        events: &mut VecDeque<Event>,
    ) {
        let Some(transfer) = self.outgoing.remove(&id) else { return };
        if let Some(stripe) = transfer.stripe {
            let _ = quic.send_stream(stripe.stream).reset(VarInt::from_u32(0));
        }
        events.push_back(Event::TransferEnded { id, result });
    }
}

enum Wrote {
    /// Stream bytes, or the end of a stripe.
    Data,
    /// A session message waits now.
    Message,
    /// Flow control or the stream limit holds us back; an event will tell.
    Blocked,
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
            None => match quic.streams().open(Dir::Uni) {
                Some(stream) => StripeOut::new(stream, id, transfer.sent),
                None => return Wrote::Blocked,
            },
        };
        let header = stripe.write_header(quic);
        // Kept also when nothing could be written: the next time goes on with the same stream.
        transfer.stripe = Some(stripe);
        match header {
            Ok(written) => room -= written,
            Err(WriteError::Blocked) => return Wrote::Blocked,
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return refused(transfer, quic),
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
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return refused(transfer, quic),
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
        transfer.high = transfer.high.max(transfer.sent);
        stripe.left = stripe.left.saturating_sub(written as u64);
        transfer.stripe = Some(stripe);
        let whole = transfer.end.is_some_and(|(size, _)| size == transfer.sent);
        if stripe.left == 0 || whole {
            let _ = quic.send_stream(stripe.stream).finish();
            transfer.stripe = None;
        }
        return Wrote::Data;
    }
    let Some((size, digest)) = transfer.end else { return Wrote::Blocked };
    if let Some(stripe) = transfer.stripe.take() {
        let _ = quic.send_stream(stripe.stream).finish();
    }
    transfer.finish_sent = true;
    conn.session.push(&Message::Finish { id: id.0, size, digest });
    Wrote::Message
}

fn refused(transfer: &mut Outgoing, quic: &mut Connection) -> Wrote {
    if let Some(stripe) = transfer.stripe.take() {
        // A stopped stream counts against the peer's limit of streams until it is reset.
        let _ = quic.send_stream(stripe.stream).reset(VarInt::from_u32(0));
    }
    Wrote::Refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, PeerId};
    use crate::session::Session;

    const ID: TransferId = TransferId(1);

    fn flowing(size: Option<u64>, offset: u64) -> Relay {
        let mut relay = Relay::new(PeerId(0), 1, Limits::default());
        let mut events = VecDeque::new();
        let meta = TransferMeta { name: "f".into(), size, priority: 0, attributes: Vec::new() };
        relay.send(false, ID, meta, &mut events);
        relay.accepted(ID, offset, &mut events);
        relay
    }

    #[test]
    fn bytes_supplied_twice_go_once_and_nothing_stalls() {
        let mut relay = flowing(Some(1000), 100);
        // An answer to the question of the connection before, which happens to begin where this one does.
        relay.supply(ID, 100, Bytes::from_static(&[1; 10]));
        // The gateway hears of the new question and begins again, in larger pieces.
        relay.supply(ID, 100, Bytes::from_static(&[1; 50]));
        relay.supply(ID, 150, Bytes::from_static(&[1; 50]));
        // A gap, and bytes that are all here.
        relay.supply(ID, 201, Bytes::from_static(&[2; 50]));
        relay.supply(ID, 120, Bytes::from_static(&[2; 50]));
        let transfer = &relay.outgoing[&ID];
        assert_eq!(transfer.supplied, 200);
        assert_eq!(transfer.supply.iter().map(Bytes::len).collect::<Vec<_>>(), [10, 40, 50]);
    }

    #[test]
    fn an_offset_at_the_end_of_numbers_is_no_panic() {
        let relay = flowing(None, u64::MAX - 1);
        assert_eq!(relay.outgoing[&ID].limit, u64::MAX);
    }

    #[test]
    fn an_offer_of_an_own_transfers_id_is_refused() {
        let mut relay = flowing(Some(1000), 0);
        let mut events = VecDeque::new();
        let meta = relay.outgoing[&ID].meta.clone();
        relay.offered(&mut BulkConn::default(), ID, meta.clone(), &mut events);
        assert!(events.is_empty() && relay.incoming.is_empty(), "{events:?}");
        relay.offered(&mut BulkConn::default(), TransferId(2), meta, &mut events);
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_stream_needs_session_version_2_at_both_ends() {
        for (version, carried) in [(1, false), (2, true)] {
            let mut relay = flowing(None, 0);
            let mut conn = BulkConn { session: Session::greeted(version), ..BulkConn::default() };
            let mut events = VecDeque::new();
            let meta = relay.outgoing[&ID].meta.clone();
            relay.offered(&mut conn, TransferId(2), meta, &mut events);
            assert_eq!(relay.incoming.len(), usize::from(carried));
            relay.connected(&mut conn);
            relay.push_offers(&mut conn, &mut events);
            assert_eq!(relay.outgoing.len(), usize::from(carried));
            match events.make_contiguous() {
                [Event::Offered { .. }] if carried => {}
                [Event::TransferEnded { id: ID, result: Err(reason) }] if !carried => assert_eq!(reason, NO_STREAMS),
                other => panic!("version {version}: {other:?}"),
            }
        }
    }
}
