//! `florelay-bench`: see the library for what is measured and how.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use florelay_bench::emulate::{self, child};
use florelay_bench::instructions::RowKind;
use florelay_bench::{bed, end_to_end, instructions, scenarios, veth};
use florelay_e2e::{interrupt_flag, interrupted};

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
        /// A folder on a real disk, for the spool of streams
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        disk: PathBuf,
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
    /// The scenarios marked ● in real time: whole nodes over the emulator, a plain quinn sender beside them; as root
    Scenarios {
        /// Rows, by number or name; all if absent
        #[arg(value_name = "N")]
        only: Vec<String>,
        /// Loads as in the table, and outages of a minute: about an hour
        #[arg(long)]
        long: bool,
        /// Print the results as JSON instead of a table
        #[arg(long)]
        json: bool,
        /// results.json, results.md and plots go here
        #[arg(long, value_name = "FOLDER", default_value = "target/scenarios")]
        folder: PathBuf,
        /// The florelay program; beside this one if absent
        #[arg(long, env = "FLORELAY_BIN")]
        florelay: Option<PathBuf>,
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
        Verb::Veth { rounds, seconds, file_mb, disk, only, florelay, json } => {
            clean_up_on_signals()?;
            let duration = Duration::from_secs(seconds);
            let report = veth::run(&veth::Options {
                rounds,
                duration,
                file_mb,
                only,
                disk: disk.canonicalize()?,
                program: florelay,
            })?;
            println!("{}", report.table());
            if let Some(path) = json {
                write_json(&path, &report)?;
            }
        }
        Verb::Emulator { seconds } => {
            clean_up_on_signals()?;
            println!("{}", emulate::sustain::run(seconds)?);
        }
        Verb::Scenarios { only, long, json, folder, florelay } => {
            let florelay = end_to_end::find_program(florelay.as_deref())?;
            let emulator = std::env::current_exe()?;
            return run_scenarios(&scenarios::Options { only, long, florelay, emulator, folder }, json);
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

/// Every wait ends when a signal comes, and guards clean up on the way out.
fn run_scenarios(options: &scenarios::Options, json: bool) -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, interrupt_flag())?;
    }
    let report = scenarios::run(options)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.table());
    }
    eprintln!("results: {}", options.folder.display());
    ensure!(!interrupted(), "interrupted");
    let failed: Vec<_> = report.rows.iter().filter(|row| row.failure.is_some()).map(|row| row.key).collect();
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
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
