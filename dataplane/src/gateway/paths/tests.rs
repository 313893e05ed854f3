use proptest::prelude::*;

use super::*;
use crate::gateway::testing;

const NOW: u64 = CLOCK_SET_UNIX_NS + 1_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn memory(ms: u64) -> PathMemory {
    PathMemory {
        least_rtt: Duration::from_millis(ms),
        smoothed_rtt: Duration::from_millis(ms + 20),
        rate_bps: Some(5_000_000),
        planned_rate_bps: Some(20_000_000),
        planned_rtt: None,
    }
}

/// A plan with a folder of its own.
fn plan(folder: &tempfile::TempDir) -> NodePlan {
    NodePlan { state_dir: folder.path().to_owned(), ..testing::plan(folder.path()) }
}

/// What a run leaves that has measured the first peer's path.
fn left(plan: &NodePlan) -> Vec<u8> {
    let mut paths = KnownPaths::open(plan, NOW);
    paths.measured(plan, PeerId(0), &memory(650), NOW);
    paths.write(true);
    std::fs::read(plan.state_dir.join(FILE_NAME)).unwrap()
}

fn known(plan: &NodePlan, now_unix_ns: u64) -> (Option<PathMemory>, u64) {
    let paths = KnownPaths::open(plan, now_unix_ns);
    (paths.memories()[0], paths.counters().map(|(_, count)| count).sum())
}

#[test]
fn what_was_measured_is_known_again_while_path_and_time_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&folder);
    assert_eq!(known(&plan, NOW), (None, 0));
    left(&plan);
    for (now, seen) in [
        (NOW, true),
        (NOW + MAX_AGE_NS, true),
        (NOW + MAX_AGE_NS + 1, false),
        (NOW - MAX_AHEAD_NS, true),
        (NOW - MAX_AHEAD_NS - 1, false),
        // A clock that was never set.
        (100 * SECOND, false),
        (0, false),
    ] {
        assert_eq!(known(&plan, now), (seen.then(|| memory(650)), 0), "at {now}");
    }
    let mut other = plan.clone();
    other.peers[0].initial_rtt_ns += 1;
    assert_eq!(known(&other, NOW), (None, 0), "the operator says another round trip");
    let mut other = plan.clone();
    other.peers[0].name.push('x');
    assert_eq!(known(&other, NOW), (None, 0), "another peer");
    let mut other = plan;
    let link = usize::from(other.peers[0].link);
    other.links[link].name.push('x');
    assert_eq!(known(&other, NOW), (None, 0), "another link");
}

#[test]
fn a_measurement_by_a_clock_that_is_not_set_is_not_believed_later() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&folder);
    let mut paths = KnownPaths::open(&plan, 5 * SECOND);
    paths.measured(&plan, PeerId(0), &memory(650), 5 * SECOND);
    paths.write(false);
    assert_eq!(known(&plan, 6 * SECOND), (None, 0));
    assert_eq!(known(&plan, NOW), (None, 0));
}

#[test]
fn a_damaged_file_is_ignored_and_counted_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&folder);
    let good = left(&plan);
    let path = plan.state_dir.join(FILE_NAME);
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 0x41;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(known(&plan, NOW), (None, 1), "byte {at}");
        std::fs::write(&path, &good[..at]).unwrap();
        assert_eq!(known(&plan, NOW), (None, 1), "cut at {at}");
    }
    std::fs::write(&path, [good.as_slice(), b"\0"].concat()).unwrap();
    assert_eq!(known(&plan, NOW), (None, 1), "longer");
    // A folder in its place cannot be read, nor replaced: the node goes on.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let mut paths = KnownPaths::open(&plan, NOW);
    paths.measured(&plan, PeerId(0), &memory(9), NOW);
    paths.write(false);
    paths.write(true);
    let counters: Vec<_> = paths.counters().map(|(_, count)| count).collect();
    assert_eq!(counters, [1, 2]);
    // And when it can, nothing is lost.
    std::fs::remove_dir(&path).unwrap();
    paths.write(true);
    assert_eq!(known(&plan, NOW), (Some(memory(9)), 0));
}

#[test]
fn a_file_is_written_when_something_is_new_and_it_is_time() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&folder);
    let path = plan.state_dir.join(FILE_NAME);
    let mut paths = KnownPaths::open(&plan, NOW);
    let due = paths.write_due;
    paths.poll(due);
    assert!(!path.exists(), "nothing is new");
    paths.measured(&plan, PeerId(0), &memory(650), NOW);
    paths.poll(due);
    assert!(!path.exists(), "it is not time");
    paths.poll(due + WRITE_EVERY);
    assert_eq!(known(&plan, NOW).0, Some(memory(650)));
    assert!(!path.with_extension("new").exists());
    // A peer that is not in the plan.
    paths.measured(&plan, PeerId(u16::MAX), &memory(1), NOW);
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), hashed: bool) {
        // Also those that somebody has given the right hash.
        let file = [MAGIC.as_slice(), blake3::hash(&bytes).as_bytes(), &bytes].concat();
        if let Ok(records) = decode(if hashed { &file } else { &bytes }) {
            for record in records {
                let _ = (record.memory(), record.is_recent(NOW));
            }
        }
    }

    #[test]
    fn what_is_written_is_read(rates in proptest::collection::vec(proptest::option::of(1_u64..), 0..20)) {
        let record = |rate_bps: Option<u64>| Record {
            peer: "b".into(),
            link: "l".into(),
            configured_rtt_ns: 1,
            measured_unix_ns: 2,
            least_rtt_ns: 3,
            smoothed_rtt_ns: 4,
            rate_bps,
            planned_rate_bps: rate_bps,
            planned_rtt_ns: rate_bps,
        };
        let records: Vec<_> = rates.into_iter().map(record).collect();
        prop_assert_eq!(decode(&encode(&records).unwrap()), Ok(records));
    }
}
