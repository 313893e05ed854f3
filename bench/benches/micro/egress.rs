//! Token bucket, DRR, the strict queue, and the whole egress: each over 1, 100 and 10 000 of what it serves.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use florelay_bench::rig::{BURST_FRAMES, HeapFrame, HeapPort, MTU_PAYLOAD, link_config};
use florelay_engine::Nanos;
use florelay_engine::config::{Congestion, Limits, LinkId, PeerId};
use florelay_engine::egress::{Class, Egress, EgressLimits, FlowKey, PacketSource, TokenBucket};
use florelay_engine::port::{Ecn, FrameBuf, Port};

const SIZES: [u16; 3] = [1, 100, 10_000];
/// Of 64 packets of the whole egress: commands, and frames of transit paths; the rest is local bulk.
const COMMANDS: u16 = 8;
const TRANSIT: u16 = 24;
/// One burst of 64 full frames at 10 Gbit/s takes 77.5 µs.
const RATE_BPS: u64 = 10_000_000_000;
const BURST_NS: u64 = 80_000;

/// Flows whose next packet is a frame as it is: what remains is the scheduler. Commands as many as there are.
struct Frames {
    commands: usize,
}

impl PacketSource<HeapPort> for Frames {
    fn next_packet(&mut self, _: Nanos, _: FlowKey, class: Class, port: &mut HeapPort) -> Option<(HeapFrame, Ecn)> {
        if class == Class::Control {
            self.commands = self.commands.checked_sub(1)?;
        }
        let mut frame = port.alloc(LinkId(0))?;
        frame.set_len(usize::from(MTU_PAYLOAD));
        Some((frame, Ecn::NotEct))
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bucket");
    group.throughput(Throughput::Elements(1));
    SIZES.into_iter().for_each(|count| buckets(&mut group, count));
    group.finish();
    let mut group = criterion.benchmark_group("egress");
    group.throughput(Throughput::Elements(BURST_FRAMES as u64));
    for flows in SIZES {
        local(&mut group, "DRR: pull 64", flows, Class::Bulk);
        local(&mut group, "strict queue: pull 64", flows, Class::Control);
        whole(&mut group, flows);
    }
    group.finish();
}

/// The buckets of as many links in turn. A packet of 1250 bytes each microsecond at 10 Gbit/s: just what is earned.
fn buckets(group: &mut BenchmarkGroup<'_, WallTime>, count: u16) {
    let mut buckets = vec![TokenBucket::new(Nanos::ZERO, Some(RATE_BPS), 96_000); usize::from(count)];
    let (mut now, mut next) = (0, 0);
    group.bench_function(BenchmarkId::new("refill and consume", count), |b| {
        b.iter(|| {
            now += 1000;
            next = if next + 1 == buckets.len() { 0 } else { next + 1 };
            buckets[next].refill(Nanos(black_box(now)));
            assert!(buckets[next].consume(black_box(1250)));
        });
    });
}

/// An egress with this many flows of two in turn: local, transit; their weights differ.
fn egress(rate_bps: Option<u64>, flows: u16, key: impl Fn(u16) -> FlowKey) -> Egress<HeapFrame> {
    let config = link_config(0, rate_bps, Congestion::Shared);
    let mut egress = Egress::new(Nanos::ZERO, &config, EgressLimits::from(&Limits::default()));
    for flow in 0..flows {
        egress.add_flow(key(flow), 1 + flow % 7);
    }
    egress
}

/// One class of local flows without a cap, each with packets always.
fn local(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, flows: u16, class: Class) {
    let key = |flow| FlowKey::Peer(PeerId(flow));
    let mut egress = egress(None, flows, key);
    for flow in 0..flows {
        egress.mark_ready(key(flow), class);
    }
    let (mut port, mut now, mut source) = (HeapPort::default(), 0, Frames { commands: usize::MAX });
    group.bench_function(BenchmarkId::new(name, flows), |b| {
        b.iter(|| {
            now += BURST_NS;
            assert_eq!(egress.pull(Nanos(now), LinkId(0), &mut port, &mut source), BURST_FRAMES);
            port.complete();
        });
    });
}

/// All together on a capped link: commands, transit frames that are queued in the iteration, local bulk for the rest.
fn whole(group: &mut BenchmarkGroup<'_, WallTime>, flows: u16) {
    let key = |flow: u16| match flow % 2 {
        0 => FlowKey::Peer(PeerId(flow)),
        _ => FlowKey::Transit(u32::from(flow)),
    };
    // One flow cannot be both.
    let flows = flows.max(2);
    let mut egress = egress(Some(RATE_BPS), flows, key);
    for flow in (0..flows).step_by(2) {
        egress.mark_ready(key(flow), Class::Bulk);
    }
    let (mut port, mut now, mut next) = (HeapPort::default(), 0, 0);
    let mut source = Frames { commands: 0 };
    let payload = vec![0; usize::from(MTU_PAYLOAD)];
    group.bench_function(BenchmarkId::new("whole: queue 24, pull 64", flows), |b| {
        b.iter(|| {
            now += BURST_NS;
            for _ in 0..TRANSIT {
                next = (next + 2) % flows;
                let frame = port.receive(&payload).expect("as many are free as were sent");
                let queued = egress.enqueue_transit(u32::from(next) + 1, Class::Bulk, frame, Ecn::Ect0);
                assert!(queued.is_ok(), "what was queued before has left");
            }
            for command in 0..COMMANDS {
                egress.mark_ready(key((next + 2 * command) % flows), Class::Control);
            }
            source.commands = usize::from(COMMANDS);
            assert_eq!(egress.pull(Nanos(now), LinkId(0), &mut port, &mut source), BURST_FRAMES);
            port.complete();
        });
    });
}
