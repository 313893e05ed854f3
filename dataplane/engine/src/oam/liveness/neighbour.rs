//! What is known of the neighbour, and which boot ids of it are believed.

use florelay_wire::oam as body;

use crate::oam::link_state::LivenessError;
use crate::time::Nanos;

/// Boot ids that the neighbour has left and may not come back with.
const RETIRED_BOOTS: usize = 16;

/// What is known of the neighbour's present boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbour {
    pub(super) boot_id: u64,
    pub(super) sequence: u32,
    pub(super) sent_ns: u64,
    pub(super) heard_at: Nanos,
    pub(super) interval_ns: u64,
    pub(super) detect_mult: u8,
    pub(super) version: u8,
    /// It hears us, by its last message.
    pub(super) hears_us: bool,
    /// It has heard us since the link last came up.
    pub(super) heard_us_once: bool,
    /// Its operator holds the link down, by its last message.
    pub(super) held: bool,
    /// Since when it has not heard us.
    pub(super) deaf_since: Nanos,
}

/// A boot id that has not yet shown that it hears our present boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) boot_id: u64,
    sequence: u32,
}

/// Boot ids other than the neighbour's present one.
#[derive(Debug, Clone, Default)]
pub(super) struct Boots {
    /// Who may be the neighbour after a restart.
    pub(super) candidate: Option<Candidate>,
    retired: [u64; RETIRED_BOOTS],
    retired_next: usize,
}

impl Boots {
    /// A boot id that is new: remembers it, unless it is one of the past or repeats itself. `true`: it is to be answered now.
    pub(super) fn admit(&mut self, message: &body::Liveness) -> Result<bool, LivenessError> {
        if self.retired.contains(&message.boot_id) {
            return Err(LivenessError::Replay);
        }
        match &mut self.candidate {
            Some(candidate) if candidate.boot_id == message.boot_id => {
                if message.sequence <= candidate.sequence {
                    return Err(LivenessError::Replay);
                }
                candidate.sequence = message.sequence;
                Ok(false)
            }
            other => {
                *other = Some(Candidate { boot_id: message.boot_id, sequence: message.sequence });
                Ok(true)
            }
        }
    }

    /// The neighbour has left this boot id.
    pub(super) fn retire(&mut self, boot_id: u64) {
        self.retired[self.retired_next] = boot_id;
        self.retired_next = (self.retired_next + 1) % RETIRED_BOOTS;
    }
}
