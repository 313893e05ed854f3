//! 18: three hops, small and large frames, and frames with wrong labels.

use std::time::Duration;

use bytes::Bytes;
use florelay_engine::port::Ecn;
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::link::write_path_header;
use florelay_wire::mpls::{Label, Lse, Tc};

use super::bed::{A, LINK, MB, PEER, Profile, cold, file, finish};
use super::{Row, Size};
use crate::gateway::MessageSender;
use crate::net::NodeId;
use crate::topo::line;

const RELAY: NodeId = NodeId(1);
const FAR: NodeId = NodeId(3);
const HOP: Profile = Profile::new(50_000_000, 50_000_000, 20);

fn frame(forward: u32, backward: u32, ttl: u8) -> Option<Bytes> {
    let lse = |number, bottom, ttl| Some(Lse { label: Label::new(number)?, tc: Tc::BULK, bottom, ttl });
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0 };
    let mut bytes = vec![0; 64];
    write_path_header(&mut bytes, lse(forward, false, ttl)?, lse(backward, true, 255)?, cw)?;
    Some(bytes.into())
}

pub(super) fn labels(size: Size, seed: u64) -> Row {
    let topology = line(&[HOP.spec(|m| m), HOP.spec(|m| m), HOP.spec(|m| m)]);
    let (peer, _) = &topology.config(0).peers[0];
    let (forward, backward) = (peer.out_label.get(), peer.in_label.get());
    let mut net = cold(topology, seed);
    net.run_until_connected(&[(A, PEER), (FAR, PEER)], florelay_engine::time::Nanos(60_000_000_000));
    let start = net.now();
    net.send_file(A, PEER, file(0), size.bytes(100 * MB, 20 * MB), 10);
    // command messages make frames of every size
    for (n, bytes) in [16, 64, 200, 512, 900, 1200, 1500].into_iter().enumerate() {
        let first = start + Duration::from_millis(10 * n as u64);
        net.send_messages(A, PEER, first, Duration::from_millis(20), bytes, 50);
    }
    // the first relay hears a frame with an unknown label, one whose time is up, one with a foreign backward label
    for bytes in [frame(999_999, backward, 64), frame(forward, backward, 1), frame(forward, 999_999, 64)] {
        net.inject(RELAY, LINK, bytes.unwrap_or_default(), Ecn::NotEct);
    }
    finish(&mut net, start, Duration::from_secs(600));
    net.run_while(net.now() + Duration::from_secs(60), |net| {
        !net.gateway(A).senders.iter().all(MessageSender::is_done)
    });
    let mut row = Row::new(18, "label hops");
    let mut reordered = 0;
    for node in net.node_ids().collect::<Vec<_>>() {
        reordered += net.node(node).status().links.iter().map(|link| link.rx_reordered).sum::<u64>();
    }
    row.at_most("frames out of order", "", reordered as f64, 0.0);
    let arrived = net.gateway(FAR).inbox.latencies().len() as f64;
    row.at_least("commands of 16 to 1500 bytes arrived", "of 350", arrived, 350.0);
    let drops = net.node(RELAY).status().links[0].drops.clone();
    let count = |name| drops.iter().find(|(of, _)| *of == name).map_or(0.0, |(_, count)| *count as f64);
    row.at_least("unknown label counted", "", count("unknown_label"), 1.0);
    row.at_least("TTL counted", "", count("ttl_expired"), 1.0);
    row.at_least("backward label counted", "", count("backward_mismatch"), 1.0);
    row
}
