//! The main job: a file from station-a to station-b by label through the relay, on AF_XDP.

mod common;

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, LinkPlan, Status, root_or_skip};

/// Bytes in CI; `FLORELAY_E2E_BYTES` says otherwise (1000000000 for the 1 GB).
const BYTES: u64 = 64_000_000;

#[test]
fn a_file_arrives_intact_and_every_frame_is_accounted_for() {
    if !root_or_skip("a_file_arrives_intact_and_every_frame_is_accounted_for") {
        return;
    }
    let bytes = std::env::var("FLORELAY_E2E_BYTES").map_or(BYTES, |text| text.parse().unwrap());
    let line = Line::af_xdp(&LinkPlan::default());
    for node in [A, RELAY, B] {
        for link in line.status(node).links() {
            let (rung, reasons) = Status::rung(link);
            assert_eq!(rung, "driver-copy", "veth has no zero-copy: {reasons:?}");
            assert!(reasons.iter().any(|(higher, why)| higher == "zero-copy" && !why.is_empty()), "{reasons:?}");
        }
    }
    let file = line.file("image.raw", bytes);
    let began = std::time::Instant::now();
    let mut send = line.send(&file);
    line.arrive(&mut send, &file, Deadline::after(PATIENCE + PATIENCE * u32::try_from(bytes / 1_000_000_000).unwrap()));
    let took = began.elapsed();
    let digest = send.last_json()["blake3"].as_str().unwrap_or_default().len();
    assert_eq!(digest, 64, "the sender was told the BLAKE3: {}", send.last_json());
    println!(
        "{bytes} bytes in {:.2} s, {:.0} Mbit/s of file",
        took.as_secs_f64(),
        bytes as f64 * 8e-6 / took.as_secs_f64()
    );
    line.assert_no_frame_leaked();
    // An uncapped sender fills a queue sooner or later, and learns from it; nothing else may be dropped.
    let full = ["flow_full", "pool_full", "frames_short"];
    println!("queue drops: {:?}", line.drops_except(&[]));
    assert_eq!(line.drops_except(&full), []);
    line.stop();
}
