use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Offer frames of `l2_bytes`, `gap` apart, and collect the arrivals of those that come through.
fn run(model: LinkModel, seed: u64, count: u64, gap: u64, l2_bytes: u32) -> (Vec<(u64, Nanos)>, LinkCounters) {
    let mut channel = Channel::new(model, seed);
    let mut arrivals = Vec::new();
    for i in 0..count {
        if let Fate::Carried { at, copies, .. } = channel.offer(Nanos(i * gap), l2_bytes) {
            arrivals.push((i, at));
            (0..copies).for_each(|_| channel.arrived());
        }
        assert!(channel.counters().conserved(), "{:?}", channel.counters());
    }
    assert_eq!(channel.counters().in_flight, 0);
    (arrivals, *channel.counters())
}

/// Most bytes that arrive in any half-open window of this length.
fn most_in_window(arrivals: &[(u64, Nanos)], window: u64, l2_bytes: u32) -> u64 {
    let mut first = 0;
    let mut most = 0;
    for (last, (_, at)) in arrivals.iter().enumerate() {
        while arrivals[first].1.0 + window <= at.0 {
            first += 1;
        }
        most = most.max((last - first + 1) as u64);
    }
    most * u64::from(l2_bytes)
}

#[test]
fn the_rate_holds_in_every_window_and_in_the_mean() {
    for (bps, bytes) in [(80_000, 300), (1_000_000, 1514), (9_999_991, 60), (250_000_000, 1514), (1_000_000_000, 777)] {
        let model = LinkModel::default().rate(bps, 1_000_000);
        // twice the rate
        let gap = u64::from(bytes) * 4 * SECOND / bps;
        let count = 20_000;
        let (arrivals, _) = run(model, 1, count, gap, bytes);
        for window in [MS, 10 * MS, 100 * MS] {
            let allowed = (u128::from(bps) * u128::from(window)).div_ceil(8 * u128::from(SECOND)) as u64;
            let most = most_in_window(&arrivals, window, bytes);
            assert!(most <= allowed + u64::from(bytes), "{bps} bit/s: {most} bytes in {window} ns");
        }
        // The serialiser never rests: the mean is the rate, less the nanosecond to which each frame rounds up.
        let span = arrivals[arrivals.len() - 1].1.0 - arrivals[0].1.0;
        let sent = (arrivals.len() as u64 - 1) * u64::from(bytes) * 8;
        let ideal = (u128::from(sent) * u128::from(SECOND)).div_ceil(bps.into()) as u64;
        assert!(span >= ideal && span <= ideal + arrivals.len() as u64, "{bps} bit/s: {span} ns for {ideal}");
    }
}

#[test]
fn a_changed_rate_holds_from_the_moment_of_the_step() {
    // 50 → 10 → 50 Mbit/s, always a queue to work off
    let model = LinkModel {
        rate_steps: vec![(Nanos(SECOND), Some(10_000_000)), (Nanos(2 * SECOND), Some(50_000_000))],
        ..LinkModel::default().rate(50_000_000, 200_000)
    };
    let (arrivals, _) = run(model, 1, 30_000, 100_000, 1000);
    for (from, to, bps) in [(0, 1, 50), (1, 2, 10), (2, 3, 50)] {
        let inside = |at: Nanos| at.0 > from * SECOND && at.0 <= to * SECOND;
        let bits = arrivals.iter().filter(|(_, at)| inside(*at)).count() as u64 * 8000;
        let expected = bps * 1_000_000;
        assert!(bits.abs_diff(expected) <= 8000 * 2, "{from}..{to} s: {bits} of {expected}");
    }
}

#[test]
fn delay_is_exact_and_jitter_stays_in_its_bounds() {
    let (arrivals, _) = run(LinkModel::with_delay(Duration::from_millis(325)), 1, 1000, MS, 1514);
    assert!(arrivals.iter().all(|&(i, at)| at.0 == (i + 325) * MS));
    let model = LinkModel { jitter: Duration::from_millis(10), ..LinkModel::with_delay(Duration::from_millis(125)) };
    let (arrivals, _) = run(model, 1, 20_000, 20 * MS, 1514);
    let extra: Vec<u64> = arrivals.iter().map(|&(i, at)| at.0 - (20 * i + 125) * MS).collect();
    let mean = extra.iter().sum::<u64>() / extra.len() as u64;
    assert!(extra.iter().all(|extra| *extra < 10 * MS) && mean.abs_diff(5 * MS) < MS / 10, "mean {mean}");
}

#[test]
fn a_shorter_delay_holds_from_its_step_and_does_not_reorder() {
    let model = LinkModel {
        delay_steps: vec![(Nanos(100 * MS), Duration::from_millis(20)), (Nanos(200 * MS), Duration::from_millis(50))],
        ..LinkModel::with_delay(Duration::from_millis(30))
    };
    let (arrivals, _) = run(model, 1, 300, MS, 1514);
    let at = |i: u64| arrivals[usize::try_from(i).unwrap()].1.0 / MS;
    assert_eq!([at(99), at(100), at(109), at(110), at(199), at(200)], [129, 129, 129, 130, 219, 250]);
    assert!(arrivals.windows(2).all(|pair| pair[0].1 <= pair[1].1));
}

#[test]
fn loss_comes_as_often_as_asked_and_alone() {
    let (arrivals, counters) = run(LinkModel::default().loss(0.05), 9, 200_000, 1000, 60);
    assert!((9_700..10_300).contains(&counters.lost), "{counters:?}");
    // Independent: after a loss, another is as likely as ever.
    let mut survived = vec![false; 200_000];
    arrivals.iter().for_each(|&(i, _)| survived[usize::try_from(i).unwrap()] = true);
    let pairs = survived.windows(2).filter(|pair| !pair[0] && !pair[1]).count();
    assert!((420..580).contains(&pairs), "{pairs} pairs");
}

#[test]
fn loss_follows_its_schedule() {
    // 30 % for half a second of each two
    let model = LinkModel {
        loss_steps: vec![(Nanos(SECOND), Loss::Bernoulli(0.3)), (Nanos(SECOND + SECOND / 2), Loss::Bernoulli(0.0))],
        period: Duration::from_secs(2),
        ..LinkModel::default()
    };
    let (arrivals, counters) = run(model, 1, 400_000, 10_000, 60);
    assert!((29_000..31_000).contains(&counters.lost), "{counters:?}");
    let quiet =
        arrivals.iter().filter(|(_, at)| !(SECOND..SECOND + SECOND / 2).contains(&(at.0 % (2 * SECOND)))).count();
    assert_eq!(quiet, 300_000);
}

#[test]
fn bursts_of_loss_have_the_length_and_frequency_of_the_chain() {
    // p = 0.01, q = 0.167: 5.65 % lost, in bursts of 6 in the mean, of which one in six has length 1
    let loss = Loss::GilbertElliott { to_bad: 0.01, to_good: 0.167, in_good: 0.0, in_bad: 1.0 };
    let count = 500_000;
    let (arrivals, counters) = run(LinkModel { loss, ..LinkModel::default() }, 4, count, 1000, 60);
    let share = counters.lost as f64 / count as f64;
    assert!((share - loss.mean()).abs() < 0.003, "{share} for {}", loss.mean());
    let gaps: Vec<u64> =
        arrivals.windows(2).map(|pair| pair[1].0 - pair[0].0 - 1).filter(|missing| *missing > 0).collect();
    let mean = gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
    assert!((mean - 1.0 / 0.167).abs() < 0.25, "mean burst {mean}");
    let single = gaps.iter().filter(|missing| **missing == 1).count() as f64 / gaps.len() as f64;
    assert!((single - 0.167).abs() < 0.02, "{single} of the bursts are single");
}

#[test]
fn the_queue_is_bounded_and_its_mark_is_kept() {
    // 8 Mbit/s: 1000 bytes take 1 ms; at most three frames wait or are being sent
    let model = LinkModel::with_delay(Duration::from_millis(5)).rate(8_000_000, 3000);
    let (arrivals, counters) = run(model, 1, 10, 0, 1000);
    assert_eq!(arrivals.iter().map(|(_, at)| at.0 / MS).collect::<Vec<_>>(), [6, 7, 8]);
    assert_eq!((counters.queue_dropped, counters.queue_high_bytes), (7, 3000));
}

#[test]
fn reordering_is_by_the_delay_asked_and_as_often() {
    let model = LinkModel { reorder: 0.03, reorder_delay: Duration::from_millis(3), ..LinkModel::default() };
    let (arrivals, counters) = run(model, 7, 50_000, MS, 60);
    let late = arrivals.iter().filter(|&&(i, at)| at.0 == (i + 3) * MS).count() as u64;
    assert!(arrivals.iter().all(|&(i, at)| [i, i + 3].contains(&(at.0 / MS))));
    assert_eq!(late, counters.reordered);
    assert!((1_350..1_650).contains(&late), "{late}");
}
