//! What liveness says of a link: its state, changes of it, and why a message was refused.

use std::fmt;

use florelay_wire::ParseError;
use florelay_wire::oam::{Extension, alarm_reason};

use crate::fib::DropReason;

/// Why a link is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DownReason {
    /// Nothing was heard for the detection time.
    Timeout,
    /// The neighbour says that it does not hear us.
    NotHeard,
    /// The neighbour's operator holds the link down.
    PeerHeld,
    /// Our operator holds the link down.
    Admin,
    /// No carrier, or the next hop is not resolved.
    Carrier,
    /// Outside a contact of the contact plan.
    Contact,
}

impl DownReason {
    /// The reason code for alarms.
    #[must_use]
    pub const fn alarm_code(self) -> u8 {
        match self {
            DownReason::Timeout => alarm_reason::LIVENESS,
            DownReason::NotHeard | DownReason::PeerHeld => alarm_reason::REMOTE,
            DownReason::Admin => alarm_reason::ADMIN,
            DownReason::Carrier => alarm_reason::CARRIER,
            DownReason::Contact => alarm_reason::CONTACT,
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DownReason::Timeout => "nothing heard from the neighbour within the detection time",
            DownReason::NotHeard => "the neighbour does not hear this end",
            DownReason::PeerHeld => "held down at the neighbour",
            DownReason::Admin => "held down by the operator",
            DownReason::Carrier => "no carrier, or the next hop is not resolved",
            DownReason::Contact => "outside a contact",
        })
    }
}

/// State of the link as seen from this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LivenessState {
    /// Nothing heard yet.
    Connecting,
    /// Usable.
    Up,
    /// Not usable.
    Down(DownReason),
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// The link became usable.
    Up,
    /// The link became unusable, or the reason changed.
    Down(DownReason),
}

/// What a valid message brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LivenessEvent {
    /// The state changed.
    pub change: Option<LinkChange>,
    /// The neighbour runs with a new boot id: its old connections are dead, its sequence numbers start anew.
    pub peer_restarted: bool,
    /// What can be measured by it; `None` while its sender is not believed yet.
    pub exchange: Option<Exchange>,
}

/// Time stamps and report of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// When our frame that it answers left, on our clock, and how long the neighbour held it, both in nanoseconds.
    pub echo: Option<(u64, u64)>,
    /// When it left, on the neighbour's monotonic clock, nanoseconds.
    pub sent_ns: u64,
    /// The message before it was of the same boot, and the link not held since.
    pub follows: bool,
    /// What the neighbour says beside.
    pub extension: Option<Extension>,
}

/// Why a message was refused. It changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LivenessError {
    /// Malformed, or no version in common.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The tag is wrong: another key, or forged.
    #[error("the liveness tag is wrong: the keys differ, or it is forged")]
    Tag,
    /// Received before, or of a boot that is over.
    #[error("a liveness message that was received before")]
    Replay,
    /// Our own message came back: the link is a loop.
    #[error("our own liveness message came back: the link is a loop")]
    Reflected,
}

impl From<LivenessError> for DropReason {
    fn from(error: LivenessError) -> Self {
        match error {
            LivenessError::Parse(error) => DropReason::Parse(error),
            LivenessError::Tag => DropReason::LivenessTag,
            LivenessError::Replay => DropReason::LivenessReplay,
            LivenessError::Reflected => DropReason::LivenessReflected,
        }
    }
}
