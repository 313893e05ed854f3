//! The emulator as a child process: how a scenario runner starts it, waits until frames pass, and gets its report.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::report::Report;

/// First word of the line that says that frames pass.
pub const READY: &str = "emulating";

/// Of SCHED_FIFO, 1 to 99: below the kernel's own threads, which have 50.
const REALTIME_PRIORITY: &str = "10";

/// Where and what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `florelay-bench` program.
    pub program: PathBuf,
    /// Network namespace in which both interfaces are, as a path (`/run/netns/NAME`); `None` = the caller's.
    pub namespace: Option<PathBuf>,
    /// Profile file.
    pub profile: PathBuf,
    /// Left interface.
    pub left: String,
    /// Right interface.
    pub right: String,
    /// Core to stay on.
    pub core: Option<usize>,
    /// Before all ordinary processes (SCHED_FIFO, by chrt(1)): on a machine that does other things, delays are off by what
    /// the emulator waits for a core. It sleeps whenever nothing is due.
    pub realtime: bool,
    /// Where the JSON report goes.
    pub json: PathBuf,
}

/// A running emulator. Dropping it ends it without a report.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    json: PathBuf,
}

impl Emulator {
    /// Starts it, and waits until frames pass.
    ///
    /// Start it from a thread that lives as long as it: when that thread ends, the kernel sends SIGTERM.
    ///
    /// # Errors
    /// It does not start; what it says of that is on standard error.
    pub fn start(options: &Options) -> Result<Self> {
        // A report of an earlier run would be taken for this one's.
        let _ = std::fs::remove_file(&options.json);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]);
        if let Some(namespace) = &options.namespace {
            command.arg("nsenter").arg(format!("--net={}", namespace.display())).arg("--");
        }
        if options.realtime {
            command.args(["chrt", "--fifo", REALTIME_PRIORITY]);
        }
        command.arg(&options.program).arg("emulate").arg("--profile").arg(&options.profile);
        command.args(["--left", &options.left, "--right", &options.right]).arg("--json").arg(&options.json);
        if let Some(core) = options.core {
            command.args(["--core", &core.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn();
        let mut child = child.context("cannot run setpriv (util-linux)")?;
        let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if !line.starts_with(READY) {
            let status = child.wait()?;
            bail!("the emulator has not started: {status}");
        }
        Ok(Self { child, _stdout: stdout, json: options.json.clone() })
    }

    /// Ends it, and reads its report.
    ///
    /// # Errors
    /// It had ended before, badly; or there is no report.
    pub fn stop(mut self) -> Result<Report> {
        self.terminate();
        let status = self.child.wait()?;
        ensure!(status.success(), "the emulator ended with {status}");
        read(&self.json)
    }

    fn terminate(&self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}

/// A report that was written before.
///
/// # Errors
/// It is not there, or not one.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
