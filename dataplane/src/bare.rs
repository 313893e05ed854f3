//! The transport without the node around it, for the benchmarks: a dataplane whose gateway has no files. Not an interface;
//! nothing else may use it.
//!
//! ```text
//!   a source ─ pieces out of memory ─► rings ─► worker ═ link ═ worker ─► rings ─► a sink ─ looks at the length, drops it
//! ```
//!
//! The same: worker, engine, adapter, rings with their bells, the gateway's thread and its turns, pieces of the size that the
//! gateway reads, a confirmation for every batch of events, an offer that is accepted and an end that is confirmed.
//!
//! Left out: the control process and its requests, progress, reading, BLAKE3 at both ends (the digest is a made-up one that
//! nobody compares), gathering and writing, syncing and renaming, the book of transfers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use florelay_engine::api::{Kept, PeerState, TransferId, TransferMeta};
use florelay_engine::config::PeerId;
use florelay_engine::{Command, Event};

use crate::daemon::{Daemon, DaemonError, DaemonOptions, Front, Prepared};
use crate::gateway::Input;
use crate::plan::Rung;
use crate::ring::{FromWorker, GatewayBell, Rings, ToWorker};
use crate::worker::WorkerReport;

/// As the gateway's.
const EVENT_BATCH: usize = 256;
/// As the gateway's of one file that is ready alone.
const SUPPLY_BATCH: usize = 2;
/// Bytes supplied at a time; as the gateway's.
pub const PIECE_BYTES: u64 = 64 << 10;
/// As the gateway's.
const IDLE_WAIT: Duration = Duration::from_millis(50);

const PEER: PeerId = PeerId(0);
const ID: TransferId = TransferId(1);

/// What an end does with a transfer.
pub enum Work {
    /// Sends so many bytes to peer 0 once it is connected. The pieces: what is from an offset up to an end, at most
    /// [`PIECE_BYTES`], or less, but not nothing.
    Source(u64, Box<dyn FnMut(u64, u64) -> Bytes + Send>),
    /// Takes the first that is offered.
    Sink,
}

/// A transfer at one end.
#[derive(Debug, Clone)]
pub struct Moved {
    /// From the offer to its end as this end hears of it.
    pub took: Duration,
    /// Bytes that passed this end.
    pub bytes: u64,
    /// Frames that the neighbour sent and this end never saw, by link 0's sequence numbers, since the start.
    pub frames_lost: u64,
    /// Rung of link 0.
    pub rung: Rung,
}

/// Starts such a dataplane of one worker; what came of its transfer is said once to `outcome`. It stops as any other.
///
/// # Errors
/// Any [`DaemonError`].
pub fn start(
    options: DaemonOptions,
    work: Work,
    outcome: Sender<Result<Moved, String>>,
) -> Result<Daemon, DaemonError> {
    Daemon::start_behind(Prepared::new(options)?, Front::Bare(Bare::new(work, outcome)))
}

/// See the module.
pub(crate) struct Bare {
    work: Work,
    outcome: Sender<Result<Moved, String>>,
    began: Option<Instant>,
    /// Supplied, or received.
    next: u64,
    limit: u64,
    end_said: bool,
    /// Received since the last confirmation.
    unconfirmed: bool,
    ended: Option<Result<Duration, String>>,
    backlog: VecDeque<ToWorker>,
    stopping: bool,
}

impl Bare {
    fn new(work: Work, outcome: Sender<Result<Moved, String>>) -> Self {
        Self {
            work,
            outcome,
            began: None,
            next: 0,
            limit: 0,
            end_said: false,
            unconfirmed: false,
            ended: None,
            backlog: VecDeque::new(),
            stopping: false,
        }
    }

    /// Until `Input::Stop`.
    pub(crate) fn run(mut self, workers: &[Arc<Rings>], inputs: &Receiver<Input>, bell: &GatewayBell) {
        let [rings] = workers else {
            let _ = self.outcome.send(Err("the bare transport is for one worker".to_owned()));
            return;
        };
        while !self.stopping {
            let mut busy = false;
            while let Ok(input) = inputs.try_recv() {
                busy = true;
                self.input(input);
            }
            busy |= self.events(rings);
            busy |= self.supply();
            busy |= self.flush(rings);
            if !busy {
                bell.about_to_park();
                // Inputs ring after they are sent: one that comes now unparks.
                match inputs.try_recv() {
                    Ok(input) => self.input(input),
                    Err(_) if rings.events.is_empty() => std::thread::park_timeout(IDLE_WAIT),
                    Err(_) => {}
                }
                bell.awake();
            }
        }
        self.backlog.push_back(ToWorker::Stop);
        self.flush(rings);
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::NextHop(link, hop) => self.backlog.push_back(ToWorker::NextHop(link, hop)),
            Input::Stop => self.stopping = true,
            // There is nobody who asks.
            _ => {}
        }
    }

    fn tell(&mut self, command: Command) {
        self.backlog.push_back(ToWorker::Engine(command));
    }

    fn flush(&mut self, rings: &Rings) -> bool {
        let mut moved = false;
        while let Some(message) = self.backlog.pop_front() {
            if let Err(message) = rings.commands.push(message) {
                self.backlog.push_front(message);
                break;
            }
            moved = true;
        }
        if moved {
            rings.doorbell.ring();
        }
        moved
    }

    fn events(&mut self, rings: &Rings) -> bool {
        let mut any = false;
        for _ in 0..EVENT_BATCH {
            let Some(event) = rings.events.pop() else { break };
            any = true;
            match event {
                FromWorker::Event(event) => self.event(event),
                FromWorker::Report(report) => self.report(&report),
            }
        }
        if std::mem::take(&mut self.unconfirmed) {
            let offset = self.next;
            self.tell(Command::Written { id: ID, offset });
            self.tell(Command::Synced { id: ID, offset });
        }
        any
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Peer { state: PeerState::Connected, .. } => self.offer(),
            Event::SupplyFrom { id: ID, offset } => {
                (self.next, self.limit, self.end_said) = (offset, offset, false);
            }
            Event::SupplyUpTo { id: ID, limit } => self.limit = limit,
            Event::Offered { id: ID, .. } => {
                self.began.get_or_insert_with(Instant::now);
                self.tell(Command::Accept { id: ID, offset: self.next });
            }
            Event::Data { id: ID, offset, data } => {
                if offset == self.next {
                    self.next += data.len() as u64;
                    self.unconfirmed = true;
                } else {
                    self.end(Err(format!("bytes of {offset} instead of {}", self.next)));
                }
            }
            Event::DataEnd { id: ID, .. } => self.tell(Command::Complete { id: ID, result: Ok(()) }),
            Event::TransferEnded { id: ID, result, .. } => {
                let took = self.began.map(|began| began.elapsed()).unwrap_or_default();
                self.end(result.map(|()| took).map_err(|failure| failure.to_string()));
            }
            _ => {}
        }
    }

    fn offer(&mut self) {
        let Work::Source(size, _) = self.work else { return };
        if self.began.is_none() {
            self.began = Some(Instant::now());
            let name = "bare".to_owned();
            let meta = TransferMeta { name, size: Some(size), declared: None, priority: 0, attributes: Vec::new() };
            self.tell(Command::Send { peer: PEER, id: ID, meta, kept: Kept::default() });
        }
    }

    fn supply(&mut self) -> bool {
        let Work::Source(size, pieces) = &mut self.work else { return false };
        let mut any = false;
        for _ in 0..SUPPLY_BATCH {
            // Back-pressure: a worker that does not keep up is not supplied.
            if self.end_said || self.began.is_none() || !self.backlog.is_empty() {
                break;
            }
            let (size, offset) = (*size, self.next);
            let command = if offset == size {
                self.end_said = true;
                Command::SupplyEnd { id: ID, size, digest: [0; 32] }
            } else {
                // Whole pieces, as the gateway.
                let end = (offset / PIECE_BYTES + 1).saturating_mul(PIECE_BYTES).min(size);
                if end > self.limit {
                    break;
                }
                let data = pieces(offset, end);
                self.next += data.len() as u64;
                Command::Supply { id: ID, offset, data }
            };
            self.backlog.push_back(ToWorker::Engine(command));
            any = true;
        }
        any
    }

    fn end(&mut self, ended: Result<Duration, String>) {
        if self.ended.is_none() {
            self.ended = Some(ended);
            self.backlog.push_back(ToWorker::Report);
        }
    }

    fn report(&mut self, report: &WorkerReport) {
        let Some(ended) = self.ended.clone() else { return };
        let outcome = ended.and_then(|took| {
            let lost = report.engine.links.first().map(|link| link.rx_lost);
            let rung = report.links.first().map(|link| link.rung);
            let (frames_lost, rung) = lost.zip(rung).ok_or("the worker reports no link")?;
            Ok(Moved { took, bytes: self.next, frames_lost, rung })
        });
        // Whoever has gone does not want to know.
        let _ = self.outcome.send(outcome);
    }
}
