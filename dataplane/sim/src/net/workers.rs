//! Nodes of one worker or several: how they are made, how they start again, and what crosses between workers.
//!
//! Each worker is a slot of its own, with its frames and its calendar, as threads are. A node of several is its first
//! worker's [`NodeId`]; the others' come after those of all nodes.

use florelay_engine::LinkNotice;
use florelay_engine::api::TransferId;
use florelay_engine::config::{EngineConfig, LinkId, PeerId};
use florelay_engine::time::Nanos;

use super::event::What;
use super::{Egress, Net, NodeId};
use crate::link::Packet;
use crate::node::Node;
use crate::port::SimPort;
use crate::ring::{Freight, SimRing};
use crate::topo::Topology;

impl<N: Node> Net<N> {
    /// Add all nodes and links of a topology, its indices becoming [`NodeId`]s; further workers of nodes come behind.
    pub fn add_topology(
        &mut self,
        topology: &Topology,
        frames: usize,
        mut make: impl FnMut(&EngineConfig, Nanos) -> N,
    ) {
        let mut workers: Vec<Vec<NodeId>> = Vec::new();
        let configs: Vec<_> = (0..topology.configs().len()).map(|node| topology.worker_configs(node)).collect();
        for config in &configs {
            workers.push(vec![self.add(config[0].clone(), Some(topology.interface_bps()), frames, &mut make)]);
        }
        for (config, workers) in configs.iter().zip(&mut workers) {
            for config in &config[1..] {
                workers.push(self.add(config.clone(), Some(topology.interface_bps()), frames, &mut make));
            }
        }
        for wire in topology.wires() {
            let at = |node: usize, link: LinkId| (workers[node][topology.owner(node, link)], link);
            let (a, b) = (at(wire.a, wire.a_link), at(wire.b, wire.b_link));
            self.connect(a, b, wire.spec.model_ab.clone(), wire.spec.model_ba.clone());
        }
        for workers in &workers {
            for &from in workers {
                for &to in workers.iter().filter(|to| **to != from) {
                    let links = self.nodes[to.0].port.links().collect();
                    let slot = &mut self.nodes[from.0];
                    slot.port.rings.push((SimRing::new(topology.ring), links));
                    slot.beside.push(to);
                }
            }
        }
    }

    /// The worker that owns a node's link.
    ///
    /// # Panics
    /// If the node has no such link.
    #[must_use]
    pub fn owner(&self, node: NodeId, link: LinkId) -> NodeId {
        let workers = self.workers(node);
        let owner = workers.into_iter().find(|id| self.nodes[id.0].port.links().any(|its| its == link));
        owner.unwrap_or_else(|| panic!("{node:?} has no {link:?}"))
    }

    /// From now on frames of a link arrive at the queue of another worker than their owner.
    pub fn land(&mut self, link: Egress, worker: NodeId) {
        self.landings.push((link, worker));
    }

    /// The power of a node is cut and comes back: its engines, their frames, what is in rings between them and what its
    /// gateways had not synced are gone. What was measured of paths is remembered. `peer_of` says to whom a file that is not through is offered again.
    pub fn restart(
        &mut self,
        node: NodeId,
        mut make: impl FnMut(&EngineConfig, Nanos) -> N,
        peer_of: impl Fn(TransferId) -> PeerId,
    ) {
        let now = self.now;
        let workers = self.workers(node);
        for &id in &workers {
            let slot = &mut self.nodes[id.0];
            slot.config.boot_id += 1;
            slot.config.seed = *blake3::hash(&slot.config.seed).as_bytes();
            for (peer, _) in &mut slot.config.peers {
                peer.memory = slot.gateway.paths.get(&peer.id).copied();
            }
            slot.node = make(&slot.config, now);
            let rings = std::mem::take(&mut slot.port.rings);
            slot.port = SimPort::new(&slot.config.links, slot.interface_bps, slot.frames);
            slot.port.rings = rings.into_iter().map(|(ring, links)| (SimRing::new(ring.model), links)).collect();
            slot.port.set_now(now);
        }
        for &id in &workers {
            let mut commands = Vec::new();
            self.nodes[id.0].gateway.restarted(now, &mut commands, &peer_of);
            for command in commands {
                self.hand_over(id, command);
            }
            self.settle(id);
        }
    }

    /// All workers of a node, in order.
    fn workers(&self, node: NodeId) -> Vec<NodeId> {
        let mut workers = self.nodes[node.0].beside.clone();
        workers.push(node);
        workers.sort_unstable();
        workers
    }

    /// If the frame is not for a queue of the link's owner, put it into the ring to him.
    pub(super) fn lands_elsewhere(&mut self, (owner, link): Egress, packet: &Packet) -> bool {
        let Some(&(_, worker)) = self.landings.iter().find(|(at, _)| *at == (owner, link)) else { return false };
        self.nodes[worker.0].port.hand_over(link, Freight::Received(link), packet.clone());
        self.tell_workers(worker);
        true
    }

    /// Ring the bells of workers for which there is something, and pass on what they should know.
    pub(super) fn tell_workers(&mut self, id: NodeId) {
        let now = self.now;
        for index in 0..self.nodes[id.0].port.rings.len() {
            let ring = &mut self.nodes[id.0].port.rings[index].0;
            if ring.waiting() > 0 && !ring.rung {
                ring.rung = true;
                let at = now + ring.model.wake;
                self.push(at, What::Crosses(id, index));
            }
        }
        let boot_id = self.nodes[id.0].config.boot_id;
        while let Some(notice) = self.nodes[id.0].node.poll_notice() {
            for index in 0..self.nodes[id.0].beside.len() {
                let (to, wake) = (self.nodes[id.0].beside[index], self.nodes[id.0].port.rings[index].0.model.wake);
                self.push(now + wake, What::Told(to, boot_id, notice));
            }
        }
    }

    pub(super) fn cross(&mut self, from: NodeId, index: usize) {
        let now = self.now;
        let to = self.nodes[from.0].beside[index];
        let ring = &mut self.nodes[from.0].port.rings[index].0;
        ring.rung = false;
        for (freight, packet) in ring.take() {
            let slot = self.slot(to);
            match freight {
                Freight::Received(link) => {
                    if let Some(frame) = slot.port.receive(link, &packet) {
                        slot.node.handle_frame(now, link, frame, packet.ecn, &mut slot.port);
                    }
                }
                Freight::Transit(crossing) => {
                    if let Some(frame) = slot.port.take_crossed(&packet) {
                        slot.node.handle_crossing(crossing, frame, packet.ecn, &mut slot.port);
                    }
                }
            }
        }
        self.settle(to);
        self.tell_workers(from);
    }

    pub(super) fn told(&mut self, id: NodeId, boot_id: u64, notice: LinkNotice) {
        let now = self.now;
        let slot = self.slot(id);
        // What was said before the power was cut is not heard after it.
        if slot.config.boot_id == boot_id {
            slot.node.handle_notice(now, notice);
            self.settle(id);
        }
    }
}
