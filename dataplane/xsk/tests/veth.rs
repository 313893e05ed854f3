//! AF_XDP over veth in copy mode: frames cross, come back, and none is lost. See README.md for the topology.

mod common;

use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Instant;

use common::{
    Bed, PATIENCE, assert_audited, assert_conserved, can_run, check_frame, copy, now_ns, receive_one, settle, turn,
    write_frame,
};
use florelay_xsk::poll::{self, ThreadedNapi};
use florelay_xsk::{
    AttachMode, BindMode, Error, FrameSize, HEADROOM_BYTES, KICK_BATCH_FRAMES, Kick, OpenOptions, RingSizes, SendError,
    Socket, TAIL_FLUSH_NS, UmemOptions,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Frames on their way at most: fewer than the 256 slots of a veth's ring (VETH_RING_SIZE, drivers/net/veth.c), so
/// that nothing may be dropped.
const WINDOW: u32 = 128;

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

#[test]
fn zero_copy_on_veth_is_refused_with_a_reason_and_copy_mode_then_works() {
    if !can_run("zero-copy refused") {
        return;
    }
    let mut bed = Bed::new("zc");
    bed.namespace("a");
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let mut umem = bed.umem("a");
    let interface = bed.interface("a");
    let options = OpenOptions { mode: BindMode::ZeroCopy, ..copy(&interface) };
    let refused = Socket::open(&mut umem, options).expect_err("veth has no zero-copy");
    assert_eq!(refused.errno(), Some(libc::EOPNOTSUPP), "{refused}");
    assert!(refused.to_string().contains(&interface) && refused.to_string().contains("zero-copy"), "{refused}");
    assert_eq!(umem.account().free, 4096, "what was filled before the bind is back at once");
    assert_audited(&umem);
    let socket = Socket::open(&mut umem, copy(&interface)).expect("copy mode after a refused zero-copy");
    assert_eq!(socket.bound_mode().expect("XDP_OPTIONS"), BindMode::Copy);
    assert_eq!(florelay_xsk::driver_name(&interface), "veth");
}

#[test]
fn a_full_tx_ring_gives_the_frame_back() {
    if !can_run("queue full") {
        return;
    }
    let mut bed = Bed::new("fu");
    bed.namespace("a");
    bed.namespace("b");
    bed.veth(("a", "a"), ("b", "b"), 1500);
    let rings = RingSizes { rx: 64, tx: 64 };
    let options = UmemOptions { frame_count: 1024, rings, huge_pages: false, ..UmemOptions::default() };
    let mut umem = bed.umem_with("a", options);
    let mut a = bed.end("a", "a", &mut umem);
    assert_eq!(a.socket.fill().in_kernel(&umem), 128, "the fill ring is twice the RX ring and takes no more");
    for sequence in 0..64 {
        let mut frame = umem.alloc().expect("pool");
        write_frame(&mut frame, sequence, 100);
        a.socket.tx().send(&mut umem, frame).expect("room for 64");
    }
    assert_eq!((a.socket.tx().room(), a.socket.tx().in_flight(&umem)), (0, (64, 6400)));
    let mut frame = umem.alloc().expect("pool");
    write_frame(&mut frame, 64, 100);
    let Err(SendError::Full(frame)) = a.socket.tx().send(&mut umem, frame) else { panic!("a full ring took a frame") };
    let mut batch = vec![frame];
    assert_eq!(a.socket.tx().send_batch(&mut umem, &mut batch), 0);
    assert_conserved(&umem);
    settle(&mut a, &mut umem);
    assert_eq!(a.socket.tx().room(), 64);
    assert_eq!(a.socket.tx().send_batch(&mut umem, &mut batch), 1);
    settle(&mut a, &mut umem);
    assert_eq!(a.socket.completion().completed(), 65);
    assert_audited(&umem);

    // What can never be sent comes back, or is freed by the batch.
    let frame = umem.alloc().expect("pool");
    let Err(SendError::TooShort(frame)) = a.socket.tx().send(&mut umem, frame) else { panic!("an empty frame sent") };
    batch.push(frame);
    assert_eq!((a.socket.tx().send_batch(&mut umem, &mut batch), batch.len()), (1, 0));
    assert_eq!(a.socket.tx().counters().too_short, 2);
    assert_audited(&umem);
}

#[test]
fn frames_of_maximum_size_cross_and_larger_ones_are_dropped_and_counted() {
    if !can_run("maximum size") {
        return;
    }
    // With 4096-byte chunks it is veth that limits: a page less headroom and skb_shared_info (drivers/net/veth.c).
    for (tag, frame_size, max) in
        [("m2", FrameSize::Bytes2048, 2048 - HEADROOM_BYTES), ("m4", FrameSize::Bytes4096, 3400)]
    {
        let mut bed = Bed::new(tag);
        bed.namespace("a");
        bed.namespace("b");
        bed.veth(("a", "a"), ("b", "b"), u32::try_from(max).expect("small") + 100 - 14);
        let options = UmemOptions { frame_size, frame_count: 2048, huge_pages: false, ..UmemOptions::default() };
        let (mut umem_a, mut umem_b) = (bed.umem_with("a", options), bed.umem_with("b", options));
        let mut a = bed.end("a", "a", &mut umem_a);
        let mut b = bed.end("b", "b", &mut umem_b);

        let mut too_large = umem_a.alloc().expect("pool");
        assert!(too_large.reset(0), "from the very start of the chunk");
        let larger = if frame_size == FrameSize::Bytes2048 { max + 1 } else { max };
        write_frame(&mut too_large, 0, larger);
        a.socket.tx().send(&mut umem_a, too_large).expect("room");
        let mut largest = umem_a.alloc().expect("pool");
        write_frame(&mut largest, 1, max);
        a.socket.tx().send(&mut umem_a, largest).expect("room");
        settle(&mut a, &mut umem_a);

        let mut sequence = None;
        while sequence != Some(1) {
            let frame = receive_one(&mut b, &mut umem_b);
            sequence = Some(check_frame(frame.bytes(), max));
            assert!(larger == max || sequence == Some(1), "the frame that does not fit a chunk was received");
            umem_b.free(frame);
        }
        if larger > max {
            assert_eq!(b.socket.statistics().expect("XDP_STATISTICS").rx_dropped, 1);
        }
        assert_audited(&umem_a);
        assert_audited(&umem_b);
    }
}

#[test]
fn a_umem_of_another_namespace_is_refused_instead_of_bound_to_a_stranger() {
    if !can_run("other namespace") {
        return;
    }
    let mut bed = Bed::new("ns");
    bed.namespace("a");
    bed.namespace("b");
    bed.veth(("a", "a"), ("b", "b"), 1500);
    let mut umem = bed.umem("a");
    bed.enter("b");
    let refused = Socket::open(&mut umem, copy(&bed.interface("b"))).expect_err("made in a, opened in b");
    assert!(matches!(refused, Error::OtherNamespace), "{refused}");
    bed.enter("a");
    let socket = Socket::open(&mut umem, copy(&bed.interface("a"))).expect("made in a, opened in a");
    drop(socket);
    let missing = Socket::open(&mut bed.umem("b"), copy("none")).expect_err("no such interface");
    assert_eq!(missing.errno(), Some(libc::ENODEV), "{missing}");
}

/// A fresh AF_XDP socket of this thread's namespace.
fn raw_socket() -> OwnedFd {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) };
    assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: just made, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[test]
fn a_socket_made_elsewhere_is_adopted_without_any_capability_to_make_one() {
    if !can_run("adopt") {
        return;
    }
    let mut bed = Bed::new("ad");
    bed.namespace("a");
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let (mut umem, mut umem_b) = (bed.umem("a"), bed.umem("a"));
    let mut b = bed.end("a", "b", &mut umem_b);
    let options = copy(&bed.interface("a"));
    let (made_elsewhere, used, udp) = (raw_socket(), b.socket.fd().try_clone_to_owned().expect("dup"), udp_socket());
    let mut socket = std::thread::scope(|scope| {
        let without_rights = scope.spawn(|| {
            // Pinning memory is another right, which the limit may stand in for.
            let kept = CapabilitySet::IPC_LOCK;
            set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })
                .expect("drop");
            let refused = Socket::open(&mut umem, options.clone()).expect_err("making one needs CAP_NET_RAW");
            assert_eq!(refused.errno(), Some(libc::EPERM), "{refused}");
            let refused = Socket::adopt(&mut umem, options.clone(), udp).expect_err("a UDP socket");
            assert_eq!(refused.errno(), Some(libc::ENOPROTOOPT), "{refused}");
            let refused = Socket::adopt(&mut umem, options.clone(), used).expect_err("a bound socket");
            assert_eq!(refused.errno(), Some(libc::EBUSY), "{refused}");
            Socket::adopt(&mut umem, options, made_elsewhere).expect("a fresh one")
        });
        without_rights.join().expect("no panic")
    });
    let mut frame = umem.alloc().expect("pool");
    write_frame(&mut frame, 5, 100);
    socket.tx().send(&mut umem, frame).expect("room");
    socket.tx().kick_now(now_ns()).expect("kick");
    let frame = receive_one(&mut b, &mut umem_b);
    assert_eq!(check_frame(frame.bytes(), 100), 5);
    umem_b.free(frame);
}

fn udp_socket() -> OwnedFd {
    std::net::UdpSocket::bind("127.0.0.1:0").expect("an address of the namespace's own loopback").into()
}

#[test]
fn the_generic_rung_carries_frames_too() {
    if !can_run("generic") {
        return;
    }
    let mut bed = Bed::new("gn");
    bed.namespace("a");
    bed.namespace("b");
    bed.veth(("a", "a"), ("b", "b"), 1500);
    let (mut umem_a, mut umem_b) = (bed.umem("a"), bed.umem("b"));
    let mut a = bed.end_on("a", "a", &mut umem_a, AttachMode::Skb);
    let mut b = bed.end_on("b", "b", &mut umem_b, AttachMode::Skb);
    for sequence in 0..1000 {
        let mut frame = umem_a.alloc().expect("pool");
        write_frame(&mut frame, sequence, 700);
        a.socket.tx().send(&mut umem_a, frame).expect("room");
        settle(&mut a, &mut umem_a);
        let frame = receive_one(&mut b, &mut umem_b);
        assert_eq!(check_frame(frame.bytes(), 700), sequence);
        umem_b.free(frame);
        b.socket.fill().refill(&mut umem_b, 1);
    }
    assert_audited(&umem_a);
    assert_audited(&umem_b);
}

#[test]
fn a_ring_used_with_another_umem_does_nothing_and_is_counted() {
    if !can_run("foreign ring") {
        return;
    }
    let mut bed = Bed::new("fr");
    bed.namespace("a");
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let (mut umem_a, mut umem_b) = (bed.umem("a"), bed.umem("a"));
    let mut a = bed.end("a", "a", &mut umem_a);
    let mut b = bed.end("a", "b", &mut umem_b);
    let mut frame = umem_a.alloc().expect("pool");
    write_frame(&mut frame, 0, 100);
    let Err(SendError::Foreign(frame)) = b.socket.tx().send(&mut umem_b, frame) else { panic!("foreign frame sent") };
    let Err(SendError::Foreign(frame)) = b.socket.tx().send(&mut umem_a, frame) else { panic!("foreign ring used") };
    a.socket.tx().send(&mut umem_a, frame).expect("its own ring");
    a.socket.tx().kick_now(now_ns()).expect("kick");
    let mut out = Vec::with_capacity(8);
    // The wrong UMEM has the same chunks in the same states: nothing but the check tells them apart.
    assert_eq!(b.socket.rx().receive(&mut umem_a, &mut out, 8), 0);
    assert_eq!(a.socket.completion().reap(&mut umem_b, 8), 0);
    assert_eq!(a.socket.fill().refill(&mut umem_b, 8), 0);
    assert_eq!((umem_a.counters().foreign_rings, umem_b.counters().foreign_rings), (2, 2));
    assert_eq!((umem_a.audit(), umem_b.audit()), (umem_a.account(), umem_b.account()));
    settle(&mut a, &mut umem_a);
    let frame = receive_one(&mut b, &mut umem_b);
    umem_b.free(frame);
}

#[test]
fn poll_modes_can_be_set_on_a_real_socket() {
    if !can_run("poll modes") {
        return;
    }
    let mut bed = Bed::new("pm");
    bed.namespace("a");
    bed.namespace("b");
    bed.veth(("a", "a"), ("b", "b"), 1500);
    let (mut umem_a, mut umem_b) = (bed.umem("a"), bed.umem("b"));
    let mut a = bed.end("a", "a", &mut umem_a);
    let mut b = bed.end("b", "b", &mut umem_b);
    bed.sysfs("b");
    let interface = bed.interface("b");
    assert_eq!(poll::threaded_napi(&interface), ThreadedNapi::Off);
    poll::set_threaded_napi(&interface, true).expect("veth has NAPI while XDP is attached");
    assert_eq!(poll::threaded_napi(&interface), ThreadedNapi::On);
    poll::busy_poll(&b.socket, true).expect("SO_PREFER_BUSY_POLL");
    poll::prefer_busy_poll(&b.socket, false).expect("stepping down");
    for sequence in 0..100 {
        let mut frame = umem_a.alloc().expect("pool");
        write_frame(&mut frame, sequence, 300);
        a.socket.tx().send(&mut umem_a, frame).expect("room");
        settle(&mut a, &mut umem_a);
        let frame = receive_one(&mut b, &mut umem_b);
        assert_eq!(check_frame(frame.bytes(), 300), sequence);
        umem_b.free(frame);
    }
    poll::set_threaded_napi(&interface, false).expect("off again");
    assert_eq!(poll::threaded_napi(&interface), ThreadedNapi::Off);
}

#[test]
fn a_burst_costs_one_kick_for_many_frames() {
    if !can_run("kicks") {
        return;
    }
    let mut bed = Bed::new("kk");
    bed.namespace("a");
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let mut umem = bed.umem("a");
    let mut a = bed.end("a", "a", &mut umem);
    // Virtual time: the clock is ours, so which calls are due is exact.
    for sequence in 0..(10 * KICK_BATCH_FRAMES) {
        let mut frame = umem.alloc().expect("pool");
        write_frame(&mut frame, sequence, 100);
        a.socket.tx().send(&mut umem, frame).expect("room");
        let _ = a.socket.tx().kick(&umem, 1_000).expect("kick");
    }
    assert_eq!((a.socket.tx().kicks().calls, a.socket.tx().pending()), (10, 0));
    let mut frame = umem.alloc().expect("pool");
    write_frame(&mut frame, 0, 100);
    a.socket.tx().send(&mut umem, frame).expect("room");
    assert_eq!(a.socket.tx().kick(&umem, 2_000).expect("kick"), Kick::NotDue);
    assert_eq!(a.socket.tx().deadline_ns(), Some(2_000 + TAIL_FLUSH_NS));
    assert_eq!(a.socket.tx().kick(&umem, 2_000 + TAIL_FLUSH_NS).expect("kick"), Kick::Done);
    settle(&mut a, &mut umem);
    assert_audited(&umem);
}
