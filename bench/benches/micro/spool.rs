//! A stream's spool on the disk of the temporary folder, and the hash that it keeps.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use florelay_spool::hash::TreeHasher;
use florelay_spool::segments::{Account, Segments, Settings};
use florelay_spool::storage::RealStorage;

const PIECE_BYTES: usize = 64 << 10;
/// Appended to one spool before it is confirmed, so that the disk does not fill up.
const CONFIRM_BYTES: u64 = 64 << 20;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spool");
    group.throughput(Throughput::Bytes(PIECE_BYTES as u64));
    let piece = vec![7; PIECE_BYTES];
    for (name, sync_bytes) in [("append", u64::MAX), ("append and sync each MiB", 1 << 20)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let storage = Arc::new(RealStorage::new(folder.path().to_owned()));
        let account = Account::new(u64::MAX);
        let opened = Segments::open(storage, "stream".into(), 1, Settings::default(), &account, 0, 0);
        let mut spool = opened.expect("a spool in an empty folder");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                spool.append(&piece).expect("room on disk");
                if spool.head() - spool.synced() >= sync_bytes {
                    spool.sync().expect("a disk that syncs");
                }
                if spool.head() - spool.confirmed() >= CONFIRM_BYTES {
                    spool.confirm(spool.head());
                }
            });
        });
    }
    let mut plain = blake3::Hasher::new();
    group.bench_function("blake3", |bencher| {
        bencher.iter(|| black_box(&mut plain).update(&piece).count());
    });
    let mut tree = TreeHasher::new();
    group.bench_function("blake3 with a state", |bencher| bencher.iter(|| black_box(&mut tree).update(&piece)));
    group.finish();
}
