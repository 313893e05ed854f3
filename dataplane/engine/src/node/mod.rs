//! The engine itself: links, label switching, peers and their connections, put together.
//!
//! `mod.rs` holds the state and the driver's calls; `ingress` what a frame does on arrival, `links` how links and
//! paths come and go, `condition` how well they do, `contacts` the contact plans of links, `across` what workers of one node
//! have for each other, `conns` what connections say, `paths` what was measured of paths, `source` how the scheduler pulls
//! packets, `commands` what gateways want, `status` what is shown.

mod across;
mod commands;
mod condition;
mod conns;
mod contacts;
mod ingress;
mod links;
mod paths;
mod source;
mod status;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

pub use self::across::LinkNotice;
pub use self::condition::ConditionReport;
use self::condition::LinkCondition;
pub use self::status::{EngineStatus, LinkReport, PeerReport};
use crate::api::{Event, LinkState, PeerState, TransferId};
use crate::config::{EngineConfig, LinkConfig, LinkId, PeerId, RatePlan};
use crate::contact::Schedule;
use crate::datagrams::Datagrams;
use crate::egress::{Class, Egress, EgressCounters, EgressLimits, FlowKey};
use crate::fib::{Direction, DropReason, Fib, FibError, SequenceMonitor, transit_flow};
use crate::messages::{ControlConn, Messages};
use crate::oam::{Alarms, Liveness, PathAlarm, Trace, alarm_node_id};
use crate::port::{FrameBuf, Port};
use crate::relay::{BulkConn, Relay};
use crate::time::Nanos;
use crate::transport::{Handle, Lane, Transport};

/// First wait before a lost connection is dialled again, doubled each time …
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// … up to this. The path's clock counts: a dark path costs no attempts.
const RETRY_LIMIT: Duration = Duration::from_secs(5);
/// OAM messages that wait for a frame, per link; more are dropped and counted.
const MAX_OAM_WAITING: usize = 256;
/// While the gateways leave this many events untaken, sessions are not read: each message there can be a new event.
const MAX_EVENTS_WAITING: usize = 16_384;

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The labels do not fit each other.
    #[error(transparent)]
    Fib(#[from] FibError),
    /// A path's packets are too small for QUIC (RFC 9000 section 14).
    #[error("peer {peer}: QUIC needs packets of 1200 bytes, the path leaves {quic_mtu}")]
    QuicMtu {
        /// Its name.
        peer: String,
        /// What the path leaves.
        quic_mtu: u16,
    },
    /// Peers are numbered from 0 without gaps.
    #[error("peer {0} is out of order")]
    PeerOrder(u16),
}

struct LinkRuntime<F> {
    config: LinkConfig,
    /// In force; `config.rate` is what was configured.
    rate: RatePlan,
    /// One-way delay in force.
    delay: Duration,
    egress: Egress<F>,
    liveness: Liveness,
    contacts: Schedule,
    /// What the port knows of contacts.
    port_open: bool,
    admin_up: bool,
    carrier: Result<(), Arc<str>>,
    state: LinkState,
    oam_out: VecDeque<Vec<u8>>,
    sequence: SequenceMonitor,
    condition: LinkCondition,
    rx_frames: u64,
    rx_bytes: u64,
    rx_ecn_ce: u64,
    oam_dropped: u64,
    drops: Box<[u64]>,
}

struct PeerRuntime {
    link: LinkId,
    relay: Relay,
    messages: Messages,
    datagrams: Datagrams,
    bulk: FxHashMap<Handle, BulkConn>,
    control: FxHashMap<Handle, ControlConn>,
    alarm: PathAlarm,
    state: PeerState,
    retry: [Retry; 2],
    /// Connections on which the peer has not said hello yet.
    unheard: Vec<Unheard>,
}

/// A connection is authenticated, and its peer's hello is waited for.
#[derive(Debug, Clone, Copy)]
struct Unheard {
    handle: Handle,
    lane: Lane,
    waits: Duration,
    /// Until then, in the path's time.
    until: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Option<Nanos>,
    wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { at: None, wait: RETRY_FIRST }
    }
}

struct PathTrace {
    link: LinkId,
    trace: Trace,
}

/// One worker's share of a node.
pub struct Engine<F: FrameBuf> {
    node: Arc<str>,
    snapshot: u64,
    links: Vec<LinkRuntime<F>>,
    /// `LinkId` → index in `links`; `usize::MAX` = not owned by this worker.
    link_index: Vec<usize>,
    fib: Fib,
    alarms: Alarms,
    /// Our wall clock at `Nanos::ZERO`, nanoseconds since 1970; `None` = not set.
    wall_at_zero_ns: Option<u64>,
    /// States of own links that other workers do not know yet; stays empty where there are no others.
    notices: VecDeque<LinkNotice>,
    has_neighbours: bool,
    peers: Vec<PeerRuntime>,
    transport: Transport,
    traces: Vec<PathTrace>,
    /// Which peer a transfer belongs to.
    transfers: FxHashMap<TransferId, PeerId>,
    events: VecDeque<Event>,
    /// Events of command messages: said before all others, however many transfers wait.
    urgent: VecDeque<Event>,
    /// Sessions that are not read while `events` is long.
    paused: Vec<Handle>,
    /// When what was measured of paths may be said again.
    paths_due: Nanos,
    /// For [`crate::fuzzing`]: says no hello.
    mute: bool,
}

impl<F: FrameBuf> Engine<F> {
    /// An engine with this configuration. All links begin as `Connecting` (or down, by configuration).
    ///
    /// # Errors
    /// When labels clash, or a path is too small for QUIC.
    pub fn new(config: EngineConfig, now: Nanos) -> Result<Self, EngineError> {
        let owned = |link: LinkId| config.links.iter().any(|l| l.id == link);
        let peer_configs: Vec<_> = config.peers.iter().map(|(p, _)| p.clone()).filter(|p| owned(p.link)).collect();
        let fib = Fib::build(&config.links, &config.foreign_links, &peer_configs, &config.transits)?;
        let mut transport = Transport::new(config.worker, &config.seed, config.reset_key);
        let mut peers = Vec::with_capacity(config.peers.len());
        for (index, (peer, crypto)) in config.peers.iter().enumerate() {
            if usize::from(peer.id.0) != index {
                return Err(EngineError::PeerOrder(peer.id.0));
            }
            if peer.quic_mtu < 1200 {
                return Err(EngineError::QuicMtu { peer: peer.name.to_string(), quic_mtu: peer.quic_mtu });
            }
            let congestion = config
                .links
                .iter()
                .find(|link| link.id == peer.link)
                .map_or(crate::config::Congestion::Shared, |link| link.congestion);
            transport.add_peer(peer.clone(), crypto, congestion, &config.seed);
            peers.push(PeerRuntime {
                link: peer.link,
                relay: Relay::new(peer.id, config.boot_id, config.limits),
                messages: Messages::new(peer.id),
                datagrams: Datagrams::new(peer.id, peer.quic_mtu),
                bulk: FxHashMap::default(),
                control: FxHashMap::default(),
                alarm: PathAlarm::new(),
                state: PeerState::Connecting,
                retry: [Retry::default(); 2],
                unheard: Vec::new(),
            });
        }
        let size = config.links.iter().map(|l| usize::from(l.id.0) + 1).max().unwrap_or(0);
        let mut link_index = vec![usize::MAX; size];
        let mut links = Vec::with_capacity(config.links.len());
        for link in &config.links {
            link_index[usize::from(link.id.0)] = links.len();
            let mut egress = Egress::new(now, link, EgressLimits::from(&config.limits));
            for peer in &peer_configs {
                if peer.link == link.id {
                    egress.add_flow(FlowKey::Peer(peer.id), peer.weight);
                }
            }
            for (row, transit) in config.transits.iter().enumerate() {
                for (end, direction) in [(transit.b, Direction::AToB), (transit.a, Direction::BToA)] {
                    if end.link == link.id {
                        egress.add_flow(FlowKey::Transit(transit_flow(row as u32, direction)), transit.weight);
                    }
                }
            }
            links.push(LinkRuntime {
                egress,
                liveness: Liveness::new(link, config.boot_id, liveness_seed(&config.seed, link.id), now),
                contacts: Schedule::default(),
                port_open: true,
                admin_up: link.admin_up,
                carrier: Ok(()),
                state: LinkState::Connecting,
                oam_out: VecDeque::new(),
                sequence: SequenceMonitor::new(),
                condition: LinkCondition::new(now),
                rx_frames: 0,
                rx_bytes: 0,
                rx_ecn_ce: 0,
                oam_dropped: 0,
                drops: vec![0; DropReason::COUNT].into(),
                rate: link.rate,
                delay: link.delay,
                config: link.clone(),
            });
        }
        let alarms = Alarms::new(alarm_node_id(&config.node, config.boot_id), &config.transits, owned);
        let mut engine = Self {
            node: config.node,
            snapshot: config.snapshot,
            links,
            link_index,
            fib,
            alarms,
            wall_at_zero_ns: None,
            notices: VecDeque::new(),
            has_neighbours: !config.foreign_links.is_empty(),
            peers,
            transport,
            traces: Vec::new(),
            transfers: FxHashMap::default(),
            events: VecDeque::new(),
            urgent: VecDeque::new(),
            paused: Vec::new(),
            paths_due: now,
            mute: false,
        };
        for index in 0..engine.peers.len() {
            let peer = PeerId(index as u16);
            if let Some(state) = engine.transport.peer_mut(peer) {
                state.clock.stop(now);
            }
        }
        for index in 0..engine.links.len() {
            engine.links[index].egress.set_open(false);
            engine.hold_or_release(now, index);
        }
        Ok(engine)
    }

    /// Timers that are due: contacts, QUIC, liveness, alarms, retries, confirmations, traces.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.check_contacts(now);
        self.check_links(now);
        self.check_paths(now);
        self.transport.handle_timeout(now);
        self.service(now);
        self.retry(now);
        self.confirmations(now);
        self.close_unheard(now);
        self.send_alarms(now);
        self.poll_traces(now);
        self.say_paths(now);
    }

    /// Pull frames for one link while tokens and room last. Returns the number sent. To be called again before a sleep, once
    /// they are handed over: see [`Egress::pull`](crate::egress::Egress::pull).
    pub fn transmit<P: Port<Frame = F>>(&mut self, now: Nanos, link: LinkId, port: &mut P) -> usize {
        self.service(now);
        let Some(index) = self.index(link) else { return 0 };
        if !self.in_contact(now, index, port) {
            return 0;
        }
        self.oam_frames(now, index, port);
        let mut source = source::Source {
            transport: &mut self.transport,
            peers: &mut self.peers,
            events: &mut self.events,
            urgent: &mut self.urgent,
        };
        let runtime = &mut self.links[index];
        let before = heard_beyond(runtime.egress.counters());
        let sent = runtime.egress.pull(now, link, port, &mut source);
        if heard_beyond(runtime.egress.counters()) > before {
            runtime.liveness.sent(now);
        }
        self.transport.note_timeouts();
        sent
    }

    /// The next event for the gateways.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.urgent.pop_front() {
            return Some(event);
        }
        let event = self.events.pop_front()?;
        if let Event::Datagram { peer, .. } = event {
            self.peers[usize::from(peer.0)].datagrams.taken();
        }
        if self.events.len() < MAX_EVENTS_WAITING {
            for handle in self.paused.drain(..) {
                self.transport.mark_dirty(handle);
            }
        }
        if let Event::TransferEnded { id, .. } | Event::TransferShelved { id } = event
            && let Some(peer) = self.transfers.get(&id)
            && !self.peers[usize::from(peer.0)].relay.knows(id)
        {
            // The id may be used again, with another peer too.
            self.transfers.remove(&id);
        }
        Some(event)
    }

    /// Largest payload of a datagram to a peer in bytes; `None` = no such peer.
    #[must_use]
    pub fn max_datagram_bytes(&self, peer: PeerId) -> Option<usize> {
        self.peers.get(usize::from(peer.0)).map(|peer| peer.datagrams.max())
    }

    /// Events that wait. The worker asks before it takes, so that a full ring loses none.
    #[must_use]
    pub fn events_waiting(&self) -> usize {
        self.urgent.len() + self.events.len()
    }

    /// When `handle_timeout` or `transmit` has something to do next, if no frame or command comes before.
    #[must_use]
    pub fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        let links = self.links.iter().flat_map(|link| {
            let open = link.contacts.is_open();
            // What waits for room behind a full queue waits for its next frame to leave: asking sooner is asking in vain.
            let room = link.egress.oam_room() > 0;
            let pulled = if room && !link.oam_out.is_empty() { Some(now) } else { link.egress.next_wakeup(now) };
            let liveness = if room { link.liveness.next_timeout() } else { link.liveness.next_check() };
            let liveness = (open && link.carrier.is_ok()).then_some(liveness);
            [liveness, pulled.filter(|_| open), Some(link.contacts.next_edge()), link.next_look()]
        });
        let peers = self.peers.iter().flat_map(|peer| {
            [peer.retry[0].at, peer.retry[1].at, peer.relay.next_timeout(), Some(peer.alarm.next_timeout())]
        });
        let unheard = self.unheard().map(|(peer, waiting)| peer.clock.wakeup(waiting.until));
        let traces = self.traces.iter().map(|traced| Some(traced.trace.next_timeout()));
        let next = links
            .chain(peers)
            .chain(unheard)
            .chain(traces)
            .chain([self.transport.next_timeout(), Some(self.alarms.next_timeout())]);
        next.flatten().min().filter(|at| *at != Nanos::MAX)
    }

    /// Where connections and transfers of all peers stand, in words: for a test that fails.
    pub fn debug(&mut self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        for (i, p) in self.peers.iter().enumerate() {
            for lane in [Lane::Control, Lane::Bulk] {
                let h = self.transport.current(PeerId(i as u16), lane);
                if let Some(h) = h {
                    let all = self.transport.peer(PeerId(i as u16)).map(|p| p.config.name.clone());
                    let may = self.transport.may_feed(h);
                    if let Some(c) = self.transport.conn(h) {
                        let _ = writeln!(out, "{all:?} {lane:?} may_feed={may} stats={:?}", c.quic.stats());
                    }
                }
            }
            let _ = writeln!(out, "{}", p.relay.debug());
        }
        out
    }

    /// Give every queued frame back, at shutdown.
    pub fn drain<P: Port<Frame = F>>(&mut self, port: &mut P) {
        for link in &mut self.links {
            link.egress.drain(port);
        }
    }

    fn index(&self, link: LinkId) -> Option<usize> {
        self.link_index.get(usize::from(link.0)).copied().filter(|index| *index != usize::MAX)
    }

    fn mark_ready(&mut self, peer: PeerId, lane: Lane) {
        let Some(link) = self.peers.get(usize::from(peer.0)).map(|p| p.link) else { return };
        if let Some(index) = self.index(link) {
            let class = match lane {
                Lane::Control => Class::Control,
                Lane::Bulk => Class::Bulk,
            };
            self.links[index].egress.mark_ready(FlowKey::Peer(peer), class);
        }
    }

    fn queue_oam(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(index) = self.index(link) else { return };
        let link = &mut self.links[index];
        if link.oam_out.len() < MAX_OAM_WAITING && link.contacts.is_open() {
            link.oam_out.push_back(bytes.to_vec());
        } else {
            link.oam_dropped += 1;
        }
    }
}

/// For [`crate::fuzzing`].
impl<F: FrameBuf> Engine<F> {
    pub(crate) fn transport_mut(&mut self) -> &mut Transport {
        &mut self.transport
    }

    pub(crate) fn set_mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    pub(crate) fn touched(&mut self, peer: PeerId, handle: Handle, lane: Lane) {
        self.transport.mark_dirty(handle);
        self.mark_ready(peer, lane);
    }
}

fn liveness_seed(seed: &[u8; 32], link: LinkId) -> u64 {
    let hash = blake3::keyed_hash(seed, &link.0.to_be_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// Frames of paths that have left: the neighbour hears them as well as liveness.
fn heard_beyond(counters: &EgressCounters) -> u64 {
    counters.tx_frames[Class::Bulk.index()] + counters.tx_frames[Class::Control.index()]
}
