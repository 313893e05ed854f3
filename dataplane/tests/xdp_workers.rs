//! Nodes of two workers on AF_XDP (`netns/mod.rs`): queues dealt to the workers of an interface, frames that arrive at the
//! other's queue, a relay whose links belong to different workers, fewer queues than workers.
#![forbid(unsafe_code)]

mod netns;
mod nodes;
mod xdp;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use florelay_dataplane::broker::LocalBroker;
use florelay_dataplane::daemon::{Control, Daemon, DaemonOptions};
use florelay_dataplane::ipc::Status;
use florelay_dataplane::plan::{AdapterPlan, NodePlan, Rung};

use netns::{A, B, in_netns, may_run};
use nodes::{Node, Realm, assert_received, counter, link};
use xdp::{Pins, adapter, make_two_queues, net, two_queues};

const PORT: u16 = 6635;

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Two nodes with two links between `va` and `vb`, on ports `PORT` and the next; the peer is reached by the second link.
fn plans(realm: &Realm, fallback: bool) -> [NodePlan; 2] {
    [("a", "b", A, B, "va"), ("b", "a", B, A, "vb")].map(|(node, peer, own, theirs, interface)| {
        let line = |port| link(at(own, port), at(theirs, port), adapter(interface, Rung::DriverCopy, fallback), None);
        let mut plan = realm.plan(node, node, peer, line(PORT));
        let mut second = line(PORT + 1);
        second.name = "second".into();
        plan.links.push(second);
        plan.peers[0].link = 1;
        plan
    })
}

/// Give the node a second worker, and its links these owners.
fn owners(plan: &mut NodePlan, owners: [usize; 2]) {
    plan.workers.push(plan.workers[0].clone());
    for (link, owner) in plan.links.iter_mut().zip(owners) {
        link.worker = owner;
    }
}

/// Every UMEM frame and every buffer is accounted for, and nothing is held, in a ring or on its way.
fn is_at_rest(status: &Status) -> bool {
    status.workers.iter().all(|worker| {
        let frames = worker.frames;
        assert_eq!((frames.total, frames.leaked), (frames.free + frames.fill + frames.held + frames.tx, 0));
        let count = |name| counter(&worker.counters, name);
        (frames.held, frames.tx, count("ring_waiting")) == (0, 0, 0)
            && count("heap_frames") == count("heap_frames_free")
    })
}

fn ring(status: &Status, worker: usize, name: &str) -> u64 {
    counter(&status.workers[worker].counters, name)
}

#[test]
fn each_worker_has_its_queue_and_frames_at_the_other_ones_cross() {
    if !may_run("xdp: a queue for each worker") {
        return;
    }
    let (net, realm, pins) = (two_queues(), Realm::new(), (Pins::new(), Pins::new()));
    let [mut plan_a, mut plan_b] = plans(&realm, false);
    // veth receives on the queue of its peer's number: what a's worker 1 sends on queue 1 is for b's worker 0.
    owners(&mut plan_a, [0, 1]);
    owners(&mut plan_b, [1, 0]);
    let inbox = plan_b.inbox.clone();
    let mut a = in_netns(&net.a, || Node::start(plan_a, &pins.0.0));
    let mut b = in_netns(&net.b, || Node::start(plan_b, &pins.1.0));
    let (path, digest) = realm.file("queue.dat", 6_000_000);
    let tag = a.client.send("b", &path, 9);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "queue.dat", &digest);
    // The workers report one after the other, and liveness goes on.
    let status = b.client.status_until("all frames home", |status| {
        is_at_rest(status) && ring(status, 1, "ring_received_out") == ring(status, 0, "ring_taken")
    });
    assert_eq!(status.links.iter().map(|link| link.queues.clone()).collect::<Vec<_>>(), [[1], [0]]);
    for link in &status.links {
        assert_eq!((link.is_up(), link.rung), (true, Rung::DriverCopy));
    }
    // Received by worker 1, handled by worker 0: copied once, out of worker 1's UMEM.
    let crossed = ring(&status, 1, "ring_received_out");
    assert!(crossed * 1460 > 6_000_000, "{status:#?}");
    assert_eq!(ring(&status, 1, "ring_copied"), crossed);
    assert!(counter(&status.links[1].counters, "rx_bytes") > 6_000_000);
    // Frames that came before a queue's socket was there came through the kernel's, and may have been overtaken.
    let [reordered, slow] =
        ["rx_reordered", "adapter_from_kernel"].map(|name| counter(&status.links[1].counters, name));
    assert!(reordered <= slow && slow < 100, "{reordered} out of order, {slow} through the kernel");
    assert_eq!(ring(&status, 0, "xdp_unknown_remote") + ring(&status, 1, "xdp_unknown_remote"), 0);
    in_netns(&net.a, || a.stop());
    in_netns(&net.b, || b.stop());
}

#[test]
fn an_interface_that_is_made_anew_is_bound_anew_by_both_workers() {
    if !may_run("xdp: two workers' interface made anew") {
        return;
    }
    let (net, realm, pins) = (two_queues(), Realm::new(), (Pins::new(), Pins::new()));
    let [mut plan_a, mut plan_b] = plans(&realm, false);
    owners(&mut plan_a, [0, 1]);
    owners(&mut plan_b, [1, 0]);
    let inbox = plan_b.inbox.clone();
    let mut a = in_netns(&net.a, || Node::start(plan_a, &pins.0.0));
    let mut b = in_netns(&net.b, || Node::start(plan_b, &pins.1.0));
    a.client.message("b", b"before").expect("acknowledged");
    for round in 1..=2 {
        make_two_queues(&net);
        for node in [&mut a, &mut b] {
            node.client.status_until("bound anew by both", |status| {
                let up = status.links.iter().all(florelay_dataplane::ipc::LinkStatus::is_up);
                up && (0..2).all(|worker| ring(status, worker, "xdp_recycled") >= round)
            });
        }
    }
    let before = b.client.status();
    let (path, digest) = realm.file("after.tif", 3_000_000);
    let tag = a.client.send("b", &path, 5);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "after.tif", &digest);
    let status = b.client.status_until("all frames home", is_at_rest);
    // Through the rings of the queue, and the ring between the workers: not through the kernel.
    let grown = |name| ring(&status, 1, name) - ring(&before, 1, name);
    assert!(grown("ring_received_out") * 1460 > 3_000_000, "{status:#?}");
    assert_eq!(status.links.iter().map(|link| link.queues.clone()).collect::<Vec<_>>(), [[1], [0]]);
    in_netns(&net.a, || a.stop());
    in_netns(&net.b, || b.stop());
}

#[test]
fn a_relay_of_two_workers_forwards_from_af_xdp_and_back() {
    if !may_run("xdp: relay of two workers") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
    let (a, r) = (at(A, PORT), at(B, PORT));
    let rate = Some(40_000_000);
    let (r2, c) = (at("127.0.0.1", 7000), at("127.0.0.1", 7001));
    let plan_a = realm.plan("a", "a", "c", link(a, r, adapter("va", Rung::DriverCopy, false), rate));
    let mut inside = link(r2, c, AdapterPlan::Udp, rate);
    inside.name = "inside".into();
    let mut plan_r = realm.relay("r", [link(r, a, adapter("vb", Rung::DriverCopy, false), rate), inside]);
    owners(&mut plan_r, [0, 1]);
    let plan_c = realm.plan("c", "c", "a", link(c, r2, AdapterPlan::Udp, rate));
    let inbox = plan_c.inbox.clone();
    let mut a = in_netns(&net.a, || Node::start(plan_a, &pins.0.0));
    let mut r = in_netns(&net.b, || Node::start(plan_r, &pins.1.0));
    let mut c = in_netns(&net.b, || Node::start(plan_c, "unused"));
    let (path, digest) = realm.file("far.tif", 6_000_000);
    let tag = a.client.send("c", &path, 6);
    // The cable to worker 0 is pulled: c hears of it from worker 1, and then all goes on.
    a.client.progress(tag, |status| status.confirmed > 0 && status.ended.is_none());
    net.ip(&net.a, "link set va down");
    r.client.status_until("link down", |status| status.links[0].state == "failed");
    let dark = c.client.status_until("dark beyond the relay", |status| status.peers[0].state == "dark");
    assert!(dark.links[0].is_up());
    net.ip(&net.a, "link set va up");
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "far.tif", &digest);
    let status = r.client.status_until("all frames home", is_at_rest);
    let (there, back) = (ring(&status, 0, "ring_transit_out"), ring(&status, 1, "ring_transit_out"));
    assert!(there * 1460 > 6_000_000 && back > 10, "{status:#?}");
    assert_eq!(ring(&status, 0, "ring_copied"), there, "out of the UMEM, once each");
    assert_eq!(ring(&status, 1, "ring_copied"), 0, "buffers of a socket change places");
    in_netns(&net.a, || a.stop());
    in_netns(&net.b, || r.stop());
    c.stop();
}

#[test]
fn a_relays_marks_go_from_af_xdp_over_a_socket_to_the_sender() {
    if !may_run("xdp: ECN through a relay") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
    let (a, r) = (at(A, PORT), at(B, PORT));
    let (r2, c) = (at("127.0.0.1", 7000), at("127.0.0.1", 7001));
    // The second hop is slower than the sender believes: its queue stands above 20 ms, which are 25 kB.
    let (fast, slow) = (Some(40_000_000), Some(10_000_000));
    let plan_a = realm.plan("a", "a", "c", link(a, r, adapter("va", Rung::DriverCopy, false), fast));
    let mut inside = link(r2, c, AdapterPlan::Udp, slow);
    inside.name = "inside".into();
    let mut plan_r = realm.relay("r", [link(r, a, adapter("vb", Rung::DriverCopy, false), fast), inside]);
    owners(&mut plan_r, [0, 1]);
    let plan_c = realm.plan("c", "c", "a", link(c, r2, AdapterPlan::Udp, slow));
    let inbox = plan_c.inbox.clone();
    let mut a = in_netns(&net.a, || Node::start(plan_a, &pins.0.0));
    let mut r = in_netns(&net.b, || Node::start(plan_r, &pins.1.0));
    let mut c = in_netns(&net.b, || Node::start(plan_c, "unused"));
    let (path, digest) = realm.file("marked.tif", 3_000_000);
    let tag = a.client.send("c", &path, 6);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "marked.tif", &digest);
    // What a sent on AF_XDP was ECN-capable when r received it there, or r could not have marked it.
    r.client.status_until("frames marked", |status| counter(&status.links[1].counters, "tx_ecn_marked") > 0);
    c.client.status_until("marks seen", |status| counter(&status.links[0].counters, "rx_ecn_ce") > 0);
    a.client.status_until("marks answered", |status| counter(&status.peers[0].counters, "congestion_ecn") > 0);
    in_netns(&net.a, || a.stop());
    in_netns(&net.b, || r.stop());
    c.stop();
}

#[test]
fn with_fewer_queues_than_workers_one_sends_by_its_socket_or_is_refused_by_name() {
    if !may_run("xdp: fewer queues than workers") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
    let [plan_a, mut plan_b] = plans(&realm, true);
    owners(&mut plan_b, [0, 1]);
    let mut strict = plan_b.clone();
    for link in &mut strict.links {
        link.adapter = adapter("vb", Rung::DriverCopy, false);
    }
    let refused = in_netns(&net.b, || {
        let (control, _client) = UnixStream::pair().expect("a pair");
        let broker = Box::new(LocalBroker::new(&pins.1.0));
        Daemon::start(DaemonOptions { plan: strict, control: Control::Stream(control), broker }).err()
    });
    let reason = refused.expect("it does not start").to_string();
    assert!(reason.contains("second") && reason.contains("vb has fewer queues than the 2 workers"), "{reason}");

    let inbox = plan_b.inbox.clone();
    let mut a = in_netns(&net.a, || Node::start(plan_a, &pins.0.0));
    let mut b = in_netns(&net.b, || Node::start(plan_b, &pins.1.0));
    let (path, digest) = realm.file("socket.dat", 3_000_000);
    let tag = a.client.send("b", &path, 9);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "socket.dat", &digest);
    let status = b.client.status_until("all frames home", is_at_rest);
    let rungs: Vec<_> = status.links.iter().map(|link| (link.rung, link.queues.clone())).collect();
    assert_eq!(rungs, [(Rung::DriverCopy, vec![0]), (Rung::Socket, vec![])]);
    let why = status.links[1].rung_reasons.last().expect("a reason");
    assert!(why.1.contains("fewer queues"), "{why:?}");
    // Worker 0's queue received for worker 1.
    assert!(ring(&status, 0, "ring_received_out") * 1460 > 2_000_000, "{status:#?}");
    in_netns(&net.a, || a.stop());
    in_netns(&net.b, || b.stop());
}
