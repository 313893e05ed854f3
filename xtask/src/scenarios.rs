//! `bench scenarios`: the table of the simulation, and the scenarios marked ● in real time.
//!
//! Results of both go to `target/scenarios`: `simulation.md`, `results.json`, `results.md`, plots.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::cmd;
use crate::context::Context;

/// Rows of the table that the simulation has, and rows that real time has.
const SIMULATED: [&str; 15] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "15", "16", "17", "18"];
const REAL_TIME: [&str; 10] = ["1", "2", "3", "4", "5", "10", "11", "16", "18", "lossy"];

/// The project's scenarios: in simulation, and those marked ● in real time over the link emulator, as root.
///
/// The simulation runs in virtual time, so a busy machine changes nothing. Real time takes about 12 minutes and wants a
/// quiet machine; each row says how loaded it was and whether the emulator kept its time. Tables, JSON and plots go to
/// target/scenarios.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows, by number; `lossy` is 10 Mb/s with 1 % loss. All if absent
    #[arg(value_name = "N")]
    rows: Vec<String>,
    /// Loads as in the table, outages of a minute, three seeds: about an hour
    #[arg(long)]
    long: bool,
    /// Virtual time only
    #[arg(long, conflicts_with = "only_real_time")]
    only_simulation: bool,
    /// Real time only
    #[arg(long)]
    only_real_time: bool,
    /// Seeds of the simulation; 1, or 3 with --long
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: Option<u32>,
    /// Print the figures of real time as JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let chosen = |known: &'static [&'static str]| -> Vec<&'static str> {
        let all = args.rows.is_empty();
        known.iter().copied().filter(|row| all || args.rows.iter().any(|wanted| wanted == row)).collect()
    };
    let (simulated, real_time) = (chosen(&SIMULATED), chosen(&REAL_TIME));
    for row in &args.rows {
        let known = SIMULATED.iter().chain(&REAL_TIME).any(|known| known == row);
        ensure!(known, "no scenario {row}; there are {} and lossy", SIMULATED.join(", "));
    }
    let folder = context.target_dir().join("scenarios");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut missed = Vec::new();
    if !args.only_real_time && !simulated.is_empty() {
        let seeds = args.seeds.unwrap_or(if args.long { 3 } else { 1 }).to_string();
        let example = ["run", "--release", "--package", "florelay-sim", "--example", "scenarios", "--"];
        let mut cargo = context.cargo(&example);
        cargo.args(["--seeds", &seeds]).args((!args.long).then_some("--cut")).args(&simulated);
        eprintln!("$ {}", cmd::line(&cargo));
        // Its table is kept; what it says meanwhile goes through.
        let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        fs::write(folder.join("simulation.md"), &output.stdout)?;
        if !args.json {
            std::io::stdout().write_all(&output.stdout)?;
        }
        if !output.status.success() {
            missed.push("simulation");
        }
    }
    if args.only_simulation || real_time.is_empty() {
        // Nothing of it was asked for.
    } else if context.is_root {
        cmd::run(&mut context.cargo(&["build", "--release", "--package", "florelay", "--package", "florelay-bench"]))?;
        let mut bench = std::process::Command::new(context.target_dir().join("release/florelay-bench"));
        bench.arg("scenarios").args(&real_time).arg("--folder").arg(&folder).current_dir(&context.root);
        bench.args(args.long.then_some("--long")).args(args.json.then_some("--json"));
        if cmd::run(&mut bench).is_err() {
            missed.push("real time");
        }
    } else {
        ensure!(!args.only_real_time, "real time makes network namespaces and loads XDP: run it as root");
        eprintln!("not root: the scenarios in real time (network namespaces, XDP) are left out");
    }
    ensure!(missed.is_empty(), "{}: a bar was missed, or a row not measured; see above", missed.join(" and "));
    Ok(())
}
