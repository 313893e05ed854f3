//! One running node: the process tree of `florelay up`.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::deadline::Deadline;
use crate::namespace::Namespace;
use crate::process::{Process, tree};
use crate::program::Program;

/// How long a node may take to end on SIGTERM.
const STOP_TIME: Duration = Duration::from_secs(10);
/// Lines of a node's log in an error.
const LOG_TAIL_LINES: usize = 20;

/// A running node. Stopped when dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    program: Program,
    config: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Node {
    /// Starts `florelay up --config CONFIG`, in a namespace or here; what it says goes to `log`. `under` is a command that
    /// takes away some of its rights before it runs it; empty for none.
    ///
    /// Start it from a thread that lives as long as the node: if that thread ends without stopping it (the harness was
    /// killed), the kernel sends SIGTERM to the node. A Ctrl-C in the terminal does not reach it: the harness stops it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        name: &str,
        program: &Program,
        namespace: Option<&Namespace>,
        config: &Path,
        log: &Path,
        under: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        if let Some(namespace) = namespace {
            command.arg("nsenter").arg(format!("--net={}", namespace.path().display()));
        }
        command.arg("--").args(under).arg(program.path()).args(["up", "--config"]).arg(config);
        let written = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(written.try_clone()?).stderr(written).process_group(0);
        let child = command.spawn().context("cannot run setpriv (util-linux)")?;
        Ok(Self {
            name: name.to_owned(),
            program: program.clone(),
            config: config.to_path_buf(),
            log: log.to_path_buf(),
            child,
        })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until every link is up and every peer connected.
    ///
    /// # Errors
    /// It ended, or is not there in time; with the last status and the end of its log.
    pub fn wait_connected(&mut self, deadline: Deadline) -> Result<Status> {
        let what = format!("{} to be connected", self.name);
        let mut last = String::from("it has not answered yet");
        let waited = deadline.wait(&what, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended: {status}", self.name);
            }
            match self.program.status(&self.config) {
                Ok(status) if status.is_connected() => return Ok(Some(status)),
                Ok(status) => last = status.summary(),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        waited.with_context(|| format!("{}: {last}\nend of its log:\n{}", self.name, self.log_tail()))
    }

    /// What it says of itself now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Status> {
        self.program.status(&self.config)
    }

    /// Process id of the supervisor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The supervisor and the processes that it started, parents first.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        tree(self.child.id())
    }

    /// The process of this node that runs a verb of the program: `up`, `dataplane` or `control`.
    #[must_use]
    pub fn process(&self, verb: &str) -> Option<Process> {
        self.processes().into_iter().find(|process| process.arguments().get(1).is_some_and(|first| first == verb))
    }

    /// SIGTERM to the supervisor, and waits for the whole tree to end.
    ///
    /// # Errors
    /// It had to be killed, or did not end well.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// SIGKILL to every process of the node at once, as a power cut would.
    ///
    /// # Errors
    /// They are still there after ten seconds.
    pub fn kill9(mut self) -> Result<()> {
        let all = self.processes();
        self.kill(&all)
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn end(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::ensure!(status.success(), "{} had ended already: {status}\n{}", self.name, self.log_tail());
            return Ok(());
        }
        let all = self.processes();
        if let Some(supervisor) = all.first() {
            supervisor.signal(Signal::TERM);
        }
        // Not `Deadline::wait`: an interrupt must not keep a node from being stopped in order.
        let end = std::time::Instant::now() + STOP_TIME;
        while std::time::Instant::now() < end {
            if let Some(status) = self.child.try_wait()?
                && !all.iter().any(|process| process.runs())
            {
                anyhow::ensure!(status.success(), "{} ended with {status}\n{}", self.name, self.log_tail());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill(&all)?;
        bail!("{} did not end within {STOP_TIME:?} of SIGTERM and was killed\n{}", self.name, self.log_tail());
    }

    fn kill(&mut self, all: &[Process]) -> Result<()> {
        for process in all {
            process.signal(Signal::KILL);
        }
        self.child.wait()?;
        let end = std::time::Instant::now() + STOP_TIME;
        while all.iter().any(|process| process.runs()) {
            anyhow::ensure!(std::time::Instant::now() < end, "{}: a process outlives SIGKILL", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // `stop` has been here if it ended; then this does nothing.
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.end()
        {
            eprintln!("{error:#}");
        }
    }
}

/// `florelay status --json`.
#[derive(Debug, Clone)]
pub struct Status(Value);

impl Status {
    /// Reads the JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self(serde_json::from_str(text).context("status --json is not JSON")?))
    }

    /// The JSON itself.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// Are all links up and all peers connected?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        // A machine that is short of time may call a link degraded; it is up all the same.
        let all = |list: &str, states: &[&str]| {
            self.list(list).iter().all(|entry| entry["state"].as_str().is_some_and(|state| states.contains(&state)))
        };
        all("links", &["normal", "degraded"]) && all("peers", &["connected"])
    }

    /// Links, in the order of the configuration.
    #[must_use]
    pub fn links(&self) -> &[Value] {
        self.list("links")
    }

    /// Workers, with their frame accounts and counters.
    #[must_use]
    pub fn workers(&self) -> &[Value] {
        self.list("workers")
    }

    /// A link's named counter.
    #[must_use]
    pub fn link_counter(&self, link: &str, counter: &str) -> Option<u64> {
        let link = self.links().iter().find(|entry| entry["name"] == link)?;
        link["counters"][counter].as_u64()
    }

    /// A worker's named counter; 0 if there is none of that name.
    #[must_use]
    pub fn worker_counter(&self, worker: usize, counter: &str) -> u64 {
        self.workers().get(worker).and_then(|worker| worker["counters"][counter].as_u64()).unwrap_or(0)
    }

    /// Peers, in the order of the configuration.
    #[must_use]
    pub fn peers(&self) -> &[Value] {
        self.list("peers")
    }

    /// Transfers that run, and the last that ended.
    #[must_use]
    pub fn transfers(&self) -> &[Value] {
        self.list("transfers")
    }

    /// Every drop counter of the links that is not 0, as `link: reason`.
    #[must_use]
    pub fn drops(&self) -> Vec<(String, u64)> {
        let of_link = |link: &Value| {
            let name = link["name"].as_str().unwrap_or("?").to_owned();
            let counters = link["counters"].as_object().cloned().unwrap_or_default();
            counters.into_iter().filter_map(move |(counter, count)| {
                let count = count.as_u64().filter(|&count| count > 0)?;
                Some((format!("{name}: {}", counter.strip_prefix("drop_")?), count))
            })
        };
        self.links().iter().flat_map(of_link).collect()
    }

    /// UMEM frames over all workers: how many there are, how many the places that hold them add up to, how many leaked.
    #[must_use]
    pub fn frame_account(&self) -> (u64, u64, i64) {
        self.workers().iter().fold((0, 0, 0), |(total, placed, leaked), worker| {
            let frames = &worker["frames"];
            let number = |place: &str| frames[place].as_u64().unwrap_or(0);
            let here = ["free", "fill", "held", "tx"].into_iter().map(number).sum::<u64>();
            (total + number("total"), placed + here, leaked + frames["leaked"].as_i64().unwrap_or(i64::MAX))
        })
    }

    /// The rung that a link stands on and, highest first, why each higher one was not taken.
    #[must_use]
    pub fn rung(link: &Value) -> (String, Vec<(String, String)>) {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let reasons = link["rung_reasons"].as_array().map(Vec::as_slice).unwrap_or_default();
        (text(&link["rung"]), reasons.iter().map(|entry| (text(&entry["rung"]), text(&entry["reason"]))).collect())
    }

    /// One line a link and a peer, for errors.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut lines = Vec::new();
        for list in ["links", "peers"] {
            for entry in self.list(list) {
                let reason = entry["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
                lines.push(format!(
                    "{} is {}{reason}",
                    entry["name"].as_str().unwrap_or("?"),
                    entry["state"].as_str().unwrap_or("?")
                ));
            }
        }
        lines.join(", ")
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0[name].as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

/// Whether two files have the same bytes; reads both in pieces.
///
/// # Errors
/// One cannot be read.
pub(crate) fn same_content(a: &Path, b: &Path) -> Result<bool> {
    use std::io::Read as _;
    let open = |path: &Path| File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let (mut a, mut b) = (open(a)?, open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let mut pieces = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = a.read(&mut pieces.0)?;
        if count == 0 {
            return Ok(true);
        }
        b.read_exact(&mut pieces.1[..count])?;
        if pieces.0[..count] != pieces.1[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let status = Status::parse(
            r#"{"links":[{"name":"to-relay","state":"normal","rung":"driver-copy",
            "rung_reasons":[{"rung":"zero-copy","reason":"veth cannot"}],"counters":{"tx_frames":7}}],"peers":[{"name":"b","state":"dark","reason":"link down"}]}"#,
        )
        .unwrap();
        assert!(!status.is_connected());
        assert_eq!(status.summary(), "to-relay is normal, b is dark (link down)");
        assert_eq!(status.link_counter("to-relay", "tx_frames"), Some(7));
        let (rung, why) = Status::rung(&status.links()[0]);
        assert_eq!((rung.as_str(), why[0].1.as_str()), ("driver-copy", "veth cannot"));
    }
}
