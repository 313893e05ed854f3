//! What a start finds on disk of a spool and of the book: files that are torn, damaged, or somebody else's.
//!
//! Invariants: no bytes make a reader panic; a spool that opens gives back as many bytes as it says that it has, and goes on with
//! what is appended; a record that is read is written the same again.

use std::path::Path;
use std::sync::Arc;

use florelay_spool::book;
use florelay_spool::hash::BLOCK_BYTES;
use florelay_spool::segments::{self, Account, SegmentError, Segments, Settings};
use florelay_spool::storage::{SimStorage, Storage as _};

const ID: u128 = 5;
const FOLDER: &str = "spool";

fn settings() -> Settings {
    Settings { segment_bytes: 2 * BLOCK_BYTES, limit_bytes: u64::MAX }
}

fn open(disk: &SimStorage) -> Result<Segments, SegmentError> {
    Segments::open(Arc::new(disk.clone()), FOLDER.into(), ID, settings(), &Account::new(u64::MAX), 0, 0)
}

/// One input: a record of the book, and the last segment of a spool.
pub fn run(bytes: &[u8]) {
    book::check(bytes);
    let _ = segments::check(bytes);
    for name in ["0000000000000000.seg", "0000000000020000.seg"] {
        let disk = SimStorage::new(1);
        disk.put(&Path::new(FOLDER).join(name), bytes);
        let Ok(mut spool) = open(&disk) else { continue };
        let (base, head) = (spool.base(), spool.head());
        let mut read = base;
        while let Ok(piece) = spool.read(read, 10_000)
            && !piece.is_empty()
        {
            read += piece.len() as u64;
        }
        assert_eq!(read, head, "all that it says to have can be read");
        spool.append(b"more").expect("this disk takes all");
        assert_eq!(spool.read(head, 10).expect("just written"), b"more");
        drop(spool);
        assert_eq!(open(&disk).map(|spool| spool.head()).ok(), Some(head + 4));
    }
}

/// Spools of one segment and of two, and a record.
pub fn seeds() -> Vec<Vec<u8>> {
    let disk = SimStorage::new(1);
    let mut seeds = vec![vec![book::VERSION; 90]];
    if let Ok(mut spool) = open(&disk) {
        for length in [100, 3, 1000, 2 * BLOCK_BYTES] {
            let _ = spool.append(&vec![7; length as usize]);
        }
    }
    for name in disk.list(Path::new(FOLDER)).unwrap_or_default() {
        seeds.extend(disk.content(&Path::new(FOLDER).join(name)));
    }
    seeds
}
