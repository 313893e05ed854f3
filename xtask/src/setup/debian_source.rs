//! Debian's `rust-src` of exactly one version, fetched through a *private* apt state: the machine's own package
//! lists, sources and installed packages stay as they are, and no privilege is needed.
//!
//! The mirror is the one the machine already uses, read from `/etc/apt`; only the suite differs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cmd;
use crate::context::Context;

/// Where Debian keeps compilers newer than its stable release's.
const SUITE: &str = "trixie-backports";
/// Signs every Debian suite; comes with the `debian-archive-keyring` package.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads and unpacks it below the cache folder; returns the folder that holds `library/`.
pub(super) fn fetch(context: &Context) -> Result<PathBuf> {
    let version = &context.toolchain;
    let unpacked = context.cache.join(format!("rust-src-{version}"));
    let source = unpacked.join(format!("usr/src/rustc-{version}"));
    if source.join("library/core/src/lib.rs").is_file() {
        return Ok(source);
    }
    let apt = PrivateApt::create(context)?;
    cmd::run(apt.get().args(["update", "-q"]))?;
    let madison = cmd::stdout(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let exact = pick_version(&madison, version)
        .with_context(|| format!("{SUITE} has no rust-src {version}; it has:\n{}", madison.trim_end()))?;

    let download = context.cache.join("apt").join("download");
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download)?;
    cmd::run(apt.get().args(["download", "-q"]).arg(format!("rust-src={exact}")).current_dir(&download))?;
    let package = fs::read_dir(&download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;

    // Unpacked beside and renamed: an interrupted run leaves nothing that looks complete.
    let partial = context.cache.join(format!("rust-src-{version}.partial"));
    let _ = fs::remove_dir_all(&partial);
    cmd::run(Command::new("dpkg").arg("-x").arg(&package).arg(&partial))?;
    let _ = fs::remove_dir_all(&unpacked);
    fs::rename(&partial, &unpacked)?;
    fs::remove_dir_all(&download)?;
    ensure!(source.join("library").is_dir(), "{} lacks library/", source.display());
    Ok(source)
}

/// An apt that has its own state, cache and sources.
struct PrivateApt {
    options: Vec<String>,
}

impl PrivateApt {
    fn create(context: &Context) -> Result<Self> {
        let base = context.cache.join("apt");
        let (state, cache, etc) = (base.join("state"), base.join("cache"), base.join("etc"));
        for folder in [state.join("lists/partial"), cache.join("archives/partial"), etc.clone()] {
            fs::create_dir_all(folder)?;
        }
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing: install debian-archive-keyring, without it nothing can be verified"
        );
        let mirror = configured_mirror(Path::new("/etc/apt"))?;
        println!("         from the configured mirror {mirror}, suite {SUITE}");
        for old in fs::read_dir(&etc)? {
            fs::remove_file(old?.path())?;
        }
        fs::write(
            etc.join("florelay.sources"),
            format!("Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n"),
        )?;
        let mut options = vec![
            format!("Dir::State={}", state.display()),
            format!("Dir::Cache={}", cache.display()),
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={}", etc.display()),
            "Acquire::Languages=none".to_owned(),
        ];
        if context.is_root {
            // apt's download user cannot write into root's cache folder.
            options.push("APT::Sandbox::User=root".to_owned());
        }
        Ok(Self { options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }
}

/// The first archive that is configured for a plain Debian suite: neither security nor third-party ones, which
/// do not carry backports.
fn configured_mirror(etc_apt: &Path) -> Result<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut more: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        more.sort();
        files.extend(more);
    }
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => mirror_in_deb822(&text),
            Some("list") => mirror_in_one_line(&text),
            _ => None,
        };
        if let Some(mirror) = found {
            return Ok(mirror);
        }
    }
    bail!("no Debian archive with component main is configured in {}", etc_apt.display())
}

/// deb822 stanzas (sources.list(5)).
fn mirror_in_deb822(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
        };
        let disabled = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        let uri = field("URIs")?.split_whitespace().next()?.to_owned();
        let suites = field("Suites")?;
        let main = field("Components")?.split_whitespace().any(|c| c == "main");
        (!disabled && main && suites.split_whitespace().any(is_plain_suite) && is_debian(&uri)).then_some(uri)
    })
}

/// One-line style: `deb [options] uri suite component…` (sources.list(5)).
fn mirror_in_one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (is_plain_suite(suite) && words.any(|c| c == "main") && is_debian(uri)).then(|| uri.to_owned())
    })
}

/// A release itself, not its `-security` or `-updates`.
fn is_plain_suite(suite: &str) -> bool {
    !suite.is_empty() && suite.chars().all(|c| c.is_ascii_lowercase())
}

/// By convention (and for every official mirror) the archive's path ends in `debian`.
fn is_debian(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("debian")
}

/// From `apt-cache madison`: the newest packaging of exactly this upstream version.
fn pick_version(madison: &str, upstream: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        let version = line.split('|').nth(1)?.trim();
        let rest = version.strip_prefix(upstream)?;
        rest.starts_with(['+', '-', '~']).then(|| version.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_upstream_version_is_picked() {
        let madison = " rust-src | 1.96.1+dfsg1-2 | x\n rust-src | 1.95.0+dfsg1-2~bpo13+1 | x\n rust-src | 1.9 | x\n";
        assert_eq!(pick_version(madison, "1.95.0").as_deref(), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(pick_version(madison, "1.95"), None);
        assert_eq!(pick_version(" rust-src | 1.95.01-1 | x", "1.95.0"), None);
    }

    #[test]
    fn the_mirror_is_found_in_both_styles() {
        let deb822 = "Types: deb\nURIs: http://mirror.test/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
                      Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(mirror_in_deb822(deb822).as_deref(), Some("http://mirror.test/debian"));
        assert_eq!(mirror_in_deb822(&deb822.replace("Types: deb\n#", "Enabled: no\n#")), None);
        let list = "# deb http://old.test/debian bookworm main\n\
                    deb http://mirror.test/debian-security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k] https://mirror.test/debian/ bookworm main contrib\n";
        assert_eq!(mirror_in_one_line(list).as_deref(), Some("https://mirror.test/debian/"));
        assert_eq!(mirror_in_one_line("deb http://packages.test/tool stable main"), None);
    }
}
