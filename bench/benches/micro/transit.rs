//! A relay's whole path: parse, forward, queue, schedule, stamp, send; without a wire.

use criterion::{Criterion, Throughput};
use florelay_bench::rig::{BURST_FRAMES, HeapPort, MTU_PAYLOAD, relay};
use florelay_engine::config::LinkId;
use florelay_engine::port::{Ecn, FrameBuf, Port};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_header};

use crate::wire::{cw, lse};

pub(crate) fn bench(criterion: &mut Criterion) {
    let (mut relay, now) = relay().expect("its links come up");
    let mut header = [0; PATH_HEADER_BYTES];
    write_path_header(&mut header, lse(100), lse(101), cw()).expect("room");
    let mut group = criterion.benchmark_group("transit");
    group.throughput(Throughput::Elements(BURST_FRAMES as u64));
    group.bench_function("64 frames", |b| {
        b.iter(|| {
            for _ in 0..BURST_FRAMES {
                let frame = arrival(&mut relay.port, &header);
                relay.engine.handle_frame(now, LinkId(0), frame, Ecn::NotEct, &mut relay.port);
            }
            assert_eq!(relay.engine.transmit(now, LinkId(1), &mut relay.port), BURST_FRAMES);
            relay.port.complete();
        });
    });
    group.finish();
}

/// A full frame; only its header is written, as if the NIC had put it there.
fn arrival(port: &mut HeapPort, header: &[u8]) -> florelay_bench::rig::HeapFrame {
    let mut frame = port.alloc(LinkId(0)).expect("the pool is larger than a burst");
    frame.set_len(usize::from(MTU_PAYLOAD));
    frame.bytes_mut()[..header.len()].copy_from_slice(header);
    frame
}
