//! Network namespaces, named so that a later run can tell whose they were.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::quiet;

/// Names are this, the process id, a count, a tag.
const PREFIX: &str = "florelay-e2e-";
const NETNS_FOLDER: &str = "/run/netns";

/// A network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with loopback up. Its name is `florelay-e2e-<pid>-<count>-<tag>`.
    ///
    /// # Errors
    /// No root, or no iproute2.
    pub fn create(tag: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{tag}", std::process::id());
        quiet(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self { name };
        quiet(made.ip().args(["link", "set", "lo", "up"]))?;
        Ok(made)
    }

    /// Deletes namespaces of runs that were killed. Only names of this harness whose process is gone.
    pub fn sweep_stale() {
        let Ok(entries) = fs::read_dir(NETNS_FOLDER) else {
            return;
        };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                let _ = quiet(Command::new("ip").args(["netns", "del", &name]));
            }
        }
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_FOLDER).join(&self.name)
    }

    /// `ip` on this namespace.
    #[must_use]
    pub fn ip(&self) -> Command {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name]);
        ip
    }

    /// A command inside. By `nsenter`, because `ip netns exec` mounts a fresh /sys, which hides the bpf file system.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        nsenter
    }

    /// Runs `work` on a thread that is inside: sockets that it opens, and `/proc/thread-self/net`, belong here.
    ///
    /// # Errors
    /// The namespace cannot be entered; what `work` returned.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("no namespace {}", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            inside.join().unwrap_or_else(|_| bail!("the thread in namespace {} panicked", self.name))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = quiet(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("cannot delete namespace {}: {error:#}", self.name);
        }
    }
}
