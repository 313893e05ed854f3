//! Two daemons in this process on AF_XDP, each in its network namespace, joined by a veth pair (`netns/mod.rs`): files
//! both ways, conservation of frames, the rung and its reasons, a neighbour that goes away and comes back.
#![forbid(unsafe_code)]

mod netns;
mod nodes;
mod xdp;

use std::net::SocketAddr;

use florelay_dataplane::ipc::{FrameAccount, Status};
use florelay_dataplane::plan::{AdapterPlan, NodePlan, Rung};

use netns::{A, B, Net, in_netns, may_run};
use nodes::{Node, Realm, assert_received, counter, link};
use xdp::{Pins, adapter, net, two_queues};

const PORT: u16 = 6635;

fn plans(realm: &Realm, highest: Rung, rate_bps: Option<u64>) -> (NodePlan, NodePlan) {
    let a = SocketAddr::new(A.parse().expect("an address"), PORT);
    let b = SocketAddr::new(B.parse().expect("an address"), PORT);
    (
        realm.plan("a", "a", "b", link(a, b, adapter("va", highest, true), rate_bps)),
        realm.plan("b", "b", "a", link(b, a, adapter("vb", highest, true), rate_bps)),
    )
}

fn start(net: &Net, plans: (NodePlan, NodePlan), pins: &(Pins, Pins)) -> (Node, Node) {
    let (a, b) = plans;
    (in_netns(&net.a, || Node::start(a, &pins.0.0)), in_netns(&net.b, || Node::start(b, &pins.1.0)))
}

/// Each in its namespace, where the end of the XDP program can be seen.
fn stop(net: &Net, a: Node, b: Node) {
    in_netns(&net.a, || a.stop());
    in_netns(&net.b, || b.stop());
}

fn shows_xdp(net: &Net, ns: &str, interface: &str) -> bool {
    net.ip(ns, &format!("-details link show dev {interface}")).contains("prog/xdp")
}

/// Every frame is somewhere, and nothing is held or on its way.
fn is_at_rest(status: &Status) -> bool {
    let FrameAccount { total, free, fill, held, tx, leaked } = status.workers[0].frames;
    assert_eq!((total, leaked), (free + fill + held + tx, 0), "frames are conserved");
    total > 0 && (held, tx) == (0, 0)
}

#[test]
fn files_cross_veth_intact_in_driver_mode_and_every_frame_comes_home() {
    if !may_run("xdp: driver copy") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
    let plans = plans(&realm, Rung::ZeroCopy, None);
    let inboxes = (plans.0.inbox.clone(), plans.1.inbox.clone());
    let (mut a, mut b) = start(&net, plans, &pins);
    let (there, there_digest) = realm.file("there.tif", 20_000_000);
    let (back, back_digest) = realm.file("back.tif", 3_000_000);
    let (tag, back_tag) = (a.client.send("b", &there, 1), b.client.send("a", &back, 2));
    a.client.message("b", b"point the antenna").expect("acknowledged");
    let ended = a.client.progress(tag, |status| status.ended.is_some());
    assert_eq!(ended.ended, Some(Ok(there_digest)));
    assert_eq!(b.client.progress(back_tag, |status| status.ended.is_some()).ended, Some(Ok(back_digest)));
    assert_received(&inboxes.1, "there.tif", &there_digest);
    assert_received(&inboxes.0, "back.tif", &back_digest);
    println!("20 MB over AF_XDP on veth, with 3 MB against it: {} Mbit/s", 160_000_000_000 / ended.age_ns.max(1));

    for node in [&mut a, &mut b] {
        let status = node.client.status_until("all frames home", is_at_rest);
        let line = &status.links[0];
        assert_eq!(line.rung, Rung::DriverCopy);
        let (rung, reason) = &line.rung_reasons[0];
        assert!(*rung == Rung::ZeroCopy && reason.contains("veth"), "{:?}", line.rung_reasons);
        assert_eq!(line.queues, [0]);
        let worker = &status.workers[0].counters;
        // What went through the rings, not through the held socket.
        let rings = counter(worker, "rx_frames") - counter(&line.counters, "adapter_from_kernel");
        assert!(rings * 1460 > 3_000_000, "{status:#?}");
        assert!(counter(worker, "kicks") > 0);
        for name in ["xdp_malformed", "xdp_bad_checksum", "xdp_unknown_remote", "xdp_recycled"] {
            assert_eq!(counter(worker, name), 0, "{name}");
        }
        assert_eq!(counter(&line.counters, "adapter_crossed_copies"), 0);
        println!("{:?} {worker:?}", status.workers[0].frames);
    }
    assert!(shows_xdp(&net, &net.a, "va") && shows_xdp(&net, &net.b, "vb"));
    stop(&net, a, b);
    assert!(!shows_xdp(&net, &net.a, "va") && !shows_xdp(&net, &net.b, "vb"), "nothing is left behind");
}

#[test]
fn a_transfer_survives_a_cable_that_is_pulled() {
    if !may_run("xdp: cable") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
    let plans = plans(&realm, Rung::DriverCopy, Some(40_000_000));
    let inbox = plans.1.inbox.clone();
    let (mut a, b) = start(&net, plans, &pins);
    let (path, digest) = realm.file("pass.dat", 6_000_000);
    let tag = a.client.send("b", &path, 3);
    a.client.progress(tag, |status| status.confirmed > 0 && status.ended.is_none());
    net.ip(&net.b, "link set vb down");
    let status = a.client.status_until("link down", |status| status.links[0].state == "failed");
    let reason = status.links[0].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("carrier"), "the reason is the kernel's: {reason:?}");
    net.ip(&net.b, "link set vb up");
    let ended = a.client.progress(tag, |status| status.ended.is_some());
    assert_eq!(ended.ended, Some(Ok(digest)));
    assert_received(&inbox, "pass.dat", &digest);
    a.client.status_until("all frames home", is_at_rest);
    stop(&net, a, b);
}

#[test]
fn an_interface_that_is_made_anew_is_bound_anew() {
    if !may_run("xdp: interface made anew") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
    let plans = plans(&realm, Rung::DriverCopy, None);
    let inbox = plans.1.inbox.clone();
    let (mut a, mut b) = start(&net, plans, &pins);
    a.client.message("b", b"before").expect("acknowledged");
    net.ip(&net.a, "link del va");
    a.client.status_until("link down", |status| status.links[0].state == "failed");
    netns::run("ip", &["link", "add", "va", "netns", &net.a, "type", "veth", "peer", "name", "vb", "netns", &net.b]);
    for (ns, interface, address) in [(&net.a, "va", A), (&net.b, "vb", B)] {
        net.run_in(ns, "ethtool", &["-K", interface, "tx", "off"]);
        net.ip(ns, &format!("addr add {address}/24 dev {interface}"));
        net.ip(ns, &format!("link set {interface} up"));
    }
    let (path, digest) = realm.file("after.tif", 2_000_000);
    let tag = a.client.send("b", &path, 5);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "after.tif", &digest);
    for node in [&mut a, &mut b] {
        let status = node.client.status_until("bound anew, all frames home", |status| {
            counter(&status.workers[0].counters, "xdp_recycled") > 0 && is_at_rest(status)
        });
        assert_eq!(status.links[0].queues, [0]);
    }
    assert!(shows_xdp(&net, &net.a, "va") && shows_xdp(&net, &net.b, "vb"));
    stop(&net, a, b);
    assert!(!shows_xdp(&net, &net.a, "va") && !shows_xdp(&net, &net.b, "vb"), "nothing is left behind");
}

#[test]
fn each_link_sends_on_its_queue_of_a_shared_interface() {
    if !may_run("xdp: two queues") {
        return;
    }
    let (net, realm, pins) = (two_queues(), Realm::new(), (Pins::new(), Pins::new()));
    let mut plans = plans(&realm, Rung::DriverCopy, None);
    for plan in [&mut plans.0, &mut plans.1] {
        let mut second = plan.links[0].clone();
        second.name = "second".into();
        second.local.set_port(PORT + 1);
        second.remote.set_port(PORT + 1);
        plan.links.push(second);
        plan.peers[0].link = 1;
    }
    let inbox = plans.1.inbox.clone();
    let (mut a, mut b) = start(&net, plans, &pins);
    let (path, digest) = realm.file("queue.dat", 3_000_000);
    let tag = a.client.send("b", &path, 9);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "queue.dat", &digest);
    let status = b.client.status_until("all frames home", is_at_rest);
    for link in &status.links {
        assert_eq!(link.queues, [0, 1]);
        assert!(link.is_up());
    }
    let rx = |index: usize| counter(&status.links[index].counters, "rx_bytes");
    assert!(rx(1) > 3_000_000 && rx(0) < 1_000_000, "{} {}", rx(0), rx(1));
    stop(&net, a, b);
}

#[test]
fn a_relay_forwards_between_af_xdp_and_a_socket() {
    if !may_run("xdp: relay") {
        return;
    }
    let (net, realm) = (net(), Realm::new());
    let (pins_a, pins_r) = (Pins::new(), Pins::new());
    let at = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
    let (a, r) = (at(A, PORT), at(B, PORT));
    let (r2, c) = (at("127.0.0.1", 7000), at("127.0.0.1", 7001));
    let xdp = |interface| adapter(interface, Rung::DriverCopy, false);
    let plan_a = realm.plan("a", "a", "c", link(a, r, xdp("va"), None));
    let mut second = link(r2, c, AdapterPlan::Udp, None);
    second.name = "inside".into();
    let plan_r = realm.relay("r", [link(r, a, xdp("vb"), None), second]);
    let plan_c = realm.plan("c", "c", "a", link(c, r2, AdapterPlan::Udp, None));
    let inbox = plan_c.inbox.clone();
    let mut a = in_netns(&net.a, || Node::start(plan_a, &pins_a.0));
    let mut r = in_netns(&net.b, || Node::start(plan_r, &pins_r.0));
    let c = in_netns(&net.b, || Node::start(plan_c, "unused"));
    let (path, digest) = realm.file("far.tif", 4_000_000);
    let tag = a.client.send("c", &path, 6);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "far.tif", &digest);
    let status = r.client.status_until("all frames home", is_at_rest);
    // Acknowledgements come from the socket and leave through the UMEM: one copy each, and it is counted.
    assert!(counter(&status.links[0].counters, "adapter_crossed_copies") > 10, "{status:#?}");
    assert_eq!(counter(&status.links[1].counters, "adapter_crossed_copies"), 0);
    in_netns(&net.a, || a.stop());
    in_netns(&net.b, || r.stop());
    c.stop();
}

#[test]
fn a_tagged_link_crosses_a_vlan() {
    if !may_run("xdp: VLAN") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
    for (ns, parent, address) in [(&net.a, "va", "10.78.0.1/24"), (&net.b, "vb", "10.78.0.2/24")] {
        if !net.try_in(ns, "ip", &["link", "add", "link", parent, "name", "tagged", "type", "vlan", "id", "7"]) {
            eprintln!("SKIPPED xdp: VLAN: this kernel has no 8021q");
            return;
        }
        net.run_in(ns, "ethtool", &["-K", parent, "rxvlan", "off", "txvlan", "off"]);
        net.ip(ns, &format!("addr add {address} dev tagged"));
        net.ip(ns, "link set tagged up");
    }
    let mut plans = plans(&realm, Rung::DriverCopy, None);
    for (plan, local, remote) in [(&mut plans.0, "10.78.0.1", "10.78.0.2"), (&mut plans.1, "10.78.0.2", "10.78.0.1")] {
        plan.links[0].local.set_ip(local.parse().expect("an address"));
        plan.links[0].remote.set_ip(remote.parse().expect("an address"));
    }
    let inbox = plans.1.inbox.clone();
    let (mut a, mut b) = start(&net, plans, &pins);
    let (path, digest) = realm.file("image.tif", 2_000_000);
    let tag = a.client.send("b", &path, 7);
    assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
    assert_received(&inbox, "image.tif", &digest);
    let status = b.client.status();
    let rings =
        counter(&status.workers[0].counters, "rx_frames") - counter(&status.links[0].counters, "adapter_from_kernel");
    assert!(rings * 1460 > 1_000_000, "through the rings: {status:#?}");
    stop(&net, a, b);
}

#[test]
fn generic_mode_and_the_socket_are_the_rungs_below_and_say_why() {
    if !may_run("xdp: lower rungs") {
        return;
    }
    for (highest, denied) in [(Rung::Generic, 2), (Rung::Socket, 3)] {
        let (net, realm, pins) = (net(), Realm::new(), (Pins::new(), Pins::new()));
        let plans = plans(&realm, highest, None);
        let inbox = plans.1.inbox.clone();
        let (mut a, b) = start(&net, plans, &pins);
        let (path, digest) = realm.file("image.tif", 2_000_000);
        let tag = a.client.send("b", &path, 4);
        assert_eq!(a.client.progress(tag, |status| status.ended.is_some()).ended, Some(Ok(digest)));
        assert_received(&inbox, "image.tif", &digest);
        let status = a.client.status();
        assert_eq!(status.links[0].rung, highest);
        assert_eq!(status.links[0].rung_reasons.len(), denied, "{:?}", status.links[0].rung_reasons);
        stop(&net, a, b);
    }
}

#[test]
fn without_a_rung_and_without_fallback_the_reasons_are_the_error() {
    use florelay_dataplane::broker::LocalBroker;
    use florelay_dataplane::daemon::{Control, Daemon, DaemonOptions};

    if !may_run("xdp: no fallback") {
        return;
    }
    let (net, realm, pins) = (net(), Realm::new(), Pins::new());
    let (mut plan, _) = plans(&realm, Rung::ZeroCopy, None);
    plan.links[0].adapter = adapter("nowhere", Rung::ZeroCopy, false);
    let refused = in_netns(&net.a, || {
        let (control, _client) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let broker = Box::new(LocalBroker::new(&pins.0));
        Daemon::start(DaemonOptions { plan, control: Control::Stream(control), broker }).err()
    });
    let reason = refused.expect("it does not start").to_string();
    assert!(reason.contains("line") && reason.contains("nowhere") && reason.contains("Generic"), "{reason}");
}
