//! The node's state for people and machines, put together from what the workers report.

use std::time::Duration;

use florelay_engine::api::PeerState;
use florelay_engine::config::LinkId;
use florelay_engine::contact::{self, ContactReport};
use florelay_engine::datagrams::DatagramDrop;
use florelay_engine::egress::{Class, EgressDrop};
use florelay_engine::oam::{ClockUnknown, Direction, Figures, Seen};
use florelay_engine::{ConditionReport, LinkReport, PeerReport};

use crate::contacts::Contacts;
use crate::ipc::{
    ClockStatus, ContactStatus, DirectionStatus, LinkStatus, MeasuredStatus, PassUsage, PeerStatus, RttStatus, Status,
    WindowStatus, WorkerStatus,
};
use crate::plan::{AdapterPlan, LinkPlan, NodePlan, Rung};
use crate::worker::WorkerReport;

/// One status from the reports of all workers, without transfers: those are the gateway's.
pub(crate) fn assemble(
    plan: &NodePlan,
    uptime: Duration,
    reports: &[Box<WorkerReport>],
    contacts: &Contacts,
) -> Status {
    let snapshot = reports.iter().map(|report| report.engine.snapshot).min().unwrap_or(plan.snapshot);
    let links = plan.links.iter().enumerate().filter_map(|(index, link)| {
        let report = reports.get(link.worker)?;
        let engine = report.engine.links.iter().find(|engine| usize::from(engine.id.0) == index)?;
        let planned = report.contacts.iter().find(|(id, _)| *id == engine.id);
        let planned = planned.map(|(id, planned)| contact_status(*id, planned, contacts));
        let condition = report.conditions.iter().find(|condition| condition.link == engine.id)?;
        Some(link_status(link, engine, condition, report, index, planned))
    });
    let peers = plan.peers.iter().enumerate().filter_map(|(index, peer)| {
        let worker = plan.links.get(usize::from(peer.link))?.worker;
        let report = reports.get(worker)?.engine.peers.iter().find(|report| usize::from(report.id.0) == index)?;
        Some(peer_status(report))
    });
    Status {
        node: plan.node.clone(),
        snapshot,
        uptime_ns: super::gateway::nanos(uptime),
        links: links.collect(),
        peers: peers.collect(),
        workers: reports
            .iter()
            .map(|report| WorkerStatus {
                index: report.index,
                core: report.core,
                frames: report.frames,
                counters: report.counters.clone(),
            })
            .collect(),
        transfers: Vec::new(),
        transfers_running: 0,
        capabilities: crate::supervisor::capabilities_in_words(),
        note: None,
    }
}

/// Datagrams that arrived and were dropped by the gateway, because no application takes them; by peer of the plan.
pub(crate) fn add_untaken(plan: &NodePlan, status: &mut Status, untaken: &[u64]) {
    for (peer, count) in plan.peers.iter().zip(untaken).filter(|(_, count)| **count > 0) {
        if let Some(status) = status.peers.iter_mut().find(|status| status.name == peer.name) {
            status.counters.push(("datagrams_drop_no_application".into(), *count));
        }
    }
}

/// What the gateway counts: trouble with the file of known paths, what the spool holds. It is the node's: the first worker
/// stands for it.
pub(crate) fn add_node_counters(status: &mut Status, counters: impl Iterator<Item = (String, u64)>) {
    if let Some(worker) = status.workers.first_mut() {
        worker.counters.extend(counters);
    }
}

/// What the XDP programs of a worker's interfaces counted, beside the worker's own counters and summed like them:
/// `xdp_steered`, `xdp_drop_malformed`, `xdp_malformed_too_short`, …
pub(crate) fn add_program_counters(
    plan: &NodePlan,
    status: &mut Status,
    counters: impl Fn(&str) -> Option<Vec<(String, u64)>>,
) {
    let mut seen = Vec::new();
    for link in &plan.links {
        let AdapterPlan::Xdp { interface, .. } = &link.adapter else { continue };
        let Some(worker) = status.workers.iter_mut().find(|worker| worker.index == link.worker) else { continue };
        if seen.contains(&interface) {
            continue;
        }
        seen.push(interface);
        for (name, count) in counters(interface).into_iter().flatten() {
            let name = format!("xdp_{name}");
            match worker.counters.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => worker.counters.push((name, count)),
            }
        }
    }
}

/// The engine's account, with the contacts as the operator wrote them.
fn contact_status(link: LinkId, report: &ContactReport, contacts: &Contacts) -> ContactStatus {
    let plan = contacts.settings(link).and_then(|settings| settings.plan.as_deref()).unwrap_or_default();
    let written = |key: u64| plan.iter().find(|contact| contact.start_unix_ns == key).copied();
    let usage = |usage: &contact::PassUsage| PassUsage {
        start_unix_ns: usage.key,
        sent_bytes: usage.sent_bytes,
        carried_bytes: usage.carried_bytes,
        capacity_bytes: usage.capacity_bytes,
    };
    let nanos = super::gateway::nanos;
    let present = report.present.as_ref();
    let next = report.next.as_ref();
    ContactStatus {
        refused: report.refused.as_deref().map(str::to_owned),
        present: present.and_then(|(contact, used, left)| Some((written(contact.key)?, usage(used), nanos(*left)))),
        next: next.and_then(|(contact, until)| Some((written(contact.key)?, nanos(*until)))),
        last: report.last.as_ref().map(usage),
    }
}

fn link_status(
    plan: &LinkPlan,
    engine: &LinkReport,
    condition: &ConditionReport,
    worker: &WorkerReport,
    index: usize,
    contacts: Option<ContactStatus>,
) -> LinkStatus {
    let adapter = worker.links.iter().find(|link| usize::from(link.link) == index);
    let egress = &engine.egress;
    let mut counters: Vec<(String, u64)> =
        vec![("tx_frames".into(), egress.tx_frames.iter().sum()), ("tx_bytes".into(), egress.tx_bytes.iter().sum())];
    for class in Class::ALL {
        counters.push((format!("tx_{}_frames", class.name()), egress.tx_frames[class.index()]));
        counters.push((format!("tx_{}_bytes", class.name()), egress.tx_bytes[class.index()]));
    }
    counters.push(("tx_ecn_marked".into(), egress.ecn_marked));
    counters.push(("rx_frames".into(), engine.rx_frames));
    counters.push(("rx_bytes".into(), engine.rx_bytes));
    counters.push(("rx_lost".into(), engine.rx_lost));
    counters.push(("rx_reordered".into(), engine.rx_reordered));
    counters.push(("rx_ecn_ce".into(), engine.rx_ecn_ce));
    for (reason, count) in &engine.drops {
        counters.push((format!("drop_{reason}"), *count));
    }
    for reason in EgressDrop::ALL {
        let count = egress.drops[reason.index()];
        if count > 0 {
            counters.push((format!("drop_{}", reason.name()), count));
        }
    }
    if engine.oam_dropped > 0 {
        counters.push(("drop_oam_waiting_full".into(), engine.oam_dropped));
    }
    counters.extend(adapter.into_iter().flat_map(|adapter| adapter.counters.iter().cloned()));
    LinkStatus {
        name: plan.name.clone(),
        state: condition.condition.name().to_owned(),
        reason: condition.reason.clone(),
        state_age_ns: super::gateway::nanos(condition.since),
        state_changes: condition.changes,
        rung: adapter.map_or(Rung::Socket, |adapter| adapter.rung),
        rung_reasons: adapter.map(|adapter| adapter.reasons.clone()).unwrap_or_default(),
        impairments: match &plan.adapter {
            AdapterPlan::Sim(sim) => Some(sim.model.to_string()),
            AdapterPlan::Xdp { .. } | AdapterPlan::Udp => None,
        },
        queues: adapter.map(|adapter| adapter.queues.clone()).unwrap_or_default(),
        rate_bps: engine.rate.rate_bps,
        burst_bytes: engine.rate.burst_bytes,
        measured: measured(&condition.figures),
        contacts,
        counters,
    }
}

fn measured(figures: &Figures) -> MeasuredStatus {
    let nanos = super::gateway::nanos;
    MeasuredStatus {
        rtt: figures.rtt.map(|rtt| RttStatus {
            smoothed_ns: nanos(rtt.smoothed),
            min_ns: nanos(rtt.shortest),
            latest_ns: nanos(rtt.latest),
        }),
        jitter_ns: figures.jitter.map(nanos),
        from_neighbour: direction(&figures.receive),
        to_neighbour: figures.send.as_ref().map(direction),
        clock: match figures.clock {
            Ok(clock) => Ok(ClockStatus {
                error_ns: clock.error_ns,
                bound_ns: clock.bound_ns,
                to_neighbour_ns: nanos(clock.there),
                from_neighbour_ns: nanos(clock.back),
            }),
            Err(unknown) => Err(match unknown {
                ClockUnknown::OwnClock => "the clock of this node is not set",
                ClockUnknown::NeighboursClock => "the neighbour's clock is not set",
                ClockUnknown::NeighboursVersion => "the neighbour runs a version that does not tell its time",
                ClockUnknown::NoExchange => "nothing was exchanged with the neighbour lately",
            }
            .to_owned()),
        },
    }
}

fn direction(direction: &Direction) -> DirectionStatus {
    let window = |seen: &Seen| WindowStatus {
        expected: seen.expected,
        lost: seen.lost,
        reordered: seen.reordered,
        loss_ppm: seen.loss_ppm(),
        reorder_ppm: seen.reorder_ppm(),
    };
    DirectionStatus { short: window(&direction.short), long: window(&direction.long) }
}

fn peer_status(report: &PeerReport) -> PeerStatus {
    let (state, reason) = match &report.state {
        PeerState::Connecting => ("connecting", None),
        PeerState::Connected => ("connected", None),
        PeerState::Dark(reason) => ("dark", Some(reason.to_string())),
        PeerState::Lost(reason) => ("lost", Some(reason.to_string())),
    };
    let dropped = |reason: &DatagramDrop| (reason.name(), report.datagrams.dropped(*reason));
    let dropped = DatagramDrop::ALL.iter().map(dropped).filter(|(_, count)| *count > 0);
    let datagrams = [("sent", report.datagrams.sent), ("received", report.datagrams.received)];
    let datagrams = datagrams.map(|(name, count)| (format!("datagrams_{name}"), count)).into_iter();
    let datagrams = datagrams.chain(dropped.map(|(name, count)| (format!("datagrams_drop_{name}"), count)));
    let counters = [
        ("quic_sent_packets", report.sent_packets),
        ("quic_lost_packets", report.lost_packets),
        ("quic_lost_bytes", report.lost_bytes),
        ("quic_cwnd_bytes", report.cwnd),
        ("congestion_ecn", report.signals.ecn),
        ("congestion_queue", report.signals.queue),
        ("congestion_longer_way", report.signals.longer_way),
        ("handshakes", report.counters.handshakes),
        ("handshake_failures", report.counters.handshake_failures),
        ("connections_lost", report.counters.lost),
        ("responses_dropped", report.counters.responses_dropped),
        ("session_errors", report.counters.session_errors),
        ("hello_timeouts", report.counters.hello_timeouts),
        ("messages_unwritten", report.messages.unwritten),
        ("messages_unwritten_bytes", report.messages.unwritten_bytes),
        ("message_datagrams_refused", report.messages.refused_datagrams),
    ];
    PeerStatus {
        name: report.name.to_string(),
        state: state.to_owned(),
        reason,
        rtt_ns: report.rtt.map(super::gateway::nanos),
        counters: counters.map(|(name, count)| (name.to_owned(), count)).into_iter().chain(datagrams).collect(),
    }
}
