//! `setup`: what building and testing need beyond rustup's Rust, installed step by step.
//!
//! A step is *check / do / verify*: `check` is cheap and changes nothing, `install` runs only if something is
//! missing, and `check` must agree afterwards. Nothing to do costs two child processes. Steps are independent:
//! without root the ones that need it print the exact commands, and the rest go on.

mod apt;
mod bpf_linker;
mod bpffs;
mod debian_source;
mod python;
mod rust_src;

use std::fs::{self, File};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use crate::report::seconds;

/// Install what building and testing need, say what and why; safe to repeat.
///
/// Installs Debian packages (as root; otherwise prints the commands), the standard library's source for the
/// pinned compiler, bpf-linker, and a Python environment for the tests' clients into the cache folder (`$XDG_CACHE_HOME/florelay`, else
/// `~/.cache/florelay`). Does nothing, in well under a second, when all is there.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; the exit code tells (0 = nothing)
    #[arg(long)]
    dry_run: bool,
    /// List every Debian package with the reason for it, and stop
    #[arg(long)]
    list: bool,
}

/// What `check` found.
enum State {
    /// All there; a word on what.
    Ready(String),
    /// What is missing.
    Missing(String),
}

/// What `install` did.
enum Done {
    /// It ran; `check` decides whether it worked.
    Installed,
    /// It cannot run without root; these commands would do it.
    NeedsRoot(Vec<String>),
}

/// One thing that must be on the machine.
trait Step {
    fn name(&self) -> &'static str;
    /// One sentence: who uses it.
    fn why(&self) -> &'static str;
    /// Looks, cheaply, and changes nothing.
    fn check(&self, context: &Context) -> Result<State>;
    /// Runs only after `check` said `Missing`.
    fn install(&self, context: &Context) -> Result<Done>;
}

const STEPS: [&dyn Step; 5] =
    [&apt::Packages, &rust_src::RustSource, &bpf_linker::BpfLinker, &bpffs::Bpffs, &python::PythonClients];

/// The verb: says everything.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    if args.list {
        for package in apt::PACKAGES {
            println!("{:<16} {}", package.name, package.reason);
        }
        return Ok(());
    }
    let started = Instant::now();
    let mut missing = Vec::new();
    for step in STEPS {
        match step.check(context).with_context(|| format!("checking {}", step.name()))? {
            State::Ready(what) => println!("ready    {:<26} {what}", step.name()),
            State::Missing(what) => {
                println!("missing  {:<26} {what}\n         {:<26} ({})", step.name(), "", step.why());
                missing.push(step);
            }
        }
    }
    if missing.is_empty() {
        println!("Nothing to do ({}).", seconds(started.elapsed()));
        return Ok(());
    }
    if args.dry_run {
        bail!("{} of {} steps have something to install", missing.len(), STEPS.len());
    }
    install(context, &missing)?;
    println!("Setup is complete ({}).", seconds(started.elapsed()));
    Ok(())
}

/// For the other verbs: silent when nothing is missing, like the verb otherwise.
///
/// Without root, packages that only tests as root use are not insisted on: the rest must not wait for an administrator.
pub(crate) fn ensure(context: &Context) -> Result<()> {
    let mut missing = Vec::new();
    for step in STEPS {
        let state = step.check(context).with_context(|| format!("checking {}", step.name()))?;
        if let State::Missing(what) = state {
            missing.push((step.name(), what));
        }
    }
    match &missing[..] {
        [] => Ok(()),
        [(name, what)] if *name == apt::Packages.name() && !context.is_root && !apt::cannot_build()? => {
            println!("not installed: {what} (only tests and demo as root use them; `cargo xtask setup`)");
            Ok(())
        }
        _ => match run(context, &Args { dry_run: false, list: false }) {
            // A machine without a package index still builds, and its tests say what they leave out.
            Err(error) if missing.iter().all(|(name, _)| *name == python::PythonClients.name()) && !in_ci() => {
                println!("not installed: Python clients, whose tests are left out: {error:#}");
                Ok(())
            }
            done => done,
        },
    }
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

fn install(context: &Context, missing: &[&dyn Step]) -> Result<()> {
    fs::create_dir_all(&context.cache).with_context(|| format!("cannot create {}", context.cache.display()))?;
    // Two setups at once would unpack over each other. Released when the file is closed, also by a crash.
    let lock = File::create(context.cache.join("setup.lock"))?;
    lock.lock().context("cannot lock the cache folder")?;

    let mut commands = Vec::new();
    let mut failures = Vec::new();
    for step in missing {
        // The lock may have been waited for: somebody else may have done it.
        if matches!(step.check(context)?, State::Ready(_)) {
            continue;
        }
        println!("install  {}", step.name());
        match step.install(context) {
            Ok(Done::NeedsRoot(lines)) => commands.extend(lines),
            Ok(Done::Installed) => match step.check(context)? {
                State::Ready(what) => println!("ready    {:<26} {what}", step.name()),
                State::Missing(what) => {
                    failures.push(format!("{}: still missing: {what}", step.name()));
                }
            },
            Err(error) => failures.push(format!("{}: {error:#}", step.name())),
        }
    }
    if !commands.is_empty() {
        println!("\nThis needs root. Run these, then repeat:\n");
        for command in &commands {
            println!("    {command}");
        }
        println!();
        failures.push("the commands above have to be run as root".to_owned());
    }
    if !failures.is_empty() {
        bail!("setup is not complete:\n  {}", failures.join("\n  "));
    }
    Ok(())
}
