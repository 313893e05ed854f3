//! What the end-to-end tests share: a running line of three nodes, files to send, and checks that hold after every one.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use florelay_e2e::{Adapter, Deadline, Job, LinkPlan, Node, Options, Program, Status, Topology};

/// How long three nodes may take to find each other.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(60);
/// How long anything may take that ends by itself: generous, because a busy machine is no error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How long a change of state may take to show.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Indices of the nodes.
pub(crate) const A: usize = 0;
pub(crate) const RELAY: usize = 1;
pub(crate) const B: usize = 2;

/// Polling workers starve each other: one test at a time, also where the runner would start several.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `bytes` of the job's transfer are confirmed; what it said last if they are not.
pub(crate) fn confirmed(job: &mut Job, bytes: u64, deadline: Deadline) -> Result<(), String> {
    let what = format!("{bytes} bytes to be confirmed");
    let looked = deadline.wait(&what, || {
        job.ended()?;
        Ok(job.last_json()["confirmed"].as_u64().filter(|&confirmed| confirmed >= bytes))
    });
    looked.map(drop).map_err(|error| format!("{error:#}; last: {}", job.last_json()))
}

/// station-a — relay — station-b, connected. Fields are in the order in which they have to go.
pub(crate) struct Line {
    pub(crate) nodes: Vec<Node>,
    pub(crate) topology: Topology,
    pub(crate) program: Program,
    _alone: MutexGuard<'static, ()>,
}

impl Line {
    /// On AF_XDP over veth between three namespaces.
    pub(crate) fn af_xdp(plan: &LinkPlan) -> Self {
        Self::start(true, plan)
    }

    /// On loopback sockets.
    pub(crate) fn sockets(plan: &LinkPlan) -> Self {
        Self::start(false, plan)
    }

    fn start(namespaces: bool, plan: &LinkPlan) -> Self {
        let mut line = Self::prepare(namespaces, plan);
        line.nodes = line.topology.start_all(CONNECT_TIME).unwrap();
        line
    }

    /// Configured, but not started.
    pub(crate) fn prepare(namespaces: bool, plan: &LinkPlan) -> Self {
        let alone = alone();
        let program = Program::for_tests().unwrap();
        let adapter = if namespaces { Adapter::Xdp } else { Adapter::Udp };
        let topology = Topology::line3(&program, &Options { namespaces, adapter, queues: 1, mtu: 1500 }).unwrap();
        topology.configure(plan).unwrap();
        Self { nodes: Vec::new(), topology, program, _alone: alone }
    }

    pub(crate) fn config(&self, node: usize) -> &Path {
        &self.topology.stations[node].config
    }

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.topology.stations[node].name
    }

    pub(crate) fn status(&self, node: usize) -> Status {
        self.program.status(self.config(node)).unwrap()
    }

    /// A file of random bytes.
    pub(crate) fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.topology.folder().join(name);
        let mut random = File::open("/dev/urandom").unwrap().take(bytes);
        io::copy(&mut random, &mut File::create(&path).unwrap()).unwrap();
        path
    }

    /// `florelay send` from station-a to station-b, running.
    pub(crate) fn send(&self, file: &Path) -> Job {
        let command = self.program.send(self.config(A), self.name(B), file);
        Job::start(&command, self.topology.folder(), "send").unwrap()
    }

    /// Waits until `bytes` of the job's transfer are confirmed.
    pub(crate) fn confirmed(&self, job: &mut Job, bytes: u64, deadline: Deadline) {
        confirmed(job, bytes, deadline).unwrap_or_else(|said| panic!("{said}; {}", self.states()));
    }

    /// Waits for the end of a transfer and compares the file; removes both copies.
    pub(crate) fn arrive(&self, job: &mut Job, file: &Path, deadline: Deadline) {
        if let Err(error) = job.wait(deadline) {
            panic!("{error:#}; last: {}; {}", job.last_json(), self.states());
        }
        assert!(self.topology.arrived_intact(file).unwrap(), "what arrived is not what was sent");
        fs::remove_file(self.topology.stations[B].inbox.join(file.file_name().unwrap())).unwrap();
        fs::remove_file(file).unwrap();
    }

    /// Waits until a node's status is as `look` says.
    pub(crate) fn until(&self, node: usize, what: &str, look: impl Fn(&Status) -> bool) -> Status {
        let mut last = String::new();
        let waited = Deadline::after(SOON).wait(what, || {
            let status = match self.program.status(self.config(node)) {
                Ok(status) => status,
                Err(error) => {
                    last = format!("{error:#}");
                    return Ok(None);
                }
            };
            last = status.summary();
            Ok(look(&status).then_some(status))
        });
        waited.unwrap_or_else(|error| panic!("{error:#}: {last}; {}", self.states()))
    }

    /// Waits until all nodes are connected again.
    pub(crate) fn connected(&mut self) {
        let deadline = Deadline::after(CONNECT_TIME);
        for node in &mut self.nodes {
            node.wait_connected(deadline).unwrap();
        }
    }

    /// UMEM frames are all accounted for, everywhere.
    pub(crate) fn assert_no_frame_leaked(&self) {
        for node in [A, RELAY, B] {
            let (total, placed, leaked) = self.status(node).frame_account();
            assert!(total > 0, "{} has no UMEM", self.name(node));
            assert_eq!((placed, leaked), (total, 0), "{}", self.name(node));
        }
    }

    /// Drops of all nodes, but for those whose name contains one of `expected`.
    pub(crate) fn drops_except(&self, expected: &[&str]) -> Vec<(String, u64)> {
        let of = |node: usize| {
            self.status(node).drops().into_iter().map(move |(what, count)| (format!("node {node} {what}"), count))
        };
        let all = [A, RELAY, B].into_iter().flat_map(of);
        all.filter(|(what, _)| !expected.iter().any(|name| what.contains(name))).collect()
    }

    /// One line a node, for errors.
    pub(crate) fn states(&self) -> String {
        let of = |node: usize| match self.program.status(self.config(node)) {
            Ok(status) => status.summary(),
            Err(error) => format!("{error:#}"),
        };
        [A, RELAY, B].map(of).join("\n")
    }

    /// Stops all nodes in order and looks for what they may not leave behind.
    pub(crate) fn stop(self) {
        self.stop_then(|_| {});
    }

    /// The same, and does something on the stopped line.
    pub(crate) fn stop_then(mut self, then: impl FnOnce(&Self)) {
        for node in self.nodes.drain(..) {
            node.stop().unwrap();
        }
        self.assert_nothing_left();
        then(&self);
    }

    /// No pins, no programs, no sockets of any node.
    pub(crate) fn assert_nothing_left(&self) {
        for station in &self.topology.stations {
            let pins = Path::new("/sys/fs/bpf/florelay").join(&station.name);
            assert!(!pins.exists(), "{} is left", pins.display());
            let state = station.config.with_file_name("state");
            for entry in fs::read_dir(&state).unwrap().flatten() {
                use std::os::unix::fs::FileTypeExt as _;
                let kind = entry.file_type().unwrap();
                assert!(!kind.is_socket(), "{} is left", entry.path().display());
            }
            if let Some(namespace) = &station.namespace {
                let shown = namespace.ip().args(["-d", "link"]).output().unwrap();
                let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
                assert!(!shown.contains("xdp"), "a program is left in {}:\n{shown}", namespace.name());
            }
        }
    }
}
