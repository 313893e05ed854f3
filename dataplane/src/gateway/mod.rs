//! The gateway thread: files, streams, command messages, and the answers to the control process. May make syscalls, so that
//! workers need not.
//!
//! ```text
//!   control ─ ipc thread ─► inputs ─► gateway ─► ToWorker ring ─► worker
//!           ◄─ replies ◄───────────── gateway ◄─ FromWorker ring ◄─ worker
//!                                      ├► pipes thread (programs that write and read streams)
//!                                      ├► spool thread (segments of streams: append, sync, read back)
//!                                      ├► opener, syncer and finisher threads (partial files: hash again; fsync; check, rename)
//!                                      └► book thread (what there is, and how far it is: one commit for many changes)
//! ```
//!
//! One thread serves all transfers in turns of one chunk; what may block for long (fsync) is the finisher's.

mod book;
mod clock;
mod disk;
mod events;
mod files;
mod finished;
mod incoming;
pub(crate) mod ipc_server;
mod journal;
mod kept;
mod log;
mod orders;
mod outgoing;
mod paths;
mod pieces;
mod pipes;
mod queue;
mod replies;
mod reports;
mod requests;
mod spooler;
mod start;
mod strangers;
mod streams;
mod tell;
#[cfg(test)]
mod testing;
mod transfers;
mod turns;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use florelay_engine::api::{FailCode, Failure, TransferId};
use florelay_engine::config::{LinkId, PeerId, RatePlan};
use florelay_engine::{Command, Event};
use florelay_spool::book::Progress;
use florelay_spool::spooled::News as Spooled;

use self::disk::{Finishing, Open, Opened, Opening, Slow};
use self::incoming::{IncomingFile, Syncing};
use self::kept::Kept;
use self::log::MessageLog;
use self::orders::Orders;
use self::outgoing::OutgoingFile;
pub(crate) use self::paths::KnownPaths;
use self::pieces::Pieces;
use self::pipes::{News, PipeId};
pub(crate) use self::replies::Replies;
use self::strangers::Strangers;
use self::streams::Streams;
use self::transfers::Transfers;
use self::turns::Turns;
use crate::adapter::share::workers_on;
use crate::broker::SharedBroker;
use crate::contacts::Contacts;
use crate::ipc::{Answer, Request, Response};
use crate::netlink::NextHop;
use crate::plan::NodePlan;
use crate::ring::{FromWorker, GatewayBell, Rings, ToWorker};
use crate::worker::WorkerReport;

/// Progress is reported to watchers this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// The gateway looks around at least this often.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// Events taken from one worker before the others have their turn.
const EVENT_BATCH: usize = 256;
/// What only reports of workers show is looked at this often while somebody wants to hear of it.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Partial files of forgotten transfers are looked for this often, and at the start.
const SWEEP_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// What other threads say to the gateway.
pub(crate) enum Input {
    /// A request, perhaps with a descriptor, and where its answers go.
    Request(Request, Option<OwnedFd>, Replies),
    /// A link's next hop, from netlink.
    NextHop(u16, Result<NextHop, Arc<str>>),
    /// The opener has looked at an offer.
    Opened(Box<Opening>, Opened),
    /// The finisher is through with a received file.
    Finished(TransferId, Result<PathBuf, Failure>),
    /// The syncer is through with a partial file of this name.
    FileSynced(TransferId, String, Result<Progress, Failure>),
    /// So much of a partial file is on the disk, and the book has it; or the book has a new order.
    Synced(TransferId, u64),
    /// The book has the end of a transfer with this peer.
    EndBooked {
        peer: String,
        id: TransferId,
        /// It is an own one.
        own: bool,
        /// The peer may have given it up, and hears.
        tell: bool,
    },
    /// The book has a stream's end, which its reader has taken.
    Taken(TransferId),
    /// What became of a stream's segments.
    Spool(TransferId, Spooled),
    /// What became of a program's pipe.
    Pipe(PipeId, News),
    /// The finisher has hashed a file that the receiver has already.
    Hashed(TransferId, Result<[u8; 32], Failure>),
    /// Stop.
    Stop,
}

/// What is to become of a partial file that the opener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Accept,
    /// Its sender has forgotten it.
    Keep,
}

/// An offer that the opener has.
struct InOpener {
    /// Tells it from an earlier one of the same transfer that the opener still has.
    number: u64,
    wanted: Wanted,
    worker: usize,
    peer: PeerId,
}

pub(crate) struct Gateway {
    plan: Arc<NodePlan>,
    started: Instant,
    workers: Vec<Arc<Rings>>,
    /// Commands that did not fit a ring, by worker.
    backlog: Vec<VecDeque<ToWorker>>,
    /// The same of command messages: they do not wait behind the bytes of files.
    urgent: Vec<VecDeque<ToWorker>>,
    inputs: Receiver<Input>,
    bell: GatewayBell,
    outgoing: BTreeMap<TransferId, OutgoingFile>,
    /// Those of them that have something to do.
    turns: Turns,
    pieces: Pieces,
    incoming: HashMap<TransferId, IncomingFile>,
    /// Transfers with gathered bytes that are not written yet, and their workers.
    touched: Vec<(usize, TransferId)>,
    streams: Streams,
    transfers: Transfers,
    orders: Orders,
    /// Digests of received files that the finisher has.
    digests: HashMap<TransferId, [u8; 32]>,
    messages: HashMap<u64, (u64, Replies)>,
    traces: HashMap<u64, (u64, Replies)>,
    next_number: u64,
    status_waiters: Vec<(u64, Replies)>,
    /// The workers were asked for reports that are not all here yet.
    reports_asked: bool,
    reports: Vec<Option<Box<WorkerReport>>>,
    rates: Vec<RatePlan>,
    contacts: Contacts,
    log: MessageLog<(usize, PeerId)>,
    paths: KnownPaths,
    /// Datagrams for which there was no application, by peer.
    untaken: Vec<u64>,
    opener: Sender<Open>,
    /// Offers that the opener has, of each transfer the last.
    opening: HashMap<TransferId, InOpener>,
    strangers: Strangers,
    finisher: Sender<Slow>,
    syncer: Sender<Syncing>,
    kept: Kept,
    /// Files that the finisher has.
    finishing: HashSet<TransferId>,
    broker: SharedBroker,
    stopping: bool,
}

impl Gateway {
    /// Until `Input::Stop`.
    pub(crate) fn run(&mut self) {
        let mut progress_due = Instant::now();
        let (mut sweep_due, mut report_due) = (progress_due, progress_due);
        while !self.stopping {
            let mut busy = false;
            while let Ok(input) = self.inputs.try_recv() {
                busy = true;
                self.input(input);
            }
            for worker in 0..self.workers.len() {
                busy |= self.events(worker);
            }
            busy |= self.supply() | self.supply_streams();
            for worker in 0..self.workers.len() {
                busy |= self.flush(worker);
            }
            let now = Instant::now();
            if now >= progress_due {
                progress_due = now + PROGRESS_INTERVAL;
                self.follow_deadlines(crate::wall::now_unix_ns());
                self.miss_writers(now);
                self.miss_readers(now);
                self.look_at_receivers();
                self.sync_files(now);
                self.transfers.tell_progress();
                self.settle();
                // What a full disk did not take is tried again.
                self.log_messages();
                self.follow_wall_clock();
                self.paths.poll(now);
            }
            if now >= report_due {
                report_due = now + REPORT_INTERVAL;
                if self.has_subscribers() {
                    self.ask_for_reports();
                }
            }
            if now >= sweep_due {
                sweep_due = now + SWEEP_INTERVAL;
                self.sweep();
            }
            if !busy {
                self.park();
            }
        }
        for worker in 0..self.workers.len() {
            self.tell_worker(worker, ToWorker::Stop);
            self.flush(worker);
        }
        self.paths.write(true);
        self.streams.flush();
        self.kept.close();
    }

    fn park(&mut self) {
        self.bell.about_to_park();
        let waiting = self.workers.iter().any(|rings| !rings.events.is_empty());
        if !waiting && let Ok(input) = self.inputs.try_recv() {
            self.bell.awake();
            self.input(input);
            return;
        }
        if !waiting {
            std::thread::park_timeout(IDLE_WAIT);
        }
        self.bell.awake();
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Request(request, descriptor, replies) => self.request(request, descriptor, &replies),
            Input::NextHop(link, hop) => {
                // All workers of the interface: the link's frames may arrive on any one's queues.
                for worker in workers_on(&self.plan, usize::from(link)) {
                    self.tell_worker(worker, ToWorker::NextHop(link, hop.clone()));
                }
            }
            Input::Opened(opening, result) => self.opened(&opening, result),
            Input::Finished(id, result) => {
                self.finishing.remove(&id);
                if let Ok(path) = &result {
                    self.transfers.arrived(id, path);
                    tracing::info!(transfer = %uuid::Uuid::from_u128(id.0), path = %path.display(), "received");
                }
                self.tell_transfer(id, Command::Complete { id, result: result.map(|_| ()) });
            }
            Input::Hashed(id, result) => self.hashed(id, result),
            Input::FileSynced(id, name, result) => self.file_synced(id, name, result),
            Input::Synced(id, offset) => self.booked(id, offset),
            Input::EndBooked { peer, id, own, tell } => self.end_booked(&peer, id, own, tell),
            Input::Taken(id) => self.tell_transfer(id, Command::Complete { id, result: Ok(()) }),
            Input::Spool(id, news) => self.spool_news(id, news),
            Input::Pipe(pipe, news) => self.pipe_news(pipe, news),
            Input::Stop => self.stopping = true,
        }
        self.settle();
    }

    /// Write received command messages, and let them be acknowledged.
    fn log_messages(&mut self) {
        let mut written = Vec::new();
        self.log.write_out(|peer, id| written.push((peer, id)));
        for ((worker, peer), id) in written {
            self.tell_urgently(worker, Command::MessageWritten { peer, id });
        }
    }

    /// Take a worker's events. Says whether there were any.
    fn events(&mut self, worker: usize) -> bool {
        let rings = self.workers[worker].clone();
        let mut any = false;
        for _ in 0..EVENT_BATCH {
            let Some(event) = rings.events.pop() else { break };
            any = true;
            match event {
                FromWorker::Event(event) => self.event(worker, event),
                FromWorker::Report(report) => self.report(worker, report),
            }
        }
        self.log_messages();
        self.write_out();
        self.settle();
        any
    }

    fn event(&mut self, worker: usize, event: Event) {
        if self.is_strangers(worker, &event) || self.stream_event(&event) {
            return;
        }
        match event {
            Event::SupplyFrom { id, .. } | Event::SupplyUpTo { id, .. } => {
                if let Some(file) = self.outgoing.get_mut(&id) {
                    file.event(&event);
                    self.turns.set(worker, id, file.is_ready());
                } else {
                    self.kept.supply_later(id, event);
                }
            }
            Event::Confirmed { id, offset } => {
                self.transfers.confirmed(id, offset);
                self.kept.confirmed(id, offset, self.outgoing.get(&id));
            }
            Event::GivenUp { id } => self.given_up(id),
            Event::Heard { peer, id, own } => self.end_heard(peer, id, own),
            Event::TransferEnded { id, result, wire_bytes } => {
                self.transfers.wire_bytes(id, wire_bytes);
                if self.streams.knows(id) { self.stream_ended(id, result) } else { self.ended(worker, id, result) }
            }
            Event::Offered { peer, id, meta } if meta.size.is_none() => self.stream_offered(worker, peer, id, &meta),
            Event::Offered { peer, id, meta } => self.offered(worker, peer, id, meta),
            Event::Data { id, offset, data } => {
                let Some(file) = self.incoming.get_mut(&id) else { return };
                let result = file.write(offset, &data);
                if !self.touched.contains(&(worker, id)) {
                    self.touched.push((worker, id));
                }
                if let Err(failure) = result {
                    self.tell_worker(worker, ToWorker::Engine(Command::Cancel { id, failure }));
                }
            }
            Event::DataEnd { id, size, digest } => {
                self.write_out();
                if let Some(file) = self.incoming.remove(&id) {
                    let from = self.transfers.peer_of(id).unwrap_or_default().to_owned();
                    self.digests.insert(id, digest);
                    self.finishing.insert(id);
                    let synced = self.kept.synced(&from, id);
                    let finishing = Finishing { file, from, id, size, digest, synced };
                    // The finisher lives as long as the gateway.
                    let _ = self.finisher.send(Slow::Finish(Box::new(finishing)));
                }
            }
            Event::TransferShelved { id } if self.streams.knows(id) => {
                let reason = "its sender was restarted and does not know it any more";
                self.stream_ended(id, Err(Failure::new(FailCode::Forgotten, reason)));
            }
            Event::TransferShelved { id } => self.shelved(id),
            Event::Message { peer, id, payload } => {
                let name = self.plan.peers.get(usize::from(peer.0)).map_or("?", |peer| &peer.name);
                self.log.append((worker, peer), name, id, payload);
            }
            // No application has a port here yet.
            Event::Datagram { peer, .. } => {
                if let Some(count) = self.untaken.get_mut(usize::from(peer.0)) {
                    *count += 1;
                }
            }
            // Nor has one sent any.
            Event::DatagramRefused { .. } => {}
            Event::MessageAcked { id, rtt } => {
                if let Some((tag, replies)) = self.messages.remove(&id) {
                    reply(&replies, tag, Answer::Message { rtt_ns: nanos(rtt) });
                }
            }
            Event::MessageFailed { id, reason } => {
                if let Some((tag, replies)) = self.messages.remove(&id) {
                    reply(&replies, tag, Answer::Failed(reason));
                }
            }
            Event::Path { peer, memory } => {
                self.paths.measured(&self.plan, peer, &memory, crate::wall::now_unix_ns());
            }
            Event::TraceHop { token, hop, node, rtt, last } => {
                if let Some((tag, replies)) = self.traces.get(&token) {
                    reply(replies, *tag, Answer::Hop { hop, node, rtt_ns: nanos(rtt), last });
                }
                if last {
                    self.traces.remove(&token);
                }
            }
            Event::Link { link, state } => {
                let name = self.plan.links.get(usize::from(link.0)).map_or("?", |link| &link.name);
                tracing::info!(link = name, ?state, "link");
                let name = name.to_owned();
                self.link_changed(&name, &state);
            }
            Event::Peer { peer, state } => {
                let Some(plan) = self.plan.peers.get(usize::from(peer.0)) else { return };
                tracing::info!(peer = plan.name, ?state, "peer");
                let name = plan.name.clone();
                self.transfers.peer_state(&name, state == florelay_engine::api::PeerState::Connected);
                self.peer_changed(&name, &state);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn peer(&self, name: &str) -> Result<PeerId, String> {
        peer_index(&self.plan, name).ok_or_else(|| {
            let known: Vec<_> = self.plan.peers.iter().map(|peer| peer.name.as_str()).collect();
            format!("no peer `{name}`; this node knows: {}", known.join(", "))
        })
    }

    fn link(&self, name: &str) -> Result<LinkId, String> {
        let index = self.plan.links.iter().position(|link| link.name == name);
        index.map(|index| LinkId(index as u16)).ok_or_else(|| {
            let known: Vec<_> = self.plan.links.iter().map(|link| link.name.as_str()).collect();
            format!("no link `{name}`; this node has: {}", known.join(", "))
        })
    }
}

fn peer_index(plan: &NodePlan, name: &str) -> Option<PeerId> {
    plan.peers.iter().position(|peer| peer.name == name).map(|index| PeerId(index as u16))
}

fn peer_worker(plan: &NodePlan, peer: PeerId) -> usize {
    plan.peers
        .get(usize::from(peer.0))
        .and_then(|peer| plan.links.get(usize::from(peer.link)))
        .map_or(0, |link| link.worker)
}

fn reply(replies: &Replies, tag: u64, body: Answer) {
    // A client that has gone wants no answer.
    let _ = replies.send(Response { tag, body });
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
