//! Same seed, same bytes, same trace: every packet that is delivered anywhere is the same, at the same nanosecond.

use florelay_engine::time::Nanos;
use florelay_sim::random::random;
use florelay_sim::seeds::for_seeds;

#[test]
fn equal_seeds_have_equal_traces() {
    for_seeds(0..10, |seed| {
        let run = || {
            let mut net = random(seed).net;
            net.run_until(Nanos(40_000_000_000));
            (net.trace(), net.delivered(), net.steps())
        };
        let first = run();
        assert!(first.1 > 100, "only {} packets delivered", first.1);
        assert_eq!(first, run());
    });
}

#[test]
fn other_seeds_have_other_traces() {
    let trace = |seed| {
        let mut net = random(seed).net;
        net.run_until(Nanos(5_000_000_000));
        net.trace()
    };
    assert_ne!(trace(1), trace(2));
}
