//! One run of the dataplane's gateway: what is in its memory, and the queues of its threads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use florelay_engine::api::{Command, TransferId};
use florelay_engine::time::Nanos;
use florelay_spool::arriving::{Arriving, Syncing};
use florelay_spool::book::{Book, Change, OwnTransfer, Progress};
use florelay_spool::spooled::{Next, Place, Spooled};

use super::DiskGateway;
use super::file_out::FileOut;
use super::keeping::Then;
use super::receiving::{Finishing, Offer, Opened};
use super::sending::{Sending, SpoolOrder};

/// The gateway looks around for what is to be synced this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// All that a kill takes.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) book: Book,
    pub(super) changes: Vec<(Change, Then)>,
    /// What the book did not take yet.
    pub(super) waiting: Vec<Then>,
    pub(super) book_due: Option<Nanos>,
    pub(super) own: BTreeMap<TransferId, OwnTransfer>,
    /// Files that are sent.
    pub(super) outgoing: BTreeMap<TransferId, FileOut>,
    /// Streams that are sent; their segments are the spool thread's.
    pub(super) sending: BTreeMap<TransferId, Sending>,
    pub(super) place: Place,
    pub(super) spooled: BTreeMap<TransferId, Spooled>,
    pub(super) spool_orders: VecDeque<SpoolOrder>,
    pub(super) spool_due: Option<Nanos>,
    pub(super) read_wanted: bool,
    /// What the book has of partial files, and what has arrived with which BLAKE3.
    pub(super) partials: BTreeMap<TransferId, Progress>,
    pub(super) arrived: BTreeSet<TransferId>,
    pub(super) incoming: BTreeMap<TransferId, Arriving>,
    /// Transfers that were accepted and have not ended.
    pub(super) receiving: BTreeSet<TransferId>,
    pub(super) touched: BTreeSet<TransferId>,
    pub(super) digests: BTreeMap<TransferId, [u8; 32]>,
    /// Offers that the opener has; the number of each transfer's last, and whether its sender has forgotten it.
    pub(super) offers: VecDeque<Offer>,
    pub(super) opening: BTreeMap<TransferId, (u64, bool)>,
    pub(super) next_offer: u64,
    pub(super) opener_due: Option<Nanos>,
    /// It waits for the book with this.
    pub(super) opened: Option<(Offer, Opened)>,
    pub(super) syncs: VecDeque<(TransferId, Syncing)>,
    pub(super) syncer_due: Option<Nanos>,
    pub(super) finishing: VecDeque<Finishing>,
    pub(super) finisher_due: Option<Nanos>,
    /// It waits for the book with this.
    pub(super) placing: Option<Finishing>,
    pub(super) look_due: Option<Nanos>,
}

impl Process {
    pub(super) fn new(book: Book, place: Place) -> Self {
        Self {
            book,
            changes: Vec::new(),
            waiting: Vec::new(),
            book_due: None,
            own: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            sending: BTreeMap::new(),
            place,
            spooled: BTreeMap::new(),
            spool_orders: VecDeque::new(),
            spool_due: None,
            read_wanted: false,
            partials: BTreeMap::new(),
            arrived: BTreeSet::new(),
            incoming: BTreeMap::new(),
            receiving: BTreeSet::new(),
            touched: BTreeSet::new(),
            digests: BTreeMap::new(),
            offers: VecDeque::new(),
            opening: BTreeMap::new(),
            next_offer: 0,
            opener_due: None,
            opened: None,
            syncs: VecDeque::new(),
            syncer_due: None,
            finishing: VecDeque::new(),
            finisher_due: None,
            placing: None,
            look_due: None,
        }
    }

    /// Nothing is under way, nor on its way to a disk.
    pub(super) fn is_quiet(&self) -> bool {
        self.own.is_empty()
            && self.receiving.is_empty()
            && self.opening.is_empty()
            && self.finishing.is_empty()
            && self.placing.is_none()
            && self.changes.is_empty()
            && self.book_due.is_none()
    }

    pub(super) fn next_timeout(&self) -> Option<Nanos> {
        let threads = [self.book_due, self.spool_due, self.opener_due, self.syncer_due, self.finisher_due];
        threads.into_iter().chain([self.look_due]).flatten().min()
    }
}

impl DiskGateway {
    /// Let each thread do what is due.
    pub(super) fn work(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let due = |at: &mut Option<Nanos>| at.take_if(|at| *at <= now).is_some();
        let Some(process) = &mut self.process else { return };
        let book = due(&mut process.book_due);
        let spool = due(&mut process.spool_due);
        let [opener, syncer, finisher] =
            [&mut process.opener_due, &mut process.syncer_due, &mut process.finisher_due].map(due);
        let look = due(&mut process.look_due);
        if look {
            self.look(now);
        }
        if spool {
            self.serve_streams(now, commands);
        }
        if book {
            self.commit(now, commands);
        }
        if opener {
            self.open(now, commands);
        }
        if syncer {
            self.sync(now, commands);
        }
        if finisher {
            self.finish(now, commands);
        }
    }

    fn look(&mut self, now: Nanos) {
        let (delay, instant) = (self.delay(), self.instant(now));
        let Some(process) = &mut self.process else { return };
        for (id, file) in &mut process.incoming {
            if let Some(syncing) = file.sync_due(instant) {
                process.syncs.push_back((*id, syncing));
                process.syncer_due.get_or_insert(now + delay);
            }
        }
        self.look_later(now);
    }

    pub(super) fn look_later(&mut self, now: Nanos) {
        let Some(process) = &mut self.process else { return };
        if process.incoming.values().any(|file| file.written() > file.synced()) {
            process.look_due.get_or_insert(now + LOOK_INTERVAL);
        }
    }

    fn serve_streams(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let instant = self.instant(now);
        let Some(process) = &mut self.process else { return };
        for order in std::mem::take(&mut process.spool_orders) {
            order.carry_out(&mut process.spooled);
        }
        let mut told = Vec::new();
        let mut again: Option<Duration> = None;
        process.spooled.retain(|id, stream| {
            match stream.serve(&process.place, instant, |news| told.push((*id, news))) {
                Next::Idle => true,
                Next::After(wait) => {
                    again = Some(again.map_or(wait, |before| before.min(wait)));
                    true
                }
                Next::Over => false,
            }
        });
        process.spool_due = again.map(|wait| now + wait);
        for (id, news) in told {
            self.spool_news(now, id, news, commands);
        }
    }

    pub(super) fn spool(&mut self, now: Nanos, order: SpoolOrder) {
        let delay = self.delay();
        let Some(process) = &mut self.process else { return };
        process.spool_orders.push_back(order);
        let at = now + delay;
        process.spool_due = Some(process.spool_due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn place(&self) -> Place {
        Place::new(Arc::new(self.state.clone()), self.behaviour.limits)
    }
}
