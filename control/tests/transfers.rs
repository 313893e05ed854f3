//! Many files, files that arrive, and transfers that are changed, as people and scripts meet them; see README.md. The test
//! itself stands in for the dataplane.

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;

use common::{ID, Node, Running, finish};
use florelay_dataplane::ipc::{
    Answer, FailCode, Failure, NodeEvent, Refusal, RequestBody, Response, TransferKind, TransferOrder, TransferState,
    TransferStatus,
};

impl Node {
    fn reply(&self, tag: u64, body: Answer) {
        self.dataplane.send(&Response { tag, body }, None).unwrap();
    }

    /// The next file that is ordered.
    fn ordered(&self) -> (u64, TransferOrder, File) {
        let (tag, body, fd) = self.request();
        let RequestBody::SendFile { order, .. } = body else { panic!("{body:?}") };
        (tag, order, File::from(fd.unwrap()))
    }

    /// A folder with files of these names, each with its name as content.
    fn folder(&self, name: &str, files: &[&str]) -> PathBuf {
        let folder = self.dir.path().join(name);
        for file in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        folder
    }
}

fn of(order: &TransferOrder, change: impl FnOnce(&mut TransferStatus)) -> Answer {
    let mut status = TransferStatus {
        id: order.id,
        peer: order.to.clone(),
        name: order.name.clone(),
        outgoing: true,
        priority: order.priority,
        size: Some(1),
        ..TransferStatus::default()
    };
    change(&mut status);
    Answer::Transfer(Box::new(status))
}

fn done(order: &TransferOrder) -> Answer {
    of(order, |status| (status.confirmed, status.ended) = (1, Some(Ok([7; 32]))))
}

fn queue_full() -> Answer {
    Answer::Refused { refusal: Refusal::QueueFull, reason: "100 wait".into() }
}

#[test]
fn a_folder_is_sent_and_what_is_left_out_is_said() {
    let node = Node::start();
    let photos = node.folder("photos", &["a b.jpg", "-rf", "2024/Ünï.jpg", "two\nlines", ".hidden"]);
    std::os::unix::fs::symlink("/etc/passwd", photos.join("link")).unwrap();
    let arguments = ["send", "-r", photos.to_str().unwrap(), "--to", "station-b", "--attribute", "pass=4711"];
    let child = node.spawn(&arguments);
    let mut sent = HashSet::new();
    for number in 0..4 {
        let (tag, order, mut file) = node.ordered();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(order.attributes, [("pass".into(), "4711".into()), ("path".into(), format!("photos/{content}"))]);
        assert!(!order.name.contains(['/', '\n']), "{}", order.name);
        sent.insert(content);
        node.reply(tag, of(&order, |_| {}));
        let failure = Failure::new(FailCode::Storage, "no room");
        node.reply(tag, if number < 3 { done(&order) } else { of(&order, |s| s.ended = Some(Err(failure))) });
    }
    assert_eq!(sent, ["a b.jpg", "-rf", "2024/Ünï.jpg", "two\nlines"].map(str::to_owned).into());
    let (code, told, said) = finish(child);
    assert_eq!(code, 1, "{said}");
    assert!(told.starts_with("3 files sent to station-b: 3 B in ") && told.contains("1 failed, 2 left out"), "{told}");
    for part in [".hidden is not sent: hidden", "link is not sent: a symbolic link", "no room"] {
        assert!(said.contains(part), "{said}");
    }
    // Without anything to complain of; machines get a summary.
    let fine = node.folder("fine", &["x", "y"]);
    let child = node.spawn(&["send", "-r", fine.to_str().unwrap(), "--to", "station-b", "--json"]);
    for _ in 0..2 {
        let (tag, order, _) = node.ordered();
        node.reply(tag, done(&order));
    }
    let (code, told, _) = finish(child);
    let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!((code, &last["summary"]["done"], &last["summary"]["bytes"]), (0, &2.into(), &2.into()));
    // A folder is not taken by mistake.
    let (code, _, said) = finish(node.spawn(&["send", fine.to_str().unwrap(), "x", "--to", "station-b"]));
    assert!(code == 66 && said.contains("-r sends a folder"), "{code} {said}");
}

/// A node with 700 places for 2000 files: all are sent, each once, and a refused one is ordered again under its id.
#[test]
fn many_files_wait_for_places() {
    let node = Node::start();
    let names: Vec<String> = (0..2000).map(|number| format!("{number}.raw")).collect();
    let folder = node.folder("many", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let child = node.spawn(&["send", "-r", folder.to_str().unwrap(), "--to", "station-b"]);
    let (mut under_way, mut ended, mut refused) = (Vec::new(), HashSet::new(), HashSet::new());
    while ended.len() < names.len() {
        let (tag, order, _) = node.ordered();
        assert!(!ended.contains(&order.name), "{} again", order.name);
        if under_way.len() == 300 {
            refused.insert(order.id);
            node.reply(tag, queue_full());
            // All that have a place get through.
            for (tag, order) in under_way.drain(..) {
                node.reply(tag, done(&order));
                assert!(ended.insert(order.name));
            }
            continue;
        }
        refused.remove(&order.id);
        node.reply(tag, of(&order, |_| {}));
        under_way.push((tag, order));
        if ended.len() + under_way.len() == names.len() {
            for (tag, order) in under_way.drain(..) {
                node.reply(tag, done(&order));
                assert!(ended.insert(order.name));
            }
        }
    }
    let (code, told, said) = finish(child);
    assert!(code == 0 && told.starts_with("2000 files sent"), "{code} {told} {said}");
    assert!(refused.is_empty(), "ordered again under the same id");
}

fn interrupt(child: &Running) {
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn ctrl_c_leaves_what_was_ordered_and_says_what_was_not() {
    let node = Node::start();
    let folder = node.folder("three", &["1", "2", "3"]);
    for cancel in [false, true] {
        let mut arguments = vec!["send", "-r", folder.to_str().unwrap(), "--to", "station-b", "--json"];
        arguments.extend(cancel.then_some("--cancel-on-interrupt"));
        let mut child = node.spawn(&arguments);
        let mut orders: Vec<_> = (0..3).map(|_| node.ordered()).collect();
        // The first one runs; there is no place for the others.
        for (tag, ..) in orders.drain(1..) {
            node.reply(tag, queue_full());
        }
        let (tag, order, _) = orders.remove(0);
        node.reply(tag, of(&order, |_| {}));
        // A line of output: the refusals were heard before.
        let mut line = String::new();
        let mut told = BufReader::new(child.0.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        interrupt(&child);
        if cancel {
            let (tag, body) = loop {
                let (tag, body, _) = node.request();
                match body {
                    // Looking for a place once more.
                    RequestBody::SendFile { .. } => node.reply(tag, queue_full()),
                    body => break (tag, body),
                }
            };
            assert_eq!(body, RequestBody::Cancel { id: order.id });
            node.reply(tag, Answer::Done);
        }
        let mut said = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(130), "{said}");
        let parts = if cancel {
            &["1 cancelled, 2 not ordered"][..]
        } else {
            &["0 sent, 1 go on", "florelay transfers --socket", "2 were not ordered yet, and are not sent"]
        };
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn detached_files_are_ordered_and_left() {
    let node = Node::start();
    let folder = node.folder("two", &["1", "2"]);
    let child = node.spawn(&["send", "-r", folder.to_str().unwrap(), "--to", "station-b", "--detach"]);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (tag, order, _) = node.ordered();
        node.reply(tag, of(&order, |status| status.state = TransferState::Pending { position: 1 }));
        ids.push(uuid::Uuid::from_u128(order.id).to_string());
    }
    let (code, told, said) = finish(child);
    assert_eq!(code, 0, "{said}");
    assert!(ids.iter().all(|id| told.contains(id)) && told.contains("2 files ordered to station-b"), "{told}");
}

fn arrived(node: &Node, id: u128, name: &str, place: Option<&str>) -> TransferStatus {
    let path = node.dir.path().join("inbox").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, name).unwrap();
    TransferStatus {
        id,
        peer: "station-a".into(),
        name: name.into(),
        attributes: place.map(|place| ("path".into(), place.into())).into_iter().collect(),
        kind: TransferKind::File,
        path: Some(path.to_str().unwrap().into()),
        ended: Some(Ok([1; 32])),
        ..TransferStatus::default()
    }
}

impl Node {
    /// A program that subscribes to events, and asks what had ended before.
    fn subscribed(&self, before: Vec<TransferStatus>) -> u64 {
        let (events, body, _) = self.request();
        assert_eq!(body, RequestBody::Events);
        let (tag, body, _) = self.request();
        assert!(matches!(body, RequestBody::Transfers { ended: true, after: None, .. }), "{body:?}");
        self.reply(tag, Answer::Transfers { list: before, more: false });
        events
    }

    fn happens(&self, tag: u64, status: &TransferStatus) {
        self.reply(tag, Answer::Event(NodeEvent::Transfer(Box::new(status.clone()))));
    }
}

#[test]
fn recv_prints_what_arrives_and_puts_it_where_its_sender_had_it() {
    let mut node = Node::start();
    // What was there before is passed over, and so is what is not asked for.
    let child = node.spawn(&["recv", "--count", "2", "--name", "*.raw", "--from", "station-a"]);
    let before = arrived(&node, 1, "old.raw", None);
    let events = node.subscribed(vec![before.clone()]);
    let (one, two) = (arrived(&node, 2, "one.raw", Some("p/one.raw")), arrived(&node, 3, "two.raw", None));
    node.happens(events, &TransferStatus { ended: None, path: None, ..one.clone() });
    node.happens(events, &before);
    node.happens(events, &arrived(&node, 4, "other.jpg", None));
    node.happens(events, &TransferStatus { peer: "station-c".into(), id: 5, ..two.clone() });
    node.happens(events, &one);
    // It is away for a moment, and something arrives meanwhile.
    node.dataplane.shutdown();
    node.meet_control();
    node.subscribed(vec![before, one.clone(), two.clone()]);
    let (code, told, said) = finish(child);
    assert_eq!((code, told), (0, format!("{}\n{}\n", one.path.unwrap(), two.path.unwrap())), "{said}");

    // Into a folder, and not out of it.
    let out = node.dir.path().join("out");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink(node.dir.path(), out.join("way-out")).unwrap();
    let hostile = ["../x", "/tmp/x", "way-out/x", ".ssh/authorized_keys", "a/../../x"];
    let count = (2 + hostile.len()).to_string();
    let child = node.spawn(&["recv", "--existing", "--count", &count, "--out", out.to_str().unwrap()]);
    let gone = TransferStatus { path: Some("/nowhere".into()), ..arrived(&node, 1, "gone", None) };
    let nested = arrived(&node, 2, "x_y.raw", Some("photos/x/two\nlines"));
    let events = node.subscribed(vec![gone, nested.clone()]);
    for (id, place) in (10..).zip(hostile) {
        node.happens(events, &arrived(&node, id, &format!("hostile{id}"), Some(place)));
    }
    node.happens(events, &nested);
    node.happens(events, &arrived(&node, 3, "plain", None));
    let (code, told, said) = finish(child);
    assert_eq!(code, 1, "{said}");
    assert_eq!(fs::read_to_string(out.join("photos/x/two\nlines")).unwrap(), "x_y.raw");
    assert_eq!(fs::read_to_string(out.join("plain")).unwrap(), "plain");
    assert!(told.contains(out.join("plain").to_str().unwrap()), "{told}");
    assert_eq!(said.matches("stays in the inbox").count(), hostile.len(), "{said}");
    for (id, _) in (10..).zip(hostile) {
        assert!(node.dir.path().join(format!("inbox/hostile{id}")).exists(), "{said}");
    }
    assert!(!node.dir.path().join("x").exists());

    // Nothing comes.
    let child = node.spawn(&["recv", "--count", "1", "--timeout", "1 ms"]);
    node.subscribed(Vec::new());
    let (code, _, said) = finish(child);
    assert!(code == 1 && said.contains("0 of 1 files have arrived in time"), "{code} {said}");
}

#[test]
fn transfers_are_listed_and_changed() {
    let node = Node::start();
    let of = |id: u128, state| TransferStatus {
        id: id << 64,
        peer: "station-b".into(),
        name: "f.raw".into(),
        outgoing: true,
        state,
        ..TransferStatus::default()
    };
    let list = vec![of(0x6b1f << 48, TransferState::Paused), of(0x77a0 << 48, TransferState::Pending { position: 3 })];
    let child = node.spawn(&["transfers"]);
    for (page, more) in list.chunks(1).zip([true, false]) {
        let (tag, body, _) = node.request();
        let after = (!more).then_some((false, list[0].id));
        assert_eq!(body, RequestBody::Transfers { ended: false, after, limit: 1000 });
        node.reply(tag, Answer::Transfers { list: page.to_vec(), more });
    }
    let (code, told, said) = finish(child);
    assert_eq!(code, 0, "{said}");
    assert!(told.contains("6b1f0000-") && told.contains("paused") && told.contains("waits, place 3"), "{told}");

    let child = node.spawn(&["transfer", "priority", "80", "6b1f", ID]);
    let (tag, body, _) = node.request();
    assert!(matches!(body, RequestBody::Transfers { ended: false, .. }), "{body:?}");
    node.reply(tag, Answer::Transfers { list: list.clone(), more: false });
    let (tag, body, _) = node.request();
    assert_eq!(body, RequestBody::SetPriority { id: list[0].id, priority: 80 });
    node.reply(tag, Answer::Done);
    let (tag, ..) = node.request();
    node.reply(tag, Answer::Failed("no such transfer".into()));
    let (code, _, said) = finish(child);
    assert!(code == 1 && said.contains(&format!("{ID}: no such transfer")), "{code} {said}");
    let id = uuid::Uuid::parse_str(ID).unwrap().as_u128();
    for (verb, wanted) in [("pause", RequestBody::Pause { id }), ("resume", RequestBody::Resume { id })] {
        let child = node.spawn(&["transfer", verb, ID]);
        let (tag, body, _) = node.request();
        assert_eq!(body, wanted);
        node.reply(tag, Answer::Done);
        assert_eq!(finish(child).0, 0);
    }
}
