//! 12: kill -9 of the dataplane of either end in turn, again and again, while a file and a stream are under way.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use florelay_e2e::{Deadline, Job, Node, Process, Program};
use rustix::process::Signal;

use super::client::Sending;
use super::config::Hop;
use super::figures::Row;
use super::line::{self, Line};
use super::progress::Progress;
use super::stage::Stage;
use super::{Bench, MB, same};

const PROFILE: &str = r#"version = "1.0"
name = "kills"
seed = 12
[left-to-right]
rate = "10 Mbit/s"
queue = "812500 B"
delay = "325 ms"
[right-to-left]
rate = "2 Mbit/s"
queue = "162500 B"
delay = "325 ms"
"#;
const STREAM: &str = "telemetry";
/// Between two kills.
const INTERVAL: Duration = Duration::from_secs(7);
/// A killed dataplane has a successor within this.
const SUCCESSOR: Duration = Duration::from_secs(30);
/// `stream-spool` unless given, and what the daemon may have besides.
const MEMORY_BYTES: u64 = (16 << 20) + 64 * MB;
const WINDOW_S: f64 = 0.5;

pub(super) fn in_turn(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let [file_bytes, stream_bytes] = bench.either([30 * MB, 6 * MB], [1000 * MB, 200 * MB]);
    let mut stage = Stage::new(&bench.emulator, vec![Some(PROFILE.to_owned())])?;
    stage.emulate()?;
    let mut line = Line::start(&bench.program, &stage, &[Hop::capped(10_000_000, 2_000_000, 325)], &[1])?;
    line.connected()?;
    let file = Sending::write(stage.folder(), &line.inbox(1), 0, file_bytes)?;
    let source = Sending::write(stage.folder(), &line.inbox(1), 1, stream_bytes)?;
    let heard = stage.folder().join("stream.received");
    let mut listener = listen(&bench.program, &line, &heard)?;
    let mut writer = stream(&bench.program, &line, File::open(&source.from)?)?;
    let send = bench.program.send(&line.home(0).join("florelay.toml"), line.name(1), &file.from);
    let began = Instant::now();
    let mut send = Job::start(&with_id(send, &file), stage.folder(), "send")?;

    let (files, over) = ([file], AtomicBool::new(false));
    let slowest_bps = 4_000_000;
    let limit = Duration::from_secs(120 + (file_bytes + stream_bytes) * 8 / slowest_bps);
    let (arrivals, killed) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_in_turn([line.node(0), line.node(1)], &over));
        let arrivals = line::watch_until(&files, began, limit, progress, |files| {
            let streamed = matches!(listener.try_wait(), Ok(Some(_))) && matches!(writer.try_wait(), Ok(Some(_)));
            files[0].done() && streamed
        });
        over.store(true, Ordering::Relaxed);
        let killed = killer.join().map_err(|_| anyhow!("the killer panicked"))?;
        anyhow::Ok((arrivals?, killed?))
    })?;
    // What ended in the moment of a kill is still confirmed.
    send.wait(Deadline::after(SUCCESSOR))?;
    for (what, child) in [("stream", &mut writer), ("listen", &mut listener)] {
        let status = child.wait()?;
        ensure!(status.success(), "{what} ended with {status}: {}", said(stage.folder(), what));
    }
    row.shown("kills of the sender, of the receiver", "each", killed.kills as f64);
    row.shown(
        "goodput of file and stream",
        "Mbit/s",
        (file_bytes + stream_bytes) as f64 * 8.0 / arrivals.seconds / 1e6,
    );
    row.at_most("files that differ", "", f64::from(u8::from(!same(&files[0])?)), 0.0);
    let streamed = Sending { whole: heard, ..source };
    row.at_most("streams that differ", "", f64::from(u8::from(!same(&streamed)?)), 0.0);
    for (end, bytes) in ["sender", "receiver"].into_iter().zip(killed.memory) {
        row.at_most(format!("memory of the {end}'s dataplane"), "MB", bytes as f64 / 1e6, MEMORY_BYTES as f64 / 1e6);
    }
    row.goodput_curve("file", &arrivals.curves[0], WINDOW_S);
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(())
}

fn with_id(mut command: std::process::Command, file: &Sending) -> std::process::Command {
    let hex = format!("{:032x}", file.id);
    command.args(["--id", &hex]);
    command
}

pub(super) fn stream(program: &Program, line: &Line, from: impl Into<Stdio>) -> Result<Child> {
    let mut command = program.command(&["stream", "--to", line.name(1), "--name", STREAM, "--json", "--config"]);
    command.arg(line.home(0).join("florelay.toml")).stdin(from);
    spawn(command, line, "stream", None)
}

pub(super) fn listen(program: &Program, line: &Line, to: &Path) -> Result<Child> {
    let mut command = program.command(&["listen", "--once", "--name", STREAM, "--config"]);
    command.arg(line.home(1).join("florelay.toml")).stdin(Stdio::null());
    spawn(command, line, "listen", Some(File::create(to)?))
}

fn spawn(mut command: std::process::Command, line: &Line, name: &str, output: Option<File>) -> Result<Child> {
    let folder = line.home(0).parent().context("a station's folder lies in the stage's")?;
    let log = File::create(folder.join(format!("{name}.err")))?;
    let output = output.map_or_else(|| log.try_clone().map(Stdio::from), |file| Ok(Stdio::from(file)))?;
    command.stdout(output).stderr(log).spawn().with_context(|| format!("cannot run {name}"))
}

pub(super) fn said(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(format!("{name}.err"))).unwrap_or_default()
}

struct Killed {
    /// Of each end.
    kills: u64,
    /// Most resident bytes of each end's dataplanes.
    memory: [u64; 2],
}

/// Kills the dataplane of each end in turn until `over`; each end as often.
fn kill_in_turn(nodes: [&Node; 2], over: &AtomicBool) -> Result<Killed> {
    let mut killed = Killed { kills: 0, memory: [0; 2] };
    let running = |node: &Node| node.process("dataplane");
    loop {
        for victim in 0..2 {
            let next = Instant::now() + INTERVAL;
            while Instant::now() < next {
                for (node, most) in nodes.iter().zip(&mut killed.memory) {
                    *most = (*most).max(running(node).and_then(resident_bytes).unwrap_or(0));
                }
                if over.load(Ordering::Relaxed) {
                    return Ok(killed);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let old = running(nodes[victim]).context("no dataplane")?;
            old.signal(Signal::KILL);
            let successor = || Ok(running(nodes[victim]).filter(|new| *new != old));
            Deadline::after(SUCCESSOR).wait("a dataplane to be started again", successor)?;
        }
        killed.kills += 1;
    }
}

/// proc(5), status, VmRSS.
fn resident_bytes(process: Process) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
