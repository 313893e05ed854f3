//! Parts alone, by criterion: `cargo bench -p florelay-bench`, about two minutes. No privilege needed.
//!
//! | group | what one iteration is |
//! |---|---|
//! | wire | one 1514-byte frame: outer and link headers parsed; outer header written |
//! | fib | one frame forwarded, over 1, 1000 and 100 000 transit rows |
//! | bucket | one refill and one packet's tokens, of 1, 100 and 10 000 buckets in turn |
//! | egress | 64 packets pulled from 1, 100 and 10 000 flows: DRR alone, the strict queue alone, everything with cap and transit |
//! | transit | 64 frames through `handle_frame` and `transmit` of a relay |
//! | spool | 64 KiB of a stream appended to its spool on disk: written, and each MiB synced; and BLAKE3 of it, plain and with a state |
//! | quic | one full packet, sent and received: bare quinn-proto, and our engine |
//!
//! Figures compare with each other on one machine in one run; take none out of its context.

mod egress;
mod fib;
mod quic;
mod spool;
mod transit;
mod wire;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    wire::bench(&mut criterion);
    fib::bench(&mut criterion);
    egress::bench(&mut criterion);
    transit::bench(&mut criterion);
    quic::bench(&mut criterion);
    spool::bench(&mut criterion);
    criterion.final_summary();
}
