//! Own transfers from their order to their first byte: what is refused at once, what waits, what begins when, and what their
//! operator changes meanwhile. [`queue`](super::queue) decides; here it is carried out.
//!
//! Nothing here waits for anybody: the first answer to an order is the transfer's status, also while its link is down. The
//! engine hears of a transfer when its turn has come, and not before.

mod held;
mod refuse;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use florelay_engine::Command;
use florelay_engine::api::{Failure, Kept, TransferId, TransferMeta};
use florelay_engine::config::PeerId;
use florelay_spool::book::OwnTransfer;
use uuid::Uuid;

pub(super) use self::refuse::{Refused, in_use, is_repeated};
use super::queue::{Place, Queue};
use super::{Gateway, Replies, peer_worker};
use crate::ipc::{
    FailCode, NodeEvent, QueueStatus, Refusal, TransferKind, TransferOrder, TransferState, TransferStatus,
};
use crate::plan::NodePlan;

/// Own transfers that have not ended, of all peers together; more are refused.
const MAX_OWN: usize = 65_536;
/// A peer's queue is told this often at most.
const QUEUE_INTERVAL: Duration = Duration::from_millis(100);
/// Those that wait whose new places are told to who watches them.
const PLACES_TOLD: usize = 100;
/// Those that wait which are named in one queue's status, and in the status of all queues.
const PENDING_SHOWN: usize = 1000;
const ALL_PENDING_SHOWN: usize = 100_000;

/// An own transfer that has not ended.
struct Own {
    peer: PeerId,
    /// The engine knows of it.
    begun: bool,
    deadline_unix_ns: Option<u64>,
}

/// The queues of all peers, and whose turn they are.
pub(super) struct Orders {
    /// By peer of the plan.
    queues: Vec<Queue>,
    own: HashMap<TransferId, Own>,
    deadlines: BTreeSet<(u64, TransferId)>,
    /// Peers whose queues have changed and were not told since.
    changed: BTreeSet<u16>,
    told_at: Option<Instant>,
}

impl Orders {
    pub(super) fn new(plan: &NodePlan) -> Self {
        let queues = plan.peers.iter().map(|peer| Queue::new(peer.queue));
        Self {
            queues: queues.collect(),
            own: HashMap::new(),
            deadlines: BTreeSet::new(),
            changed: BTreeSet::new(),
            told_at: None,
        }
    }

    fn queue(&mut self, peer: PeerId) -> Option<&mut Queue> {
        self.changed.insert(peer.0);
        self.queues.get_mut(usize::from(peer.0))
    }
}

impl Gateway {
    /// Take an order into its peer's queue and the book, or refuse it. Whatever it sends from is in its place when this has
    /// been answered `Ok`; then [`Self::start`] follows.
    pub(super) fn enter(
        &mut self,
        order: &TransferOrder,
        size: Option<u64>,
        declared: Option<u64>,
    ) -> Result<PeerId, Refused> {
        let (peer, meta) = self.check(order, size, declared)?;
        if self.orders.own.len() >= MAX_OWN {
            let reason = format!("{MAX_OWN} transfers of this node have not ended, which is the limit");
            return Err(Refused::new(Refusal::Limit, reason));
        }
        let id = TransferId(order.id);
        let Some(queue) = self.orders.queue(peer) else {
            return Err(Refused::new(Refusal::NoSuchPeer, format!("no peer `{}`", order.to)));
        };
        if queue.enter(id, order.priority).is_err() {
            return Err(Refused::full(&order.to, queue));
        }
        let deadline_unix_ns = order.deadline_unix_ns;
        self.orders.own.insert(id, Own { peer, begun: false, deadline_unix_ns });
        self.orders.deadlines.extend(deadline_unix_ns.map(|deadline| (deadline, id)));
        self.transfers.started(id, &order.to, &meta, true);
        self.transfers.deadline(id, deadline_unix_ns);
        Ok(peer)
    }

    /// A transfer that the book has from before a start: it waits for its turn, or for somebody, if a state is given. Its queue
    /// takes it whatever its limits are.
    pub(super) fn restore(&mut self, peer: PeerId, transfer: &OwnTransfer, kept: Kept, waits: Option<TransferState>) {
        let id = TransferId(transfer.id);
        let Some(queue) = self.orders.queue(peer) else { return };
        queue.restore(id, transfer.priority, transfer.held || waits.is_some());
        let OwnTransfer { begun, deadline_unix_ns, .. } = *transfer;
        self.orders.own.insert(id, Own { peer, begun, deadline_unix_ns });
        self.orders.deadlines.extend(deadline_unix_ns.map(|deadline| (deadline, id)));
        let meta = super::kept::meta_of(transfer);
        self.transfers.started(id, &transfer.peer, &meta, true);
        self.transfers.deadline(id, deadline_unix_ns);
        self.transfers.confirmed(id, kept.confirmed);
        let paused = transfer.held.then_some(TransferState::Paused);
        self.transfers.state(id, waits.or(paused).unwrap_or(TransferState::Pending { position: 0 }));
        if begun {
            // What is not offered at the beginning of a session its receiver gives up.
            self.tell_peer(peer, Command::Send { peer, id, meta, kept });
            self.tell_peer(peer, Command::Hold { id, held: true });
        }
    }

    /// What it waited for is there: it waits for its turn, unless its operator holds it.
    pub(super) fn release(&mut self, peer: PeerId, id: TransferId) {
        if self.kept.is_held(id) {
            self.show_place(id);
        } else if let Some(queue) = self.orders.queue(peer) {
            queue.resume(id);
            self.start(peer, id);
        }
    }

    /// Let an entered transfer begin, or wait; its state says which.
    pub(super) fn start(&mut self, peer: PeerId, id: TransferId) {
        self.begin_next(peer);
        self.show_place(id);
    }

    /// Have the book say where it stands.
    pub(super) fn show_place(&mut self, id: TransferId) {
        let Some(own) = self.orders.own.get(&id) else { return };
        let Some(queue) = self.orders.queues.get(usize::from(own.peer.0)) else { return };
        let state = match queue.place(id) {
            None => return,
            // It waits for its file; what that is about its state says.
            Some(Place::Paused) if self.lacks_file(id) => return,
            Some(Place::Paused) => TransferState::Paused,
            Some(Place::Waiting) => TransferState::Pending { position: queue.position(id).unwrap_or(1) },
            Some(Place::Active) if self.lacks_writer(id) => TransferState::NoWriter,
            Some(Place::Active) => TransferState::Running,
        };
        self.transfers.state(id, state);
    }

    /// Whatever may begin begins.
    pub(super) fn begin_next(&mut self, peer: PeerId) {
        while let Some(id) = self.orders.queue(peer).and_then(Queue::next) {
            self.begin(peer, id);
        }
    }

    fn begin(&mut self, peer: PeerId, id: TransferId) {
        let Some(status) = self.transfers.running(id) else { return };
        let meta = meta_of(status);
        self.show_place(id);
        let Some(own) = self.orders.own.get_mut(&id) else { return };
        if std::mem::replace(&mut own.begun, true) {
            self.tell_peer(peer, Command::Hold { id, held: false });
        } else {
            self.tell_peer(peer, Command::Send { peer, id, meta, kept: Kept::default() });
            self.kept.begun(id);
        }
    }

    /// What has ended leaves its queue, the next begin, and what has turned is told. To be called whenever something was
    /// done.
    pub(super) fn settle(&mut self) {
        loop {
            let left = self.transfers.take_left();
            if left.is_empty() {
                break;
            }
            let mut peers = BTreeSet::new();
            for id in left {
                let Some(own) = self.orders.own.remove(&id) else { continue };
                if let Some(deadline) = own.deadline_unix_ns {
                    self.orders.deadlines.remove(&(deadline, id));
                }
                if let Some(queue) = self.orders.queue(own.peer) {
                    queue.leave(id);
                }
                peers.insert(own.peer.0);
            }
            for peer in peers {
                self.begin_next(PeerId(peer));
            }
        }
        self.book_ends();
        self.transfers.tell_turns();
        if !self.orders.changed.is_empty() && self.orders.told_at.is_none_or(|at| at.elapsed() >= QUEUE_INTERVAL) {
            self.tell_queues();
        }
    }

    /// Tell of the queues that have changed, and those who watch the first that wait of their new places.
    pub(super) fn tell_queues(&mut self) {
        self.orders.told_at = Some(Instant::now());
        for peer in std::mem::take(&mut self.orders.changed) {
            let Some(queue) = self.orders.queues.get(usize::from(peer)) else { continue };
            for (position, id) in (1..).zip(queue.waiting().take(PLACES_TOLD)) {
                self.transfers.position(id, position);
            }
            if self.transfers.subscribers.are_there() {
                let status = self.queue_status(usize::from(peer), PENDING_SHOWN);
                self.transfers.subscribers.say(&NodeEvent::Queue(status));
            }
        }
    }

    /// Transfers whose time is over end. The wall clock is read anew, so a step of it is followed.
    pub(super) fn follow_deadlines(&mut self, now_unix_ns: u64) {
        while let Some((deadline, id)) = self.orders.deadlines.first().copied().filter(|(at, _)| *at <= now_unix_ns) {
            self.orders.deadlines.remove(&(deadline, id));
            let reason = format!("its deadline, {}, has passed", crate::wall::show(deadline));
            self.give_up(id, Failure::new(FailCode::Timeout, reason));
        }
    }

    /// End a transfer, at either end, wherever it stands.
    pub(super) fn give_up(&mut self, id: TransferId, failure: Failure) {
        let unbegun = self.orders.own.get(&id).filter(|own| !own.begun).map(|own| own.peer);
        match unbegun {
            None => self.tell_transfer(id, Command::Cancel { id, failure }),
            // Its engine has never heard of it.
            Some(_) if self.streams.knows(id) => self.stream_ended(id, Err(failure)),
            Some(peer) => self.ended(peer_worker(&self.plan, peer), id, Err(failure)),
        }
    }

    /// By an operator's wish, at either end; he hears when it will stay so.
    pub(super) fn cancel(&mut self, id: TransferId, tag: u64, replies: &Replies) -> Result<(), String> {
        if !self.transfers.is_running(id) {
            return Err(format!("no transfer {} is running", Uuid::from_u128(id.0)));
        }
        self.asked_to_end(id, tag, replies);
        self.give_up(id, Failure::new(FailCode::Cancelled, "cancelled by the operator"));
        Ok(())
    }

    /// Change the limits of one queue, or of all.
    pub(super) fn set_queue(
        &mut self,
        to: Option<&str>,
        max_concurrent: Option<u32>,
        max_pending: Option<u32>,
    ) -> Result<(), String> {
        let most = crate::plan::QueuePlan::MAX_PENDING;
        if let Some(pending) = max_pending.filter(|pending| *pending > most) {
            return Err(format!("{pending} transfers are too many to wait; at most {most} may"));
        }
        let peers = match to {
            Some(name) => vec![self.peer(name)?],
            None => (0..self.plan.peers.len()).map(|index| PeerId(index as u16)).collect(),
        };
        for peer in peers {
            if let Some(queue) = self.orders.queue(peer) {
                queue.set_limits(max_concurrent, max_pending);
            }
            self.begin_next(peer);
        }
        Ok(())
    }

    /// The queues of all peers.
    pub(super) fn all_queues(&self) -> Vec<QueueStatus> {
        let mut room = ALL_PENDING_SHOWN;
        let status = |index| {
            let status = self.queue_status(index, room.min(PENDING_SHOWN));
            room -= status.pending.len();
            status
        };
        (0..self.orders.queues.len()).map(status).collect()
    }

    fn queue_status(&self, peer: usize, shown: usize) -> QueueStatus {
        let (Some(plan), Some(queue)) = (self.plan.peers.get(peer), self.orders.queues.get(peer)) else {
            return QueueStatus::default();
        };
        QueueStatus {
            peer: plan.name.clone(),
            active: queue.active(),
            max_concurrent: queue.max_concurrent(),
            max_pending: queue.max_pending(),
            pending: queue.waiting().take(shown).map(|id| id.0).collect(),
        }
    }

    /// All running transfers, for who asks for everything.
    pub(super) fn all_transfers(&self) -> Vec<TransferStatus> {
        self.with_positions(self.transfers.all().collect())
    }

    /// With the places in their queues as they are now.
    pub(super) fn with_positions(&self, mut list: Vec<TransferStatus>) -> Vec<TransferStatus> {
        if !list.iter().any(|status| matches!(status.state, TransferState::Pending { .. })) {
            return list;
        }
        let places: HashMap<_, _> = self.orders.queues.iter().flat_map(|queue| queue.waiting().zip(1..)).collect();
        for status in &mut list {
            let place = places.get(&TransferId(status.id));
            if let (TransferState::Pending { position }, Some(place)) = (&mut status.state, place) {
                *position = *place;
            }
        }
        list
    }
}

/// What the receiver learns of it.
fn meta_of(status: &TransferStatus) -> TransferMeta {
    TransferMeta {
        name: status.name.clone(),
        size: status.size.filter(|_| status.kind == TransferKind::File),
        declared: status.declared,
        priority: status.priority,
        attributes: status.attributes.clone(),
    }
}

#[cfg(test)]
mod tests;
