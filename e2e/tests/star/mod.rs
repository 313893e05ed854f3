//! One station with three peers behind one capped link, and a lossy wire in between; what the station sends is captured.
//!
//! ```text
//!  namespace …-a              namespace …-m
//! ┌───────────────┐         ┌──────────────────────────────────────────────────────────────┐
//! │ station-a  s0 ├─ veth ──┤ s1 10.77.9.2:6635      lossy wire      127.0.9.1  relay ── b0 │
//! │ AF_XDP, cap   │         │ tcpdump              (drops a share)    sockets         ── b1 │
//! │ 10.77.9.1     │         │                                                        ── b2 │
//! └───────────────┘         └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! There is no XDP program on s1: a frame that station-a gives to its interface runs through the kernel's receive path
//! before the call returns, so the capture's time is the time at which it was sent, whatever waits for a core.

mod capture;
mod wire;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use florelay_e2e::{Deadline, End, Job, Namespace, Node, Program, VethPair};

pub(crate) use self::capture::{Capture, Frame};
use self::wire::LossyWire;

const REALM: &str = "star.rete";
const CONNECT_TIME: Duration = Duration::from_secs(90);
/// RFC 7510.
const PORT: u16 = 6635;
const STATION: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);
const WIRE: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);
/// Loopback addresses of the namespace, which nobody else uses.
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 2);
const PEERS: usize = 3;
/// Names begin as those of the other topologies do, so that what a killed run pinned is swept with theirs.
const ROLES: [&str; 2 + PEERS] = ["station-a", "relay", "station-b", "station-b", "station-b"];

/// The cap of every link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cap {
    pub(crate) rate_bps: u64,
    pub(crate) burst_bytes: u64,
}

/// The running star. Fields are in the order in which they have to go.
pub(crate) struct Star {
    nodes: Vec<Node>,
    wire: LossyWire,
    _veth: VethPair,
    names: Vec<String>,
    configs: Vec<PathBuf>,
    folder: tempfile::TempDir,
    middle: Namespace,
    _station: Namespace,
    program: Program,
}

impl Star {
    /// Connected; the wire loses this share of frames in each direction.
    pub(crate) fn start(cap: Cap, loss: f64) -> Self {
        let program = Program::for_tests().unwrap();
        Namespace::sweep_stale();
        let folder =
            tempfile::Builder::new().prefix(&format!("florelay-e2e-{}-", std::process::id())).tempdir().unwrap();
        let [station, middle] = ["a", "m"].map(|tag| Namespace::create(tag).unwrap());
        let end = |namespace, interface, address| End { namespace, interface, address };
        let veth = VethPair::connect([end(&station, "s0", STATION), end(&middle, "s1", WIRE)], 1, 1500).unwrap();
        let names: Vec<String> =
            ROLES.iter().enumerate().map(|(n, role)| format!("{role}-{}-{n}", std::process::id())).collect();
        let configs: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name).join("florelay.toml")).collect();
        let pki = folder.path().join("pki");
        program.pki_init(REALM, &pki).unwrap();
        program.link_key(&pki.join("link")).unwrap();
        for (index, (name, config)) in names.iter().zip(&configs).enumerate() {
            program.pki_issue(name, &pki).unwrap();
            for part in ["inbox", "state"] {
                fs::create_dir_all(config.with_file_name(part)).unwrap();
            }
            fs::write(config, toml(index, &names, cap)).unwrap();
            program.check(config).unwrap();
        }
        let ports = [(WIRE, STATION), (INSIDE, RELAY)].map(|(local, remote)| (socket(local), socket(remote)));
        let wire = LossyWire::start(&middle, ports, loss);
        let mut nodes = Vec::new();
        for (index, (name, config)) in names.iter().zip(&configs).enumerate() {
            let place = if index == 0 { &station } else { &middle };
            let log = config.with_file_name("log");
            nodes.push(Node::start(name, &program, Some(place), config, &log, &[]).unwrap());
        }
        let deadline = Deadline::after(CONNECT_TIME);
        for node in &mut nodes {
            node.wait_connected(deadline).unwrap();
        }
        Self { nodes, wire, _veth: veth, names, configs, folder, middle, _station: station, program }
    }

    /// A transfer to each of the peers. The files are sparse: reading them costs next to nothing.
    pub(crate) fn saturate(&self, bytes: u64) -> Vec<Job> {
        let send = |n: usize| {
            let path = self.folder.path().join(format!("load-{n}.raw"));
            File::create(&path).unwrap().set_len(bytes).unwrap();
            let command = self.program.send(&self.configs[0], &self.names[2 + n], &path);
            Job::start(&command, self.folder.path(), &format!("send-{n}")).unwrap()
        };
        (0..PEERS).map(send).collect()
    }

    /// Begins to capture what the station sends.
    pub(crate) fn capture(&self) -> Capture {
        Capture::start(&self.middle, "s1", STATION, PORT, self.folder.path())
    }

    /// Frames of the station that the wire has seen and dropped since the start.
    pub(crate) fn lost(&self) -> (u64, u64) {
        self.wire.counted()
    }

    /// The running nodes.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Stops all nodes in order.
    pub(crate) fn stop(mut self) {
        for node in self.nodes.drain(..) {
            node.stop().unwrap();
        }
    }
}

fn socket(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, PORT)
}

/// Labels of path n: towards the peer and back, the same on both links.
fn labels(n: usize) -> (usize, usize) {
    (100 + 2 * n, 101 + 2 * n)
}

/// The configuration of a node, by its place in `ROLES`.
fn toml(index: usize, names: &[String], cap: Cap) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "version = \"1.0\"\n[node]\nname = \"{0}\"\nrealm = \"{REALM}\"\ncertificate = \"../pki/{0}.crt\"\nkey = \"../pki/{0}.key\"\n\
         trust = \"../pki/ca.crt\"\ninbox = \"inbox\"\nstate-dir = \"state\"\nworkers = [{{ poll = \"adaptive\" }}]\n",
        names[index]
    );
    let mut link = |name: &str, adapter: &str, local: SocketAddrV4, remote: SocketAddrV4| {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[link]]\nname = \"{name}\"\n{adapter}\nlocal = \"{local}\"\nremote = \"{remote}\"\nmtu = 1500\n\
             rate = \"{} bit/s\"\nburst = \"{} B\"\ncongestion = \"contracted\"\n\
             liveness = {{ interval = \"1 s\", detect = 5, key-file = \"../pki/link\" }}\n",
            cap.rate_bps, cap.burst_bytes
        );
    };
    let udp = "adapter = \"udp\"";
    // The relay's ends towards the peers, and the peers' own.
    let towards = |n: usize| SocketAddrV4::new(Ipv4Addr::new(127, 0, 9, 10 + n as u8), PORT);
    let own = |n: usize| SocketAddrV4::new(Ipv4Addr::new(127, 0, 9, 20 + n as u8), PORT);
    match index {
        0 => link("link", "adapter = \"xdp\"\ninterface = \"s0\"\nfallback = false", socket(STATION), socket(WIRE)),
        1 => {
            link("to-a", udp, socket(RELAY), socket(INSIDE));
            for n in 0..PEERS {
                link(&format!("to-{n}"), udp, towards(n), own(n));
            }
        }
        _ => link("link", udp, own(index - 2), towards(index - 2)),
    }
    let mut peer = |name: &str, role: &str, out: usize, back: usize| {
        let _ = write!(
            text,
            "\n[[peer]]\nname = \"{name}\"\nlink = \"link\"\nrole = \"{role}\"\nout-label = {out}\nin-label = {back}\nrtt = \"5 ms\"\n"
        );
    };
    match index {
        0 => {
            for n in 0..PEERS {
                let (out, back) = labels(n);
                peer(&names[2 + n], "originator", out, back);
            }
        }
        1 => {
            for n in 0..PEERS {
                let (there, back) = labels(n);
                let _ = write!(
                    text,
                    "\n[[transit]]\na = {{ link = \"to-a\", in-label = {there}, out-label = {back} }}\n\
                     b = {{ link = \"to-{n}\", in-label = {back}, out-label = {there} }}\n"
                );
            }
        }
        _ => {
            let (there, back) = labels(index - 2);
            peer(&names[0], "acceptor", back, there);
        }
    }
    text
}
