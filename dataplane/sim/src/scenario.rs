//! Networks of engines: a topology, a seed, and what flows.

use std::time::Duration;

use florelay_engine::api::{Command, Event, LinkState, PeerState, TransferId};
use florelay_engine::config::{EngineConfig, LinkId, PeerId, RatePlan};
use florelay_engine::contact::{Contact, ContactPlan, Contacts};
use florelay_engine::port::{Crossing, Ecn};
use florelay_engine::time::Nanos;
use florelay_engine::{Engine, LinkNotice};

use crate::gateway::Pace;
use crate::net::{Egress, Net, NodeId};
use crate::node::Node;
use crate::port::{DEFAULT_FRAMES, SimFrame, SimPort};
use crate::topo::Topology;

/// A network of engines.
pub type Sim = Net<Engine<SimFrame>>;

impl Node for Engine<SimFrame> {
    fn handle_frame(&mut self, now: Nanos, link: LinkId, frame: SimFrame, ecn: Ecn, port: &mut SimPort) {
        Self::handle_frame(self, now, link, frame, ecn, port);
    }

    fn handle_command(&mut self, now: Nanos, command: Command) {
        Self::handle_command(self, now, command);
    }

    fn handle_timeout(&mut self, now: Nanos) {
        Self::handle_timeout(self, now);
    }

    fn transmit(&mut self, now: Nanos, link: LinkId, port: &mut SimPort) -> usize {
        Self::transmit(self, now, link, port)
    }

    fn poll_event(&mut self) -> Option<Event> {
        Self::poll_event(self)
    }

    fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        Self::next_timeout(self, now)
    }

    fn handle_crossing(&mut self, crossing: Crossing, frame: SimFrame, ecn: Ecn, port: &mut SimPort) {
        Self::handle_crossing(self, crossing, frame, ecn, port);
    }

    fn poll_notice(&mut self) -> Option<LinkNotice> {
        Self::poll_notice(self)
    }

    fn handle_notice(&mut self, now: Nanos, notice: LinkNotice) {
        Self::handle_notice(self, now, notice);
    }
}

/// Start an engine for the simulation.
///
/// # Panics
/// If the engine refuses the configuration.
#[must_use]
pub fn start(config: &EngineConfig, now: Nanos) -> Engine<SimFrame> {
    Engine::new(config.clone(), now).unwrap_or_else(|error| panic!("{}: {error}", config.node))
}

/// One contact of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Frames may be on the link from here …
    pub start: Nanos,
    /// … to here.
    pub end: Nanos,
    /// Its rate plan.
    pub rate: RatePlan,
    /// Its one-way delay.
    pub delay: Duration,
}

/// How a network of engines is set up.
#[derive(Clone)]
pub struct Scenario {
    topology: Topology,
    seed: u64,
    frames: usize,
    write_delay: Duration,
}

impl Scenario {
    /// Engines for this topology, seed 0, the usual pool of frames, gateways that write in no time.
    #[must_use]
    pub fn new(topology: Topology) -> Self {
        Self { topology, seed: 0, frames: DEFAULT_FRAMES, write_delay: Duration::ZERO }
    }

    /// With this seed for every engine and link.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// With pools of this many frames.
    #[must_use]
    pub fn frames(self, frames: usize) -> Self {
        Self { frames, ..self }
    }

    /// With gateways that take this long to write a piece.
    #[must_use]
    pub fn write_delay(self, write_delay: Duration) -> Self {
        Self { write_delay, ..self }
    }

    /// The network at time zero.
    #[must_use]
    pub fn build(&self) -> Sim {
        let mut net = Net::new(self.seed);
        net.add_topology(&self.topology, self.frames, start);
        for id in net.node_ids() {
            net.gateway_mut(id).write_delay = self.write_delay;
        }
        net
    }
}

impl Sim {
    /// Run until both ends of a path say that they are connected.
    ///
    /// # Panics
    /// If they are not by `limit`.
    pub fn run_until_connected(&mut self, ends: &[(NodeId, PeerId)], limit: Nanos) {
        let done = self.run_while(limit, |net| {
            !ends.iter().all(|&(id, peer)| net.peer_state(id, peer) == Some(&PeerState::Connected))
        });
        let states: Vec<_> = ends.iter().map(|&(id, peer)| self.peer_state(id, peer)).collect();
        assert!(done, "not connected by {limit:?}: {states:?}");
    }

    /// What a node last said of a peer.
    #[must_use]
    pub fn peer_state(&self, id: NodeId, peer: PeerId) -> Option<&PeerState> {
        self.gateway(id).peers.iter().rev().find(|(_, of, _)| *of == peer).map(|(_, _, state)| state)
    }

    /// What a node last said of a link.
    #[must_use]
    pub fn link_state(&self, id: NodeId, link: LinkId) -> Option<&LinkState> {
        self.gateway(id).links.iter().rev().find(|(_, of, _)| *of == link).map(|(_, _, state)| state)
    }

    /// Begin a stream; see [`Gateway::send_stream`](crate::gateway::Gateway::send_stream).
    pub fn send_stream(&mut self, from: NodeId, peer: PeerId, id: TransferId, size: u64, pace: Pace) {
        let now = self.now();
        let command = self.gateway_mut(from).send_stream(now, peer, id, size, pace);
        self.command(from, command);
    }

    /// Let the reader of a stream go on at another pace.
    ///
    /// # Panics
    /// If the stream was never offered here.
    pub fn read_on(&mut self, id: NodeId, stream: TransferId, pace: Pace) {
        let now = self.now();
        let sink = self.gateway_mut(id).streams_in.get_mut(&stream);
        sink.unwrap_or_else(|| panic!("{stream:?} was not offered here")).resume(now, pace);
        // Nothing for the engine: its gateway looks around.
        self.command(id, Command::Written { id: stream, offset: 0 });
    }

    /// Change the cap of a link at a node.
    pub fn set_rate(&mut self, id: NodeId, link: LinkId, rate: RatePlan) {
        self.command(id, Command::SetRate { link, rate });
    }

    /// Give a link its contact plan, with the default guard.
    ///
    /// # Panics
    /// If it is none.
    pub fn set_contacts(&mut self, (id, link): Egress, passes: &[Pass]) {
        let contact = |pass: &Pass| Contact {
            start: pass.start,
            end: pass.end,
            rate: pass.rate,
            delay: pass.delay,
            key: pass.start.0,
            name: format!("{:?}", pass.start.since(Nanos::ZERO)).into(),
        };
        let plan = ContactPlan::new(passes.iter().map(contact).collect(), None).unwrap_or_else(|e| panic!("{e}"));
        self.command(id, Command::SetContacts { link, contacts: Contacts::Planned(plan) });
    }

    /// The gateways of a node write the messages that they held, and from now on every message at once.
    pub fn release_messages(&mut self, id: NodeId) {
        let mut commands = Vec::new();
        self.gateway_mut(id).release_messages(&mut commands);
        for command in commands {
            self.command(id, command);
        }
    }

    /// The power of a node is cut and comes back; files that are not through are offered to `peer` again.
    pub fn power_cut(&mut self, id: NodeId, peer: PeerId) {
        self.restart(id, start, |_: TransferId| peer);
    }
}
