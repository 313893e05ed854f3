//! Plans for tests: a node of so many workers, links without a cap.

use std::path::PathBuf;

use super::{
    AdapterPlan, CongestionPlan, LinkContacts, LinkPlan, NodePlan, PollMode, Rung, SpoolPlan, Thresholds, WorkerPlan,
};

/// AF_XDP on this interface, from the top of the ladder.
pub(crate) fn xdp(interface: &str) -> AdapterPlan {
    AdapterPlan::Xdp { interface: interface.into(), highest_rung: Rung::ZeroCopy, fallback: true }
}

/// A link of `worker`, from `local` to 127.0.0.9:6635.
pub(crate) fn link(name: &str, worker: usize, local: &str, adapter: AdapterPlan) -> LinkPlan {
    LinkPlan {
        name: name.into(),
        worker,
        adapter,
        local: local.parse().unwrap(),
        remote: "127.0.0.9:6635".parse().unwrap(),
        mtu: 1500,
        extra_overhead: 0,
        rate_bps: None,
        burst_bytes: 30_000,
        control_percent: 50,
        delay_ns: 0,
        congestion: CongestionPlan::Cubic,
        liveness_interval_ns: 50_000_000,
        detect_multiplier: 3,
        liveness_key: [7; 32],
        degraded: Thresholds::default(),
        admin_up: true,
        contacts: LinkContacts::default(),
    }
}

/// A node of these links that nobody can reach: no peers, no files.
pub(crate) fn node(workers: usize, poll: PollMode, links: Vec<LinkPlan>) -> NodePlan {
    NodePlan {
        snapshot: 1,
        spool: SpoolPlan::default(),
        node: "a".into(),
        realm: "test.rete".into(),
        certificate: PathBuf::new(),
        key: PathBuf::new(),
        trust: PathBuf::new(),
        inbox: PathBuf::new(),
        state_dir: PathBuf::new(),
        workers: vec![WorkerPlan { core: None, poll }; workers],
        links,
        peers: Vec::new(),
        transits: Vec::new(),
    }
}
