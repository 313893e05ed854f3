//! `[node]`: who this node is, where its files are, and its workers.

use std::path::PathBuf;
use std::time::SystemTime;

use florelay_dataplane::plan::{PollMode, SpoolPlan, WorkerPlan};
use toml::de::DeValue;

use super::diagnostic::Source;
use super::files::{self, Checks, Identity, resolve};
use super::names;
use super::read::{Field, Table, Wrong, boolean, integer, string, unit, word};
use super::units;

/// Most workers: connection ids carry the worker in one byte.
const MAX_WORKERS: usize = 256;
/// What a spool may have on disk; or nothing.
const DISK_SPOOL_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 50);
/// What a spool may have.
const SPOOL_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(64 << 30);
/// Most cores that Linux can be built for, `CONFIG_NR_CPUS`.
const MAX_CORE: u64 = 8191;

/// The section's contents; an entry is `None` where it is absent or wrong, which is recorded.
#[derive(Debug)]
pub(super) struct NodeDraft {
    pub(super) name: Option<String>,
    pub(super) realm: Option<String>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) trust: Option<PathBuf>,
    pub(super) inbox: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) spool: SpoolPlan,
    pub(super) workers: Vec<WorkerPlan>,
}

/// Reads `[node]`.
pub(super) fn read(source: &mut Source<'_>, mut table: Table<'_>, checks: Checks) -> NodeDraft {
    let t = &mut table;
    let name = t.required(source, "name", "\"station-a\"", names::node);
    let realm = t.required(source, "realm", "\"demo.rete\"", names::realm);
    let certificate = path(source, t, "certificate", "\"pki/station-a.crt\"");
    let key = path(source, t, "key", "\"pki/station-a.key\"");
    let trust = path(source, t, "trust", "\"pki/ca.crt\"");
    let inbox = path(source, t, "inbox", "\"inbox\"");
    let state_dir = path(source, t, "state-dir", "\"state\"");
    let spool = spool(source, t);
    let workers = workers(source, t);
    table.close(source);
    if let (Checks::Full, Some(certificate), Some(key), Some(trust), Some(realm), Some(node)) =
        (checks, &certificate, &key, &trust, &realm, &name)
    {
        let id = Identity { certificate, key, trust, realm: &realm.value, node: &node.value };
        files::identity(source, &id, SystemTime::now());
    }
    let resolved = |f: Option<Field<PathBuf>>| f.map(|f| resolve(source, &f.value));
    NodeDraft {
        certificate: resolved(certificate),
        key: resolved(key),
        trust: resolved(trust),
        inbox: resolved(inbox),
        state_dir: resolved(state_dir),
        name: name.map(|f| f.value),
        realm: realm.map(|f| f.value),
        spool,
        workers,
    }
}

fn path(source: &mut Source<'_>, t: &mut Table<'_>, name: &'static str, example: &str) -> Option<Field<PathBuf>> {
    t.required(source, name, example, |v| {
        let text = string(v)?;
        if text.is_empty() || text.contains('\0') {
            return Err(("this is not a path".to_owned(), "a path, relative to the configuration file".to_owned()));
        }
        Ok(PathBuf::from(text))
    })
}

/// `stream-spool` and `spool`: memory, so neither nothing nor without an end. `stream-disk-spool` and `disk-spool`: 0 = no disk.
fn spool(source: &mut Source<'_>, t: &mut Table<'_>) -> SpoolPlan {
    let bytes = |value: &DeValue<'_>| -> Result<u64, Wrong> {
        let bytes = unit(units::bytes, "\"16 MiB\"")(value)?;
        if SPOOL_BYTES.contains(&bytes) {
            return Ok(bytes);
        }
        Err((format!("{bytes} bytes are too few or too many"), "64 KiB to 64 GiB".to_owned()))
    };
    let default = SpoolPlan::default();
    let stream = t.optional(source, "stream-spool", bytes);
    let node = t.optional(source, "spool", bytes);
    let on_disk = |value: &DeValue<'_>| -> Result<u64, Wrong> {
        // Nothing needs no unit.
        if value.as_str() == Some("0") || value.as_integer().is_some_and(|number| number.as_str() == "0") {
            return Ok(0);
        }
        let bytes = unit(units::bytes, "\"16 GiB\"")(value)?;
        if bytes == 0 || DISK_SPOOL_BYTES.contains(&bytes) {
            return Ok(bytes);
        }
        Err((format!("{bytes} bytes are too few or too many"), "0, or 1 MiB to 1 PiB".to_owned()))
    };
    let stream_disk = t.optional(source, "stream-disk-spool", on_disk);
    let disk = t.optional(source, "disk-spool", on_disk);
    let plan = SpoolPlan {
        stream_bytes: stream.as_ref().map_or(default.stream_bytes, |f| f.value),
        node_bytes: node.as_ref().map_or(default.node_bytes, |f| f.value),
        stream_disk_bytes: stream_disk.as_ref().map_or(default.stream_disk_bytes, |f| f.value),
        node_disk_bytes: disk.as_ref().map_or(default.node_disk_bytes, |f| f.value),
        sync: t.optional(source, "sync-spool", boolean).is_none_or(|f| f.value),
    };
    if let Some(given) = stream_disk.or(disk)
        && plan.stream_disk_bytes > plan.node_disk_bytes
    {
        let (stream, node) = (plan.stream_disk_bytes, plan.node_disk_bytes);
        let message = format!("a stream may keep {stream} bytes on disk, the whole node {node}");
        given.error(
            source,
            message,
            "stream-disk-spool (16 GiB unless given) is at most disk-spool (64 GiB unless given)",
        );
    }
    if let Some(given) = stream.or(node)
        && plan.stream_bytes > plan.node_bytes
    {
        let message = format!("a stream may keep {} bytes, the whole node {}", plan.stream_bytes, plan.node_bytes);
        given.error(source, message, "stream-spool (16 MiB unless given) is at most spool (256 MiB unless given)");
    }
    plan
}

/// One adaptive worker on no particular core, unless said otherwise.
fn workers(source: &mut Source<'_>, t: &mut Table<'_>) -> Vec<WorkerPlan> {
    let given = t.get("workers").map(toml::Spanned::span);
    let tables = t.tables(source, "workers", None);
    let mut plans: Vec<WorkerPlan> = Vec::new();
    for mut t in tables {
        let core =
            t.optional(source, "core", integer(0..=MAX_CORE)).map(|f| f.map(|n| usize::try_from(n).unwrap_or(0)));
        let modes =
            &[("adaptive", PollMode::Adaptive), ("busy", PollMode::Busy), ("threaded-napi", PollMode::ThreadedNapi)];
        let poll = t.optional(source, "poll", word(modes));
        if let Some(core) = &core
            && plans.iter().any(|p| p.core == Some(core.value))
        {
            core.error(source, format!("core {} has a worker already", core.value), "one worker per core");
        }
        if let Some(poll) = &poll
            && poll.value == PollMode::Busy
            && core.is_none()
        {
            poll.error(source, "a busy worker keeps its core to itself, and this has none", "add core = …");
        }
        t.close(source);
        plans.push(WorkerPlan { core: core.map(|c| c.value), poll: poll.map_or(PollMode::Adaptive, |p| p.value) });
    }
    if let Some(span) = &given
        && plans.len() > MAX_WORKERS
    {
        let message = format!("{} workers are too many", plans.len());
        source.error(span, "node.workers", message, format!("at most {MAX_WORKERS}"));
    }
    if plans.is_empty() {
        if let Some(span) = given {
            source.error(&span, "node.workers", "no worker", "remove the key for one adaptive worker on any core");
        }
        plans.push(WorkerPlan { core: None, poll: PollMode::Adaptive });
    }
    plans
}
