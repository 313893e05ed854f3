//! Running nodes on a [`Stage`]: keys, configurations, processes; what arrives, over time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use florelay_dataplane::ipc::{LinkStatus, PeerStatus, Status};
use florelay_dataplane::ipc_codec::IpcError;
use florelay_e2e::{Deadline, Node, Program, interrupted};

use super::client::{Client, Sending};
use super::config::{self, Hop, REALM};
use super::figures::Curve;
use super::progress::Progress;
use super::stage::Stage;
use crate::node_config::Store;

/// Nodes find each other within this, on the slowest and worst link here.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(90);
/// Between two samples of what has arrived.
const SAMPLE: Duration = Duration::from_millis(100);

/// Running nodes, one a station. Declare it after its stage, so that it stops first.
pub(super) struct Line {
    nodes: Vec<Node>,
    names: Vec<String>,
    homes: Vec<PathBuf>,
}

impl Line {
    /// Makes keys and configurations, and starts all nodes. Paths lead from station 0 to each of `ends`.
    ///
    /// # Errors
    /// The program refuses a configuration, or does not start.
    pub(super) fn start(program: &Program, stage: &Stage, hops: &[Hop], ends: &[usize]) -> Result<Self> {
        Self::start_with(program, stage, hops, ends, &Store::default())
    }

    /// The same, with what nodes keep as `store` says.
    ///
    /// # Errors
    /// As there.
    pub(super) fn start_with(
        program: &Program,
        stage: &Stage,
        hops: &[Hop],
        ends: &[usize],
        store: &Store,
    ) -> Result<Self> {
        let pki = stage.folder().join("pki");
        program.pki_init(REALM, &pki)?;
        for hop in 0..hops.len() {
            program.link_key(&pki.join(config::key_file(hop)))?;
        }
        let mut line = Self { nodes: Vec::new(), names: Vec::new(), homes: Vec::new() };
        for index in 0..stage.stations() {
            let home = stage.folder().join(format!("s{index}"));
            for part in ["inbox", "state"] {
                fs::create_dir_all(home.join(part))?;
            }
            program.pki_issue(&stage.node(index), &pki)?;
            let file = home.join("florelay.toml");
            fs::write(&file, config::toml(stage, hops, ends, store, index))?;
            program.check(&file)?;
            line.names.push(stage.node(index));
            line.homes.push(home);
        }
        for (index, home) in line.homes.iter().enumerate() {
            let (file, log) = (home.join("florelay.toml"), home.join("log"));
            let namespace = Some(stage.station(index));
            line.nodes.push(Node::start(&line.names[index], program, namespace, &file, &log, &[])?);
        }
        Ok(line)
    }

    /// Waits until all links are up and all peers connected.
    ///
    /// # Errors
    /// One is not in time; with its last state and log.
    pub(super) fn connected(&mut self) -> Result<()> {
        let deadline = Deadline::after(CONNECT_TIME);
        self.nodes.iter_mut().try_for_each(|node| node.wait_connected(deadline).map(drop))
    }

    /// A client of a node, as soon as its control process and its dataplane answer.
    ///
    /// # Errors
    /// It does not, in time.
    pub(super) fn client(&self, index: usize) -> Result<Client> {
        let mut last = String::new();
        let deadline = Deadline::after(CONNECT_TIME);
        let ready = || {
            let mut client = Client::connect(&self.homes[index])?;
            let status = client.status()?;
            ensure!(status.note.is_none(), "its dataplane does not answer");
            Ok(client)
        };
        let connected = deadline.wait("a node to answer", || match ready() {
            Ok(client) => Ok(Some(client)),
            // It will never answer.
            Err(error) if matches!(error.downcast_ref(), Some(IpcError::Version { .. })) => Err(error),
            Err(error) => {
                last = format!("{error:#}");
                Ok(None)
            }
        });
        connected.with_context(|| format!("{}: {last}\n{}", self.names[index], self.nodes[index].log_tail()))
    }

    /// Node name.
    pub(super) fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// A running node.
    pub(super) fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// A node's folder.
    pub(super) fn home(&self, index: usize) -> &Path {
        &self.homes[index]
    }

    /// Where a node's received files are.
    pub(super) fn inbox(&self, index: usize) -> PathBuf {
        self.homes[index].join("inbox")
    }

    /// Stops all nodes in order.
    ///
    /// # Errors
    /// One had ended, or had to be killed.
    pub(super) fn stop(self) -> Result<()> {
        self.nodes.into_iter().try_for_each(Node::stop)
    }
}

/// What of some files arrived, sampled until `until` says so.
pub(super) struct Arrivals {
    /// Bytes of each in order at the receiver, over seconds since `began`.
    pub(super) curves: Vec<Curve>,
    /// When sampling ended, s since `began`: when the last file was in place, if that ended it.
    pub(super) seconds: f64,
}

/// Samples until all files are verified and in place at the receiver. Looks each millisecond for the end.
///
/// # Errors
/// It takes longer than `limit`, or somebody interrupts.
pub(super) fn watch(files: &[Sending], began: Instant, limit: Duration, progress: &Progress) -> Result<Arrivals> {
    watch_until(files, began, limit, progress, |files| files.iter().all(Sending::done))
}

/// As [`watch`], until `end`.
pub(super) fn watch_until(
    files: &[Sending],
    began: Instant,
    limit: Duration,
    progress: &Progress,
    mut end: impl FnMut(&[Sending]) -> bool,
) -> Result<Arrivals> {
    let mut curves: Vec<Curve> = files.iter().map(|_| Curve::default()).collect();
    let size: u64 = files.iter().map(|file| file.size).sum();
    let mut next = began;
    loop {
        let ended = end(files);
        let at = began.elapsed();
        if ended || Instant::now() >= next {
            let mut sum = 0;
            for (curve, file) in curves.iter_mut().zip(files) {
                let bytes = file.arrived();
                sum += bytes;
                curve.0.push((at.as_secs_f64(), bytes as f64));
            }
            progress.show(&format!("{} of {} kB arrived", sum / 1000, size / 1000));
            next += SAMPLE;
        }
        if ended {
            return Ok(Arrivals { curves, seconds: at.as_secs_f64() });
        }
        if interrupted() {
            bail!("interrupted");
        }
        if at > limit {
            let arrived: u64 = files.iter().map(Sending::arrived).sum();
            bail!("not through after {} s: {arrived} of {size} bytes arrived", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sleeps, unless somebody interrupts.
///
/// # Errors
/// Somebody did.
pub(super) fn pause(time: Duration, progress: &Progress, what: &str) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if interrupted() {
            bail!("interrupted");
        }
        progress.show(what);
        std::thread::sleep((end - Instant::now()).min(Duration::from_millis(50)));
    }
    Ok(())
}

/// A counter of a link; 0 if there is none of that name.
pub(super) fn link_counter(link: &LinkStatus, name: &str) -> u64 {
    counter(&link.counters, name)
}

/// A counter of a peer.
pub(super) fn peer_counter(peer: &PeerStatus, name: &str) -> u64 {
    counter(&peer.counters, name)
}

/// A counter of a node, which its first worker shows.
pub(super) fn node_counter(status: &Status, name: &str) -> u64 {
    status.workers.first().map_or(0, |worker| counter(&worker.counters, name))
}

fn counter(all: &[(String, u64)], wanted: &str) -> u64 {
    all.iter().find(|(name, _)| name == wanted).map_or(0, |(_, count)| *count)
}
