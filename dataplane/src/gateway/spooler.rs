//! The spool's thread: it appends what programs have written to their streams' segments, syncs them, and reads back what is not
//! in memory any more. What came while one sync was on its way to the disk goes with the next; what the receiver has confirmed
//! by then is not written at all.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use florelay_engine::api::TransferId;
use florelay_spool::segments::{Account, SegmentError, Segments, Settings};
use florelay_spool::storage::{RealStorage, Storage};
use uuid::Uuid;

use super::Input;
use crate::plan::SpoolPlan;
use crate::ring::GatewayBell;

/// Below STATE-DIR: a folder for each stream.
const FOLDER: &str = "spool";
/// Orders taken before anything is written.
const MAX_ORDERS: usize = 1024;
/// A disk that refuses is tried again this often.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Where nothing needs to be written because the receiver is quick, its confirmations are put down this often, or after so many
/// bytes: that costs a new segment each time.
const SKIP_INTERVAL: Duration = Duration::from_millis(200);
const SKIP_BYTES: u64 = 4 << 20;

/// What the gateway wants of a stream's segments.
pub(super) enum Order {
    /// A new stream.
    New(TransferId),
    /// One that was found at the start.
    Found(TransferId, Box<Segments>),
    /// The next bytes.
    Append(TransferId, Bytes),
    /// The receiver has everything below this.
    Confirmed(TransferId, u64),
    /// Give back bytes from here on, so many at most.
    Read(TransferId, u64, usize),
    /// There are no more bytes.
    End(TransferId),
    /// The stream is over.
    Remove(TransferId),
    /// Say when everything before this is done, as far as the disk lets.
    Flush(Sender<()>),
}

/// What became of it.
pub(crate) enum News {
    /// How far a stream is on the disk.
    Spooled {
        /// Below: it can be read back.
        appended: u64,
        /// Below: a power cut does not take it.
        synced: u64,
        /// Bytes that the disk's limits leave for it.
        room: u64,
    },
    /// Bytes that were asked for.
    Back(u64, Bytes),
    /// All of it is on the disk; size and BLAKE3.
    Ended(u64, [u8; 32]),
    /// It cannot go on, for this reason.
    Lost(String),
}

/// Where all streams' segments are, and how much they may take.
#[derive(Clone)]
pub(super) struct Place {
    storage: Arc<dyn Storage>,
    account: Account,
    limits: SpoolPlan,
}

impl Place {
    pub(super) fn new(state_dir: PathBuf, limits: SpoolPlan) -> Self {
        let account = Account::new(limits.node_disk_bytes);
        Self { storage: Arc::new(RealStorage::new(state_dir)), account, limits }
    }

    /// Open a stream's segments, or begin them.
    pub(super) fn open(&self, id: TransferId, confirmed: u64) -> Result<Segments, SegmentError> {
        self.storage.make_folder(FOLDER.as_ref())?;
        // So that one that is full has several, of which some can be let go.
        let segment_bytes = Settings::default().segment_bytes.min(self.limits.stream_disk_bytes / 4);
        let settings = Settings { segment_bytes, limit_bytes: self.limits.stream_disk_bytes };
        Segments::open(self.storage.clone(), folder(id), id.0, settings, &self.account, confirmed, 0)
    }

    /// Remove what is there of streams that nobody knows.
    pub(super) fn sweep(&self, known: impl Fn(TransferId) -> bool) -> io::Result<()> {
        for name in self.storage.list(FOLDER.as_ref())? {
            let id = Uuid::try_parse(&name).ok().map(|id| TransferId(id.as_u128()));
            if let Some(id) = id.filter(|id| !known(*id)) {
                florelay_spool::segments::remove_all(&*self.storage, &folder(id))?;
            }
        }
        Ok(())
    }
}

fn folder(id: TransferId) -> PathBuf {
    PathBuf::from(FOLDER).join(Uuid::from_u128(id.0).to_string())
}

/// Start the thread; it ends with its sender.
pub(super) fn start(place: Place, to_gateway: Sender<Input>, bell: GatewayBell) -> io::Result<Sender<Order>> {
    let (sender, orders) = channel();
    let spooler = Spooler { place, streams: BTreeMap::new(), flushing: Vec::new(), to_gateway, bell };
    std::thread::Builder::new().name("spool".into()).spawn(move || spooler.run(&orders))?;
    Ok(sender)
}

struct Stream {
    /// `None` = it could not be begun yet.
    segments: Option<Segments>,
    confirmed: u64,
    waiting: VecDeque<Bytes>,
    reads: VecDeque<(u64, usize)>,
    ending: bool,
    /// Appended or skipped and not synced.
    dirty: bool,
    skipped_at: Option<Instant>,
    failing: bool,
    /// What was said last.
    said: (u64, u64, u64),
}

impl Stream {
    fn new(segments: Option<Segments>) -> Self {
        Self {
            segments,
            confirmed: 0,
            waiting: VecDeque::new(),
            reads: VecDeque::new(),
            ending: false,
            dirty: true,
            skipped_at: None,
            failing: false,
            said: (0, 0, 0),
        }
    }
}

struct Spooler {
    place: Place,
    streams: BTreeMap<TransferId, Stream>,
    flushing: Vec<Sender<()>>,
    to_gateway: Sender<Input>,
    bell: GatewayBell,
}

impl Spooler {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut again: Option<Duration> = None;
        loop {
            let first = match again {
                Some(after) => orders.recv_timeout(after),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(first) => {
                    self.take(first);
                    orders.try_iter().take(MAX_ORDERS).for_each(|order| self.take(order));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            again = None;
            let ids: Vec<TransferId> = self.streams.keys().copied().collect();
            for id in ids {
                let wait = self.serve(id);
                again = [again, wait].into_iter().flatten().min();
            }
            for done in self.flushing.drain(..) {
                let _ = done.send(());
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::New(id) => {
                self.streams.insert(id, Stream::new(None));
            }
            Order::Found(id, segments) => {
                self.streams.insert(id, Stream::new(Some(*segments)));
            }
            Order::Flush(done) => self.flushing.push(done),
            Order::Append(id, bytes) => self.with(id, |stream| stream.waiting.push_back(bytes)),
            Order::Confirmed(id, offset) => self.with(id, |stream| stream.confirmed = stream.confirmed.max(offset)),
            Order::Read(id, offset, most) => self.with(id, |stream| stream.reads.push_back((offset, most))),
            Order::End(id) => self.with(id, |stream| stream.ending = true),
            Order::Remove(id) => {
                if let Some(Stream { segments: Some(segments), .. }) = self.streams.remove(&id)
                    && let Err(error) = segments.remove()
                {
                    tracing::warn!(transfer = %Uuid::from_u128(id.0), %error, "spool of an ended stream not removed");
                }
            }
        }
    }

    fn with(&mut self, id: TransferId, change: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.streams.get_mut(&id) {
            change(stream);
        }
    }

    /// Do what is to be done of a stream; says when to look again, if something is left.
    fn serve(&mut self, id: TransferId) -> Option<Duration> {
        let Self { place, streams, to_gateway, bell, .. } = self;
        let stream = streams.get_mut(&id)?;
        let tell = |news: News| {
            // The gateway is there as long as its orders come.
            let _ = to_gateway.send(Input::Spool(id, news));
            bell.ring();
        };
        let result = stream.serve(place, id, &tell);
        if let Some(segments) = &stream.segments {
            let now =
                (segments.head(), if place.limits.sync { segments.synced() } else { segments.head() }, segments.room());
            if stream.said != now {
                stream.said = now;
                let (appended, synced, room) = now;
                tell(News::Spooled { appended, synced, room });
            }
        }
        match result {
            Ok(wait) => {
                if std::mem::take(&mut stream.failing) {
                    tracing::info!(transfer = %Uuid::from_u128(id.0), "the spool of a stream can be written again");
                }
                wait
            }
            // Its writer waits; a confirmation makes room.
            Err(SegmentError::Full) => Some(RETRY_INTERVAL),
            Err(SegmentError::Disk(error)) => {
                if !std::mem::replace(&mut stream.failing, true) {
                    tracing::error!(transfer = %Uuid::from_u128(id.0), %error, "the spool of a stream cannot be written or read; its writer waits");
                }
                Some(RETRY_INTERVAL)
            }
            Err(error) => {
                tell(News::Lost(error.to_string()));
                // What is there stays for whoever wants to look.
                streams.remove(&id);
                None
            }
        }
    }
}

impl Stream {
    fn serve(&mut self, place: &Place, id: TransferId, tell: &impl Fn(News)) -> Result<Option<Duration>, SegmentError> {
        let segments = match &mut self.segments {
            Some(segments) => segments,
            none => none.insert(place.open(id, 0)?),
        };
        if self.confirmed > segments.confirmed() {
            segments.confirm(self.confirmed);
        }
        while let Some((offset, most)) = self.reads.front().copied() {
            // What was confirmed meanwhile nobody wants any more.
            if offset >= segments.base() {
                tell(News::Back(offset, segments.read(offset, most)?.into()));
            }
            self.reads.pop_front();
        }
        while let Some(bytes) = self.waiting.front_mut() {
            let before = segments.head();
            let confirmed = before + bytes.len() as u64 <= segments.confirmed();
            let result = if confirmed { segments.skip(bytes) } else { segments.append(bytes) };
            let taken = (segments.head() - before) as usize;
            let _ = bytes.split_to(taken);
            if taken > 0 {
                self.dirty = true;
                if !confirmed {
                    self.skipped_at = None;
                } else if self.skipped_at.is_none() {
                    self.skipped_at = Some(Instant::now());
                }
            }
            result?;
            self.waiting.pop_front();
        }
        if self.dirty && place.limits.sync {
            if let Some(since) = self.skipped_at.filter(|_| !self.ending)
                && segments.head() <= segments.confirmed()
                && segments.head() - segments.synced() < SKIP_BYTES
                && since.elapsed() < SKIP_INTERVAL
            {
                return Ok(Some(SKIP_INTERVAL.saturating_sub(since.elapsed())));
            }
            segments.sync()?;
        }
        (self.dirty, self.skipped_at) = (false, None);
        if std::mem::take(&mut self.ending) {
            tell(News::Ended(segments.head(), segments.digest()));
        }
        Ok(None)
    }
}
