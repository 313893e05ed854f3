//! What a person sees of a long run: which scenario, how far, how long it may take. On standard error; a line that is
//! written over where that is a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two changes of the line.
const STEP: Duration = Duration::from_millis(500);
/// Width of the line: a terminal is at least so wide.
const COLUMNS: usize = 79;

/// Of one scenario.
pub(super) struct Progress {
    title: String,
    began: Instant,
    expected: Duration,
    shown: Mutex<Option<Instant>>,
    terminal: bool,
}

impl Progress {
    /// Says that it begins.
    pub(super) fn begin(title: String, expected: Duration) -> Self {
        let terminal = std::io::stderr().is_terminal();
        eprintln!("{title}: about {} s", expected.as_secs());
        Self { title, began: Instant::now(), expected, shown: Mutex::new(None), terminal }
    }

    /// Shows how far it is, now and then.
    pub(super) fn show(&self, what: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.terminal || shown.is_some_and(|at| at.elapsed() < STEP) {
            return;
        }
        *shown = Some(Instant::now());
        let line = format!("  {} of about {} s: {what}", self.began.elapsed().as_secs(), self.expected.as_secs());
        let line: String = line.chars().take(COLUMNS).collect();
        let _ = write!(std::io::stderr(), "\r{line:<COLUMNS$}");
    }

    /// Says how it ended.
    pub(super) fn end(&self, how: &str) {
        let over = if self.shown.lock().unwrap_or_else(PoisonError::into_inner).is_some() { "\r" } else { "" };
        let line = format!("{}: {how} after {:.0} s", self.title, self.began.elapsed().as_secs_f64());
        eprintln!("{over}{line:<COLUMNS$}");
    }
}
