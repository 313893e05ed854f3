use std::fs;

use super::*;

#[test]
fn a_file_that_is_there_is_written_over_by_nobody_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mut output = Output::open(Some(&path), false).unwrap();
    assert!(output.syncs && output.due().is_none());
    output.write(b"hello").unwrap();
    output.sync().unwrap();
    let refused = Output::open(Some(&path), false).err().unwrap().to_string();
    assert!(refused.contains("nothing is written over"), "{refused}");
    let mut output = Output::open(Some(&path), true).unwrap();
    output.catch_up().unwrap();
    assert_eq!((output.hasher.count(), output.hasher.finalize()), (5, blake3::hash(b"hello")));
    output.write(b", world").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello, world");
    // One that was never made begins at its first byte.
    let mut output = Output::open(Some(&folder.path().join("new")), true).unwrap();
    output.catch_up().unwrap();
    assert_eq!(output.hasher.count(), 0);
    let refused = Output::open(Some(Path::new("/dev/null")), true).err().unwrap().to_string();
    assert!(refused.contains("not a file"), "{refused}");
}

#[test]
fn a_file_is_synced_when_much_is_not_when_it_is_old_and_when_nothing_comes() {
    let folder = tempfile::tempdir().unwrap();
    let mut output = Output::open(Some(&folder.path().join("out")), false).unwrap();
    let since = Instant::now();
    for (count, last, due) in [
        (1, Duration::ZERO, SYNC_IDLE),
        (SYNC_BYTES - 1, SYNC_IDLE, 2 * SYNC_IDLE),
        (SYNC_BYTES - 1, SYNC_DELAY, SYNC_DELAY),
        (SYNC_BYTES, SYNC_IDLE, Duration::ZERO),
    ] {
        output.unsynced = Some((count, since, since + last));
        assert_eq!(output.due(), Some(since + due));
    }
    output.sync().unwrap();
    assert_eq!(output.due(), None);
    output.write(b"12").unwrap();
    output.write(b"345").unwrap();
    assert!(matches!(output.unsynced, Some((5, since, last)) if since <= last));
}
