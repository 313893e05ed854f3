//! Two daemons in this process on AF_XDP, each in its network namespace, joined by a veth pair (`netns/mod.rs`): files
//! both ways, conservation of frames, the rung and its reasons, a neighbour that goes away and comes back.
#![forbid(unsafe_code)]

mod netns;
mod nodes;

use std::net::SocketAddr;
use std::path::Path;

use florelay_dataplane::ipc::{FrameAccount, Status};
use florelay_dataplane::plan::{AdapterPlan, NodePlan, Rung};

use netns::{A, B, Net, in_netns, may_run, unique};
use nodes::{Node, Realm, assert_received, counter, link};

const PORT: u16 = 6635;

/// A node whose pins go away even if the test fails.
struct Pins(String);

impl Pins {
    fn new() -> Self {
        Self(unique("n"))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new("/sys/fs/bpf/florelay").join(&self.0));
    }
}

/// The namespaces, without the offload that leaves checksums unfinished on a veth.
fn net() -> Net {
    let net = Net::new();
    for (ns, interface) in [(&net.a, "va"), (&net.b, "vb")] {
        net.run_in(ns, "ethtool", &["-K", interface, "tx", "off"]);
    }
    net
}

fn adapter(interface: &str, highest_rung: Rung, fallback: bool) -> AdapterPlan {
    AdapterPlan::Xdp { interface: interface.into(), highest_rung, fallback }
}

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
    a.stop();
    b.stop();
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
    let status = a.client.status_until("link down", |status| status.links[0].state == "down");
    let reason = status.links[0].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("carrier"), "the reason is the kernel's: {reason:?}");
    net.ip(&net.b, "link set vb up");
    let ended = a.client.progress(tag, |status| status.ended.is_some());
    assert_eq!(ended.ended, Some(Ok(digest)));
    assert_received(&inbox, "pass.dat", &digest);
    a.client.status_until("all frames home", is_at_rest);
    a.stop();
    b.stop();
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
        a.stop();
        b.stop();
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
