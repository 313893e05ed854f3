//! What a frame costs in the rings, without and with the kernel: nanoseconds per frame over one veth hop, copy mode.
//!
//! Run as root, alone on the machine: `cargo run -p florelay-xsk --release --example ring_cost`. Both ends run in this
//! thread, so "kernel" is sendto with everything in it: skb, veth, NAPI, XDP and the copy into the receiver's UMEM.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Bed, can_run, now_ns};

/// Frames in a round: fewer than a veth's ring takes.
const ROUND: usize = 128;
const ROUNDS: u32 = 4000;

fn main() {
    if !can_run("ring_cost") {
        return;
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("kernel {}, veth, copy mode, {ROUND} frames a round", kernel.trim());
    println!("bytes  alloc+send  kernel  reap  receive  free+refill   (ns per frame)");
    for len in [64, 1494] {
        let mut bed = Bed::new("rc");
        bed.namespace("a");
        bed.namespace("b");
        bed.veth(("a", "a"), ("b", "b"), 1500);
        let (mut umem_a, mut umem_b) = (bed.umem("a"), bed.umem("b"));
        let mut a = bed.end("a", "a", &mut umem_a);
        let mut b = bed.end("b", "b", &mut umem_b);
        let mut out = Vec::with_capacity(ROUND);
        let mut cost = [Duration::ZERO; 5];
        let mut received = 0_u64;
        for _ in 0..ROUNDS {
            let t0 = Instant::now();
            for _ in 0..ROUND {
                let Some(mut frame) = umem_a.alloc() else {
                    break;
                };
                let fits = frame.set_len(len);
                debug_assert!(fits);
                frame.bytes_mut()[12..14].copy_from_slice(&common::ETHERTYPE);
                if let Err(refused) = a.socket.tx().send(&mut umem_a, frame) {
                    umem_a.free(refused.into_frame());
                }
            }
            let t1 = Instant::now();
            a.socket.tx().kick_now(now_ns()).expect("kick");
            let t2 = Instant::now();
            a.socket.completion().reap(&mut umem_a, usize::MAX);
            let t3 = Instant::now();
            let n = b.socket.rx().receive(&mut umem_b, &mut out, ROUND);
            let t4 = Instant::now();
            for frame in out.drain(..) {
                umem_b.free(frame);
            }
            b.socket.fill().refill(&mut umem_b, n);
            let t5 = Instant::now();
            received += n as u64;
            for (sum, d) in cost.iter_mut().zip([t1 - t0, t2 - t1, t3 - t2, t4 - t3, t5 - t4]) {
                *sum += d;
            }
        }
        let sent = u64::from(ROUNDS) * ROUND as u64;
        let per = |d: Duration, n: u64| d.as_nanos() as f64 / n.max(1) as f64;
        println!(
            "{len:5}  {:10.1}  {:6.0}  {:4.1}  {:7.1}  {:11.1}   received {received} of {sent}",
            per(cost[0], sent),
            per(cost[1], sent),
            per(cost[2], sent),
            per(cost[3], received),
            per(cost[4], received)
        );
    }
}
