//! Open-ended streams through two daemons in this process: what is written into a pipe at one comes out of a pipe at the
//! other, whole, over outages and restarts; programs that stop or die; bounds.
#![forbid(unsafe_code)]

mod nodes;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::process::Command;
use std::thread::JoinHandle;

use florelay_dataplane::ipc::{Answer, FailCode, RequestBody, TransferKind, TransferOrder, TransferState};
use florelay_dataplane::plan::{AdapterPlan, NodePlan};

use nodes::{Node, Realm, assert_received, link};

/// What the gateway keeps of one stream, what it may read ahead, and what pipe and engine hold besides.
const SPOOL: u64 = 16 << 20;
/// A pipe's capacity on Linux.
const PIPE: u64 = 64 << 10;

fn plans(realm: &Realm, rate_bps: Option<u64>) -> (NodePlan, NodePlan) {
    let free = || UdpSocket::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("bound");
    let (a, b) = (free(), free());
    (
        realm.plan("a", "a", "b", link(a, b, AdapterPlan::Udp, rate_bps)),
        realm.plan("b", "b", "a", link(b, a, AdapterPlan::Udp, rate_bps)),
    )
}

/// Without a disk behind its memory.
fn in_memory(mut plan: NodePlan) -> NodePlan {
    plan.spool.stream_disk_bytes = 0;
    plan
}

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    (reader.into(), writer.into())
}

fn bytes(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Begin a stream from `node`; the request's tag, and where to write.
fn stream(node: &mut Node, to: &str, name: &str, id: u128) -> (u64, File) {
    let (reader, writer) = pipe();
    let body = RequestBody::SendStream { order: TransferOrder::new(to, id, name, 0), declared: None, linger_ns: 0 };
    (node.client.ask(body, Some(&reader)), writer)
}

/// Begin one whose writer may go away for an hour; its tag, and where to write.
fn patient(node: &mut Node, id: u128, declared: Option<u64>, linger_ns: u64) -> (u64, File) {
    let (reader, writer) = pipe();
    let body = RequestBody::SendStream { order: TransferOrder::new("b", id, "patient", 0), declared, linger_ns };
    (node.client.ask(body, Some(&reader)), writer)
}

fn listen(node: &mut Node, name: Option<&str>, resume: Option<(u128, u64)>) -> (u64, File) {
    let (reader, writer) = pipe();
    let body = RequestBody::Listen { name: name.map(str::to_owned), from: None, resume, reader: None, linger_ns: 0 };
    (node.client.ask(body, Some(&writer)), reader)
}

/// Write everything from a thread of its own, as a program would; the pipe comes back.
fn write(mut to: File, bytes: Vec<u8>) -> JoinHandle<File> {
    std::thread::spawn(move || {
        to.write_all(&bytes).expect("the gateway reads");
        to
    })
}

/// Read until the pipe is closed.
fn read(mut from: File) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe");
        bytes
    })
}

fn done(node: &mut Node, body: RequestBody) {
    let tag = node.client.ask(body, None);
    assert_eq!(node.client.answer(tag), Answer::Done);
}

/// Say the end of a stream, close its pipe, read it all at `b`, and compare.
fn finish(
    a: &mut Node,
    b: &mut Node,
    id: u128,
    sent: (u64, JoinHandle<File>),
    heard: (u64, JoinHandle<Vec<u8>>),
    whole: &[u8],
) {
    let writer = sent.1.join().expect("written");
    done(a, RequestBody::EndStream { id, size: whole.len() as u64 });
    drop(writer);
    let size = Some(whole.len() as u64);
    let last = b.client.progress(heard.0, |status| status.size == size && status.confirmed == whole.len() as u64);
    assert_eq!((last.kind, last.outgoing, last.ended), (TransferKind::Stream, false, None));
    let digest = *blake3::hash(whole).as_bytes();
    done(b, RequestBody::TakeStream { id, digest });
    assert_eq!(b.client.progress(heard.0, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    let ended = a.client.progress(sent.0, |status| status.ended.is_some());
    assert_eq!((ended.ended, ended.size, ended.spooled), (Some(Ok(digest)), size, 0));
    assert!(heard.1.join().expect("read").ends_with(&whole[whole.len().saturating_sub(100)..]));
}

#[test]
fn a_stream_goes_on_after_its_link_was_down() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, Some(80_000_000));
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let whole = bytes("telemetry", 12_000_000);
    let (other, _other) = listen(&mut b, Some("other"), None);
    let (heard, from) = listen(&mut b, Some("telemetry"), None);
    let reading = read(from);
    let (sent, to) = stream(&mut a, "b", "telemetry", 7);
    let writing = write(to, whole.clone());
    a.client.progress(sent, |status| status.confirmed > 2_000_000 && status.ended.is_none());
    a.client.set_admin("line", false);
    a.client.status_until("dark", |status| status.peers[0].state == "dark");
    a.client.set_admin("line", true);
    finish(&mut a, &mut b, 7, (sent, writing), (heard, reading), &whole);
    // Who listened for another name has heard nothing, and can be told of its stream.
    let (sent, to) = stream(&mut a, "b", "other", 8);
    b.client.progress(other, |status| status.id == 8 && status.name == "other");
    drop(to);
    let why = a.client.progress(sent, |status| status.ended.is_some()).ended.unwrap().unwrap_err();
    assert!(why.reason.contains("after 0 bytes without saying"), "{why}");
    a.stop();
    b.stop();
}

#[test]
fn who_comes_too_late_for_a_stream_hears_how_it_ended() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, None);
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let (sent, to) = stream(&mut a, "b", "given up", 9);
    let known = |status: &florelay_dataplane::ipc::Status, ended: bool| {
        status.transfers.iter().any(|transfer| transfer.id == 9 && transfer.ended.is_some() == ended)
    };
    b.client.status_until("the stream to be offered", |status| known(status, false));
    drop(to);
    a.client.progress(sent, |status| status.ended.is_some());
    b.client.status_until("its end to be heard", |status| known(status, true));
    let (heard, _from) = listen(&mut b, None, Some((9, 0)));
    let ended = b.client.progress(heard, |status| status.ended.is_some());
    assert_eq!((ended.id, ended.ended.unwrap().is_err()), (9, true));
    a.stop();
    b.stop();
}

#[test]
fn without_a_reader_a_stream_waits_bounded_and_holds_up_nothing() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, None);
    let plan_a = in_memory(plan_a);
    let inbox = plan_b.inbox.clone();
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let whole = bytes("slow", 60_000_000);
    let (sent, to) = stream(&mut a, "b", "slow", 1);
    let writing = write(to, whole.clone());
    let held = |status: &florelay_dataplane::ipc::Status| {
        status.transfers.iter().find(|transfer| transfer.id == 1).map_or(0, |transfer| transfer.spooled)
    };
    let status = a.client.status_until("the spool to be full", |status| held(status) == SPOOL);
    assert_eq!(status.transfers[0].kind, TransferKind::Stream);
    let status = b.client.status_until("the stream to wait", |status| {
        status.transfers.iter().any(|t| t.state == TransferState::NoReader)
    });
    assert_eq!(status.transfers[0].confirmed, 0);
    // A reader that takes a little and stops: credit and spool are full, and a file passes.
    let (heard, mut from) = listen(&mut b, None, None);
    let mut first = vec![0; 1_000_000];
    from.read_exact(&mut first).unwrap();
    assert_eq!(first, whole[..1_000_000]);
    b.client.status_until("the credit to be used up", |status| held(status) > SPOOL - 2 * PIPE);
    a.client.status_until("the spool to be full again", |status| held(status) == SPOOL);
    assert!(!writing.is_finished(), "the writer is held back");
    let (path, digest) = realm.file("image.tif", 30_000_000);
    let file = a.client.send("b", &path, 2);
    assert_eq!(a.client.progress(file, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "image.tif", &digest);
    a.client.message("b", b"point the antenna").expect("acknowledged");
    for status in [a.client.status(), b.client.status()] {
        assert!(held(&status) <= SPOOL, "{}", held(&status));
    }
    finish(&mut a, &mut b, 1, (sent, writing), (heard, read(from)), &whole);
    a.stop();
    b.stop();
}

#[test]
fn a_program_that_goes_while_nobody_reads_its_stream_is_noticed_unless_it_had_said_the_end() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, None);
    let plan_a = in_memory(plan_a);
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let full = |status: &florelay_dataplane::ipc::Status| {
        status.transfers.iter().any(|transfer| transfer.ended.is_none() && transfer.spooled == SPOOL)
    };
    // It is killed in the midst of writing: its pipe is full, and may not be read.
    let (sent, to) = stream(&mut a, "b", "killed", 1);
    let mut program = Command::new("cat").arg("/dev/zero").stdout(to).spawn().expect("cat");
    a.client.status_until("the spool to be full", full);
    program.kill().expect("killed");
    program.wait().expect("gone");
    let why = a.client.progress(sent, |status| status.ended.is_some()).ended.unwrap().unwrap_err();
    assert!(why.reason.contains("went away without saying the end"), "{why}");
    // One that has said the end and closed its pipe, in which the last bytes are.
    let whole = bytes("whole", SPOOL as usize + 30_000);
    let (sent, to) = stream(&mut a, "b", "whole", 2);
    let to = write(to, whole.clone()).join().expect("written");
    a.client.status_until("the spool to be full", full);
    done(&mut a, RequestBody::EndStream { id: 2, size: whole.len() as u64 });
    drop(to);
    let status = a.client.status();
    assert!(full(&status), "{:?}", status.transfers);
    let (heard, from) = listen(&mut b, Some("whole"), None);
    let reading = read(from);
    b.client
        .progress(heard, |status| status.size == Some(whole.len() as u64) && status.confirmed == whole.len() as u64);
    let digest = *blake3::hash(&whole).as_bytes();
    done(&mut b, RequestBody::TakeStream { id: 2, digest });
    assert_eq!(a.client.progress(sent, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert!(reading.join().expect("read") == whole);
    a.stop();
    b.stop();
}

#[test]
fn a_program_that_dies_is_no_end_and_both_ends_hear_why() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, None);
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    // A listener that went before its stream came takes none with it.
    let (_, gone) = listen(&mut b, None, None);
    let (heard, from) = listen(&mut b, None, None);
    drop(gone);
    let (sent, to) = stream(&mut a, "b", "half", 3);
    let to = write(to, bytes("half", 300_000)).join().unwrap();
    b.client.progress(heard, |status| status.id == 3);
    // Its writer is killed: what is there is not the whole.
    drop(to);
    for ended in [a.client.progress(sent, |s| s.ended.is_some()), b.client.progress(heard, |s| s.ended.is_some())] {
        let why = ended.ended.unwrap().unwrap_err();
        // Its last bytes may still have waited for room on the disk.
        assert!(why.reason.contains("without saying"), "{why}");
    }
    drop(from);
    // Its reader is killed.
    let (heard, from) = listen(&mut b, None, None);
    let (sent, to) = stream(&mut a, "b", "half", 4);
    let to = write(to, bytes("half", 10)).join().unwrap();
    b.client.progress(heard, |status| status.id == 4);
    drop(from);
    for ended in [a.client.progress(sent, |s| s.ended.is_some()), b.client.progress(heard, |s| s.ended.is_some())] {
        let why = ended.ended.unwrap().unwrap_err();
        assert!(why.reason.contains("at b: its reader has gone away"), "{why}");
    }
    drop(to);
    // Wrong bytes are not taken.
    let (heard, from) = listen(&mut b, None, None);
    let (sent, to) = stream(&mut a, "b", "wrong", 5);
    let to = write(to, bytes("wrong", 1000)).join().unwrap();
    done(&mut a, RequestBody::EndStream { id: 5, size: 1000 });
    drop(to);
    b.client.progress(heard, |status| status.size == Some(1000) && status.confirmed == 1000);
    done(&mut b, RequestBody::TakeStream { id: 5, digest: [0; 32] });
    let why = a.client.progress(sent, |status| status.ended.is_some()).ended.unwrap().unwrap_err();
    assert!(why.reason.contains("BLAKE3"), "{why}");
    drop(from);
    a.stop();
    b.stop();
}

#[test]
fn a_reader_goes_on_where_it_was_after_its_node_restarted() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, Some(80_000_000));
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b.clone(), "unused"));
    let whole = bytes("long", 12_000_000);
    let (_, from) = listen(&mut b, None, None);
    let reading = read(from);
    let (sent, to) = stream(&mut a, "b", "long", 9);
    let writing = write(to, whole.clone());
    a.client.progress(sent, |status| status.confirmed > 2_000_000 && status.ended.is_none());
    b.stop();
    // The pipe is closed; what was read is what the program has.
    let had = reading.join().unwrap();
    assert!(had.len() > 2_000_000 && had.len() < whole.len() && whole.starts_with(&had));
    let mut b = Node::start(plan_b, "unused");
    let (heard, from) = listen(&mut b, None, Some((9, had.len() as u64)));
    let (copied, rest) = (had.clone(), whole[had.len()..].to_vec());
    let reading = std::thread::spawn(move || {
        let bytes = read(from).join().unwrap();
        assert!(bytes == rest, "{} bytes after {}, {} expected", bytes.len(), copied.len(), rest.len());
        bytes
    });
    finish(&mut a, &mut b, 9, (sent, writing), (heard, reading), &whole);
    a.stop();
    b.stop();
}

#[test]
fn a_writer_that_comes_back_goes_on_with_what_was_not_accepted() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, None);
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let whole = bytes("patient", 3_000_000);
    let (heard, from) = listen(&mut b, None, None);
    let reading = read(from);
    let (sent, to) = patient(&mut a, 1, Some(3_000_000), HOUR_NS);
    drop(write(to, whole[..1_000_000].to_vec()).join().expect("written"));
    a.client.progress(sent, |status| status.state == TransferState::NoWriter);
    // Another takes its place twice, the first time with nothing to say.
    let resume = |a: &mut Node| {
        let (reader, writer) = pipe();
        let tag = a.client.ask(RequestBody::ResumeStream { id: 1 }, Some(&reader));
        let first = a.client.progress(tag, |_| true);
        assert_eq!((first.state, first.ended), (TransferState::Running, None));
        assert!(first.accepted <= 1_000_000, "{}", first.accepted);
        (tag, writer, first.accepted as usize)
    };
    let (tag, writer, _) = resume(&mut a);
    drop(writer);
    a.client.progress(tag, |status| status.state == TransferState::NoWriter);
    let (_, writer, at) = resume(&mut a);
    let writing = write(writer, whole[at..].to_vec());
    finish(&mut a, &mut b, 1, (sent, writing), (heard, reading), &whole);
    // Of one that has ended it is told the end.
    let (reader, _writer) = pipe();
    let tag = a.client.ask(RequestBody::ResumeStream { id: 1 }, Some(&reader));
    a.client.progress(tag, |status| status.ended.is_some());
    a.stop();
    b.stop();
}

#[test]
fn a_writer_that_stays_away_or_writes_more_than_it_declared_ends_its_stream() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, None);
    let (mut a, b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let (sent, to) = patient(&mut a, 1, None, 1);
    drop(write(to, vec![7; 1000]).join().expect("written"));
    let failure = a.client.progress(sent, |status| status.ended.is_some()).ended.unwrap().unwrap_err();
    assert_eq!(failure.code, FailCode::SenderClosed);
    assert!(failure.reason.contains("after 1000 bytes, and has not come back"), "{failure}");
    let (sent, to) = patient(&mut a, 2, Some(999), 0);
    let _to = write(to, vec![7; 1000]).join().expect("written");
    let failure = a.client.progress(sent, |status| status.ended.is_some()).ended.unwrap().unwrap_err();
    assert!(failure.code == FailCode::Size && failure.reason.contains("999 bytes were declared"), "{failure}");
    a.stop();
    b.stop();
}

#[test]
fn two_hundred_streams_are_open_at_once_and_each_arrives() {
    const STREAMS: u128 = 200;
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, None);
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let mut open = Vec::new();
    for id in 0..STREAMS {
        let name = format!("stream-{id}");
        let (heard, from) = listen(&mut b, Some(&name), None);
        let (sent, to) = stream(&mut a, "b", &name, id);
        let whole = bytes(&name, 100_000);
        // None of them has ended before all of them have begun.
        open.push((id, (sent, write(to, whole.clone())), (heard, read(from)), whole));
    }
    for (_, _, (heard, _), _) in &open {
        b.client.progress(*heard, |status| status.state == TransferState::Running);
    }
    assert_eq!(a.client.status().transfers_running, STREAMS as u64);
    for (id, sent, heard, whole) in open {
        finish(&mut a, &mut b, id, sent, heard, &whole);
    }
    a.stop();
    b.stop();
}

#[test]
fn what_was_accepted_of_a_stream_outlives_its_sender_and_its_writer_goes_on_behind_it() {
    let realm = Realm::new();
    let (mut plan_a, plan_b) = plans(&realm, Some(80_000_000));
    // Little memory: most of it is read back from the disk.
    (plan_a.spool.stream_bytes, plan_a.spool.node_bytes) = (1 << 20, 64 << 20);
    let (mut a, mut b) = (Node::start(plan_a.clone(), "unused"), Node::start(plan_b, "unused"));
    let whole = bytes("kept", 12_000_000);
    let (heard, from) = listen(&mut b, None, None);
    let reading = read(from);
    // The link is down: nothing is confirmed, and what is accepted is on the disk.
    a.client.set_admin("line", false);
    let (reader, to) = pipe();
    let linger_ns = 1;
    let body = RequestBody::SendStream { order: TransferOrder::new("b", 9, "kept", 0), declared: None, linger_ns };
    let sent = a.client.ask(body, Some(&reader));
    drop(reader);
    let to = write(to, whole[..9_000_000].to_vec()).join().expect("there is room on the disk");
    a.client.progress(sent, |status| status.accepted == 9_000_000 && status.confirmed == 0);
    a.stop();
    drop(to);
    for start in 0..3 {
        a = Node::start(plan_a.clone(), "unused");
        let (reader, to) = pipe();
        let sent = a.client.ask(RequestBody::ResumeStream { id: 9 }, Some(&reader));
        drop(reader);
        let accepted = a.client.progress(sent, |_| true).accepted as usize;
        assert!(accepted >= 9_000_000, "{accepted}");
        let end = if start == 2 { whole.len() } else { accepted + 500_000 };
        let writing = write(to, whole[accepted..end].to_vec());
        if start == 2 {
            finish(&mut a, &mut b, 9, (sent, writing), (heard, reading), &whole);
            a.stop();
            assert!(!plan_a.state_dir.join("spool").read_dir().unwrap().any(|_| true), "nothing is left of it");
            break;
        }
        // It may have been confirmed before it was written; either is accepted.
        a.client.progress(sent, |status| status.accepted as usize == end);
        let to = writing.join().expect("written");
        a.stop();
        drop(to);
    }
    b.stop();
}
