//! Forwarding: lookup, backward-label check, swap in place.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use florelay_bench::rig::link_config;
use florelay_engine::config::{Congestion, LinkId, TransitConfig, TransitEnd};
use florelay_engine::fib::{Fib, Verdict};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_header};
use florelay_wire::mpls::Label;

use crate::wire::{cw, lse};

/// Headers that are tried in turn; a power of two.
const HEADERS: usize = 4096;

pub(crate) fn bench(criterion: &mut Criterion) {
    let links = [0, 1].map(|id| link_config(id, None, Congestion::Shared));
    let mut group = criterion.benchmark_group("fib");
    group.throughput(Throughput::Elements(1));
    for rows in [1, 1000, 100_000] {
        let transits: Vec<_> = (0..rows).map(row).collect();
        let fib = Fib::build(&links, &[], [], &transits).expect("labels are different");
        // Rows in an order that no cache line or predictor guesses.
        let headers: Vec<_> = (0..HEADERS as u32).map(|i| header(i.wrapping_mul(2_654_435_761) % rows)).collect();
        let mut frame = vec![0; 1472];
        let mut next = 0;
        group.bench_function(BenchmarkId::new("forward", rows), |b| {
            b.iter(|| {
                // Forwarding rewrites the labels, so each frame needs its own.
                frame[..PATH_HEADER_BYTES].copy_from_slice(&headers[next]);
                next = (next + 1) % HEADERS;
                let verdict = fib.forward(LinkId(0), black_box(&mut frame));
                assert!(matches!(verdict, Verdict::Transit { .. }));
            });
        });
    }
    group.finish();
}

fn row(index: u32) -> TransitConfig {
    let label = |number| Label::new(number).expect("20 bits");
    let number = Label::FIRST_UNRESERVED + index;
    let end = |link| TransitEnd { link: LinkId(link), in_label: label(number), out_label: label(number) };
    TransitConfig { a: end(0), b: end(1), weight: 1 }
}

fn header(row: u32) -> [u8; PATH_HEADER_BYTES] {
    let label = Label::FIRST_UNRESERVED + row;
    let mut bytes = [0; PATH_HEADER_BYTES];
    write_path_header(&mut bytes, lse(label), lse(label), cw()).expect("room");
    bytes
}
