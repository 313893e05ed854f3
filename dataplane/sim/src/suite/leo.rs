//! 10: a low orbit, with a hand-over each 15 s (published Starlink measurements).

use std::time::Duration;

use florelay_engine::time::Nanos;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bed::{A, B, MB, PEER, Profile, connected, file, finish, latencies};
use super::{Row, Size};
use crate::link::LinkModel;

const STEP: Duration = Duration::from_secs(15);
const STEPS: u64 = 40;
const MAX_BLACKOUT_MS: u64 = 500;
const PROFILE: Profile = Profile::new(100_000_000, 20_000_000, 50);

type Schedule = (Vec<(Nanos, Duration)>, Vec<(Nanos, Nanos)>);

/// Delay steps and blackouts, the same in both directions.
fn schedule(seed: u64) -> Schedule {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut blackouts = Vec::new();
    let mut delays = Vec::new();
    for step in 1..STEPS {
        let at = Nanos::ZERO + STEP * step as u32;
        let blackout = Duration::from_millis(random.random_range(0..=MAX_BLACKOUT_MS));
        // 40 to 60 ms of round trip
        let delay = if step % 2 == 0 { Duration::from_millis(20) } else { Duration::from_millis(30) };
        if !blackout.is_zero() {
            blackouts.push((at, at + blackout));
        }
        delays.push((at, delay));
    }
    (delays, blackouts)
}

pub(super) fn hand_over(size: Size, seed: u64) -> Row {
    let (delays, blackouts) = schedule(seed);
    let spec = PROFILE.spec(|model| LinkModel {
        delay: Duration::from_millis(20),
        delay_steps: delays.clone(),
        outages: blackouts.clone(),
        ..model.loss(0.01)
    });
    let mut net = connected(spec, seed);
    let bytes = size.bytes(1000 * MB, 500 * MB);
    let start = net.now();
    net.send_file(A, PEER, file(0), bytes, 10);
    net.send_messages(A, PEER, start, Duration::from_millis(100), 256, bytes / MB);
    let seconds = finish(&mut net, start, Duration::from_secs(600));
    let end = net.now();
    net.run_while(end + Duration::from_secs(60), |net| !net.gateway(A).senders[0].is_done());
    let progress = blackouts.iter().filter(|(_, up)| *up + STEP < end).map(|(_, up)| {
        let first = net.gateway(B).sinks[&file(0)].first_arrival_since(*up).unwrap_or(Nanos::MAX);
        first.since(*up).as_secs_f64() * 1e3
    });
    let progress = progress.fold(0.0, f64::max);
    let lost = net.gateway(A).senders[0].sent() as f64 - latencies(&net, B).count() as f64;
    let reconnects = net.node(A).status().peers[0].counters.lost as f64;
    let goodput = bytes as f64 / seconds / PROFILE.ideal(0.01);
    let mut row = Row::new(10, "LEO hand-over");
    row.at_least("goodput", "of ideal", goodput, 0.8);
    row.at_most("first new byte after a blackout", "ms", progress, 60.0 + 100.0);
    row.at_most("connections lost", "", reconnects, 0.0);
    row.at_most("commands lost", "", lost, 0.0);
    row.commands(latencies(&net, B), 30.0 + MAX_BLACKOUT_MS as f64 + 200.0);
    row
}
