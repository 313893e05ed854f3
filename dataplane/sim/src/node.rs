//! What the network drives: the engine's driver calls as a trait, so that the simulation can be tried on a toy.

use florelay_engine::LinkNotice;
use florelay_engine::api::{Command, Event};
use florelay_engine::config::LinkId;
use florelay_engine::port::{Crossing, Ecn, Port};
use florelay_engine::time::Nanos;

use crate::port::{SimFrame, SimPort};

/// A sans-IO node. The contract is that of the engine, see its documentation.
pub trait Node {
    /// A frame arrived on `link`; it is freed, kept for transit, or consumed.
    fn handle_frame(&mut self, now: Nanos, link: LinkId, frame: SimFrame, ecn: Ecn, port: &mut SimPort);
    /// A gateway wants something.
    fn handle_command(&mut self, now: Nanos, command: Command);
    /// `next_timeout` has passed.
    fn handle_timeout(&mut self, now: Nanos);
    /// Put frames on `link` while tokens and room last; the answer is how many.
    fn transmit(&mut self, now: Nanos, link: LinkId, port: &mut SimPort) -> usize;
    /// What the gateways should know.
    fn poll_event(&mut self) -> Option<Event>;
    /// When it wants to be called again.
    fn next_timeout(&self, now: Nanos) -> Option<Nanos>;
    /// A transit frame came from another worker of the node.
    fn handle_crossing(&mut self, crossing: Crossing, frame: SimFrame, ecn: Ecn, port: &mut SimPort) {
        let _ = (crossing, ecn);
        port.free(frame);
    }
    /// What the node's other workers should know.
    fn poll_notice(&mut self) -> Option<LinkNotice> {
        None
    }
    /// Another worker's link changed its state.
    fn handle_notice(&mut self, now: Nanos, notice: LinkNotice) {
        let _ = (now, notice);
    }
}
