//! What the workers of one node have for each other: transit frames, and the states of their links.
//!
//! ```text
//!   worker W, owns the in link                            worker V, owns the out link
//!   FIB: label, backward label, TTL, swap, MTU ─ Port::cross ─► ring ─► handle_crossing ─► egress queue, caps, sequence
//!   alarms about V's link, by W's link         ◄── poll_notice ◄─────── state of V's link
//! ```
//!
//! A frame crosses at one place: when the FIB has said where it leaves, and before it is queued. So everything that a
//! row can refuse is refused and counted by the in link's owner, and everything about the out link (limits of its
//! queues, ECN marks, tokens, sequence numbers) is done by its owner alone, as for a row of its own.
//!
//! Alarms themselves do not cross. Each worker says alarms on its own links and needs for that only whether the links
//! at the other ends of its rows are up: a few bytes at each edge, of which only the newest counts, so that the driver
//! can pass them on without a queue that could be full.

use super::Engine;
use crate::config::LinkId;
use crate::egress::Class;
use crate::fib::DropReason;
use crate::port::{Crossing, Ecn, FrameBuf, Port};
use crate::time::Nanos;

/// State of a link, from its owner to the node's other workers. A link of which nothing was said counts as dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkNotice {
    /// Which.
    pub link: LinkId,
    /// `None` = up; else why it is dark, one of `florelay_wire::oam::alarm_reason`.
    pub down: Option<u8>,
}

impl<F: FrameBuf> Engine<F> {
    /// A transit frame that another worker has looked up and relabelled ([`Port::cross`]) leaves by a link of this one.
    /// It is queued, or dropped and counted on the out link; in each case the engine gives it back to the port in time.
    pub fn handle_crossing<P: Port<Frame = F>>(&mut self, crossing: Crossing, frame: F, ecn: Ecn, port: &mut P) {
        // The driver hands over by owner; a link that is not ours would be its mistake.
        let Some(index) = self.index(crossing.link) else {
            port.free(frame);
            return;
        };
        if port.spare_frames() == 0 {
            self.count_drop(index, DropReason::FramesShort);
            port.free(frame);
            return;
        }
        let class = Class::from_tc(crossing.tc);
        // A refusal has been counted by the egress, by name.
        if let Err(frame) = self.links[index].egress.enqueue_transit(crossing.flow, class, frame, ecn) {
            port.free(frame);
        }
    }

    /// The next state of an own link that the node's other workers must hear; to be asked after each burst, and to be
    /// given to each of them as [`handle_notice`](Self::handle_notice). A newer one of the same link replaces an older.
    pub fn poll_notice(&mut self) -> Option<LinkNotice> {
        self.notices.pop_front()
    }

    /// A link at the far end of some rows went up or down: paths over it hear so on own links.
    pub fn handle_notice(&mut self, now: Nanos, notice: LinkNotice) {
        match notice.down {
            None => self.alarms.link_up(now, notice.link),
            Some(reason) => self.alarms.link_down(now, notice.link, reason),
        }
        self.send_alarms(now);
    }

    pub(super) fn tell_workers(&mut self, notice: LinkNotice) {
        if !self.has_neighbours {
            return;
        }
        // Only the newest counts: so there is at most one for each link, however long nobody asks.
        self.notices.retain(|waiting| waiting.link != notice.link);
        self.notices.push_back(notice);
    }
}
