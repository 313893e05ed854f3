//! Frames that nobody should send, from the neighbour's own address: valid ones with every bit of their headers flipped, cut
//! at every length, random ones, wrong checksums, a foreign port. Dropped and counted by reason; a transfer runs meanwhile.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, LinkPlan, Process, Rate, root_or_skip};
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::eth::{ETH_BYTES, MacAddr};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_header};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::outer::{NextHop, OuterTemplate};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

/// station-a's and the relay's ends of the first link.
const FROM: &str = "10.77.1.1:6635";
const TO: &str = "10.77.1.2:6635";
/// Labels of station-a's path at the relay.
const FORWARD: u32 = 100;
const BACKWARD: u32 = 101;
const BODY_BYTES: usize = 60;
const RANDOM_FRAMES: usize = 1000;
/// Frames between two looks at the relay, so that no ring on the way runs over: veth queues 256.
const BURST: usize = 64;

/// Puts whole IP packets on station-a's side of the wire.
struct Injector {
    socket: OwnedFd,
    template: OuterTemplate,
    to: SocketAddr,
}

impl Injector {
    fn new(line: &Line, from: &str) -> Self {
        let namespace = line.topology.stations[A].namespace.as_ref().unwrap();
        let raw = || Ok(socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?);
        let (src, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), TO.parse().unwrap());
        // The kernel writes the Ethernet header itself.
        let hop = NextHop { src_mac: MacAddr([0; 6]), dst_mac: MacAddr([0; 6]), vlan: None, src, dst: to };
        Self { socket: namespace.enter(raw).unwrap(), template: OuterTemplate::new(&hop).unwrap(), to }
    }

    /// A link payload in a datagram with a valid checksum.
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0; self.template.header_len()];
        self.template.write(&mut header, payload, 0, 1).unwrap();
        [&header[ETH_BYTES..], payload].concat()
    }

    fn send(&self, packet: &[u8]) {
        sendto(&self.socket, packet, SendFlags::empty(), &self.to).unwrap();
    }
}

/// A frame as station-a would send it, with a body that is no QUIC packet of any connection.
fn valid(ttl: u8) -> Vec<u8> {
    let lse = |label, ttl| Lse { label: Label::new(label).unwrap(), tc: Tc::BULK, bottom: false, ttl };
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 7 };
    let mut frame = vec![0x40; PATH_HEADER_BYTES + BODY_BYTES];
    write_path_header(&mut frame, lse(FORWARD, ttl), lse(BACKWARD, ttl), cw).unwrap();
    frame
}

/// Everything that is wrong in the link payload alone.
fn payloads() -> Vec<Vec<u8>> {
    let frame = valid(64);
    // A reserved label in front: 0, IPv4 explicit null.
    let mut reserved = valid(64);
    reserved[..3].fill(0);
    let mut all = vec![valid(0), valid(1), reserved];
    for bit in 0..PATH_HEADER_BYTES * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        all.push(flipped);
    }
    // An empty datagram is no link frame: the kernel's.
    all.extend((1..frame.len()).map(|length| frame[..length].to_vec()));
    // xorshift64 (Marsaglia 2003), the same every time.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..RANDOM_FRAMES {
        let length = usize::try_from(1 + random() % 200).unwrap();
        all.push((0..length).map(|_| random().to_le_bytes()[0]).collect());
    }
    all
}

/// All drop counters: of a node's links, and of the XDP programs in front of them.
fn drops(line: &Line, node: usize) -> BTreeMap<String, u64> {
    let status = line.status(node);
    let program = status.workers()[0]["counters"].as_object().unwrap();
    let program = program.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
    status.drops().into_iter().chain(program.filter(|(name, _)| name.starts_with("xdp_"))).collect()
}

/// What has been added to each counter.
fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = after.iter().map(|(name, count)| (name.clone(), count - before.get(name).copied().unwrap_or(0)));
    grown.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn malformed_frames_are_counted_and_hurt_nobody() {
    if !root_or_skip("malformed_frames_are_counted_and_hurt_nobody") {
        return;
    }
    let line = Line::af_xdp(&LinkPlan { rate: Rate::Bps(40_000_000), ..LinkPlan::default() });
    let all = |line: &Line| -> Vec<Process> { line.nodes.iter().flat_map(florelay_e2e::Node::processes).collect() };
    let processes = all(&line);
    let file = line.file("image.raw", 15_000_000);
    let mut send = line.send(&file);
    line.confirmed(&mut send, 500_000, Deadline::after(PATIENCE));
    let before = [RELAY, B].map(|node| drops(&line, node));

    let neighbour = Injector::new(&line, FROM);
    let payloads = payloads();
    for burst in payloads.chunks(BURST) {
        burst.iter().for_each(|payload| neighbour.send(&neighbour.packet(payload)));
        line.status(RELAY);
    }
    // Every byte of a valid link payload changed, the checksum not: the XDP program sees what is wrong in the headers, the
    // worker the checksum of the rest.
    let packet = neighbour.packet(&valid(64));
    let body = packet.len() - BODY_BYTES;
    for at in body..packet.len() {
        let mut damaged = packet.clone();
        damaged[at] ^= 0x55;
        neighbour.send(&damaged);
    }
    line.status(RELAY);
    let stranger = Injector::new(&line, "10.77.1.1:7777");
    for _ in 0..BURST {
        stranger.send(&stranger.packet(&valid(64)));
    }
    assert!(send.ended().unwrap().is_none(), "the transfer ended before the injection did");
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));

    let [relay, station] = [growth(&before[0], &drops(&line, RELAY)), growth(&before[1], &drops(&line, B))];
    println!("relay: {relay:?}\nstation-b: {station:?}");
    let count = |counters: &BTreeMap<String, u64>, name: &str| counters.get(name).copied().unwrap_or(0);
    let reasons = [
        "xdp_malformed_too_short",
        "xdp_malformed_reserved_label",
        "xdp_malformed_stack_depth",
        "xdp_malformed_bad_nibble",
        "xdp_malformed_unknown_payload",
        "to-a: unknown_label",
        "to-a: backward_mismatch",
        "to-a: ttl_zero",
        "to-a: ttl_expired",
    ];
    for reason in reasons {
        assert!(count(&relay, reason) > 0, "{reason} is not counted");
    }
    let sum = |counters: &BTreeMap<String, u64>, of: &str| {
        counters.iter().filter(|(name, _)| name.starts_with(of)).map(|(_, count)| count).sum::<u64>()
    };
    let program = count(&relay, "xdp_drop_malformed");
    assert_eq!(sum(&relay, "xdp_malformed_"), program, "the reasons add up");
    let engine = sum(&relay, "to-a: ");
    // Some flips leave a valid frame (TC, TTL, flags, sequence, the longer truncations): those go on to station-b.
    let passed = sum(&station, "to-relay: ");
    let sent = u64::try_from(payloads.len()).unwrap();
    println!(
        "{sent} frames with a valid checksum: {program} dropped by the relay's program, {engine} by its engine, {passed} by station-b"
    );
    assert!(passed > 0);
    assert_eq!(program + engine + passed, sent, "every frame has a reason");
    assert_eq!(count(&relay, "xdp_bad_checksum"), u64::try_from(BODY_BYTES).unwrap());
    assert_eq!(count(&relay, "xdp_unknown_remote"), u64::try_from(BURST).unwrap());
    assert_eq!(all(&line), processes, "a process died");
    line.assert_no_frame_leaked();
    line.stop();
}
