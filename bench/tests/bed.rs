//! The bed of the veth run, on the real kernel: it stands, it connects, it goes away. Needs root.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use florelay_bench::bed::{Bed, Offloads, Side};
use florelay_bench::blast;
use florelay_xsk::BindMode;

/// Without root: a visible SKIPPED, or a failure where CI=true.
fn can_run(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: needs root, and CI=true forbids skipping");
    // Not eprintln!, which the test harness hides when the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs root (namespaces, XDP, AF_XDP)");
    false
}

#[test]
fn a_bed_connects_its_sides_and_leaves_nothing() {
    if !can_run("bed") {
        return;
    }
    let bed = Bed::new(Offloads::Off).unwrap();
    let names = [Side::A, Side::B].map(|side| bed.namespace(side));
    let path = |name: &String| Path::new("/run/netns").join(name);
    assert!(names.iter().all(|name| path(name).exists()));
    let socket = |side: Side| {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                bed.settle(side).unwrap();
                UdpSocket::bind((side.address(), 5000)).unwrap()
            });
            inside.join().unwrap()
        })
    };
    let (a, b) = (socket(Side::A), socket(Side::B));
    b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    a.send_to(b"over the wire", (Side::B.address(), 5000)).unwrap();
    let mut buffer = [0; 64];
    let (len, from) = b.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.ip()), (&b"over the wire"[..], Side::A.address().into()));
    drop(bed);
    assert!(!names.iter().any(|name| path(name).exists()));
}

#[test]
fn blasted_frames_pass_the_program_and_arrive() {
    if !can_run("blast") {
        return;
    }
    let blast = blast::run(64, Duration::from_millis(200)).unwrap();
    assert!(blast.received_per_s > 0.0 && blast.sent_per_s > 0.0, "{blast:?}");
    assert_eq!(blast.mode, BindMode::Copy, "veth has no zero-copy");
    // Copy mode: a frame leaves by a system call, but many by one.
    assert!(blast.kicks_per_frame > 0.0 && blast.kicks_per_frame < 1.0, "{blast:?}");
}
