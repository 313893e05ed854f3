//! 16: the cap, from 80 kb/s to 10 Gb/s, with loss and three peers.
//!
//! The simulation itself checks every window of every run against rate and burst, see `window`.

use std::time::Duration;

use florelay_engine::config::PeerId;

use super::bed::{A, LINK, MB, Profile, cold, file};
use super::{Row, Size};
use crate::link::LinkModel;
use crate::net::NodeId;
use crate::topo::Topology;

const LOSS: f64 = 0.05;
const PEERS: u128 = 3;
/// Over 10 s one frame is 1.5 % of 80 kb/s: slow links are looked at for longer.
const SLOW_BPS: u64 = 1_000_000;
/// At higher rates the mean is over fewer than 10 s, so that the run stays short.
const MAX_FRAMES: f64 = 60_000.0;

/// Mean over 10 s against the cap, in percent.
fn mean_error(rate_bps: u64, max_frames: f64, seed: u64) -> f64 {
    let mut topology = Topology::new();
    for name in ["a", "b"] {
        topology.node(name);
    }
    topology.set_interface_bps(100_000_000_000);
    let mut spec = Profile::new(rate_bps, rate_bps, 20).spec(|model: LinkModel| model.loss(LOSS));
    // the cap is what is tried: the link itself is wide
    spec.model_ab.rate_bps = None;
    spec.model_ba.rate_bps = None;
    let frame_bits = f64::from(spec.full_frame_bytes()) * 8.0;
    let wire = topology.link(0, 1, spec);
    for _ in 0..PEERS {
        topology.path(0, &[wire], 100);
    }
    let mut net = cold(topology, seed);
    let ends: Vec<_> = (0..PEERS as u16).flat_map(|p| [(A, PeerId(p)), (NodeId(1), PeerId(p))]).collect();
    net.run_until_connected(&ends, florelay_engine::time::Nanos(120_000_000_000));
    let seconds = (max_frames * frame_bits / rate_bps as f64).min(if rate_bps < SLOW_BPS { 200.0 } else { 10.0 });
    let enough = (rate_bps as f64 / 8.0 * seconds) as u64 * 3 + 100 * MB;
    for n in 0..PEERS {
        net.send_file(A, PeerId(n as u16), file(n), enough, 10);
    }
    // transfers begin: offer, acceptance, and twice as much for good measure
    net.run_until(net.now() + Duration::from_secs_f64(seconds / 2.0 + 0.2));
    let before = net.port(A).rule(LINK).sent_bytes();
    net.run_until(net.now() + Duration::from_secs_f64(seconds));
    let sent = (net.port(A).rule(LINK).sent_bytes() - before) as f64;
    (sent * 8.0 / seconds / rate_bps as f64 - 1.0) * 100.0
}

pub(super) fn proof(size: Size, seed: u64) -> Row {
    let max_frames = if size == Size::Whole { 10.0 * MAX_FRAMES } else { MAX_FRAMES };
    let rates = [80_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000];
    let errors = rates.map(|rate| mean_error(rate, max_frames, seed));
    let mut row = Row::new(16, "cap proof");
    let names = ["80 kb/s", "1 Mb/s", "10 Mb/s", "100 Mb/s", "1 Gb/s", "10 Gb/s"];
    for (name, error) in names.into_iter().zip(errors) {
        row.at_least(name, "% from the cap", error, -1.0);
    }
    // a burst may fall into the window that the one before had saved
    row.at_most("highest mean", "% from the cap", errors.into_iter().fold(f64::MIN, f64::max), 0.25);
    row
}
