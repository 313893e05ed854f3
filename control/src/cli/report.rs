//! What the commands print: tables for people, JSON for machines.
//!
//! In JSON, ids are UUID strings, digests hexadecimal, counters objects, times nanoseconds (`…_ns`), rates bit/s
//! (`…_bps`): 128-bit numbers do not survive most readers.

use std::fmt::Write as _;
use std::path::Path;

use florelay_dataplane::ipc::{Status, TransferState, TransferStatus};
use florelay_dataplane::plan::{AdapterPlan, NodePlan, Rung};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::out::say;
use super::table::table;
use super::{contacts, drops, links};
use crate::config::units::{show_bytes, show_duration, show_rate};
use crate::config::{Diagnostic, frame};
use crate::hex;
use crate::printable::printable;

/// Percentiles that `c2` prints.
const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// What a configuration amounts to. `columns`: of the terminal, if there is one; so below.
pub(super) fn plan(path: &Path, plan: &NodePlan, columns: Option<usize>) -> String {
    let mut rows =
        vec![["LINK", "ADAPTER", "LOCAL", "REMOTE", "RATE", "BURST", "QUIC PACKET"].map(str::to_owned).to_vec()];
    for link in &plan.links {
        let adapter = match &link.adapter {
            AdapterPlan::Xdp { interface, .. } => format!("xdp on {interface}"),
            AdapterPlan::Udp => "udp".to_owned(),
            AdapterPlan::Sim(_) => "sim".to_owned(),
        };
        let quic = frame::quic_mtu(link.mtu, &link.local).map_or("-".to_owned(), |q| format!("{q} B"));
        let (local, remote) = match &link.adapter {
            AdapterPlan::Sim(sim) => (sim.socket.display().to_string(), sim.peer.display().to_string()),
            AdapterPlan::Xdp { .. } | AdapterPlan::Udp => (link.local.to_string(), link.remote.to_string()),
        };
        rows.push(vec![
            link.name.clone(),
            adapter,
            local,
            remote,
            show_rate(link.rate_bps),
            show_bytes(link.burst_bytes.into()),
            quic,
        ]);
    }
    let mut text = format!(
        "{}: accepted; node {} of realm {}\n\n{}",
        path.display(),
        plan.node,
        plan.realm,
        table(&rows, &[0], columns)
    );
    for link in &plan.links {
        if let AdapterPlan::Sim(sim) = &link.adapter {
            let _ = writeln!(text, "link {} is simulated, on its way out: {}", link.name, sim.model);
        }
    }
    for peer in &plan.peers {
        let role = if peer.originator { "dials" } else { "is dialled by" };
        let link = plan.links.get(usize::from(peer.link)).map_or("?", |l| l.name.as_str());
        let _ = writeln!(
            text,
            "peer {} over {link}, labels out {} in {}; this node {role} it",
            peer.name, peer.out_label, peer.in_label
        );
    }
    match plan.transits.len() {
        0 => {}
        1 => text.push_str("1 transit row\n"),
        rows => {
            let _ = writeln!(text, "{rows} transit rows");
        }
    }
    text
}

/// What is doubtful in a file, on standard error.
pub(super) fn warn(warnings: &[Diagnostic]) {
    for warning in warnings {
        say(format_args!("warning: {warning}"));
    }
}

/// A diagnostic for machines.
pub(super) fn diagnostic_json(d: &Diagnostic) -> Value {
    json!({ "file": d.file, "line": d.line, "column": d.column, "key": d.key, "message": d.message, "hint": d.hint })
}

/// `florelay status`.
pub(super) fn status(s: &Status, columns: Option<usize>) -> String {
    let mut text = String::new();
    if let Some(note) = &s.note {
        let _ = writeln!(text, "NOTE: {note}\n");
    }
    let _ = writeln!(text, "node {}, snapshot {}, up {}\n", s.node, s.snapshot, show_duration(s.uptime_ns));
    let mut rows =
        vec![["LINK", "STATE", "RUNG", "RATE", "RTT", "SENT", "RECEIVED", "DROPS"].map(str::to_owned).to_vec()];
    for l in &s.links {
        let drops: u64 = drops::of(&l.counters).map(|(_, count)| count).sum();
        let bytes = |name| l.counters.iter().find(|(n, _)| n == name).map_or("-".to_owned(), |(_, v)| show_bytes(*v));
        let rtt = l.measured.rtt.map_or("-".to_owned(), |rtt| show_duration(rtt.smoothed_ns));
        rows.push(vec![
            l.name.clone(),
            l.state.clone(),
            rung(l.rung).to_owned(),
            show_rate(l.rate_bps),
            rtt,
            bytes("tx_bytes"),
            bytes("rx_bytes"),
            drops.to_string(),
        ]);
    }
    text.push_str(&table(&rows, &[0], columns));
    for l in &s.links {
        links::describe(&mut text, l);
        if let Some(status) = &l.contacts {
            contacts::describe(&mut text, &l.name, status);
        }
        if let Some(impairments) = &l.impairments {
            let _ = writeln!(text, "  {} is simulated: {impairments}", l.name);
        }
        for (higher, why) in &l.rung_reasons {
            let _ = writeln!(text, "  {} is not {}: {why}", l.name, rung(*higher));
        }
        text.push_str(&drops::line(&l.name, &l.counters));
    }
    for w in &s.workers {
        text.push_str(&drops::line(&format!("worker {}", w.index), &w.counters));
    }
    let mut rows = vec![["PEER", "STATE", "RTT"].map(str::to_owned).to_vec()];
    for p in &s.peers {
        let state = p.reason.as_ref().map_or_else(|| p.state.clone(), |r| format!("{} ({r})", p.state));
        rows.push(vec![p.name.clone(), state, p.rtt_ns.map_or("-".to_owned(), show_duration)]);
    }
    if !s.peers.is_empty() {
        let _ = write!(text, "\n{}", table(&rows, &[0], columns));
    }
    if !s.transfers.is_empty() {
        let _ = write!(text, "\n{}", transfers(&s.transfers, columns));
    }
    if s.capabilities != "none" {
        let _ = writeln!(text, "\nthe dataplane has capabilities: {}", s.capabilities);
    }
    for w in s.workers.iter().filter(|w| w.frames.leaked != 0) {
        let _ = writeln!(
            text,
            "\nworker {}: {} frames of {} are unaccounted for",
            w.index, w.frames.leaked, w.frames.total
        );
    }
    text
}

/// `florelay transfers`, and those of `status`.
pub(super) fn transfers(list: &[TransferStatus], columns: Option<usize>) -> String {
    let mut rows =
        vec![["TRANSFER", "", "PEER", "NAME", "PRIO", "CONFIRMED", "TIME", "STATE"].map(str::to_owned).to_vec()];
    for t in list {
        let way = if t.outgoing { "to" } else { "from" };
        rows.push(vec![
            Uuid::from_u128(t.id).to_string(),
            way.to_owned(),
            t.peer.clone(),
            t.name.clone(),
            t.priority.to_string(),
            progress(t),
            time(t),
            state(t),
        ]);
    }
    table(&rows, &[2, 3], columns)
}

/// `florelay status --json`.
pub(super) fn status_json(s: &Status) -> Value {
    let links: Vec<_> = s
        .links
        .iter()
        .map(|l| {
            let reasons: Vec<_> =
                l.rung_reasons.iter().map(|(r, why)| json!({ "rung": rung(*r), "reason": why })).collect();
            json!({
                "name": l.name, "state": l.state, "reason": l.reason, "state_age_ns": l.state_age_ns,
                "state_changes": l.state_changes, "rung": rung(l.rung), "rung_reasons": reasons,
                "impairments": l.impairments,
                "queues": l.queues, "rate_bps": l.rate_bps, "burst_bytes": l.burst_bytes, "rtt_ns": l.measured.rtt.map(|rtt| rtt.smoothed_ns),
                "measured": links::measured_json(&l.measured),
                "contacts": l.contacts.as_ref().map(contacts::status_json), "counters": counters(&l.counters),
            })
        })
        .collect();
    let peers: Vec<_> = s
        .peers
        .iter()
        .map(|p| json!({ "name": p.name, "state": p.state, "reason": p.reason, "rtt_ns": p.rtt_ns, "counters": counters(&p.counters) }))
        .collect();
    let workers: Vec<_> = s
        .workers
        .iter()
        .map(|w| {
            let f = &w.frames;
            let frames = json!({ "total": f.total, "free": f.free, "fill": f.fill, "held": f.held, "tx": f.tx, "leaked": f.leaked });
            json!({ "index": w.index, "core": w.core, "frames": frames, "counters": counters(&w.counters) })
        })
        .collect();
    let transfers: Vec<_> = s.transfers.iter().map(transfer_json).collect();
    json!({
        "node": s.node, "snapshot": s.snapshot, "uptime_ns": s.uptime_ns, "note": s.note,
        "capabilities": s.capabilities,
        "links": links, "peers": peers, "workers": workers, "transfers": transfers, "transfers_running": s.transfers_running,
    })
}

/// One line of `send --json` and `watch --json`.
pub(super) fn transfer_json(t: &TransferStatus) -> Value {
    let (blake3, error, code) = match &t.ended {
        Some(Ok(digest)) => (Some(hex::encode(digest)), None, None),
        Some(Err(failure)) => (None, Some(&failure.reason), Some(failure.code.name())),
        None => (None, None, None),
    };
    let attributes: Map<_, _> = t.attributes.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let (state, place) = match &t.state {
        TransferState::Pending { position } => ("pending", Some(*position)),
        TransferState::Running => ("running", None),
        TransferState::Paused => ("paused", None),
        TransferState::NoReader => ("no-reader", None),
        TransferState::NoWriter => ("no-writer", None),
        TransferState::NoFile(_) => ("no-file", None),
    };
    json!({
        "id": Uuid::from_u128(t.id).to_string(), "peer": t.peer, "name": t.name, "outgoing": t.outgoing, "priority": t.priority,
        "attributes": attributes, "deadline_unix_ns": t.deadline_unix_ns,
        "kind": t.kind, "size": t.size, "declared": t.declared, "confirmed": t.confirmed, "accepted": t.accepted,
        "spooled": t.spooled, "state": state, "place": place, "waiting": t.state == TransferState::NoReader,
        "age_ns": t.age_ns, "stalled": t.stalled, "path": t.path,
        "ended": t.ended.is_some(), "blake3": blake3, "error": error, "code": code,
    })
}

/// The last line of `send` and `watch`.
pub(super) fn transfer_done(t: &TransferStatus, digest: &[u8; 32]) -> String {
    let way = if t.outgoing { "to" } else { "from" };
    let rate =
        (u128::from(t.confirmed) * 8_000_000_000).checked_div(u128::from(t.age_ns)).and_then(|r| u64::try_from(r).ok());
    let rate = rate.map_or(String::new(), |r| format!(", {}", show_rate(Some(r))));
    format!(
        "{} {way} {}: {} in {}{rate}\nid {}\nBLAKE3 {}",
        printable(&t.name),
        t.peer,
        show_bytes(t.confirmed),
        show_duration(t.age_ns),
        Uuid::from_u128(t.id),
        hex::encode(digest),
    )
}

/// The end of `c2`.
pub(super) fn latencies(h: &Histogram<u64>, as_json: bool) -> String {
    if as_json {
        let mut object = json!({ "count": h.len(), "min_ns": h.min(), "max_ns": h.max(), "mean_ns": h.mean() });
        for p in PERCENTILES {
            object[format!("p{p}_ns")] = json!(h.value_at_percentile(p));
        }
        return object.to_string();
    }
    if h.len() == 1 {
        return format!("acknowledged after {}", show_duration(h.max()));
    }
    let percentiles: String =
        PERCENTILES.iter().map(|p| format!("  p{p} {}", show_duration(h.value_at_percentile(*p)))).collect();
    format!("{} acknowledged  min {}{percentiles}  max {}", h.len(), show_duration(h.min()), show_duration(h.max()))
}

fn rung(rung: Rung) -> &'static str {
    match rung {
        Rung::ZeroCopy => "zero-copy",
        Rung::DriverCopy => "driver-copy",
        Rung::Generic => "generic",
        Rung::Socket => "socket",
        Rung::Sim => "sim",
    }
}

fn counters(pairs: &[(String, u64)]) -> Value {
    Value::Object(pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>())
}

fn progress(t: &TransferStatus) -> String {
    match t.size {
        Some(size) if size > 0 => {
            let percent = u128::from(t.confirmed) * 100 / u128::from(size);
            format!("{} of {} ({percent} %)", show_bytes(t.confirmed), show_bytes(size))
        }
        _ => show_bytes(t.confirmed),
    }
}

/// How long it has been running, or how long it took.
fn time(t: &TransferStatus) -> String {
    let age = show_duration(t.age_ns);
    if t.ended.is_some() { format!("took {age}") } else { age }
}

fn state(t: &TransferStatus) -> String {
    match &t.ended {
        Some(Ok(_)) => "done".to_owned(),
        Some(Err(reason)) => format!("failed: {reason}"),
        None if t.stalled => "STALLED".to_owned(),
        None => match &t.state {
            TransferState::Pending { position } => format!("waits, place {position}"),
            TransferState::Running => "running".to_owned(),
            TransferState::Paused => "paused".to_owned(),
            TransferState::NoReader => "waits for a reader".to_owned(),
            TransferState::NoWriter => "waits for its writer".to_owned(),
            TransferState::NoFile(reason) => format!("waits for its file: {reason}"),
        },
    }
}
