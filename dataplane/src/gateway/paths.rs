//! What engines have measured of their peers' paths, kept in `paths.known` in the state directory, so that a node that is
//! started again need not find out anew.
//!
//! ```text
//!   "FLP1" · BLAKE3 of the rest · postcard: records                  a new file, which takes the old one's name
//! ```
//!
//! It is a hint, and nobody waits for it: a file that is damaged, or another's, is ignored and counted. So it is not synced
//! while the node runs; what a power cut leaves of it is noticed. A record counts for a day, on a clock that is set, and as
//! long as the configuration of its path is the same.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use florelay_engine::config::{PathMemory, PeerId};
use serde::{Deserialize, Serialize};

use super::nanos;
use crate::contacts::CLOCK_SET_UNIX_NS;
use crate::plan::{NodePlan, PeerPlan};

const FILE_NAME: &str = "paths.known";
/// The version is its last byte.
const MAGIC: &[u8; 4] = b"FLP1";
const HASH_BYTES: usize = 32;
/// More than 65,535 peers with long names would not take; a file that is larger is not ours.
const MAX_FILE_BYTES: u64 = 32 << 20;
/// What is older says little of the path.
const MAX_AGE_NS: u64 = 24 * 3600 * 1_000_000_000;
/// A measurement from the future is of a clock that was set since; so much is the clock's own error.
const MAX_AHEAD_NS: u64 = 60 * 1_000_000_000;
/// While there is something new.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// One path of this node. Names and numbers of the configuration tell whether it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    peer: String,
    link: String,
    configured_rtt_ns: u64,
    measured_unix_ns: u64,
    least_rtt_ns: u64,
    smoothed_rtt_ns: u64,
    rate_bps: Option<u64>,
    planned_rate_bps: Option<u64>,
    planned_rtt_ns: Option<u64>,
}

impl Record {
    fn is_of(&self, plan: &NodePlan, peer: &PeerPlan) -> bool {
        let link = plan.links.get(usize::from(peer.link)).map(|link| &link.name);
        self.peer == peer.name && link == Some(&self.link) && self.configured_rtt_ns == peer.initial_rtt_ns
    }

    fn is_recent(&self, now_unix_ns: u64) -> bool {
        let age = now_unix_ns.saturating_sub(self.measured_unix_ns);
        let ahead = self.measured_unix_ns.saturating_sub(now_unix_ns);
        now_unix_ns >= CLOCK_SET_UNIX_NS && age <= MAX_AGE_NS && ahead <= MAX_AHEAD_NS
    }

    fn memory(&self) -> PathMemory {
        PathMemory {
            least_rtt: Duration::from_nanos(self.least_rtt_ns),
            smoothed_rtt: Duration::from_nanos(self.smoothed_rtt_ns),
            rate_bps: self.rate_bps,
            planned_rate_bps: self.planned_rate_bps,
            planned_rtt: self.planned_rtt_ns.map(Duration::from_nanos),
        }
    }
}

/// The memory of all paths of a node.
#[derive(Debug)]
pub(crate) struct KnownPaths {
    path: PathBuf,
    /// By peer of the plan; what is too old, or of another path, is not among them.
    records: Vec<Option<Record>>,
    changed: bool,
    write_due: Instant,
    /// Files that could not be read, or were damaged, at the start.
    unreadable: u64,
    /// Writes that failed; the first of them in a row is logged.
    unwritten: u64,
    failing: bool,
}

impl KnownPaths {
    /// As an earlier run has left them.
    pub(crate) fn open(plan: &NodePlan, now_unix_ns: u64) -> Self {
        let path = plan.state_dir.join(FILE_NAME);
        let mut unreadable = 0;
        let records = read(&path).unwrap_or_else(|reason| {
            unreadable = 1;
            tracing::warn!(path = %path.display(), reason, "what was known of paths is ignored");
            Vec::new()
        });
        let of = |peer: &PeerPlan| {
            let mut found = records.iter().filter(|record| record.is_of(plan, peer) && record.is_recent(now_unix_ns));
            found.next().cloned()
        };
        Self {
            records: plan.peers.iter().map(of).collect(),
            path,
            changed: false,
            write_due: Instant::now() + WRITE_EVERY,
            unreadable,
            unwritten: 0,
            failing: false,
        }
    }

    /// What the engines are told at the start, by peer.
    pub(crate) fn memories(&self) -> Vec<Option<PathMemory>> {
        self.records.iter().map(|record| record.as_ref().map(Record::memory)).collect()
    }

    /// An engine has measured a path.
    pub(super) fn measured(&mut self, plan: &NodePlan, peer: PeerId, memory: &PathMemory, now_unix_ns: u64) {
        let Some(of) = plan.peers.get(usize::from(peer.0)) else { return };
        let Some(link) = plan.links.get(usize::from(of.link)) else { return };
        let Some(record) = self.records.get_mut(usize::from(peer.0)) else { return };
        *record = Some(Record {
            peer: of.name.clone(),
            link: link.name.clone(),
            configured_rtt_ns: of.initial_rtt_ns,
            measured_unix_ns: now_unix_ns,
            least_rtt_ns: nanos(memory.least_rtt),
            smoothed_rtt_ns: nanos(memory.smoothed_rtt),
            rate_bps: memory.rate_bps,
            planned_rate_bps: memory.planned_rate_bps,
            planned_rtt_ns: memory.planned_rtt.map(nanos),
        });
        self.changed = true;
    }

    /// Write it from time to time. To be called several times a second.
    pub(super) fn poll(&mut self, now: Instant) {
        if now >= self.write_due {
            self.write_due = now + WRITE_EVERY;
            self.write(false);
        }
    }

    /// Write what is new; on the disk when this returns, if `sync`.
    pub(super) fn write(&mut self, sync: bool) {
        if !self.changed {
            return;
        }
        let records: Vec<_> = self.records.iter().flatten().cloned().collect();
        let written = encode(&records).and_then(|bytes| replace(&self.path, &bytes, sync));
        self.changed = written.is_err();
        if let Err(error) = &written {
            self.unwritten += 1;
            if !self.failing {
                tracing::warn!(path = %self.path.display(), %error, "what is known of paths cannot be kept");
            }
        }
        self.failing = written.is_err();
    }

    /// What went wrong with the file, zeroes left out.
    pub(super) fn counters(&self) -> impl Iterator<Item = (String, u64)> {
        let counters = [("paths_file_unreadable", self.unreadable), ("paths_file_unwritten", self.unwritten)];
        counters.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count))
    }
}

fn replace(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_all()?;
    }
    std::fs::rename(&new, path)
}

/// The records of a file; none if there is no file.
fn read(path: &Path) -> Result<Vec<Record>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it has more than {MAX_FILE_BYTES} bytes"));
    }
    decode(&bytes).map_err(str::to_owned)
}

fn encode(records: &[Record]) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(records).map_err(io::Error::other)?;
    Ok([MAGIC.as_slice(), blake3::hash(&body).as_bytes(), &body].concat())
}

fn decode(bytes: &[u8]) -> Result<Vec<Record>, &'static str> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is not such a file, or another version's")?;
    let (hash, body) = rest.split_first_chunk::<HASH_BYTES>().ok_or("it is cut off")?;
    if blake3::hash(body) != *hash {
        return Err("it is damaged");
    }
    match postcard::take_from_bytes(body) {
        Ok((records, [])) => Ok(records),
        _ => Err("it is another version's"),
    }
}

#[cfg(test)]
mod tests;
