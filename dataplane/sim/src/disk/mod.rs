//! A gateway with disks: the storage code of [`florelay_spool`] over its simulated disks, with what the dataplane's gateway does
//! around it. Threads that wait for a disk become queues with a delay, so each call still comes in its order; a process dies in
//! the middle of any of them.
//!
//! ```text
//!   programs and people      orders, writers with what is not accepted, what they were told      outlive the node
//!   Process                  queues of book, spool, opener, syncer, finisher; all memory         gone with a kill
//!   state, inbox, files      book and segments; received files; files that are sent              gone in part with a power cut
//! ```
//!
//! Shared with the dataplane: `book`, `spooled`, `segments`, `tail`, `arriving`, `partial`, `outgoing`. Mirrored, in the order of its
//! steps: what goes into the book and when (`kept`), offers and ends of files (`files`, `disk`), the memory of what has arrived
//! (`finished`). What people and programs were told is checked whenever something more is said.

mod file_out;
mod keeping;
mod process;
mod receiving;
mod sending;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use florelay_engine::api::{Command, Event, FailCode, TransferId};
use florelay_engine::config::PeerId;
use florelay_engine::time::Nanos;
use florelay_spool::spooled::Limits;
use florelay_spool::storage::{Faults, SimStorage};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::process::Process;
use crate::gateway::Pace;

pub use self::sending::Program;
pub use self::told::Told;

/// In how many of a hundred starts the process dies again before it is through with it.
const DIES_AGAIN_PERCENT: u32 = 30;
/// Calls of a disk that a start makes, about.
const START_CALLS: u64 = 60;

/// How the disks of a node do.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Each thing takes a random part of this.
    pub delay: Duration,
    /// Of 100 writes so many are short.
    pub short_writes_percent: u8,
    /// What streams may have of the disk.
    pub limits: Limits,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// kill -9.
    Kill,
    /// Power cut.
    PowerCut,
}

/// The gateway of one node that has one peer.
#[derive(Debug)]
pub struct DiskGateway {
    /// STATE-DIR.
    pub state: SimStorage,
    /// The inbox.
    pub inbox: SimStorage,
    /// Where the files are that are sent.
    pub files: SimStorage,
    peer: PeerId,
    behaviour: Behaviour,
    rng: SmallRng,
    /// Time zero.
    epoch: Instant,
    boot: u32,
    death: Death,
    /// What users asked for, with what they were told of it.
    pub programs: BTreeMap<TransferId, Program>,
    /// What was told of received files.
    pub received: BTreeMap<TransferId, Told>,
    /// Transfers of which a disk has lost bytes for good.
    pub spoiled: BTreeSet<TransferId>,
    /// Received files whose arrival the book did not take.
    pub unrecorded: BTreeSet<TransferId>,
    /// Something has gone wrong on the inbox' disk.
    pub inbox_failed: bool,
    /// Starts so far that the disk has ended.
    pub deaths_at_start: u64,
    process: Option<Process>,
}

impl DiskGateway {
    /// With empty disks.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn new(seed: u64, peer: PeerId, behaviour: Behaviour) -> Self {
        let mut gateway = Self {
            state: SimStorage::new(seed),
            inbox: SimStorage::new(!seed),
            files: SimStorage::new(seed),
            peer,
            behaviour,
            rng: SmallRng::seed_from_u64(seed),
            epoch: Instant::now(),
            boot: 0,
            death: Death::Kill,
            programs: BTreeMap::new(),
            received: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            unrecorded: BTreeSet::new(),
            inbox_failed: false,
            deaths_at_start: 0,
            process: None,
        };
        assert!(gateway.start(Nanos::ZERO, &mut Vec::new()), "an empty disk");
        gateway
    }

    /// A user sends a file of this size.
    pub fn send_file(&mut self, now: Nanos, id: TransferId, size: u64, commands: &mut Vec<Command>) {
        self.files.put(&sending::path_of(id), &crate::gateway::content(id, 0, size as usize));
        self.programs.insert(id, Program::file(size));
        self.order(now, id, commands);
    }

    /// A program writes a stream of this size at this pace.
    pub fn send_stream(&mut self, now: Nanos, id: TransferId, size: u64, pace: Pace, commands: &mut Vec<Command>) {
        self.programs.insert(id, Program::stream(size, pace));
        self.order(now, id, commands);
    }

    /// From the `calls`-th call of one of its disks on the process is dead, and ends so.
    pub fn arm(&mut self, death: Death, calls: u64) {
        self.death = death;
        let disk = if self.rng.random_bool(0.6) { &self.state } else { &self.inbox };
        disk.set_faults(Faults { die_call: Some(calls), ..disk.faults() });
    }

    /// It dies now.
    pub fn die(&mut self, death: Death) {
        self.death = death;
        self.process = None;
    }

    /// A file of the spool, of the inbox or among those that are sent goes bad for good; the `number`-th of them.
    pub fn spoil(&mut self, number: usize) {
        let hex = |name: &str| u128::from_str_radix(&name.replace('-', ""), 16).ok().map(TransferId);
        let mut candidates = Vec::new();
        for (disk, storage) in [&self.state, &self.inbox, &self.files].into_iter().enumerate() {
            for path in storage.names() {
                let text = path.to_string_lossy();
                let name = match disk {
                    0 => text.strip_prefix("spool/").and_then(|rest| rest.split('/').next()),
                    1 => text.strip_prefix(receiving::PARTIAL_PREFIX),
                    _ => text.strip_prefix("files/"),
                };
                candidates.extend(name.and_then(hex).map(|id| (storage.clone(), path.clone(), id)));
            }
        }
        if let Some((storage, path, id)) = candidates.get(number % candidates.len().max(1)) {
            storage.spoil(path);
            self.spoiled.insert(*id);
        }
    }

    /// The process has died, and is to be started again.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.process.is_none() || self.disk_is_dead()
    }

    /// Everything that was asked for here has ended, and what came too.
    #[must_use]
    pub fn is_through(&self) -> bool {
        let quiet = self.process.as_ref().is_some_and(Process::is_quiet);
        quiet && self.programs.values().all(|program| program.told.result().is_some())
    }

    /// What the engine says of transfers; `false` = it is not this gateway's.
    pub(crate) fn handle(&mut self, now: Nanos, event: &Event, commands: &mut Vec<Command>) -> bool {
        let Some(id) = event.transfer() else { return false };
        let own = self.programs.contains_key(&id);
        let incoming = match event {
            Event::Offered { meta, .. } => meta.size.is_some(),
            _ => self.received.contains_key(&id),
        };
        if !own && !incoming {
            return false;
        }
        self.alive(commands, |this, commands| {
            if own { this.sending_event(now, id, event) } else { this.receiving_event(now, id, event, commands) }
        });
        true
    }

    /// Do what is due, and supply what can be.
    pub(crate) fn handle_timeout(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        self.alive(commands, |this, commands| {
            this.write_out(commands);
            this.write_out(commands);
            this.look_later(now);
            this.work(now, commands);
            this.order_again(now, commands);
            this.supply(commands);
            this.write_streams(now);
        });
    }

    pub(crate) fn next_timeout(&self) -> Option<Nanos> {
        let process = self.process.as_ref().filter(|_| !self.disk_is_dead())?;
        process.next_timeout().into_iter().chain(self.next_write()).min()
    }

    /// The node starts again, and dies again perhaps before it has come far.
    pub(crate) fn restart(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        for attempt in 0.. {
            assert!(attempt < 100, "it does not start any more");
            self.process = None;
            for disk in [&self.state, &self.inbox] {
                match self.death {
                    Death::Kill => disk.kill(),
                    Death::PowerCut => disk.power_cut(),
                }
                let percent = self.behaviour.short_writes_percent;
                disk.set_faults(Faults { short_writes_percent: percent, ..Faults::default() });
            }
            self.boot += u32::from(self.death == Death::PowerCut);
            if self.rng.random_range(0..100) < DIES_AGAIN_PERCENT {
                let calls = self.rng.random_range(0..START_CALLS);
                self.arm(self.death, calls);
            }
            if self.start(now, commands) {
                return;
            }
            self.deaths_at_start += 1;
        }
    }

    /// Do something; a process that dies in it says nothing of it.
    fn alive(&mut self, commands: &mut Vec<Command>, act: impl FnOnce(&mut Self, &mut Vec<Command>)) {
        if self.is_dead() {
            return;
        }
        let before = commands.len();
        act(self, commands);
        if self.disk_is_dead() {
            commands.truncate(before);
        }
    }

    fn disk_is_dead(&self) -> bool {
        self.state.is_dead() || self.inbox.is_dead()
    }

    /// How long the next thing takes.
    fn delay(&mut self) -> Duration {
        self.behaviour.delay.mul_f64(self.rng.random())
    }

    fn instant(&self, now: Nanos) -> Instant {
        self.epoch + now.since(Nanos::ZERO)
    }

    /// Whether such an end of this transfer may come of what went wrong here.
    #[must_use]
    pub fn explains(&self, id: TransferId, code: FailCode) -> bool {
        code == FailCode::Storage && (self.spoiled.contains(&id) || self.inbox_failed)
    }
}
