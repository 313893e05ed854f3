//! Token bucket, and the scheduler with flows that always have a packet.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use florelay_bench::rig::{BURST_FRAMES, HeapFrame, HeapPort, MTU_PAYLOAD, link_config};
use florelay_engine::Nanos;
use florelay_engine::config::{Congestion, Limits, LinkId, PeerId};
use florelay_engine::egress::{Class, Egress, EgressLimits, FlowKey, PacketSource, TokenBucket};
use florelay_engine::port::{Ecn, FrameBuf, Port};

/// Flows whose next packet is a frame as it is: what remains is the scheduler.
struct Endless;

impl PacketSource<HeapPort> for Endless {
    fn next_packet(&mut self, _: Nanos, _: FlowKey, _: Class, port: &mut HeapPort) -> Option<(HeapFrame, Ecn)> {
        let mut frame = port.alloc(LinkId(0))?;
        frame.set_len(usize::from(MTU_PAYLOAD));
        Some((frame, Ecn::NotEct))
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bucket");
    group.throughput(Throughput::Elements(1));
    // A packet of 1250 bytes each microsecond at 10 Gbit/s: just what is earned.
    let mut bucket = TokenBucket::new(Nanos::ZERO, Some(10_000_000_000), 96_000);
    let mut now = 0;
    group.bench_function("refill and consume", |b| {
        b.iter(|| {
            now += 1000;
            bucket.refill(Nanos(black_box(now)));
            assert!(bucket.consume(black_box(1250)));
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("egress");
    group.throughput(Throughput::Elements(BURST_FRAMES as u64));
    for flows in [1, 100, 10_000] {
        let config = link_config(0, None, Congestion::Shared);
        let mut egress = Egress::new(Nanos::ZERO, &config, EgressLimits::from(&Limits::default()));
        for flow in 0..flows {
            let key = FlowKey::Peer(PeerId(flow));
            egress.add_flow(key, 1 + flow % 7);
            egress.mark_ready(key, Class::Bulk);
        }
        let mut port = HeapPort::default();
        let mut now = 0;
        group.bench_function(BenchmarkId::new("pull 64", flows), |b| {
            b.iter(|| {
                now += 50_000;
                assert_eq!(egress.pull(Nanos(now), LinkId(0), &mut port, &mut Endless), BURST_FRAMES);
                port.complete();
            });
        });
    }
    group.finish();
}
