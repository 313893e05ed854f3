//! What the two services speak of, as plain values. Numbers are those of `control/idl/quelay.thrift`.

use std::collections::BTreeMap;

use florelay_dataplane::ipc::FailCode;

/// Of a stream, from its sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// Bytes in all, if the sender has said so.
    pub size_bytes: Option<i64>,
    /// Passed on verbatim.
    pub attrs: BTreeMap<String, String>,
}

/// What becomes of a stream that was to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum StartStatus {
    /// It has begun.
    Running = 0,
    /// It waits for its turn.
    Pending = 1,
    /// It was refused, as many wait as may.
    QueueFull = 2,
    /// It waits, and the peer has not been reached since this node was started.
    NotConnected = 3,
}

/// Answer to `stream_start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartReturn {
    /// What becomes of it.
    pub status: StartStatus,
    /// Of one that waits: how many do, itself included, as it came in.
    pub queue_position: Option<i32>,
}

/// State of the way to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum LinkState {
    /// Not heard since the start.
    Connecting = 0,
    /// Well.
    Normal = 1,
    /// Up, with loss, delay or jitter beyond a threshold.
    Degraded = 2,
    /// Down.
    Failed = 3,
}

/// Why a stream has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum FailReason {
    /// Its sender went away or gave it up.
    SenderClosed = 0,
    /// The link or the peer was given up.
    LinkFailed = 1,
    /// It was taken out of the queue.
    QueueCleared = 2,
    /// Too late.
    Timeout = 3,
    /// Something else; the reason says what.
    Unknown = 99,
}

impl From<FailCode> for FailReason {
    fn from(code: FailCode) -> Self {
        match code {
            FailCode::SenderClosed => Self::SenderClosed,
            FailCode::LinkFailed => Self::LinkFailed,
            FailCode::QueueCleared => Self::QueueCleared,
            FailCode::Timeout => Self::Timeout,
            _ => Self::Unknown,
        }
    }
}

/// Own streams with one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queue {
    /// Those that have begun.
    pub(super) active_count: i32,
    /// Most that run at once; 0 = no limit.
    pub(super) max_concurrent: i32,
    /// Most that wait.
    pub(super) max_pending: i32,
    /// UUIDs of those that wait, the next to begin first.
    pub(super) pending: Vec<String>,
}

/// How the path does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnStats {
    /// QUIC packets sent.
    pub sent_packets: i64,
    /// Of them lost.
    pub lost_packets: i64,
    /// How often congestion control acted.
    pub congestion_events: i64,
    /// Smoothed round trip, ms.
    pub rtt_ms: i64,
    /// Congestion window, bytes.
    pub cwnd: i64,
    /// Bytes of the lost packets.
    pub lost_bytes: i64,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// Are you there? The only one that is answered.
    Ping,
    /// Connect to this port, and write or read.
    Started {
        /// UUID.
        uuid: String,
        /// As its sender gave it.
        info: StreamInfo,
        /// TCP port at the node's data address.
        port: u16,
    },
    /// It got on.
    Progress {
        /// UUID.
        uuid: String,
        /// Bytes that the receiving client has taken.
        bytes: i64,
        /// Bytes in all, if known.
        size: Option<i64>,
    },
    /// It has arrived whole.
    Done {
        /// UUID.
        uuid: String,
        /// Bytes of the stream.
        bytes: i64,
        /// Bytes sent for it, those sent again included.
        wire: i64,
    },
    /// It has not.
    Failed {
        /// UUID.
        uuid: String,
        /// For programs.
        code: FailReason,
        /// For people.
        reason: String,
    },
    /// State of the way to the peer.
    Link(LinkState),
    /// The queue has changed.
    Queue(Queue),
}
