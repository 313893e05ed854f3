//! 15: a heartbeat on an idle link, then bursts.

use std::time::Duration;

use super::bed::{A, B, PEER, Profile, connected, latencies};
use super::{Row, Size};
use crate::gateway::MessageSender;

const HEARTBEAT: Duration = Duration::from_millis(500);
const HEARTBEATS: u64 = 70;
const BURST: Duration = Duration::from_millis(200);
const BURSTS: u64 = 50;

pub(super) fn heartbeat_then_burst(_: Size, seed: u64) -> Row {
    // 500 kB/s
    let profile = Profile::new(4_000_000, 4_000_000, 650);
    let mut net = connected(profile.spec(|model| model), seed);
    let start = net.now();
    // 800 B/s for 35 s, then 40 KB five times a second
    net.send_messages(A, PEER, start, HEARTBEAT, 400, HEARTBEATS);
    net.send_messages(A, PEER, start + Duration::from_secs(35), BURST, 40_000, BURSTS);
    let limit = start + Duration::from_secs(120);
    net.run_while(limit, |net| !net.gateway(A).senders.iter().all(MessageSender::is_done));
    let received = latencies(&net, B).count() as f64;
    let bursts = net.gateway(B).inbox.latencies().iter().filter(|(at, _)| *at > start + Duration::from_secs(36));
    let slowest = bursts.map(|(_, latency)| latency.as_secs_f64()).fold(0.0, f64::max);
    let mut row = Row::new(15, "idle then burst");
    row.at_most("heartbeats and bursts lost", "", (HEARTBEATS + BURSTS) as f64 - received, 0.0);
    row.shown("slowest burst one way", "s", slowest);
    row
}
