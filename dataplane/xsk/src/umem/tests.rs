//! The state table, without the kernel: what it believes, what it counts, and what comes back.

use super::*;

fn umem() -> Umem {
    let rings = RingSizes { rx: 64, tx: 64 };
    let options = UmemOptions { frame_count: 16, rings, huge_pages: false, ..UmemOptions::default() };
    Umem::new(options).unwrap()
}

fn with_slot(umem: &mut Umem) -> u8 {
    let slot = umem.claim_slot("x", 0).unwrap();
    umem.slots[usize::from(slot)].open = true;
    umem.bound(slot, BindMode::Copy);
    slot
}

/// The addresses of four frames moved to the fill ring.
fn fill(umem: &mut Umem, slot: u8) -> Vec<u64> {
    let mut addresses = Vec::new();
    assert_eq!(umem.take_for_fill(slot, 4, |address| addresses.push(address)), 4);
    addresses
}

#[test]
fn a_wrong_rx_descriptor_is_counted_and_yields_no_frame() {
    let mut umem = umem();
    let slot = with_slot(&mut umem);
    let addresses = fill(&mut umem, slot);
    let address = addresses[0];
    assert!(umem.accept_received(slot, 16 * 2048, 60, false).is_none(), "beyond the UMEM");
    assert!(umem.accept_received(slot, u64::MAX, 60, false).is_none(), "far beyond the UMEM");
    assert!(umem.accept_received(slot, 15 * 2048, 60, false).is_none(), "a free chunk");
    assert!(umem.accept_received(slot + 1, address, 60, false).is_none(), "another socket's chunk");
    assert_eq!(umem.counters().bad_rx_address, 4);
    let frame = umem.accept_received(slot, address, 60, false).expect("the real one");
    assert!(umem.accept_received(slot, address, 60, false).is_none(), "the same one again: it is in hand");
    assert_eq!(umem.counters().bad_rx_address, 5);
    assert!(umem.accept_received(slot, addresses[1] + 256, 2048, false).is_none(), "leaves its chunk");
    assert!(umem.accept_received(slot, addresses[2], 60, true).is_none(), "part of a larger packet");
    assert_eq!(umem.counters().bad_rx_length, 2);
    umem.free(frame);
    assert_eq!((umem.account().fill, umem.account().free), (1, 15));
    assert_eq!(umem.account(), umem.audit());
}

#[test]
fn a_wrong_completion_is_counted_and_frees_nothing() {
    let mut umem = umem();
    let slot = with_slot(&mut umem);
    let mut frame = umem.alloc().unwrap();
    assert!(frame.set_len(100));
    let (address, len) = umem.give_to_tx(slot, frame);
    assert_eq!((len, umem.in_flight(slot)), (100, (1, 100)));
    assert!(!umem.accept_completion(slot, u64::MAX));
    assert!(!umem.accept_completion(slot, address ^ 2048), "another chunk");
    assert!(!umem.accept_completion(slot + 1, address), "another socket");
    assert!(umem.accept_completion(slot, address));
    assert!(!umem.accept_completion(slot, address), "twice");
    assert_eq!(umem.counters().bad_completion_address, 4);
    assert_eq!((umem.account().free, umem.in_flight(slot)), (16, (0, 0)));
    assert_eq!(umem.account(), umem.audit());
}

#[test]
fn the_window_moves_within_its_chunk_only() {
    let mut umem = umem();
    let mut frame = umem.alloc().unwrap();
    assert_eq!((frame.headroom(), frame.capacity(), frame.len()), (HEADROOM_BYTES, 2048 - HEADROOM_BYTES, 0));
    assert!(!frame.set_len(frame.capacity() + 1));
    assert!(frame.set_len(3));
    frame.bytes_mut().copy_from_slice(b"abc");
    frame.push_front(2).unwrap().copy_from_slice(b"12");
    assert_eq!(frame.bytes(), b"12abc");
    assert!(frame.push_front(HEADROOM_BYTES - 1).is_none());
    assert!(!frame.pull_front(6));
    assert!(frame.pull_front(3));
    assert_eq!(frame.bytes(), b"bc");
    assert!(frame.reset(0) && frame.set_len(2048) && !frame.reset(2049));
    assert_eq!(frame.bytes().len(), 2048);
    umem.free(frame);
}

#[test]
fn a_dropped_frame_is_a_counted_leak_until_housekeeping() {
    let mut umem = umem();
    let frame = umem.alloc().unwrap();
    assert_eq!((umem.account().held, umem.account().leaked), (1, 0));
    drop(frame);
    assert_eq!((umem.account().held, umem.account().leaked), (0, 1));
    assert_eq!(umem.account(), umem.audit());
    umem.housekeeping(0);
    assert_eq!((umem.account().free, umem.account().leaked, umem.counters().dropped), (16, 0, 1));
}

#[test]
fn an_empty_pool_gives_none_and_a_foreign_frame_goes_home() {
    let (mut umem, mut other) = (umem(), umem());
    let mut frames: Vec<_> = std::iter::from_fn(|| umem.alloc()).collect();
    assert_eq!(frames.len(), 16);
    other.free(frames.pop().unwrap());
    assert_eq!((other.counters().foreign_frames, other.account().free), (1, 16));
    assert_eq!(umem.account().leaked, 1);
    umem.housekeeping(0);
    assert_eq!(umem.account().free, 1);
    for frame in frames {
        umem.free(frame);
    }
    assert_eq!(umem.account().free, 16);
}

#[test]
fn frames_of_a_closed_socket_wait_and_come_back() {
    let mut umem = umem();
    let slot = with_slot(&mut umem);
    fill(&mut umem, slot);
    umem.region().note_closed(slot);
    umem.housekeeping(1_000);
    assert_eq!((umem.account().quarantined, umem.account().free), (4, 12));
    assert_eq!(umem.account(), umem.audit());
    umem.housekeeping(1_000 + QUARANTINE_NS - 1);
    assert_eq!(umem.account().quarantined, 4);
    umem.housekeeping(1_000 + QUARANTINE_NS);
    assert_eq!((umem.account().quarantined, umem.account().free), (0, 16));
}

#[test]
fn frames_that_the_kernel_did_not_take_come_back_at_once() {
    let mut umem = umem();
    let slot = with_slot(&mut umem);
    let addresses = fill(&mut umem, slot);
    for address in &addresses[1..] {
        umem.return_from_fill(slot, *address);
        umem.return_from_fill(slot, *address);
    }
    umem.return_from_fill(slot + 1, addresses[0]);
    assert_eq!((umem.account().fill, umem.account().free), (1, 15));
    assert_eq!(umem.account(), umem.audit());
}

#[test]
fn without_huge_pages_it_falls_back() {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = info.lines().find_map(|l| l.strip_prefix("HugePages_Free:")).map_or("0", str::trim);
    let options = UmemOptions { frame_count: 1024, huge_pages: true, ..UmemOptions::default() };
    let made = Umem::new(options).unwrap();
    assert!(free != "0" || !made.on_huge_pages());
    assert_eq!(made.account().free, 1024);
}

#[test]
fn sizes_out_of_range_are_refused_by_name() {
    let rings = RingSizes { rx: 100, tx: 64 };
    let refused = Umem::new(UmemOptions { rings, ..UmemOptions::default() });
    assert!(matches!(refused, Err(Error::BadSize { what: "rings.rx", value: 100, .. })));
    let refused = Umem::new(UmemOptions { frame_count: 0, ..UmemOptions::default() });
    assert!(matches!(refused, Err(Error::BadSize { what: "frame_count", .. })));
}
