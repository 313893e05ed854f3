//! Transfers above QUIC, files and open-ended streams: offers, stripes, credits, confirmation, resume.
//!
//! A transfer outlives connections. Its bytes travel in *stripes*: unidirectional streams of about
//! [`STRIPE_BYTES`](crate::transport::STRIPE_BYTES), each with the transfer's id and its own offset in front, so
//! that a stripe says by itself where its bytes belong and a resume is just the next stripe. (One stream per
//! file would make quinn-proto walk a segment list as long as the window for each packet.)
//!
//! ```text
//!  sender    Offer ──►            Accept(offset)   confirmed ≤ sent ≤ supplied ≤ limit
//!            stripes, Finish ──►
//!  receiver            ◄── Confirm(offset) … Done   durable ≤ written ≤ delivered ≤ received
//! ```
//!
//! At each new session the sender offers what still runs and then says that this was all. The receiver gives up what was
//! not offered: nothing is left behind. What a restart of the sender made it forget is only shelved, because its operator may
//! offer it again. Who gives a transfer up says so until the other end has it (see [`ends`]).
//!
//! Confirmed is what the receiver has for good: what it has synced of a file, what its reader has of a stream. So neither a
//! restart of the receiver nor one of the sender loses a place: the sender offers with what it has kept, and the receiver
//! says where to go on, which may be beyond all that a sender without its last writes still has.
//!
//! The receiver hands bytes on in order, each exactly once, and only `unwritten_bytes` ahead of what its gateway
//! has reported written; QUIC's flow control does the rest. The reader of a stream may stop for as long as it likes, so
//! its sender needs credit besides: what is sent can always be handed on, and never fills the window that a peer's
//! transfers share.
//!
//! ```text
//!  receiver of a stream   ◄── Accept(offset), Credit(written + stream_credit_bytes), and again with each Confirm
//! ```

mod due;
mod ends;
mod receive;
mod remembered;
mod send;
mod steer;
mod stripe;
mod stripe_in;
mod turns;

use std::collections::VecDeque;

use quinn_proto::{Connection, Dir, StreamId, VarInt};
use rustc_hash::FxHashMap;

use self::due::DueConfirmations;
use self::ends::Unheard;
use self::receive::{Confirm, Incoming};
use self::remembered::Remembered;
use self::send::Outgoing;
use self::stripe::StripeOut;
use self::stripe_in::StripeIn;
use self::turns::Turns;
use crate::api::{Event, FailCode, Failure, TransferId, TransferMeta};
use crate::config::{Limits, PeerId};
use crate::session::{Message, Session};
use crate::time::Nanos;

/// Longest file name in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Most attributes, and the longest key or value in bytes.
const MAX_ATTRIBUTES: usize = 64;
const MAX_ATTRIBUTE_BYTES: usize = 1024;
/// Longest reason that a peer may give, in bytes; the rest is cut.
const MAX_REASON_BYTES: usize = 1024;
/// Ends of incoming transfers remembered per peer, so that a repeated offer is answered with its end again: at least these, and
/// as many as may be under way when a connection is lost.
const MIN_REMEMBERED: usize = 4096;
/// Why nothing comes of a stream with a peer of session version 1, which would not know of credit.
const NO_STREAMS: &str = "the other node is older and cannot carry streams (session version 1)";
/// Ids name transfers in both directions: one for two would mix up their ends.
const OTHER_WAY: &str = "a transfer with this id goes the other way";
/// Stripe header: 16 bytes id, 8 bytes offset, big-endian.
const STRIPE_HEADER_BYTES: usize = 24;

/// State of one bulk connection.
#[derive(Default)]
pub(crate) struct BulkConn {
    pub(crate) session: Session,
    stripes: FxHashMap<StreamId, StripeIn>,
    /// Own stripes that are not ended.
    open_stripes: usize,
}

impl BulkConn {
    /// End an own stripe that is open, if it is.
    fn end_stripe(&mut self, quic: &mut Connection, stripe: &mut Option<StripeOut>, end: StripeEnd) {
        let Some(StripeOut { stream, .. }) = stripe.take() else { return };
        self.open_stripes = self.open_stripes.saturating_sub(1);
        let mut stream = quic.send_stream(stream);
        // Either fails only where the peer has stopped it, and then a reset is in order.
        let _ = match end {
            StripeEnd::Finish => stream.finish().is_ok(),
            StripeEnd::Reset => stream.reset(VarInt::from_u32(0)).is_ok(),
        };
    }
}

/// How an own stripe ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StripeEnd {
    /// All that was written of it is to arrive.
    Finish,
    /// Nobody wants it. A stopped stream counts against the peer's limit of streams until it is reset.
    Reset,
}

/// All transfers with one peer.
pub(crate) struct Relay {
    peer: PeerId,
    limits: Limits,
    outgoing: FxHashMap<TransferId, Outgoing>,
    incoming: FxHashMap<TransferId, Incoming>,
    /// Own transfers that may have something to write.
    turns: Turns,
    /// Confirmations that wait for company.
    due: DueConfirmations,
    /// Received and in place: name, size.
    done: Remembered<(String, Option<u64>)>,
    /// Own transfers to offer on this session, then whether to say that these were all.
    offers: VecDeque<TransferId>,
    offers_end: bool,
    /// This node's boot id, and the one that the peer said last.
    boot: u64,
    peer_boot: Option<u64>,
    /// Transfers given up here of which the peer may not have heard.
    unheard: Remembered<Unheard>,
}

impl Relay {
    pub(crate) fn new(peer: PeerId, boot: u64, limits: Limits) -> Self {
        let most = limits.transfers_per_peer as usize;
        Self {
            peer,
            limits,
            outgoing: FxHashMap::default(),
            incoming: FxHashMap::default(),
            turns: Turns::default(),
            due: DueConfirmations::default(),
            done: Remembered::new(most.max(MIN_REMEMBERED)),
            offers: VecDeque::new(),
            offers_end: false,
            boot,
            peer_boot: None,
            unheard: Remembered::new(most.max(MIN_REMEMBERED)),
        }
    }

    pub(crate) fn debug(&self) -> String {
        format!(
            "turns {:?} out {:?} in {:?}",
            self.turns,
            self.outgoing.iter().map(|(id, t)| (id, t.debug())).collect::<Vec<_>>(),
            self.incoming
        )
    }

    /// Whether a transfer of this id is running.
    pub(crate) fn knows(&self, id: TransferId) -> bool {
        self.outgoing.contains_key(&id) || self.incoming.contains_key(&id)
    }

    /// The session is established: offer every own transfer that still runs.
    pub(crate) fn connected(&mut self, conn: &mut BulkConn, events: &mut VecDeque<Event>) {
        self.turns.clear();
        self.tell_ends(conn, events);
        // By id, so that equal seeds offer in equal order.
        let mut ids: Vec<_> = self.outgoing.keys().copied().collect();
        ids.sort_unstable();
        self.offers = ids.into();
        self.offers_end = conn.session.reconciles();
        for transfer in self.outgoing.values_mut() {
            transfer.disconnected();
        }
        for incoming in self.incoming.values_mut() {
            incoming.disconnected();
        }
        self.due.clear();
    }

    /// The connection is gone; transfers wait for the next one.
    pub(crate) fn disconnected(&mut self) {
        self.turns.clear();
        self.offers.clear();
        self.offers_end = false;
        for transfer in self.outgoing.values_mut() {
            transfer.disconnected();
        }
        for transfer in self.incoming.values_mut() {
            transfer.disconnected();
        }
        self.due.clear();
    }

    /// A message of an established session.
    pub(crate) fn message(
        &mut self,
        conn: &mut BulkConn,
        quic: &mut Connection,
        message: Message,
        events: &mut VecDeque<Event>,
    ) {
        if let Message::OffersEnd { boot } = message {
            self.reconcile(conn, quic, boot, events);
        }
        let Some(id) = message.transfer() else { return };
        match message {
            Message::Hello { .. } | Message::OffersEnd { .. } | Message::Received { .. } => {}
            Message::Offer { meta, .. } => self.offered(conn, id, meta.into_meta(None), events),
            Message::OfferStream { meta, declared, .. } => {
                self.offered(conn, id, meta.into_meta(Some(declared)), events);
            }
            Message::Finish { size, digest, .. } => {
                match self.incoming.get_mut(&id).map(|transfer| transfer.finish(size, digest)) {
                    Some(Ok(())) => self.deliver(conn, quic, id, events),
                    Some(Err(failure)) => self.cancel(Some((conn, quic)), id, &failure, events),
                    None => {}
                }
            }
            Message::Accept { offset, .. } => match self.check_place(id, offset) {
                Ok(()) => self.accepted(id, offset, events),
                Err(failure) => self.cancel(Some((conn, quic)), id, &failure, events),
            },
            Message::Credit { limit, .. } => self.credited(id, limit),
            Message::Confirm { offset, .. } => {
                if let Some(transfer) = self.outgoing.get_mut(&id)
                    && transfer.confirm(offset)
                {
                    events.push_back(Event::Confirmed { id, offset });
                }
            }
            Message::Heard { .. } => self.heard(id, events),
            Message::Done { .. } => self.end_outgoing(conn, quic, id, Ok(()), events),
            // Version 2 has reasons of all kinds, and no codes.
            Message::Cancel { reason, .. } => self.given_up_there(conn, quic, id, FailCode::Unknown, reason, events),
            Message::Fail { code, reason, .. } => {
                self.given_up_there(conn, quic, id, FailCode::from_number(code), reason, events);
            }
        }
    }

    /// Stream events of the connection that are not the session's.
    pub(crate) fn stripes_opened(&mut self, conn: &mut BulkConn, quic: &mut Connection, events: &mut VecDeque<Event>) {
        while let Some(stream) = quic.streams().accept(Dir::Uni) {
            conn.stripes.insert(stream, StripeIn::default());
            self.readable(conn, quic, stream, events);
        }
    }

    /// When `handle_timeout` wants to be called: the earliest confirmation that waits for company.
    pub(crate) fn next_timeout(&self) -> Option<Nanos> {
        self.due.next()
    }

    /// Confirmations whose time has come.
    pub(crate) fn handle_timeout(&mut self, now: Nanos, conn: &mut BulkConn) {
        while let Some((at, id)) = self.due.pop(now) {
            let Some(transfer) = self.incoming.get_mut(&id) else { continue };
            match transfer.confirm_due(at, now, conn.session.is_busy()) {
                Confirm::Now(offset) => transfer.push_confirm(conn, id, offset),
                Confirm::Later(at) => self.due.push(at, id),
                Confirm::Not => {}
            }
        }
    }

    fn is_full(&self) -> bool {
        self.outgoing.len() + self.incoming.len() >= self.limits.transfers_per_peer as usize
    }
}

fn ended(id: TransferId, result: Result<(), Failure>, wire_bytes: u64) -> Event {
    Event::TransferEnded { id, result, wire_bytes }
}

/// Refuse what a careless or hostile peer could put into an offer.
///
/// # Errors
/// What is wrong with it, for people.
pub fn check_meta(meta: &TransferMeta) -> Result<(), &'static str> {
    if meta.name.is_empty() || meta.name.len() > MAX_NAME_BYTES {
        return Err("the name must have 1 to 255 bytes");
    }
    if meta.name.contains(['/', '\0']) || meta.name == "." || meta.name == ".." {
        return Err("the name must be a file name without a directory");
    }
    // They would reach terminals and logs at the other end.
    if meta.name.chars().any(char::is_control) {
        return Err("the name must not contain control characters");
    }
    if meta.priority > 127 {
        return Err("the priority must be 0 to 127");
    }
    let long = |text: &String| text.len() > MAX_ATTRIBUTE_BYTES;
    if meta.attributes.len() > MAX_ATTRIBUTES || meta.attributes.iter().any(|(key, value)| long(key) || long(value)) {
        return Err("at most 64 attributes of at most 1024 bytes");
    }
    Ok(())
}

fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}
