//! What is said of transfers, their queues, and what happens at a node.

pub use florelay_engine::api::{FailCode, Failure};
use serde::{Deserialize, Serialize};

/// A transfer that a client wants to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferOrder {
    /// Peer's node name.
    pub to: String,
    /// UUID; given so that a repeated command continues the same transfer.
    pub id: u128,
    /// Name at the receiver.
    pub name: String,
    /// 0–127; 64 and above is strict over bulk.
    pub priority: u8,
    /// Passed on verbatim; at most 64 pairs of at most 1024 bytes.
    pub attributes: Vec<(String, String)>,
    /// It fails with `FailCode::Timeout` when it has not ended by then, nanoseconds since 1970 UTC.
    pub deadline_unix_ns: Option<u64>,
}

impl TransferOrder {
    /// Without attributes and without a deadline.
    #[must_use]
    pub fn new(to: impl Into<String>, id: u128, name: impl Into<String>, priority: u8) -> Self {
        Self { to: to.into(), id, name: name.into(), priority, attributes: Vec::new(), deadline_unix_ns: None }
    }
}

/// Why a transfer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// As many wait for this peer as may.
    QueueFull,
    /// The id is in use, or was used for something else.
    Duplicate,
    /// The node has no such peer.
    NoSuchPeer,
    /// The order itself cannot be carried out: a name, a priority, a descriptor.
    Invalid,
    /// A limit of the node is reached.
    Limit,
}

/// What a transfer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferKind {
    /// A file.
    #[default]
    File,
    /// An open-ended stream.
    Stream,
}

/// What a transfer that has not ended is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferState {
    /// It waits for its turn; 1 = the next to begin.
    Pending {
        /// Place in its peer's queue.
        position: u32,
    },
    /// Under way.
    #[default]
    Running,
    /// Held by its operator.
    Paused,
    /// An incoming stream that waits for a program to read it.
    NoReader,
    /// An own stream whose writing program has gone and may come back.
    NoWriter,
    /// An own file that cannot be opened again after a restart, for this reason; the same order brings it back.
    NoFile(String),
}

/// One transfer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// UUID.
    pub id: u128,
    /// The peer's node name.
    pub peer: String,
    /// File name at the receiver.
    pub name: String,
    /// `true` = this node sends.
    pub outgoing: bool,
    /// 0–127.
    pub priority: u8,
    /// As its sender gave them.
    pub attributes: Vec<(String, String)>,
    /// When it fails if it has not ended, nanoseconds since 1970 UTC; known at its sender.
    pub deadline_unix_ns: Option<u64>,
    /// A file, or a stream.
    pub kind: TransferKind,
    /// What it is doing.
    pub state: TransferState,
    /// Whole size, if known; of a stream once it has ended.
    pub size: Option<u64>,
    /// Size of a stream that its writer has declared.
    pub declared: Option<u64>,
    /// Bytes that the receiver has confirmed.
    pub confirmed: u64,
    /// Of an own stream: bytes that will not be lost any more, whatever happens here; its writer may forget them.
    pub accepted: u64,
    /// Of a stream: bytes kept here, at the sender until they are confirmed, at the receiver until they are read.
    pub spooled: u64,
    /// At its end: bytes sent for it, those sent again included.
    pub wire_bytes: u64,
    /// Nanoseconds since it was ordered or offered, up to its end if it has ended.
    pub age_ns: u64,
    /// The path is dark or the peer not connected.
    pub stalled: bool,
    /// Of a received file, once it has ended well: where it is.
    pub path: Option<String>,
    /// `Some` once it has ended: `Ok(BLAKE3)` or why not.
    pub ended: Option<Result<[u8; 32], Failure>>,
}

impl TransferStatus {
    /// About the bytes that it takes, encoded or in memory: for limits.
    #[must_use]
    pub fn about_bytes(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
        let texts = [Some(&self.peer), Some(&self.name), self.path.as_ref()].into_iter().flatten();
        let reason = match (&self.ended, &self.state) {
            (Some(Err(failure)), _) => failure.reason.len(),
            (_, TransferState::NoFile(reason)) => reason.len(),
            _ => 0,
        };
        256 + attributes + texts.map(String::len).sum::<usize>() + reason
    }
}

/// Own transfers with one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// The peer's node name.
    pub peer: String,
    /// Transfers that have begun.
    pub active: u32,
    /// Most that run at once; 0 = no limit.
    pub max_concurrent: u32,
    /// Most that wait.
    pub max_pending: u32,
    /// Those that wait, the next to begin first; at most the first 1000.
    pub pending: Vec<u128>,
}

/// Something happened at a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NodeEvent {
    /// A transfer is new, has changed its state, got on (at most each 100 ms), or has ended (`ended`, said once).
    Transfer(Box<TransferStatus>),
    /// A link is in this state now.
    Link {
        /// Its name.
        link: String,
        /// As in `LinkStatus::state`.
        state: String,
        /// Why, if it is degraded or failed.
        reason: Option<String>,
    },
    /// A peer is in this state now.
    Peer {
        /// Node name.
        peer: String,
        /// As in `PeerStatus::state`.
        state: String,
        /// Why, if it is dark or lost.
        reason: Option<String>,
    },
    /// A queue has changed.
    Queue(QueueStatus),
    /// All that was there when the subscription began has been said.
    Present,
}
