//! `vm`: hands over to the program of the vm-tests crate, which boots kernels under QEMU.

use anyhow::Result;

use crate::cmd;
use crate::context::Context;
use crate::setup;

/// Tests on other kernels and NIC drivers under QEMU.
///
/// `cargo xtask vm -- --help` lists what there is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to `florelay-vm-tests`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    setup::ensure(context)?;
    let mut vm = context.cargo(&["run", "--package", "florelay-vm-tests", "--bin", "florelay-vm-tests", "--"]);
    cmd::run(vm.args(&args.arguments))
}
