//! `fuzz`: cargo-fuzz over the targets in `fuzz/`, which stand outside the workspace because they need a
//! nightly compiler. What they call is in `fuzz/targets`, whose tests run the same without one.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cmd;
use crate::context::{Context, find_program};
use crate::report::Report;
use crate::setup;

/// Fuzz targets, with a nightly compiler and cargo-fuzz. (`test` runs their seeds and seeded mutations without.)
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One target; all of them, one after the other, if not given
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Only list the targets
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let targets = targets(context)?;
    if args.list {
        for target in &targets {
            println!("{target}");
        }
        return Ok(());
    }
    let mut chosen = targets.clone();
    if let Some(wanted) = &args.target {
        ensure!(targets.contains(wanted), "no fuzz target `{wanted}`; there are: {}", targets.join(", "));
        chosen.retain(|target| target == wanted);
    }
    let missing = missing()?;
    if !missing.is_empty() {
        bail!("fuzzing needs what is not here:\n  {}", missing.join("\n  "));
    }
    setup::ensure(context)?;
    let mut report = Report::new();
    report.step("seeds", || {
        let seeds = ["run", "--package", "florelay-fuzz-targets", "--bin", "write-seeds", "fuzz/corpus"];
        cmd::run(&mut context.cargo(&seeds))
    });
    let limit = format!("-max_total_time={}", args.seconds);
    for target in &chosen {
        report.step(target, || {
            let mut fuzz = Command::new("cargo");
            fuzz.args(["+nightly", "fuzz", "run", "--fuzz-dir", "fuzz", target.as_str(), "--", limit.as_str()]);
            // `cargo xtask` runs under the pinned toolchain, and the variable would win over `+nightly`.
            cmd::run(
                fuzz.current_dir(&context.root).env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO"),
            )
        });
    }
    report.finish()
}

/// Names of `[[bin]]` in `fuzz/Cargo.toml`: cargo-fuzz's own list needs cargo-fuzz.
fn targets(context: &Context) -> Result<Vec<String>> {
    let file = context.root.join("fuzz/Cargo.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("no fuzz targets: {}", file.display()))?;
    Ok(bin_names(&text))
}

fn bin_names(manifest: &str) -> Vec<String> {
    manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|bin| bin.lines().find_map(|line| line.trim().strip_prefix("name")))
        .filter_map(|rest| rest.trim_start().strip_prefix('='))
        .map(|name| name.trim().trim_matches('"').to_owned())
        .collect()
}

fn missing() -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    if find_program("cargo-fuzz").is_none() {
        missing.push("cargo-fuzz: cargo install cargo-fuzz");
    }
    let nightly = find_program("rustup").is_some()
        && cmd::stdout(Command::new("rustup").args(["toolchain", "list"]))?
            .lines()
            .any(|line| line.starts_with("nightly"));
    if !nightly {
        missing.push("a nightly compiler: rustup toolchain install nightly --profile minimal");
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_bins_of_the_manifest() {
        let manifest = "[package]\nname = \"fuzz\"\n\n[[bin]]\nname = \"link\"\npath = \"x\"\n[[bin]]\npath = \"y\"\nname=\"oam\"\n";
        assert_eq!(bin_names(manifest), ["link", "oam"]);
    }
}
