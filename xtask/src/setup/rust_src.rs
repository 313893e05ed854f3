//! The standard library's source for the pinned compiler: the eBPF target has no ready-made `core`.
//!
//! First rustup; where its server cannot be reached, Debian's `rust-src` of exactly the same version
//! (`debian_source`). Either ends at the place where `-Z build-std` looks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Done, State, Step, debian_source};
use crate::cmd;
use crate::context::{Context, find_program};

/// rustup tries for minutes where a firewall swallows packets.
const RUSTUP_SECONDS: &str = "300";

pub(super) struct RustSource;

impl Step for RustSource {
    fn name(&self) -> &'static str {
        "standard library source"
    }

    fn why(&self) -> &'static str {
        "the eBPF programs build `core` for bpfel-unknown-none from it"
    }

    fn check(&self, context: &Context) -> Result<State> {
        let place = place(context)?;
        if is_there(&place) {
            return Ok(State::Ready(format!("for {} at {}", context.toolchain, place.display())));
        }
        Ok(State::Missing(format!("rust-src of {}", context.toolchain)))
    }

    fn install(&self, context: &Context) -> Result<Done> {
        if let Err(error) = by_rustup(context) {
            println!("         rustup could not: {}", format!("{error:#}").replace('\n', "\n         "));
            println!("         trying Debian's rust-src {} instead", context.toolchain);
            let unpacked = debian_source::fetch(context)?;
            link(context, &unpacked)?;
        }
        Ok(Done::Installed)
    }
}

/// Where `-Z build-std` looks.
fn place(context: &Context) -> Result<PathBuf> {
    Ok(context.sysroot()?.join("lib/rustlib/src/rust"))
}

fn is_there(place: &Path) -> bool {
    place.join("library/core/src/lib.rs").is_file()
}

fn by_rustup(context: &Context) -> Result<()> {
    anyhow::ensure!(find_program("rustup").is_some(), "it is not installed");
    let mut rustup = Command::new("timeout");
    rustup.args([RUSTUP_SECONDS, "rustup", "component", "add", "rust-src", "--toolchain", &context.toolchain]);
    eprintln!("$ {}", cmd::line(&rustup));
    cmd::stdout(&mut rustup)?;
    // rustup believes its own list: where somebody removed the files, it calls the component up to date.
    anyhow::ensure!(
        is_there(&place(context)?),
        "it lists rust-src as installed, but the files are not there: remove the component and add it again"
    );
    Ok(())
}

fn link(context: &Context, source: &Path) -> Result<()> {
    let place = place(context)?;
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    // A link that leads nowhere (the cache was emptied) is replaced; a real folder is not ours to touch.
    if fs::symlink_metadata(&place).is_ok_and(|meta| meta.file_type().is_symlink()) {
        fs::remove_file(&place)?;
    }
    symlink(source, &place).with_context(|| format!("cannot link {} to {}", place.display(), source.display()))?;
    println!("         linked {} to {}", place.display(), source.display());
    Ok(())
}
