//! `cargo xtask`: the one entry a person has to remember. The same verbs run on a desk, in a virtual machine
//! and in CI.
//!
//! It builds before anything else is installed, so its dependencies are pure Rust and nothing here touches
//! libelf, clang or the eBPF toolchain except by running them.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod cmd;
mod context;
mod demo;
mod fuzz;
mod report;
mod scenarios;
mod setup;
mod suite;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::context::Context;

/// Everything that can be done with this source tree.
///
/// A fresh clone needs two commands, in either order: `cargo xtask demo` and `cargo xtask test`. Every verb
/// that builds runs `setup` first, which takes no time when nothing is missing.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

// What each does is said at its `Args`.
#[derive(Subcommand)]
enum Verb {
    Setup(setup::Args),
    Demo(demo::Args),
    Test(suite::Args),
    Check(check::Args),
    Bench(bench::Args),
    Vm(vm::Args),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let context = Context::find()?;
    match verb {
        Verb::Setup(args) => setup::run(&context, &args),
        Verb::Demo(args) => demo::run(&context, &args),
        Verb::Test(args) => suite::run(&context, &args),
        Verb::Check(args) => check::run(&context, &args),
        Verb::Bench(args) => bench::run(&context, &args),
        Verb::Vm(args) => vm::run(&context, &args),
        Verb::Fuzz(args) => fuzz::run(&context, &args),
    }
}
