//! A client command that runs beside a test, as an operator's second terminal would.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::deadline::Deadline;

/// Lines of a failed command's output in an error.
const TAIL_LINES: usize = 5;

/// A running command. What it prints goes to a file: a pipe that nobody reads would stop it. Killed when dropped.
#[derive(Debug)]
pub struct Job {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Job {
    /// Starts `client` (program and arguments; environment and folder are the caller's), with its output in
    /// `folder/name.out`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(client: &Command, folder: &Path, name: &str) -> Result<Self> {
        let output = folder.join(format!("{name}.out"));
        let said = File::create(&output)?;
        // Should the test be killed, its jobs end with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(client.get_program()).args(client.get_args());
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        Ok(Self { name: name.to_owned(), child, output })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `Some` once it has ended well.
    ///
    /// # Errors
    /// It failed; with the end of what it said.
    pub fn ended(&mut self) -> Result<Option<()>> {
        match self.child.try_wait()? {
            None => Ok(None),
            Some(status) if status.success() => Ok(Some(())),
            Some(status) => {
                let said = self.said();
                let lines: Vec<&str> = said.lines().collect();
                let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
                bail!("{} failed: {status}: {tail}", self.name)
            }
        }
    }

    /// Waits until it has ended well.
    ///
    /// # Errors
    /// It failed, or the time is up.
    pub fn wait(&mut self, deadline: Deadline) -> Result<()> {
        let what = format!("{} to end", self.name);
        deadline.wait(&what, || self.ended())
    }

    /// Waits until it has ended, well or not.
    ///
    /// # Errors
    /// The time is up.
    pub fn wait_status(&mut self, deadline: Deadline) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        deadline.wait(&what, || Ok(self.child.try_wait()?))
    }

    /// All that it has said so far, standard output and standard error.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The lines so far that are JSON.
    #[must_use]
    pub fn json_lines(&self) -> Vec<Value> {
        self.said().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The last line that is JSON.
    #[must_use]
    pub fn last_json(&self) -> Value {
        self.json_lines().pop().unwrap_or(Value::Null)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
