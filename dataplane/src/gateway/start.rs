//! How a gateway starts: the book is opened, what it has of the past is taken up, the threads that wait for disks begin, and
//! everything that was under way goes on.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use florelay_engine::api::TransferId;
use florelay_spool::book::Book;
use florelay_spool::storage::RealStorage;

use super::book::Keeper;
use super::disk::{start_finisher, start_opener, start_syncer};
use super::finished::FinishedFiles;
use super::kept::Kept;
use super::log::MessageLog;
use super::orders::Orders;
use super::pieces::{OF_FILES, Pieces};
use super::pipes::Pipes;
use super::strangers::Strangers;
use super::streams::Streams;
use super::transfers::Transfers;
use super::turns::Turns;
use super::{Gateway, Input, KnownPaths, finished, kept, spooler};
use crate::broker::SharedBroker;
use crate::contacts::Contacts;
use crate::plan::NodePlan;
use crate::ring::{GatewayBell, Rings};

/// Below STATE-DIR: the book of transfers.
const BOOK_NAME: &str = "transfers.redb";
/// Another with each start of the kernel (random(4)).
const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Gateway {
    /// Must be made on the thread that will `run` it.
    #[allow(clippy::too_many_arguments, reason = "its surroundings, each once")]
    pub(crate) fn new(
        plan: Arc<NodePlan>,
        contacts: Contacts,
        paths: KnownPaths,
        workers: Vec<Arc<Rings>>,
        inputs: Receiver<Input>,
        to_self: Sender<Input>,
        bell: GatewayBell,
        boot_id: u64,
        broker: SharedBroker,
    ) -> std::io::Result<Self> {
        let rates = plan.links.iter().map(crate::daemon::rate_plan).collect();
        let log = MessageLog::open(&plan.inbox, &plan.state_dir)?;
        let storage = Arc::new(RealStorage::new(plan.state_dir.clone()));
        let (mut book, mut contents) = Book::open(storage, BOOK_NAME.into()).map_err(finished::as_io)?;
        finished::import(&plan.state_dir, &mut book, &mut contents).map_err(finished::as_io)?;
        // A file that was renamed just before a kill counts as arrived from here on: a power cut must not take its name.
        std::fs::File::open(&plan.inbox)?.sync_all()?;
        let keeper = Keeper::start(book, to_self.clone(), bell.clone())?;
        let arrived = Arc::new(FinishedFiles::new(&contents.ended, &plan.inbox, keeper.clone()));
        let boot = std::fs::read_to_string(KERNEL_BOOT_ID)?.trim().to_owned();
        let opener = start_opener(to_self.clone(), bell.clone(), arrived.clone(), boot, keeper.clone())?;
        let place = spooler::place(plan.state_dir.clone(), &plan.spool);
        let known = |id: TransferId| contents.own.iter().any(|own| own.id == id.0);
        // What a book that was set aside knew of is not swept: somebody may want it.
        if contents.set_aside.is_none()
            && let Err(error) = place.sweep(known)
        {
            tracing::warn!(%error, "what is left of ended streams is not removed");
        }
        let spooler = spooler::start(place.clone(), to_self.clone(), bell.clone())?;
        let streams = Streams::new(Pipes::start(to_self.clone(), bell.clone())?, plan.spool, place, spooler);
        let syncer = start_syncer(to_self.clone(), bell.clone())?;
        let finisher = start_finisher(to_self, bell.clone(), arrived)?;
        let kept = Kept::new(keeper, contents.incoming, &plan.inbox);
        let mut gateway = Self {
            started: Instant::now(),
            backlog: workers.iter().map(|_| VecDeque::new()).collect(),
            urgent: workers.iter().map(|_| VecDeque::new()).collect(),
            reports: workers.iter().map(|_| None).collect(),
            turns: Turns::new(workers.len()),
            workers,
            inputs,
            bell,
            outgoing: BTreeMap::new(),
            pieces: Pieces::new(OF_FILES),
            incoming: HashMap::new(),
            touched: Vec::new(),
            streams,
            transfers: Transfers::new(),
            orders: Orders::new(&plan),
            digests: HashMap::new(),
            messages: HashMap::new(),
            traces: HashMap::new(),
            // Unique at this node over restarts: the receiver's duplicate filter remembers numbers.
            next_number: boot_id << 20,
            status_waiters: Vec::new(),
            reports_asked: false,
            rates,
            contacts,
            log,
            paths,
            untaken: vec![0; plan.peers.len()],
            opener,
            opening: HashMap::new(),
            strangers: Strangers::default(),
            finisher,
            syncer,
            kept,
            finishing: HashSet::new(),
            broker,
            plan,
            stopping: false,
        };
        gateway.transfers.recall(contents.ended.iter().map(kept::status_of));
        gateway.recover_ends(contents.unheard);
        gateway.recover(contents.own);
        Ok(gateway)
    }
}
