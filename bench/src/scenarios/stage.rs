//! Stations in a line, each hop a wire or an emulated link, in namespaces of their own.
//!
//! ```text
//!   station 0            emulator 0                  station 1                   station 2
//!   10.79.0.1 ─ veth ─ left · right ─ veth ─ 10.79.0.2   10.79.1.1 ─ veth ─ 10.79.1.2
//! ```
//!
//! Owner: [`Stage`] has the namespaces, one folder in memory and, once [`Stage::emulate`] was called, the emulators.
//! Dropping it removes everything; what a SIGKILL leaves carries the process id in its name and is swept by the next run.
//!
//! The stations know each other's Ethernet address for good: on a real station the neighbour at layer 2 is the modem, which
//! answers at once and also while the link is dark. Stations send finished checksums (`ethtool -K … tx off`).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use florelay_e2e::Namespace;
use tempfile::TempDir;

use super::figures::Kept;
use crate::bed::run;
use crate::emulate::child::{Emulator, Options};

/// Names of folders, nodes and pins begin with this and the process id.
const PREFIX: &str = "flscen-";
/// Files lie in memory, so that no disk is measured.
const TMPFS: &str = "/dev/shm";
const PINS: &str = "/sys/fs/bpf/florelay";
/// A station's interfaces to its neighbours.
pub(super) const TO_LEFT: &str = "to-left";
/// See [`TO_LEFT`].
pub(super) const TO_RIGHT: &str = "to-right";
/// The emulator's interfaces.
const LEFT: &str = "left";
const RIGHT: &str = "right";

/// What is between two neighbours: a profile of the emulator, or `None` for a wire.
pub(super) type Medium = Option<String>;

/// See the module. Fields drop in order: emulators before their namespaces.
pub(super) struct Stage {
    running: Vec<(usize, Emulator)>,
    stations: Vec<Namespace>,
    emulators: Vec<Option<Namespace>>,
    media: Vec<Medium>,
    folder: TempDir,
    /// The `florelay-bench` program.
    emulator: PathBuf,
}

impl Stage {
    /// Makes namespaces and wires for `media.len()` hops. `emulator` is the `florelay-bench` program.
    ///
    /// # Errors
    /// No root, or no iproute2 or ethtool.
    pub(super) fn new(emulator: &Path, media: Vec<Medium>) -> Result<Self> {
        sweep_stale();
        let base = if Path::new(TMPFS).is_dir() { PathBuf::from(TMPFS) } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(base)?;
        let mut stage = Self {
            running: Vec::new(),
            stations: Vec::new(),
            emulators: Vec::new(),
            media,
            folder,
            emulator: emulator.to_owned(),
        };
        for station in 0..=stage.media.len() {
            stage.stations.push(Namespace::create(&format!("s{station}"))?);
        }
        for hop in 0..stage.media.len() {
            let emulated = stage.media[hop].is_some();
            let namespace = emulated.then(|| Namespace::create(&format!("e{hop}"))).transpose()?;
            stage.emulators.push(namespace);
            stage.wire(hop)?;
        }
        Ok(stage)
    }

    fn wire(&self, hop: usize) -> Result<()> {
        let (a, b) = (&self.stations[hop], &self.stations[hop + 1]);
        match &self.emulators[hop] {
            Some(between) => {
                veth((a, TO_RIGHT), (between, LEFT))?;
                veth((between, RIGHT), (b, TO_LEFT))?;
            }
            None => veth((a, TO_RIGHT), (b, TO_LEFT))?,
        }
        for (station, interface, other, far) in [(a, TO_RIGHT, b, TO_LEFT), (b, TO_LEFT, a, TO_RIGHT)] {
            let host = usize::from(interface == TO_LEFT);
            let (own, remote) = (self.address(hop, host), self.address(hop, 1 - host));
            let ip = |rest: &[&str]| run("ip", &[&["-n", station.name()], rest].concat());
            ip(&["address", "add", &format!("{own}/24"), "dev", interface])?;
            let mac = mac(other, far)?;
            ip(&["neigh", "replace", &remote.to_string(), "lladdr", &mac, "dev", interface, "nud", "permanent"])?;
        }
        Ok(())
    }

    /// Starts the emulators of all emulated hops with their profiles, and says when schedules began to count: a moment
    /// after the last one was ready.
    ///
    /// # Errors
    /// One does not start.
    pub(super) fn emulate(&mut self) -> Result<Instant> {
        ensure!(self.running.is_empty(), "the emulators run already");
        for hop in 0..self.media.len() {
            let (Some(profile), Some(namespace)) = (&self.media[hop], &self.emulators[hop]) else { continue };
            let path = self.folder.path().join(format!("profile-{hop}.toml"));
            fs::write(&path, profile)?;
            let emulator = Emulator::start(&Options {
                program: self.emulator.clone(),
                namespace: Some(namespace.path()),
                profile: path,
                left: LEFT.to_owned(),
                right: RIGHT.to_owned(),
                core: None,
                realtime: true,
                json: self.folder.path().join(format!("report-{hop}.json")),
            })?;
            self.running.push((hop, emulator));
        }
        Ok(Instant::now())
    }

    /// Ends the emulators; whether they kept their time.
    ///
    /// # Errors
    /// One had failed.
    pub(super) fn still(&mut self) -> Result<Vec<Kept>> {
        let ended = self.running.drain(..).map(|(hop, emulator)| Ok(Kept::of(hop, &emulator.stop()?)));
        ended.collect()
    }

    /// Address of a hop's left (0) or right (1) end.
    pub(super) fn address(&self, hop: usize, end: usize) -> Ipv4Addr {
        let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, 79, small(hop), 1 + small(end))
    }

    /// A station's namespace.
    pub(super) fn station(&self, index: usize) -> &Namespace {
        &self.stations[index]
    }

    /// How many stations there are.
    pub(super) fn stations(&self) -> usize {
        self.stations.len()
    }

    /// The receiving end of what station 0 sends: its namespace and interface.
    pub(super) fn first_ear(&self) -> (&Namespace, &str) {
        match &self.emulators[0] {
            Some(emulator) => (emulator, LEFT),
            None => (&self.stations[1], TO_LEFT),
        }
    }

    /// The last hop, where it ends: the sending and the receiving interface.
    pub(super) fn last_ear(&self) -> ((&Namespace, &str), (&Namespace, &str)) {
        let hop = self.media.len() - 1;
        let from = match &self.emulators[hop] {
            Some(emulator) => (emulator, RIGHT),
            None => (&self.stations[hop], TO_RIGHT),
        };
        (from, (&self.stations[hop + 1], TO_LEFT))
    }

    /// The folder, which goes with the stage.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A station's node name: unique, because one bpffs serves all namespaces.
    pub(super) fn node(&self, index: usize) -> String {
        let unique = self.folder.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let unique: String = unique.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        format!("{}-{index}", unique.trim_end_matches('-'))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for index in 0..self.stations.len() {
            // A node that ended in order has removed it.
            let _ = fs::remove_dir_all(Path::new(PINS).join(self.node(index)));
        }
    }
}

/// A pair without addresses of its own making, both ends up.
fn veth(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<()> {
    let add = ["link", "add", "name", a.1, "type", "veth", "peer", "name", b.1, "netns", b.0.name()];
    run("ip", &[&["-n", a.0.name()], &add[..]].concat())?;
    for (namespace, interface) in [a, b] {
        let ip = |rest: &[&str]| run("ip", &[&["-n", namespace.name()], rest].concat());
        ip(&["link", "set", "dev", interface, "addrgenmode", "none"])?;
        // Multicast reports of IPv6 come when they like.
        let switch = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        namespace.enter(|| fs::write(&switch, "1").context(switch.clone()))?;
        let net = format!("--net={}", namespace.path().display());
        run("nsenter", &[&net, "ethtool", "-K", interface, "tx", "off"])?;
        ip(&["link", "set", "dev", interface, "up"])?;
    }
    Ok(())
}

fn mac(namespace: &Namespace, interface: &str) -> Result<String> {
    let shown = run("ip", &["-n", namespace.name(), "-json", "link", "show", "dev", interface])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    Ok(shown[0]["address"].as_str().context("ip -json shows no address")?.to_owned())
}

/// Removes what runs that were killed have left: only our names, only of processes that are gone.
fn sweep_stale() {
    Namespace::sweep_stale();
    for folder in [Path::new(TMPFS), &std::env::temp_dir(), Path::new(PINS)] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owner =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
