//! Frames and states cross in order and none is lost or made; what is full is counted; who sleeps is woken.

use florelay_wire::mpls::Tc;

use super::*;
use crate::adapter::share::{Turn, shares};
use crate::plan::{AdapterPlan, PollMode, TransitEndPlan, TransitPlan, fixture};

/// Links by worker and interface; rows by their links.
fn plan(workers: usize, links: &[(usize, Option<&str>)], rows: &[(u16, u16)]) -> NodePlan {
    let link = |(worker, interface): &(usize, Option<&str>)| {
        fixture::link("line", *worker, "10.0.0.1:6635", interface.map_or(AdapterPlan::Udp, fixture::xdp))
    };
    let end = |link| TransitEndPlan { link, in_label: 100, out_label: 200 };
    NodePlan {
        transits: rows.iter().map(|(a, b)| TransitPlan { a: end(*a), b: end(*b), weight: 1 }).collect(),
        ..fixture::node(workers, PollMode::Adaptive, links.iter().map(link).collect())
    }
}

fn rings(plan: &NodePlan) -> Vec<Arc<Rings>> {
    plan.workers.iter().map(|_| Rings::new().unwrap()).collect()
}

/// Two workers, one row across, rings of `frames`.
fn pair(frames: usize) -> (Across, Across, Vec<Arc<Rings>>) {
    let plan = plan(2, &[(0, None), (1, None)], &[(0, 1)]);
    let rings = rings(&plan);
    let mut ends = connect(&plan, &rings, frames).into_iter();
    (ends.next().unwrap(), ends.next().unwrap(), rings)
}

const CROSSING: Crossing = Crossing { link: LinkId(1), flow: 6, tc: Tc::BULK };

fn full(heap: &mut HeapPool, text: &[u8]) -> WorkerFrame {
    let mut frame = heap.alloc().unwrap();
    assert!(frame.fill(text));
    WorkerFrame::Heap(frame)
}

fn free(heap: &mut HeapPool, frame: WorkerFrame) {
    let WorkerFrame::Heap(frame) = frame else { panic!("a heap frame") };
    heap.free(frame);
}

/// Say this over the ring of worker 0; whether there was room.
fn hand_over(across: &mut Across, heap: &mut HeapPool, text: &[u8]) -> bool {
    let frame = full(heap, text);
    let (went, back) = across.hand_over(LinkId(1), Freight::Transit(CROSSING), frame, Ecn::Ect0);
    free(heap, back);
    went
}

fn take(across: &mut Across, heap: &mut HeapPool) -> Vec<Vec<u8>> {
    let mut crossed = Vec::new();
    let count = across.take(heap, &mut crossed);
    assert_eq!(count, crossed.len());
    let bytes = |Crossed { freight, frame, ecn }: Crossed| {
        assert_eq!((freight, ecn), (Freight::Transit(CROSSING), Ecn::Ect0));
        let frame = WorkerFrame::Heap(frame);
        let bytes = frame.bytes().to_vec();
        free(heap, frame);
        bytes
    };
    crossed.into_iter().map(bytes).collect()
}

#[test]
fn frames_cross_in_order_and_every_pool_keeps_its_buffers() {
    let (mut from, mut to, _rings) = pair(4);
    let (mut own, mut theirs) = (HeapPool::new(3), HeapPool::new(3));
    for round in 0..100_u8 {
        for n in 0..3 {
            assert!(hand_over(&mut from, &mut own, &[round, n]));
        }
        assert_eq!(to.waiting(), 3);
        assert_eq!(take(&mut to, &mut theirs), [[round, 0], [round, 1], [round, 2]]);
    }
    for heap in [&own, &theirs] {
        assert_eq!(heap.total(), heap.available(), "a buffer is missing");
    }
    let ring = &from.out[0].0;
    assert_eq!((ring.full.len(), ring.empty.len()), (0, 4));
    assert_eq!((from.counters.transit_out, to.counters.taken), (300, 300));
    assert_eq!(from.counters.copied, 0, "buffers change places");
}

#[test]
fn a_full_ring_gives_the_frame_back_and_counts_by_kind() {
    let (mut from, mut to, _rings) = pair(2);
    let (mut own, mut theirs) = (HeapPool::new(8), HeapPool::new(8));
    assert_eq!([1, 2, 3].map(|n| hand_over(&mut from, &mut own, &[n])), [true, true, false]);
    let stray = full(&mut own, b"stray");
    let (went, back) = from.hand_over(LinkId(1), Freight::Received(LinkId(1)), stray, Ecn::NotEct);
    assert!(!went && back.bytes() == b"stray");
    free(&mut own, back);
    let counters = from.counters;
    assert_eq!((counters.transit_out, counters.transit_full), (2, 1));
    assert_eq!((counters.received_out, counters.received_full), (0, 1));
    assert_eq!(take(&mut to, &mut theirs), [[1], [2]]);
    assert!(hand_over(&mut from, &mut own, &[4]));
    // Nothing leads to a link of one's own, or to one that is not there.
    for link in [LinkId(0), LinkId(7)] {
        let frame = full(&mut own, b"x");
        let (went, back) = from.hand_over(link, Freight::Received(link), frame, Ecn::NotEct);
        assert!(!went);
        free(&mut own, back);
    }
    assert_eq!(own.total(), own.available());
}

#[test]
fn a_receiver_without_buffers_takes_nothing_and_a_burst_is_bounded() {
    let (mut from, mut to, _rings) = pair(2 * BATCH_FRAMES);
    let mut own = HeapPool::new(1);
    for n in 0..BATCH_FRAMES as u8 + 1 {
        assert!(hand_over(&mut from, &mut own, &[n]));
    }
    assert!(take(&mut to, &mut HeapPool::new(0)).is_empty());
    let mut theirs = HeapPool::new(2 * BATCH_FRAMES);
    assert_eq!(take(&mut to, &mut theirs).len(), BATCH_FRAMES);
    assert!(!to.is_quiet());
    assert_eq!(take(&mut to, &mut theirs), [[BATCH_FRAMES as u8]]);
    assert!(to.is_quiet());
}

#[test]
fn only_a_sleeper_is_rung_and_once() {
    let (mut from, to, rings) = pair(8);
    let mut own = HeapPool::new(8);
    hand_over(&mut from, &mut own, b"a");
    assert_eq!(from.ring_bells(), 0, "it is awake");
    rings[1].doorbell.about_to_sleep();
    assert!(!to.is_quiet(), "it looks again before it sleeps");
    assert_eq!(from.ring_bells(), 0, "nothing new");
    hand_over(&mut from, &mut own, b"b");
    hand_over(&mut from, &mut own, b"c");
    assert_eq!((from.ring_bells(), from.ring_bells()), (1, 0));
    rings[1].doorbell.about_to_sleep();
    from.say(LinkNotice { link: LinkId(0), down: None });
    assert_eq!(from.ring_bells(), 1, "news wake too");
}

#[test]
fn of_each_link_the_newest_state_is_heard_by_the_others() {
    let (mut from, mut to, _rings) = pair(1);
    let hear = |across: &mut Across| {
        let mut heard = Vec::new();
        across.hear(|notice| heard.push(notice));
        heard
    };
    let up = LinkNotice { link: LinkId(0), down: None };
    let down = LinkNotice { link: LinkId(0), down: Some(3) };
    assert_eq!(hear(&mut to), []);
    from.say(up);
    assert!(!to.is_quiet());
    assert_eq!((hear(&mut to), hear(&mut to), hear(&mut from)), (vec![up], vec![], vec![]));
    for notice in [down, up, down] {
        from.say(notice);
    }
    assert_eq!(hear(&mut to), [down], "only the newest counts");
    from.say(up);
    from.say(down);
    assert_eq!(hear(&mut to), [], "nothing is new");
    assert!(to.is_quiet());
}

#[test]
fn two_threads_lose_nothing_and_wake_each_other() {
    const FRAMES: u32 = 200_000;
    let (mut from, mut to, rings) = pair(64);
    let sender = std::thread::spawn(move || {
        let mut own = HeapPool::new(1);
        let mut n = 0_u32;
        while n < FRAMES {
            // A frame that does not fit is tried again: here none may be missing.
            n += u32::from(hand_over(&mut from, &mut own, &n.to_be_bytes()));
            from.ring_bells();
        }
        (own.total(), own.available())
    });
    let bell = rings[1].doorbell.fd();
    let mut heap = HeapPool::new(64);
    let mut next = 0_u32;
    while next < FRAMES {
        for bytes in take(&mut to, &mut heap) {
            assert_eq!(bytes, next.to_be_bytes());
            next += 1;
        }
        // As a worker sleeps: say so, look once more, wait for the bell.
        rings[1].doorbell.about_to_sleep();
        let rung = to.is_quiet() && next < FRAMES && {
            let mut fds = [rustix::event::PollFd::new(&bell, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1, "nobody rang at {next}");
            true
        };
        rings[1].doorbell.awake(rung);
    }
    assert_eq!(sender.join().unwrap(), (1, 1));
    assert_eq!(heap.total(), heap.available());
}

#[test]
fn rings_are_where_rows_and_interfaces_are_shared() {
    let row = plan(4, &[(0, None), (1, None), (2, Some("eth0")), (3, Some("eth0"))], &[(1, 0)]);
    let outs: Vec<_> = connect(&row, &rings(&row), 1).iter().map(|across| across.route.clone()).collect();
    const NONE: usize = usize::MAX;
    assert_eq!(outs[0], [NONE, 0, NONE, NONE]);
    assert_eq!(outs[1], [0, NONE, NONE, NONE]);
    assert_eq!(outs[2], [NONE, NONE, NONE, 0]);
    assert_eq!(outs[3], [NONE, NONE, 0, NONE]);
    let apart = plan(2, &[(0, Some("eth0")), (1, Some("eth1"))], &[]);
    assert!(connect(&apart, &rings(&apart), 1).iter().all(Across::is_alone));
}

#[test]
fn queues_are_dealt_to_the_workers_of_an_interface() {
    let plan = plan(3, &[(2, Some("eth0")), (0, Some("eth0")), (1, Some("eth1")), (1, None), (2, Some("eth0"))], &[]);
    assert_eq!(workers_on(&plan, 0), [0, 2]);
    assert_eq!((workers_on(&plan, 3), workers_on(&plan, 9)), (vec![1], vec![]));
    let shares = shares(&plan);
    let queues = |worker: usize, interface: &str| {
        let turn = shares[worker].get(interface)?.turn;
        Some((0..5).filter(|queue| turn.has(*queue)).collect::<Vec<_>>())
    };
    assert_eq!((queues(0, "eth0"), queues(2, "eth0")), (Some(vec![0, 2, 4]), Some(vec![1, 3])));
    assert_eq!((queues(1, "eth0"), queues(1, "eth1")), (None, Some(vec![0, 1, 2, 3, 4])));
    assert!(Turn::ALONE.has(7));
}
