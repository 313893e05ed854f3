//! 17: a third of everything is lost for one round trip, on a window of many thousand packets.

use std::time::Duration;

use florelay_engine::time::Nanos;

use super::bed::{A, B, LINK, MB, PEER, Profile, connected, file, finish};
use super::{Row, Size};

const PROFILE: Profile = Profile::new(50_000_000, 5_000_000, 650);
const GAP_AT: Nanos = Nanos(10_000_000_000);

pub(super) fn stress(size: Size, seed: u64) -> Row {
    let mut net = connected(PROFILE.spec(|model| model), seed);
    for (at, loss) in [(GAP_AT, 0.3), (GAP_AT + PROFILE.rtt, 0.0)] {
        net.at(at, move |net| {
            let link = net.link_mut((A, LINK));
            let model = link.model().clone().loss(loss);
            link.set_model(model);
        });
    }
    let bytes = size.bytes(1000 * MB, 300 * MB);
    let start = net.now();
    net.send_file(A, PEER, file(0), bytes, 10);
    let seconds = finish(&mut net, start, Duration::from_secs(600));
    let lost_in_ring = net.port(B).counters(LINK).no_frame as f64;
    let mut row = Row::new(17, "gap stress");
    row.at_least("goodput", "of ideal", bytes as f64 / seconds / PROFILE.ideal(0.0), 0.9);
    row.at_most("frames dropped at the receiver", "", lost_in_ring, 0.0);
    row.shown("lost on the link", "frames", net.link((A, LINK)).counters().lost as f64);
    row
}
