//! A dark far hop: A – relay – B with 650 ms of round trip, and the hop beyond the relay goes dark.
//!
//! ```text
//!   a ── 160 ms ── relay-1 ── 165 ms, dark ── b
//! ```
//!
//! Both ends are told, clocks stop and start, and the first new byte arrives within two round trips of link-up.

use std::time::Duration;

use florelay_engine::api::{LinkState, PeerState, TransferId};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::time::Nanos;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::topo::{LinkSpec, line};

const A: NodeId = NodeId(0);
const RELAY: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(9);
const SECOND: u64 = 1_000_000_000;
const NEAR: Duration = Duration::from_millis(160);
const FAR: Duration = Duration::from_millis(165);
const ROUND_TRIP: Duration = Duration::from_millis(650);
const DARK_AT: Nanos = Nanos(20 * SECOND);
const SIZE: u64 = 60 << 20;

/// A transfer at 10 Mbit/s whose far hop is dark for `dark`, run for 60 s beyond link-up.
fn interrupted(dark: Duration) -> (Sim, Nanos) {
    let up = DARK_AT + dark;
    let rate = Some(10_000_000);
    let links = [LinkSpec::new(rate, NEAR), LinkSpec::new(rate, FAR).dark(DARK_AT, up)];
    let mut net = Scenario::new(line(&links)).seed(2).write_delay(Duration::from_millis(1)).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10 * SECOND));
    net.send_file(A, PEER, FILE, SIZE, 10);
    net.run_until(DARK_AT);
    assert!(net.gateway(B).sinks[&FILE].received_bytes() > 1 << 20, "the transfer never got going");
    (net, up)
}

fn told_dark(net: &Sim, id: NodeId) -> Option<Nanos> {
    let since = |(at, _, state): &&(Nanos, PeerId, PeerState)| *at >= DARK_AT && matches!(state, PeerState::Dark(_));
    net.gateway(id).peers.iter().find(since).map(|(at, ..)| *at)
}

fn check(dark: Duration) {
    let (mut net, up) = interrupted(dark);
    let before = net.port(A).rule(LinkId(0)).sent_bytes();
    net.run_until(up);

    // three silent intervals of 100 ms, the last frame's way, and the alarm's way to A
    let detection = Duration::from_millis(400) + FAR;
    for (id, told_by) in [(A, DARK_AT + detection + NEAR), (B, DARK_AT + detection)] {
        let told = told_dark(&net, id);
        assert!(told.is_some_and(|at| at <= told_by), "{id:?} told at {told:?}, wanted by {told_by:?}");
    }
    let relay = net.link_state(RELAY, LinkId(1));
    assert!(matches!(relay, Some(LinkState::Down(_))), "{relay:?}");
    assert_eq!(net.link_state(RELAY, LinkId(0)), Some(&LinkState::Up));
    // in the dark the near hop carries liveness and alarms, not data into the void: below 1 % of its rate
    let idle = net.port(A).rule(LinkId(0)).sent_bytes() - before;
    let at_full_rate = 10_000_000 / 8 * dark.as_secs();
    assert!(idle < 10_000_000 / 8 + at_full_rate / 100, "{idle} bytes sent into the dark");

    net.run_until(up + Duration::from_secs(10));
    let first = net.gateway(B).sinks[&FILE].first_arrival_since(up).expect("the transfer went on");
    assert!(first.since(up) <= 2 * ROUND_TRIP, "first new byte {:?} after link-up", first.since(up));
    let last_two = net.gateway(B).sinks[&FILE].received_between(up + Duration::from_secs(8), net.now());
    assert!(last_two > 10_000_000 / 8 * 2 * 8 / 10, "{last_two} bytes in the last two of ten seconds");
    assert_eq!(net.node(A).status().peers[0].counters.lost, 0, "the connection was lost");

    let end = net.now() + Duration::from_secs(120);
    assert!(net.run_while(end, |net| !net.files_done()), "the transfer did not come to its end");
}

#[test]
fn five_seconds() {
    check(Duration::from_secs(5));
}

#[test]
fn a_minute() {
    check(Duration::from_secs(60));
}

#[test]
fn half_an_hour() {
    check(Duration::from_secs(30 * 60));
}

#[test]
fn commands_said_in_the_dark_arrive_after_it() {
    let (mut net, up) = interrupted(Duration::from_secs(60));
    net.send_messages(A, PEER, DARK_AT + Duration::from_secs(1), Duration::from_secs(5), 100, 10);
    net.run_until(up);
    assert!(net.gateway(B).inbox.latencies().is_empty());
    net.run_until(up + Duration::from_secs(5));
    assert_eq!(net.gateway(B).inbox.latencies().len(), 10);
    let first = net.gateway(B).inbox.latencies()[0].0;
    assert!(first.since(up) <= 2 * ROUND_TRIP, "first command {:?} after link-up", first.since(up));
    assert!(net.gateway(A).senders[0].is_done());
}
