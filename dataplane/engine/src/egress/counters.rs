//! What an egress counts.

/// Scheduling class of a frame, highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// TC 7: liveness, alarms, traces. First of all.
    Oam,
    /// TC 6: command messages. Strictly before bulk, within its policer.
    Control,
    /// Everything else: DRR.
    Bulk,
}

impl Class {
    /// Number of classes.
    pub const COUNT: usize = 3;
    /// All classes, in order of [`index`](Self::index).
    pub const ALL: [Class; Self::COUNT] = [Class::Oam, Class::Control, Class::Bulk];

    /// The class that a traffic class value stands for.
    #[must_use]
    pub const fn from_tc(tc: florelay_wire::mpls::Tc) -> Class {
        match tc.get() {
            7 => Class::Oam,
            6 => Class::Control,
            _ => Class::Bulk,
        }
    }

    /// Position in an array of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Snake-case name for counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Class::Oam => "oam",
            Class::Control => "control",
            Class::Bulk => "bulk",
        }
    }
}

/// Why an egress dropped or refused a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EgressDrop {
    /// The transit flow's queue was at its byte limit.
    FlowFull,
    /// All transit queues of the link together were at their frame limit.
    PoolFull,
    /// The OAM queue was full.
    OamFull,
    /// No flow with this key.
    UnknownFlow,
    /// Larger than the link's MTU.
    Oversize,
    /// A path's OAM while the link was closed.
    Closed,
    /// Queued when the queues were drained.
    Drained,
}

impl EgressDrop {
    /// Number of reasons.
    pub const COUNT: usize = 7;
    /// All reasons, in order of [`index`](Self::index).
    pub const ALL: [EgressDrop; Self::COUNT] = [
        EgressDrop::FlowFull,
        EgressDrop::PoolFull,
        EgressDrop::OamFull,
        EgressDrop::UnknownFlow,
        EgressDrop::Oversize,
        EgressDrop::Closed,
        EgressDrop::Drained,
    ];

    /// Position in an array of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Snake-case name for counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EgressDrop::FlowFull => "egress_flow_full",
            EgressDrop::PoolFull => "egress_pool_full",
            EgressDrop::OamFull => "egress_oam_full",
            EgressDrop::UnknownFlow => "egress_unknown_flow",
            EgressDrop::Oversize => "egress_oversize",
            EgressDrop::Closed => "egress_closed",
            EgressDrop::Drained => "egress_drained",
        }
    }
}

/// Counters of one link's egress, since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressCounters {
    /// Frames sent, by [`Class::index`].
    pub tx_frames: [u64; Class::COUNT],
    /// Bytes sent at layer 2, by [`Class::index`].
    pub tx_bytes: [u64; Class::COUNT],
    /// Frames dropped or refused, by [`EgressDrop::index`].
    pub drops: [u64; EgressDrop::COUNT],
    /// Transit frames marked CE (RFC 3168).
    pub ecn_marked: u64,
}
