//! The gRPC API over three nodes on loopback sockets, by Python clients whose stubs are generated when they start
//! (`grpc_scenarios.py` has the scenarios, `examples/python` the client): the whole of it, and what becomes of streams when readers
//! stop, calls are dropped and processes are killed.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use common::{A, B, CONNECT_TIME, Line, PATIENCE, RELAY, SOON};
use florelay_e2e::{Deadline, LinkPlan, Process, Python, Rate};
use rustix::process::Signal;

/// What a control process may have in memory while one stream is held up: the writer's window, a few messages of at most
/// 1 MiB, HTTP/2's windows, and what a process of this size has anyway.
const MEMORY_BYTES: u64 = 96 << 20;

impl Line {
    /// Three nodes; both stations serve gRPC at a unix socket, station-a also as `more` says.
    fn grpc(rate_bps: u64, more: &str) -> Self {
        // A machine of tests may not keep its clock right.
        let extra = "require-synchronised-clock = false".into();
        let mut line = Self::prepare(false, &LinkPlan { rate: Rate::Bps(rate_bps), extra, ..LinkPlan::default() });
        for (node, more) in [(A, more), (B, "listen = \"unix:state/grpc.sock\"")] {
            let config = line.config(node).to_owned();
            // Little enough to be filled: then a writer is held back.
            let text =
                fs::read_to_string(&config).unwrap().replacen("[node]\n", "[node]\nstream-disk-spool = \"64 MB\"\n", 1);
            assert!(text.contains("stream-disk-spool"), "{text}");
            let more = more.replace("NODE", line.name(node));
            fs::write(&config, format!("{text}\n[grpc]\n{more}\n")).unwrap();
        }
        line.nodes = line.topology.start_all(CONNECT_TIME).unwrap();
        line
    }

    fn at_sockets(rate_bps: u64) -> Self {
        Self::grpc(rate_bps, "listen = \"unix:state/grpc.sock\"")
    }

    fn socket(&self, node: usize) -> PathBuf {
        self.config(node).with_file_name("state").join("grpc.sock")
    }

    fn scenario(&self, python: &Python, name: &str, more: &[&str]) -> Scenario {
        for node in [A, B] {
            let socket = self.socket(node);
            let deadline = Deadline::after(SOON);
            deadline.wait("gRPC to be served", || Ok(UnixStream::connect(&socket).ok())).unwrap();
        }
        let target = |node| format!("unix:{}", self.socket(node).display());
        let mut arguments = vec![target(A), target(B)];
        arguments.extend(more.iter().map(|&more| more.to_owned()));
        self.start_scenario(python, name, &arguments)
    }

    fn start_scenario(&self, python: &Python, name: &str, arguments: &[String]) -> Scenario {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let errors = self.topology.folder().join(format!("{name}.err"));
        let mut command = python.command();
        command
            .env("PYTHONPATH", tests.join("../examples/python"))
            .arg(tests.join("tests/grpc_scenarios.py"))
            .arg(name);
        for (node, index) in [("A", A), ("RELAY", RELAY), ("B", B)] {
            command.env(format!("FLORELAY_{node}"), self.name(index));
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(fs::File::create(&errors).unwrap()).spawn().unwrap();
        let (says, hears) = (BufReader::new(child.stdout.take().unwrap()), child.stdin.take().unwrap());
        Scenario { child, says, hears, errors }
    }

    fn kill9(&self, node: usize, verb: &str) {
        let deadline = Deadline::after(SOON);
        let process = deadline.wait("a process to kill", || Ok(self.nodes[node].process(verb))).unwrap();
        process.signal(Signal::KILL);
        deadline.wait("it to end", || Ok((!process.runs()).then_some(()))).unwrap();
    }
}

/// A running scenario of `grpc_scenarios.py`.
struct Scenario {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
    errors: PathBuf,
}

impl Scenario {
    /// The next thing that it says.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        let said = || fs::read_to_string(&self.errors).unwrap();
        assert!(!line.is_empty(), "the scenario has failed:\n{}", said());
        line.trim().to_owned()
    }

    /// Waits for this word, and says that it may go on once `act` was done.
    fn meet(&mut self, word: &str, act: impl FnOnce()) {
        let line = self.line();
        assert!(line.split(' ').next() == Some(word), "{line} instead of {word}");
        act();
        writeln!(self.hears, "go on").unwrap();
    }

    /// It ends well.
    fn well(mut self) {
        assert_eq!(self.line(), "well");
        let ended = Deadline::after(PATIENCE).wait("the scenario to end", || Ok(self.child.try_wait()?)).unwrap();
        assert!(ended.success(), "{}", fs::read_to_string(&self.errors).unwrap());
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        // Our own child; it may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory, bytes.
fn resident(process: Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn everything_that_a_node_can_say_is_there() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::at_sockets(100_000_000);
    line.scenario(&python, "described", &[]).well();
    line.scenario(&python, "garbage", &[]).also(&line, garbage);
    line.stop();
}

/// Things that are not HTTP/2, some of them for a while.
fn garbage(line: &Line) {
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], b"PRI * HTTP"] {
        let mut socket = UnixStream::connect(line.socket(A)).unwrap();
        socket.write_all(bytes).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // Closed with bytes unread, it is a reset.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
}

impl Scenario {
    /// One that asks for this once.
    fn also(mut self, line: &Line, act: impl FnOnce(&Line)) {
        self.meet("garbage", || act(line));
        self.well();
    }
}

#[test]
fn files_wait_for_their_turn_and_everybody_hears_of_it() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::grpc(20_000_000, "listen = \"unix:state/grpc.sock\"\nallow-paths = true");
    let folder = line.topology.folder().display().to_string();
    line.scenario(&python, "queue", &[&folder]).well();
    line.stop();
}

#[test]
fn streams_go_both_ways_at_once() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::at_sockets(400_000_000);
    line.scenario(&python, "whole", &[]).well();
    line.stop();
}

#[test]
fn a_reader_that_stops_holds_its_writer_back() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::at_sockets(400_000_000);
    let mut scenario = line.scenario(&python, "back_pressure", &["250000000"]);
    scenario.meet("held", || {
        for node in [A, B] {
            let control = line.nodes[node].process("control").unwrap();
            let bytes = resident(control);
            assert!(bytes < MEMORY_BYTES, "{} has {bytes} bytes in memory", line.name(node));
        }
    });
    scenario.well();
    line.stop();
}

#[test]
fn dropped_calls_and_what_a_stream_may_not_do() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::at_sockets(100_000_000);
    line.scenario(&python, "dropped", &[]).well();
    line.scenario(&python, "refusals", &[]).well();
    line.scenario(&python, "resumed", &[]).well();
    line.stop();
}

#[test]
fn a_node_without_a_dataplane_says_so() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::at_sockets(100_000_000);
    let mut scenario = line.scenario(&python, "no_dataplane", &[]);
    let dataplane = line.nodes[A].process("dataplane").unwrap();
    // Stopped, it answers nobody; killed, it would be back before anybody looked.
    scenario.meet("kill", || dataplane.signal(Signal::STOP));
    scenario.meet("start", || dataplane.signal(Signal::CONT));
    scenario.well();
    line.stop();
}

/// A port that nobody has at the moment.
/// The example client, asked for something that needs no node.
fn client(python: &Python, program: &str) -> (Option<i32>, String) {
    let mut command = python.command();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python");
    command.args(["-c", &format!("import sys, florelay_client as client\n{program}\nclient.main()")]);
    command.current_dir(examples).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Nobody reads what it prints.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_example_client_says_plainly_what_it_cannot_read_or_write() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let said = client(&python, "sys.argv = ['client', 'send', '/no/such\\nfile', '--to', 'b']");
    assert_eq!(said, (Some(1), "'/no/such\\nfile': No such file or directory\n".into()));
    let said = client(&python, "sys.argv = ['client', 'status']\nclient.carry_out = lambda args: print('x' * 100000)");
    assert_eq!(said, (Some(1), "whoever read the output has gone away\n".into()));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn only_who_is_allowed_gets_in_by_tls() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let port = free_port();
    let tls = format!(
        "listen = [\"unix:state/grpc.sock\", \"127.0.0.1:{port}\"]\n[grpc.tls]\ncertificate = \"../pki/NODE.crt\"\n\
         key = \"../pki/NODE.key\"\nclient-ca = \"../pki/ca.crt\"\nallow = [\"operator-1\"]"
    );
    let line = Line::grpc(100_000_000, &tls);
    let (pki, other) = (line.topology.folder().join("pki"), line.topology.folder().join("other"));
    line.program.pki_issue("operator-1", &pki).unwrap();
    fs::create_dir(&other).unwrap();
    line.program.pki_init("demo.rete", &other).unwrap();
    line.program.pki_issue("operator-1", &other).unwrap();
    let deadline = Deadline::after(SOON);
    deadline.wait("the port", || Ok(TcpStream::connect(("127.0.0.1", port)).ok())).unwrap();
    let arguments = [
        format!("127.0.0.1:{port}"),
        line.topology.folder().display().to_string(),
        format!("{}.demo.rete", line.name(A)),
    ];
    line.start_scenario(&python, "tls", &arguments).well();
    line.stop();
}

#[test]
fn a_socket_is_there_again_after_a_kill_and_gone_after_a_stop() {
    let line = Line::at_sockets(100_000_000);
    let socket = line.socket(A);
    let deadline = Deadline::after(SOON);
    deadline.wait("gRPC", || Ok(UnixStream::connect(&socket).ok())).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    line.kill9(A, "control");
    // Its threads end one after the other.
    deadline.wait("nobody there", || Ok(UnixStream::connect(&socket).is_err().then_some(()))).unwrap();
    // The file of the one before is in the way, and nobody behind it.
    deadline.wait("gRPC again", || Ok(UnixStream::connect(&socket).ok())).unwrap();
    let mut held = UnixStream::connect(&socket).unwrap();
    held.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Looks for sockets left behind.
    line.stop();
    assert_eq!(held.read(&mut [0; 64]).unwrap_or(0), 0, "somebody is still there");
}

#[test]
fn a_reader_goes_on_after_its_dataplane_was_killed() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::at_sockets(100_000_000);
    let mut scenario = line.scenario(&python, "kills", &["20000000", "3"]);
    for _ in 0..3 {
        scenario.meet("read", || line.kill9(B, "dataplane"));
    }
    scenario.well();
    line.stop();
}

#[test]
fn a_writer_goes_on_after_its_dataplane_and_its_control_process_were_killed() {
    let Some(python) = Python::find_or_skip("grpc") else { return };
    let line = Line::at_sockets(100_000_000);
    let mut scenario = line.scenario(&python, "kills", &["20000000", "3"]);
    for verb in ["control", "dataplane", "control"] {
        scenario.meet("read", || line.kill9(A, verb));
    }
    scenario.well();
    line.stop();
}
