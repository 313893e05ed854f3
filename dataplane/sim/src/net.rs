//! The network: nodes, links and gateways on one heap of events in virtual time.
//!
//! One step takes the earliest event, gives it to its node, lets the node and its gateways come to rest, and checks
//! what must hold: every frame and packet accounted for, every cap kept, virtual time moving on. Equal times are
//! served in the order in which they were asked for, so a run is a function of seed and scenario; [`Net::trace`]
//! hashes every delivered frame with its time to prove it.

mod event;
mod rates;
mod workers;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::{Command, TransferId};
use florelay_engine::config::{EngineConfig, LinkId, PeerId};
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;

use self::event::{Entry, What};
use crate::gateway::Gateway;
use crate::link::{Link, LinkModel, Packet};
use crate::node::Node;
use crate::port::SimPort;

/// Rounds of commands, events and frames in which a node must come to rest at one instant.
const MAX_ROUNDS: usize = 10_000;
/// Times in a row that a node may ask to be woken at an instant that has come already.
const MAX_SPINS: u32 = 100;
/// A node that has something to send and no frame asks again and again, as a worker does that polls; this often.
const POLL_WITHOUT_FRAMES: Duration = Duration::from_micros(10);
/// A node that has had no free frame for this long hears nothing any more and will not recover by itself.
const MAX_WITHOUT_FRAMES: Duration = Duration::from_secs(5);

/// A node of the network; one worker of it, where it has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// One direction of a link, by the node that sends on it.
pub type Egress = (NodeId, LinkId);

/// Changes or multiplies what arrives on one direction; see [`Net::meddle`].
pub type Meddler = Box<dyn FnMut(&Packet) -> Vec<Packet>>;

/// Nodes joined by links, under virtual time.
pub struct Net<N: Node> {
    seed: u64,
    now: Nanos,
    steps: u64,
    nodes: Vec<NodeSlot<N>>,
    directions: Vec<Direction>,
    events: BinaryHeap<Reverse<Entry<N>>>,
    order: u64,
    trace: blake3::Hasher,
    delivered: u64,
    /// Links whose frames arrive at a queue of another worker than their owner.
    landings: Vec<(Egress, NodeId)>,
}

struct NodeSlot<N> {
    config: EngineConfig,
    interface_bps: Option<u64>,
    frames: usize,
    node: N,
    port: SimPort,
    gateway: Gateway,
    wake: Option<Nanos>,
    gateway_wake: Option<Nanos>,
    spins: u32,
    /// Since when the pool has been empty at every settling.
    starved: Option<Nanos>,
    /// The node's other workers, in the order of the port's rings.
    beside: Vec<NodeId>,
}

struct Direction {
    from: Egress,
    to: Egress,
    link: Link,
    meddler: Option<Meddler>,
    watch: Option<Watch>,
}

/// Looks for full frames on a direction.
#[derive(Clone, Copy)]
struct Watch {
    min_l2_bytes: u32,
    left: u32,
    seen: Option<Nanos>,
}

impl<N: Node> Net<N> {
    /// An empty network; `seed` decides every fault of every link.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Nanos::ZERO,
            steps: 0,
            nodes: Vec::new(),
            directions: Vec::new(),
            events: BinaryHeap::new(),
            order: 0,
            trace: blake3::Hasher::new(),
            delivered: 0,
            landings: Vec::new(),
        }
    }

    /// Add a node with `frames` frames whose interfaces serialise at `interface_bps`. `make` gets the configuration
    /// with the network's seed mixed into its own.
    pub fn add(
        &mut self,
        mut config: EngineConfig,
        interface_bps: Option<u64>,
        frames: usize,
        make: impl FnOnce(&EngineConfig, Nanos) -> N,
    ) -> NodeId {
        config.seed = *blake3::keyed_hash(&config.seed, &self.seed.to_le_bytes()).as_bytes();
        let id = NodeId(self.nodes.len());
        self.nodes.push(NodeSlot {
            node: make(&config, self.now),
            port: SimPort::new(&config.links, interface_bps, frames),
            gateway: Gateway::default(),
            wake: None,
            gateway_wake: None,
            spins: 0,
            starved: None,
            beside: Vec::new(),
            config,
            interface_bps,
            frames,
        });
        self.push(self.now, What::WakeGateway(id));
        id
    }

    /// Join two links, with a model for each direction.
    pub fn connect(&mut self, a: Egress, b: Egress, a_to_b: LinkModel, b_to_a: LinkModel) {
        for (from, to, model) in [(a, b, a_to_b), (b, a, b_to_a)] {
            let index = self.directions.len() as u64;
            let seed = blake3::keyed_hash(&[7; 32], &[self.seed.to_le_bytes(), index.to_le_bytes()].concat());
            let seed = seed.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            self.directions.push(Direction { from, to, link: Link::new(model, seed), meddler: None, watch: None });
        }
    }

    /// Do the next thing; `false` if there is none.
    ///
    /// # Panics
    /// If a node breaks an invariant.
    pub fn step(&mut self) -> bool {
        let Some(Reverse(entry)) = self.events.pop() else {
            return false;
        };
        debug_assert!(entry.at >= self.now);
        self.now = entry.at;
        self.steps += 1;
        match entry.what {
            What::Serialised((id, link)) => {
                while let Some(packet) = self.slot(id).port.complete(link) {
                    self.offer((id, link), packet);
                }
                self.settle(id);
            }
            What::Arrives(index, packet) => {
                self.arrive(index, &packet);
                let (id, _) = self.directions[index].to;
                self.settle(id);
            }
            What::Injected((id, link), packet) => {
                self.receive((id, link), &packet);
                self.settle(id);
            }
            What::Wake(id) => self.wake(id),
            What::WakeGateway(id) => {
                self.nodes[id.0].gateway_wake = None;
                self.settle(id);
            }
            What::Crosses(from, ring) => self.cross(from, ring),
            What::Told(id, boot_id, notice) => self.told(id, boot_id, notice),
            What::Call(call) => call(self),
        }
        true
    }

    /// Do everything that is due up to and including `end`, and make it `end`.
    pub fn run_until(&mut self, end: Nanos) {
        while self.events.peek().is_some_and(|Reverse(entry)| entry.at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Do things while `condition` holds and there is something to do; `true` if the condition came to its end, `false`
    /// if everything came to rest or `limit` passed before.
    pub fn run_while(&mut self, limit: Nanos, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        while condition(self) {
            if self.now > limit || !self.step() {
                return false;
            }
        }
        true
    }

    /// Do something with the network when its time comes.
    pub fn at(&mut self, at: Nanos, call: impl FnOnce(&mut Self) + 'static) {
        self.push(at.max(self.now), What::Call(Box::new(call)));
    }

    /// Give a node a command now.
    pub fn command(&mut self, id: NodeId, command: Command) {
        self.hand_over(id, command);
        self.settle(id);
    }

    /// Give a node a command, and let it act on it with the next thing that happens to it.
    pub fn give(&mut self, id: NodeId, command: Command) {
        self.hand_over(id, command);
        if self.nodes[id.0].gateway_wake != Some(self.now) {
            self.nodes[id.0].gateway_wake = Some(self.now);
            self.push(self.now, What::WakeGateway(id));
        }
    }

    /// Begin to send a file.
    pub fn send_file(&mut self, from: NodeId, peer: PeerId, id: TransferId, size: u64, priority: u8) {
        let command = self.nodes[from.0].gateway.send_file(peer, id, size, priority);
        self.command(from, command);
    }

    /// Begin a flow of messages; see [`Gateway::send_messages`].
    pub fn send_messages(
        &mut self,
        from: NodeId,
        peer: PeerId,
        start: Nanos,
        interval: Duration,
        payload_bytes: usize,
        count: u64,
    ) -> usize {
        let index = self.nodes[from.0].gateway.send_messages(peer, start, interval, payload_bytes, count);
        self.settle(from);
        index
    }

    /// Hand a node a frame from nowhere, now.
    pub fn inject(&mut self, id: NodeId, link: LinkId, bytes: Bytes, ecn: Ecn) {
        let l2_bytes = bytes.len() as u32;
        self.push(self.now, What::Injected((id, link), Packet { bytes, ecn, l2_bytes }));
    }

    /// From now on, everything that arrives from `from` goes through `meddler`, and what it gives back arrives instead.
    pub fn meddle(&mut self, from: Egress, meddler: Meddler) {
        self.direction_mut(from).meddler = Some(meddler);
    }

    /// From now on, look for the `count`-th arrival from `from` of at least `min_l2_bytes`.
    pub fn watch(&mut self, from: Egress, min_l2_bytes: u32, count: u32) {
        self.direction_mut(from).watch = Some(Watch { min_l2_bytes, left: count, seen: None });
    }

    /// When that arrival came.
    #[must_use]
    pub fn watched(&self, from: Egress) -> Option<Nanos> {
        self.direction(from).watch?.seen
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Packets delivered to nodes so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Hash over every delivered packet with its time and place.
    #[must_use]
    pub fn trace(&self) -> blake3::Hash {
        self.trace.finalize()
    }

    /// A node's engine.
    pub fn node(&mut self, id: NodeId) -> &mut N {
        &mut self.nodes[id.0].node
    }

    /// All nodes.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<N> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// A node's adapters.
    #[must_use]
    pub fn port(&self, id: NodeId) -> &SimPort {
        &self.nodes[id.0].port
    }

    /// A node's gateways.
    #[must_use]
    pub fn gateway(&self, id: NodeId) -> &Gateway {
        &self.nodes[id.0].gateway
    }

    /// A node's gateways, to be changed.
    pub fn gateway_mut(&mut self, id: NodeId) -> &mut Gateway {
        &mut self.nodes[id.0].gateway
    }

    /// The direction that leaves a node by a link.
    #[must_use]
    pub fn link(&self, from: Egress) -> &Link {
        &self.direction(from).link
    }

    /// The same, to be changed.
    pub fn link_mut(&mut self, from: Egress) -> &mut Link {
        &mut self.direction_mut(from).link
    }

    /// Every file and stream at every node is through, and well.
    #[must_use]
    pub fn files_done(&self) -> bool {
        self.nodes.iter().all(|slot| slot.gateway.files_done())
    }

    fn push(&mut self, at: Nanos, what: What<N>) {
        self.order += 1;
        self.events.push(Reverse(Entry { at, order: self.order, what }));
    }

    /// The node, with its port at the present time.
    fn slot(&mut self, id: NodeId) -> &mut NodeSlot<N> {
        let slot = &mut self.nodes[id.0];
        slot.port.set_now(self.now);
        slot
    }

    fn offer(&mut self, from: Egress, packet: Packet) {
        let now = self.now;
        let Some(index) = self.directions.iter().position(|direction| direction.from == from) else {
            return;
        };
        let mut arrivals = Vec::new();
        let link = &mut self.directions[index].link;
        link.offer(now, packet, |at, packet| arrivals.push((at, packet)));
        assert!(link.counters().conserved(), "{from:?} at {now:?}: {:?}", link.counters());
        for (at, packet) in arrivals {
            self.push(at, What::Arrives(index, packet));
        }
    }

    fn arrive(&mut self, index: usize, packet: &Packet) {
        let direction = &mut self.directions[index];
        direction.link.arrived();
        assert!(direction.link.counters().conserved(), "{:?}: {:?}", direction.from, direction.link.counters());
        let to = direction.to;
        if let Some(watch) = &mut direction.watch
            && packet.l2_bytes >= watch.min_l2_bytes
            && watch.left > 0
        {
            watch.left -= 1;
            watch.seen = (watch.left == 0).then_some(self.now);
        }
        match &mut direction.meddler {
            None => self.receive(to, packet),
            Some(meddler) => {
                for packet in meddler(packet) {
                    self.receive(to, &packet);
                }
            }
        }
    }

    fn receive(&mut self, (id, link): Egress, packet: &Packet) {
        let now = self.now;
        self.delivered += 1;
        self.trace.update(&now.0.to_le_bytes()).update(&(id.0 as u64).to_le_bytes());
        self.trace.update(&[link.0.to_le_bytes()[0], link.0.to_le_bytes()[1], packet.ecn.bits()]);
        self.trace.update(&(packet.bytes.len() as u64).to_le_bytes()).update(&packet.bytes);
        if self.lands_elsewhere((id, link), packet) {
            return;
        }
        let slot = self.slot(id);
        if let Some(frame) = slot.port.receive(link, packet) {
            slot.node.handle_frame(now, link, frame, packet.ecn, &mut slot.port);
        }
    }

    fn wake(&mut self, id: NodeId) {
        let now = self.now;
        let slot = self.slot(id);
        // An entry that was overtaken by an earlier one is stale.
        if slot.wake == Some(now) {
            slot.wake = None;
            slot.node.handle_timeout(now);
            self.settle(id);
        }
    }

    fn hand_over(&mut self, id: NodeId, command: Command) {
        let now = self.now;
        self.follow_rates(id, &command);
        self.slot(id).node.handle_command(now, command);
    }

    /// Let a node and its gateways say everything that they have to say now.
    fn settle(&mut self, id: NodeId) {
        let now = self.now;
        let links: Vec<LinkId> = self.slot(id).port.links().collect();
        let mut commands = Vec::new();
        for round in 0.. {
            assert!(round < MAX_ROUNDS, "node {} does not come to rest at {now:?}", id.0);
            let slot = self.slot(id);
            let sent: usize = links.iter().map(|&link| slot.node.transmit(now, link, &mut slot.port)).sum();
            let mut quiet = sent == 0;
            while let Some(event) = slot.node.poll_event() {
                quiet = false;
                slot.gateway.handle(now, event, &mut commands);
            }
            slot.gateway.handle_timeout(now, &mut commands);
            quiet &= commands.is_empty();
            for command in commands.drain(..) {
                self.hand_over(id, command);
            }
            if quiet {
                break;
            }
        }
        let slot = self.slot(id);
        if let Err(broken) = slot.port.check() {
            panic!("node {} at {now:?}: {broken:?}", id.0);
        }
        let completions: Vec<_> = slot.port.take_completions().collect();
        for (at, link) in completions {
            self.push(at, What::Serialised((id, link)));
        }
        self.tell_workers(id);
        self.plan_wakes(id);
    }

    fn plan_wakes(&mut self, id: NodeId) {
        let now = self.now;
        let slot = &mut self.nodes[id.0];
        let earliest = if slot.port.free_frames() == 0 {
            let starved = now.since(*slot.starved.get_or_insert(now));
            assert!(
                starved < MAX_WITHOUT_FRAMES,
                "node {} has had no free frame for {starved:?} at {now:?}, it holds {}",
                id.0,
                slot.port.held()
            );
            now + POLL_WITHOUT_FRAMES
        } else {
            slot.starved = None;
            now
        };
        let wanted = slot.node.next_timeout(now).map(|at| at.max(earliest));
        if wanted == Some(now) {
            slot.spins += 1;
            assert!(slot.spins < MAX_SPINS, "node {} wants to be woken again and again at {now:?}", id.0);
        } else {
            slot.spins = 0;
        }
        let planned = std::mem::replace(&mut slot.wake, wanted);
        let gateway_wanted = slot.gateway.next_timeout().map(|at| at.max(now));
        let gateway_planned = std::mem::replace(&mut slot.gateway_wake, gateway_wanted);
        if let Some(at) = wanted.filter(|_| wanted != planned) {
            self.push(at, What::Wake(id));
        }
        if let Some(at) = gateway_wanted.filter(|_| gateway_wanted != gateway_planned) {
            self.push(at, What::WakeGateway(id));
        }
    }

    fn direction(&self, from: Egress) -> &Direction {
        let found = self.directions.iter().find(|direction| direction.from == from);
        found.unwrap_or_else(|| panic!("no link leaves {from:?}"))
    }

    fn direction_mut(&mut self, from: Egress) -> &mut Direction {
        let found = self.directions.iter_mut().find(|direction| direction.from == from);
        found.unwrap_or_else(|| panic!("no link leaves {from:?}"))
    }
}

#[cfg(test)]
mod tests;
