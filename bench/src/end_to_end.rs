//! florelay itself: two nodes of the `florelay` program over one veth hop, a file from memory to memory.
//!
//! ```text
//!   core 0: florelay up (A)                      core 1: florelay up (B)
//!           send FILE --to B --json ──── veth, AF_XDP, uncapped ────► inbox (tmpfs)
//! ```
//!
//! Each node's whole process tree is bound to its core, gateways and hashing included: one core a side, as quinn has
//! it; or, with [`Spread::WorkerOnly`], the worker alone. Goodput is the file's size over the time that `send --json` shows in its last line, from the offer to the
//! receiver's word that the file is verified, synced and in place.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bed::{Bed, Offloads, Side};
use crate::node_config::{LINK_KEY, REALM, Store, toml};

/// A file system in memory.
pub(crate) const TMPFS: &str = "/dev/shm";
/// Until both nodes are connected.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// Until the file is there.
const SEND_TIME: Duration = Duration::from_secs(120);
/// From SIGTERM to the end of a node.
const STOP_TIME: Duration = Duration::from_secs(10);
/// Between two looks at something that gives no notice.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a node's log in an error.
const LOG_LINES: usize = 8;

/// Where a node's threads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// All of them on the node's core.
    OneCore,
    /// The worker on the node's core, the others wherever the kernel puts them.
    WorkerOnly,
}

/// One transfer.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// File bytes over the time from offer to done, bit/s.
    pub goodput_bps: f64,
    /// Frames that A sent and B never saw, by the link's sequence numbers.
    pub frames_lost: f64,
    /// Rung that A's link stands on.
    pub rung: String,
}

/// The program: as told, or `$FLORELAY_BIN`, or beside this one.
///
/// # Errors
/// There is none.
pub fn find_program(told: Option<&Path>) -> Result<PathBuf> {
    let path = match (told, env::var_os("FLORELAY_BIN")) {
        (Some(path), _) => path.to_owned(),
        (None, Some(path)) => path.into(),
        (None, None) => env::current_exe()?.with_file_name("florelay"),
    };
    ensure!(path.is_file(), "there is no program {} (cargo build --release -p florelay)", path.display());
    Ok(path)
}

/// Sends a file of `megabytes` (10^6 bytes) of pseudo-random bytes.
///
/// # Errors
/// A node does not start or connect, the file does not arrive; with what the program said.
pub fn run(program: &Path, megabytes: u64, spread: Spread) -> Result<Transfer> {
    with_nodes(program, megabytes, spread, &Store::default(), send)
}

/// Two connected nodes, and a file for the first.
pub(crate) struct Nodes<'n> {
    pub(crate) program: &'n Path,
    pub(crate) bed: &'n Bed,
    /// Where everything is.
    pub(crate) folder: &'n Path,
    pub(crate) file: &'n Path,
}

/// Starts two nodes, A with this `store`, and stops them when `transfer`, which answers its goodput, is through.
pub(crate) fn with_nodes(
    program: &Path,
    megabytes: u64,
    spread: Spread,
    store: &Store,
    transfer: impl FnOnce(&Nodes<'_>) -> Result<f64>,
) -> Result<Transfer> {
    let bed = Bed::new(Offloads::Off)?;
    let folder = tempfile::Builder::new().prefix("florelay-bench-").tempdir_in(TMPFS).context(TMPFS)?;
    prepare(program, &bed, folder.path(), store)?;
    let file = folder.path().join("payload.bin");
    write_payload(&file, megabytes)?;

    thread::scope(|scope| {
        let (ended_a, stop_a) = mpsc::channel::<()>();
        let (ended_b, stop_b) = mpsc::channel::<()>();
        let (bed, path) = (&bed, folder.path());
        let a = scope.spawn(move || node(program, bed, (Side::A, spread), path, &stop_a));
        let b = scope.spawn(move || node(program, bed, (Side::B, spread), path, &stop_b));
        let sent = connect(program, &bed.node(Side::A), path).and_then(|rung| {
            warm(path, megabytes)?;
            let goodput_bps = transfer(&Nodes { program, bed, folder: path, file: &file })?;
            let config = config_of(path, Side::B);
            let status: Value =
                serde_json::from_str(&call(program, &["status", "--json", "--config", text(&config)?])?)?;
            let frames_lost = status["links"][0]["counters"]["rx_lost"].as_f64().context("status has no rx_lost")?;
            Ok(Transfer { goodput_bps, frames_lost, rung })
        });
        // Both nodes stop, whatever came of it.
        drop((ended_a, ended_b));
        for (side, node) in [(Side::A, a), (Side::B, b)] {
            let stopped = node.join().map_err(|_| anyhow!("the thread of a node panicked"))?;
            if sent.is_ok() {
                stopped?;
            } else if let Err(error) = stopped {
                eprintln!("node {side:?}: {error:#}");
            }
        }
        sent.with_context(|| format!("end of A's log: {}", log_tail(&path.join("a/log"))))
    })
}

/// Keys, certificates, folders and configurations of both sides, A's with this `store`.
pub(crate) fn prepare(program: &Path, bed: &Bed, folder: &Path, store: &Store) -> Result<()> {
    let pki = folder.join("pki");
    fs::create_dir_all(&pki)?;
    call(program, &["pki", "init", "--realm", REALM, "--dir", text(&pki)?])?;
    call(program, &["pki", "link-key", text(&pki.join(LINK_KEY))?])?;
    for side in [Side::A, Side::B] {
        call(program, &["pki", "issue", "--node", &bed.node(side), "--dir", text(&pki)?])?;
        let config = config_of(folder, side);
        let home = config.parent().context("it is in a folder")?;
        for part in ["inbox", "state"] {
            fs::create_dir_all(home.join(part))?;
        }
        let store = if side == Side::A { store } else { &Store::default() };
        fs::write(&config, toml(bed, side, store))?;
        call(program, &["check", "--config", text(&config)?])?;
    }
    Ok(())
}

/// Runs a node until `stop` is dropped. The thread lives as long: the node gets SIGTERM when its parent thread ends.
fn node(
    program: &Path,
    bed: &Bed,
    (side, spread): (Side, Spread),
    folder: &Path,
    stop: &mpsc::Receiver<()>,
) -> Result<()> {
    // Namespace and cores are inherited by the node.
    match spread {
        Spread::OneCore => bed.settle(side)?,
        Spread::WorkerOnly => {
            bed.enter(side)?;
            crate::bed::unpin()?;
        }
    }
    let config = config_of(folder, side);
    let log = File::create(config.with_file_name("log"))?;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--"])
        .arg(program)
        .args(["up", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot run setpriv (util-linux)")?;
    // Ends with the sender being dropped: nothing is ever sent.
    let _ = stop.recv();
    let stopped = end(&mut child);
    if stopped.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    stopped
}

fn end(child: &mut Child) -> Result<()> {
    if let Some(status) = child.try_wait()? {
        bail!("the node had ended already: {status}");
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(pid, Signal::TERM)?;
    let deadline = Instant::now() + STOP_TIME;
    while child.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "the node did not end within {STOP_TIME:?} of SIGTERM");
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Waits until A is connected; answers its link's rung.
fn connect(program: &Path, node: &str, folder: &Path) -> Result<String> {
    let config = config_of(folder, Side::A);
    let deadline = Instant::now() + CONNECT_TIME;
    loop {
        let said = call(program, &["status", "--json", "--config", text(&config)?]);
        let status = said.as_deref().ok().and_then(|said| serde_json::from_str::<Value>(said).ok());
        if let Some(rung) = status.as_ref().and_then(connected_rung) {
            return Ok(rung);
        }
        let last = || status.as_ref().map_or_else(|| format!("{said:?}"), Value::to_string);
        ensure!(Instant::now() < deadline, "{node} is not connected after {CONNECT_TIME:?}: {}", last());
        thread::sleep(LOOK);
    }
}

/// The rung of the link, if link and peer are up.
fn connected_rung(status: &Value) -> Option<String> {
    let (link, peer) = (&status["links"][0], &status["peers"][0]);
    let up = ["normal", "degraded"].iter().any(|state| link["state"] == *state);
    (up && peer["state"] == "connected").then(|| link["rung"].as_str().unwrap_or("?").to_owned())
}

fn send(nodes: &Nodes<'_>) -> Result<f64> {
    let output = nodes.folder.join("send.json");
    let said = File::create(&output)?;
    let mut child = Command::new(nodes.program)
        .arg("send")
        .arg(nodes.file)
        .args(["--to", &nodes.bed.node(Side::B), "--json", "--config"])
        .arg(config_of(nodes.folder, Side::A))
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()?;
    let status = wait_for(&mut child, "send").with_context(|| log_tail(&output))?;
    ensure!(status.success(), "florelay send: {status}: {}", log_tail(&output));
    goodput_bps(&fs::read_to_string(&output)?)
}

/// Waits for a program to end by itself.
pub(crate) fn wait_for(child: &mut Child, verb: &str) -> Result<ExitStatus> {
    let deadline = Instant::now() + SEND_TIME;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("florelay {verb} did not end within {SEND_TIME:?}");
        }
        thread::sleep(LOOK);
    }
}

/// Goodput from the lines of `send --json` or `stream --json`.
pub(crate) fn goodput_bps(lines: &str) -> Result<f64> {
    let last = lines.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = last.context("florelay send printed no JSON")?;
    ensure!(last["ended"] == true && last["error"].is_null(), "the transfer did not end well: {last}");
    let (bytes, age_ns) = (last["confirmed"].as_u64(), last["age_ns"].as_u64());
    match (bytes, age_ns) {
        (Some(bytes), Some(age_ns)) if age_ns > 0 => Ok(bytes as f64 * 8e9 / age_ns as f64),
        _ => bail!("florelay send shows neither size nor time: {last}"),
    }
}

/// Memory that nobody has used lately a virtual machine's host may have taken back, and giving it again costs more than
/// all that is done with it here. So the pages that the receiver's file takes have been in use a moment before.
fn warm(folder: &Path, megabytes: u64) -> Result<()> {
    let path = folder.join("warm");
    let mut file = File::create(&path)?;
    let piece = vec![1; 1_000_000];
    (0..megabytes).try_for_each(|_| file.write_all(&piece))?;
    Ok(fs::remove_file(path)?)
}

fn write_payload(path: &Path, megabytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut piece = vec![0; 1_000_000];
    for _ in 0..megabytes {
        random.fill(&mut piece);
        file.write_all(&piece)?;
    }
    Ok(())
}

pub(crate) fn config_of(folder: &Path, side: Side) -> PathBuf {
    folder.join(if side == Side::A { "a" } else { "b" }).join("florelay.toml")
}

fn call(program: &Path, arguments: &[&str]) -> Result<String> {
    crate::bed::run(text(program)?, arguments)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

pub(crate) fn log_tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_comes_from_the_last_line_and_only_if_it_ended_well() {
        let progress = r#"{"confirmed":10,"age_ns":5,"ended":false,"error":null}"#;
        let done = r#"{"confirmed":1000000000,"age_ns":2000000000,"ended":true,"error":null}"#;
        assert!((goodput_bps(&format!("{progress}\n{done}\n")).unwrap() - 4e9).abs() < 1.0);
        assert!(goodput_bps(progress).is_err());
        assert!(goodput_bps(&done.replace("null", "\"hash\"")).is_err());
        assert!(goodput_bps("").is_err());
    }

    #[test]
    fn a_rung_is_read_only_when_all_is_up() {
        let status = |link: &str, peer: &str| serde_json::json!({"links": [{"state": link, "rung": "driver-copy"}], "peers": [{"state": peer}]});
        for link in ["normal", "degraded"] {
            assert_eq!(connected_rung(&status(link, "connected")).as_deref(), Some("driver-copy"));
        }
        assert_eq!(connected_rung(&status("normal", "dark")), None);
        assert_eq!(connected_rung(&status("failed", "connected")), None);
    }
}
