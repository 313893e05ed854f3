//! `florelay-vm-tests`: runs the tests of this crate on real kernels under QEMU. `cargo xtask vm` builds and calls it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use florelay_vm_tests::apt::Apt;
use florelay_vm_tests::cache::Cache;
use florelay_vm_tests::pins::{self, Kernel};
use florelay_vm_tests::qemu::Qemu;
use florelay_vm_tests::report::Report;
use florelay_vm_tests::suite::{self, TESTS, VmTest};

/// Tests on real kernels under QEMU.
#[derive(Debug, Parser)]
struct Arguments {
    /// Show tests and kernels, run nothing.
    #[arg(long)]
    list: bool,
    /// Run this test; may be repeated. Default: all.
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// Run on this kernel; may be repeated; `all` = every one. Default: 6.18.
    #[arg(long = "kernel", value_name = "K")]
    kernels: Vec<String>,
    /// Write the results here too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vm: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for test in TESTS {
            println!("{:<14} {}", test.name, test.about);
        }
        let kernels: Vec<_> = pins::KERNELS.iter().map(|kernel| kernel.name).collect();
        println!("kernels: {} (default {})", kernels.join(" "), pins::DEFAULT_KERNEL);
        return Ok(true);
    }
    let tests = tests(&arguments.tests)?;
    let kernels = kernels(&arguments.kernels)?;
    if tests.iter().any(|test| !test.programs.is_empty()) {
        build_guest_programs()?;
    }
    let cache = Cache::open()?;
    let apt = Apt::open(&cache)?;
    let qemu = Qemu::find(&cache, &apt)?;
    let mut report =
        Report { qemu: qemu.version.clone(), accelerator: qemu.accelerator().to_owned(), outcomes: Vec::new() };
    for kernel in kernels {
        for test in &tests {
            report.outcomes.push(suite::run(test, kernel, &cache, &apt, &qemu)?);
        }
    }
    print!("\n{}", report.table());
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.passed())
}

/// `cargo run --bin` builds one program only; the guests need the others of this crate. Started without cargo, what lies beside this
/// program is used as it is.
fn build_guest_programs() -> Result<()> {
    let (Some(cargo), Some(folder)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) else {
        return Ok(());
    };
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", env!("CARGO_PKG_NAME"), "--bins"]).current_dir(folder);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let status = build.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the guest programs do not build");
    }
    Ok(())
}

fn tests(names: &[String]) -> Result<Vec<&'static VmTest>> {
    if names.is_empty() {
        return Ok(TESTS.iter().collect());
    }
    names
        .iter()
        .map(|name| match TESTS.iter().find(|test| test.name == name) {
            Some(test) => Ok(test),
            None => bail!("no test {name}; --list shows them"),
        })
        .collect()
}

fn kernels(names: &[String]) -> Result<Vec<&'static Kernel>> {
    if names.is_empty() {
        return Ok(pins::kernel(pins::DEFAULT_KERNEL).into_iter().collect());
    }
    if names.iter().any(|name| name == "all") {
        return Ok(pins::KERNELS.iter().collect());
    }
    names
        .iter()
        .map(|name| pins::kernel(name).with_context(|| format!("no kernel {name}; --list shows them")))
        .collect()
}
