//! 11: the link is dark for 5 s, a minute and half an hour; the near hop, and the one beyond a relay.

use std::time::Duration;

use florelay_engine::config::LinkId;
use florelay_engine::time::Nanos;

use super::bed::{A, LINK, MB, PEER, Profile, cold, file, finish};
use super::{Row, Size};
use crate::net::NodeId;
use crate::topo::{LinkSpec, line};

const PROFILE: Profile = Profile::new(10_000_000, 2_000_000, 650);
const DARK_AT: Nanos = Nanos(20_000_000_000);
const COMMANDS: u64 = 20;
/// Only bulk makes frames as long as this.
const FULL_FRAME_BYTES: u32 = 1400;

struct Measured {
    /// From link-up to the first new bytes at the far node, in round trips.
    first_rtt: f64,
    /// From link-up to the first new byte in order, handed to its gateway.
    in_order_rtt: f64,
    /// Bytes sent again, in windows at link-down.
    again: f64,
    commands_lost: f64,
    reconnects: f64,
}

fn measure(links: &[LinkSpec], dark: Duration, bytes: u64, seed: u64) -> Measured {
    let up = DARK_AT + dark;
    let far = NodeId(links.len());
    let mut net = cold(line(links), seed);
    net.run_until_connected(&[(A, PEER), (far, PEER)], DARK_AT);
    let start = net.now();
    net.send_file(A, PEER, file(0), bytes, 10);
    // said in the dark
    let (first, gap) = (DARK_AT + Duration::from_secs(1), Duration::from_millis(150));
    net.send_messages(A, PEER, first, gap, 256, COMMANDS);
    net.run_until(DARK_AT);
    let window = net.node(A).status().peers[0].cwnd as f64;
    let lost_before = net.node(A).status().peers[0].lost_bytes;
    net.run_until(up);
    // The last hop's third full frame after link-up: two may be probes that repeat what had arrived.
    let last_hop = (NodeId(far.0 - 1), if far.0 > 1 { LinkId(1) } else { LINK });
    net.watch(last_hop, FULL_FRAME_BYTES, 3);
    net.run_until(up + Duration::from_secs(20));
    let arrived = net.gateway(far).sinks[&file(0)].first_arrival_since(up).unwrap_or(Nanos::MAX);
    let again = net.node(A).status().peers[0].lost_bytes - lost_before;
    finish(&mut net, start, dark + Duration::from_secs(3600));
    let round_trips = |at: Nanos| at.since(up).as_secs_f64() / PROFILE.rtt.as_secs_f64();
    let peer = &net.node(A).status().peers[0];
    Measured {
        first_rtt: round_trips(net.watched(last_hop).unwrap_or(Nanos::MAX)),
        in_order_rtt: round_trips(arrived),
        again: again as f64 / window,
        commands_lost: COMMANDS as f64 - net.gateway(far).inbox.latencies().len() as f64,
        reconnects: peer.counters.lost as f64,
    }
}

pub(super) fn dark(size: Size, seed: u64) -> Row {
    let bytes = size.bytes(100 * MB, 50 * MB);
    let mut worst = Measured { first_rtt: 0.0, in_order_rtt: 0.0, again: 0.0, commands_lost: 0.0, reconnects: 0.0 };
    for dark in [5, 60, 30 * 60].map(Duration::from_secs) {
        let whole = PROFILE.spec(|model| model);
        let near = PROFILE.spec(|model| crate::link::LinkModel { delay: PROFILE.rtt / 4, ..model });
        let up = DARK_AT + dark;
        for links in [vec![whole.dark(DARK_AT, up)], vec![near.clone(), near.dark(DARK_AT, up)]] {
            let measured = measure(&links, dark, bytes, seed);
            worst.first_rtt = worst.first_rtt.max(measured.first_rtt);
            worst.in_order_rtt = worst.in_order_rtt.max(measured.in_order_rtt);
            worst.again = worst.again.max(measured.again);
            worst.commands_lost = worst.commands_lost.max(measured.commands_lost);
            worst.reconnects = worst.reconnects.max(measured.reconnects);
        }
    }
    let mut row = Row::new(11, "outage");
    row.at_most("first new bytes at the far node after link-up", "round trips", worst.first_rtt, 2.0);
    // What was under way when the link went dark is missing in front of them. A learns which bytes from B's answer to its
    // first packets: four times the one-way delay, and up to a quarter of a liveness interval until A looks.
    row.at_most("first new byte in order after link-up", "round trips", worst.in_order_rtt, 2.1);
    row.at_most("sent again", "of the window at link-down", worst.again, 1.0);
    row.at_most("commands lost", "", worst.commands_lost, 0.0);
    row.at_most("connections lost", "", worst.reconnects, 0.0);
    row
}
