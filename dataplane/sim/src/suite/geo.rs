//! 4 to 7: geostationary links (draft-kuhn-quic-4-sat).

use std::time::Duration;

use super::bed::{A, B, LINK, MB, PEER, Profile, cold, connected, file, finish};
use super::{Row, Size};
use crate::link::LinkModel;
use crate::scenario::Sim;
use crate::topo::{LinkSpec, pair};

const LIMIT: Duration = Duration::from_secs(3600);

/// Seconds for a file of `bytes` from A to B, which begins now.
fn down(net: &mut Sim, n: u128, bytes: u64) -> f64 {
    let start = net.now();
    net.send_file(A, PEER, file(n), bytes, 10);
    finish(net, start, LIMIT)
}

pub(super) fn small(_: Size, seed: u64) -> Row {
    let profile = Profile::new(10_000_000, 2_000_000, 650);
    let mut net = connected(profile.spec(|model| model), seed);
    let seconds_down = down(&mut net, 0, 100 * MB);
    let start = net.now();
    net.send_file(B, PEER, file(1), 100 * MB, 10);
    let seconds_up = finish(&mut net, start, LIMIT);
    let mut row = Row::new(4, "GEO small");
    row.at_most("100 MB down", "s", seconds_down, 89.0);
    row.at_most("100 MB up", "s", seconds_up, 440.0);
    row
}

/// 100 MB from the first frame of all, and again 10 s after it was through.
fn from_cold(spec: LinkSpec, seed: u64) -> (Sim, [f64; 2]) {
    let mut net = cold(pair(spec), seed);
    let first = down(&mut net, 0, 100 * MB);
    net.run_until(net.now() + Duration::from_secs(10));
    let again = down(&mut net, 1, 100 * MB);
    (net, [first, again])
}

const LARGE: Profile = Profile::new(250_000_000, 3_000_000, 650);

pub(super) fn large(_: Size, seed: u64) -> Row {
    let (_, [first, again]) = from_cold(LARGE.spec(|model| model), seed);
    let mut row = Row::new(5, "GEO large");
    row.at_most("100 MB from cold", "s", first, 8.0);
    row.at_most("100 MB again after 10 s", "s", again, 5.5);
    row
}

pub(super) fn large_lossy(size: Size, seed: u64) -> Row {
    let (mut net, [first, _]) = from_cold(LARGE.spec(|model: LinkModel| model.loss(0.01)), seed);
    let bytes = size.bytes(1000 * MB, 400 * MB);
    let seconds = down(&mut net, 2, bytes);
    let mut row = Row::new(6, "GEO large lossy");
    row.at_most("100 MB from cold", "s", first, 10.0);
    let goodput = bytes as f64 / seconds / LARGE.ideal(0.01);
    // what is cut from 1 GB has the round trips of the whole
    row.at_least("goodput of 1 GB", "of ideal", goodput, if size == Size::Whole { 0.85 } else { 0.8 });
    row
}

pub(super) fn congested_return(_: Size, seed: u64) -> Row {
    let profile = Profile::new(50_000_000, 500_000, 650);
    let mut net = connected(profile.spec(|model| model), seed);
    let before = net.port(B).rule(LINK).sent_bytes();
    let seconds = down(&mut net, 0, 100 * MB);
    let back = (net.port(B).rule(LINK).sent_bytes() - before) as f64;
    let mut row = Row::new(7, "congested return");
    row.at_most("100 MB down", "s", seconds, 20.0);
    row.at_most("return link used, acknowledgements and all", "of it", back * 8.0 / seconds / 500_000.0, 0.5);
    row
}
