//! A few engines joined by perfect wires under virtual time, and a gateway behind each that behaves. Unlike the
//! simulation's network it takes whatever a target does to it: frames and commands from anywhere, at any time.
//!
//! Checked after every step: every frame is accounted for, no frame is longer than its link's MTU, the cap is kept
//! (`SimPort::check`); a receiver gets the bytes of a transfer in order and each once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::{Command, Event, MAX_MESSAGE_BYTES, PeerState, TransferId};
use florelay_engine::config::{EngineConfig, LinkId, PeerId};
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;
use florelay_engine::{Engine, EngineError};
use florelay_sim::link::Packet;
use florelay_sim::port::{SimFrame, SimPort};
use florelay_sim::topo::Topology;

/// Rounds of exchange in one step: more is a storm that never ends.
const MAX_ROUNDS: usize = 10_000;

pub(crate) struct Node {
    pub(crate) engine: Engine<SimFrame>,
    pub(crate) port: SimPort,
    links: Vec<LinkId>,
    frames: usize,
    /// Next offset of each incoming transfer, and the bytes of it that were announced.
    incoming: HashMap<TransferId, (u64, Option<u64>)>,
    /// Peers whose connections are both up.
    pub(crate) connected: HashSet<PeerId>,
    /// Own messages that the peer has received.
    pub(crate) acknowledged: HashSet<u64>,
}

impl Node {
    pub(crate) fn start(config: &EngineConfig, frames: usize, now: Nanos) -> Result<Self, EngineError> {
        Ok(Self {
            engine: Engine::new(config.clone(), now)?,
            port: SimPort::new(&config.links, None, frames),
            links: config.links.iter().map(|link| link.id).collect(),
            frames,
            incoming: HashMap::new(),
            connected: HashSet::new(),
            acknowledged: HashSet::new(),
        })
    }

    /// Everything that is due, and what it puts on the links.
    pub(crate) fn turn(&mut self, now: Nanos, out: &mut Vec<(LinkId, Packet)>) {
        self.port.set_now(now);
        if self.engine.next_timeout(now).is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
        for link in self.links.clone() {
            self.engine.transmit(now, link, &mut self.port);
            while let Some(packet) = self.port.complete(link) {
                out.push((link, packet));
            }
        }
        self.port.take_completions().for_each(drop);
        self.answer(now);
        self.check();
    }

    pub(crate) fn deliver(&mut self, now: Nanos, link: LinkId, packet: &Packet) {
        self.port.set_now(now);
        if let Some(frame) = self.port.receive(link, packet) {
            self.engine.handle_frame(now, link, frame, packet.ecn, &mut self.port);
        }
        self.check();
    }

    pub(crate) fn command(&mut self, now: Nanos, command: Command) {
        self.port.set_now(now);
        if let Command::SetRate { link, rate } = &command
            && self.links.contains(link)
        {
            self.port.set_rate(*link, *rate);
        }
        self.engine.handle_command(now, command);
        self.check();
    }

    /// What a gateway that can write at once says to each event.
    fn answer(&mut self, now: Nanos) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Offered { id, meta, .. } => {
                    assert!(!meta.name.is_empty() && !meta.name.contains(['/', '\0']), "{meta:?}");
                    assert!(!meta.name.chars().any(char::is_control), "{meta:?}");
                    self.incoming.insert(id, (0, meta.size.or(meta.declared)));
                    self.command(now, Command::Accept { id, offset: 0 });
                }
                Event::Data { id, offset, data } => {
                    let (next, whole) = self.incoming.get_mut(&id).expect("an accepted transfer");
                    assert!(*next == offset && !data.is_empty(), "{id:?}: {offset} after {next}");
                    *next += data.len() as u64;
                    assert!(whole.is_none_or(|whole| *next <= whole), "{id:?}: {next} bytes of {whole:?}");
                    let offset = *next;
                    self.command(now, Command::Written { id, offset });
                    self.command(now, Command::Synced { id, offset });
                }
                Event::DataEnd { id, size, .. } => {
                    let (next, whole) = self.incoming[&id];
                    assert!(next == size && whole.is_none_or(|whole| whole == size), "{id:?}: {size} of {whole:?}");
                    self.command(now, Command::Complete { id, result: Ok(()) });
                }
                Event::TransferEnded { id, .. } | Event::TransferShelved { id } => drop(self.incoming.remove(&id)),
                Event::Peer { peer, state: PeerState::Connected } => drop(self.connected.insert(peer)),
                Event::Peer { peer, .. } => drop(self.connected.remove(&peer)),
                Event::MessageAcked { id, .. } => drop(self.acknowledged.insert(id)),
                Event::Message { peer, id, payload } => {
                    assert!(payload.len() <= MAX_MESSAGE_BYTES);
                    self.command(now, Command::MessageWritten { peer, id });
                }
                _ => {}
            }
        }
    }

    pub(crate) fn check(&self) {
        if let Err(broken) = self.port.check() {
            panic!("{broken:?}");
        }
    }
}

/// Nodes and wires of a topology.
pub(crate) struct Bed {
    pub(crate) now: Nanos,
    pub(crate) nodes: Vec<Node>,
    /// (node, link) and where it leads.
    ends: HashMap<(usize, LinkId), (usize, LinkId)>,
    /// What was sent last, newest at the end: to be damaged and sent again.
    pub(crate) heard: VecDeque<(usize, LinkId, Packet)>,
}

/// Packets that are remembered.
const HEARD: usize = 64;

impl Bed {
    pub(crate) fn new(topology: &Topology, frames: usize) -> Self {
        let now = Nanos::ZERO;
        let start = |config| Node::start(config, frames, now).expect("a topology of ours");
        let ends = topology.wires().iter().flat_map(|wire| {
            let (a, b) = ((wire.a, wire.a_link), (wire.b, wire.b_link));
            [(a, b), (b, a)]
        });
        Self {
            now,
            nodes: topology.configs().iter().map(start).collect(),
            ends: ends.collect(),
            heard: VecDeque::new(),
        }
    }

    /// The power of a node is cut and comes back: nothing is left of its engine and frames.
    pub(crate) fn restart(&mut self, node: usize, config: &EngineConfig) {
        let mut config = config.clone();
        config.boot_id += 1;
        config.seed[0] ^= 1;
        let frames = self.nodes[node].frames;
        self.nodes[node] = Node::start(&config, frames, self.now).expect("it started before");
    }

    /// Let everything happen that happens without time passing, then let time pass until something is due again, but
    /// not longer than `most`.
    pub(crate) fn step(&mut self, most: Duration) {
        self.exchange();
        let due = self.nodes.iter().filter_map(|node| node.engine.next_timeout(self.now)).min();
        let least = self.now + Duration::from_micros(100);
        self.now = due.unwrap_or(Nanos::MAX).max(least).min(self.now + most);
        self.exchange();
    }

    /// Let time pass until so many ends of paths say that they are connected.
    pub(crate) fn connect(&mut self, ends: usize) {
        for _ in 0..1000 {
            if self.nodes.iter().map(|node| node.connected.len()).sum::<usize>() == ends {
                return;
            }
            self.step(Duration::from_millis(20));
        }
        panic!("not connected at {:?}", self.now);
    }

    pub(crate) fn inject(&mut self, node: usize, link: LinkId, bytes: &[u8], ecn: Ecn) {
        let packet = Packet { bytes: Bytes::copy_from_slice(bytes), ecn, l2_bytes: bytes.len() as u32 };
        self.nodes[node].deliver(self.now, link, &packet);
    }

    fn exchange(&mut self) {
        let mut out = Vec::new();
        for _ in 0..MAX_ROUNDS {
            for from in 0..self.nodes.len() {
                self.nodes[from].turn(self.now, &mut out);
                for (link, packet) in out.drain(..) {
                    let (to, link) = self.ends[&(from, link)];
                    if self.heard.len() == HEARD {
                        self.heard.pop_front();
                    }
                    self.heard.push_back((to, link, packet));
                    let (_, _, packet) = self.heard.back().expect("just put there");
                    self.nodes[to].deliver(self.now, link, packet);
                }
            }
            if !self.nodes.iter().any(|node| node.engine.events_waiting() > 0) {
                return;
            }
        }
        panic!("events without end at {:?}", self.now);
    }
}
