//! A list of steps that all run, and the table at the end that says which failed and which took longest.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How one step ended.
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Steps run so far. A failed step does not stop the later ones: one run shows everything that is wrong.
pub(crate) struct Report {
    started: Instant,
    steps: Vec<(String, Duration, Outcome)>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), steps: Vec::new() }
    }

    /// Runs a step and notes its time.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        eprintln!("\n=== {name}");
        let started = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                eprintln!("{error:#}");
                let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                Outcome::Failed(first)
            }
        };
        self.steps.push((name.to_owned(), started.elapsed(), outcome));
    }

    /// Notes a step that cannot run here, with the reason.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.steps.push((name.to_owned(), Duration::ZERO, Outcome::Skipped(reason.to_owned())));
    }

    /// Prints the table; an error if any step failed.
    pub(crate) fn finish(self) -> Result<()> {
        eprintln!("\n=== steps ({})", seconds(self.started.elapsed()));
        let mut failed = Vec::new();
        for (name, took, outcome) in &self.steps {
            match outcome {
                Outcome::Passed => eprintln!("  passed   {:>9}  {name}", seconds(*took)),
                Outcome::Skipped(why) => eprintln!("  skipped  {:>9}  {name}: {why}", "-"),
                Outcome::Failed(why) => {
                    eprintln!("  FAILED   {:>9}  {name}: {why}", seconds(*took));
                    failed.push(name.as_str());
                }
            }
        }
        if !failed.is_empty() {
            bail!("{} of {} steps failed: {}", failed.len(), self.steps.len(), failed.join(", "));
        }
        Ok(())
    }
}

/// A duration for tables, in seconds.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
