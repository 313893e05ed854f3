//! The spool's side of a stream that is sent: what of it waits to be written, to be read back, to be said. A gateway's thread
//! serves it where it may wait for the disk; this has neither thread nor clock, so that the simulation runs the same code.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use florelay_engine::api::TransferId;
use uuid::Uuid;

use crate::segments::{Account, SegmentError, Segments, Settings, remove_all};
use crate::storage::Storage;

/// A folder for each stream is in this one.
const FOLDER: &str = "spool";
/// A disk that refuses is tried again this often.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A disk that has failed for so long does not come back: the stream is over. One that is full is waited for.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// Where nothing needs to be written because the receiver is quick, its confirmations are put down this often, or after so many
/// bytes: that costs a new segment each time.
const SKIP_INTERVAL: Duration = Duration::from_millis(200);
const SKIP_BYTES: u64 = 4 << 20;
/// A stream that is there since before a restart is given up after so many attempts to read it.
const RECOVERY_ATTEMPTS: u32 = 3;

/// What the disk may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of one stream, in bytes.
    pub stream_bytes: u64,
    /// Of all streams together, in bytes.
    pub node_bytes: u64,
    /// What is appended is synced before it is called so; otherwise it is when it is appended.
    pub sync: bool,
}

/// Where all streams' segments are, and how much they may take. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Place {
    storage: Arc<dyn Storage>,
    account: Account,
    limits: Limits,
}

/// What became of a stream's orders.
#[derive(Debug)]
pub enum News {
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

/// When a stream is to be served next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// With its next order.
    Idle,
    /// After this at the latest.
    After(Duration),
    /// Never: it is lost.
    Over,
}

impl Place {
    /// Bytes of all streams on the disk, and how many may be, in bytes.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        (self.account.used(), self.account.limit())
    }

    /// In this storage.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, limits: Limits) -> Self {
        Self { storage, account: Account::new(limits.node_bytes), limits }
    }

    /// Begin a stream's segments. What is left of an earlier stream of this id, lost or not swept, is none of its bytes.
    fn begin(&self, id: TransferId) -> Result<Segments, SegmentError> {
        let folder = folder(id);
        if !self.storage.list(&folder)?.is_empty() {
            remove_all(&*self.storage, &folder)?;
            self.storage.make_folder(&folder)?;
            self.storage.sync_folder(&folder)?;
        }
        self.open(id, 0)
    }

    /// Open a stream's segments, or begin them. `confirmed` is what is known to be confirmed.
    fn open(&self, id: TransferId, confirmed: u64) -> Result<Segments, SegmentError> {
        self.storage.make_folder(FOLDER.as_ref())?;
        // So that one that is full has several, of which some can be let go.
        let segment_bytes = Settings::default().segment_bytes.min(self.limits.stream_bytes / 4);
        let settings = Settings { segment_bytes, limit_bytes: self.limits.stream_bytes };
        Segments::open(self.storage.clone(), folder(id), id.0, settings, &self.account, confirmed, 0)
    }

    /// Open the segments of a stream from before a restart: all that is found is synced, so that it can be called accepted. A
    /// disk that fails once need not do so again. `confirmed` is what is known to be confirmed.
    ///
    /// # Errors
    /// As [`Segments::open`] and [`Segments::sync`].
    pub fn recover(&self, id: TransferId, confirmed: u64) -> Result<Segments, SegmentError> {
        let attempt = || {
            let mut segments = self.open(id, confirmed)?;
            if self.limits.sync {
                segments.sync()?;
            }
            Ok(segments)
        };
        let mut result = attempt();
        for _ in 1..RECOVERY_ATTEMPTS {
            if matches!(result, Err(SegmentError::Disk(_))) {
                result = attempt();
            }
        }
        result
    }

    /// Remove what is there of streams that nobody knows.
    ///
    /// # Errors
    /// The disk refused.
    pub fn sweep(&self, known: impl Fn(TransferId) -> bool) -> io::Result<()> {
        for name in self.storage.list(FOLDER.as_ref())? {
            let id = Uuid::try_parse(&name).ok().map(|id| TransferId(id.as_u128()));
            if let Some(id) = id.filter(|id| !known(*id)) {
                remove_all(&*self.storage, &folder(id))?;
            }
        }
        Ok(())
    }
}

fn folder(id: TransferId) -> PathBuf {
    PathBuf::from(FOLDER).join(Uuid::from_u128(id.0).to_string())
}

/// One stream, and what it waits for.
#[derive(Debug)]
pub struct Spooled {
    id: TransferId,
    /// `None` = it could not be begun yet.
    segments: Option<Segments>,
    confirmed: u64,
    waiting: VecDeque<Bytes>,
    reads: VecDeque<(u64, usize)>,
    ending: bool,
    /// Appended or skipped and not synced.
    dirty: bool,
    skipped_at: Option<Instant>,
    /// Since when the disk refuses.
    failing: Option<Instant>,
    /// What was said last.
    said: (u64, u64, u64),
}

impl Spooled {
    /// A new stream, or one whose segments were found.
    #[must_use]
    pub fn new(id: TransferId, segments: Option<Segments>) -> Self {
        Self {
            id,
            segments,
            confirmed: 0,
            waiting: VecDeque::new(),
            reads: VecDeque::new(),
            ending: false,
            dirty: true,
            skipped_at: None,
            failing: None,
            said: (0, 0, 0),
        }
    }

    /// The next bytes.
    pub fn append(&mut self, bytes: Bytes) {
        self.waiting.push_back(bytes);
    }

    /// The receiver has everything below this.
    pub fn confirm(&mut self, offset: u64) {
        self.confirmed = self.confirmed.max(offset);
    }

    /// Give back bytes from here on, so many at most.
    pub fn read(&mut self, offset: u64, most: usize) {
        self.reads.push_back((offset, most));
    }

    /// There are no more bytes.
    pub fn end(&mut self) {
        self.ending = true;
    }

    /// The stream is over: remove it from the disk.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove(self) -> io::Result<()> {
        self.segments.map_or(Ok(()), Segments::remove)
    }

    /// Do what is to be done, as far as the disk lets.
    pub fn serve(&mut self, place: &Place, now: Instant, mut tell: impl FnMut(News)) -> Next {
        let result = self.work(place, now, &mut tell);
        if let Some(segments) = &self.segments {
            let synced = if place.limits.sync { segments.synced() } else { segments.head() };
            let now = (segments.head(), synced, segments.room());
            if self.said != now {
                self.said = now;
                let (appended, synced, room) = now;
                tell(News::Spooled { appended, synced, room });
            }
        }
        let transfer = Uuid::from_u128(self.id.0);
        let lost = match result {
            Ok(next) => {
                if self.failing.take().is_some() {
                    tracing::info!(%transfer, "the spool of a stream can be written again");
                }
                return next;
            }
            // Its writer waits; a confirmation makes room.
            Err(SegmentError::Full) => return Next::After(RETRY_INTERVAL),
            Err(SegmentError::Disk(error)) => {
                let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
                if self.failing.is_none() {
                    tracing::error!(%transfer, %error, "the spool of a stream cannot be written or read; its writer waits");
                }
                // Room comes back, and so the time begins anew.
                let since = if full { now } else { self.failing.unwrap_or(now) };
                self.failing = Some(since);
                if now.saturating_duration_since(since) < GIVE_UP_AFTER {
                    return Next::After(RETRY_INTERVAL);
                }
                SegmentError::Disk(error)
            }
            Err(error) => error,
        };
        // What is there stays for whoever wants to look.
        tell(News::Lost(lost.to_string()));
        Next::Over
    }

    fn work(&mut self, place: &Place, now: Instant, tell: &mut impl FnMut(News)) -> Result<Next, SegmentError> {
        let segments = match &mut self.segments {
            Some(segments) => segments,
            none => none.insert(place.begin(self.id)?),
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
                    self.skipped_at = Some(now);
                }
            }
            result?;
            self.waiting.pop_front();
        }
        if self.dirty && place.limits.sync {
            if let Some(since) = self.skipped_at.filter(|_| !self.ending)
                && segments.head() <= segments.confirmed()
                && segments.head() - segments.synced() < SKIP_BYTES
                && now.saturating_duration_since(since) < SKIP_INTERVAL
            {
                return Ok(Next::After(SKIP_INTERVAL - now.saturating_duration_since(since)));
            }
            segments.sync()?;
        }
        (self.dirty, self.skipped_at) = (false, None);
        if std::mem::take(&mut self.ending) {
            tell(News::Ended(segments.head(), segments.digest()));
        }
        Ok(Next::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Faults, SimStorage};

    const ID: TransferId = TransferId(7);

    fn place(disk: &SimStorage) -> Place {
        let limits = Limits { stream_bytes: 1 << 30, node_bytes: 1 << 30, sync: true };
        Place::new(Arc::new(disk.clone()), limits)
    }

    /// Where the stream stands on the disk, as it was said last.
    fn served(stream: &mut Spooled, place: &Place, now: Instant) -> (Next, Option<(u64, u64)>, Option<String>) {
        let (mut spooled, mut lost) = (None, None);
        let next = stream.serve(place, now, |news| match news {
            News::Spooled { appended, synced, .. } => spooled = Some((appended, synced)),
            News::Lost(reason) => lost = Some(reason),
            News::Back(..) | News::Ended(..) => {}
        });
        (next, spooled, lost)
    }

    #[test]
    fn a_new_stream_does_not_begin_with_what_is_left_of_an_earlier_one_of_its_id() {
        let disk = SimStorage::new(1);
        let place = place(&disk);
        for bytes in [&b"the earlier one"[..], b"another"] {
            // The earlier one is dropped, as one that is lost is: its segments stay.
            let mut stream = Spooled::new(ID, None);
            stream.append(Bytes::from_static(bytes));
            stream.end();
            let length = bytes.len() as u64;
            assert_eq!(served(&mut stream, &place, Instant::now()).1, Some((length, length)));
            assert_eq!(stream.segments.unwrap().digest(), *blake3::hash(bytes).as_bytes());
            disk.power_cut();
        }
        assert_eq!(place.recover(ID, 0).unwrap().head(), 7);
    }

    #[test]
    fn a_full_disk_is_waited_for_and_one_that_fails_for_a_minute_is_not() {
        for full in [true, false] {
            let disk = SimStorage::new(1);
            let place = place(&disk);
            let (mut stream, begin) = (Spooled::new(ID, None), Instant::now());
            stream.append(Bytes::from_static(b"some"));
            assert_eq!(served(&mut stream, &place, begin).0, Next::Idle);
            if full {
                disk.set_faults(Faults { room_bytes: Some(0), ..Faults::default() });
            } else {
                assert!(disk.spoil(&folder(ID).join("0000000000000000.seg")));
            }
            stream.append(Bytes::from_static(b"more"));
            for second in 0..60 {
                let (next, _, lost) = served(&mut stream, &place, begin + Duration::from_secs(second));
                assert_eq!((next, lost), (Next::After(RETRY_INTERVAL), None), "full: {full}, {second} s");
            }
            let (next, _, lost) = served(&mut stream, &place, begin + GIVE_UP_AFTER);
            assert_eq!((next == Next::Over, lost.is_some()), (!full, !full));
            disk.set_faults(Faults::default());
            if full {
                assert_eq!(served(&mut stream, &place, begin + 2 * GIVE_UP_AFTER).1, Some((8, 8)));
            }
        }
    }

    #[test]
    fn what_is_found_at_a_start_is_synced_or_refused_and_one_error_is_none() {
        let disk = SimStorage::new(3);
        let place = place(&disk);
        let mut stream = Spooled::new(ID, None);
        stream.append(Bytes::from_static(&[1; 1000]));
        served(&mut stream, &place, Instant::now());
        for calls in 0..30 {
            disk.kill();
            disk.set_faults(Faults { fail_call: Some(calls), ..Faults::default() });
            let segments = place.recover(ID, 0).unwrap();
            assert_eq!((segments.head(), segments.synced()), (1000, 1000));
            disk.kill();
            disk.set_faults(Faults { fail_sync: Some(0), ..Faults::default() });
            let segments = place.recover(ID, 0).unwrap();
            assert_eq!((segments.head(), segments.synced()), (1000, 1000));
        }
        disk.kill();
        assert!(disk.spoil(&folder(ID).join("0000000000000000.seg")));
        assert!(matches!(place.recover(ID, 0), Err(SegmentError::Disk(_))));
    }
}
