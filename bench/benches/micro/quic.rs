//! A full packet from stream to stream, both sides: bare, and through our engine.

use std::time::Instant;

use criterion::{Criterion, Throughput};
use florelay_bench::{credentials, engine_memory, quic_memory};

/// Slow start and cold caches.
const WARM_UP_PACKETS: u64 = 10_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("quic");
    group.throughput(Throughput::Elements(1));
    let crypto = credentials::both_sides().expect("ring makes keys");
    let mut bare = quic_memory::Pair::connect(&crypto).expect("connects");
    while bare.packets() < WARM_UP_PACKETS {
        bare.round().expect("moves");
    }
    group.bench_function("quinn-proto, sent and received", |b| {
        b.iter_custom(|packets| {
            bare.restart_count();
            let began = Instant::now();
            while bare.packets() < packets {
                bare.round().expect("moves");
            }
            // A burst is never cut: what it did too much does not count.
            began.elapsed().mul_f64(packets as f64 / bare.packets() as f64)
        });
    });
    let mut engine = engine_memory::Transfer::start(None).expect("connects");
    while engine.packets() < WARM_UP_PACKETS {
        engine.round().expect("moves");
    }
    group.bench_function("engine, sent and received", |b| {
        b.iter_custom(|packets| {
            engine.restart_count();
            let began = Instant::now();
            while engine.packets() < packets {
                engine.round().expect("moves");
            }
            began.elapsed().mul_f64(packets as f64 / engine.packets() as f64)
        });
    });
    group.finish();
}
