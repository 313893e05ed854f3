//! `test`: the test command of the README and of CI. Runs everything, also after a failure, and ends with what
//! took longest.

use anyhow::Result;

use crate::cmd;
use crate::context::{Context, find_program};
use crate::report::Report;
use crate::setup;

/// How many of the slowest tests are listed.
const SLOWEST: usize = 15;

/// The test command: format, lints, every test of the workspace, doc tests; what took longest.
///
/// As root the tests on real kernel parts (network namespaces, veth, XDP, AF_XDP) run too. With CI=true they
/// must: without root they then fail instead of stepping aside.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Tests alone: no format, no lints
    #[arg(long)]
    only_tests: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let mut report = Report::new();
    report.step("setup", || setup::ensure(context));
    if !context.is_root {
        eprintln!("Not root: tests that need network namespaces or AF_XDP {}.", without_root());
    }
    if !args.only_tests {
        format_and_lints(context, &mut report);
    }
    // End-to-end tests start the program itself, which `cargo test` builds only for its own package's tests.
    report.step("build florelay", || cmd::run(&mut context.cargo(&["build", "--package", "florelay"])));
    let mut times = Times::default();
    report.step("tests", || tests(context, args.filter.as_deref(), &mut times));
    if args.filter.is_none() {
        report.step("doc tests", || cmd::run(&mut context.cargo(&["test", "--doc", "--workspace"])));
    }
    times.print();
    report.finish()
}

/// Format and lints of the workspace and of the crates that stand outside it.
pub(crate) fn format_and_lints(context: &Context, report: &mut Report) {
    report.step("format", || {
        cmd::run(&mut context.cargo(&["fmt", "--all", "--check"]))?;
        for outside in ["ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
            if context.root.join(outside).is_file() {
                cmd::run(&mut context.cargo(&["fmt", "--manifest-path", outside, "--check"]))?;
            }
        }
        Ok(())
    });
    report.step("lints", || {
        cmd::run(&mut context.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
}

fn without_root() -> &'static str {
    if std::env::var("CI").is_ok_and(|value| value == "true") {
        "will fail, because CI=true asks for them"
    } else {
        "are left out, and say so"
    }
}

fn tests(context: &Context, filter: Option<&str>, times: &mut Times) -> Result<()> {
    let mut command = if find_program("cargo-nextest").is_some() {
        context.cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        context.cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"])
    };
    command.args(filter);
    cmd::tee(&mut command, |line| times.note(line))
}

/// Seconds and names, picked out of the runner's output.
#[derive(Default)]
struct Times {
    found: Vec<(f64, String)>,
    binary: String,
}

impl Times {
    fn note(&mut self, line: &str) {
        let line = line.trim_start();
        if let Some(found) = nextest_line(line) {
            // A failed test is listed again in nextest's final summary.
            if !self.found.contains(&found) {
                self.found.push(found);
            }
        } else if let Some(rest) = line.strip_prefix("Running ") {
            rest.split(" (").next().unwrap_or(rest).clone_into(&mut self.binary);
        } else if let Some(seconds) = finished_in(line) {
            self.found.push((seconds, self.binary.clone()));
        }
    }

    fn print(&mut self) {
        self.found.sort_by(|a, b| b.0.total_cmp(&a.0));
        eprintln!("\n=== slowest of {} timed", self.found.len());
        for (seconds, name) in self.found.iter().take(SLOWEST) {
            eprintln!("  {seconds:>9.2} s  {name}");
        }
    }
}

/// `PASS [   0.006s] ( 1/12) package module::test` (cargo-nextest).
fn nextest_line(line: &str) -> Option<(f64, String)> {
    let (status, rest) = line.split_once('[')?;
    if !["PASS", "FAIL", "LEAK", "TIMEOUT", "SIGKILL", "SIGABRT", "SIGSEGV"].contains(&status.trim()) {
        return None;
    }
    let (seconds, name) = rest.split_once("s]")?;
    let name = name.trim_start();
    let name = match name.strip_prefix('(') {
        Some(counted) => counted.split_once(')')?.1.trim_start(),
        None => name,
    };
    Some((seconds.trim().parse().ok()?, name.to_owned()))
}

/// `test result: ok. 3 passed; … finished in 0.12s` (libtest), which is per test binary.
fn finished_in(line: &str) -> Option<f64> {
    line.strip_prefix("test result:")?.rsplit_once("finished in ")?.1.trim_end_matches('s').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_both_runners() {
        let mut times = Times::default();
        times.note("        PASS [   0.126s] ( 1/12) xtask cmd::tests::tee_sees");
        times.note("        FAIL [   2.000s] xtask other");
        times.note("        SLOW [> 60.000s] xtask other");
        times.note("     Running unittests src/main.rs (target/debug/deps/xtask-1)");
        times.note("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.12s");
        assert_eq!(
            times.found,
            [
                (0.126, "xtask cmd::tests::tee_sees".to_owned()),
                (2.0, "xtask other".to_owned()),
                (0.12, "unittests src/main.rs".to_owned()),
            ]
        );
    }
}
