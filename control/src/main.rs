//! The `florelay` executable.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use florelay::cli;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = cli::args::Cli::parse();
    // Logs go to standard error; RUST_LOG chooses. Clients say what they have to say without it.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    cli::run(cli)
}
