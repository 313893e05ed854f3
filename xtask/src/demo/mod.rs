//! stub
use crate::context::Context;
use anyhow::Result;
/// x
#[derive(clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: &Context, _: &Args) -> Result<()> {
    Ok(())
}
