//! What the node answers, as messages of the API. Text from peers is passed on as it is: who shows it makes it printable.

use florelay_dataplane::ipc;
use florelay_dataplane::plan::{ContactPlan, Rung};
use uuid::Uuid;

use super::proto;

fn id(id: u128) -> String {
    Uuid::from_u128(id).to_string()
}

/// A transfer.
pub(super) fn transfer(status: ipc::TransferStatus) -> proto::Transfer {
    use ipc::TransferState as From;
    use proto::TransferState as To;
    let (state, position, reason) = match (&status.ended, status.state) {
        (Some(_), _) => (To::Ended, None, String::new()),
        (None, From::Pending { position }) => (To::Pending, Some(position), String::new()),
        (None, From::Running) => (To::Running, None, String::new()),
        (None, From::Paused) => (To::Paused, None, String::new()),
        (None, From::NoReader) => (To::NoReader, None, String::new()),
        (None, From::NoWriter) => (To::NoWriter, None, String::new()),
        (None, From::NoFile(reason)) => (To::NoFile, None, reason),
    };
    let kind = match status.kind {
        ipc::TransferKind::File => proto::TransferKind::File,
        ipc::TransferKind::Stream => proto::TransferKind::Stream,
    };
    proto::Transfer {
        id: id(status.id),
        peer: status.peer,
        name: status.name,
        outgoing: status.outgoing,
        priority: u32::from(status.priority),
        attributes: status.attributes.into_iter().collect(),
        deadline_unix_ns: status.deadline_unix_ns,
        kind: kind.into(),
        state: state.into(),
        position,
        reason,
        size_bytes: status.size,
        declared_bytes: status.declared,
        confirmed_bytes: status.confirmed,
        accepted_bytes: status.accepted,
        spooled_bytes: status.spooled,
        wire_bytes: status.wire_bytes,
        age_ns: status.age_ns,
        stalled: status.stalled,
        path: status.path,
        ended: status.ended.map(end),
    }
}

fn end(result: Result<[u8; 32], ipc::Failure>) -> proto::End {
    use proto::end::Result as To;
    let result = match result {
        Ok(digest) => To::Blake3(digest.to_vec()),
        Err(ipc::Failure { code, reason }) => To::Failure(proto::Failure { code: code.name().to_owned(), reason }),
    };
    proto::End { result: Some(result) }
}

/// A queue.
pub(super) fn queue(queue: ipc::QueueStatus) -> proto::Queue {
    proto::Queue {
        peer: queue.peer,
        active: queue.active,
        max_concurrent: queue.max_concurrent,
        max_pending: queue.max_pending,
        pending: queue.pending.into_iter().map(id).collect(),
    }
}

/// An event.
pub(super) fn event(event: ipc::NodeEvent) -> proto::Event {
    use proto::event::Event as To;
    let event = match event {
        ipc::NodeEvent::Transfer(status) => To::Transfer(transfer(*status)),
        ipc::NodeEvent::Link { link, state, reason } => {
            To::Link(proto::LinkEvent { link, state, reason: reason.unwrap_or_default() })
        }
        ipc::NodeEvent::Peer { peer, state, reason } => {
            To::Peer(proto::PeerEvent { peer, state, reason: reason.unwrap_or_default() })
        }
        ipc::NodeEvent::Queue(status) => To::Queue(queue(status)),
        ipc::NodeEvent::Present => To::Present(proto::Present {}),
    };
    proto::Event { event: Some(event) }
}

/// The node.
pub(super) fn status(status: ipc::Status) -> proto::NodeStatus {
    proto::NodeStatus {
        node: status.node,
        snapshot: status.snapshot,
        uptime_ns: status.uptime_ns,
        links: status.links.into_iter().map(link).collect(),
        peers: status.peers.into_iter().map(peer).collect(),
        workers: status.workers.into_iter().map(worker).collect(),
        transfers: status.transfers.into_iter().map(transfer).collect(),
        capabilities: status.capabilities,
        note: status.note.unwrap_or_default(),
        api_counters: std::collections::BTreeMap::new(),
    }
}

/// A link.
pub(super) fn link(link: ipc::LinkStatus) -> proto::Link {
    let measured = link.measured;
    proto::Link {
        name: link.name,
        state: link.state,
        reason: link.reason.unwrap_or_default(),
        state_age_ns: link.state_age_ns,
        state_changes: link.state_changes,
        rung: rung(link.rung),
        rung_reasons: link
            .rung_reasons
            .into_iter()
            .map(|(of, reason)| proto::RungReason { rung: rung(of), reason })
            .collect(),
        rate_bps: link.rate_bps,
        burst_bytes: link.burst_bytes,
        rtt_ns: measured.rtt.map(|rtt| rtt.smoothed_ns),
        jitter_ns: measured.jitter_ns,
        loss_from_neighbour_ppm: measured.from_neighbour.short.loss_ppm,
        loss_to_neighbour_ppm: measured.to_neighbour.and_then(|to| to.short.loss_ppm),
        clock_error_ns: measured.clock.ok().map(|clock| clock.error_ns),
        counters: link.counters.into_iter().collect(),
    }
}

fn rung(rung: Rung) -> String {
    match rung {
        Rung::ZeroCopy => "zero-copy",
        Rung::DriverCopy => "driver-copy",
        Rung::Generic => "generic",
        Rung::Socket => "socket",
        Rung::Sim => "sim",
    }
    .to_owned()
}

fn peer(peer: ipc::PeerStatus) -> proto::Peer {
    proto::Peer {
        name: peer.name,
        state: peer.state,
        reason: peer.reason.unwrap_or_default(),
        rtt_ns: peer.rtt_ns,
        counters: peer.counters.into_iter().collect(),
    }
}

fn worker(worker: ipc::WorkerStatus) -> proto::Worker {
    proto::Worker {
        index: u32::try_from(worker.index).unwrap_or(u32::MAX),
        core: worker.core.and_then(|core| u32::try_from(core).ok()),
        frames_total: worker.frames.total,
        frames_leaked: worker.frames.leaked,
        counters: worker.counters.into_iter().collect(),
    }
}

/// A contact plan.
pub(super) fn contacts(of: ipc::ContactsOfLink) -> proto::ContactPlan {
    let contact = |contact: ContactPlan| {
        let ContactPlan { start_unix_ns, end_unix_ns, rate_bps, delay_ns } = contact;
        proto::Contact { start_unix_ns, end_unix_ns, rate_bps, delay_ns }
    };
    proto::ContactPlan {
        link: of.link,
        contacts: of.plan.into_iter().map(contact).collect(),
        refused: of.refused.unwrap_or_default(),
    }
}
