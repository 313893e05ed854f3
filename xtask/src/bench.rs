//! `bench`: hands over to the bench crate. Always release builds.

use anyhow::Result;

use crate::cmd;
use crate::context::Context;
use crate::{scenarios, setup};

/// Benchmarks: parts alone, and whole nodes over veth beside their bounds and quinn over sockets.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// criterion: parsers, rings, buckets, QUIC in memory; no privilege
    Micro(Rest),
    /// Instructions a packet of QUIC in memory, bare and through the engine; needs valgrind, no privilege, no quiet machine
    Instructions(Rest),
    Scenarios(scenarios::Args),
    /// Whole nodes over veth and AF_XDP beside the bounds: a raw blast, and bare QUIC in memory; as root
    Veth(Rest),
}

#[derive(clap::Args)]
struct Rest {
    /// Passed on to the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    setup::ensure(context)?;
    match &args.what {
        What::Micro(rest) => {
            let mut bench = context.cargo(&["bench", "--package", "florelay-bench", "--"]);
            cmd::run(bench.args(&rest.arguments))
        }
        What::Instructions(rest) => {
            let mut bench = context.cargo(&["run", "--release", "--package", "florelay-bench", "--", "instructions"]);
            cmd::run(bench.args(&rest.arguments))
        }
        What::Scenarios(args) => scenarios::run(context, args),
        What::Veth(rest) => {
            anyhow::ensure!(context.is_root, "`bench veth` makes network namespaces: run it as root");
            cmd::run(&mut context.cargo(&["build", "--release", "--package", "florelay"]))?;
            let mut bench = context.cargo(&["run", "--release", "--package", "florelay-bench", "--", "veth"]);
            cmd::run(bench.args(&rest.arguments))
        }
    }
}
