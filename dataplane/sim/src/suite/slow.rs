//! 1 to 3: links on which one frame takes a tenth of a second.

use std::time::Duration;

use super::bed::{A, B, MB, PEER, Profile, connected, file, finish, latencies};
use super::{Row, Size, jain};
use crate::gateway::{Gateway, MessageSender};
use crate::link::{CorruptMode, LinkModel};
use crate::scenario::Sim;

const SECOND: Duration = Duration::from_secs(1);
const COMMAND_BYTES: usize = 256;

/// A file of 1 MB and a command of 256 bytes each second until it is through.
fn file_and_commands(net: &mut Sim, seconds: f64) -> f64 {
    let start = net.now();
    net.send_file(A, PEER, file(0), MB, 10);
    net.send_messages(A, PEER, start, SECOND, COMMAND_BYTES, seconds as u64);
    let elapsed = finish(net, start, Duration::from_secs(600));
    let commands = latencies(net, B).count() * COMMAND_BYTES;
    // the last commands are still on their way
    net.run_while(net.now() + 60 * SECOND, |net| !net.gateway(A).senders.iter().all(MessageSender::is_done));
    (MB as f64 + commands as f64) / elapsed
}

fn lost(gateway: &Gateway, arrived: usize) -> f64 {
    gateway.senders.iter().map(MessageSender::sent).sum::<u64>() as f64 - arrived as f64
}

pub(super) fn blos_clean(_: Size, seed: u64) -> Row {
    let profile = Profile::new(100_000, 100_000, 750);
    let mut net = connected(profile.spec(|model| model), seed);
    let goodput = file_and_commands(&mut net, 80.0);
    let mut row = Row::new(1, "BLOS-clean");
    row.at_least("goodput of file and commands", "of ideal", goodput / profile.ideal(0.0), 0.92);
    row.at_most("commands lost", "", lost(net.gateway(A), latencies(&net, B).count()), 0.0);
    row.commands(latencies(&net, B), 620.0);
    row
}

pub(super) fn los(size: Size, seed: u64) -> Row {
    let profile = Profile::new(500_000, 500_000, 240);
    let jittered = |model| LinkModel { jitter: Duration::from_millis(10), ..model };
    let mut net = connected(profile.spec(jittered), seed);
    let bytes = size.bytes(10 * MB, 4 * MB);
    let start = net.now();
    // streams that outlast the file
    for n in 0..5 {
        net.send_file(A, PEER, file(n), if n == 0 { bytes } else { 2 * bytes }, 10);
    }
    net.send_messages(A, PEER, start, SECOND / 5, COMMAND_BYTES, bytes / 20_000);
    let limit = start + Duration::from_secs(3600);
    net.run_while(limit, |net| net.gateway(A).sources[&file(0)].result().is_none());
    let end = net.now();
    let shares: Vec<f64> = (0..5).map(|n| net.gateway(B).sinks[&file(n)].received_between(start, end) as f64).collect();
    let commands = latencies(&net, B).count() * COMMAND_BYTES;
    let goodput = (shares.iter().sum::<f64>() + commands as f64) / end.since(start).as_secs_f64();
    let mut row = Row::new(2, "LOS");
    row.at_least("goodput of all", "of ideal", goodput / profile.ideal(0.0), 0.95);
    row.at_least("Jain's index of 5 transfers", "", jain(&shares), 0.99);
    row.commands(latencies(&net, B), 190.0);
    row
}

pub(super) fn degraded_blos(_: Size, seed: u64) -> Row {
    let profile = Profile::new(80_000, 80_000, 750);
    let faulty = |model: LinkModel| LinkModel {
        corrupt: 0.01,
        corrupt_mode: CorruptMode::Deliver,
        duplicate: 0.03,
        ..model.loss(0.05)
    };
    let mut spec = profile.spec(faulty);
    // the link is that of 1; the operator caps it below
    spec.model_ab.rate_bps = Some(100_000);
    spec.model_ba.rate_bps = Some(100_000);
    let mut net = connected(spec, seed);
    let goodput = file_and_commands(&mut net, 100.0);
    let mut row = Row::new(3, "degraded-BLOS");
    row.at_least("goodput of file and commands", "of ideal", goodput / profile.ideal(0.06), 0.85);
    row.at_most("commands lost", "", lost(net.gateway(A), latencies(&net, B).count()), 0.0);
    row.commands(latencies(&net, B), 700.0);
    row
}
