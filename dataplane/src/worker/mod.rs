//! The worker: one pinned thread that runs the engine of its links in bursts.
//!
//! ```text
//!  clock ─► receive ≤ 64 frames per queue, and per ring from another worker ─► engine ─► ≤ 64 commands ─► due timers
//!    ▲                                                                                             │
//!    └── spin | sleep in poll(2) ◄── kick adapters ◄── bells ◄── events, link states ◄── transmit per link
//! ```
//!
//! Invariants
//! - The clock is read once per burst (`Instant`: the vDSO, no syscall), and once more after a sleep.
//! - No lock, no allocation of ours and, on AF_XDP with work to do, no syscall but the kicks that the rings ask for.
//! - Whatever wakes the worker is one descriptor of one `poll`: AF_XDP, UDP and unix sockets, and the doorbell, which the gateway
//!   and other workers ring only if the worker has said that it is about to sleep.
//! - A full event ring holds events back in the engine; it loses none.
//!
//! Limits: recycling sockets and steering a moved VLAN call the broker from here, and stop the worker for that long.

pub(crate) mod frame;
pub(crate) mod ports;
mod report;
mod sleep;

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use florelay_engine::config::{EngineConfig, LinkId};
use florelay_engine::{Command, Engine, Nanos};
use florelay_xsk::poll::{ThreadedNapi, threaded_napi};
use florelay_xsk::{AdaptivePoll, Decision};

use self::frame::WorkerFrame;
use self::ports::{Ports, Sharing};
pub(crate) use self::report::{LinkAdapterReport, WorkerReport};
use crate::adapter::socket::SocketLink;
use crate::broker::SharedBroker;
use crate::crossing::{Crossed, Freight};
use crate::plan::{LinkPlan, PollMode, WorkerPlan};
use crate::ring::{FromWorker, GatewayBell, Rings, ToWorker};

/// Commands taken in one burst.
const COMMAND_BATCH: usize = 64;
/// Held sockets, watchdogs and frame accounts are looked after this often.
const HOUSEKEEPING_NS: u64 = 10_000_000;
/// Broken sockets are opened anew at most this often.
const RECYCLE_NS: u64 = 1_000_000_000;
/// A shorter wait is spun: `poll` with its timer slack (50 µs by default, prctl(2) PR_SET_TIMERSLACK) would overshoot.
const SPIN_BELOW_NS: u64 = 50_000;
/// How soon to look again at a full event ring: the gateway does not say when it has made room.
const FULL_RING_NS: u64 = 500_000;
/// First wait for completions that no descriptor announces; doubles while none come.
const COMPLETION_WAIT_NS: u64 = 200_000;

/// What a worker starts with.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) plan: WorkerPlan,
    pub(crate) engine: EngineConfig,
    pub(crate) links: Vec<(LinkId, LinkPlan, SocketLink)>,
    pub(crate) sharing: Sharing,
    /// What the engine is told before it does anything: contact plans.
    pub(crate) first: Vec<Command>,
    pub(crate) rings: Arc<Rings>,
    pub(crate) bell: GatewayBell,
    pub(crate) broker: SharedBroker,
    /// Zero of the node's clock.
    pub(crate) epoch: Instant,
}

/// Starts a worker's thread. It says once through `ready` how that went; adapters are made on the thread, in the network
/// namespace of the caller. `_alive` is dropped when the thread ends, however it ends.
///
/// # Errors
/// No thread.
pub(crate) fn start<T: Send + 'static>(
    setup: Setup,
    ready: Sender<Result<(), String>>,
    alive: T,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        let _alive = alive;
        match Worker::new(setup) {
            Ok(mut worker) => {
                let _ = ready.send(Ok(()));
                drop(ready);
                worker.run();
            }
            Err(reason) => {
                let _ = ready.send(Err(reason));
            }
        }
    })
}

#[derive(Debug, Default)]
struct Counters {
    loops: u64,
    sleeps: u64,
    /// `poll`, `read` of the doorbell, futex calls of the gateway's bell.
    syscalls: u64,
    rx_frames: u64,
    tx_frames: u64,
    events: u64,
    commands: u64,
}

struct Worker {
    index: usize,
    core: Option<usize>,
    poll: PollMode,
    engine: Engine<WorkerFrame>,
    ports: Ports,
    rings: Arc<Rings>,
    bell: GatewayBell,
    epoch: Instant,
    idle: AdaptivePoll,
    /// When the engine wants to be called.
    deadline: Option<Nanos>,
    housekeeping_at: u64,
    recycle_at: u64,
    /// What did not fit the event ring.
    report: Option<Box<WorkerReport>>,
    completion_wait_ns: u64,
    /// Interfaces whose NAPI was moved to threads for this worker: moved back at the end.
    threaded_napi: Vec<String>,
    broker: SharedBroker,
    counters: Counters,
    stopping: bool,
}

impl Worker {
    fn new(setup: Setup) -> Result<Self, String> {
        let Setup { index, plan, engine, links, sharing, first, rings, bell, broker, epoch } = setup;
        if let Some(core) = plan.core {
            pin(core).map_err(|reason| format!("worker {index} cannot be pinned to core {core}: {reason}"))?;
        }
        let ports = Ports::open(links, sharing, plan.poll == PollMode::Busy, broker.clone())?;
        let interfaces = ports.groups.iter().map(|group| &group.interface);
        let threaded_napi = match plan.poll {
            PollMode::ThreadedNapi => interfaces.filter(|interface| thread_napi(interface, &broker)).cloned().collect(),
            PollMode::Adaptive | PollMode::Busy => Vec::new(),
        };
        let now = nanos(epoch);
        let mut engine = Engine::new(engine, now).map_err(|error| format!("worker {index}: {error}"))?;
        for command in first.into_iter().chain(ports.first_commands()) {
            engine.handle_command(now, command);
        }
        Ok(Self {
            index,
            core: plan.core,
            poll: plan.poll,
            engine,
            ports,
            rings,
            bell,
            epoch,
            idle: AdaptivePoll::default(),
            deadline: Some(now),
            housekeeping_at: 0,
            recycle_at: 0,
            report: None,
            completion_wait_ns: COMPLETION_WAIT_NS,
            threaded_napi,
            broker,
            counters: Counters::default(),
            stopping: false,
        })
    }

    /// Until `ToWorker::Stop`.
    fn run(&mut self) {
        let mut busy = true;
        while !self.stopping {
            let now = nanos(self.epoch);
            let work = self.burst(now, busy);
            busy = work > 0;
            if self.poll == PollMode::Busy {
                busy = true;
                std::hint::spin_loop();
                continue;
            }
            self.wait(now, work);
        }
        self.engine.drain(&mut self.ports);
        self.ports.flush(nanos(self.epoch).0, true);
        for interface in &self.threaded_napi {
            if let Err(reason) = self.broker.lock().thread_napi(interface, false) {
                tracing::warn!(interface, reason, "threaded NAPI stays on");
            }
        }
    }

    /// One turn. `busy`: the last one had work, so UDP sockets are looked into without asking `poll` first. Returns how many
    /// frames and commands moved.
    fn burst(&mut self, now: Nanos, busy: bool) -> usize {
        self.counters.loops += 1;
        let (received, completed) = self.ports.receive(busy);
        self.counters.rx_frames += received as u64;
        let mut inbox = std::mem::take(&mut self.ports.inbox);
        for received in inbox.drain(..) {
            self.engine.handle_frame(now, received.link, received.frame, received.ecn, &mut self.ports);
        }
        self.ports.inbox = inbox;
        let crossed = self.crossed(now);

        let commands = self.commands(now);
        let due = self.deadline.is_some_and(|at| at <= now);
        if due {
            self.engine.handle_timeout(now);
        }
        let mut work = received + completed + crossed + commands;
        let mut sent = 0;
        // Nothing can have changed otherwise, except that a socket has room again.
        if work > 0 || due || busy {
            for link in 0..self.ports.links.len() {
                let id = self.ports.links[link].id;
                self.ports.begin(id);
                sent += self.engine.transmit(now, id, &mut self.ports);
            }
            self.deadline = self.engine.next_timeout(now);
        }
        self.counters.tx_frames += sent as u64;
        work += sent + self.events() + self.ports.flush(now.0, false);
        while let Some(notice) = self.engine.poll_notice() {
            self.ports.across.say(notice);
        }
        self.counters.syscalls += self.ports.across.ring_bells();
        if completed > 0 {
            self.completion_wait_ns = COMPLETION_WAIT_NS;
        }
        if now.0 >= self.housekeeping_at {
            self.housekeeping_at = now.0 + HOUSEKEEPING_NS;
            self.housekeeping(now);
        }
        work
    }

    /// Take what other workers have for this one: frames, and news of their links. Returns how much.
    fn crossed(&mut self, now: Nanos) -> usize {
        let mut count = self.ports.take_crossed();
        if count > 0 {
            let mut crossed = std::mem::take(&mut self.ports.crossed);
            for Crossed { freight, frame, ecn } in crossed.drain(..) {
                let (frame, ports) = (WorkerFrame::Heap(frame), &mut self.ports);
                match freight {
                    Freight::Received(link) => self.engine.handle_frame(now, link, frame, ecn, ports),
                    Freight::Transit(crossing) => self.engine.handle_crossing(crossing, frame, ecn, ports),
                }
            }
            self.ports.crossed = crossed;
        }
        let engine = &mut self.engine;
        self.ports.across.hear(|notice| {
            count += 1;
            engine.handle_notice(now, notice);
        });
        count
    }

    /// Returns how many were taken.
    fn commands(&mut self, now: Nanos) -> usize {
        for taken in 0..COMMAND_BATCH {
            let Some(command) = self.rings.urgent.pop().or_else(|| self.rings.commands.pop()) else { return taken };
            self.counters.commands += 1;
            match command {
                ToWorker::Engine(command) => self.engine.handle_command(now, command),
                ToWorker::NextHop(link, hop) => {
                    if let Some(command) = self.ports.next_hop(LinkId(link), hop) {
                        self.engine.handle_command(now, command);
                    }
                }
                ToWorker::Report => self.report = Some(Box::new(self.make_report(now))),
                ToWorker::Stop => self.stopping = true,
            }
        }
        COMMAND_BATCH
    }

    /// Move events into the ring while it has room. Returns how many.
    fn events(&mut self) -> usize {
        let events = &self.rings.events;
        let mut pushed = 0;
        // This thread alone pushes, so room that was seen stays.
        while !events.is_full() {
            // A report comes behind the events that led to what it says.
            let message = match self.engine.poll_event() {
                Some(event) => FromWorker::Event(event),
                None => match self.report.take() {
                    Some(report) => FromWorker::Report(report),
                    None => break,
                },
            };
            if events.push(message).is_err() {
                break;
            }
            pushed += 1;
        }
        if pushed > 0 {
            self.counters.events += pushed as u64;
            self.counters.syscalls += u64::from(self.bell.ring());
        }
        pushed
    }

    fn housekeeping(&mut self, now: Nanos) {
        let recycle = now.0 >= self.recycle_at;
        let commands = self.ports.housekeeping(now.0, recycle);
        if !commands.is_empty() {
            self.recycle_at = now.0 + RECYCLE_NS;
        }
        for command in commands {
            self.engine.handle_command(now, command);
            self.deadline = Some(now);
        }
    }

    /// After a burst: spin or sleep.
    fn wait(&mut self, now: Nanos, work: usize) {
        let held_back = self.report.is_some() || self.engine.events_waiting() > 0;
        let mut timer =
            [self.deadline.map(|at| at.0), self.ports.deadline_ns(), held_back.then_some(now.0 + FULL_RING_NS)]
                .into_iter()
                .flatten()
                .min();
        if self.ports.outstanding() > 0 {
            let look = now.0 + self.completion_wait_ns;
            timer = Some(timer.map_or(look, |at| at.min(look)));
        }
        match self.idle.decide(now.0, work, timer) {
            Decision::Sleep(until) if until > now.0 + SPIN_BELOW_NS => self.sleep(now, until),
            _ if work == 0 && self.ports.links.iter().any(|link| link.lane.is_none()) => {
                // A socket's arrivals show in no ring: one `poll` asks for all of them.
                self.poll(Duration::ZERO);
            }
            _ => std::hint::spin_loop(),
        }
    }

    fn sleep(&mut self, now: Nanos, until: u64) {
        self.ports.flush(now.0, true);
        if self.ports.outstanding() > 0 {
            self.completion_wait_ns = (self.completion_wait_ns * 2).min(florelay_xsk::poll::SLEEP_MAX_NS);
        }
        self.rings.doorbell.about_to_sleep();
        if self.rings.commands.is_empty() && self.rings.urgent.is_empty() && self.ports.across.is_quiet() {
            self.counters.sleeps += 1;
            self.poll(Duration::from_nanos(until - now.0));
        } else {
            self.rings.doorbell.awake(false);
        }
    }

    fn make_report(&mut self, now: Nanos) -> WorkerReport {
        let (kicks, adapter_syscalls) = self.ports.syscalls();
        let counters = &self.counters;
        let mut all = vec![
            ("loops", counters.loops),
            ("sleeps", counters.sleeps),
            ("kicks", kicks),
            ("syscalls", counters.syscalls + adapter_syscalls),
            ("rx_frames", counters.rx_frames),
            ("tx_frames", counters.tx_frames),
            ("commands", counters.commands),
            ("events", counters.events),
            ("heap_frames", self.ports.heap.total() as u64),
            ("heap_frames_free", self.ports.heap.available() as u64),
        ];
        all.extend(self.ports.group_counters());
        all.extend(self.ports.ring_counters());
        WorkerReport {
            index: self.index,
            core: self.core,
            engine: self.engine.status(),
            contacts: self.engine.contacts(now),
            conditions: self.engine.conditions(now),
            frames: self.ports.account(),
            links: self.ports.link_reports(),
            counters: all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }
}

/// Move an interface's NAPI to threads. `false`: it is there already, or cannot be; the worker polls adaptively all the same.
fn thread_napi(interface: &str, broker: &SharedBroker) -> bool {
    if threaded_napi(interface) != ThreadedNapi::Off {
        return false;
    }
    let result = broker.lock().thread_napi(interface, true);
    if let Err(reason) = &result {
        tracing::warn!(interface, reason, "no threaded NAPI");
    }
    result.is_ok()
}

fn pin(core: usize) -> Result<(), String> {
    // Asked first: a number beyond the system's set of CPUs must not reach it.
    let cores: Vec<_> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    if cores.contains(&core) && core_affinity::set_for_current(CoreId { id: core }) {
        return Ok(());
    }
    Err(format!("this process may run on cores {cores:?}"))
}

fn nanos(epoch: Instant) -> Nanos {
    Nanos(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
