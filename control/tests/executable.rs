//! The executable as people and scripts meet it; see README.md. The test itself stands in for the dataplane.

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use common::{ID, Node, Running, finish, florelay, run};
use florelay_dataplane::ipc::{Answer, FailCode, Failure, Request, RequestBody, Response, TransferOrder};
use florelay_dataplane::ipc_codec::IpcStream;

const CONFIG: &str = r#"version = "1.0"
[node]
name = "station-a"
realm = "demo.rete"
certificate = "pki/station-a.crt"
key = "pki/station-a.key"
trust = "pki/ca.crt"
inbox = "inbox"
state-dir = "state"
[[link]]
name = "to-b"
adapter = "udp"
local = "127.0.0.1:6635"
remote = "127.0.0.1:6636"
mtu = 1500
rate = "10 Mbit/s"
liveness = { key-file = "link.key" }
[[peer]]
name = "station-b"
link = "to-b"
out-label = 100
in-label = 200
"#;

#[test]
fn pki_check_and_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (pki, config) = (path("pki"), path("a.toml"));
    assert_eq!(run(&["pki", "init", "--realm", "demo.rete", "--dir", &pki]).0, 0);
    assert_eq!(run(&["pki", "issue", "--node", "station-a", "--dir", &pki]).0, 0);
    assert_eq!(run(&["pki", "link-key", &path("link.key")]).0, 0);
    let (code, _, said) = run(&["pki", "init", "--realm", "demo.rete", "--dir", &pki]);
    assert!(code == 1 && said.contains("--force"), "{code} {said}");

    fs::write(&config, CONFIG).unwrap();
    let (code, said, error) = run(&["check", "--config", &config]);
    assert_eq!(code, 0, "{error}");
    assert!(said.contains("accepted") && said.contains("1460 B") && said.contains("10 Mbit/s"), "{said}");

    fs::write(&config, CONFIG.replace("mtu = 1500", "mtu = 1000\nspeed = 3")).unwrap();
    for verb in ["check", "up"] {
        let (code, _, said) = run(&[verb, "--config", &config]);
        assert_eq!(code, 78);
        assert!(said.contains("a.toml:15:7: link[to-b].mtu: MTU 1000 leaves 960"), "{said}");
        assert!(said.contains("a.toml:16:1: link[to-b].speed: unknown key") && said.contains("2 errors"), "{said}");
    }
    let (code, said, _) = run(&["check", "--json", "--config", &config]);
    assert!(code == 78 && said.contains(r#""line":15"#), "{said}");
    assert!(!Path::new(&path("state")).exists(), "a refused configuration leaves nothing behind");
}

#[test]
fn send_reports_until_the_end() {
    let node = Node::start();
    let file = node.file();
    let child = node.spawn(&["send", &file, "--to", "station-b", "--priority", "7", "--id", ID, "--json"]);
    let (tag, body, fd) = node.request();
    let RequestBody::SendFile { order: TransferOrder { to, id, name, priority, .. }, .. } = body else {
        panic!("{body:?}")
    };
    assert_eq!((to.as_str(), name.as_str(), priority), ("station-b", "f.raw", 7));
    assert_eq!(uuid::Uuid::from_u128(id).to_string(), ID);
    let mut contents = String::new();
    File::from(fd.unwrap()).read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "hello");
    node.answer(tag, 2, true, None);
    node.answer(tag, 5, false, Some(Ok([0xcd; 32])));
    let (code, said, _) = finish(child);
    let lines: Vec<serde_json::Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((code, lines.len()), (0, 2));
    assert_eq!((&lines[0]["confirmed"], &lines[0]["stalled"]), (&2.into(), &true.into()));
    assert_eq!((&lines[1]["id"], &lines[1]["blake3"]), (&ID.into(), &"cd".repeat(32).into()));

    // For people, and a failure.
    let child = node.spawn(&["watch", ID]);
    let (tag, ..) = node.request();
    node.answer(tag, 5, false, Some(Ok([0xcd; 32])));
    let (code, said, _) = finish(child);
    assert!(code == 0 && said.contains("f.raw to station-b: 5 B in 1 ms") && said.contains("BLAKE3 cdcd"), "{said}");
    let child = node.spawn(&["watch", ID]);
    let (tag, ..) = node.request();
    node.answer(tag, 5, false, Some(Err(Failure::new(FailCode::Storage, "disk full"))));
    let (code, _, said) = finish(child);
    assert!(code == 1 && said.contains("disk full"), "{code} {said}");
}

#[test]
fn send_outlives_the_control_process() {
    let mut node = Node::start();
    let file = node.file();
    let mut child = node.spawn(&["send", &file, "--to", "station-b", "--id", ID, "--json"]);
    let (tag, ..) = node.request();
    node.answer(tag, 2, false, None);
    let mut said = BufReader::new(child.0.stderr.take().unwrap());
    let mut shown = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    shown.read_line(&mut line).unwrap();
    for end in [None, Some(Ok([0xcd; 32]))] {
        node.replace_control();
        line.clear();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("looking for the control process"), "{line}");
        // Before they meet, the sender is told that there is no dataplane, and asks again.
        node.meet_control();
        let (tag, body, fd) = node.request();
        // Ordered again, with the open file: if the dataplane is another one, it needs it.
        let RequestBody::SendFile { order, .. } = body else { panic!("{body:?}") };
        assert!(uuid::Uuid::from_u128(order.id).to_string() == ID && fd.is_some());
        node.answer(tag, 5, false, end);
        line.clear();
        shown.read_line(&mut line).unwrap();
        assert!(line.contains(r#""confirmed":5"#), "{line}");
    }
    assert_eq!(child.0.wait().unwrap().code(), Some(0));

    // Refused by one that has started anew: what to do is said.
    let child = node.spawn(&["send", &file, "--to", "station-b", "--id", ID]);
    let (tag, ..) = node.request();
    node.answer(tag, 2, false, None);
    node.replace_control();
    node.meet_control();
    let (tag, ..) = node.request();
    node.dataplane.send(&Response { tag, body: Answer::Failed("the file has changed".into()) }, None).unwrap();
    let (code, _, said) = finish(child);
    assert!(code == 1 && said.contains("has changed") && said.contains(&format!("--id {ID}")), "{code} {said}");
}

#[test]
fn send_orders_again_when_the_dataplane_has_started_anew() {
    let mut node = Node::start();
    let file = node.file();
    let child = node.spawn(&["send", &file, "--to", "station-b", "--id", ID]);
    let (tag, ..) = node.request();
    node.answer(tag, 2, false, None);
    node.dataplane.shutdown();
    node.meet_control();
    let (tag, body, fd) = node.request();
    let RequestBody::SendFile { order, path } = body else { panic!("{body:?}") };
    assert_eq!((uuid::Uuid::from_u128(order.id).to_string().as_str(), order.name.as_str()), (ID, "f.raw"));
    assert_eq!(path.map(|path| fs::canonicalize(path).unwrap()), Some(fs::canonicalize(&file).unwrap()));
    let mut contents = String::new();
    File::from(fd.unwrap()).read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "hello");
    node.answer(tag, 5, false, Some(Ok([0xcd; 32])));
    let (code, _, said) = finish(child);
    assert!(code == 0 && said.contains("looking for the dataplane"), "{code} {said}");
}

/// The test stands in for the control process that comes back, too: it has no dataplane at first.
#[test]
fn send_waits_for_the_dataplane_behind_a_new_control_process() {
    let mut node = Node::start();
    let file = node.file();
    let child = node.spawn(&["send", &file, "--to", "station-b", "--id", ID]);
    let (tag, ..) = node.request();
    node.answer(tag, 2, false, None);
    node.control.0.kill().unwrap();
    node.control.0.wait().unwrap();
    let socket = node.dir.path().join("control.sock");
    fs::remove_file(&socket).unwrap();
    let control = IpcStream::new(UnixListener::bind(&socket).unwrap().accept().unwrap().0).unwrap();
    control.greet().unwrap();
    for body in [Answer::Unavailable("not yet".into()), Answer::Failed("the disk is full".into())] {
        let (Request { tag, body: asked }, _) = control.receive::<Request>().unwrap().unwrap();
        assert!(matches!(asked, RequestBody::SendFile { .. }), "{asked:?}");
        control.send(&Response { tag, body }, None).unwrap();
    }
    let (code, _, said) = finish(child);
    assert!(code == 1 && said.contains("the disk is full"), "{code} {said}");
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    let node = Node::start();
    let pipe = node.dir.path().join("pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    // Nobody will ever write to it: a command that opened it would not end.
    for path in [pipe.to_str().unwrap(), node.dir.path().to_str().unwrap()] {
        let (code, _, said) = finish(node.spawn(&["send", path, "--to", "station-b"]));
        assert!(code == 66 && said.contains("not a regular file"), "{code} {said}");
    }
    let (code, _, said) = finish(node.spawn(&["send", "nowhere.raw", "--to", "station-b"]));
    assert!(code == 66 && said.contains("nowhere.raw cannot be read: No such file"), "{code} {said}");
    let hidden = node.dir.path().join(".profile");
    fs::write(&hidden, "").unwrap();
    let (code, _, said) = finish(node.spawn(&["send", hidden.to_str().unwrap(), "--to", "station-b"]));
    assert!(code == 1 && said.contains("no hidden files") && said.contains("--name NAME"), "{code} {said}");
    let file = node.file();
    let child = node.spawn(&["send", &file, "--to", "station-c", "--id", ID]);
    let (tag, ..) = node.request();
    node.dataplane.send(&Response { tag, body: Answer::Failed("no peer `station-c`".into()) }, None).unwrap();
    let (code, _, said) = finish(child);
    assert!(code == 1 && said.contains("no peer") && !said.contains("to go on"), "{code} {said}");
}

#[test]
fn interrupt_leaves_the_transfer_running() {
    let node = Node::start();
    let file = node.file();
    let mut child = node.spawn(&["send", &file, "--to", "station-b", "--id", ID, "--json"]);
    let (tag, ..) = node.request();
    node.answer(tag, 1, false, None);
    // A line of output: the handler is in place since before the request.
    let mut first = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, _, said) = finish(child);
    assert_eq!(code, 130, "{said}");
    assert!(said.contains(&format!("florelay watch {ID}")) && said.contains(&format!("--id {ID}")), "{said}");
    // The next request that arrives is the next command's: nothing was cancelled.
    let child = node.spawn(&["cancel", ID]);
    let (tag, body, _) = node.request();
    assert!(matches!(body, RequestBody::Cancel { .. }), "{body:?}");
    node.dataplane.send(&Response { tag, body: Answer::Done }, None).unwrap();
    assert_eq!(finish(child).0, 0);
}

#[test]
fn control_ends_with_its_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let control = florelay(&["control", "--dataplane-stdin", "--socket"])
        .arg(dir.path().join("control.sock"))
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let mut control = Running(control);
    let supervisor = IpcStream::new(ours).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    supervisor.send(&(), Some(far.as_fd())).unwrap();
    drop(far);
    let dataplane = IpcStream::new(near).unwrap();
    dataplane.greet().unwrap();
    let (request, _) = dataplane.receive::<Request>().unwrap().unwrap();
    assert_eq!(request.body, RequestBody::Status);
    drop(supervisor);
    assert!(control.0.wait().unwrap().success());
}

#[test]
fn a_contact_plan_that_cannot_be_read_is_not_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    for (args, hint) in [
        (&["contacts", "set", "to-b", "nowhere.toml"][..], "[[contact]] tables"),
        (&["contacts", "set", "to-b", folder], "[[contact]] tables"),
        (&["contacts", "import", "nowhere.json", "--map", "1:2=to-b"], "HDTN's contact plan"),
    ] {
        let (code, _, said) = run(args);
        assert!(code == 66 && said.contains("cannot be read") && said.contains(hint), "{code} {said}");
        assert!(!said.contains("configuration"), "{said}");
    }
    // One that can be read and is wrong is refused as the same text would be in the configuration.
    let file = dir.path().join("passes.toml");
    fs::write(&file, "[[contact]]\nstart = 1").unwrap();
    let (code, _, said) = run(&["contacts", "set", "to-b", file.to_str().unwrap()]);
    assert!(code == 78 && said.contains("passes.toml:2:"), "{code} {said}");
}

#[test]
fn a_reader_that_goes_is_no_panic() {
    let closed = || {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("link.key");
    let made = florelay(&["pki", "link-key", key.to_str().unwrap()]).stdout(closed()).status().unwrap();
    assert_eq!(made.code(), Some(0));
    let refused = florelay(&["check", "--config", "nowhere.toml"]).stderr(closed()).status().unwrap();
    assert_eq!(refused.code(), Some(78));

    // Who watches has nobody to watch for; the transfer goes on.
    let node = Node::start();
    let mut watch = florelay(&["watch", ID, "--json", "--socket"]);
    watch.arg(node.dir.path().join("control.sock")).stdout(closed()).stderr(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let (tag, ..) = node.request();
    node.answer(tag, 1, false, None);
    let mut said = String::new();
    watch.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains(&format!("florelay watch {ID} --socket")), "{said}");
}

#[test]
fn without_control_the_reason_is_said() {
    let (code, _, said) = run(&["status", "--socket", "/nonexistent/control.sock"]);
    assert!(code == 69 && said.contains("florelay up"), "{code} {said}");
    let (code, _, said) = run(&["control", "--socket", "/nonexistent/c.sock", "--dataplane-stdin"]);
    assert!(code != 0 && said.contains("not a unix socket"), "{code} {said}");
}

#[test]
fn short_commands_ask_and_print() {
    let node = Node::start();
    let child = node.spawn(&["c2", "--to", "station-b", "--count", "3", "--json", "ping"]);
    for _ in 0..3 {
        let (tag, body, _) = node.request();
        let wanted = RequestBody::Message { to: "station-b".into(), payload: b"ping".to_vec() };
        assert_eq!(body, wanted);
        let body = Answer::Message { rtt_ns: 650_000_000 };
        node.dataplane.send(&Response { tag, body }, None).unwrap();
    }
    let (code, said, error) = finish(child);
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(code == 0 && value["count"] == 3 && value["p50_ns"].as_u64() > Some(649_000_000), "{said} {error}");

    let child = node.spawn(&["link", "set", "to-b", "--rate", "2 Mbit/s"]);
    let (tag, body, _) = node.request();
    let wanted = RequestBody::SetRate { link: "to-b".into(), rate_bps: Some(2_000_000), burst_bytes: None };
    assert_eq!(body, wanted);
    let body = Answer::Failed("there is no link \"to-b\"".into());
    node.dataplane.send(&Response { tag, body }, None).unwrap();
    let (code, _, said) = finish(child);
    assert!(code == 1 && said.contains("no link"), "{code} {said}");

    for (reached, expected) in [(true, 0), (false, 1)] {
        let child = node.spawn(&["trace", "station-b"]);
        let (tag, ..) = node.request();
        for (hop, name) in [(1, Some("relay")), (2, reached.then_some("station-b"))] {
            let body = Answer::Hop { hop, node: name.map(str::to_owned), rtt_ns: 5_000_000, last: hop == 2 };
            node.dataplane.send(&Response { tag, body }, None).unwrap();
        }
        let (code, said, _) = finish(child);
        assert!(code == expected && said.contains("1  relay  5 ms"), "{code} {said}");
    }
}
