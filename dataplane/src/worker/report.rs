//! What a worker says of itself when it is asked: made off the packet path, sent through the event ring.

use florelay_engine::config::LinkId;
use florelay_engine::contact::ContactReport;
use florelay_engine::{ConditionReport, EngineStatus};

use crate::ipc::FrameAccount;
use crate::plan::Rung;

/// State of one worker.
#[derive(Debug, Clone)]
pub(crate) struct WorkerReport {
    /// Its index.
    pub(crate) index: usize,
    /// Core it is pinned to.
    pub(crate) core: Option<usize>,
    /// Its engine: all peers, but only its own links.
    pub(crate) engine: EngineStatus,
    /// Where its links with a contact plan stand in it.
    pub(crate) contacts: Vec<(LinkId, ContactReport)>,
    /// How well its links do.
    pub(crate) conditions: Vec<ConditionReport>,
    /// Where its UMEM frames are; all zero without AF_XDP.
    pub(crate) frames: FrameAccount,
    /// The adapters of its links.
    pub(crate) links: Vec<LinkAdapterReport>,
    /// `loops`, `sleeps`, `syscalls`, `kicks`, `rx_frames`, `tx_frames` and others.
    pub(crate) counters: Vec<(String, u64)>,
}

/// How one link moves its frames.
#[derive(Debug, Clone)]
pub(crate) struct LinkAdapterReport {
    /// Index in the plan.
    pub(crate) link: u16,
    /// Rung it stands on.
    pub(crate) rung: Rung,
    /// Why each higher rung was not taken, highest first.
    pub(crate) reasons: Vec<(Rung, String)>,
    /// AF_XDP queues in use.
    pub(crate) queues: Vec<u32>,
    /// What the adapter counted for this link.
    pub(crate) counters: Vec<(String, u64)>,
}
