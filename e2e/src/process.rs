//! Child processes: run quietly, watched, and killed with everything that they started, by process id and only if the
//! id still means the same process.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A process: its id, and when it started, which no later process with the same id shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (proc(5), field 22 of stat).
    pub started: u64,
}

impl Process {
    /// The process that has this id now.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    /// Does it run still? A zombie does not.
    #[must_use]
    pub fn runs(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != "Z")
    }

    /// Its name, as `comm` has it.
    #[must_use]
    pub fn name(self) -> Option<String> {
        Some(fs::read_to_string(format!("/proc/{}/comm", self.pid)).ok()?.trim_end().to_owned())
    }

    /// Its arguments, the program first.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let raw = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        raw.split(|&byte| byte == 0)
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .filter(|s| !s.is_empty())
            .collect()
    }

    /// How long its present threads have run (schedstat, first field; kernel documentation,
    /// `scheduler/sched-stats.rst`). Zero where the kernel does not say.
    #[must_use]
    pub fn cpu_time(self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let ran = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(ran.sum())
    }

    /// Sends a signal, unless the id means another process by now.
    pub fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && start_time(self.pid) == Some(self.started)
        {
            // It may end between the look and the signal; then there is nothing to do.
            let _ = kill_process(pid, signal);
        }
    }
}

/// When the process with this id started, in clock ticks since boot; `None` if there is none.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    Some(stat(pid)?.started)
}

/// The process with this id and all its descendants, parents first.
#[must_use]
pub fn tree(pid: u32) -> Vec<Process> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, stat(id)?.parent)))
        .collect();
    let mut ids = vec![pid];
    let mut next = 0;
    while let Some(&parent) = ids.get(next) {
        ids.extend(all.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    ids.into_iter().filter_map(Process::find).collect()
}

/// How long all cores together have run anything, interrupts left out (proc(5), stat: user, nice, system, steal).
#[must_use]
pub fn machine_cpu_time() -> Duration {
    /// `USER_HZ`, 100 on every architecture that AF_XDP runs on (asm-generic/param.h).
    const TICKS_PER_SECOND: u64 = 100;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let columns = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let columns: Vec<u64> = columns.map_while(|column| column.parse().ok()).collect();
    let ticks: u64 = [0, 1, 2, 7].into_iter().filter_map(|column: usize| columns.get(column)).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

struct Stat {
    state: String,
    parent: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may contain anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: (*fields.first()?).to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Runs to the end; stdout comes back, stderr goes into the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let done = command.stdin(std::process::Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{shown}: {}: {}", done.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs to the end; nothing is shown unless it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_found_and_killed_and_nothing_else() {
        let mut shell = Command::new("sh").args(["-c", "sleep 300 & wait"]).spawn().unwrap();
        let deadline = crate::Deadline::after(std::time::Duration::from_secs(10));
        let all = deadline
            .wait("the child of the child", || Ok(Some(tree(shell.id())).filter(|all| all.len() == 2)))
            .unwrap();
        assert_eq!(all[0].pid, shell.id());
        let stranger = Process { pid: shell.id(), started: 1 };
        stranger.signal(Signal::KILL);
        assert!(shell.try_wait().unwrap().is_none(), "another start time is another process");
        for process in &all {
            process.signal(Signal::KILL);
        }
        assert!(!shell.wait().unwrap().success());
        deadline.wait("both to end", || Ok((!all.iter().any(|p| p.runs())).then_some(()))).unwrap();
    }
}
