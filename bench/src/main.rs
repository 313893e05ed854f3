//! `florelay-bench`: see the library for what is measured and how.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use florelay_bench::emulate::{self, child};
use florelay_bench::instructions::RowKind;
use florelay_bench::{bed, instructions, veth};

/// Benchmarks of florelay.
#[derive(Debug, Parser)]
#[command(name = "florelay-bench", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// How to run the micro benchmarks
    Micro,
    /// Instructions per packet of QUIC in memory, bare and through the engine, counted by valgrind
    Instructions {
        /// Keep callgrind's files in this folder
        #[arg(long, value_name = "FOLDER")]
        keep: Option<PathBuf>,
        /// Write the figures as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// One row, for the process that valgrind watches
    #[command(hide = true)]
    Row {
        /// Which
        row: RowKind,
    },
    /// One veth hop beside its bounds and beside quinn; as root
    Veth {
        /// How many times everything is measured
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Length of each measurement in seconds
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// Size of the file that the nodes send, in 10^6 bytes; twice that must fit /dev/shm
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
        file_mb: u64,
        /// Measure these rows alone, by their keys in the JSON
        #[arg(long, value_name = "KEY", value_delimiter = ',')]
        only: Vec<String>,
        /// The florelay program; beside this one if absent
        #[arg(long, env = "FLORELAY_BIN")]
        florelay: Option<PathBuf>,
        /// Write everything, every sample with it, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What the link emulator sustains, and how late it is; as root
    Emulator {
        /// Length of each measurement in seconds
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// A link between two interfaces, as a profile says; until SIGINT or SIGTERM; as root
    Emulate {
        /// What the link does, in either direction (bench/profiles)
        #[arg(long, value_name = "FILE")]
        profile: PathBuf,
        /// Interface of the left side, in this network namespace
        #[arg(long, value_name = "IFACE")]
        left: String,
        /// Interface of the right side
        #[arg(long, value_name = "IFACE")]
        right: String,
        /// Core to stay on
        #[arg(long)]
        core: Option<usize>,
        /// Write what happened to the traffic, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().verb {
        Verb::Micro => println!("cargo bench -p florelay-bench [-- FILTER]"),
        Verb::Instructions { keep, json } => {
            let counts = instructions::run(keep.as_deref())?;
            println!("{}", counts.table());
            if let Some(path) = json {
                write_json(&path, &counts)?;
            }
        }
        Verb::Row { row } => println!("{}", serde_json::to_string(&instructions::run_row(row)?)?),
        Verb::Veth { rounds, seconds, file_mb, only, florelay, json } => {
            clean_up_on_signals()?;
            let duration = Duration::from_secs(seconds);
            let report = veth::run(&veth::Options { rounds, duration, file_mb, only, program: florelay })?;
            println!("{}", report.table());
            if let Some(path) = json {
                write_json(&path, &report)?;
            }
        }
        Verb::Emulator { seconds } => {
            clean_up_on_signals()?;
            println!("{}", emulate::sustain::run(seconds)?);
        }
        Verb::Emulate { profile, left, right, core, json } => {
            emulate(&profile, left, right, core, json.as_deref())?;
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(value)?).with_context(|| path.display().to_string())
}

fn emulate(profile: &Path, left: String, right: String, core: Option<usize>, json: Option<&Path>) -> Result<()> {
    let profile = florelay::config::profile::load(profile)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let options = emulate::Options { profile, left, right, core };
    let report = emulate::run(&options, &stop, |how| {
        // A reader that has gone is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{} {}: {how}", child::READY, options.profile.name);
    })?;
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    let _ = write!(std::io::stdout(), "{report}");
    match report.failed {
        Some(reason) => bail!(reason),
        None => Ok(()),
    }
}

/// SIGINT and SIGTERM remove the namespaces before they end the process.
fn clean_up_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        bed::remove_all();
        std::process::exit(130);
    });
    Ok(())
}
