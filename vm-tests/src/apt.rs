//! Debian packages without installing them: a private apt state beside the machine's own, with the machine's mirror and other suites.
//!
//! Needs no root: lists, archives and sources lie in the cache; the machine's dpkg status is read only, so that apt can say which
//! libraries are missing here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::pins::{self, Pin};
use crate::tool;

/// Debian's archive keys, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt state.
#[derive(Debug)]
pub struct Apt {
    state: PathBuf,
}

impl Apt {
    /// Sets the state up inside the cache; the package lists are fetched on first need.
    ///
    /// # Errors
    /// If the machine's apt configuration names no Debian mirror, or files cannot be written.
    pub fn open(cache: &Cache) -> Result<Self> {
        let state = cache.path("apt");
        for folder in ["sources", "lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(folder))?;
        }
        let mirror = mirror(Path::new("/etc/apt"))?;
        let suites = pins::suites().join(" ");
        let sources = format!("Types: deb\nURIs: {mirror}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n");
        let path = state.join("sources/florelay.sources");
        if fs::read_to_string(&path).unwrap_or_default() != sources {
            fs::write(&path, sources)?;
            let _ = fs::remove_file(state.join("updated"));
        }
        Ok(Self { state })
    }

    /// Downloads a pinned package, checks its sum and unpacks it into `into`.
    ///
    /// # Errors
    /// If the suite no longer has that version, the sum differs, or unpacking fails.
    pub fn unpack(&self, pin: &Pin, into: &Path) -> Result<()> {
        let deb = self.download(pin.package, pin.version).with_context(|| {
            format!("{} {} is not in {}: see vm-tests/src/pins.rs", pin.package, pin.version, pin.suite)
        })?;
        let sum = tool::sha256(&deb)?;
        if sum != pin.sha256 {
            let _ = fs::remove_file(&deb);
            bail!("{} {} has SHA-256 {sum}, the pin says {}", pin.package, pin.version, pin.sha256);
        }
        extract(&deb, into)
    }

    /// Unpacks into `into` every library that `package` would need installed on this machine and is not, except `but`.
    /// apt has checked their signatures; their versions follow the release's point updates, so no sum is recorded.
    ///
    /// # Errors
    /// If apt cannot resolve the package here, or a download fails.
    pub fn unpack_missing_libraries(&self, package: &Pin, but: &[&str], into: &Path) -> Result<()> {
        self.update_once()?;
        let wanted = format!("{}={}", package.package, package.version);
        let plan = tool::text(self.command("apt-get").args(["--simulate", "--no-install-recommends"]).args([
            "--target-release",
            package.suite,
            "install",
            &wanted,
        ]))
        .with_context(|| format!("apt cannot resolve {wanted} on this machine"))?;
        for (name, version) in simulated_installs(&plan) {
            if !but.contains(&name) {
                extract(&self.download(name, version)?, into)?;
            }
        }
        Ok(())
    }

    fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        self.update_once()?;
        let folder = self.state.join("download");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        tool::output(
            // As root apt would drop to its own user, which cannot write here, and warn about it.
            self.command("apt-get")
                .args(["-o", "APT::Sandbox::User=", "download", &format!("{package}={version}")])
                .current_dir(&folder),
        )?;
        let file = fs::read_dir(&folder)?.next().context("apt-get download left no file")??;
        Ok(file.path())
    }

    /// Fetches the package lists if that was not done for these sources; stale lists are fetched again when a download fails by hand
    /// (`rm -r` of the cache's `apt` folder).
    fn update_once(&self) -> Result<()> {
        let stamp = self.state.join("updated");
        if stamp.exists() {
            return Ok(());
        }
        tool::output(self.command("apt-get").args([
            "-o",
            "Acquire::Languages=none",
            "-o",
            "APT::Sandbox::User=",
            "update",
        ]))
        .context("cannot fetch Debian's package lists")?;
        Ok(fs::write(stamp, "")?)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let state = self.state.display();
        for option in [
            "-qq".to_owned(),
            format!("-oDir::State::lists={state}/lists"),
            format!("-oDir::Cache={state}"),
            format!("-oDir::Cache::archives={state}/archives"),
            "-oDir::Etc::sourcelist=/dev/null".to_owned(),
            format!("-oDir::Etc::sourceparts={state}/sources"),
        ] {
            command.arg(option);
        }
        command
    }
}

fn extract(deb: &Path, into: &Path) -> Result<()> {
    tool::output(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(into))?;
    // Kernels are large; the unpacked copy is what is reused.
    Ok(fs::remove_file(deb)?)
}

/// `(package, version)` of each `Inst package (version …` line of a simulation.
fn simulated_installs(plan: &str) -> Vec<(&str, &str)> {
    plan.lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("Inst ")?.split_whitespace();
            Some((words.next()?, words.find_map(|word| word.strip_prefix('('))?))
        })
        .collect()
}

/// The machine's Debian mirror: the first `deb` source with the component `main` whose address ends in `/debian`, in either of
/// apt's two formats (`sources.list(5)`).
fn mirror(etc_apt: &Path) -> Result<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(folder) = fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(folder.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| addresses(&text))
        .find(|address| address.trim_end_matches('/').ends_with("/debian"))
        .with_context(|| format!("no Debian mirror in {}: kernels and QEMU are fetched from it", etc_apt.display()))
}

fn addresses(text: &str) -> Vec<String> {
    text.lines()
        .flat_map(|line| {
            let value = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb ")).unwrap_or_default();
            value.split_whitespace().filter(|word| word.contains("://")).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_source_formats() {
        let old = "# deb http://off.example/debian x main\ndeb [arch=amd64] http://a.example/debian bookworm main\n";
        assert_eq!(addresses(old), ["http://a.example/debian"]);
        let new = "Types: deb\n# http://off.example/debian\nURIs: http://b.example/debian http://c.example/debian\n";
        assert_eq!(addresses(new), ["http://b.example/debian", "http://c.example/debian"]);
    }

    #[test]
    fn reads_a_simulation() {
        let plan = "NOTE: only a simulation\nInst libfdt1 (1.6.1-4+b1 Debian:12/stable [amd64])\n\
                    Inst libusb [2.0] (2:2.1 Debian:12/stable [amd64])\nConf libfdt1 (1.6.1 x)\n";
        assert_eq!(simulated_installs(plan), [("libfdt1", "1.6.1-4+b1"), ("libusb", "2:2.1")]);
    }
}
