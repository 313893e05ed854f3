//! What control and dataplane say to each other over a unix stream socket: frames of a little-endian `u32`
//! length and one postcard value. The first message in each direction is `Hello`; versions must be equal
//! (both come from one executable). A request may carry one file descriptor (SCM_RIGHTS).

mod answer;
mod transfer;

use serde::{Deserialize, Serialize};

pub use self::transfer::{
    FailCode, Failure, NodeEvent, QueueStatus, Refusal, TransferKind, TransferOrder, TransferState, TransferStatus,
};
use crate::plan::{ContactPlan, Rung};

/// Version of these messages.
pub const IPC_VERSION: u32 = 5;
/// Largest encoded message in bytes; a longer one is a protocol error.
pub const MAX_IPC_BYTES: u32 = 4 << 20;

/// Opens the conversation in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `IPC_VERSION` of the speaker.
    pub version: u32,
    /// `CARGO_PKG_VERSION` of the speaker, for logs.
    pub build: String,
}

/// From control to dataplane. `tag` comes back in the answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by control.
    pub tag: u64,
    /// What is wanted.
    pub body: RequestBody,
}

/// What control can ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RequestBody {
    /// One `Answer::Status`.
    Status,
    /// Send the regular file whose descriptor comes with this message. Many `Answer::Transfer`, the last `ended`; or
    /// `Answer::Refused`. A repeated order of a running transfer goes on watching it, and gives its file back to one that
    /// waits for it.
    SendFile {
        /// What, whom to, and how.
        order: TransferOrder,
        /// Absolute path of the file, by which the dataplane finds it again after a restart; `None` = it cannot.
        path: Option<String>,
    },
    /// Send what is read from the pipe whose reading end comes with this message. Answers as for `SendFile`. The end must
    /// be said with `EndStream` before the last writing end is closed.
    SendStream {
        /// What, whom to, and how; a new id.
        order: TransferOrder,
        /// Bytes that the writer has declared; more, or an end before, fails it.
        declared: Option<u64>,
        /// A stream whose pipe was closed without an end waits so long for `ResumeStream`, in ns; 0 = it is given up at once.
        /// After a restart of the dataplane any stream waits at least a minute.
        linger_ns: u64,
    },
    /// Go on writing an own stream, with the reading end of a new pipe that comes with this message: the dataplane, or the
    /// program before, has gone. Answers as for `SendFile`; the pipe must go on with byte `accepted` of the first of them.
    ResumeStream {
        /// Which.
        id: u128,
    },
    /// All of an own stream is in its pipe; closing that without having said this gives the stream up. One `Answer::Done`.
    EndStream {
        /// Which.
        id: u128,
        /// Bytes in all.
        size: u64,
    },
    /// Read the next stream that is offered to this node into the pipe whose writing end comes with this message.
    /// Answers as for `SendFile`, the first when there is one. When a status has a `size` and so much was read, the reader
    /// answers with `TakeStream`. A reading end that is closed before gives the stream up, unless it may come back.
    Listen {
        /// Only a stream of this name.
        name: Option<String>,
        /// Only from this peer.
        from: Option<String>,
        /// Only this stream, of which so many bytes are there for good: 0, or what a reader before had of it.
        resume: Option<(u128, u64)>,
        /// Only what is said with `ReadUpTo` and this number, a new one each time, is confirmed. `None` = what the pipe took.
        reader: Option<u64>,
        /// A reader that says `ReadUpTo` and has gone may so long come back with `resume`, in ns; 0 = the stream is given up.
        linger_ns: u64,
    },
    /// What was read of a stream is there for good up to this byte, and need not come again. Not answered: whatever is wrong
    /// with it confirms nothing.
    ReadUpTo {
        /// Which.
        id: u128,
        /// The number that was said with `Listen`.
        reader: u64,
        /// First byte that is not.
        offset: u64,
    },
    /// The whole of a stream was read. One `Answer::Done`; then `Listen` hears of the end.
    TakeStream {
        /// Which.
        id: u128,
        /// BLAKE3 of what was read.
        digest: [u8; 32],
    },
    /// Attach to a transfer for progress. Answers as for `SendFile`; of one that has ended, its end.
    Watch {
        /// Which.
        id: u128,
    },
    /// Give up a transfer, at either end. One `Answer::Done`.
    Cancel {
        /// Which.
        id: u128,
    },
    /// Send no more of an own transfer until `Resume`; another may take its place. One `Answer::Done`.
    Pause {
        /// Which.
        id: u128,
    },
    /// Go on with it. One `Answer::Done`.
    Resume {
        /// Which.
        id: u128,
    },
    /// Change the priority of an own transfer. One `Answer::Done`.
    SetPriority {
        /// Which.
        id: u128,
        /// 0–127.
        priority: u8,
    },
    /// Transfers in the order of their ids: running ones, then, if wanted, ended ones. One `Answer::Transfers`.
    Transfers {
        /// Those that have ended too.
        ended: bool,
        /// Only those behind this one of the same kind (running, ended) in the last answer.
        after: Option<(bool, u128)>,
        /// At most so many, 1 to 10,000.
        limit: u32,
    },
    /// The queues of all peers. One `Answer::Queues`.
    Queues,
    /// Change the limits of a peer's queue until the dataplane ends. One `Answer::Done`.
    SetQueue {
        /// Peer's node name; `None` = all peers.
        to: Option<String>,
        /// Own transfers that run at once; 0 = no limit. `None` = keep.
        max_concurrent: Option<u32>,
        /// Own transfers that wait; more are refused. `None` = keep.
        max_pending: Option<u32>,
    },
    /// Everything that happens: many `Answer::Event`, until the client goes. First the present: all running transfers, links
    /// and queues, then `NodeEvent::Present`.
    Events,
    /// Nobody wants more answers to the request of this tag. Not answered.
    Forget {
        /// The tag of that request.
        of: u64,
    },
    /// Send a command message. One `Answer::Message`.
    Message {
        /// Peer's node name.
        to: String,
        /// The message.
        payload: Vec<u8>,
    },
    /// Change a link's rate. One `Answer::Done`.
    SetRate {
        /// Link name.
        link: String,
        /// bit/s; `None` = uncapped.
        rate_bps: Option<u64>,
        /// Bytes; `None` = keep.
        burst_bytes: Option<u32>,
    },
    /// Administrative state of a link. One `Answer::Done`.
    SetAdmin {
        /// Link name.
        link: String,
        /// Up or down.
        up: bool,
    },
    /// Trace the path to a peer. Many `Answer::Hop`, the last with `last`.
    Trace {
        /// Peer's node name.
        to: String,
    },
    /// The contact plans of all links. One `Answer::Contacts`.
    Contacts,
    /// Replace a link's contact plan. One `Answer::Done`.
    SetContacts {
        /// Link name.
        link: String,
        /// `None` = the link may be used at any time.
        plan: Option<Vec<ContactPlan>>,
    },
}

impl RequestBody {
    /// It comes with a descriptor; no other does.
    #[must_use]
    pub fn carries_descriptor(&self) -> bool {
        matches!(
            self,
            Self::SendFile { .. } | Self::SendStream { .. } | Self::ResumeStream { .. } | Self::Listen { .. }
        )
    }
}

/// From dataplane to control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The request's tag.
    pub tag: u64,
    /// The answer.
    pub body: Answer,
}

/// What the dataplane answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It was refused; the text is for a person.
    Failed(String),
    /// It was done.
    Done,
    /// The state of the node.
    Status(Box<Status>),
    /// A transfer was refused.
    Refused {
        /// For programs.
        refusal: Refusal,
        /// For people.
        reason: String,
    },
    /// Progress of a transfer.
    Transfer(Box<TransferStatus>),
    /// Some transfers.
    Transfers {
        /// These.
        list: Vec<TransferStatus>,
        /// There are more behind them.
        more: bool,
    },
    /// The queues of all peers.
    Queues(Vec<QueueStatus>),
    /// Something happened.
    Event(NodeEvent),
    /// A message was acknowledged after this many nanoseconds.
    Message {
        /// Round trip, ns.
        rtt_ns: u64,
    },
    /// A hop of a trace.
    Hop {
        /// 1 = next node.
        hop: u8,
        /// Who answered, `None` = nobody in time.
        node: Option<String>,
        /// Round trip, ns.
        rtt_ns: u64,
        /// No more follow.
        last: bool,
    },
    /// The contact plans of all links that have one.
    Contacts(Vec<ContactsOfLink>),
    /// From control alone: there is no dataplane to ask, or it has gone before it answered. The text is for a person.
    Unavailable(String),
}

/// A link's contact plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactsOfLink {
    /// Link name.
    pub link: String,
    /// Its contacts in order.
    pub plan: Vec<ContactPlan>,
    /// Why it is not followed.
    pub refused: Option<String>,
}

/// State of a node, as `florelay status --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Node name.
    pub node: String,
    /// Running snapshot.
    pub snapshot: u64,
    /// Nanoseconds since the dataplane started.
    pub uptime_ns: u64,
    /// Links.
    pub links: Vec<LinkStatus>,
    /// Peers.
    pub peers: Vec<PeerStatus>,
    /// Workers.
    pub workers: Vec<WorkerStatus>,
    /// Up to 100 transfers that run, and the last 100 that ended.
    pub transfers: Vec<TransferStatus>,
    /// How many run.
    pub transfers_running: u64,
    /// Capabilities of the dataplane, as the kernel has them: `none`, or which.
    pub capabilities: String,
    /// `None` from the dataplane. Set by control when it answers with a kept copy: how old it is, and why.
    pub note: Option<String>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name.
    pub name: String,
    /// `connecting` (not heard yet), `normal`, `degraded` (up, but with loss, delay or jitter beyond a threshold) or `failed`.
    pub state: String,
    /// Why, if it is degraded or failed.
    pub reason: Option<String>,
    /// Nanoseconds since the state last changed.
    pub state_age_ns: u64,
    /// How often the state has changed since the dataplane started.
    pub state_changes: u64,
    /// Rung it stands on.
    pub rung: Rung,
    /// Why each higher rung was not taken, highest first.
    pub rung_reasons: Vec<(Rung, String)>,
    /// On the rung `sim`: what happens to frames on the way out, in words.
    pub impairments: Option<String>,
    /// AF_XDP queue ids in use.
    pub queues: Vec<u32>,
    /// CIR, bit/s.
    pub rate_bps: Option<u64>,
    /// CBS, bytes.
    pub burst_bytes: u32,
    /// What is measured of it.
    pub measured: MeasuredStatus,
    /// Where it stands in its contact plan; `None` = it has none.
    pub contacts: Option<ContactStatus>,
    /// Named counters: `tx_frames`, `tx_bytes` (layer 2), `rx_frames`, `rx_bytes`, and drops by reason (`drop_…`).
    pub counters: Vec<(String, u64)>,
}

impl LinkStatus {
    /// It carries frames: it is normal, or degraded.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "normal" | "degraded")
    }
}

/// What is measured of a link; while it is not up, what was when it last was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredStatus {
    /// Round trips, from the echo in liveness.
    pub rtt: Option<RttStatus>,
    /// Jitter of the direction from the neighbour (RFC 3550 section 6.4.1), ns.
    pub jitter_ns: Option<u64>,
    /// Frames from the neighbour, by their sequence numbers.
    pub from_neighbour: DirectionStatus,
    /// Frames to the neighbour, as it reports them, without reordering; `None`: it speaks a version that does not.
    pub to_neighbour: Option<DirectionStatus>,
    /// The neighbour's clock against this node's, or why nothing is known of it.
    pub clock: Result<ClockStatus, String>,
}

/// Round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttStatus {
    /// Smoothed (RFC 6298 section 2), ns.
    pub smoothed_ns: u64,
    /// The shortest since the link came up, ns.
    pub min_ns: u64,
    /// The latest, ns.
    pub latest_ns: u64,
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionStatus {
    /// The last 10 s.
    pub short: WindowStatus,
    /// The last 60 s.
    pub long: WindowStatus,
}

/// Frames within a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// Frames that ought to have come.
    pub expected: u64,
    /// Those that did not.
    pub lost: u64,
    /// Those that came out of order.
    pub reordered: u64,
    /// `lost` in millionths of `expected`; `None` without frames.
    pub loss_ppm: Option<u32>,
    /// `reordered` in millionths of those that came; `None` without frames.
    pub reorder_ppm: Option<u32>,
}

/// The clock error between the two ends of a link, and what is worth nothing without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// The neighbour's clock less this node's, ns.
    pub error_ns: i64,
    /// The true error is within this of `error_ns`, ns.
    pub bound_ns: u64,
    /// One-way delay to the neighbour, ns, right within `bound_ns`.
    pub to_neighbour_ns: u64,
    /// One-way delay from the neighbour, ns, right within `bound_ns`.
    pub from_neighbour_ns: u64,
}

/// Where a link stands in its contact plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactStatus {
    /// Why the plan is not followed.
    pub refused: Option<String>,
    /// The contact under way, its use, and nanoseconds until it ends.
    pub present: Option<(ContactPlan, PassUsage, u64)>,
    /// The next contact, and nanoseconds until it begins.
    pub next: Option<(ContactPlan, u64)>,
    /// How the last contact was used.
    pub last: Option<PassUsage>,
}

/// How a contact was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassUsage {
    /// Start of the contact, nanoseconds since 1970 UTC.
    pub start_unix_ns: u64,
    /// Bytes sent at layer 2.
    pub sent_bytes: u64,
    /// Bytes that its rate would have carried so far; `None` if uncapped.
    pub carried_bytes: Option<u64>,
    /// Bytes that its rate carries in the whole of it; `None` if uncapped.
    pub capacity_bytes: Option<u64>,
}

impl PassUsage {
    /// Share of what could have been sent so far, percent, at most 100; `None` if uncapped or just begun.
    #[must_use]
    pub fn percent(&self) -> Option<u8> {
        let carried = self.carried_bytes.filter(|carried| *carried > 0)?;
        u8::try_from((u128::from(self.sent_bytes) * 100 / u128::from(carried)).min(100)).ok()
    }
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Node name.
    pub name: String,
    /// `connecting`, `connected`, `dark` or `lost`.
    pub state: String,
    /// Reason, if dark or lost.
    pub reason: Option<String>,
    /// Smoothed RTT of the bulk connection, ns.
    pub rtt_ns: Option<u64>,
    /// Named counters: QUIC packets and bytes sent, lost; handshakes, denials.
    pub counters: Vec<(String, u64)>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Index.
    pub index: usize,
    /// Core it is pinned to.
    pub core: Option<usize>,
    /// Frames by place, which add up to `total` unless frames leak: free, fill, rx, held, tx, completion.
    pub frames: FrameAccount,
    /// Named counters: `loops`, `kicks`, `sleeps`, `rx_frames`, `tx_frames`, `syscalls`.
    pub counters: Vec<(String, u64)>,
}

/// Conservation of UMEM frames (invariant 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameAccount {
    /// All frames of the UMEM.
    pub total: u64,
    /// In the free list.
    pub free: u64,
    /// In fill rings.
    pub fill: u64,
    /// In hand: received, queued for transit, or being built.
    pub held: u64,
    /// In TX rings, not completed.
    pub tx: u64,
    /// `total` less all others; 0 unless frames leak.
    pub leaked: i64,
}
