//! What gateways say to an engine, and what it says to them. All values are owned, so that they cross a ring.

mod transfer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::transfer::{FailCode, Failure, Kept, TransferId, TransferMeta};
use crate::config::{LinkId, PathMemory, PeerId, RatePlan};
use crate::contact::Contacts;

/// Class of a datagram: which of a peer's two connections it goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramClass {
    /// With command messages, behind them; strict before all bulk on every link.
    Control = 0,
    /// With transfers, in turns with them.
    Bulk = 1,
}

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramRefusal {
    /// It does not fit a packet of the path.
    #[error("the datagram has {bytes} bytes; the path to this peer takes at most {max}")]
    TooLarge {
        /// Its payload.
        bytes: usize,
        /// What would fit.
        max: usize,
    },
    /// This node has no such peer.
    #[error("no such peer")]
    NoSuchPeer,
}

/// From a gateway to the engine.
#[derive(Debug, Clone)]
pub enum Command {
    /// Offer a transfer to a peer; answered by `SupplyFrom`, or `TransferEnded`. A gateway that has started again sends
    /// what it kept before the engine runs: what is not offered at the beginning of a session is shelved at the receiver.
    Send {
        /// Whom to.
        peer: PeerId,
        /// Its name; refused if known already.
        id: TransferId,
        /// What it is.
        meta: TransferMeta,
        /// What is left of it from before a restart.
        kept: Kept,
    },
    /// Bytes of an own transfer at exactly `offset`, within the last `SupplyUpTo`. Anything else is ignored, but for bytes
    /// beyond the meta's size: they end it with [`FailCode::Size`].
    Supply {
        /// Which.
        id: TransferId,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// An own transfer is complete at `size` bytes with this BLAKE3. Another size than the meta's ends it with
    /// [`FailCode::Size`], fewer bytes than the receiver has with [`FailCode::LostPlace`].
    SupplyEnd {
        /// Which.
        id: TransferId,
        /// All bytes of it.
        size: u64,
        /// BLAKE3 of all bytes.
        digest: [u8; 32],
    },
    /// Give up a transfer, at either end.
    Cancel {
        /// Which.
        id: TransferId,
        /// Why, for both ends.
        failure: Failure,
    },
    /// A transfer that this end gave up before the gateway's last start, and of which the peer may not have heard: it is
    /// told, or its offer answered with it, until it has. `Event::Heard` says so. Said before the engine runs, and before
    /// `Send`.
    GaveUp {
        /// With whom.
        peer: PeerId,
        /// Which.
        id: TransferId,
        /// It was sent from here.
        own: bool,
        /// Why, for both ends.
        failure: Failure,
    },
    /// How this transfer ended is kept, whatever happens: the peer, if it was the one that gave it up, need not say it again.
    EndKept {
        /// With whom.
        peer: PeerId,
        /// Which.
        id: TransferId,
    },
    /// An own transfer has another priority from now on: it changes lane and weight at its next packet. An unknown id is
    /// ignored, and so is a priority above 127.
    SetPriority {
        /// Which.
        id: TransferId,
        /// 0–127, as in [`TransferMeta`].
        priority: u8,
    },
    /// Send nothing more of an own transfer, neither its bytes nor its end, until `held` is said to be over. It is offered,
    /// confirmed, resumed and ended as any other. An unknown id is ignored.
    Hold {
        /// Which.
        id: TransferId,
        /// Begin, or end.
        held: bool,
    },
    /// The receiver's gateway takes an offered transfer, from this offset on: what it has synced of a file, what its
    /// reader has of a stream.
    Accept {
        /// Which.
        id: TransferId,
        /// Bytes it has.
        offset: u64,
    },
    /// The receiver's gateway takes at most so much of a stream that its reader has not taken, from the next credit on; what
    /// was granted stays granted. Otherwise, and at most, it is `Limits::stream_credit_bytes`. An unknown id is ignored.
    Credit {
        /// Which.
        id: TransferId,
        /// Bytes, at least 1.
        bytes: u32,
    },
    /// The receiver's gateway has written everything below `offset`, and takes as much more. This confirms a stream (its
    /// reader has these bytes), but not a file.
    Written {
        /// Which.
        id: TransferId,
        /// First byte not yet written.
        offset: u64,
    },
    /// The receiver's gateway has synced everything of a file below `offset`: this confirms it. It is written, too. Ignored
    /// for a stream.
    Synced {
        /// Which.
        id: TransferId,
        /// First byte that a power cut could take.
        offset: u64,
    },
    /// The receiver's gateway has verified, synced and renamed the file (`Ok`), or could not (`Err`).
    Complete {
        /// Which.
        id: TransferId,
        /// How it went.
        result: Result<(), Failure>,
    },
    /// Send a command message; answered by `MessageAcked` or `MessageFailed`.
    Message {
        /// Whom to.
        peer: PeerId,
        /// Chosen by the gateway, unique at this node.
        id: u64,
        /// At most `MAX_MESSAGE_BYTES`.
        payload: Bytes,
    },
    /// Send a datagram: once, perhaps not at all, never in pieces. Not answered, unless it can never be sent
    /// (`DatagramRefused`).
    Datagram {
        /// Whom to.
        peer: PeerId,
        /// Which of the peer's applications; the numbers are theirs to agree on.
        port: u16,
        /// How it goes.
        class: DatagramClass,
        /// At most [`Engine::max_datagram_bytes`](crate::Engine::max_datagram_bytes).
        payload: Bytes,
    },
    /// The gateway has written a received message: it is acknowledged, and its credit is the peer's again.
    MessageWritten {
        /// From whom.
        peer: PeerId,
        /// Which.
        id: u64,
    },
    /// Change a link's rate; under a contact plan for the rest of the contact.
    SetRate {
        /// Which link.
        link: LinkId,
        /// Its new rate.
        rate: RatePlan,
    },
    /// Change a link's contact plan; also given anew, with the same keys, when the wall clock was stepped.
    SetContacts {
        /// Which link.
        link: LinkId,
        /// When it may be used.
        contacts: Contacts,
    },
    /// The wall clock; also said anew when it was stepped.
    SetWallClock {
        /// What it says at the engine's [`Nanos::ZERO`](crate::Nanos::ZERO), nanoseconds since 1970; `None` = it is not set.
        at_zero_ns: Option<u64>,
    },
    /// Administrative state of a link.
    SetAdmin {
        /// Which link.
        link: LinkId,
        /// Up or down.
        up: bool,
    },
    /// The adapter can (or cannot) move frames: carrier, next hop, socket.
    SetCarrier {
        /// Which link.
        link: LinkId,
        /// `Ok`, or the reason why not.
        state: Result<(), Arc<str>>,
    },
    /// Trace the path to a peer hop by hop; answered by one `TraceHop` per hop, the last with `last`.
    Trace {
        /// Whom to.
        peer: PeerId,
        /// Chosen by the gateway.
        token: u64,
    },
}

/// Largest command message in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// From the engine to the gateways.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Supply an own transfer from `offset` on; said at acceptance and after each lost connection. After a restart `offset`
    /// of a stream may be beyond what was [`Kept`]: the receiver has what was lost here, and the gateway supplies nothing
    /// until its writer has come there again.
    SupplyFrom {
        /// Which.
        id: TransferId,
        /// The peer has everything below; not all of it need be confirmed.
        offset: u64,
    },
    /// Bytes below `limit` may be supplied. Limits only grow until the next `SupplyFrom`.
    SupplyUpTo {
        /// Which.
        id: TransferId,
        /// First byte that may not be supplied yet.
        limit: u64,
    },
    /// The peer has everything below `offset` for good: synced of a file, read of a stream.
    Confirmed {
        /// Which.
        id: TransferId,
        /// First byte not confirmed.
        offset: u64,
    },
    /// The end of a transfer, exactly once at each end.
    TransferEnded {
        /// Which.
        id: TransferId,
        /// `Ok`, or why not.
        result: Result<(), Failure>,
        /// Bytes of its stripes, headers included, on all connections of this engine: at the sender those that QUIC took,
        /// also those sent again after a lost connection; at the receiver those that came, also those passed over.
        wire_bytes: u64,
    },
    /// This end has given a transfer up, and its peer may not have heard so when the engine ends: the gateway keeps it, for
    /// `Command::GaveUp`, until `Heard`. Comes before `TransferEnded`.
    GivenUp {
        /// Which.
        id: TransferId,
    },
    /// The peer knows of the end of a transfer that this end gave up.
    Heard {
        /// Which peer.
        peer: PeerId,
        /// Which.
        id: TransferId,
        /// It was sent from here.
        own: bool,
    },
    /// A peer offers a transfer; answer with `Accept` or `Cancel`.
    Offered {
        /// From whom.
        peer: PeerId,
        /// Which.
        id: TransferId,
        /// What it is.
        meta: TransferMeta,
    },
    /// Bytes of an accepted transfer, in order, each exactly once.
    Data {
        /// Which.
        id: TransferId,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// All `size` bytes were delivered; verify against `digest`, sync, rename, answer `Complete`.
    DataEnd {
        /// Which.
        id: TransferId,
        /// All bytes of it.
        size: u64,
        /// BLAKE3 of all bytes.
        digest: [u8; 32],
    },
    /// The sender of an incoming transfer was restarted and does not know it any more; its place is free. The last that
    /// is said of it: what has arrived may be kept, in case it is offered again.
    TransferShelved {
        /// Which.
        id: TransferId,
    },
    /// A command message, exactly once; answer with `MessageWritten`.
    Message {
        /// From whom.
        peer: PeerId,
        /// The sender's number.
        id: u64,
        /// The message.
        payload: Bytes,
    },
    /// The peer's gateway has written an own message.
    MessageAcked {
        /// Which.
        id: u64,
        /// From `Command::Message` to this.
        rtt: Duration,
    },
    /// An own message cannot be sent.
    MessageFailed {
        /// Which.
        id: u64,
        /// Why.
        reason: String,
    },
    /// A datagram arrived, whole.
    Datagram {
        /// From whom.
        peer: PeerId,
        /// Which application's.
        port: u16,
        /// How it came.
        class: DatagramClass,
        /// Its bytes.
        payload: Bytes,
    },
    /// An own datagram can never be sent.
    DatagramRefused {
        /// Whom it was to.
        peer: PeerId,
        /// Which application's.
        port: u16,
        /// Why.
        reason: DatagramRefusal,
    },
    /// A link changed state.
    Link {
        /// Which.
        link: LinkId,
        /// Its new state.
        state: LinkState,
    },
    /// A peer's path or connection changed state.
    Peer {
        /// Which.
        peer: PeerId,
        /// Its new state.
        state: PeerState,
    },
    /// One hop of a trace.
    TraceHop {
        /// The command's token.
        token: u64,
        /// 1 = the next node.
        hop: u8,
        /// Name of the node that answered; `None` = no answer in time.
        node: Option<String>,
        /// Round-trip time.
        rtt: Duration,
        /// The peer itself answered, or the trace gave up.
        last: bool,
    },
    /// What was measured of a peer's path lately, to be remembered over a restart; said while there are measurements, each ten
    /// seconds or so.
    Path {
        /// Which.
        peer: PeerId,
        /// Goes into [`PeerConfig::memory`](crate::config::PeerConfig::memory) at the next start.
        memory: PathMemory,
    },
}

impl Event {
    /// The transfer that it is about, if it is about one.
    #[must_use]
    pub fn transfer(&self) -> Option<TransferId> {
        match *self {
            Self::SupplyFrom { id, .. }
            | Self::SupplyUpTo { id, .. }
            | Self::Confirmed { id, .. }
            | Self::TransferEnded { id, .. }
            | Self::GivenUp { id }
            | Self::Heard { id, .. }
            | Self::Offered { id, .. }
            | Self::Data { id, .. }
            | Self::DataEnd { id, .. }
            | Self::TransferShelved { id } => Some(id),
            Self::Message { .. }
            | Self::MessageAcked { .. }
            | Self::MessageFailed { .. }
            | Self::Datagram { .. }
            | Self::DatagramRefused { .. }
            | Self::Link { .. }
            | Self::Peer { .. }
            | Self::TraceHop { .. }
            | Self::Path { .. } => None,
        }
    }
}

/// What a peer's command messages hold of this node, and what was refused.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MessageCounters {
    /// Messages that the gateway has and has not written.
    pub unwritten: u64,
    /// Their bytes.
    pub unwritten_bytes: u64,
    /// Datagrams dropped beyond credit; their copies wait at the sender.
    pub refused_datagrams: u64,
}

/// State of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not heard yet.
    Connecting,
    /// Heard within the detection time.
    Up,
    /// Down, for a reason a person understands.
    Down(Arc<str>),
}

/// State of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerState {
    /// No connection yet.
    Connecting,
    /// Both connections are up, the path too.
    Connected,
    /// The path is dark; clocks are stopped.
    Dark(Arc<str>),
    /// The last connection ended for this reason; a new one is tried.
    Lost(Arc<str>),
}
