//! Random scenarios: a topology, faults, files and messages, all from one seed.

use std::time::Duration;

use crate::link::{LinkModel, Loss};
use crate::net::NodeId;
use crate::ring::RingModel;
use crate::scenario::{Scenario, Sim};
use crate::topo::{LinkSpec, Topology, line};
use florelay_engine::api::TransferId;
use florelay_engine::config::{Congestion, LinkId, PeerId};
use florelay_engine::time::Nanos;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECOND: u64 = 1_000_000_000;

/// A line of two to four nodes with faulty links, one to three files each way, and messages each way.
pub struct Random {
    /// At time zero; files and messages begin by themselves within [`Random::BEGUN`].
    pub net: Sim,
    /// One end; it dials.
    pub a: NodeId,
    /// The other end.
    pub b: NodeId,
    /// In words, for the person who reads a failure.
    pub words: String,
}

impl Random {
    /// By then every file has been offered and every message flow has begun.
    pub const BEGUN: Nanos = Nanos(21 * SECOND);
    /// By then every outage is over.
    pub const QUIET: Nanos = Nanos(60 * SECOND);
}

/// The one peer of each end of a line.
pub const PEER: PeerId = PeerId(0);

/// A scenario as `seed` decides it.
#[must_use]
pub fn random(seed: u64) -> Random {
    scenario(seed, |_| {})
}

/// The same with two workers at every relay, each with one link (a line of one hop has no relay). Frames of some links arrive at the
/// other worker's queue; rings are sometimes short, and workers slow to wake.
#[must_use]
pub fn random_workers(seed: u64) -> Random {
    let mut rng = SmallRng::seed_from_u64(!seed);
    let ring = RingModel {
        capacity: *pick(&mut rng, &[8, 64, 1024]),
        batch: *pick(&mut rng, &[1, 7, 64]),
        wake: Duration::from_micros(*pick(&mut rng, &[1, 20, 300])),
    };
    let lands = [rng.random_bool(0.4), rng.random_bool(0.4)];
    let mut random = scenario(seed, |topology| {
        topology.ring = ring;
        for relay in 1..topology.configs().len() - 1 {
            topology.split(relay, &[0, 1]);
        }
    });
    let relays = 1..random.b.0;
    for relay in relays.map(NodeId) {
        let owners = [0, 1].map(|link| random.net.owner(relay, LinkId(link)));
        for (at, _) in lands.iter().enumerate().filter(|(_, lands)| **lands) {
            random.net.land((owners[at], LinkId(at as u16)), owners[1 - at]);
        }
    }
    random.words = format!("{}\n{ring:?}, landing elsewhere: {lands:?}", random.words);
    random
}

fn scenario(seed: u64, change: impl FnOnce(&mut Topology)) -> Random {
    let mut rng = SmallRng::seed_from_u64(seed);
    let hops = rng.random_range(1..=3);
    let links: Vec<LinkSpec> = (0..hops).map(|_| link(&mut rng)).collect();
    let words = format!("{links:#?}");
    let frames = *pick(&mut rng, &[64, 256, 4096]);
    let write_delay = Duration::from_micros(rng.random_range(0..20_000));
    let mut topology = line(&links);
    change(&mut topology);
    let scenario = Scenario::new(topology).seed(seed).frames(frames).write_delay(write_delay);
    let mut net = scenario.build();
    let (a, b) = (NodeId(0), NodeId(hops));
    if rng.random_bool(0.3) {
        // the first link's cap at its dialling end changes a few times
        for _ in 0..rng.random_range(1..5) {
            let mut rate = links[0].rate_a;
            rate.rate_bps = *pick(&mut rng, &[None, Some(300_000), Some(1_000_000), Some(20_000_000)]);
            rate.burst_bytes = *pick(&mut rng, &[2_000, 6_000, 50_000]);
            rate.control_percent = *pick(&mut rng, &[10, 50, 100]);
            let at = Nanos(rng.random_range(0..30 * SECOND));
            net.at(at, move |net| net.set_rate(a, LinkId(0), rate));
        }
    }
    for (end, from) in [a, b].into_iter().enumerate() {
        for i in 0..rng.random_range(1 - end..=3_usize) {
            let id = TransferId(((end as u128) << 64) | ((i as u128) << 32) | u128::from(seed));
            let size = *pick(&mut rng, &[0, 1, 1000, 1 << 16, 300_000, 1_200_000]) + rng.random_range(0..2);
            let (priority, start) = (rng.random_range(0..128), rng.random_range(0..10 * SECOND));
            net.at(Nanos(start), move |net| net.send_file(from, PEER, id, size, priority));
        }
        let (interval, bytes) = (rng.random_range(10..1000), *pick(&mut rng, &[16, 200, 1400, 5000]));
        let start = Nanos(rng.random_range(0..20 * SECOND));
        net.send_messages(from, PEER, start, Duration::from_millis(interval), bytes, rng.random_range(0..30));
    }
    Random { net, a, b, words }
}

fn link(rng: &mut SmallRng) -> LinkSpec {
    let rate = *pick(rng, &[Some(500_000), Some(2_000_000), Some(10_000_000), Some(100_000_000)]);
    let delay = Duration::from_micros(*pick(rng, &[0, 50, 2_000, 30_000, 300_000]));
    let mut spec = LinkSpec::new(rate, delay);
    if rng.random_bool(0.2) {
        spec.congestion = Congestion::Shared;
    }
    spec.model_ab = model(rng, delay);
    spec.model_ba = model(rng, delay);
    if rng.random_bool(0.2)
        && let Some(cap) = rate
    {
        // somebody else has the rest: a bottleneck below the cap, with a short queue
        let bottleneck = cap / 100 * rng.random_range(40..100);
        spec.model_ab = spec.model_ab.rate(bottleneck, rng.random_range(10_000..100_000));
        spec.congestion = Congestion::Shared;
    }
    if rng.random_bool(0.3) {
        let start = Nanos(rng.random_range(0..30 * SECOND));
        spec = spec.dark(start, start + Duration::from_millis(rng.random_range(10..20_000)));
    }
    spec
}

fn model(rng: &mut SmallRng, delay: Duration) -> LinkModel {
    let some = |rng: &mut SmallRng, most: f64| if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 };
    let loss = if rng.random_bool(0.3) {
        Loss::GilbertElliott { to_bad: 0.005, to_good: 0.2, in_good: some(rng, 0.01), in_bad: some(rng, 0.8) }
    } else {
        Loss::Bernoulli(some(rng, 0.08))
    };
    LinkModel {
        delay,
        loss,
        jitter: Duration::from_micros(rng.random_range(0..3000)),
        duplicate: some(rng, 0.05),
        corrupt: some(rng, 0.02),
        reorder: some(rng, 0.05),
        reorder_delay: Duration::from_micros(rng.random_range(0..5000)),
        ..LinkModel::default()
    }
}

fn pick<'a, T>(rng: &mut SmallRng, of: &'a [T]) -> &'a T {
    &of[rng.random_range(0..of.len())]
}
