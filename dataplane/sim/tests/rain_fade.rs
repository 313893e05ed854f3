//! Scenario 8: rain fade. The rate of a 650 ms link falls from 50 to 10 Mbit/s and comes back, changed live, under a
//! transfer and a flow of commands.

use std::time::Duration;

use florelay_engine::api::TransferId;
use florelay_engine::config::{LinkId, PeerId, RatePlan};
use florelay_engine::time::Nanos;
use florelay_sim::link::LinkModel;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LINK: LinkId = LinkId(0);
const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(8);
const SECOND: u64 = 1_000_000_000;
const DELAY: Duration = Duration::from_millis(325);
const CLEAR_BPS: u64 = 50_000_000;
const FADED_BPS: u64 = 10_000_000;
/// When the rate changes, and to what.
const STEPS: [(Nanos, u64); 2] = [(Nanos(8 * SECOND), FADED_BPS), (Nanos(14 * SECOND), CLEAR_BPS)];
const END: Nanos = Nanos(20 * SECOND);

fn sent(net: &Sim) -> u64 {
    net.port(A).rule(LINK).sent_bytes()
}

#[test]
fn the_cap_is_met_again_within_a_second_and_commands_keep_their_time() {
    for_seeds(0..4, |seed| {
        // The modem fades with the rate; what it has no room for is lost.
        let steps = STEPS.map(|(at, rate)| (at, Some(rate)));
        let mut spec = LinkSpec::new(Some(CLEAR_BPS), DELAY);
        spec = spec.both(|model| LinkModel { rate_steps: steps.into(), ..model.rate(CLEAR_BPS, 64_000) });
        let plan = spec.rate_a;
        let mut net = Scenario::new(pair(spec)).seed(seed).write_delay(Duration::from_millis(1)).build();
        for (at, rate) in STEPS {
            let plan = RatePlan { rate_bps: Some(rate), ..plan };
            net.at(at, move |net| {
                for id in [A, B] {
                    net.set_rate(id, LINK, plan);
                }
            });
        }
        net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(5 * SECOND));
        net.send_file(A, PEER, FILE, 500_000_000, 10);
        let commands = 300;
        net.send_messages(A, PEER, Nanos(4 * SECOND), Duration::from_millis(50), 200, commands);

        for ((from, rate), until) in STEPS.into_iter().zip([STEPS[1].0, END]) {
            // The network checks the cap itself in every window, from the nanosecond of the change on.
            net.run_until(from + Duration::from_secs(1));
            let before = sent(&net);
            net.run_until(until);
            let carries = rate / 8 * (until.0 - from.0 - SECOND) / SECOND;
            let used = sent(&net) - before;
            assert!(
                used * 100 >= carries * 97,
                "seed {seed}: {used} of {carries} bytes at {rate} bit/s after {from:?}"
            );
        }
        net.run_until(END + Duration::from_secs(2));
        let inbox = &net.gateway(B).inbox;
        assert_eq!(inbox.latencies().len() as u64, commands, "seed {seed}: commands lost");
        let p99 = inbox.percentile(0.99).unwrap();
        assert!(p99 <= DELAY + Duration::from_millis(50), "seed {seed}: p99 of commands {p99:?}");
    });
}
