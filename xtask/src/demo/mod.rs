//! `demo`: three nodes in a line, a real file from one end to the other under a cap and without, commands meanwhile;
//! what was measured, and on what the links stood.
//!
//! Everything that it starts or makes is held by a guard, so that it goes on success, on failure, on Ctrl-C and on
//! SIGTERM. What a SIGKILL leaves is swept by the next run.

mod act;
mod payload;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use florelay_e2e::{Adapter, LinkPlan, Options, Program, Rate, Topology, interrupt_flag, interrupted};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cmd;
use crate::context::Context;
use crate::setup;

/// How long three nodes may take to find each other.
const CONNECT_TIME: Duration = Duration::from_secs(60);

/// Three stations, a real file under a cap and without, commands meanwhile; what was measured.
///
/// As root: three network namespaces joined by veth pairs, AF_XDP on every link. Without root: the same over
/// loopback sockets. Prints goodput, how close the cap was held, command latency, the result of comparing the file,
/// and which rung each link stands on and why not a higher one. Leaves nothing behind.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Cap of every link in the first run, Mbit/s at layer 2
    #[arg(long, value_name = "MBIT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    cap: u64,
    /// Size of the file, MB; 256 unless --quick
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    size: Option<u64>,
    /// 16 MB and an unoptimised build: does it work, not how fast
    #[arg(long)]
    quick: bool,
    /// Use this florelay instead of building one
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Sockets although root (what others see without root)
    #[arg(long)]
    sockets: bool,
    /// Afterwards leave the nodes running until Ctrl-C, and say how to explore them
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let program = match &args.program {
        Some(path) => Program::at(path)?,
        None => build(context, args.quick)?,
    };
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, interrupt_flag()).context("cannot handle signals")?;
    }
    let namespaces = context.is_root && !args.sockets;
    if namespaces {
        println!("\nstation-a ── veth ── relay ── veth ── station-b: three network namespaces, AF_XDP on every link");
    } else {
        let why = if context.is_root { "--sockets" } else { "not root, so no namespaces and no AF_XDP" };
        println!("\nstation-a ── relay ── station-b over loopback sockets ({why})");
    }
    let adapter = if namespaces { Adapter::Xdp } else { Adapter::Udp };
    let topology = Topology::line3(&program, &Options { namespaces, adapter, queues: 1, mtu: 1500 })?;
    let megabytes = args.size.unwrap_or(if args.quick { 16 } else { 256 });
    println!("file: {megabytes} MB of random bytes");

    let mut intact = true;
    for rate in [Rate::Bps(args.cap * 1_000_000), Rate::Uncapped] {
        let plan = LinkPlan { rate, ..LinkPlan::default() };
        let result = act::play(&topology, &program, &plan, megabytes)?;
        show::act(rate, &result);
        intact &= result.intact;
    }
    if !intact {
        bail!("a file that arrived is not the file that was sent");
    }
    if args.keep {
        explore(&topology, &program, Rate::Bps(args.cap * 1_000_000))?;
    }
    Ok(())
}

fn build(context: &Context, quick: bool) -> Result<Program> {
    setup::ensure(context)?;
    let (profile, folder): (&[&str], _) = if quick { (&[], "debug") } else { (&["--release"], "release") };
    let mut cargo = context.cargo(&["build", "--package", "florelay", "--bin", "florelay"]);
    cmd::run(cargo.args(profile))?;
    Program::at(context.target_dir().join(folder).join("florelay"))
}

fn explore(topology: &Topology, program: &Program, rate: Rate) -> Result<()> {
    topology.configure(&LinkPlan { rate, ..LinkPlan::default() })?;
    let nodes = topology.start_all(CONNECT_TIME)?;
    show::exploring(topology, program);
    while !interrupted() {
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("\nstopping");
    for node in nodes {
        node.stop()?;
    }
    Ok(())
}
