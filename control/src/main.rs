//! The `florelay` executable.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use florelay::cli;

fn main() -> ExitCode {
    let cli = cli::args::Cli::parse();
    if !cli.logs_later() {
        florelay::logging::start();
    }
    cli::run(cli)
}
