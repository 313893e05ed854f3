//! Open-ended streams at both ends: an application that writes at a pace of its own into the sender's spool, and one
//! that reads at its own. As with files, the bytes follow from id and offset.

use std::collections::VecDeque;
use std::time::Duration;

use florelay_engine::api::{Command, Event, FailCode, Failure, Kept, TransferId};
use florelay_engine::spool::Spool;
use florelay_engine::time::Nanos;

use super::file::{content, digest};

/// Most bytes that a sender keeps of one stream.
const SPOOL_BYTES: u64 = 1 << 20;

/// How fast an application reads or writes: so many bytes at each interval. The default takes everything at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes at a time.
    pub bytes: u64,
    /// Pause between two times.
    pub interval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes: u64::MAX, interval: Duration::ZERO }
    }
}

impl Pace {
    /// It never does anything.
    pub const STOPPED: Self = Self { bytes: 0, interval: Duration::from_secs(1 << 30) };
}

/// The sender's gateway of one stream, with the application that writes.
#[derive(Debug)]
pub struct StreamSource {
    id: TransferId,
    size: u64,
    pace: Pace,
    spool: Spool,
    /// When the application writes next; `None` = it has written everything, or is held back.
    write_at: Option<Nanos>,
    /// How often it was held back because the spool was full.
    held_back: u64,
    sync_delay: Duration,
    /// What of the spool is being synced: when done, and up to where.
    syncs: VecDeque<(Nanos, u64)>,
    /// What is left after a power cut. The application goes on from its head: it keeps what is beyond.
    synced: Kept,
    result: Option<(Nanos, Result<(), Failure>)>,
}

impl StreamSource {
    pub(super) fn new(id: TransferId, size: u64, pace: Pace, sync_delay: Duration, now: Nanos) -> Self {
        Self {
            id,
            size,
            pace,
            spool: Spool::new(id),
            write_at: Some(now),
            held_back: 0,
            sync_delay,
            syncs: VecDeque::new(),
            synced: Kept::default(),
            result: None,
        }
    }

    /// The node was restarted: its spool is what was synced, and the application writes on from there.
    pub(super) fn restarted(&mut self, now: Nanos) -> Kept {
        let Kept { confirmed, head } = self.synced;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&content(self.id, 0, confirmed as usize));
        self.spool = Spool::recovered(self.id, confirmed, hasher);
        self.spool.push(&content(self.id, confirmed, (head - confirmed) as usize));
        self.syncs.clear();
        self.write_at = Some(now);
        self.synced
    }

    pub(super) fn handle(&mut self, now: Nanos, event: &Event, commands: &mut Vec<Command>) {
        if let Event::TransferEnded { result, .. } = event {
            assert!(self.result.is_none(), "{:?}: a second end: {result:?}", self.id);
            self.result = Some((now, result.clone()));
            self.write_at = None;
            self.syncs.clear();
            return;
        }
        assert!(self.result.is_none(), "{:?}: {event:?} after its end", self.id);
        self.spool.handle(event);
        if self.write_at.is_none() && self.spool.head() < self.size && self.spool.room(SPOOL_BYTES) > 0 {
            self.write_at = Some(now);
        }
        self.handle_timeout(now, commands);
    }

    pub(super) fn handle_timeout(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        while self.write_at.is_some_and(|at| at <= now) {
            let left = self.size - self.spool.head();
            let take = left.min(self.pace.bytes).min(self.spool.room(SPOOL_BYTES));
            self.spool.push(&content(self.id, self.spool.head(), take as usize));
            self.syncs.push_back((now + self.sync_delay, self.spool.head()));
            self.write_at = Some(now + self.pace.interval);
            if take == left {
                self.spool.end();
                self.write_at = None;
            } else if self.spool.room(SPOOL_BYTES) == 0 {
                self.held_back += 1;
                self.write_at = None;
            }
        }
        while let Some((_, head)) = self.syncs.pop_front_if(|(at, _)| *at <= now) {
            let base = self.spool.head() - self.spool.held();
            self.synced = Kept { confirmed: base.min(head), head };
        }
        assert!(self.spool.held() <= SPOOL_BYTES, "{:?}: the spool holds {}", self.id, self.spool.held());
        if self.result.is_none() {
            commands.extend(std::iter::from_fn(|| self.spool.step()));
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Nanos> {
        self.write_at.into_iter().chain(self.syncs.front().map(|(at, _)| *at)).min()
    }

    /// Bytes that its application will have written at the end.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that its application has written.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.spool.head()
    }

    /// Bytes that it keeps.
    #[must_use]
    pub fn spooled(&self) -> u64 {
        self.spool.held()
    }

    /// How often the application was held back because the spool was full.
    #[must_use]
    pub fn held_back(&self) -> u64 {
        self.held_back
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn result(&self) -> Option<&Result<(), Failure>> {
        self.result.as_ref().map(|(_, result)| result)
    }
}

/// The receiver's gateway of one stream, with the application that reads.
#[derive(Debug)]
pub struct StreamSink {
    id: TransferId,
    /// How fast the application reads.
    pub pace: Pace,
    /// First byte that has not arrived.
    next: u64,
    /// First byte that the application has not read. It keeps this over a restart of the node.
    read: u64,
    read_at: Option<Nanos>,
    end: Option<(u64, [u8; 32])>,
    completed: bool,
    arrivals: VecDeque<(Nanos, u64)>,
    result: Option<(Nanos, Result<(), Failure>)>,
    restarted: bool,
}

impl StreamSink {
    pub(super) fn new(id: TransferId, pace: Pace) -> Self {
        Self {
            id,
            pace,
            next: 0,
            read: 0,
            read_at: None,
            end: None,
            completed: false,
            arrivals: VecDeque::new(),
            result: None,
            restarted: true,
        }
    }

    pub(super) fn offered(&mut self, commands: &mut Vec<Command>) {
        assert!(std::mem::take(&mut self.restarted), "{:?} is offered a second time", self.id);
        self.result = None;
        commands.push(Command::Accept { id: self.id, offset: self.read });
    }

    pub(super) fn data(&mut self, now: Nanos, offset: u64, data: &[u8]) {
        assert_eq!(offset, self.next, "{:?}: bytes out of order at {now:?}", self.id);
        assert!(!data.is_empty(), "{:?}: an empty piece at {offset}", self.id);
        assert!(data == content(self.id, offset, data.len()), "{:?}: wrong bytes at {offset}", self.id);
        self.next += data.len() as u64;
        self.arrivals.push_back((now, self.next));
        self.read_at.get_or_insert(now + self.pace.interval);
    }

    pub(super) fn data_end(&mut self, size: u64, digest: [u8; 32]) {
        assert_eq!(size, self.next, "{:?}: the end is said at another place", self.id);
        assert!(self.end.is_none(), "{:?}: a second end of data", self.id);
        self.end = Some((size, digest));
    }

    /// Let the reader go on at another pace from `now` on.
    pub fn resume(&mut self, now: Nanos, pace: Pace) {
        self.pace = pace;
        self.read_at = Some(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let id = self.id;
        while self.read_at.is_some_and(|at| at <= now) {
            self.read += (self.next - self.read).min(self.pace.bytes);
            self.read_at = (self.read < self.next).then_some(now + self.pace.interval);
            commands.push(Command::Written { id, offset: self.read });
        }
        if let Some((size, announced)) = self.end
            && self.read == size
            && !self.completed
        {
            self.completed = true;
            let right = announced == digest(id, size);
            let result = if right { Ok(()) } else { Err(Failure::new(FailCode::Digest, "BLAKE3 does not match")) };
            commands.push(Command::Complete { id, result });
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Nanos> {
        self.read_at
    }

    pub(super) fn ended(&mut self, now: Nanos, result: Result<(), Failure>) {
        assert!(self.result.is_none(), "{:?}: a second end: {result:?}", self.id);
        self.result = Some((now, result));
        self.read_at = None;
    }

    /// What had arrived and was not read is gone.
    pub(super) fn restarted(&mut self) {
        self.restarted = true;
        self.next = self.read;
        self.read_at = None;
        self.end = None;
        self.completed = false;
    }

    /// Bytes that have arrived.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.next
    }

    /// Bytes that its application has read.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read
    }

    /// Bytes that have arrived and are not read.
    #[must_use]
    pub fn unread_bytes(&self) -> u64 {
        self.next - self.read
    }

    /// The first arrival at or after `from`.
    #[must_use]
    pub fn first_arrival_since(&self, from: Nanos) -> Option<Nanos> {
        self.arrivals.iter().map(|(at, _)| *at).find(|at| *at >= from)
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn result(&self) -> Option<&Result<(), Failure>> {
        self.result.as_ref().map(|(_, result)| result)
    }
}
