//! Results: a table for people, JSON for machines.

use std::fmt::Write as _;

use serde::Serialize;

use crate::console::Console;
use crate::pins::Kernel;

/// What one test on one kernel came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It did what it must.
    Pass,
    /// It did not.
    Fail,
    /// This kernel cannot do it, as is known.
    Skip,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        }
    }
}

/// One test on one kernel.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Test.
    pub test: &'static str,
    /// Kernel, by its short name.
    pub kernel: &'static str,
    /// `uname -r` of that kernel.
    pub release: &'static str,
    /// Whether the test did what it must.
    pub verdict: Verdict,
    /// Why not; for a known-bad job, what was seen.
    pub note: Option<String>,
    /// Start to end of QEMU, in seconds.
    pub wall_s: f64,
    /// What the guest said.
    pub console: Console,
}

impl Outcome {
    /// A test that was not run.
    #[must_use]
    pub fn skipped(test: &'static str, kernel: &Kernel, reason: &str) -> Self {
        Self {
            test,
            kernel: kernel.name,
            release: kernel.release,
            verdict: Verdict::Skip,
            note: Some(reason.to_owned()),
            wall_s: 0.0,
            console: Console::default(),
        }
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// QEMU's version.
    pub qemu: String,
    /// `kvm` or `tcg,…`.
    pub accelerator: String,
    /// One entry for each boot.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Whether nothing failed, and something ran.
    #[must_use]
    pub fn passed(&self) -> bool {
        let any = |verdict| self.outcomes.iter().any(|outcome| outcome.verdict == verdict);
        any(Verdict::Pass) && !any(Verdict::Fail)
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!("QEMU {} ({})\n", self.qemu, self.accelerator);
        let _ = writeln!(
            table,
            "{:<14} {:<7} {:<6} {:>7} {:>7} {:>7}  note",
            "test", "kernel", "result", "checks", "boot s", "wall s"
        );
        for outcome in &self.outcomes {
            let boot = outcome.console.boot_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
            let _ = writeln!(
                table,
                "{:<14} {:<7} {:<6} {:>7} {:>7} {:>7.1}  {}",
                outcome.test,
                outcome.kernel,
                outcome.verdict.word(),
                outcome.console.passed.len(),
                boot,
                outcome.wall_s,
                outcome.note.as_deref().unwrap_or_default(),
            );
            for skipped in &outcome.console.skipped {
                let _ = writeln!(table, "{:<22} skip   {skipped}", "");
            }
        }
        table
    }
}
