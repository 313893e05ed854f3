//! The table against a model, and frames that were tampered with.

use std::collections::BTreeMap;
use std::time::Duration;

use florelay_wire::ParseError;
use florelay_wire::ach::AchHeader;
use florelay_wire::cw::PayloadType;
use florelay_wire::link::{write_link_channel, write_path_channel, write_path_header};
use florelay_wire::mpls::Lse;
use proptest::prelude::*;

use super::*;
use crate::config::{Congestion, RatePlan, Role, Thresholds};

fn label(n: u32) -> Label {
    Label::new(n).unwrap()
}

fn link(id: u16, mtu_payload: u16) -> LinkConfig {
    LinkConfig {
        id: LinkId(id),
        name: format!("link-{id}").into(),
        mtu_payload,
        overhead_bytes: 42,
        rate: RatePlan { rate_bps: None, burst_bytes: 9000, control_percent: 10 },
        delay: Duration::ZERO,
        congestion: Congestion::Shared,
        liveness_interval: Duration::from_millis(100),
        detect_multiplier: 3,
        liveness_key: [0; 32],
        thresholds: Thresholds::default(),
        admin_up: true,
    }
}

fn peer(id: u16, link: u16, in_label: u32, out_label: u32) -> PeerConfig {
    PeerConfig {
        id: PeerId(id),
        name: format!("peer-{id}").into(),
        spiffe_id: "spiffe://test/peer".into(),
        link: LinkId(link),
        out_label: label(out_label),
        in_label: label(in_label),
        role: Role::Originator,
        quic_mtu: 1200,
        initial_rtt: Duration::from_millis(1),
        path_rate_bps: None,
        return_rate_bps: None,
        weight: 1,
        memory: None,
    }
}

fn end(link: u16, in_label: u32, out_label: u32) -> TransitEnd {
    TransitEnd { link: LinkId(link), in_label: label(in_label), out_label: label(out_label) }
}

fn transit(a: TransitEnd, b: TransitEnd) -> TransitConfig {
    TransitConfig { a, b, weight: 1 }
}

fn lse(n: u32, tc: u8, ttl: u8) -> Lse {
    Lse { label: label(n), tc: Tc::new(tc).unwrap(), bottom: false, ttl }
}

fn data(forward: Lse, backward: Lse, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; PATH_HEADER_BYTES];
    let cw = ControlWord { payload: PayloadType::Quic, flags: 2, sequence };
    write_path_header(&mut bytes, forward, backward, cw).unwrap();
    bytes.extend_from_slice(payload);
    bytes
}

fn channel(forward: Lse, backward: Lse, channel: ChannelType) -> Vec<u8> {
    let mut bytes = vec![7; 40];
    write_path_channel(&mut bytes, forward, backward, AchHeader { channel }).unwrap();
    bytes
}

fn link_oam(channel: ChannelType) -> Vec<u8> {
    let mut bytes = vec![7; 76];
    write_link_channel(&mut bytes, Tc::OAM, AchHeader { channel }).unwrap();
    bytes
}

/// Links 0 and 1; peer 0 on link 0 at label 20; a transit path 30 ↔ 31.
fn table() -> Fib {
    Fib::build(
        &[link(0, 1472), link(1, 1400)],
        &[],
        &[peer(0, 0, 20, 21)],
        &[transit(end(0, 30, 300), end(1, 31, 310))],
    )
    .unwrap()
}

fn verdict(bytes: &[u8]) -> Verdict {
    table().forward(LinkId(0), &mut bytes.to_vec())
}

#[test]
fn pops_to_the_peer() {
    let bytes = data(lse(20, 6, 1), lse(21, 0, 0), 77, b"quic");
    let cw = ControlWord { payload: PayloadType::Quic, flags: 2, sequence: 77 };
    let local = Verdict::Local { peer: PeerId(0), tc: Tc::CONTROL, body: PathBody::Payload(cw), offset: 12 };
    assert_eq!(verdict(&bytes), local);
    let bytes = channel(lse(20, 7, 9), lse(21, 0, 0), ChannelType::Alarm);
    let body = PathBody::Channel(ChannelType::Alarm);
    assert_eq!(verdict(&bytes), Verdict::Local { peer: PeerId(0), tc: Tc::OAM, body, offset: 12 });
    let own = Verdict::LinkOam { channel: ChannelType::Liveness, offset: 8 };
    assert_eq!(verdict(&link_oam(ChannelType::Liveness)), own);
}

#[test]
fn swaps_labels_and_ttl_and_nothing_else() {
    let mut bytes = data(lse(30, 5, 64), lse(300, 3, 9), 77, b"quic");
    let verdict = table().forward(LinkId(0), &mut bytes);
    let tc = Tc::new(5).unwrap();
    assert_eq!(verdict, Verdict::Transit { out_link: LinkId(1), flow: 0, tc, sequence: Some(77) });
    assert_eq!(bytes, data(lse(310, 5, 63), lse(31, 3, 9), 77, b"quic"));
    let mut bytes = channel(lse(31, 7, 64), lse(310, 7, 9), ChannelType::TraceReply);
    let verdict = table().forward(LinkId(1), &mut bytes);
    assert_eq!(verdict, Verdict::Transit { out_link: LinkId(0), flow: 1, tc: Tc::OAM, sequence: None });
    assert_eq!(bytes, channel(lse(300, 7, 63), lse(30, 7, 9), ChannelType::TraceReply));
}

#[test]
fn every_reason_of_its_own() {
    let cases = [
        (data(lse(99, 0, 9), lse(21, 0, 9), 0, b""), DropReason::UnknownLabel),
        (data(lse(16, 0, 9), lse(21, 0, 9), 0, b""), DropReason::UnknownLabel),
        (data(lse(0xF_FFFF, 0, 9), lse(21, 0, 9), 0, b""), DropReason::UnknownLabel),
        (data(lse(20, 0, 9), lse(22, 0, 9), 0, b""), DropReason::BackwardMismatch),
        (data(lse(30, 0, 9), lse(310, 0, 9), 0, b""), DropReason::BackwardMismatch),
        (data(lse(30, 0, 0), lse(300, 0, 9), 0, b""), DropReason::TtlZero),
        (data(lse(20, 0, 0), lse(21, 0, 9), 0, b""), DropReason::TtlZero),
        (data(lse(30, 0, 9), lse(300, 0, 9), 0, &[0; 1400 - 12 + 1]), DropReason::ExceedsMtu),
        (channel(lse(20, 7, 9), lse(21, 0, 9), ChannelType::Liveness), DropReason::WrongScope),
        (link_oam(ChannelType::Alarm), DropReason::WrongScope),
        (vec![0; 3], DropReason::Parse(ParseError::TooShort)),
        (data(lse(12, 0, 9), lse(21, 0, 9), 0, b""), DropReason::Parse(ParseError::ReservedLabel)),
    ];
    for (bytes, reason) in cases {
        let mut after = bytes.clone();
        assert_eq!(table().forward(LinkId(0), &mut after), Verdict::Drop(reason));
        assert_eq!(after, bytes, "{reason:?} changed the frame");
    }
    let mut bytes = data(lse(20, 0, 9), lse(21, 0, 9), 0, b"");
    for link in [LinkId(2), LinkId(u16::MAX)] {
        assert_eq!(table().forward(link, &mut bytes), Verdict::Drop(DropReason::UnknownLink));
    }
    assert!(matches!(
        table().forward(LinkId(0), &mut data(lse(30, 0, 9), lse(300, 0, 9), 0, &[0; 1400 - 12])),
        Verdict::Transit { .. }
    ));
}

#[test]
fn an_expired_frame_stays_as_it_was() {
    let mut bytes = channel(lse(30, 7, 1), lse(300, 0, 9), ChannelType::TraceRequest);
    let before = bytes.clone();
    let body = PathBody::Channel(ChannelType::TraceRequest);
    let expired = Verdict::TtlExpired { flow: 0, tc: Tc::OAM, body, offset: 12 };
    assert_eq!(table().forward(LinkId(0), &mut bytes), expired);
    assert_eq!(bytes, before);
    // Where the path ends TTL 1 is enough.
    let bytes = channel(lse(20, 7, 1), lse(21, 0, 9), ChannelType::TraceRequest);
    assert!(matches!(verdict(&bytes), Verdict::Local { .. }));
}

#[test]
fn refuses_what_cannot_be_a_table() {
    let links = [link(0, 1472), link(1, 1472)];
    let build =
        |peers: &[PeerConfig], transits: &[TransitConfig]| Fib::build(&links, &[], peers, transits).unwrap_err();
    let path = transit(end(0, 30, 300), end(1, 31, 310));

    let error = Fib::build(&[link(0, 1472), link(0, 1472)], &[], &[], &[]).unwrap_err();
    assert!(matches!(error, FibError::DuplicateLink { index: 0, .. }));
    let error = build(&[peer(0, 0, 20, 21), peer(0, 1, 20, 21)], &[]);
    assert!(matches!(error, FibError::DuplicatePeer { index: 0, .. }));
    let error = build(&[peer(0, 2, 20, 21)], &[]);
    assert_eq!(error.to_string(), "the path to `peer-0` uses link 2, which this node does not have");
    let error = build(&[], &[path, transit(end(0, 40, 400), end(7, 41, 410))]);
    assert_eq!(error, FibError::UnknownLink { owner: Owner::Transit(1), index: 7 });
    let error = build(&[peer(0, 0, 20, 15)], &[]);
    assert!(matches!(error, FibError::ReservedLabel { label, .. } if label.get() == 15));
    let error = build(&[peer(0, 0, 0, 20)], &[]);
    assert!(matches!(error, FibError::ReservedLabel { label, .. } if label.get() == 0));
    let error = build(&[peer(0, 1, 31, 99)], &[path]);
    assert_eq!(error.to_string(), "transit row 0 uses in-label 31 on link `link-1`, which another row has already");
    let error = build(&[], &[transit(end(0, 30, 300), end(0, 30, 310))]);
    assert!(matches!(error, FibError::Hairpin { index: 0, .. }));
    // Two labels on one link are a path; the same label on two links too.
    assert!(Fib::build(&links, &[], &[], &[transit(end(0, 30, 300), end(0, 31, 310))]).is_ok());
    assert!(Fib::build(&links, &[], &[peer(0, 0, 20, 21), peer(1, 1, 20, 21)], &[]).is_ok());
}

#[test]
fn no_mutation_of_one_byte_panics_or_gets_through_unnoticed() {
    let fib = table();
    let frames = [
        data(lse(20, 0, 9), lse(21, 0, 9), 1, b"payload"),
        data(lse(30, 6, 9), lse(300, 0, 9), 1, b"payload"),
        channel(lse(30, 7, 1), lse(300, 0, 9), ChannelType::TraceRequest),
        link_oam(ChannelType::Liveness),
    ];
    let mut reasons = std::collections::BTreeSet::new();
    for frame in &frames {
        for at in 0..frame.len() {
            for value in 0..=255u8 {
                let mut bytes = frame.clone();
                bytes[at] = value;
                let before = bytes.clone();
                match fib.forward(LinkId(0), &mut bytes) {
                    Verdict::Drop(reason) => {
                        reasons.insert(reason.name());
                        assert_eq!(bytes, before);
                    }
                    // A label changed never leads to another row here: all rows are further than one byte apart or
                    // have other backward labels.
                    Verdict::Local { peer, .. } => assert_eq!(peer, PeerId(0)),
                    Verdict::Transit { flow, .. } | Verdict::TtlExpired { flow, .. } => {
                        assert_eq!(flow, 0);
                    }
                    Verdict::LinkOam { offset, .. } => assert_eq!(offset, 8),
                }
            }
        }
        for len in 0..frame.len().min(12) {
            let verdict = fib.forward(LinkId(0), &mut frame[..len].to_vec());
            if len < 8 || frame.len() != 76 {
                assert_eq!(verdict, Verdict::Drop(DropReason::Parse(ParseError::TooShort)));
            }
        }
    }
    for name in ["unknown_label", "backward_mismatch", "ttl_zero", "reserved_label", "stack_depth", "bad_nibble"] {
        assert!(reasons.contains(name), "{name} not in {reasons:?}");
    }
}

#[test]
fn rows_lead_to_links_of_other_workers_but_begin_at_own_ones() {
    let foreign = |id, mtu_payload| ForeignLink { id: LinkId(id), name: format!("link-{id}").into(), mtu_payload };
    let rows = [
        transit(end(1, 50, 500), end(2, 51, 510)),
        transit(end(0, 30, 300), end(1, 31, 310)),
        transit(end(1, 50, 501), end(2, 52, 520)),
    ];
    // Rows 0 and 2 clash on link 1: its owner says so, and nobody else knows or cares.
    let table = Fib::build(&[link(0, 1472)], &[foreign(1, 1400), foreign(2, 1472)], &[], &rows).unwrap();
    assert_eq!(table.len(), 1);
    let mut bytes = data(lse(30, 0, 64), lse(300, 0, 9), 77, b"quic");
    let crossing = Verdict::Transit { out_link: LinkId(1), flow: 2, tc: Tc::BULK, sequence: Some(77) };
    assert_eq!(table.forward(LinkId(0), &mut bytes), crossing, "flows are numbered by the node's rows");
    assert_eq!(bytes, data(lse(310, 0, 63), lse(31, 0, 9), 77, b"quic"));
    let mut long = data(lse(30, 0, 64), lse(300, 0, 9), 0, &[0; 1400 - 12 + 1]);
    assert_eq!(table.forward(LinkId(0), &mut long), Verdict::Drop(DropReason::ExceedsMtu));
    let mut elsewhere = data(lse(31, 0, 64), lse(310, 0, 9), 0, b"");
    assert_eq!(table.forward(LinkId(1), &mut elsewhere), Verdict::Drop(DropReason::UnknownLabel));
    let owner = Fib::build(&[link(1, 1400)], &[foreign(0, 1472), foreign(2, 1472)], &[], &rows).unwrap_err();
    assert!(owner.to_string().contains("in-label 50"), "{owner}");
    let missing = Fib::build(&[link(0, 1472)], &[foreign(1, 1400)], &[], &rows).unwrap_err();
    assert!(missing.to_string().contains("link 2"), "{missing}");
}

#[test]
fn a_million_rows_are_found() {
    let links = [link(0, 1472), link(1, 1472)];
    let paths: Vec<_> = (0..500_000).map(|n| transit(end(0, 16 + n, 16 + n), end(1, 16 + n, 16 + n))).collect();
    let fib = Fib::build(&links, &[], &[], &paths).unwrap();
    assert_eq!(fib.len(), 1_000_000);
    assert!(fib.links.iter().flatten().all(|l| matches!(l.rows, Rows::Dense(_))));
    for n in [0u32, 1, 250_000, 499_999] {
        let mut bytes = data(lse(16 + n, 0, 9), lse(16 + n, 0, 9), 0, b"");
        let Verdict::Transit { out_link, flow, .. } = fib.forward(LinkId(1), &mut bytes) else { panic!() };
        assert_eq!((out_link, flow), (LinkId(0), transit_flow(n, Direction::BToA)));
    }
    assert_eq!(fib.row(LinkId(0), label(500_016)), None);
}

proptest! {
    // Rows at random labels, compact or scattered: the table answers like a map.
    #[test]
    fn finds_exactly_the_rows_there_are(
        labels in prop::collection::btree_set(prop_oneof![16u32..200, 16u32..=0xF_FFFF], 0..100),
        probes in prop::collection::vec(prop_oneof![0u32..250, 0u32..=0xF_FFFF], 0..200),
    ) {
        let peers: Vec<_> = labels.iter().enumerate().map(|(i, n)| peer(i as u16, 0, *n, 16 + i as u32)).collect();
        let fib = Fib::build(&[link(0, 1472)], &[], &peers, &[]).unwrap();
        let model: BTreeMap<u32, PeerId> = peers.iter().map(|p| (p.in_label.get(), p.id)).collect();
        for probe in probes.iter().chain(&labels) {
            let found = fib.row(LinkId(0), label(*probe)).map(|row| match row {
                Row::Pop { peer, .. } => *peer,
                Row::Swap { .. } => unreachable!("no transit rows"),
            });
            prop_assert_eq!(found, model.get(probe).copied());
        }
    }

    // What comes back the way a frame went is what would have been sent back at the start: the two directions are inverse.
    #[test]
    fn the_way_back_undoes_the_way_there(
        labels in prop::array::uniform4(16u32..=0xF_FFFF), tcs in prop::array::uniform2(0u8..8), ttl in 3u8..=255,
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let [a_in, a_out, b_in, b_out] = labels;
        let fib = Fib::build(&[link(0, 1472), link(1, 1472)], &[], &[], &[transit(end(0, a_in, a_out), end(1, b_in, b_out))]).unwrap();
        let reflect = |bytes: &[u8]| {
            let frame = link::parse(bytes).unwrap();
            let back = frame.backward.unwrap();
            let forward = Lse { ttl: frame.forward.ttl, tc: frame.forward.tc, label: back.label, bottom: false };
            let backward = Lse { ttl: back.ttl, tc: back.tc, label: frame.forward.label, bottom: true };
            data(forward, backward, 5, &bytes[PATH_HEADER_BYTES..])
        };
        let sent = data(lse(a_in, tcs[0], ttl), lse(a_out, tcs[1], 7), 5, &payload);
        let mut bytes = sent.clone();
        let there = matches!(fib.forward(LinkId(0), &mut bytes), Verdict::Transit { out_link: LinkId(1), flow: 0, .. });
        prop_assert!(there);
        let mut bytes = reflect(&bytes);
        let back = matches!(fib.forward(LinkId(1), &mut bytes), Verdict::Transit { out_link: LinkId(0), flow: 1, .. });
        prop_assert!(back);
        let mut expected = sent;
        expected[3] = ttl - 2;
        prop_assert_eq!(reflect(&bytes), expected);
    }

    // Anything at all: a verdict, never a panic; and bytes change only for transit.
    #[test]
    fn random_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..64), link in 0u16..4) {
        let mut after = bytes.clone();
        if !matches!(table().forward(LinkId(link), &mut after), Verdict::Transit { .. }) {
            prop_assert_eq!(after, bytes);
        }
    }
}
