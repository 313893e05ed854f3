//! What gateways say to an engine, and what it says to them. All values are owned, so that they cross a ring.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::{LinkId, PathMemory, PeerId, RatePlan};
use crate::contact::Contacts;

/// A transfer's name: a UUID as the 128-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub u128);

/// What a receiver learns of a transfer before its first byte.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TransferMeta {
    /// File name without a directory; at most 255 bytes.
    pub name: String,
    /// Whole size in bytes. `None` = an open-ended stream: its end is known when it comes.
    pub size: Option<u64>,
    /// 0–127; 64 and above is strict over bulk.
    pub priority: u8,
    /// Passed on verbatim; at most 64 pairs of at most 1024 bytes.
    pub attributes: Vec<(String, String)>,
}

/// Why a transfer ended without success, for programs. The numbers cross the wire and the APIs: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailCode {
    /// Somebody at either end has cancelled it.
    Cancelled = 0,
    /// The program that wrote it went away without saying that this is the end.
    SenderClosed = 1,
    /// The link or the peer was given up.
    LinkFailed = 2,
    /// It was taken out of the queue before it began.
    QueueCleared = 3,
    /// Its deadline has passed.
    Timeout = 4,
    /// An end does not take it: its name, its id, a limit.
    Refused = 5,
    /// A disk at either end has failed or is full.
    Storage = 6,
    /// The file was changed, cut or removed while it was sent.
    SourceChanged = 7,
    /// What arrived does not have the sender's BLAKE3.
    Digest = 8,
    /// More or fewer bytes than were declared.
    Size = 9,
    /// The ends do not agree any more on what has arrived.
    LostPlace = 10,
    /// Its sender was restarted and does not know it any more.
    Forgotten = 11,
    /// The program that read it went away before the end.
    ReaderClosed = 12,
    /// Something else; also a code of a newer version.
    Unknown = 255,
}

impl FailCode {
    /// From the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Cancelled,
            1 => Self::SenderClosed,
            2 => Self::LinkFailed,
            3 => Self::QueueCleared,
            4 => Self::Timeout,
            5 => Self::Refused,
            6 => Self::Storage,
            7 => Self::SourceChanged,
            8 => Self::Digest,
            9 => Self::Size,
            10 => Self::LostPlace,
            11 => Self::Forgotten,
            12 => Self::ReaderClosed,
            _ => Self::Unknown,
        }
    }

    /// On the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// As it is written in JSON and tables: `sender-closed`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::SenderClosed => "sender-closed",
            Self::LinkFailed => "link-failed",
            Self::QueueCleared => "queue-cleared",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Storage => "storage",
            Self::SourceChanged => "source-changed",
            Self::Digest => "digest",
            Self::Size => "size",
            Self::LostPlace => "lost-place",
            Self::Forgotten => "forgotten",
            Self::ReaderClosed => "reader-closed",
            Self::Unknown => "unknown",
        }
    }
}

/// How a transfer ended without success.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: FailCode,
    /// For people.
    pub reason: String,
}

impl Failure {
    /// With these.
    #[must_use]
    pub fn new(code: FailCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

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
    /// Offer a transfer to a peer; answered by `SupplyFrom`, or `TransferEnded`.
    Send {
        /// Whom to.
        peer: PeerId,
        /// Its name; refused if known already.
        id: TransferId,
        /// What it is.
        meta: TransferMeta,
    },
    /// Bytes of an own transfer at exactly `offset`, within the last `SupplyUpTo`. Anything else is ignored.
    Supply {
        /// Which.
        id: TransferId,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// An own transfer is complete at `size` bytes with this BLAKE3.
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
        /// For the person at the other end.
        reason: String,
    },
    /// The receiver's gateway takes an offered transfer, from this offset on (what it has already confirmed).
    Accept {
        /// Which.
        id: TransferId,
        /// Bytes it has.
        offset: u64,
    },
    /// The receiver's gateway has written everything below `offset`.
    Written {
        /// Which.
        id: TransferId,
        /// First byte not yet written.
        offset: u64,
    },
    /// The receiver's gateway has verified, synced and renamed the file (`Ok`), or could not (`Err`, for people).
    Complete {
        /// Which.
        id: TransferId,
        /// How it went.
        result: Result<(), String>,
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
    /// Supply an own transfer from `offset` on; said at acceptance and after each lost connection.
    SupplyFrom {
        /// Which.
        id: TransferId,
        /// The peer has confirmed everything below.
        offset: u64,
    },
    /// Bytes below `limit` may be supplied. Limits only grow until the next `SupplyFrom`.
    SupplyUpTo {
        /// Which.
        id: TransferId,
        /// First byte that may not be supplied yet.
        limit: u64,
    },
    /// The peer has written everything below `offset`.
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
        /// `Ok`, or the reason.
        result: Result<(), String>,
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
