//! Daemons in this process, joined by UDP links over loopback: files, messages, outages, a stranger, nodes of two workers.
#![forbid(unsafe_code)]

mod nodes;

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;

use bytes::Bytes;
use florelay_dataplane::bare::{self, PIECE_BYTES, Work};
use florelay_dataplane::broker::LocalBroker;
use florelay_dataplane::daemon::{Control, Daemon, DaemonOptions};
use florelay_dataplane::ipc::{Answer, Refusal, Status};
use florelay_dataplane::plan::{
    AdapterPlan, NodePlan, PeerPlan, PollMode, Rung, TransitEndPlan, TransitPlan, WorkerPlan,
};

use nodes::{Node, Realm, assert_received, counter, link};

/// Two addresses whose ports were free a moment ago.
fn addresses() -> (SocketAddr, SocketAddr) {
    let free = || UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let (a, b) = (free(), free());
    (a.local_addr().expect("bound"), b.local_addr().expect("bound"))
}

/// Plans of `a` and `b`; b's certificate is for `identity`.
fn plans(realm: &Realm, identity: &str, rate_bps: Option<u64>) -> (NodePlan, NodePlan) {
    let (a, b) = addresses();
    (
        realm.plan("a", "a", "b", link(a, b, AdapterPlan::Udp, rate_bps)),
        realm.plan("b", identity, "a", link(b, a, AdapterPlan::Udp, rate_bps)),
    )
}

#[test]
fn a_file_arrives_intact_and_messages_are_acknowledged_both_ways() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, "b", None);
    let inbox = plan_b.inbox.clone();
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let (path, digest) = realm.file("image.tif", 20_000_000);
    let tag = a.client.send("b", &path, 1);
    a.client.message("b", b"point the antenna").expect("acknowledged");
    b.client.message("a", b"pointed").expect("acknowledged");
    let ended = a.client.progress(tag, |status| status.ended.is_some());
    assert_eq!(ended.ended, Some(Ok(digest)));
    assert_received(&inbox, "image.tif", &digest);
    println!("20 MB over loopback: {} Mbit/s", 160_000_000_000 / ended.age_ns.max(1));

    let status = a.client.status();
    let line = &status.links[0];
    assert_eq!((line.is_up(), line.rung, status.peers[0].state.as_str()), (true, Rung::Socket, "connected"));
    assert!(counter(&line.counters, "tx_bytes") > 20_000_000);
    let worker = &status.workers[0].counters;
    assert!(counter(worker, "tx_frames") * 1460 > 20_000_000);
    // Every frame of the pool is home once nothing moves.
    b.client.status_until("all heap frames free", |status| {
        let counters = &status.workers[0].counters;
        counter(counters, "heap_frames") > 0
            && counter(counters, "heap_frames") == counter(counters, "heap_frames_free")
    });
    a.stop();
    b.stop();
}

#[test]
fn the_bare_transport_of_the_benchmarks_moves_every_byte() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, "b", None);
    // Not a multiple of a piece.
    let size = 64 * PIECE_BYTES + 5;
    let (piece, (say_supplied, supplied)) = (Bytes::from(vec![7; PIECE_BYTES as usize]), channel());
    let source = Work::Source(
        size,
        Box::new(move |offset, end| {
            say_supplied.send((offset, end)).expect("the test listens");
            piece.slice(..(end - offset) as usize)
        }),
    );
    let start = |plan, work| {
        let (say, outcome) = channel();
        let (control, _nobody) = UnixStream::pair().expect("a socket pair");
        let broker = Box::new(LocalBroker::new("unused"));
        let options = DaemonOptions { plan, control: Control::Stream(control), broker };
        (bare::start(options, work, say).expect("it starts"), outcome)
    };
    let (sink, received) = start(plan_b, Work::Sink);
    let (source, sent) = start(plan_a, source);
    for outcome in [sent, received] {
        let moved = outcome.recv_timeout(nodes::PATIENCE).expect("an end").expect("a good one");
        assert_eq!((moved.bytes, moved.rung), (size, Rung::Socket));
    }
    drop((source, sink));
    let whole = (0..64).map(|piece| (piece * PIECE_BYTES, (piece + 1) * PIECE_BYTES));
    assert!(supplied.iter().eq(whole.chain([(64 * PIECE_BYTES, size)])));
}

#[test]
fn an_id_that_was_used_is_done_for_its_file_and_refused_for_another() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, "b", None);
    let inbox = plan_b.inbox.clone();
    let (mut a, b) = (Node::start(plan_a.clone(), "unused"), Node::start(plan_b, "unused"));
    let (path, digest) = realm.file("image.tif", 3_000_000);
    for _ in 0..2 {
        let tag = a.client.send("b", &path, 9);
        let ended = a.client.progress(tag, |status| status.ended.is_some());
        assert_eq!(ended.ended, Some(Ok(digest)), "the digest is the file's, whoever has read it");
    }
    assert_received(&inbox, "image.tif", &digest);
    assert!(!inbox.join("image.tif.1").exists(), "it was received twice");
    let (other, _) = realm.file("other.tif", 1_000);
    let tag = a.client.send("b", &other, 9);
    let answer = a.client.answer(tag);
    assert!(matches!(&answer, Answer::Refused { reason, .. } if reason.contains("was `image.tif` to b")), "{answer:?}");
    // A sender that was restarted knows it still; one that has lost its state does not, but the receiver does.
    a.stop();
    let mut a = Node::start(plan_a.clone(), "unused");
    let tag = a.client.send("b", &other, 9);
    let answer = a.client.answer(tag);
    assert!(matches!(&answer, Answer::Refused { reason, .. } if reason.contains("was `image.tif` to b")), "{answer:?}");
    a.stop();
    std::fs::remove_file(plan_a.state_dir.join("transfers.redb")).expect("it is there");
    let mut a = Node::start(plan_a, "unused");
    let tag = a.client.send("b", &other, 9);
    let ended = a.client.progress(tag, |status| status.ended.is_some());
    assert!(
        matches!(&ended.ended, Some(Err(failure)) if failure.reason.contains("which has arrived")),
        "{:?}",
        ended.ended
    );
    a.stop();
    b.stop();
}

#[test]
fn a_transfer_waits_while_its_link_is_down_and_goes_on() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, "b", Some(40_000_000));
    let inbox = plan_b.inbox.clone();
    let (mut a, b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    // At 40 Mbit/s this takes more than a second; progress is told every 100 ms.
    let (path, digest) = realm.file("pass.dat", 8_000_000);
    let tag = a.client.send("b", &path, 2);
    a.client.progress(tag, |status| status.confirmed > 0 && status.ended.is_none());
    a.client.set_admin("line", false);
    let status = a.client.status_until("link down", |status| status.links[0].state == "failed");
    assert_eq!(status.peers[0].state, "dark");
    let transfer = status.transfers.iter().find(|transfer| transfer.id == 2).expect("it is known");
    assert!(transfer.ended.is_none() && transfer.stalled, "{transfer:?}");
    // Its id means this file and no other as long as it runs.
    let (other, _) = realm.file("other.dat", 10);
    let refused = a.client.send("b", &other, 2);
    let answer = a.client.answer(refused);
    let Answer::Refused { refusal: Refusal::Duplicate, reason } = &answer else { panic!("{answer:?}") };
    assert!(reason.contains("is running: `pass.dat` to b"), "{reason}");
    let again = a.client.send("b", &path, 2);
    a.client.progress(again, |status| status.name == "pass.dat");
    a.client.set_admin("line", true);
    let ended = a.client.progress(tag, |status| status.ended.is_some());
    assert_eq!(ended.ended, Some(Ok(digest)));
    assert_received(&inbox, "pass.dat", &digest);
    a.stop();
    b.stop();
}

#[test]
fn a_peer_with_another_identity_is_refused() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, "mallory", None);
    let (mut a, b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let status = a
        .client
        .status_until("a refused handshake", |status| counter(&status.peers[0].counters, "handshake_failures") > 0);
    assert!(status.links[0].is_up(), "the link itself is not the matter");
    assert_ne!(status.peers[0].state, "connected");
    assert_eq!(counter(&status.peers[0].counters, "handshakes"), 0);
    a.stop();
    b.stop();
}

/// Start one node that is expected to refuse; why.
fn refusal(plan: NodePlan) -> String {
    let (control, _client) = UnixStream::pair().expect("a pair");
    let broker = Box::new(LocalBroker::new("unused"));
    let refused = Daemon::start(DaemonOptions { plan, control: Control::Stream(control), broker });
    refused.err().expect("it does not start").to_string()
}

#[test]
fn a_relay_of_two_workers_forwards_tells_of_outages_and_keeps_every_frame() {
    let realm = Realm::new();
    let ((a, r0), (r1, c)) = (addresses(), addresses());
    let rate = Some(40_000_000);
    let plan_a = realm.plan("a", "a", "c", link(a, r0, AdapterPlan::Udp, rate));
    let mut second = link(r1, c, AdapterPlan::Udp, rate);
    (second.name, second.worker) = ("far".into(), 1);
    let mut plan_r = realm.relay("r", [link(r0, a, AdapterPlan::Udp, rate), second]);
    plan_r.workers.push(plan_r.workers[0].clone());
    let plan_c = realm.plan("c", "c", "a", link(c, r1, AdapterPlan::Udp, rate));
    let inbox = plan_c.inbox.clone();
    let (mut a, mut r, mut c) =
        (Node::start(plan_a, "unused"), Node::start(plan_r, "unused"), Node::start(plan_c, "unused"));
    let (path, digest) = realm.file("pass.dat", 8_000_000);
    let tag = a.client.send("c", &path, 2);
    a.client.progress(tag, |status| status.confirmed > 0 && status.ended.is_none());
    // The far link belongs to worker 1; worker 0 must tell a, and later c's end of the near one must be told likewise.
    for (link, told) in [("far", &mut a), ("line", &mut c)] {
        r.client.set_admin(link, false);
        let dark = told.client.status_until("dark beyond the relay", |status| status.peers[0].state == "dark");
        assert!(dark.links[0].is_up(), "its own link is not the matter");
        r.client.set_admin(link, true);
        told.client.status_until("connected again", |status| status.peers[0].state == "connected");
    }
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "pass.dat", &digest);
    a.client.message("c", b"through both").expect("acknowledged");

    // The workers report one after the other: what crosses between is seen by one of them only.
    let is_home = |status: &Status| {
        let count = |worker: usize, name| counter(&status.workers[worker].counters, name);
        [(0, 1), (1, 0)].into_iter().all(|(from, to)| {
            count(from, "ring_transit_out") == count(to, "ring_taken")
                && count(to, "ring_waiting") == 0
                && count(to, "heap_frames") == count(to, "heap_frames_free")
        })
    };
    let status = r.client.status_until("rings empty, every buffer home", is_home);
    let worker = |index: usize, name| counter(&status.workers[index].counters, name);
    for from in [0, 1] {
        assert_eq!((worker(from, "ring_copied"), worker(from, "ring_received_out")), (0, 0), "buffers change places");
    }
    assert!(worker(0, "ring_transit_out") * 1460 > 8_000_000 && worker(1, "ring_transit_out") > 100);
    assert!(counter(&status.links[1].counters, "tx_bytes") > 8_000_000);
    a.stop();
    r.stop();
    c.stop();
}

#[test]
fn peers_of_two_workers_that_use_one_id_do_not_disturb_each_other() {
    let realm = Realm::new();
    let ((a, r0), (c, r1)) = (addresses(), addresses());
    let slow = Some(8_000_000);
    let plan_a = realm.plan("a", "a", "r", link(a, r0, AdapterPlan::Udp, slow));
    let plan_c = realm.plan("c", "c", "r", link(c, r1, AdapterPlan::Udp, slow));
    let mut plan_r = realm.plan("r", "r", "a", link(r0, a, AdapterPlan::Udp, slow));
    let mut second = link(r1, c, AdapterPlan::Udp, slow);
    (second.name, second.worker) = ("second".into(), 1);
    plan_r.links.push(second);
    plan_r.workers.push(plan_r.workers[0].clone());
    let to_c = PeerPlan {
        name: "c".into(),
        link: 1,
        spiffe_id: plan_r.peers[0].spiffe_id.replace("/a", "/c"),
        ..plan_r.peers[0].clone()
    };
    plan_r.peers.push(to_c);
    let (inbox_r, inbox_c) = (plan_r.inbox.clone(), plan_c.inbox.clone());
    let (mut a, mut r, mut c) =
        (Node::start(plan_a, "unused"), Node::start(plan_r, "unused"), Node::start(plan_c, "unused"));
    let refused = |node: &mut Node, tag| {
        let ended = node.client.progress(tag, |status| status.ended.is_some()).ended;
        assert!(matches!(&ended, Some(Err(failure)) if failure.reason.contains("this id is running")), "{ended:?}");
    };
    c.client.message("r", b"connected").expect("acknowledged");
    // Four seconds at 8 Mbit/s, and held in the middle: it still runs when the other one comes.
    let (first, digest) = realm.file("first.dat", 4_000_000);
    let (other, _) = realm.file("other.dat", 1_000);
    let tag = a.client.send("r", &first, 7);
    a.client.progress(tag, |status| status.confirmed > 0 && status.ended.is_none());
    a.client.set_admin("line", false);
    let same = c.client.send("r", &other, 7);
    refused(&mut c, same);
    a.client.set_admin("line", true);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox_r, "first.dat", &digest);
    // One that is sent to c, and offered by a.
    let (second, digest) = realm.file("second.dat", 4_000_000);
    let tag = r.client.send("c", &second, 8);
    r.client.progress(tag, |status| status.confirmed > 0 && status.ended.is_none());
    r.client.set_admin("second", false);
    let same = a.client.send("r", &other, 8);
    refused(&mut a, same);
    r.client.set_admin("second", true);
    assert_eq!(r.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox_c, "second.dat", &digest);
    assert!(!inbox_r.join("other.dat").exists());
    a.stop();
    r.stop();
    c.stop();
}

#[test]
fn a_row_to_a_link_that_is_not_there_is_refused() {
    let realm = Realm::new();
    let (mut plan, _) = plans(&realm, "b", None);
    let end = |link, in_label| TransitEndPlan { link, in_label, out_label: in_label };
    plan.transits.push(TransitPlan { a: end(0, 300), b: end(1, 301), weight: 1 });
    let reason = refusal(plan);
    assert!(reason.contains("no link number 1"), "{reason}");
}

#[test]
fn a_core_that_is_not_there_is_refused_and_nothing_keeps_the_port() {
    let realm = Realm::new();
    let (mut plan, _) = plans(&realm, "b", None);
    plan.workers[0].core = Some(70_000);
    let local = plan.links[0].local;
    let reason = refusal(plan);
    assert!(reason.contains("core 70000"), "{reason}");
    UdpSocket::bind(local).expect("the port is free again");
}

#[test]
fn two_workers_each_run_their_link_and_a_busy_one_never_sleeps() {
    let realm = Realm::new();
    let ((a1, b1), (a2, b2)) = (addresses(), addresses());
    let mut plan_a = realm.plan("a", "a", "b", link(a1, b1, AdapterPlan::Udp, None));
    let mut plan_b = realm.plan("b", "b", "a", link(b1, a1, AdapterPlan::Udp, None));
    for (plan, local, remote) in [(&mut plan_a, a2, b2), (&mut plan_b, b2, a2)] {
        let mut second = link(local, remote, AdapterPlan::Udp, None);
        (second.name, second.worker) = ("second".into(), 1);
        plan.links.push(second);
        plan.workers.push(WorkerPlan { core: None, poll: PollMode::Busy });
        plan.peers[0].link = 1;
    }
    let inbox = plan_b.inbox.clone();
    let (mut a, b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let (path, digest) = realm.file("second.dat", 1_000_000);
    let tag = a.client.send("b", &path, 8);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "second.dat", &digest);
    let status = a
        .client
        .status_until("both links up", |status| status.links.iter().all(florelay_dataplane::ipc::LinkStatus::is_up));
    assert!(counter(&status.links[1].counters, "tx_bytes") > 1_000_000);
    assert!(counter(&status.links[0].counters, "tx_bytes") < 1_000_000);
    let worker = |index: usize, name| counter(&status.workers[index].counters, name);
    assert!(worker(0, "sleeps") > 0 && worker(1, "sleeps") == 0);
    a.stop();
    b.stop();
}
