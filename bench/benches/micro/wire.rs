//! Headers of one full frame.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, Throughput};
use florelay_bench::FULL_FRAME_BYTES;
use florelay_wire::checksum::Sum;
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::eth::MacAddr;
use florelay_wire::link::{self, write_path_header};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::outer::{self, NextHop, OuterTemplate};

pub(crate) fn bench(criterion: &mut Criterion) {
    let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let hop = NextHop {
        src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        vlan: None,
        src: address("10.0.0.1:6635"),
        dst: address("10.0.0.2:6635"),
    };
    let template = OuterTemplate::new(&hop).expect("same families");
    let mut frame = vec![0x5a; FULL_FRAME_BYTES];
    let (header, payload) = frame.split_at_mut(template.header_len());
    write_path_header(payload, lse(100), lse(101), cw()).expect("room");
    template.write(header, payload, 0, 1).expect("room");

    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse outer and link", |b| {
        b.iter(|| {
            let outer = outer::parse(black_box(&frame)).expect("valid");
            let payload = outer.payload.of(&frame).expect("inside");
            black_box(link::parse(payload).expect("valid"));
        });
    });
    let mut header = vec![0; template.header_len()];
    let payload = frame[template.header_len()..].to_vec();
    group.bench_function("write outer, payload summed", |b| {
        b.iter(|| template.write(black_box(&mut header), black_box(&payload), 0, 1));
    });
    let sum = Sum::of(&payload);
    group.bench_function("write outer, sum known", |b| {
        b.iter(|| template.write_with_sum(black_box(&mut header), payload.len(), black_box(sum), 0, 1));
    });
    group.finish();
}

/// An entry with this label.
pub(crate) fn lse(label: u32) -> Lse {
    Lse { label: Label::new(label).expect("20 bits"), tc: Tc::BULK, bottom: false, ttl: 64 }
}

/// A control word of a QUIC packet.
pub(crate) fn cw() -> ControlWord {
    ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0 }
}
