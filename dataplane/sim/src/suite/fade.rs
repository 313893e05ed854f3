//! 8: the rain takes four fifths of the link and gives them back.

use std::time::Duration;

use florelay_engine::config::RatePlan;

use super::bed::{A, B, LINK, MB, PEER, Profile, connected, file, finish, latencies, plan, received};
use super::{Row, Size};
use crate::scenario::Sim;

const CLEAR_BPS: u64 = 50_000_000;
const RAIN_BPS: u64 = 10_000_000;
const RTT_MS: u64 = 650;

/// The plan and the link change together.
fn change(net: &mut Sim, rate_bps: u64, plan: RatePlan) {
    net.set_rate(A, LINK, plan);
    let link = net.link_mut((A, LINK));
    let model = link.model().clone();
    link.set_model(crate::link::LinkModel { rate_bps: Some(rate_bps), ..model });
}

pub(super) fn rain(size: Size, seed: u64) -> Row {
    let profile = Profile::new(CLEAR_BPS, 5_000_000, RTT_MS);
    let spec = profile.spec(|model| model);
    let frame = spec.full_frame_bytes();
    let mut net = connected(spec, seed);
    let bytes = size.bytes(500 * MB, 150 * MB);
    let start = net.now();
    net.send_file(A, PEER, file(0), bytes, 10);
    net.send_messages(A, PEER, start, Duration::from_millis(100), 256, bytes / MB * 2);
    let mut used: f64 = 1.0;
    for (after_s, rate_bps) in [(6, RAIN_BPS), (16, CLEAR_BPS)] {
        net.run_until(start + Duration::from_secs(after_s));
        change(&mut net, rate_bps, plan(rate_bps, frame));
        let settled = net.now() + Duration::from_secs(1);
        net.run_until(settled);
        let before = net.port(A).rule(LINK).sent_bytes();
        net.run_until(settled + Duration::from_secs(2));
        let sent = (net.port(A).rule(LINK).sent_bytes() - before) as f64;
        used = used.min(sent / (rate_bps as f64 / 8.0 * 2.0));
    }
    let dropped = net.link((A, LINK)).counters().queue_dropped;
    finish(&mut net, start, Duration::from_secs(600));
    net.run_while(net.now() + Duration::from_secs(600), |net| !net.gateway(A).senders[0].is_done());
    let lost = net.gateway(A).senders[0].sent() as f64 - latencies(&net, B).count() as f64;
    let whole = received(&net, B, start, net.now());
    let mut row = Row::new(8, "rain fade");
    row.at_least("cap used in the second and third second after a change", "of it", used, 0.97);
    row.at_most("commands lost", "", lost, 0.0);
    row.shown("frames lost in the modem's queue", "", dropped as f64);
    row.at_least("bytes arrived", "of the file", whole as f64 / bytes as f64, 1.0);
    row.commands(latencies(&net, B), RTT_MS as f64 / 2.0 + 50.0);
    row
}
