//! Three nodes in a line: keys, certificates, configurations, namespaces and wires.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::config::{self, Adapter, LinkPlan};
use crate::deadline::Deadline;
use crate::namespace::Namespace;
use crate::node::{Node, same_content};
use crate::program::Program;
use crate::veth::{End, VethPair};

const REALM: &str = "demo.rete";
/// Roles of the nodes; unique names begin with them.
const ROLES: [&str; 3] = ["station-a", "relay", "station-b"];
/// Temporary folders: this, the process id, a random suffix.
const FOLDER_PREFIX: &str = "florelay-e2e-";
/// Where the supervisor pins; a subfolder per node.
const PINS: &str = "/sys/fs/bpf/florelay";
/// RFC 7510's port, and the next one for the second link.
const PORTS: [u16; 2] = [6635, 6636];

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// `true`: namespaces and veth, as root. `false`: loopback sockets, as anybody.
    pub namespaces: bool,
    /// How links move frames.
    pub adapter: Adapter,
    /// Queues of each veth end.
    pub queues: u32,
    /// MTU of the wires and the links.
    pub mtu: u16,
}

/// One node's place: before, while and after it runs.
#[derive(Debug)]
pub struct Station {
    /// Unique node name: `station-a-<pid>-<n>`. Pinned objects carry it, and one bpffs serves all namespaces.
    pub name: String,
    /// Its namespace, if there are any.
    pub namespace: Option<Namespace>,
    /// Its configuration.
    pub config: PathBuf,
    /// Where its received files are.
    pub inbox: PathBuf,
    /// What it says, over all its runs.
    pub log: PathBuf,
}

/// station-a — relay — station-b, without running nodes.
///
/// Nodes that run on it have to be dropped first; declare them after it.
#[derive(Debug)]
pub struct Topology {
    /// station-a, relay, station-b.
    pub stations: [Station; 3],
    /// station-a to relay, relay to station-b; empty without namespaces.
    pub wires: Vec<VethPair>,
    program: Program,
    options: Options,
    folder: TempDir,
}

impl Topology {
    /// Makes keys and certificates, and with namespaces those and the wires between them.
    ///
    /// # Errors
    /// No root where it is needed; what a tool said.
    pub fn line3(program: &Program, options: &Options) -> Result<Self> {
        ensure!(options.namespaces || options.adapter == Adapter::Udp, "AF_XDP needs namespaces, and those root");
        sweep_stale();
        let prefix = format!("{FOLDER_PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        // Also unique when one process makes several: the folder's random suffix, made fit for a node name.
        let suffix: String = folder
            .path()
            .to_string_lossy()
            .rsplit('-')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let station = |role: &str, tag: &str| -> Result<Station> {
            let home = folder.path().join(role);
            for part in ["inbox", "state"] {
                fs::create_dir_all(home.join(part))?;
            }
            Ok(Station {
                name: format!("{role}-{}-{suffix}", std::process::id()),
                namespace: options.namespaces.then(|| Namespace::create(tag)).transpose()?,
                config: home.join("florelay.toml"),
                inbox: home.join("inbox"),
                log: home.join("log"),
            })
        };
        let stations = [station(ROLES[0], "a")?, station(ROLES[1], "relay")?, station(ROLES[2], "b")?];
        let mut made = Self { stations, wires: Vec::new(), program: program.clone(), options: options.clone(), folder };
        made.make_keys()?;
        made.make_wires()?;
        Ok(made)
    }

    /// Writes all configurations and has the program check them.
    ///
    /// # Errors
    /// The program refuses one.
    pub fn configure(&self, plan: &LinkPlan) -> Result<()> {
        let plan = LinkPlan { mtu: self.options.mtu, ..plan.clone() };
        for (station, node) in self.stations.iter().zip(self.nodes()) {
            fs::write(&station.config, node.toml(&plan))?;
            self.program.check(&station.config).with_context(|| format!("configuration of {}", station.name))?;
        }
        Ok(())
    }

    /// Starts one node.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, index: usize) -> Result<Node> {
        self.start_under(index, &[])
    }

    /// Starts one node by a command that takes some of its rights away first, such as `setpriv`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_under(&self, index: usize, under: &[&str]) -> Result<Node> {
        let station = &self.stations[index];
        Node::start(&station.name, &self.program, station.namespace.as_ref(), &station.config, &station.log, under)
    }

    /// Starts all three and waits until they are connected.
    ///
    /// # Errors
    /// One does not get there in time.
    pub fn start_all(&self, allowed: Duration) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for index in 0..self.stations.len() {
            nodes.push(self.start(index)?);
        }
        let deadline = Deadline::after(allowed);
        for node in &mut nodes {
            node.wait_connected(deadline)?;
        }
        Ok(nodes)
    }

    /// Is the file in station-b's inbox byte for byte the one that was sent?
    ///
    /// # Errors
    /// One cannot be read.
    pub fn arrived_intact(&self, sent: &Path) -> Result<bool> {
        let name = sent.file_name().context("not a file")?;
        same_content(sent, &self.stations[2].inbox.join(name))
    }

    /// The temporary folder: put files to send here.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn make_keys(&self) -> Result<()> {
        let pki = self.folder.path().join("pki");
        self.program.pki_init(REALM, &pki)?;
        for station in &self.stations {
            self.program.pki_issue(&station.name, &pki)?;
        }
        for key in LINK_KEYS {
            self.program.link_key(&pki.join(key))?;
        }
        Ok(())
    }

    fn make_wires(&mut self) -> Result<()> {
        let [a, relay, b] = self.stations.each_ref().map(|station| station.namespace.as_ref());
        let (Some(a), Some(relay), Some(b)) = (a, relay, b) else {
            return Ok(());
        };
        let address = |wire: usize, side: usize| match self.address(wire, side) {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let mut wires = Vec::new();
        for (wire, (left, right)) in [(a, relay), (relay, b)].into_iter().enumerate() {
            let left = End { namespace: left, interface: INTERFACES[wire][0], address: address(wire, 0) };
            let right = End { namespace: right, interface: INTERFACES[wire][1], address: address(wire, 1) };
            wires.push(VethPair::connect([left, right], self.options.queues, self.options.mtu)?);
        }
        self.wires = wires;
        Ok(())
    }

    /// Address of an end of a wire. Without namespaces all are loopback addresses that contain the process id, so that
    /// topologies of several processes never meet.
    fn address(&self, wire: usize, side: usize) -> SocketAddr {
        let last = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
        let ip = if self.options.namespaces {
            Ipv4Addr::new(10, 77, 1 + last(wire), 1 + last(side))
        } else {
            // A process id has 22 bits at most (proc(5), pid_max); the lowest two number the node.
            let host = std::process::id() << 2 | u32::from(last(wire + side));
            let [_, x, y, z] = host.to_be_bytes();
            Ipv4Addr::new(127, x, y, z)
        };
        SocketAddr::from((ip, PORTS[wire]))
    }

    fn nodes(&self) -> [config::Node<'_>; 3] {
        let names = self.stations.each_ref().map(|station| station.name.as_str());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let link = |name, wire: usize, side: usize| config::Link {
            name,
            adapter: self.options.adapter,
            interface: INTERFACES[wire][side],
            local: self.address(wire, side),
            remote: self.address(wire, 1 - side),
            key_file: LINK_KEYS[wire],
        };
        let node = |index: usize, links, paths| config::Node {
            name: names[index],
            realm: REALM,
            core: Some(index % cores),
            links,
            paths,
        };
        let peer = |name, out_label, in_label, originator| config::Path::Peer {
            name,
            link: "to-relay",
            out_label,
            in_label,
            originator,
        };
        [
            node(0, vec![link("to-relay", 0, 0)], vec![peer(names[2], 100, 101, true)]),
            node(
                1,
                vec![link("to-a", 0, 1), link("to-b", 1, 0)],
                vec![config::Path::Transit { a: ("to-a", 100, 101), b: ("to-b", 201, 200) }],
            ),
            node(2, vec![link("to-relay", 1, 1)], vec![peer(names[0], 201, 200, false)]),
        ]
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        for station in &self.stations {
            // A node that ended in order has removed it; one that was killed has not. The name is ours alone.
            let _ = fs::remove_dir_all(Path::new(PINS).join(&station.name));
        }
    }
}

/// Removes what runs that were killed have left: namespaces, folders, pinned objects. Only what carries one of this
/// harness's names and the id of a process that is gone.
fn sweep_stale() {
    Namespace::sweep_stale();
    remove_of_the_dead(&std::env::temp_dir(), &[FOLDER_PREFIX]);
    remove_of_the_dead(Path::new(PINS), &ROLES.map(|role| format!("{role}-")).each_ref().map(String::as_str));
}

fn remove_of_the_dead(folder: &Path, prefixes: &[&str]) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            let rest = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?;
            rest.split_once('-')?.0.parse::<u32>().ok()
        });
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Somebody else may be sweeping too, or it is another user's.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Interface names, per wire and side: unique over the topology, so that logs say which is meant.
const INTERFACES: [[&str; 2]; 2] = [["w0", "w1"], ["w2", "w3"]];
const LINK_KEYS: [&str; 2] = ["a-relay.link", "relay-b.link"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_of_the_dead_are_removed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let place = tempfile::tempdir().unwrap();
        let (dead, living) = (child.id(), std::process::id());
        let names =
            [format!("own-{dead}-a"), format!("own-{living}-a"), format!("other-{dead}-a"), "own-x-a".to_owned()];
        for name in &names {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        remove_of_the_dead(place.path(), &["own-"]);
        let left = names.each_ref().map(|name| place.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
    }
}
