//! `check`: what can be known without a device, a namespace or root, in minutes. Meant for before every commit.

mod links;
mod policy;
mod portable;
mod rust_text;

use std::process::Command;

use anyhow::Result;

use crate::cmd;
use crate::context::{Context, find_program};
use crate::report::Report;
use crate::{setup, suite};

/// Format, lints, unit tests and simulation, portability of the core, docs, source policies.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the source policies and docs: seconds, builds nothing
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let mut report = Report::new();
    let files = context.source_files()?;
    report.step("source policies", || policy::run(context, &files));
    report.step("links in the docs", || links::run(context, &files));
    book(context, &mut report);
    if args.quick {
        return report.finish();
    }
    report.step("setup", || setup::ensure(context));
    suite::format_and_lints(context, &mut report);
    report.step("unit tests and simulation", || {
        let mut tests = if find_program("cargo-nextest").is_some() {
            context.cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
        } else {
            context.cargo(&["test", "--workspace", "--no-fail-fast"])
        };
        // `tests/` folders are where devices and namespaces are; the simulation's are the exception.
        cmd::run(tests.args(["--lib", "--bins"]))?;
        let simulation = &["test", "--package", "florelay-sim", "--tests"];
        cmd::run(&mut context.cargo(simulation))
    });
    portable::run(context, &mut report)?;
    report.finish()
}

fn book(context: &Context, report: &mut Report) {
    if find_program("mdbook").is_none() {
        report.skip("book", "mdbook is not installed (cargo install mdbook); links were checked all the same");
        return;
    }
    report.step("book", || {
        let mut mdbook = Command::new("mdbook");
        mdbook.arg("build").arg(context.root.join("docs"));
        cmd::run(mdbook.arg("--dest-dir").arg(context.target_dir().join("book")))
    });
}
