//! Orders that cannot be carried out, and the sentence that says why, with the numbers in it.

use florelay_engine::api::{TransferId, TransferMeta};
use florelay_engine::check_meta;
use florelay_engine::config::PeerId;
use uuid::Uuid;

use super::super::queue::Queue;
use super::super::{Gateway, incoming};
use crate::ipc::{Answer, Refusal, TransferKind, TransferOrder, TransferStatus};

/// Why an order was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Refused {
    refusal: Refusal,
    reason: String,
}

impl Refused {
    pub(in super::super) fn new(refusal: Refusal, reason: impl Into<String>) -> Self {
        Self { refusal, reason: reason.into() }
    }

    /// The order itself, or what came with it, cannot be used.
    pub(in super::super) fn invalid(reason: impl Into<String>) -> Self {
        Self::new(Refusal::Invalid, reason)
    }

    pub(super) fn full(peer: &str, queue: &Queue) -> Self {
        let (running, waiting, most) = (queue.active(), queue.pending(), queue.max_pending());
        let limit = queue.most_active();
        Self::new(
            Refusal::QueueFull,
            format!(
                "{running} transfers to {peer} run (at most {limit}) and {waiting} wait (at most {most}, max-pending)"
            ),
        )
    }

    pub(in super::super) fn into_answer(self) -> Answer {
        Answer::Refused { refusal: self.refusal, reason: self.reason }
    }
}

impl Gateway {
    /// Whether an order can be carried out at all; whom it is to, and what its receiver learns of it.
    pub(super) fn check(
        &self,
        order: &TransferOrder,
        size: Option<u64>,
        declared: Option<u64>,
    ) -> Result<(PeerId, TransferMeta), Refused> {
        let peer = self.peer(&order.to).map_err(|reason| Refused::new(Refusal::NoSuchPeer, reason))?;
        let (name, priority, attributes) = (order.name.clone(), order.priority, order.attributes.clone());
        let meta = TransferMeta { name, size, declared, priority, attributes };
        check_meta(&meta).map_err(Refused::invalid)?;
        // The receiver would refuse it; here it is said at once.
        if let Some(reason) = incoming::unfit(&meta.name).filter(|_| size.is_some()) {
            return Err(Refused::invalid(reason));
        }
        if let Some(deadline) = order.deadline_unix_ns.filter(|deadline| *deadline <= crate::wall::now_unix_ns()) {
            return Err(Refused::invalid(format!("its deadline, {}, has passed already", crate::wall::show(deadline))));
        }
        let id = TransferId(order.id);
        self.check_not_offered(id).map_err(|reason| Refused::new(Refusal::Duplicate, reason))?;
        if let Some(running) = self.transfers.running(id) {
            return Err(Refused::new(Refusal::Duplicate, in_use(running)));
        }
        // The same file again is answered by its receiver, if that has it; a stream cannot be told from another.
        if let Some(ended) = self.transfers.known_end(id)
            && (size.is_none() || !is_repeated(ended, order, size))
        {
            let (what, whom) = (&ended.name, &ended.peer);
            let way = if ended.outgoing { "to" } else { "from" };
            let reason = format!("transfer {} was `{what}` {way} {whom}; give another id", Uuid::from_u128(id.0));
            return Err(Refused::new(Refusal::Duplicate, reason));
        }
        Ok((peer, meta))
    }
}

/// Whether this order is the one that this file was sent by.
pub(in super::super) fn is_repeated(known: &TransferStatus, order: &TransferOrder, size: Option<u64>) -> bool {
    known.outgoing
        && known.kind == TransferKind::File
        && (&known.peer, &known.name, known.size) == (&order.to, &order.name, size)
}

pub(in super::super) fn in_use(running: &TransferStatus) -> String {
    let (id, what, whom) = (Uuid::from_u128(running.id), &running.name, &running.peer);
    let way = if running.outgoing { "to" } else { "from" };
    format!("transfer {id} is running: `{what}` {way} {whom}; give another id")
}
