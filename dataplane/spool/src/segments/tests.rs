use std::sync::Arc;

use super::*;
use crate::storage::{Faults, SimStorage};

const ID: u128 = 77;
const SEGMENT: u64 = 2 * BLOCK_BYTES;
const FOLDER: &str = "spool";

fn content(from: u64, length: u64) -> Vec<u8> {
    (from..from + length).map(|at| (at * 31 + at / 251 + at / 65_521) as u8).collect()
}

fn settings() -> Settings {
    Settings { segment_bytes: SEGMENT, limit_bytes: u64::MAX }
}

fn open(disk: &SimStorage, confirmed: u64, at_least: u64) -> Result<Segments, SegmentError> {
    let account = Account::new(u64::MAX);
    Segments::open(Arc::new(disk.clone()), FOLDER.into(), ID, settings(), &account, confirmed, at_least)
}

/// All that can be read, from `from` on.
fn all(spool: &mut Segments, from: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let piece = spool.read(from + bytes.len() as u64, 100_000).unwrap();
        if piece.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(&piece);
    }
}

fn files(disk: &SimStorage) -> Vec<String> {
    let mut names = disk.list(Path::new(FOLDER)).unwrap();
    names.sort_unstable();
    names
}

#[test]
fn what_is_appended_is_read_again_and_what_is_confirmed_goes_by_segments() {
    let disk = SimStorage::new(1);
    let mut spool = open(&disk, 0, 0).unwrap();
    let length = 5 * SEGMENT + 1000;
    let mut at = 0;
    for take in [1, 2, 70_000, 300_000].into_iter().cycle() {
        let take = take.min(length - at);
        spool.append(&content(at, take)).unwrap();
        at += take;
        if at == length {
            break;
        }
    }
    assert_eq!((spool.base(), spool.head(), spool.sync().unwrap()), (0, length, length));
    assert_eq!(all(&mut spool, 0), content(0, length));
    assert_eq!(all(&mut spool, SEGMENT - 3), content(SEGMENT - 3, length - SEGMENT + 3));
    assert_eq!(spool.digest(), *blake3::hash(&content(0, length)).as_bytes());
    spool.confirm(2 * SEGMENT - 1);
    assert_eq!(files(&disk).len(), 5);
    assert!(matches!(spool.read(5, 1), Err(SegmentError::Gone { offset: 5, base }) if base == 2 * SEGMENT - 1));
    let before = spool.on_disk();
    spool.confirm(length);
    assert_eq!(files(&disk), [format::name(5 * SEGMENT)]);
    assert!(spool.on_disk() < before);
    drop(spool);
    // What was confirmed last is not known any more, and what is known of it shows in what is there.
    let mut spool = open(&disk, 0, length).unwrap();
    assert_eq!((spool.base(), spool.head(), spool.synced()), (5 * SEGMENT, length, length));
    assert_eq!(all(&mut spool, 5 * SEGMENT), content(5 * SEGMENT, 1000));
    assert_eq!(spool.digest(), *blake3::hash(&content(0, length)).as_bytes());
    spool.remove().unwrap();
    assert!(files(&disk).is_empty());
}

#[test]
fn what_was_confirmed_before_it_was_written_is_not_written() {
    let disk = SimStorage::new(1);
    let mut spool = open(&disk, 0, 0).unwrap();
    spool.append(&content(0, 100)).unwrap();
    let mut at = 100;
    for take in [1000, 500_000, 3, 900_000] {
        spool.confirm(at + take);
        spool.skip(&content(at, take)).unwrap();
        at += take;
    }
    assert!(spool.on_disk() < 10_000);
    assert_eq!(spool.sync().unwrap(), at);
    assert!(spool.on_disk() < BLOCK_BYTES + 10_000 && files(&disk).len() == 1);
    spool.append(&content(at, 100_000)).unwrap();
    spool.sync().unwrap();
    disk.power_cut();
    let mut spool = open(&disk, 0, at + 100_000).unwrap();
    assert_eq!(spool.base(), at);
    assert_eq!(all(&mut spool, at), content(at, 100_000));
    assert_eq!(spool.digest(), *blake3::hash(&content(0, at + 100_000)).as_bytes());
}

#[test]
fn full_is_no_room_and_no_loss_and_room_comes_back() {
    let disk = SimStorage::new(1);
    let account = Account::new(2_000_000);
    let limits = |limit_bytes| Settings { segment_bytes: 8 << 20, limit_bytes };
    let stream = |id: u128, limit| {
        let folder = format!("spool-{id}").into();
        Segments::open(Arc::new(disk.clone()), folder, id, limits(limit), &account, 0, 0).unwrap()
    };
    let (mut a, mut b) = (stream(1, 600_000), stream(2, u64::MAX));
    for spool in [&mut a, &mut b] {
        let mut at = 0;
        while spool.room() > 0 {
            let take = spool.room().min(50_000);
            spool.append(&content(at, take)).unwrap();
            at += take;
        }
        let error = spool.append(&content(at, 50_000)).unwrap_err();
        assert!(matches!(error, SegmentError::Full), "{error}");
        assert_eq!(all(spool, 0), content(0, spool.head()));
        assert_eq!(spool.sync().unwrap(), spool.head());
    }
    assert!(a.on_disk() <= 600_000 && account.used() <= 2_000_000);
    assert!(b.on_disk() > 1_300_000);
    // The last segment of a stream from which all was taken does not stay in the way of others.
    let head = b.head();
    b.confirm(head);
    b.sync().unwrap();
    assert!(b.on_disk() < 70_000 + 2 * HEADER_BYTES as u64);
    assert_eq!(account.used(), a.on_disk() + b.on_disk());
    b.append(&content(head, 500_000)).unwrap();
    assert_eq!(all(&mut b, head), content(head, 500_000));
    drop((a, b));
    assert_eq!(account.used(), 0);
}

#[test]
fn a_damaged_record_is_an_error_with_its_offset_and_never_wrong_bytes() {
    let disk = SimStorage::new(1);
    let mut spool = open(&disk, 0, 0).unwrap();
    spool.append(&content(0, 4 * SEGMENT)).unwrap();
    spool.sync().unwrap();
    drop(spool);
    let path = Path::new(FOLDER).join(format::name(SEGMENT));
    let good = disk.content(&path).unwrap();
    let second = SEGMENT + BLOCK_BYTES;
    for (at, offset) in [(HEADER_BYTES, SEGMENT), (HEADER_BYTES + 5, SEGMENT), (good.len() - 1, second)] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        disk.put(&path, &bad);
        let mut spool = open(&disk, 0, 4 * SEGMENT).unwrap();
        let mut read = 0;
        let error = loop {
            match spool.read(read, 50_000) {
                Ok(bytes) => {
                    assert_eq!(bytes, content(read, bytes.len() as u64));
                    read += bytes.len() as u64;
                }
                Err(error) => break error,
            }
        };
        assert_eq!(read, offset);
        assert!(matches!(error, SegmentError::Damaged { offset: said } if said == offset), "{error}");
        assert_eq!(spool.read(2 * SEGMENT, 10).unwrap(), content(2 * SEGMENT, 10), "behind it all is well");
    }
    // Whole records in each other's places.
    let mut swapped = good[..HEADER_BYTES].to_vec();
    let record = format::RECORD_HEADER_BYTES + RECORD_BYTES;
    swapped.extend_from_slice(&good[HEADER_BYTES + record..HEADER_BYTES + 2 * record]);
    swapped.extend_from_slice(&good[HEADER_BYTES..HEADER_BYTES + record]);
    disk.put(&path, &swapped);
    let error = open(&disk, 0, 0).unwrap().read(SEGMENT, 10).unwrap_err();
    assert!(matches!(error, SegmentError::Damaged { offset: SEGMENT }), "{error}");
    // Cut short, or foreign: not the bytes of another place either.
    disk.put(&path, &good[..good.len() - 100]);
    assert!(matches!(open(&disk, 0, 0).unwrap().read(second, 10), Err(SegmentError::Damaged { .. })));
    let last = Path::new(FOLDER).join(format::name(3 * SEGMENT));
    disk.put(&last, &good);
    assert!(matches!(open(&disk, 0, 0), Err(SegmentError::Damaged { .. })));
    // Damage in the last segment looks like a torn tail: who knows better says so.
    let mut newer = good.clone();
    newer[4] = 9;
    disk.put(&last, &newer);
    assert!(matches!(open(&disk, 0, 0), Err(SegmentError::Newer(9))));
    disk.put(&last, &good[..100]);
    assert!(matches!(open(&disk, 0, 4 * SEGMENT), Err(SegmentError::Damaged { offset }) if offset == 3 * SEGMENT));
    assert_eq!(disk.content(&last).unwrap().len(), 100, "what is damaged is left as it is");
}

#[test]
fn cut_anywhere_in_its_last_segment_it_goes_on_behind_the_last_whole_record() {
    let disk = SimStorage::new(1);
    let mut spool = open(&disk, 0, 0).unwrap();
    let mut ends = vec![SEGMENT];
    spool.append(&content(0, SEGMENT)).unwrap();
    for take in [100, 1, 5000, 70] {
        let head = spool.head();
        spool.append(&content(head, take)).unwrap();
        ends.push(head + take);
    }
    drop(spool);
    let path = Path::new(FOLDER).join(format::name(SEGMENT));
    let good = disk.content(&path).unwrap();
    for cut in 0..=good.len() {
        if cut > HEADER_BYTES + 200 && cut % 97 != 0 && cut < good.len() - 100 {
            continue;
        }
        disk.put(&path, &good[..cut]);
        let mut spool = open(&disk, 0, 0).unwrap();
        let head = spool.head();
        assert!(ends.contains(&head), "cut at {cut}: {head}");
        if head != SEGMENT || cut >= HEADER_BYTES {
            let next = ends.iter().find(|end| **end > head).copied().unwrap_or(head);
            spool.append(&content(head, next - head)).unwrap();
        }
        spool.append(&content(spool.head(), 10)).unwrap();
        assert_eq!(all(&mut spool, 0), content(0, spool.head()));
    }
}

/// A generator for the choices of a test.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }
}

/// Random appends, syncs, confirmations, faults, kills and power cuts: what was synced and not confirmed is there, and right.
fn storm(seed: u64, steps: usize) {
    let disk = SimStorage::new(seed);
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut spool = open(&disk, 0, 0).unwrap();
    // What was said to be synced; what the receiver has confirmed.
    let (mut synced, mut confirmed) = (0, 0);
    for step in 0..steps {
        match chance.below(20) {
            0..=6 => {
                let most = [10, 3000, 200_000][chance.below(3) as usize];
                let data = content(spool.head(), 1 + chance.below(most));
                let before = spool.head();
                let all = before + data.len() as u64;
                match spool.append(&data) {
                    Ok(()) => assert_eq!(spool.head(), all),
                    Err(_) => assert!((before..all).contains(&spool.head())),
                }
            }
            7 | 8 => {
                // A receiver that was quicker than the disk.
                let head = spool.head();
                let take = 1 + chance.below(200_000);
                confirmed = confirmed.max(head + take);
                spool.confirm(confirmed);
                let _ = spool.skip(&content(head, take));
            }
            9..=11 => {
                if let Ok(offset) = spool.sync() {
                    assert_eq!(offset, spool.head());
                    synced = offset;
                }
            }
            12 | 13 => {
                confirmed += chance.below(spool.head().saturating_sub(confirmed) + 1);
                spool.confirm(confirmed);
            }
            14 => {
                let from = spool.base() + chance.below(spool.head() - spool.base() + 1);
                if let Ok(bytes) = spool.read(from, 1 + chance.below(150_000) as usize) {
                    assert_eq!(bytes, content(from, bytes.len() as u64), "seed {seed}, step {step}");
                }
            }
            15 | 16 => disk.set_faults(Faults {
                short_writes_percent: chance.below(60) as u8,
                room_bytes: (chance.below(3) == 0).then(|| chance.below(300_000)),
                fail_call: (chance.below(3) == 0).then(|| chance.below(20)),
                fail_sync: (chance.below(3) == 0).then(|| chance.below(3)),
                die_call: None,
            }),
            17 => disk.set_faults(Faults::default()),
            way => {
                // Not known after a kill: that a sync had failed before it.
                let head = spool.head();
                let kill = way == 18 && !spool.suspect;
                let whole = kill && spool.skipped.is_none();
                if kill {
                    disk.kill();
                } else {
                    disk.power_cut();
                }
                let known = chance.below(confirmed + 1);
                disk.set_faults(Faults {
                    fail_call: (chance.below(3) == 0).then(|| chance.below(20)),
                    ..Faults::default()
                });
                let at_least = if chance.below(2) == 0 { synced } else { 0 };
                spool = match open(&disk, known, at_least) {
                    Ok(spool) => spool,
                    Err(error) => {
                        assert!(matches!(error, SegmentError::Disk(_)), "seed {seed}, step {step}: {error}");
                        disk.set_faults(Faults::default());
                        open(&disk, known, at_least).unwrap()
                    }
                };
                disk.set_faults(Faults::default());
                let found = spool.head();
                assert!(found >= synced && found <= head, "seed {seed}, step {step}: {found}");
                assert!(!whole || found == head, "seed {seed}, step {step}: after a kill {found} of {head}");
                assert!(spool.confirmed() <= confirmed && spool.confirmed() >= known);
                let base = spool.base();
                assert_eq!(all(&mut spool, base), content(base, found - base), "seed {seed}, step {step}");
                assert_eq!(spool.digest(), *blake3::hash(&content(0, found)).as_bytes(), "seed {seed}, step {step}");
                if chance.below(2) == 0 {
                    spool.confirm(confirmed);
                    assert!(spool.base() >= confirmed.min(found), "what was confirmed does not come back");
                }
                synced = synced.max(spool.synced());
            }
        }
        assert!(spool.synced() <= spool.head());
    }
}

#[test]
fn nothing_that_was_synced_is_lost_whatever_happens() {
    for seed in 0..500 {
        storm(seed, 40);
    }
    for seed in 0..5 {
        storm(1_000_000 + seed, 300);
    }
}
