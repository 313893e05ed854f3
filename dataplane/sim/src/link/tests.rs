use std::time::Duration;

use super::*;

const MS: u64 = 1_000_000;

fn packet(l2_bytes: u32) -> Packet {
    Packet { bytes: Bytes::from(vec![0x5a; l2_bytes as usize]), ecn: Ecn::NotEct, l2_bytes }
}

/// Offer `count` packets of 1000 bytes, `gap` apart, and collect the arrivals.
fn run(model: LinkModel, seed: u64, count: u64, gap: u64) -> (Vec<(Nanos, Packet)>, LinkCounters) {
    let mut link = Link::new(model, seed);
    let mut arrivals = Vec::new();
    for i in 0..count {
        link.offer(Nanos(i * gap), packet(1000), |at, p| arrivals.push((at, p)));
        assert!(link.counters().conserved(), "{:?}", link.counters());
    }
    for _ in &arrivals {
        link.arrived();
    }
    assert!(link.counters().conserved() && link.counters().in_flight == 0, "{:?}", link.counters());
    (arrivals, *link.counters())
}

#[test]
fn the_bottleneck_serialises_and_its_queue_is_bounded() {
    // 8 Mbit/s: 1000 bytes take 1 ms; at most three packets wait or are being sent
    let model = LinkModel::with_delay(Duration::from_millis(5)).rate(8_000_000, 3000);
    let (arrivals, counters) = run(model, 1, 10, 0);
    let times: Vec<u64> = arrivals.iter().map(|(at, _)| at.0).collect();
    assert_eq!(times, [6 * MS, 7 * MS, 8 * MS]);
    assert_eq!(counters.queue_dropped, 7);
}

#[test]
fn a_rate_step_in_the_middle_of_a_packet_is_exact() {
    let model = LinkModel {
        rate_bps: Some(8_000_000),
        // half of the packet at 8 Mbit/s, nothing for 10 ms, the rest at 80 Mbit/s
        rate_steps: vec![(Nanos(MS / 2), Some(0)), (Nanos(10 * MS), Some(80_000_000))],
        ..LinkModel::default()
    };
    let (arrivals, _) = run(model, 1, 1, 0);
    assert_eq!(arrivals[0].0, Nanos(10 * MS + MS / 20));
}

#[test]
fn an_outage_swallows_what_enters_or_leaves_in_it() {
    let model = LinkModel::with_delay(Duration::from_millis(10)).outage(Nanos(50 * MS), Nanos(60 * MS));
    let (arrivals, counters) = run(model, 1, 100, MS);
    // entered at 40..50 would arrive in the dark, entered at 50..60 are lost at once
    assert_eq!(counters.dark, 20);
    assert!(arrivals.iter().all(|(at, _)| at.0 < 50 * MS || at.0 >= 70 * MS));
}

#[test]
fn faults_come_as_often_as_asked() {
    let model = LinkModel {
        loss: Loss::Bernoulli(0.1),
        duplicate: 0.05,
        corrupt: 0.02,
        reorder: 0.03,
        reorder_delay: Duration::from_millis(3),
        jitter: Duration::from_micros(100),
        ..LinkModel::default()
    };
    let (arrivals, c) = run(model, 7, 20_000, 10_000);
    let near = |got: u64, expected: f64| (got as f64 - expected).abs() < 0.15 * expected;
    assert!(near(c.lost, 2000.0) && near(c.duplicated, 880.0), "{c:?}");
    assert!(near(c.corrupt_dropped, 360.0) && near(c.reordered, 600.0), "{c:?}");
    assert!(arrivals.windows(2).any(|w| w[0].0 > w[1].0), "nothing was overtaken");
}

#[test]
fn jitter_alone_keeps_the_order() {
    let model = LinkModel { jitter: Duration::from_millis(5), ..LinkModel::default() };
    let (arrivals, _) = run(model, 3, 2000, 1000);
    assert!(arrivals.windows(2).all(|w| w[0].0 <= w[1].0));
    assert!(arrivals.iter().enumerate().any(|(i, (at, _))| at.0 > i as u64 * 1000 + 4 * MS), "no jitter");
}

#[test]
fn gilbert_elliott_loses_in_bursts() {
    let loss = Loss::GilbertElliott { to_bad: 0.01, to_good: 0.1, in_good: 0.0, in_bad: 1.0 };
    let (arrivals, c) = run(LinkModel { loss, ..LinkModel::default() }, 5, 50_000, 1000);
    // stationary share of the bad state: 0.01 / 0.11
    assert!((3500..5700).contains(&c.lost), "{c:?}");
    let bursts = arrivals.windows(2).filter(|w| w[1].0.0 - w[0].0.0 > 1000).count() as u64;
    assert!(c.lost / bursts >= 7, "mean burst {} of {} losses", c.lost / bursts, c.lost);
}

#[test]
fn corruption_is_delivered_when_asked() {
    let model = LinkModel { corrupt: 1.0, corrupt_mode: CorruptMode::Deliver, ..LinkModel::default() };
    let (arrivals, c) = run(model, 5, 200, 1000);
    assert_eq!(c.corrupt_delivered, 200);
    let intact = arrivals.iter().filter(|(_, p)| p.bytes == packet(1000).bytes).count();
    // two flips of the same bit cancel: rare
    assert!(intact <= 2, "{intact} of 200 undamaged");
}

#[test]
fn equal_seeds_have_equal_fates_and_one_fault_does_not_move_another() {
    let model = |duplicate| LinkModel { duplicate, ..LinkModel::default() }.loss(0.3);
    let times = |arrivals: &[(Nanos, Packet)]| {
        let mut times: Vec<u64> = arrivals.iter().map(|(at, _)| at.0).collect();
        times.dedup();
        times
    };
    let (a, _) = run(model(0.0), 11, 500, 1000);
    let (b, _) = run(model(0.0), 11, 500, 1000);
    let (with_copies, _) = run(model(0.5), 11, 500, 1000);
    let (other, _) = run(model(0.0), 12, 500, 1000);
    assert_eq!(times(&a), times(&b));
    assert_eq!(times(&a), times(&with_copies));
    assert_ne!(times(&a), times(&other));
}
