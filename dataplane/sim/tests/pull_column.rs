//! The pull column: two engines, one link with a token bucket, two transfers and a command flow.
//!
//! Packets are pulled through QUIC only when the link has tokens for them, so the cap is exact, shares follow the
//! weights, and a command waits for no more than the frame that is being sent.

use std::time::Duration;

use florelay_engine::api::{Command, TransferId};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::time::Nanos;
use florelay_sim::link::LinkModel;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LINK: LinkId = LinkId(0);
const PEER: PeerId = PeerId(0);
const RATE_BPS: u64 = 10_000_000;
const DELAY: Duration = Duration::from_millis(20);
const SECOND: u64 = 1_000_000_000;
const HEAVY: TransferId = TransferId(1);
const LIGHT: TransferId = TransferId(2);
/// Enough for the whole measurement.
const ENDLESS: u64 = 40 << 20;

fn spec(loss: f64) -> LinkSpec {
    LinkSpec::new(Some(RATE_BPS), DELAY).both(|model| model.loss(loss))
}

/// Two transfers of these priorities and a command every 20 ms, from the second second to the twelfth.
fn measured(loss: f64, priorities: [u8; 2]) -> Sim {
    let mut net = Scenario::new(pair(spec(loss))).seed(1).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(5 * SECOND));
    net.send_file(A, PEER, HEAVY, ENDLESS, priorities[0]);
    net.send_file(A, PEER, LIGHT, ENDLESS, priorities[1]);
    net.send_messages(A, PEER, Nanos(2 * SECOND), Duration::from_millis(20), 200, 500);
    net.run_until(Nanos(2 * SECOND));
    let before = net.port(A).rule(LINK).sent_bytes();
    net.run_until(Nanos(12 * SECOND));
    let sent = net.port(A).rule(LINK).sent_bytes() - before;
    let capped = RATE_BPS / 8 * 10;
    let burst = u64::from(spec(0.0).rate_a.burst_bytes);
    assert!(sent <= capped + burst, "{sent} bytes in 10 s, the cap is {capped}");
    assert!(sent * 100 >= capped * 99, "{sent} bytes in 10 s, the cap of {capped} is not used");
    // of the transmit ring: no more than 2 frames or 1 ms of the link's rate
    let in_flight = net.port(A).counters(LINK).max_in_flight_bytes;
    assert!(in_flight <= u64::from(2 * spec(0.0).full_frame_bytes()).max(RATE_BPS / 8000), "{in_flight} in the ring");
    net
}

fn received(net: &Sim, id: TransferId) -> u64 {
    net.gateway(B).sinks[&id].received_between(Nanos(2 * SECOND), Nanos(12 * SECOND))
}

/// The link's delay and two full frames at its rate.
fn two_frames() -> Duration {
    DELAY + Duration::from_nanos(2 * u64::from(spec(0.0).full_frame_bytes()) * 8 * SECOND / RATE_BPS)
}

#[test]
fn without_loss_shares_are_exact_and_no_command_waits_for_more_than_two_frames() {
    // priority 29 weighs 30, priority 9 weighs 10
    let mut net = measured(0.0, [29, 9]);
    net.run_until(Nanos(13 * SECOND));
    let (heavy, light) = (received(&net, HEAVY) as f64, received(&net, LIGHT) as f64);
    assert!((heavy / light / 3.0 - 1.0).abs() < 0.02, "{heavy} against {light}");
    let inbox = &net.gateway(B).inbox;
    assert_eq!(inbox.latencies().len(), 500);
    assert!(inbox.percentile(1.0) <= Some(two_frames()), "{:?}", inbox.percentile(1.0));
}

#[test]
fn at_five_per_cent_loss_the_cap_is_used_and_commands_do_not_wait_for_retransmissions_of_bulk() {
    let net = measured(0.05, [29, 9]);
    let (heavy, light) = (received(&net, HEAVY) as f64, received(&net, LIGHT) as f64);
    assert!((heavy / light / 3.0 - 1.0).abs() < 0.1, "{heavy} against {light}");
    // the protocol's own share: headers, acknowledgements of commands, what was lost
    let goodput = (heavy + light) / (RATE_BPS as f64 / 8.0 * 10.0);
    assert!(goodput > 0.85, "goodput {goodput}");
    let inbox = &net.gateway(B).inbox;
    // a lost datagram waits for its reliable copy right behind it; both lost: a round trip or two
    assert!(inbox.latencies().len() >= 498, "{} commands arrived", inbox.latencies().len());
    assert!(inbox.percentile(0.9) <= Some(two_frames()), "{:?}", inbox.percentile(0.9));
    assert!(inbox.percentile(0.99) <= Some(two_frames() * 4), "{:?}", inbox.percentile(0.99));
}

#[test]
fn a_priority_of_64_and_above_is_strict() {
    let net = measured(0.0, [64, 63]);
    let light = net.gateway(B).sinks.get(&LIGHT).map_or(0, |_| received(&net, LIGHT));
    assert!(light * 200 < received(&net, HEAVY), "{light} bytes beside a strict transfer");
}

#[test]
fn a_new_rate_holds_at_once() {
    let mut net = measured(0.0, [29, 9]);
    let mut rate = spec(0.0).rate_a;
    for bps in [1_000_000, 50_000_000] {
        rate.rate_bps = Some(bps);
        net.set_rate(A, LINK, rate);
        let start = net.now();
        // windows grow with round trips: leave the connection two seconds
        net.run_until(start + Duration::from_secs(2));
        let before = net.port(A).rule(LINK).sent_bytes();
        net.run_until(start + Duration::from_secs(4));
        let used = (net.port(A).rule(LINK).sent_bytes() - before) as f64 / (bps as f64 / 8.0 * 2.0);
        assert!((0.97..1.01).contains(&used), "{used} of {bps} bit/s used");
    }
}

#[test]
fn no_more_than_one_packet_waits_inside_quic() {
    waits_inside_quic(&spec(0.0), false);
}

/// Acknowledgements then ride in the packets that carry data, which do not always have room for what was written.
#[test]
fn no_more_than_one_packet_waits_inside_quic_while_bytes_come_the_other_way() {
    waits_inside_quic(&spec(0.0), true);
}

/// What is sent again, because it seemed to be lost, goes before new bytes and not in their place.
#[test]
fn no_more_than_one_packet_waits_inside_quic_while_packets_overtake_each_other() {
    let late = |mut model: LinkModel| {
        model.reorder = 0.02;
        model.reorder_delay = DELAY / 2;
        model
    };
    waits_inside_quic(&spec(0.0).both(late), false);
}

fn waits_inside_quic(spec: &LinkSpec, both_ways: bool) {
    // a small allowance makes the engine say often how far it has written into QUIC: limit = written + allowance
    const ALLOWANCE: u32 = 8192;
    for stop_ms in [2000, 2345, 3333, 4001, 5678] {
        let mut topology = pair(spec.clone());
        topology.config_mut(0).limits.supply_bytes = ALLOWANCE;
        let mut net = Scenario::new(topology).seed(1).build();
        net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(5 * SECOND));
        net.send_file(A, PEER, HEAVY, ENDLESS, 10);
        if both_ways {
            net.send_file(B, PEER, LIGHT, ENDLESS, 10);
        }
        net.run_until(Nanos(stop_ms * 1_000_000));
        // from now on nothing leaves; what has left arrives
        net.command(A, Command::SetAdmin { link: LINK, up: false });
        let written = net.gateway(A).sources[&HEAVY].limit() - u64::from(ALLOWANCE);
        net.run_until(net.now() + Duration::from_secs(1));
        let arrived = net.gateway(B).sinks[&HEAVY].received_bytes();
        assert!(arrived > 500_000, "only {arrived} bytes arrived");
        assert!(written <= arrived + 1460, "{} bytes wait inside QUIC", written - arrived);
    }
}
