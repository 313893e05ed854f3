//! Quelay's clients in Python, from the project's own IDL text, against nodes on loopback sockets: everything that
//! `docs/src/quelay.md` says, in `thrift/flows.py`. What is done to nodes meanwhile is done here.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use common::{A, B, CONNECT_TIME, Line, PATIENCE};
use florelay_e2e::{Deadline, LinkPlan, Python, Rate};
use rustix::process::Signal;

/// A line of nodes that serve the Thrift API at both ends.
struct Served {
    line: Line,
    python: Python,
    stubs: PathBuf,
    agents: [SocketAddr; 2],
}

impl Served {
    /// `None`: there is no Python to be a client with.
    fn start(test: &str, rate: Rate, thrift: [&str; 2]) -> Option<Self> {
        let python = Python::find_or_skip(test)?;
        let mut line = Line::prepare(false, &LinkPlan { rate, ..LinkPlan::default() });
        // Of this process alone, as the topology's addresses are; it does not use the fourth.
        let [_, x, y, z] = (std::process::id() << 2 | 3).to_be_bytes();
        let agents = [9090, 9091].map(|port| SocketAddr::from((Ipv4Addr::new(127, x, y, z), port)));
        for ((node, at), more) in [A, B].into_iter().zip(agents).zip(thrift) {
            let mut config = OpenOptions::new().append(true).open(line.config(node)).unwrap();
            write!(config, "\n[thrift]\nlisten = \"{at}\"\n{more}\n").unwrap();
        }
        line.nodes = line.topology.start_all(CONNECT_TIME).unwrap();
        let stubs = line.topology.folder().join("stubs");
        python.thrift_stubs(&root().join("control/idl/quelay.thrift"), &stubs).unwrap();
        Some(Self { line, python, stubs, agents })
    }

    /// Runs a flow to its end.
    fn run(&self, flow: &str, more: &[&str]) {
        self.flow(flow, more).finish();
    }

    fn flow(&self, flow: &str, more: &[&str]) -> Flow<'_> {
        let said = self.line.topology.folder().join("flow.err");
        let mut command = self.python.command();
        let path = [self.stubs.clone(), root().join("examples/python")];
        command.env("PYTHONPATH", std::env::join_paths(path).unwrap());
        command.arg(root().join("e2e/tests/thrift/flows.py")).arg(flow);
        command.args(self.agents.map(|at| at.to_string())).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&said).unwrap());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        Flow { served: self, name: flow.to_owned(), child, input, output, said }
    }
}

/// A flow under way.
struct Flow<'s> {
    served: &'s Served,
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    said: PathBuf,
}

impl Flow<'_> {
    /// Waits until it asks for this to be done, and does it.
    fn when(&mut self, asks: &str, act: impl FnOnce(&Line)) -> &mut Self {
        match self.output.next() {
            Some(Ok(line)) if line == asks => {}
            other => panic!("{other:?} where {asks} is expected: {}", self.why()),
        }
        act(&self.served.line);
        self.input.write_all(b"done\n").unwrap();
        self
    }

    fn finish(&mut self) {
        let child = &mut self.child;
        let ended = Deadline::after(4 * PATIENCE).wait("a flow to end", || Ok(child.try_wait()?));
        let ended = ended.unwrap_or_else(|error| panic!("{}: {error:#}: {}", self.name, self.why()));
        assert!(ended.success(), "{}: {}", self.name, self.why());
    }

    fn why(&self) -> String {
        let logs = self.served.line.nodes.iter().map(|node| format!("{}:\n{}", node.name(), node.log_tail()));
        let logs: Vec<_> = logs.collect();
        format!(
            "{}\n{}\n{}",
            fs::read_to_string(&self.said).unwrap_or_default(),
            self.served.line.states(),
            logs.join("\n")
        )
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        // One that has ended is not there to be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

const HOOKS: [&str; 2] = ["test-hooks = true"; 2];

#[test]
fn files_of_all_sizes_cross_in_both_directions() {
    let Some(served) = Served::start("thrift: sizes", Rate::Uncapped, HOOKS) else { return };
    served.run("sizes", &[]);
    served.line.stop();
}

#[test]
fn many_begin_by_priority_and_the_queue_is_told() {
    let Some(served) = Served::start("thrift: priorities", Rate::Bps(100_000_000), HOOKS) else { return };
    served.run("priorities", &[]);
    served.line.stop();
}

#[test]
fn the_hundred_and_first_that_waits_is_refused() {
    let Some(served) = Served::start("thrift: full", Rate::Bps(100_000_000), HOOKS) else { return };
    served.run("full", &[]);
    served.line.stop();
}

#[test]
fn an_outage_loses_nothing_and_a_start_in_it_is_answered() {
    let Some(served) = Served::start("thrift: outage", Rate::Bps(40_000_000), HOOKS) else { return };
    served.run("outage", &[]);
    served.line.stop();
}

#[test]
fn a_restart_of_the_senders_dataplane_loses_nothing() {
    let Some(served) = Served::start("thrift: restart", Rate::Bps(40_000_000), HOOKS) else { return };
    let kill = |line: &Line| line.nodes[A].process("dataplane").unwrap().signal(Signal::KILL);
    served.flow("restart", &[]).when("kill", kill).finish();
    served.line.stop();
}

#[test]
fn two_hundred_streams_are_open_at_once() {
    let Some(served) = Served::start("thrift: many", Rate::Bps(100_000_000), HOOKS) else { return };
    served.run("many", &["200"]);
    served.line.stop();
}

#[test]
fn fifty_streams_are_open_at_once() {
    let Some(served) = Served::start("thrift: fifty", Rate::Bps(100_000_000), HOOKS) else { return };
    served.run("many", &["50"]);
    served.line.stop();
}

#[test]
fn what_is_wrong_is_refused_and_a_crowd_disturbs_nobody() {
    let Some(served) = Served::start("thrift: refusals", Rate::Bps(100_000_000), HOOKS) else { return };
    served.run("refusals", &[]);
    served.run("crowd", &[]);
    served.line.stop();
}

#[test]
fn versions_caps_and_statistics_are_as_configured_and_the_cap_is_kept() {
    const RATE: u64 = 10_000_000;
    let versions = ["version = \"2026-Feb-20\"", "test-hooks = true"];
    let Some(served) = Served::start("thrift: facts", Rate::Bps(RATE), versions) else { return };
    served.run("facts", &["2026-Feb-20", "10000000"]);
    served.flow("saturate", &[]).when("measure", measure_cap).finish();
    served.line.stop();

    fn measure_cap(line: &Line) {
        // By the link's own counter and the node's own clock. Other work on the machine can only take from a window.
        let read = || {
            let status = line.status(A);
            let uptime = status.json()["uptime_ns"].as_u64().unwrap();
            (status.link_counter("to-relay", "tx_bytes").unwrap(), uptime)
        };
        let mut best = 0.0_f64;
        for _ in 0..5 {
            let (bytes, since) = read();
            let (mut more, mut now) = (bytes, since);
            Deadline::after(PATIENCE)
                .wait("five seconds of traffic", || {
                    (more, now) = read();
                    Ok((now - since >= 5_000_000_000).then_some(()))
                })
                .unwrap();
            let rate = (more - bytes) as f64 * 8e9 / (now - since) as f64 / RATE as f64;
            println!("{:.2} % of the cap", rate * 100.0);
            assert!(rate < 1.02, "{rate}");
            best = best.max(rate);
            if best > 0.98 {
                return;
            }
        }
        panic!("never more than {best} of the cap");
    }
}
