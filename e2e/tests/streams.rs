//! `florelay stream` and `florelay listen` over three nodes on loopback sockets: what goes in comes out, while links go
//! down, a reader is slow, a dataplane is killed, or somebody presses Ctrl-C.

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, Job, LinkPlan, Rate};
use rustix::process::{Pid, Signal, kill_process};

fn line(rate_bps: u64) -> Line {
    Line::sockets(&LinkPlan { rate: Rate::Bps(rate_bps), ..LinkPlan::default() })
}

impl Line {
    /// `stream --to station-b --name NAME --json` at station-a, with this for input.
    fn stream(&self, name: &str, input: impl Into<Stdio>) -> Child {
        let mut command = self.program.command(&["stream", "--to", self.name(B), "--name", name, "--json", "--config"]);
        command.arg(self.config(A)).stdin(input).stdout(self.output("stream.out")).stderr(self.output("stream.err"));
        command.spawn().unwrap()
    }

    /// `listen --once` at station-b, with this for output.
    fn listen(&self, name: &str, output: impl Into<Stdio>) -> Child {
        let mut command = self.program.command(&["listen", "--once", "--name", name, "--config"]);
        command.arg(self.config(B)).stdin(Stdio::null()).stdout(output).stderr(self.output("listen.err"));
        command.spawn().unwrap()
    }

    /// `listen` with these words at station-b.
    fn listen_with(&self, words: &[&str]) -> Child {
        let mut command = self.program.command(&[&["listen"], words, &["--config"]].concat());
        command.arg(self.config(B)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.output("listen.err"));
        command.spawn().unwrap()
    }

    /// A listener stops reading, and bytes wait in its pipe, and behind it.
    fn stand_still(&self, listener: &Child, name: &str) {
        kill_process(Pid::from_child(listener), Signal::STOP).unwrap();
        self.until_number(B, name, "spooled", 1_000_000);
    }

    /// Waits until a stream has lost its reader, or its writer.
    fn until_left(&self, node: usize, state: &str) {
        self.until(node, &format!("a stream to be {state}"), |status| {
            status.transfers().iter().any(|transfer| transfer["state"] == state)
        });
    }

    fn output(&self, name: &str) -> File {
        File::create(self.topology.folder().join(name)).unwrap()
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.topology.folder().join(name)).unwrap()
    }

    /// Waits until a number of a node's stream is so much at least.
    fn until_number(&self, node: usize, name: &str, what: &str, least: u64) {
        self.until(node, &format!("{what} of {name} to be {least}"), |status| {
            let stream = status.transfers().iter().find(|transfer| transfer["name"] == name);
            stream.is_some_and(|stream| stream[what].as_u64() >= Some(least))
        });
    }

    fn code(&self, mut child: Child, what: &str) -> i32 {
        let waited = Deadline::after(PATIENCE).wait(what, || Ok(child.try_wait()?));
        let said = || ["stream.out", "stream.err", "listen.err"].map(|name| self.said(name)).join("\n");
        waited.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", said(), self.states())).code().unwrap()
    }
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

#[test]
fn what_goes_in_comes_out_although_a_link_and_a_dataplane_go_away() {
    let line = line(40_000_000);
    let file = line.file("input", 20_000_000);
    let out = line.topology.folder().join("output");
    let listener = line.listen("telemetry", File::create(&out).unwrap());
    let stream = line.stream("telemetry", File::open(&file).unwrap());
    line.until_number(A, "telemetry", "confirmed", 2_000_000);
    line.program.set_link(line.config(RELAY), "to-b", false).unwrap();
    line.until(A, "the path to be dark", |status| status.peers()[0]["state"] == "dark");
    line.program.set_link(line.config(RELAY), "to-b", true).unwrap();
    line.until_number(A, "telemetry", "confirmed", 6_000_000);
    // The receiver loses everything but what its reader has.
    let dataplane = line.nodes[B].process("dataplane").unwrap();
    dataplane.signal(Signal::KILL);
    assert_eq!(line.code(stream, "the stream to end"), 0, "{}", line.said("stream.err"));
    assert_eq!(line.code(listener, "the listener to end"), 0, "{}", line.said("listen.err"));
    assert!(fs::read(&file).unwrap() == fs::read(&out).unwrap(), "what came out is not what went in");
    let last = line.said("stream.out").lines().last().map(str::to_owned).unwrap();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["kind"], &last["ended"], &last["size"]), (&"stream".into(), &true.into(), &20_000_000.into()));
    line.stop();
}

#[test]
fn a_writer_that_was_killed_goes_on_with_its_file() {
    const ID: &str = "6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11";
    let line = line(80_000_000);
    let file = line.file("input", 40_000_000);
    let out = line.topology.folder().join("output");
    let listener = line.listen("telemetry", File::create(&out).unwrap());
    let write = |arguments: &[&str], input: Stdio| {
        let mut command = line.program.command(&["stream", "--to", line.name(B), "--name", "telemetry", "--id", ID]);
        command.args(arguments).arg("--config").arg(line.config(A)).stdin(input);
        command.stdout(line.output("stream.out")).stderr(line.output("stream.err")).spawn().unwrap()
    };
    let mut stream = write(&["--linger", "5min", "--size", "40000000"], Stdio::piped());
    // Its end is not said: the rest of the file never comes this way.
    let mut input = stream.stdin.take().unwrap();
    input.write_all(&fs::read(&file).unwrap()[..20_000_000]).unwrap();
    line.until_number(A, "telemetry", "confirmed", 2_000_000);
    stream.kill().unwrap();
    stream.wait().unwrap();
    line.until_left(A, "no-writer");
    let stream = write(&["--resume"], File::open(&file).unwrap().into());
    assert_eq!(line.code(stream, "the stream to end"), 0, "{}", line.said("stream.err"));
    assert_eq!(line.code(listener, "the listener to end"), 0, "{}", line.said("listen.err"));
    assert!(fs::read(&file).unwrap() == fs::read(&out).unwrap(), "what came out is not what went in");
    line.stop();
}

#[test]
fn a_listener_that_was_killed_goes_on_with_its_file_whatever_was_in_its_pipe() {
    const ID: &str = "6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d12";
    const SIZE: u64 = 100_000_000;
    let line = line(80_000_000);
    // A listener that goes on takes up to 16 MiB at once, so much its node has kept.
    let file = line.file("input", SIZE);
    let out = line.topology.folder().join("output");
    let path = out.to_str().unwrap();
    let mut listener = line.listen_with(&["--name", "telemetry", "--output", path, "--linger", "5min"]);
    let mut stream = line.program.command(&["stream", "--to", line.name(B), "--name", "telemetry", "--id", ID]);
    stream.arg("--config").arg(line.config(A)).stdin(File::open(&file).unwrap());
    let stream = stream.stdout(line.output("stream.out")).stderr(line.output("stream.err")).spawn().unwrap();
    let mut had = 0;
    for kill in 1..=3 {
        // It has gone on: more is confirmed than the one before had.
        line.until_number(A, "telemetry", "confirmed", had + 1_000_000);
        line.stand_still(&listener, "telemetry");
        if kill == 3 {
            // With the dataplane of its node, and all that both had in memory: the sender still has it.
            line.nodes[B].process("dataplane").unwrap().signal(Signal::KILL);
        }
        listener.kill().unwrap();
        listener.wait().unwrap();
        line.until_left(B, "no-reader");
        let before = std::mem::replace(&mut had, fs::metadata(&out).unwrap().len());
        assert!((before + 1_000_000..SIZE).contains(&had), "{had} bytes");
        // What it had not synced when it was killed alone, its node still has.
        listener = line.listen_with(&["--resume", ID, "--output", path, "--linger", "5min"]);
    }
    assert_eq!(line.code(stream, "the stream to end"), 0, "{}", line.said("stream.err"));
    assert_eq!(line.code(listener, "the listener to end"), 0, "{}", line.said("listen.err"));
    assert!(fs::read(&file).unwrap() == fs::read(&out).unwrap(), "what came out is not what went in");
    line.stop();
}

#[test]
fn what_a_slow_listener_does_not_take_waits_on_disk_and_a_file_passes() {
    let line = line(400_000_000);
    let file = line.file("input", 60_000_000);
    let mut listener = line.listen("slow", Stdio::piped());
    let stream = line.stream("slow", File::open(&file).unwrap());
    let mut from = listener.stdout.take().unwrap();
    let mut first = vec![0; 1_000_000];
    from.read_exact(&mut first).unwrap();
    // Now it reads nothing: what is beyond the credit waits at the sender, far more than its memory is for one stream.
    line.until_number(A, "slow", "spooled", 50_000_000);
    let other = line.file("image.raw", 5_000_000);
    let mut send = line.send(&other);
    line.arrive(&mut send, &other, Deadline::after(PATIENCE));
    let c2 = line.program.c2(line.config(A), line.name(B), 5, 10, "antenna stow");
    Job::start(&c2, line.topology.folder(), "c2").unwrap().wait(Deadline::after(PATIENCE)).unwrap();
    let held = line.status(A).transfers().iter().find(|t| t["kind"] == "stream").map(|t| t["spooled"].clone());
    assert!(held.as_ref().and_then(serde_json::Value::as_u64).is_some_and(|held| held >= 40_000_000), "{held:?}");
    let mut rest = Vec::new();
    from.read_to_end(&mut rest).unwrap();
    assert_eq!(line.code(stream, "the stream to end"), 0, "{}", line.said("stream.err"));
    assert_eq!(line.code(listener, "the listener to end"), 0, "{}", line.said("listen.err"));
    first.extend(rest);
    assert!(first == fs::read(&file).unwrap(), "what came out is not what went in");
    line.stop();
}

#[test]
fn ctrl_c_gives_a_stream_up_unless_its_input_had_ended() {
    let line = line(400_000_000);
    let begun = |name: &str| {
        let mut listener = line.listen(name, Stdio::piped());
        let mut stream = line.stream(name, Stdio::piped());
        let mut input = stream.stdin.take().unwrap();
        input.write_all(b"hello").unwrap();
        let mut five = [0; 5];
        listener.stdout.as_mut().unwrap().read_exact(&mut five).unwrap();
        assert_eq!(&five, b"hello");
        (listener, stream, input)
    };
    let (listener, stream, input) = begun("sender");
    interrupt(&stream);
    assert_eq!(line.code(stream, "the stream to end"), 130);
    assert!(line.said("stream.err").contains("Input has not ended"), "{}", line.said("stream.err"));
    assert_eq!(line.code(listener, "the listener to end"), 1);
    assert!(line.said("listen.err").contains("cancelled by the operator"), "{}", line.said("listen.err"));
    drop(input);

    let (listener, stream, input) = begun("receiver");
    interrupt(&listener);
    assert_eq!(line.code(listener, "the listener to end"), 130);
    assert_eq!(line.code(stream, "the stream to end"), 1);
    assert!(line.said("stream.err").contains("its reader has gone away"), "{}", line.said("stream.err"));
    drop(input);

    // Input had ended, and nobody listened yet: the rest goes on without the command.
    let mut stream = line.stream("late", Stdio::piped());
    stream.stdin.take().unwrap().write_all(b"the rest").unwrap();
    line.until_number(A, "late", "size", 8);
    interrupt(&stream);
    assert_eq!(line.code(stream, "the stream to end"), 130);
    assert!(line.said("stream.err").contains("has ended here"), "{}", line.said("stream.err"));
    let mut listener = line.listen("late", Stdio::piped());
    let mut heard = String::new();
    listener.stdout.take().unwrap().read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "the rest");
    assert_eq!(line.code(listener, "the listener to end"), 0, "{}", line.said("listen.err"));
    line.stop();
}
