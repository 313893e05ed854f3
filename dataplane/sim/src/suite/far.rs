//! 9: losses come in bursts (the picoquic satellite tests).

use std::time::Duration;

use super::bed::{A, B, MB, PEER, Profile, connected, file, finish};
use super::{Row, Size, jain};
use crate::link::{LinkModel, Loss};

const PROFILE: Profile = Profile::new(12_000_000, 3_000_000, 600);
const LOSS: Loss = Loss::GilbertElliott { to_bad: 0.01, to_good: 0.167, in_good: 0.0, in_bad: 1.0 };

/// Goodput of `count` files of 20 MB at once, as a share of the ideal, and Jain's index while all were running.
fn files(count: u128, seed: u64) -> [f64; 2] {
    let mut net = connected(PROFILE.spec(|model| LinkModel { loss: LOSS, ..model }), seed);
    let start = net.now();
    for n in 0..count {
        net.send_file(A, PEER, file(n), 20 * MB, 10);
    }
    let running = |net: &mut crate::scenario::Sim| net.gateway(A).sources.values().all(|s| s.result().is_none());
    net.run_while(start + Duration::from_secs(3600), running);
    let until = net.now();
    let share = |n| net.gateway(B).sinks[&file(n)].received_between(start, until) as f64;
    let shares: Vec<f64> = (0..count).map(share).collect();
    let seconds = finish(&mut net, start, Duration::from_secs(3600));
    [count as f64 * 20.0 * MB as f64 / seconds / PROFILE.ideal(LOSS.mean()), jain(&shares)]
}

pub(super) fn burst_loss(_: Size, seed: u64) -> Row {
    let ([one, _], [five, fairness]) = (files(1, seed), files(5, seed));
    let mut row = Row::new(9, "burst loss");
    let names = ["goodput of one file of 20 MB, median of seeds", "the same, worst seed"];
    row.at_least_in_median(names, "of ideal", one, 0.85);
    row.at_least("goodput of five", "of ideal", five, 0.85);
    row.at_least("Jain's index of the five", "", fairness, 0.95);
    row
}
