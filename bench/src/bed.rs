//! Two network namespaces joined by one veth pair.
//!
//! ```text
//!   flbench-<pid>-<n>-a                    flbench-<pid>-<n>-b
//!   fb<pid>a 10.78.0.1/24 ───── veth ───── fb<pid>b 10.78.0.2/24
//!   core 0                                 core 1
//! ```
//!
//! Owner: [`Bed`]. Dropping it deletes the namespaces, and with them the interfaces and programs, and what was pinned
//! under its node names. A signal removes all beds first ([`remove_all`]); what a SIGKILL leaves is swept by the next run.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use core_affinity::CoreId;
use florelay_wire::eth::MacAddr;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PREFIX: &str = "flbench-";
/// Where namespaces are, by name.
pub(crate) const NETNS_FOLDER: &str = "/run/netns";
/// Where attachments pin; a folder per node.
const PINS: &str = "/sys/fs/bpf/florelay";
/// MTU of the IP packet.
pub const MTU: u16 = 1500;

/// Names of beds that stand, for a signal.
static STANDING: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Sends; core 0.
    A,
    /// Receives; core 1.
    B,
}

impl Side {
    /// The core that belongs to it.
    #[must_use]
    pub fn core(self) -> usize {
        self as usize
    }

    /// Its address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, 1 + self as u8)
    }

    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What the kernel may postpone to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// TX checksumming off (and with it segmentation): frames are as on a wire. For AF_XDP.
    Off,
    /// As the kernel makes a veth. For sockets, which would be crippled otherwise.
    Default,
}

/// A name under which namespaces stand; dropping it removes them, and what was pinned under their names.
#[derive(Debug)]
pub(crate) struct Place {
    name: String,
}

impl Place {
    /// A name that nobody has; swept later if this process is killed.
    pub(crate) fn claim() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        standing().push(name.clone());
        Ok(Self { name })
    }

    /// Name of one of its namespaces; `part` is one of [`PARTS`].
    pub(crate) fn namespace(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.name);
        standing().retain(|name| *name != self.name);
    }
}

/// What a place may consist of: two sides, and the emulator between them.
const PARTS: [&str; 3] = ["a", "b", "e"];

/// See the module.
#[derive(Debug)]
pub struct Bed {
    place: Place,
}

impl Bed {
    /// Makes both namespaces and the pair.
    ///
    /// # Errors
    /// No root, or no iproute2 or ethtool.
    pub fn new(offloads: Offloads) -> Result<Self> {
        // From here on a failure drops it, and what is there already goes away.
        let bed = Self { place: Place::claim()? };
        for side in [Side::A, Side::B] {
            run("ip", &["netns", "add", &bed.namespace(side)])?;
        }
        let [(ns_a, if_a), (ns_b, if_b)] = [Side::A, Side::B].map(|side| (bed.namespace(side), bed.interface(side)));
        let mtu = MTU.to_string();
        run(
            "ip",
            &[
                "-n", &ns_a, "link", "add", &if_a, "mtu", &mtu, "type", "veth", "peer", "name", &if_b, "netns", &ns_b,
                "mtu", &mtu,
            ],
        )?;
        for side in [Side::A, Side::B] {
            let (ns, interface) = (bed.namespace(side), bed.interface(side));
            let ip = |rest: &[&str]| run("ip", &[&["-n", ns.as_str()], rest].concat());
            ip(&["link", "set", "lo", "up"])?;
            // Nothing but the measurement sends.
            ip(&["link", "set", &interface, "addrgenmode", "none"])?;
            ip(&["address", "add", &format!("{}/24", side.address()), "dev", &interface])?;
            if offloads == Offloads::Off {
                let net = format!("--net={NETNS_FOLDER}/{ns}");
                run("nsenter", &[&net, "ethtool", "-K", &interface, "tx", "off"])?;
            }
        }
        for side in [Side::A, Side::B] {
            run("ip", &["-n", &bed.namespace(side), "link", "set", &bed.interface(side), "up"])?;
        }
        Ok(bed)
    }

    /// Name of a side's namespace.
    #[must_use]
    pub fn namespace(&self, side: Side) -> String {
        self.place.namespace(side.letter())
    }

    /// Name of a side's interface.
    #[must_use]
    pub fn interface(&self, side: Side) -> String {
        format!("fb{}{}", std::process::id(), side.letter())
    }

    /// A side's node name, under which its programs are pinned.
    #[must_use]
    pub fn node(&self, side: Side) -> String {
        self.namespace(side)
    }

    /// Moves the calling thread, and what it starts from now on, into a side's namespace and onto its core.
    ///
    /// # Errors
    /// The namespace is gone, or the machine has no such core.
    pub fn settle(&self, side: Side) -> Result<()> {
        self.enter(side)?;
        pin(side.core())
    }

    /// Moves the calling thread, and what it starts from now on, into a side's namespace.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn enter(&self, side: Side) -> Result<()> {
        enter(&self.namespace(side))
    }

    /// Ethernet address of a side's interface.
    ///
    /// # Errors
    /// It is gone.
    pub fn mac(&self, side: Side) -> Result<MacAddr> {
        let shown = run("ip", &["-n", &self.namespace(side), "-json", "link", "show", "dev", &self.interface(side)])?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let text = shown[0]["address"].as_str().context("ip -json shows no address")?;
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = u8::from_str_radix(parts.next().unwrap_or_default(), 16).context("an Ethernet address")?;
        }
        Ok(MacAddr(bytes))
    }
}

/// Moves the calling thread, and what it starts from now on, into a namespace.
pub(crate) fn enter(namespace: &str) -> Result<()> {
    let path = Path::new(NETNS_FOLDER).join(namespace);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")
}

/// Puts the calling thread on a core.
///
/// # Errors
/// The machine has no such core, or it is not ours.
pub fn pin(core: usize) -> Result<()> {
    ensure!(core_affinity::set_for_current(CoreId { id: core }), "cannot pin a thread to core {core}");
    Ok(())
}

/// Lets the calling thread run on every core.
///
/// # Errors
/// The kernel refuses.
pub fn unpin() -> Result<()> {
    let mut all = rustix::thread::CpuSet::new();
    // Those that do not exist are left out by the kernel.
    (0..rustix::thread::CpuSet::MAX_CPU).for_each(|core| all.set(core));
    rustix::thread::sched_setaffinity(None, &all).context("sched_setaffinity")
}

/// Removes every bed of this process: before it ends by a signal.
pub fn remove_all() {
    for name in standing().drain(..) {
        remove(&name);
    }
}

/// Removes namespaces and pins of runs that were killed: only our names, only of processes that are gone.
pub fn sweep_stale() {
    for folder in [NETNS_FOLDER, PINS] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            let is_dead = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
            if owner.is_some_and(is_dead)
                && let Some((bed, _)) = name.rsplit_once('-')
            {
                remove(bed);
            }
        }
    }
}

fn remove(bed: &str) {
    for part in PARTS {
        let name = format!("{bed}-{part}");
        // Any may be gone already.
        let _ = run("ip", &["netns", "del", &name]);
        let _ = fs::remove_dir_all(Path::new(PINS).join(&name));
    }
}

fn standing() -> std::sync::MutexGuard<'static, Vec<String>> {
    STANDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that must succeed; its standard output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
