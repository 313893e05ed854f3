//! How a guest program tells its results: one line on the console each, read by `console.rs` of the harness.

use std::fmt::Display;

/// Counts what failed; prints as it goes, so that a guest that dies has said what it knew.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    failed: u32,
}

impl Checks {
    /// `ok NAME`, or `FAIL NAME: why`.
    pub(crate) fn check(&mut self, name: &str, holds: bool, why: impl Display) {
        if holds {
            println!("ok {name}");
        } else {
            self.fail(name, why);
        }
    }

    /// `FAIL NAME: why`.
    pub(crate) fn fail(&mut self, name: &str, why: impl Display) {
        self.failed += 1;
        println!("FAIL {name}: {why}");
    }

    /// A measured fact for the report.
    pub(crate) fn figure(&self, name: &str, value: impl Display) {
        println!("figure {name} {value}");
    }

    /// Whether nothing failed.
    pub(crate) fn passed(&self) -> bool {
        self.failed == 0
    }
}
