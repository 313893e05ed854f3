//! Debian packages: a list with reasons, one dpkg query to check, one apt-get run to install.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::{Done, State, Step};
use crate::cmd;
use crate::context::{Context, find_program};

/// A Debian package and who uses it.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    /// Nothing compiles without it; the others only serve tests and demo as root.
    builds: bool,
    /// A program that proves its presence where there is no dpkg.
    program: Option<&'static str>,
    /// It only exists on these architectures (Rust's names); empty = everywhere.
    only_on: &'static [&'static str],
}

const fn builds(name: &'static str, program: Option<&'static str>, reason: &'static str) -> Package {
    Package { name, reason, builds: true, program, only_on: &[] }
}

const fn tests(name: &'static str, program: Option<&'static str>, reason: &'static str) -> Package {
    Package { name, reason, builds: false, program, only_on: &[] }
}

/// Everything that is used, and nothing that is not.
pub(crate) const PACKAGES: &[Package] = &[
    builds("gcc", Some("cc"), "Rust links with it; ring and blake3 compile assembly and C"),
    builds("libc6-dev", None, "headers and start-up files for the same"),
    tests("git", Some("git"), "source checks ask it which files belong to the project"),
    tests("iproute2", Some("ip"), "namespaces and veth pairs of the demo and the end-to-end tests"),
    tests("ethtool", Some("ethtool"), "transmit checksumming off on test veths; queue counts and RSS rules"),
    tests("tcpdump", Some("tcpdump"), "captures from which the tests measure the cap at layer 2"),
    tests("strace", Some("strace"), "the test that counts system calls per packet at a worker"),
    tests("busybox-static", Some("busybox"), "user space of the virtual machines in vm-tests"),
    tests("thrift-compiler", Some("thrift"), "stubs of the Thrift interface for the clients in the end-to-end tests"),
    tests(
        "python3-venv",
        Some("python3"),
        "Python clients of the Thrift and gRPC interfaces, in an environment of their own",
    ),
    tests("xz-utils", Some("xz"), "kernel modules for vm-tests are compressed with it"),
    tests("zstd", Some("zstd"), "kernel modules for vm-tests are compressed with it"),
];

pub(super) struct Packages;

impl Step for Packages {
    fn name(&self) -> &'static str {
        "Debian packages"
    }

    fn why(&self) -> &'static str {
        "a C compiler, and the network tools that tests use; `setup --list` has each reason"
    }

    fn check(&self, _: &Context) -> Result<State> {
        let wanted = wanted();
        let missing = missing(&wanted)?;
        if missing.is_empty() {
            return Ok(State::Ready(format!("{} of {} there", wanted.len(), wanted.len())));
        }
        let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
        Ok(State::Missing(names.join(" ")))
    }

    fn install(&self, context: &Context) -> Result<Done> {
        anyhow::ensure!(
            find_program("apt-get").is_some() && find_program("dpkg-query").is_some(),
            "this is not a Debian machine: install what provides these packages by its own means"
        );
        let missing = missing_in_dpkg(&wanted())?;
        for package in &missing {
            println!("         {:<16} {}", package.name, package.reason);
        }
        let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
        if !context.is_root {
            return Ok(Done::NeedsRoot(vec![
                "sudo apt-get update".to_owned(),
                format!("sudo apt-get install -y --no-install-recommends {}", names.join(" ")),
            ]));
        }
        let apt = |args: &[&str]| {
            let mut apt = Command::new("apt-get");
            apt.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
            apt
        };
        cmd::run(&mut apt(&["update", "-q"]))?;
        let mut install = apt(&["install", "-q", "-y", "--no-install-recommends"]);
        cmd::run(install.args(&names))?;
        Ok(Done::Installed)
    }
}

/// Is a package missing without which nothing compiles?
pub(super) fn cannot_build() -> Result<bool> {
    Ok(missing(&wanted())?.iter().any(|package| package.builds))
}

fn wanted() -> Vec<&'static Package> {
    PACKAGES.iter().filter(|p| p.only_on.is_empty() || p.only_on.contains(&std::env::consts::ARCH)).collect()
}

fn missing(wanted: &[&'static Package]) -> Result<Vec<&'static Package>> {
    if find_program("dpkg-query").is_some() {
        return missing_in_dpkg(wanted);
    }
    // Not Debian: what has no program to look for is found missing by the build that needs it.
    Ok(wanted.iter().filter(|p| p.program.is_some_and(|name| find_program(name).is_none())).copied().collect())
}

fn missing_in_dpkg(wanted: &[&'static Package]) -> Result<Vec<&'static Package>> {
    // dpkg-query exits 1 if it does not know one of the names; what it knows is on stdout all the same.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(wanted.iter().map(|p| p.name))
        .output()
        .context("cannot run dpkg-query")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(wanted.iter().filter(|p| !is_installed(&listed, p.name)).copied().collect())
}

fn is_installed(listed: &str, name: &str) -> bool {
    listed.lines().any(|line| line.split_once(' ') == Some(("installed", name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_whose_configuration_alone_remains_is_missing() {
        let listed = "installed make\nconfig-files strace\nnot-installed m4\n";
        assert!(is_installed(listed, "make"));
        assert!(!is_installed(listed, "strace"));
        assert!(!is_installed(listed, "m4"));
        assert!(!is_installed(listed, "mak"));
    }

    #[test]
    fn every_package_has_a_reason_and_is_listed_once() {
        for (index, package) in PACKAGES.iter().enumerate() {
            assert!(package.reason.len() > 10, "{} has no reason", package.name);
            assert!(PACKAGES[..index].iter().all(|p| p.name != package.name), "{} is listed twice", package.name);
        }
    }
}
