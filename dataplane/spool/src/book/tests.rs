use super::*;
use crate::hash::{HashState, TreeHasher};
use crate::storage::{Faults, Identity, RealStorage, SimStorage};

const PATH: &str = "transfers.redb";

fn open(disk: &SimStorage) -> Result<(Book, Contents), BookError> {
    Book::open(Arc::new(disk.clone()), PATH.into())
}

fn hash() -> HashState {
    let mut hasher = TreeHasher::new();
    hasher.update(&[7; 500_000]);
    hasher.state()
}

fn own(id: u128, confirmed: u64) -> OwnTransfer {
    let identity = Identity { device: 1, inode: 2, size: 3, modified_ns: -4, regular: true };
    let source = match id % 2 {
        0 => Source::File { path: Some(b"/data/\xff".to_vec()), identity, hash: hash() },
        _ => Source::Stream { end: Some((9, [1; 32])), linger_ns: 60 },
    };
    OwnTransfer {
        id,
        peer: "b".into(),
        name: format!("{id}.tif"),
        source,
        size: Some(3),
        priority: 7,
        attributes: vec![("a".into(), "b".into())],
        deadline_unix_ns: Some(5),
        started_unix_ns: 6,
        held: false,
        begun: true,
        order: (1000 - id) as u64,
        confirmed,
    }
}

fn incoming(id: u128, synced: u64) -> IncomingTransfer {
    let progress = Progress { synced, hash: hash(), boot: "boot".into() };
    IncomingTransfer { id, peer: "a".into(), name: "x".into(), size: None, progress }
}

fn ended(id: u128, time: u64) -> EndedTransfer {
    EndedTransfer {
        id,
        peer: "a".into(),
        name: "x".into(),
        outgoing: id.is_multiple_of(2),
        stream: false,
        size: 10,
        digest: Some([id as u8; 32]),
        failed: id.is_multiple_of(3).then(|| (6, "no room".into())),
        path: None,
        ended_unix_ns: time,
    }
}

#[test]
fn what_was_applied_is_there_in_order_also_in_a_real_file() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(RealStorage::new(folder.path().to_owned()));
    let (mut book, contents) = Book::open(storage.clone(), PATH.into()).unwrap();
    assert!(contents.own.is_empty() && contents.ended.is_empty());
    book.apply(&[Change::Own(own(1, 0)), Change::Own(own(2, 0)), Change::Incoming(incoming(3, 0))]).unwrap();
    book.apply(&[
        Change::Own(own(2, 77)),
        Change::OwnGone(9),
        Change::Incoming(incoming(4, 5)),
        Change::IncomingGone("a".into(), 3),
        Change::Ended(ended(5, 1)),
        Change::Ended(ended(6, 2)),
        Change::Ended(ended(5, 3)),
        Change::Ended(ended(7, 4)),
        Change::NotEnded("a".into(), false, 7),
        Change::NotEnded("a".into(), true, 5),
    ])
    .unwrap();
    drop(book);
    let (_, contents) = Book::open(storage, PATH.into()).unwrap();
    assert_eq!(contents.own, [own(2, 77), own(1, 0)]);
    assert_eq!(contents.incoming, [incoming(4, 5)]);
    assert_eq!(contents.ended, [ended(6, 2), ended(5, 3)]);
}

#[test]
fn ends_that_peers_have_not_heard_of_stay_until_they_have() {
    let disk = SimStorage::new(1);
    let (mut book, _) = open(&disk).unwrap();
    let heard = |id: u128| Change::Heard("a".into(), id.is_multiple_of(2), id);
    book.apply(&[1, 2, 3, 4, 5].map(|id| Change::GaveUp(ended(id, 1)))).unwrap();
    // 3 was sent again and has ended well, 4 once more not; of 5 nobody has heard, and 1 did not happen after all.
    let more = [heard(2), heard(9), heard(4), Change::Ended(ended(3, 2)), Change::GaveUp(ended(4, 2))];
    book.apply(&more).unwrap();
    book.apply(&[Change::NotEnded("a".into(), false, 1)]).unwrap();
    drop(book);
    let (mut book, contents) = open(&disk).unwrap();
    assert_eq!(contents.unheard, [ended(5, 1), ended(4, 2)]);
    assert_eq!(contents.ended, [ended(2, 1), ended(5, 1), ended(3, 2), ended(4, 2)]);
    // With the oldest ends they go, too.
    let all: Vec<_> = (0..MAX_ENDED as u64).map(|n| Change::Ended(ended(1000 + u128::from(n), n))).collect();
    book.apply(&all).unwrap();
    drop(book);
    assert_eq!(open(&disk).unwrap().1.unheard, []);
}

#[test]
fn what_could_not_be_written_of_ends_is_written_in_its_order() {
    let disk = SimStorage::new(1);
    let (mut book, _) = open(&disk).unwrap();
    let heard = || Change::Heard("a".into(), true, 4);
    disk.set_faults(Faults { fail_sync: Some(0), ..Faults::default() });
    assert!(book.apply(&[Change::GaveUp(ended(4, 1)), heard()]).is_err());
    disk.set_faults(Faults::default());
    book.apply(&[]).unwrap();
    drop(book);
    let (mut book, contents) = open(&disk).unwrap();
    assert_eq!((contents.unheard.len(), contents.ended.len()), (0, 1));
    disk.set_faults(Faults { fail_sync: Some(0), ..Faults::default() });
    assert!(book.apply(&[heard(), Change::GaveUp(ended(4, 2))]).is_err());
    disk.set_faults(Faults::default());
    book.apply(&[]).unwrap();
    drop(book);
    assert_eq!(open(&disk).unwrap().1.unheard, [ended(4, 2)]);
}

#[test]
fn what_has_ended_is_bounded_and_the_oldest_goes() {
    let disk = SimStorage::new(1);
    let (mut book, _) = open(&disk).unwrap();
    let all: Vec<_> = (0..MAX_ENDED as u64 + 10).map(|n| Change::Ended(ended(n.into(), n))).collect();
    book.apply(&all).unwrap();
    drop(book);
    let (_, contents) = open(&disk).unwrap();
    assert_eq!((contents.ended.len(), contents.ended[0].ended_unix_ns), (MAX_ENDED, 10));
}

#[test]
fn a_later_version_is_an_error_and_stays_and_a_damaged_book_is_set_aside() {
    let disk = SimStorage::new(1);
    let (mut book, _) = open(&disk).unwrap();
    book.apply(&[Change::Own(own(1, 0))]).unwrap();
    let database = book.database.take().unwrap();
    let transaction = database.begin_write().unwrap();
    let mut bytes = encode(&own(2, 0)).unwrap();
    bytes[0] = VERSION + 1;
    transaction.open_table(OWN).unwrap().insert(2, &bytes[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(open(&disk), Err(BookError::Newer(2))));
    assert!(matches!(open(&disk), Err(BookError::Newer(2))), "it is left alone");

    for attempt in 0..3 {
        let mut bytes = disk.content(Path::new(PATH)).unwrap();
        let half = bytes.len() / 2;
        match attempt {
            0 => bytes.fill(0x55),
            1 => bytes[64..].fill(0),
            _ => bytes.truncate(half),
        }
        disk.put(Path::new(PATH), &bytes);
        let (mut book, contents) = open(&disk).unwrap();
        assert_eq!(contents.set_aside, Some(format!("{PATH}.damaged-{attempt}").into()));
        assert!(contents.own.is_empty());
        book.apply(&[Change::Own(own(1, 0))]).unwrap();
    }
    // A disk that fails is no reason to forget.
    disk.set_faults(Faults { fail_call: Some(3), ..Faults::default() });
    assert!(matches!(open(&disk), Err(BookError::Disk(_))));
    assert_eq!(open(&disk).unwrap().1.own, [own(1, 0)]);
}

/// Random batches under faults, kills and power cuts: a batch that was applied is there, one that failed is there as a whole or
/// not at all.
fn storm(seed: u64) {
    let disk = SimStorage::new(seed);
    let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |bound: u64| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        (chance >> 11) % bound
    };
    let (mut book, _) = open(&disk).unwrap();
    let mut sure: BTreeMap<u128, OwnTransfer> = BTreeMap::new();
    // After each batch that failed since.
    let mut perhaps: Vec<BTreeMap<u128, OwnTransfer>> = Vec::new();
    for step in 0..25 {
        match below(8) {
            0 => disk.set_faults(Faults {
                short_writes_percent: below(50) as u8,
                room_bytes: (below(4) == 0).then(|| below(100_000)),
                fail_call: (below(3) == 0).then(|| below(30)),
                fail_sync: (below(3) == 0).then(|| below(2)),
                die_call: None,
            }),
            1 => disk.set_faults(Faults::default()),
            2 => {
                if below(2) == 0 {
                    disk.kill();
                } else {
                    disk.power_cut();
                }
                drop(book);
                let contents;
                (book, contents) = open(&disk).unwrap();
                assert_eq!(contents.set_aside, None, "seed {seed}, step {step}");
                let found: BTreeMap<u128, OwnTransfer> = contents.own.into_iter().map(|own| (own.id, own)).collect();
                assert!(found == sure || perhaps.contains(&found), "seed {seed}, step {step}: {found:?}");
                sure = found;
                perhaps.clear();
            }
            _ => {
                let mut next = perhaps.last().unwrap_or(&sure).clone();
                let mut changes = Vec::new();
                for _ in 0..1 + below(4) {
                    let id = u128::from(below(12));
                    if below(4) == 0 {
                        next.remove(&id);
                        changes.push(Change::OwnGone(id));
                    } else {
                        let own = own(id, below(1 << 40));
                        next.insert(id, own.clone());
                        changes.push(Change::Own(own));
                    }
                    changes.push(Change::Ended(ended(id, 0)));
                }
                match book.apply(&changes) {
                    Ok(()) => {
                        sure = next;
                        perhaps.clear();
                    }
                    // Whether the disk has it is not known.
                    Err(BookError::Disk(_)) => perhaps.push(next),
                    Err(error) => panic!("seed {seed}, step {step}: {error}"),
                }
            }
        }
    }
}

#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all() {
    for seed in 0..300 {
        storm(seed);
    }
}
