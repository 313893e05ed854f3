//! The initramfs of one boot: busybox, tools and test programs with their libraries, modules in loading order, the init script and the
//! test's own script.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::modules::Module;
use crate::tool;

/// Runs as process 1 of the guest.
const INIT: &str = include_str!("../guest/init");

/// Host programs that every guest has, beside busybox; busybox's own `ip` knows too little.
const TOOLS: &[&str] = &["ip", "ethtool"];

/// What goes into the guest.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Modules, in the order to load them.
    pub modules: &'a [Module],
    /// Test programs on the host; each lands in `/bin`.
    pub programs: &'a [PathBuf],
    /// The test: a script for busybox `sh`.
    pub script: &'a str,
}

/// Writes the archive.
///
/// # Errors
/// If a tool, program or library is missing on the host.
pub fn build(contents: &Contents<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "run/netns", "tmp", "root", "etc"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 5, 1);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("test.sh", 0o755, contents.script.as_bytes());

    let busybox = tool::which("busybox").context("no busybox; `apt install busybox-static`")?;
    if !tool::libraries(&busybox)?.is_empty() {
        bail!("{} is not static; `apt install busybox-static`", busybox.display());
    }
    archive.file("bin/busybox", 0o755, &read(&busybox)?);

    for name in TOOLS {
        let path = tool::which(name).with_context(|| format!("no {name}; `apt install iproute2 ethtool`"))?;
        program(&mut archive, &format!("usr/sbin/{name}"), &path)?;
    }
    for path in contents.programs {
        let name = path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        program(&mut archive, &format!("bin/{name}"), path)?;
    }
    let mut order = String::new();
    for module in contents.modules {
        let path = format!("modules/{}.ko", module.name);
        archive.file(&path, 0o644, &module.object);
        order.push_str(&format!("/{path}\n"));
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

fn program(archive: &mut Archive, at: &str, host: &Path) -> Result<()> {
    archive.file(at, 0o755, &read(host)?);
    for library in tool::libraries(host)? {
        // At the very path the loader resolved here: no cache file and no search path needed in the guest.
        archive.file(&library.to_string_lossy(), 0o755, &read(&library)?);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
