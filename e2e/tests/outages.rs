//! Links go down and up during one transfer, by command and by the wire itself, on the near hop and beyond the relay.
//! `FLORELAY_E2E_LONG=1` keeps wires down for 10 s instead of 2.

mod common;

use std::time::{Duration, Instant};

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Counters, Deadline, Job, LinkPlan, Rate, Status, root_or_skip};

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
