//! The harness on real namespaces, without the program: a wrong ruler would make every later measurement wrong.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use florelay_dataplane::attach::Mode;
use florelay_dataplane::broker::{Broker as _, LocalBroker};
use florelay_e2e::{Counters, Deadline, End, Namespace, Sampler, VethPair, root_or_skip};

const FRAMES: u64 = 200;
const PAYLOAD_BYTES: u64 = 100;
/// Ethernet 14, IPv4 20, UDP 8.
const FRAME_BYTES: u64 = 14 + 20 + 8 + PAYLOAD_BYTES;

fn wire(a: &Namespace, b: &Namespace) -> VethPair {
    let a = End { namespace: a, interface: "t0", address: Ipv4Addr::new(10, 78, 0, 1) };
    let b = End { namespace: b, interface: "t1", address: Ipv4Addr::new(10, 78, 0, 2) };
    VethPair::connect([a, b], 1, 1500).unwrap()
}

/// Sends `FRAMES` datagrams from `a` to `b` and waits until all were received.
fn blast(a: &Namespace, b: &Namespace) {
    let receiver = b.enter(|| Ok(UdpSocket::bind("10.78.0.2:9000")?)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let sender = a.enter(|| Ok(UdpSocket::bind("10.78.0.1:9000")?)).unwrap();
    let payload = vec![7; usize::try_from(PAYLOAD_BYTES).unwrap()];
    let mut buffer = [0; 2048];
    for _ in 0..FRAMES {
        sender.send_to(&payload, "10.78.0.2:9000").unwrap();
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(length, payload.len());
    }
}

#[test]
fn layer_2_bytes_are_counted_exactly_with_and_without_xdp() {
    if !root_or_skip("layer_2_bytes_are_counted_exactly_with_and_without_xdp") {
        return;
    }
    let (a, b) = (Namespace::create("count-a").unwrap(), Namespace::create("count-b").unwrap());
    let wire = wire(&a, &b);
    let [from, to] = wire.interfaces();
    // The first exchange resolves addresses, so that no ARP is counted below.
    blast(&a, &b);

    // The node's own program, which steers nothing here and passes everything.
    let mut broker = LocalBroker::new("harness");
    for with_xdp in [false, true] {
        if with_xdp {
            b.enter(|| broker.attach(to, Mode::Native).map_err(anyhow::Error::msg)).unwrap();
        }
        let before = Counters::read(&a, from).unwrap();
        let sampler = Sampler::start((&a, from), (&b, to)).unwrap();
        blast(&a, &b);
        let samples = sampler.finish().unwrap();
        let after = Counters::read(&a, from).unwrap();
        assert_eq!(after.tx_packets - before.tx_packets, FRAMES, "other traffic on the wire, xdp: {with_xdp}");
        assert_eq!(samples.last().unwrap().bytes, FRAMES * FRAME_BYTES, "xdp: {with_xdp}");
    }
    b.enter(|| broker.detach(to).map_err(anyhow::Error::msg)).unwrap();
}

#[test]
fn a_namespace_goes_with_its_owner_and_commands_run_inside() {
    if !root_or_skip("a_namespace_goes_with_its_owner_and_commands_run_inside") {
        return;
    }
    let (a, b) = (Namespace::create("own-a").unwrap(), Namespace::create("own-b").unwrap());
    let _wire = wire(&a, &b);
    let shown = a.command("cat").arg("/proc/self/net/dev").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("t0:") && !shown.contains("t1:"), "{shown}");
    let path = a.path();
    assert!(path.exists());
    drop(a);
    assert!(!path.exists());
    // The other end goes with the namespace, which the kernel takes down behind our back.
    let gone = || Ok(Counters::read(&b, "t1").is_err().then_some(()));
    Deadline::after(Duration::from_secs(10)).wait("the peer to go", gone).unwrap();
}

#[test]
fn namespaces_of_the_dead_are_swept_and_those_of_the_living_are_not() {
    if !root_or_skip("namespaces_of_the_dead_are_swept_and_those_of_the_living_are_not") {
        return;
    }
    let living = Namespace::create("alive").unwrap();
    let mut child = Command::new("true").spawn().unwrap();
    let dead_pid = child.id();
    child.wait().unwrap();
    let dead = living.name().replace(&std::process::id().to_string(), &dead_pid.to_string());
    assert!(Command::new("ip").args(["netns", "add", &dead]).status().unwrap().success());
    Namespace::sweep_stale();
    assert!(!Path::new("/run/netns").join(&dead).exists());
    assert!(living.path().exists());
}
