//! Several sockets on one UMEM, and sockets that come and go. See README.md for the topology.

mod common;

use std::time::Instant;

use common::{
    Bed, End, PATIENCE, assert_audited, assert_conserved, can_run, check_frame, copy, now_ns, receive_one, settle,
    turn, write_frame,
};
use florelay_xsk::{BindMode, Error, OpenOptions, Socket, Umem, UmemOptions};

const WINDOW: u32 = 128;

#[test]
fn a_relay_forwards_in_place_between_two_sockets_of_one_umem() {
    if !can_run("in-place forward") {
        return;
    }
    const FRAMES: u32 = 20_000;
    const LABEL: [u8; 4] = [0x00, 0x01, 0x01, 0x40];
    let mut bed = Bed::new("fw");
    for namespace in ["a", "r", "b"] {
        bed.namespace(namespace);
    }
    bed.veth(("a", "a"), ("r", "r0"), 1500);
    bed.veth(("r", "r1"), ("b", "b"), 1500);
    let (mut umem_a, mut umem_r, mut umem_b) = (bed.umem("a"), bed.umem("r"), bed.umem("b"));
    let mut a = bed.end("a", "a", &mut umem_a);
    let mut r0 = bed.end("r", "r0", &mut umem_r);
    let mut r1 = bed.end("r", "r1", &mut umem_r);
    let mut b = bed.end("b", "b", &mut umem_b);
    bed.enter("r");
    let zero_copy = OpenOptions { mode: BindMode::ZeroCopy, queue: 1, ..copy(&bed.interface("r1")) };
    assert!(matches!(Socket::open(&mut umem_r, zero_copy), Err(Error::ModeConflict { owner: BindMode::Copy, .. })));
    assert!(matches!(Socket::open(&mut umem_r, copy(&bed.interface("r1"))), Err(Error::AlreadyOpen { .. })));

    let (mut sent, mut arrived) = (0, 0);
    let mut batch = Vec::with_capacity(64);
    let mut last_progress = Instant::now();
    while arrived < FRAMES {
        while sent < FRAMES && sent - arrived < WINDOW {
            let mut frame = umem_a.alloc().expect("pool");
            write_frame(&mut frame, sent, 1000);
            a.socket.tx().send(&mut umem_a, frame).expect("room");
            sent += 1;
        }
        a.socket.tx().kick(&umem_a, now_ns()).expect("kick");
        a.socket.completion().reap(&mut umem_a, 256);

        turn(&mut r0, &mut umem_r, &mut batch);
        for frame in &mut batch {
            frame.push_front(LABEL.len()).expect("headroom for a label").copy_from_slice(&LABEL);
        }
        r1.socket.tx().send_batch(&mut umem_r, &mut batch);
        assert!(batch.is_empty());
        r1.socket.tx().kick(&umem_r, now_ns()).expect("kick");
        r1.socket.completion().reap(&mut umem_r, 256);
        assert_conserved(&umem_r);

        let before = arrived;
        turn(&mut b, &mut umem_b, &mut batch);
        for mut frame in batch.drain(..) {
            assert_eq!(frame.bytes()[..4], LABEL);
            assert!(frame.pull_front(4));
            assert_eq!(check_frame(frame.bytes(), 1000), arrived, "in order, exactly once");
            umem_b.free(frame);
            arrived += 1;
        }
        if arrived > before {
            last_progress = Instant::now();
        } else {
            assert!(last_progress.elapsed() < PATIENCE, "stuck: sent {sent}, arrived {arrived}");
        }
    }
    settle(&mut a, &mut umem_a);
    settle(&mut r1, &mut umem_r);
    assert_eq!(r1.socket.tx().counters().frames, u64::from(FRAMES));
    for umem in [&umem_a, &umem_r, &umem_b] {
        assert_audited(umem);
    }
}

/// One frame from a to b and one back.
fn exchange(a: &mut End, umem_a: &mut Umem, b: &mut End, umem_b: &mut Umem, sequence: u32) {
    let mut frame = umem_a.alloc().expect("pool");
    write_frame(&mut frame, sequence, 200);
    a.socket.tx().send(umem_a, frame).expect("room");
    settle(a, umem_a);
    let frame = receive_one(b, umem_b);
    assert_eq!(check_frame(frame.bytes(), 200), sequence);
    b.socket.tx().send(umem_b, frame).expect("room");
    settle(b, umem_b);
    let frame = receive_one(a, umem_a);
    assert_eq!(check_frame(frame.bytes(), 200), sequence);
    umem_a.free(frame);
}

#[test]
fn a_socket_closed_and_reopened_at_once_works_and_gets_its_frames_back() {
    if !can_run("close and reopen") {
        return;
    }
    let mut bed = Bed::new("re");
    bed.namespace("a");
    bed.namespace("b");
    bed.veth(("a", "a"), ("b", "b"), 1500);
    let (mut umem_a, mut umem_b) = (bed.umem("a"), bed.umem("b"));
    let mut a = bed.end("a", "a", &mut umem_a);
    let mut b = bed.end("b", "b", &mut umem_b);
    exchange(&mut a, &mut umem_a, &mut b, &mut umem_b, 0);
    for turn in 1..=20 {
        let End { program, socket } = a;
        let with_kernel = umem_a.account().fill;
        socket.close(&mut umem_a);
        assert_eq!(umem_a.account().quarantined, with_kernel);
        assert_audited(&umem_a);

        bed.enter("a");
        let socket = Socket::open(&mut umem_a, copy(&bed.interface("a"))).expect("reopen at once");
        let account = umem_a.account();
        assert_eq!((account.quarantined, account.fill, account.free), (0, 1024, 4096 - 1024));
        program.steer(0, socket.fd());
        a = End { program, socket };
        exchange(&mut a, &mut umem_a, &mut b, &mut umem_b, turn);
        assert_audited(&umem_a);
    }
}

#[test]
fn frames_that_are_all_in_quarantine_still_fill_a_reopened_socket() {
    if !can_run("all in quarantine") {
        return;
    }
    let mut bed = Bed::new("qu");
    bed.namespace("a");
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let mut umem = bed.umem_with("a", UmemOptions { frame_count: 1024, huge_pages: false, ..UmemOptions::default() });
    let socket = Socket::open(&mut umem, copy(&bed.interface("a"))).expect("open");
    assert_eq!((umem.account().fill, umem.account().free), (1024, 0));
    socket.close(&mut umem);
    assert_eq!((umem.account().quarantined, umem.account().free), (1024, 0));
    let _socket = Socket::open(&mut umem, copy(&bed.interface("a"))).expect("reopen");
    assert_eq!((umem.account().fill, umem.account().quarantined), (1024, 0));
    assert_audited(&umem);
}

#[test]
fn sockets_of_one_umem_are_closed_and_reopened_in_any_order() {
    if !can_run("any order") {
        return;
    }
    let mut bed = Bed::new("ow");
    bed.namespace("r");
    bed.namespace("b");
    bed.veth(("r", "r0"), ("b", "b0"), 1500);
    bed.veth(("r", "r1"), ("b", "b1"), 1500);
    let (mut umem_r, mut umem_b) = (bed.umem("r"), bed.umem("b"));
    let r0 = bed.end("r", "r0", &mut umem_r);
    let mut r1 = bed.end("r", "r1", &mut umem_r);
    let mut b0 = bed.end("b", "b0", &mut umem_b);
    let mut b1 = bed.end("b", "b1", &mut umem_b);
    exchange(&mut r1, &mut umem_r, &mut b1, &mut umem_b, 0);

    // The socket that registered the memory goes; it comes back through the other one, and then the other through it.
    r0.socket.close(&mut umem_r);
    exchange(&mut r1, &mut umem_r, &mut b1, &mut umem_b, 1);
    let mut r0 = bed.reopen("r", "r0", &mut umem_r, r0.program);
    exchange(&mut r0, &mut umem_r, &mut b0, &mut umem_b, 2);
    exchange(&mut r1, &mut umem_r, &mut b1, &mut umem_b, 3);
    r1.socket.close(&mut umem_r);
    let mut r1 = bed.reopen("r", "r1", &mut umem_r, r1.program);
    exchange(&mut r0, &mut umem_r, &mut b0, &mut umem_b, 4);
    exchange(&mut r1, &mut umem_r, &mut b1, &mut umem_b, 5);
    assert_audited(&umem_r);
}

#[test]
fn a_socket_whose_interface_is_gone_does_not_keep_others_from_the_umem() {
    if !can_run("lender gone") {
        return;
    }
    let mut bed = Bed::new("lg");
    bed.namespace("r");
    bed.namespace("b");
    bed.veth(("r", "r0"), ("b", "b0"), 1500);
    bed.veth(("r", "r1"), ("b", "b1"), 1500);
    bed.veth(("r", "r2"), ("b", "b2"), 1500);
    let (mut umem_r, mut umem_b) = (bed.umem("r"), bed.umem("b"));
    let dead = bed.end("r", "r0", &mut umem_r);
    bed.delete("r", "r0");
    let mut r1 = bed.end("r", "r1", &mut umem_r);
    let mut b1 = bed.end("b", "b1", &mut umem_b);
    exchange(&mut r1, &mut umem_r, &mut b1, &mut umem_b, 0);
    let mut r2 = bed.end("r", "r2", &mut umem_r);
    let mut b2 = bed.end("b", "b2", &mut umem_b);
    exchange(&mut r2, &mut umem_r, &mut b2, &mut umem_b, 1);
    dead.socket.close(&mut umem_r);
    exchange(&mut r1, &mut umem_r, &mut b1, &mut umem_b, 2);
    assert_audited(&umem_r);
}

#[test]
fn a_deleted_interface_is_an_error_not_a_hang() {
    if !can_run("interface deleted") {
        return;
    }
    let mut bed = Bed::new("de");
    bed.namespace("a");
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let mut umem = bed.umem("a");
    let mut a = bed.end("a", "a", &mut umem);
    bed.delete("a", "a");
    let mut frame = umem.alloc().expect("pool");
    write_frame(&mut frame, 0, 100);
    a.socket.tx().send(&mut umem, frame).expect("the ring is still there");
    let error = a.socket.tx().kick_now(now_ns()).expect_err("nothing to send on");
    assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    let End { socket, program } = a;
    socket.close(&mut umem);
    drop(program);
    let account = umem.account();
    assert_eq!((account.quarantined, account.leaked), (1024 + 1, 0), "{account:?}");

    // The name comes back as a new interface: the same UMEM serves it.
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let mut a = bed.end("a", "a", &mut umem);
    let mut umem_b = bed.umem("a");
    let mut b = bed.end("a", "b", &mut umem_b);
    exchange(&mut a, &mut umem, &mut b, &mut umem_b, 1);
    assert_audited(&umem);
}

#[test]
fn an_interface_that_is_down_is_counted_and_retried() {
    if !can_run("interface down") {
        return;
    }
    let mut bed = Bed::new("dn");
    bed.namespace("a");
    bed.veth(("a", "a"), ("a", "b"), 1500);
    let (mut umem, mut umem_b) = (bed.umem("a"), bed.umem("a"));
    let mut a = bed.end("a", "a", &mut umem);
    let mut b = bed.end("a", "b", &mut umem_b);
    bed.set("a", "a", "down");
    let mut frame = umem.alloc().expect("pool");
    write_frame(&mut frame, 7, 100);
    a.socket.tx().send(&mut umem, frame).expect("room");
    a.socket.tx().kick_now(now_ns()).expect("ENETDOWN is not an error");
    assert_eq!((a.socket.tx().kicks().net_down, a.socket.tx().pending()), (1, 1));
    bed.set("a", "a", "up");
    settle(&mut a, &mut umem);
    let frame = receive_one(&mut b, &mut umem_b);
    assert_eq!(check_frame(frame.bytes(), 100), 7);
    umem_b.free(frame);
    assert_audited(&umem);
}
