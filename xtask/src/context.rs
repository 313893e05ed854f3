//! Where things are: the source tree, the cache beside it, the pinned toolchain; and how cargo is called.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use crate::cmd;

/// What every verb needs to know about this machine.
pub(crate) struct Context {
    /// Root of the source tree.
    pub(crate) root: PathBuf,
    /// `$XDG_CACHE_HOME/florelay` or `~/.cache/florelay`: tools and downloads, outlives `cargo clean`.
    pub(crate) cache: PathBuf,
    /// The toolchain that `rust-toolchain.toml` pins, e.g. `1.95.0`.
    pub(crate) toolchain: String,
    /// Effective user is root.
    pub(crate) is_root: bool,
    sysroot: OnceLock<PathBuf>,
}

impl Context {
    /// Looks around; runs nothing.
    pub(crate) fn find() -> Result<Self> {
        let root = root(env::var_os("CARGO_MANIFEST_DIR"))?;
        Ok(Self {
            cache: cache_folder()?,
            toolchain: pinned_toolchain(&root)?,
            is_root: rustix::process::geteuid().is_root(),
            root,
            sysroot: OnceLock::new(),
        })
    }

    /// `bin` of the tools that setup installs.
    pub(crate) fn tools_bin(&self) -> PathBuf {
        self.cache.join("tools").join("bin")
    }

    /// `rustc --print sysroot` of the pinned toolchain.
    pub(crate) fn sysroot(&self) -> Result<&Path> {
        if let Some(found) = self.sysroot.get() {
            return Ok(found);
        }
        let mut rustc = Command::new("rustc");
        rustc.args(["--print", "sysroot"]).current_dir(&self.root);
        let found = PathBuf::from(cmd::stdout(&mut rustc)?.trim());
        Ok(self.sysroot.get_or_init(|| found))
    }

    /// A cargo command in the source tree, with setup's tools first on PATH and the eBPF programs required:
    /// a build that silently left them out would pass every test that skips without them.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(args).current_dir(&self.root).env("PATH", self.path_variable()).env("FLORELAY_REQUIRE_EBPF", "1");
        cargo
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target_dir(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), |dir| self.root.join(dir))
    }

    /// Files under version control, relative to the root; new files that are not ignored included.
    pub(crate) fn source_files(&self) -> Result<Vec<PathBuf>> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&self.root);
        let listed = cmd::stdout(&mut git)?;
        let mut files: Vec<PathBuf> = listed
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
            .filter(|file| self.root.join(file).is_file())
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    fn path_variable(&self) -> OsString {
        let old = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.tools_bin()).chain(env::split_paths(&old));
        env::join_paths(folders).unwrap_or(old)
    }
}

/// The source tree: `package`, the folder of xtask's package as `cargo run` says it, is in it.
///
/// Not what was said at compile time. Cargo gives xtask the same fingerprint in every clone, so that with a shared target folder
/// the program that runs here may have been built in another one.
fn root(package: Option<OsString>) -> Result<PathBuf> {
    let package = package.map(PathBuf::from).context("CARGO_MANIFEST_DIR is not set: start it as `cargo xtask`")?;
    match package.parent() {
        Some(root) if root.join("rust-toolchain.toml").is_file() => Ok(root.to_path_buf()),
        _ => bail!("{} is not xtask's folder in a source tree; start it as `cargo xtask`", package.display()),
    }
}

/// The first executable of this name on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn cache_folder() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: nowhere to cache tools")?;
    Ok(base.join("florelay"))
}

fn pinned_toolchain(root: &Path) -> Result<String> {
    let file = root.join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "channel")
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .with_context(|| format!("{}: no `channel`", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_tree_is_the_one_that_cargo_says() {
        let clone = tempfile::tempdir().unwrap();
        let package = clone.path().join("xtask");
        assert!(root(Some(package.clone().into())).is_err(), "no source tree");
        std::fs::write(clone.path().join("rust-toolchain.toml"), "").unwrap();
        assert_eq!(root(Some(package.into())).unwrap(), clone.path());
        assert!(root(None).unwrap_err().to_string().contains("cargo xtask"));
    }
}
