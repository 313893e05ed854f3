//! Why a received frame was dropped: one flat list, because each reason has its own counter.

use florelay_wire::ParseError;

/// Why a received frame was dropped. [`index`](Self::index) is dense from 0, so it indexes an array of
/// [`COUNT`](Self::COUNT) counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The bytes are not a link payload, or an OAM body is malformed.
    Parse(ParseError),
    /// It arrived on a link that this table does not have.
    UnknownLink,
    /// LSE 0 carries a label that names no row of its link.
    UnknownLabel,
    /// LSE 1 is not the backward label of the row.
    BackwardMismatch,
    /// It arrived with TTL 0, which nobody may send.
    TtlZero,
    /// Its TTL ended at this transit node and it is not a trace that could be answered.
    TtlExpired,
    /// It is larger than the out link's MTU.
    ExceedsMtu,
    /// A path's OAM message at link scope, or liveness on a path.
    WrongScope,
    /// A liveness message whose tag is wrong.
    LivenessTag,
    /// A liveness message that was received before, or of a boot that is over.
    LivenessReplay,
    /// A liveness message of our own: the link is a loop.
    LivenessReflected,
    /// A payload type that nobody here takes.
    UnwantedPayload,
    /// The transport refused the datagram.
    Transport,
    /// The port has no frames to spare for queues; see [`Port::spare_frames`](crate::Port::spare_frames).
    FramesShort,
    /// The ring to the worker that owns the out link was full.
    RingFull,
}

impl DropReason {
    /// The reasons that are not parse errors, in order of index.
    const OWN: [DropReason; 14] = [
        DropReason::UnknownLink,
        DropReason::UnknownLabel,
        DropReason::BackwardMismatch,
        DropReason::TtlZero,
        DropReason::TtlExpired,
        DropReason::ExceedsMtu,
        DropReason::WrongScope,
        DropReason::LivenessTag,
        DropReason::LivenessReplay,
        DropReason::LivenessReflected,
        DropReason::UnwantedPayload,
        DropReason::Transport,
        DropReason::FramesShort,
        DropReason::RingFull,
    ];
    /// How many reasons there are.
    pub const COUNT: usize = ParseError::COUNT + Self::OWN.len();
    /// All reasons, in order of [`index`](Self::index).
    pub const ALL: [DropReason; Self::COUNT] = {
        let mut all = [DropReason::UnknownLink; Self::COUNT];
        let mut at = 0;
        while at < Self::COUNT {
            all[at] = if at < ParseError::COUNT {
                DropReason::Parse(ParseError::ALL[at])
            } else {
                Self::OWN[at - ParseError::COUNT]
            };
            at += 1;
        }
        all
    };

    /// Position in an array of counters, below [`COUNT`](Self::COUNT).
    #[must_use]
    pub const fn index(self) -> usize {
        let own = match self {
            DropReason::Parse(error) => return error.index(),
            DropReason::UnknownLink => 0,
            DropReason::UnknownLabel => 1,
            DropReason::BackwardMismatch => 2,
            DropReason::TtlZero => 3,
            DropReason::TtlExpired => 4,
            DropReason::ExceedsMtu => 5,
            DropReason::WrongScope => 6,
            DropReason::LivenessTag => 7,
            DropReason::LivenessReplay => 8,
            DropReason::LivenessReflected => 9,
            DropReason::UnwantedPayload => 10,
            DropReason::Transport => 11,
            DropReason::FramesShort => 12,
            DropReason::RingFull => 13,
        };
        ParseError::COUNT + own
    }

    /// Name of the counter, snake case, without a prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Parse(error) => error.name(),
            DropReason::UnknownLink => "unknown_link",
            DropReason::UnknownLabel => "unknown_label",
            DropReason::BackwardMismatch => "backward_mismatch",
            DropReason::TtlZero => "ttl_zero",
            DropReason::TtlExpired => "ttl_expired",
            DropReason::ExceedsMtu => "exceeds_mtu",
            DropReason::WrongScope => "wrong_scope",
            DropReason::LivenessTag => "liveness_tag",
            DropReason::LivenessReplay => "liveness_replay",
            DropReason::LivenessReflected => "liveness_reflected",
            DropReason::UnwantedPayload => "unwanted_payload",
            DropReason::Transport => "transport",
            DropReason::FramesShort => "frames_short",
            DropReason::RingFull => "ring_full",
        }
    }
}

impl From<ParseError> for DropReason {
    fn from(error: ParseError) -> Self {
        DropReason::Parse(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense_and_names_unique() {
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), at);
            let same = DropReason::ALL.iter().filter(|r| r.name() == reason.name());
            assert_eq!(same.count(), 1, "{}", reason.name());
        }
    }
}
