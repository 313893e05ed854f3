//! Results: a table for people, JSON for machines.

use std::fmt::Write as _;

use serde::Serialize;

use crate::console::Console;

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
    pub passed: bool,
    /// Why not; for a known-bad job, what was seen.
    pub note: Option<String>,
    /// Start to end of QEMU, in seconds.
    pub wall_s: f64,
    /// What the guest said.
    pub console: Console,
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
    /// Whether everything did what it must, and something ran.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(|outcome| outcome.passed)
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
            let result = if outcome.passed { "pass" } else { "FAIL" };
            let boot = outcome.console.boot_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
            let _ = writeln!(
                table,
                "{:<14} {:<7} {:<6} {:>7} {:>7} {:>7.1}  {}",
                outcome.test,
                outcome.kernel,
                result,
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
