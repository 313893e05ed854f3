//! Links go down and up during one transfer, by command and by the wire itself, on the near hop and beyond the relay.
//! `FLORELAY_E2E_LONG=1` keeps wires down for 10 s instead of 2.

mod common;

use std::time::{Duration, Instant};

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Counters, Deadline, End, Job, LinkPlan, Namespace, Rate, Status, VethPair, root_or_skip};

const RATE_BPS: u64 = 40_000_000;
const BYTES: u64 = 30_000_000;
/// Sent between two outages.
const STEP_BYTES: u64 = 2_000_000;
/// Payload bytes of a transfer in a frame of 1514 bytes: QUIC packet 1460 less short header, tag and stream header; less
/// what acknowledgements, commands and liveness take of the wire. Low, because it only separates from sending twice.
const PAYLOAD_BYTES: u64 = 1380;
const FRAME_BYTES: u64 = 1514;

/// Why a peer is dark, `None` if it is not.
fn dark(status: &Status) -> Option<String> {
    let peer = &status.peers()[0];
    (peer["state"] == "dark").then(|| peer["reason"].as_str().unwrap_or_default().to_owned())
}

fn cwnd(status: &Status) -> u64 {
    status.peers()[0]["counters"]["quic_cwnd_bytes"].as_u64().unwrap()
}

#[test]
fn a_transfer_outlives_outages_on_either_hop() {
    if !root_or_skip("a_transfer_outlives_outages_on_either_hop") {
        return;
    }
    let long = std::env::var("FLORELAY_E2E_LONG").is_ok_and(|value| value == "1");
    let wire_down = Duration::from_secs(if long { 10 } else { 2 });
    let mut line = Line::af_xdp(&LinkPlan { rate: Rate::Bps(RATE_BPS), ..LinkPlan::default() });
    let file = line.file("image.raw", BYTES);
    let sent_before = sent_bytes(&line);
    let mut send = line.send(&file);
    let mut window = 0;
    let mut outages = 0;

    // By command: at the sender, then at the relay's far link.
    for (node, link) in [(A, "to-relay"), (RELAY, "to-b")] {
        let config = line.config(node).to_path_buf();
        let down = || line.program.set_link(&config, link, false).unwrap();
        let up = || line.program.set_link(&config, link, true).unwrap();
        outage(&line, &mut send, &format!("link down {link}"), Duration::from_millis(500), down, up);
        outages += 1;
        window = window.max(cwnd(&line.status(A)));
    }
    // The wire itself: between sender and relay, then beyond the relay.
    for (node, interface) in [(A, "w0"), (RELAY, "w2")] {
        let set = |state: &str| {
            let namespace = line.topology.stations[node].namespace.as_ref().unwrap();
            let done = namespace.ip().args(["link", "set", interface, state]).status().unwrap();
            assert!(done.success());
        };
        outage(&line, &mut send, &format!("{interface} down"), wire_down, || set("down"), || set("up"));
        outages += 1;
        window = window.max(cwnd(&line.status(A)));
    }
    line.connected();
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));

    // Besides the file itself, each outage may cost what was in flight: a window, and as much in the relay.
    let sent = sent_bytes(&line) - sent_before;
    let once = BYTES / PAYLOAD_BYTES * FRAME_BYTES;
    println!("{sent} bytes at layer 2 for a file of {BYTES}; window {window}");
    assert!(sent <= once + outages * 2 * window, "{sent} bytes sent, {once} for the file once, window {window}");
    line.assert_no_frame_leaked();
    line.stop();
}

/// An address goes and comes back, and the neighbour's MAC changes, during one transfer.
#[test]
fn a_transfer_follows_addresses_that_change() {
    if !root_or_skip("a_transfer_follows_addresses_that_change") {
        return;
    }
    let line = Line::af_xdp(&LinkPlan { rate: Rate::Bps(RATE_BPS), ..LinkPlan::default() });
    let file = line.file("image.raw", BYTES);
    let mut send = line.send(&file);

    // The relay's own address on the far hop.
    let address = ip(&line, RELAY, &["-4", "-o", "address", "show", "dev", "w2"]);
    let address = address.split_whitespace().skip_while(|word| *word != "inet").nth(1).unwrap().to_owned();
    let change = |what: &str| drop(ip(&line, RELAY, &["address", what, &address, "dev", "w2"]));
    outage(&line, &mut send, "address of w2", Duration::from_millis(500), || change("del"), || change("add"));

    // The far station gets another network card, and the relay's kernel forgets the old one.
    let mac = "02:00:5e:10:00:01";
    let so_far = send.last_json()["confirmed"].as_u64().unwrap_or(0);
    ip(&line, B, &["link", "set", "dev", "w3", "address", mac]);
    ip(&line, RELAY, &["neighbour", "flush", "dev", "w2"]);
    line.confirmed(&mut send, so_far + STEP_BYTES, Deadline::after(PATIENCE));
    let known = || ip(&line, RELAY, &["neighbour", "show", "dev", "w2"]).contains(mac);
    Deadline::after(common::SOON).wait("the relay to know the new MAC", || Ok(known().then_some(()))).unwrap();
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));
    line.assert_no_frame_leaked();
    line.stop();
}

/// The far hop leads through a router of two addresses, each with its own MAC, and the relay's route changes from one to
/// the other, goes, and comes back, during one transfer.
#[test]
fn a_transfer_follows_its_route_to_another_gateway() {
    if !root_or_skip("a_transfer_follows_its_route_to_another_gateway") {
        return;
    }
    let plan = LinkPlan { rate: Rate::Bps(RATE_BPS), ..LinkPlan::default() };
    let mut line = Line::prepare(true, &plan);
    let router = router_on_the_far_hop(&line);
    ip(&line, RELAY, &["route", "add", FAR, "via", GATEWAYS[0].1, "dev", "w2"]);
    line.nodes = line.topology.start_all(common::CONNECT_TIME).unwrap();
    let frames = |gateway: usize| Counters::read(&router, GATEWAYS[gateway].0).unwrap().rx_packets;
    let file = line.file("image.raw", BYTES);
    let mut send = line.send(&file);
    line.confirmed(&mut send, STEP_BYTES, Deadline::after(PATIENCE));
    // What the bridge floods before it has learnt where a station is.
    let strays = frames(1);
    assert!(strays < STEP_BYTES / FRAME_BYTES / 10, "{strays} frames over the second gateway, to which no route leads");

    let route = |what: &str, gateway: &str| {
        drop(ip(&line, RELAY, &["route", what, FAR, "via", gateway, "dev", "w2"]));
    };
    route("replace", GATEWAYS[1].1);
    let step = STEP_BYTES / FRAME_BYTES;
    let over_it = || Ok((frames(1) >= strays + step).then_some(()));
    Deadline::after(common::SOON).wait("frames over the second gateway", over_it).unwrap();
    let first = frames(0);
    let so_far = send.last_json()["confirmed"].as_u64().unwrap_or(0);
    line.confirmed(&mut send, so_far + STEP_BYTES, Deadline::after(PATIENCE));
    let first = frames(0) - first;
    println!("{} frames over the second gateway, {first} more over the first", frames(1));
    assert!(first < step / 10, "{first} frames over the first gateway still");

    // Without the route the far station seems to be on the wire, and does not answer there.
    let (gone, back) = (|| route("del", GATEWAYS[1].1), || route("add", GATEWAYS[0].1));
    outage(&line, &mut send, "the route", Duration::from_millis(500), gone, back);
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));
    line.assert_no_frame_leaked();
    line.stop();
}

/// The far station's address, as [`Topology`](florelay_e2e::Topology) gives it.
const FAR: &str = "10.77.2.2";
/// The router's interfaces towards the relay, each with its address.
const GATEWAYS: [(&str, &str); 2] = [("bridge", "10.77.2.253"), ("second", "10.77.2.252")];

/// Puts a router between relay and station-b: on the relay's side a bridge with an address of its own, and behind it a
/// second interface with another address and MAC. Routes to it at station-b; those of the relay are the test's.
fn router_on_the_far_hop(line: &Line) -> Namespace {
    let router = Namespace::create("router").unwrap();
    // Each interface answers for its own address alone, and takes what the other one would be the way back for.
    let settings = "for f in arp_ignore:1 arp_announce:2 rp_filter:0 forwarding:1; do \
                    for c in all default; do echo ${f#*:} > /proc/sys/net/ipv4/conf/$c/${f%:*}; done; done";
    assert!(router.command("sh").args(["-c", settings]).status().unwrap().success());
    let station = |node: usize| line.topology.stations[node].namespace.as_ref().unwrap();
    ip(line, RELAY, &["link", "del", "w2"]);
    let wire = |node: usize, [own, far]: [&'static str; 2], [address, gateway]: [&str; 2]| {
        let end = |namespace, interface, address: &str| End { namespace, interface, address: address.parse().unwrap() };
        let ends = [end(station(node), own, address), end(&router, far, gateway)];
        VethPair::connect(ends, 1, 1500).unwrap();
    };
    let near = "10.77.2.1";
    wire(RELAY, ["w2", "to-relay"], [near, "10.77.2.251"]);
    wire(B, ["w3", "to-b"], [FAR, "10.77.2.254"]);
    let [(bridge, first), (second, other)] = GATEWAYS;
    for command in [
        "address flush dev to-relay".to_owned(),
        format!("link add {bridge} type bridge"),
        format!("link set {bridge} addrgenmode none"),
        format!("link add port type veth peer name {second}"),
        "link set port addrgenmode none".to_owned(),
        format!("link set {second} addrgenmode none"),
        format!("link set to-relay master {bridge}"),
        format!("link set port master {bridge}"),
        format!("link set {bridge} up"),
        "link set port up".to_owned(),
        format!("link set {second} up"),
        format!("address add {first}/32 dev {bridge}"),
        format!("address add {other}/32 dev {second}"),
        format!("route add {near}/32 dev {bridge}"),
        format!("route add {FAR}/32 dev to-b"),
    ] {
        let done = router.ip().args(command.split(' ')).output().unwrap();
        assert!(done.status.success(), "ip {command}: {}", String::from_utf8_lossy(&done.stderr));
    }
    ip(line, B, &["route", "add", near, "via", "10.77.2.254", "dev", "w3"]);
    router
}

fn ip(line: &Line, node: usize, arguments: &[&str]) -> String {
    let namespace = line.topology.stations[node].namespace.as_ref().unwrap();
    let done = namespace.ip().args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Takes something down in the middle of the transfer, sees both ends say so, brings it up, and sees bytes flow.
fn outage(line: &Line, send: &mut Job, what: &str, stays: Duration, down: impl Fn(), up: impl Fn()) {
    let so_far = send.last_json()["confirmed"].as_u64().unwrap_or(0);
    line.confirmed(send, so_far + STEP_BYTES, Deadline::after(PATIENCE));
    let began = Instant::now();
    down();
    for node in [A, B] {
        let status = line.until(node, "the peer to be dark", |status| dark(status).is_some());
        let reason = dark(&status).unwrap();
        println!("{what}: node {node} dark after at most {} ms: {reason}", began.elapsed().as_millis());
        assert!(!reason.is_empty());
    }
    // The outage itself, not a wait for something.
    std::thread::sleep(stays.saturating_sub(began.elapsed()));
    assert!(send.ended().unwrap().is_none(), "the transfer ended before the outage did: {}", send.last_json());
    let stood = send.last_json()["confirmed"].as_u64().unwrap_or(0);
    up();
    let began = Instant::now();
    line.confirmed(send, stood + 1, Deadline::after(common::SOON));
    println!("{what}: up again, next confirmed byte seen after {} ms", began.elapsed().as_millis());
}

/// What station-a has sent at layer 2, but for Ethernet headers that veth leaves out.
fn sent_bytes(line: &Line) -> u64 {
    Counters::read(line.topology.stations[A].namespace.as_ref().unwrap(), "w0").unwrap().tx_bytes
}
