//! AF_XDP over veth in copy mode: frames cross, come back, and none is lost. See README.md for the topology.

mod common;

use std::time::Instant;

use common::{
    Bed, End, PATIENCE, assert_audited, assert_conserved, can_run, check_frame, now_ns, write_frame,
};
use florelay_xsk::{Frame, Umem};

/// Frames on their way at most: fewer than the 256 slots of a veth's ring (VETH_RING_SIZE, drivers/net/veth.c), so
/// that nothing may be dropped.
const WINDOW: u32 = 128;

/// One turn of a worker: reap, refill, receive.
fn turn(end: &mut End, umem: &mut Umem, out: &mut Vec<Frame>) -> usize {
    let rings = end.socket.rings();
    rings.completion.reap(umem, 256);
    rings.fill.refill(umem, 256usize.saturating_sub(rings.fill.in_kernel(umem) as usize));
    rings.fill.wake();
    rings.rx.receive(umem, out, 64)
}

#[test]
fn echo_100k_frames_both_ways_with_conservation_after_every_batch() {
    if !can_run("echo") {
        return;
    }
    const FRAMES: u32 = 100_000;
    let mut bed = Bed::new("ec");
    bed.namespace("a");
    bed.namespace("b");
    bed.veth(("a", "a"), ("b", "b"), 1500);
    let (mut umem_a, mut umem_b) = (bed.umem("a"), bed.umem("b"));
    let mut a = bed.end("a", "a", &mut umem_a);
    let mut b = bed.end("b", "b", &mut umem_b);
    let len_of = |sequence: u32| 60 + (sequence as usize * 7) % 1455;

    let (mut sent, mut back) = (0, 0);
    let mut batch = Vec::with_capacity(64);
    let mut last_progress = Instant::now();
    while back < FRAMES {
        while sent < FRAMES && sent - back < WINDOW {
            let mut frame = umem_a.alloc().expect("the pool is larger than the window");
            write_frame(&mut frame, sent, len_of(sent));
            a.socket.tx().send(&mut umem_a, frame).expect("room");
            sent += 1;
        }
        a.socket.tx().kick(&umem_a, now_ns()).expect("kick");

        turn(&mut b, &mut umem_b, &mut batch);
        for frame in &batch {
            let sequence = check_frame(frame.bytes(), frame.len());
            assert_eq!(frame.len(), len_of(sequence));
        }
        b.socket.tx().send_batch(&mut umem_b, &mut batch);
        assert!(batch.is_empty(), "the TX ring is larger than the window");
        b.socket.tx().kick(&umem_b, now_ns()).expect("kick");

        let before = back;
        turn(&mut a, &mut umem_a, &mut batch);
        for frame in batch.drain(..) {
            assert_eq!(check_frame(frame.bytes(), len_of(back)), back, "in order, exactly once");
            umem_a.free(frame);
            back += 1;
        }
        assert_conserved(&umem_a);
        assert_conserved(&umem_b);
        if back > before {
            last_progress = Instant::now();
        } else {
            assert!(last_progress.elapsed() < PATIENCE, "stuck: sent {sent}, back {back}");
        }
    }
    settle(&mut a, &mut umem_a);
    settle(&mut b, &mut umem_b);
    let calls = a.socket.tx().kicks().calls;
    println!("echo: {FRAMES} frames, {calls} kicks ({:.3} per frame)", calls as f64 / f64::from(FRAMES));
    for (end, umem) in [(&mut a, &umem_a), (&mut b, &umem_b)] {
        assert_eq!(end.socket.tx().counters().frames, u64::from(FRAMES));
        let statistics = end.socket.statistics().expect("XDP_STATISTICS");
        assert_eq!((statistics.rx_dropped, statistics.tx_invalid_descs), (0, 0), "{statistics:?}");
        assert_audited(umem);
    }
}

/// Reap until nothing is in flight.
fn settle(end: &mut End, umem: &mut Umem) {
    let began = Instant::now();
    while umem.account().tx > 0 {
        end.socket.tx().kick(umem, now_ns()).expect("kick");
        end.socket.completion().reap(umem, usize::MAX);
        assert!(began.elapsed() < PATIENCE, "not completed: {:?}", umem.account());
        std::thread::yield_now();
    }
}
