//! The egress against a model wire under virtual time: every frame is accounted for, every window is measured.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::link::write_path_header;
use florelay_wire::mpls::{Label, Lse, Tc};
use proptest::prelude::*;

mod queues;

use super::*;
use crate::config::{Congestion, PeerId, Thresholds};

const LINK: LinkId = LinkId(0);
const OVERHEAD: u16 = 42;
const MTU: u16 = 1472;
const MAX_FRAME: u64 = 1514;

#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
}

impl FrameBuf for Frame {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
    fn capacity(&self) -> usize {
        usize::from(MTU)
    }
    fn set_len(&mut self, len: usize) {
        self.bytes.resize(len, 0);
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Sent {
    at: Nanos,
    flow: u32,
    tc: u8,
    bytes: u64,
    sequence: Option<u16>,
    ecn: Ecn,
}

/// A wire: frames take `bytes × 8 / line_bps` each, one after the other; `None` = no time at all.
struct Wire {
    now: Nanos,
    line_bps: Option<u64>,
    room: usize,
    sent: Vec<Sent>,
    /// (completion time, bytes) of frames in the ring.
    ring: VecDeque<(Nanos, u64)>,
    in_hand: i64,
}

impl Wire {
    fn new(line_bps: Option<u64>) -> Self {
        Self { now: Nanos(0), line_bps, room: usize::MAX / 2, sent: Vec::new(), ring: VecDeque::new(), in_hand: 0 }
    }

    fn advance(&mut self, now: Nanos) {
        self.now = now;
        while self.ring.front().is_some_and(|(at, _)| *at <= now) {
            self.ring.pop_front();
        }
    }

    fn make(&mut self, bytes: Vec<u8>) -> Frame {
        self.in_hand += 1;
        Frame { bytes }
    }
}

impl Port for Wire {
    type Frame = Frame;
    fn alloc(&mut self, _: LinkId) -> Option<Frame> {
        Some(self.make(Vec::new()))
    }
    fn free(&mut self, _: Frame) {
        self.in_hand -= 1;
    }
    fn in_flight_bytes(&self, _: LinkId) -> u64 {
        self.ring.iter().map(|(_, bytes)| bytes).sum()
    }
    fn spare_frames(&self) -> usize {
        usize::MAX
    }

    fn tx_room(&self, _: LinkId) -> usize {
        self.room
    }
    fn send(&mut self, _: LinkId, frame: Frame, ecn: Ecn) {
        self.in_hand -= 1;
        self.room -= 1;
        let parsed = florelay_wire::link::parse(&frame.bytes).expect("only whole link payloads are sent");
        let bytes = (frame.bytes.len() as u64 + u64::from(OVERHEAD)).max(60);
        if let Some(line) = self.line_bps {
            let start = self.ring.back().map_or(self.now, |(at, _)| *at);
            self.ring.push_back((start + Duration::from_nanos(bytes * 8_000_000_000 / line), bytes));
        }
        self.sent.push(Sent {
            at: self.now,
            flow: parsed.forward.label.get(),
            tc: parsed.forward.tc.get(),
            bytes,
            sequence: match parsed.body {
                florelay_wire::link::Body::Payload { cw, .. } => Some(cw.sequence),
                florelay_wire::link::Body::Channel { .. } => None,
            },
            ecn,
        });
    }
}

/// A path frame of `bytes` at layer 2 that names its flow in the label.
fn path_frame(flow: u32, tc: u8, bytes: u64) -> Vec<u8> {
    let lse = |label: u32| Lse { label: Label::new(label).unwrap(), tc: Tc::new(tc).unwrap(), bottom: false, ttl: 9 };
    let mut payload = vec![0; bytes as usize - usize::from(OVERHEAD)];
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0 };
    write_path_header(&mut payload, lse(flow), lse(16), cw).unwrap();
    payload
}

fn link_oam() -> Vec<u8> {
    let mut bytes = vec![0; 76];
    let ach = florelay_wire::ach::AchHeader { channel: florelay_wire::ach::ChannelType::Liveness };
    florelay_wire::link::write_link_channel(&mut bytes, Tc::OAM, ach).unwrap();
    bytes
}

fn plan(rate_bps: Option<u64>, burst_bytes: u32, control_percent: u8) -> RatePlan {
    RatePlan { rate_bps, burst_bytes, control_percent }
}

fn link_config(rate: RatePlan) -> LinkConfig {
    LinkConfig {
        id: LINK,
        name: Arc::from("test"),
        mtu_payload: MTU,
        overhead_bytes: OVERHEAD,
        rate,
        delay: Duration::ZERO,
        congestion: Congestion::Contracted,
        liveness_interval: Duration::from_millis(100),
        detect_multiplier: 3,
        liveness_key: [0; 32],
        thresholds: Thresholds::default(),
        admin_up: true,
    }
}

fn egress(rate: RatePlan) -> Egress<Frame> {
    Egress::new(Nanos(0), &link_config(rate), EgressLimits { transit_flow_bytes: 20_000, transit_frames: 100 })
}

impl Egress<Frame> {
    fn queued_of(&mut self, flow: u32) -> u64 {
        self.flows.get_mut(self.by_key[&FlowKey::Transit(flow)]).bulk.bytes()
    }
}

/// Local flows: how many packets each class has left, and their sizes in turn.
#[derive(Default)]
struct Source {
    bulk: Vec<Supply>,
    control: Vec<Supply>,
    asked: usize,
}

#[derive(Clone)]
struct Supply {
    left: usize,
    sizes: Vec<u64>,
    at: usize,
}

fn endless(sizes: &[u64]) -> Supply {
    Supply { left: usize::MAX, sizes: sizes.to_vec(), at: 0 }
}

impl PacketSource<Wire> for Source {
    fn next_packet(&mut self, _: Nanos, key: FlowKey, class: Class, port: &mut Wire) -> Option<(Frame, Ecn)> {
        let FlowKey::Peer(peer) = key else { panic!("transit flows are not pulled") };
        self.asked += 1;
        let (supplies, tc) = if class == Class::Control { (&mut self.control, 6) } else { (&mut self.bulk, 0) };
        let supply = supplies.get_mut(usize::from(peer.0))?;
        supply.left = supply.left.checked_sub(1)?;
        let bytes = supply.sizes[supply.at % supply.sizes.len()];
        supply.at += 1;
        Some((port.make(path_frame(100 + u32::from(peer.0), tc, bytes)), Ecn::NotEct))
    }
}

fn peer(n: usize) -> FlowKey {
    FlowKey::Peer(PeerId(n as u16))
}

/// Pulls whenever the egress asks or the wire completes a frame, until `end`; `feed` runs before each pull.
fn run_until(
    end: Nanos,
    egress: &mut Egress<Frame>,
    wire: &mut Wire,
    source: &mut Source,
    mut feed: impl FnMut(Nanos, &mut Egress<Frame>, &mut Wire),
) {
    loop {
        feed(wire.now, egress, wire);
        while egress.pull(wire.now, LINK, wire, source) > 0 {}
        let completion = wire.ring.front().map(|(at, _)| *at);
        let next = [egress.next_wakeup(wire.now), completion].into_iter().flatten().min();
        match next.filter(|at| *at < end) {
            Some(at) => wire.advance(at),
            None => break,
        }
    }
    wire.advance(end);
}

/// Bytes in every window that begins and ends with a frame ≤ rate × window + burst.
fn assert_cap(sent: &[Sent], rate: u64, burst: u64) {
    for (i, first) in sent.iter().enumerate() {
        let mut bytes = 0u128;
        for frame in &sent[i..] {
            bytes += u128::from(frame.bytes);
            let window = u128::from(frame.at.0 - first.at.0);
            assert!(bytes * 8_000_000_000 <= window * u128::from(rate) + u128::from(burst) * 8_000_000_000);
        }
    }
}

fn bytes_of(sent: &[Sent], which: impl Fn(&Sent) -> bool) -> u64 {
    sent.iter().filter(|s| which(s)).map(|s| s.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    // Bytes that a modem adds to each frame are paid for like those of the frame, also by the smallest.
    #[test]
    fn overhead_is_paid_by_every_frame(modem in 0u16..200, size in 60u64..=MAX_FRAME, rate in 1_000_000u64..100_000_000) {
        let mut config = link_config(plan(Some(rate), 5_000, 10));
        config.overhead_bytes = OVERHEAD + modem;
        let mut egress = Egress::new(Nanos(0), &config, EgressLimits { transit_flow_bytes: 20_000, transit_frames: 100 });
        let mut wire = Wire::new(None);
        let mut source = Source { bulk: vec![endless(&[size])], ..Source::default() };
        egress.add_flow(peer(0), 1);
        egress.mark_ready(peer(0), Class::Bulk);
        let end = Nanos(1_000_000_000);
        run_until(end, &mut egress, &mut wire, &mut source, |_, _, _| {});
        let on_the_wire = wire.sent.len() as u64 * (size + u64::from(modem));
        let allowed = rate / 8 + 5_000;
        prop_assert!(on_the_wire <= allowed && on_the_wire + 2 * (MAX_FRAME + 200) >= allowed, "{on_the_wire} of {allowed}");
        prop_assert_eq!(egress.counters().tx_bytes[Class::Bulk.index()], on_the_wire);
    }

    // Local and transit flows, all backlogged, random sizes: bytes are shared by weight within DRR's bound, the cap holds
    // in every window, and nothing of the rate is left over.
    #[test]
    fn backlogged_flows_share_by_weight(
        flows in prop::collection::vec((1u16..20, prop::collection::vec(60u64..=MAX_FRAME, 1..20), any::<bool>()), 2..7),
        rate in 2_000_000u64..1_000_000_000, burst in 3_000u32..20_000,
    ) {
        let limits = EgressLimits { transit_flow_bytes: 60_000, transit_frames: 8_000 };
        let mut egress = Egress::new(Nanos(0), &link_config(plan(Some(rate), burst, 10)), limits);
        let mut wire = Wire::new(None);
        let mut source = Source::default();
        for (i, (weight, sizes, transit)) in flows.iter().enumerate() {
            source.bulk.push(endless(sizes));
            let key = if *transit { FlowKey::Transit(i as u32) } else { peer(i) };
            egress.add_flow(key, *weight);
            egress.mark_ready(key, Class::Bulk);
        }
        let mut turn = vec![0usize; flows.len()];
        let end = Nanos(600 * MAX_FRAME * 8_000_000_000 / rate);
        run_until(end, &mut egress, &mut wire, &mut source, |_, egress, wire| {
            for (i, (_, sizes, transit)) in flows.iter().enumerate() {
                // More than one pull can send, or it would not be backlogged.
                while *transit && egress.queued_of(i as u32) < 40_000 {
                    let frame = wire.make(path_frame(100 + i as u32, 0, sizes[turn[i] % sizes.len()]));
                    turn[i] += 1;
                    egress.enqueue_transit(i as u32, Class::Bulk, frame, Ecn::NotEct).unwrap();
                }
            }
        });

        let total = bytes_of(&wire.sent, |_| true);
        let allowed = rate * end.0 / 8_000_000_000 + u64::from(burst);
        prop_assert!(total <= allowed && total + 2 * MAX_FRAME >= allowed, "{total} of {allowed}");
        assert_cap(&wire.sent, rate, u64::from(burst));

        let min = f64::from(flows.iter().map(|f| f.0).min().unwrap());
        let normalised: Vec<f64> = flows.iter().enumerate()
            .map(|(i, f)| bytes_of(&wire.sent, |s| s.flow == 100 + i as u32) as f64 / f64::from(f.0)).collect();
        for (i, a) in normalised.iter().enumerate() {
            for (j, b) in normalised.iter().enumerate() {
                // Shreedhar & Varghese, lemma 2: a quantum's worth and one frame of each flow.
                let bound = MAX_FRAME as f64 * (1.0 / min + 1.0 / f64::from(flows[i].0) + 1.0 / f64::from(flows[j].0));
                prop_assert!((a - b).abs() <= bound * 1.01, "{normalised:?}");
            }
        }

        let sequences: Vec<u16> = wire.sent.iter().filter_map(|s| s.sequence).collect();
        prop_assert!(sequences.iter().enumerate().all(|(i, s)| *s == i as u16));
        egress.drain(&mut wire);
        prop_assert_eq!((wire.in_hand, egress.queued_frames(), egress.queued_bytes()), (0, 0, 0));
    }

    // A command becomes ready at any moment of a saturated link: it is on the wire, whole, within two frames and itself.
    #[test]
    fn a_command_waits_for_two_frames_at_most(
        ready_ns in 100_000_000u64..200_000_000, bytes in 60u64..=MAX_FRAME, rate in 1_000_000u64..10_000_000, line in 1u64..4,
    ) {
        let mut egress = egress(plan(Some(rate), 3_028, 100));
        let mut wire = Wire::new(Some(rate * line));
        let mut source = Source { bulk: vec![endless(&[MAX_FRAME])], control: vec![endless(&[bytes])], asked: 0 };
        source.control[0].left = 1;
        egress.add_flow(peer(0), 1);
        egress.mark_ready(peer(0), Class::Bulk);
        run_until(Nanos(ready_ns), &mut egress, &mut wire, &mut source, |_, _, _| {});
        egress.mark_ready(peer(0), Class::Control);
        run_until(Nanos(ready_ns + 200_000_000), &mut egress, &mut wire, &mut source, |_, _, _| {});
        let sent = wire.sent.iter().find(|s| s.tc == 6).expect("the command leaves");
        // What the ring held when it was put there drains first: at most two frames, itself included.
        let frame_ns = MAX_FRAME * 8_000_000_000 / rate;
        prop_assert!(sent.at.0 - ready_ns <= 2 * frame_ns + 2, "{} > 2 × {frame_ns}", sent.at.0 - ready_ns);
        let overtook = wire.sent.iter().filter(|s| s.tc == 0 && s.at.0 > ready_ns && s.at < sent.at).count();
        prop_assert_eq!(overtook, 0, "bulk left between ready and sent");
    }

    // The rate changes at random while everything floods: over the whole run and in each stretch the cap holds.
    #[test]
    fn the_cap_holds_across_rate_changes(
        stretches in prop::collection::vec((1u64..50_000_000, 100_000u64..200_000_000, 1514u32..30_000, any::<bool>()), 1..12),
    ) {
        let (_, rate, burst, _) = stretches[0];
        let mut egress = egress(plan(Some(rate), burst, 30));
        let mut wire = Wire::new(None);
        let mut source = Source {
            bulk: vec![endless(&[MAX_FRAME, 60, 700])], control: vec![endless(&[1200, 90])], asked: 0,
        };
        egress.add_flow(peer(0), 1);
        egress.mark_ready(peer(0), Class::Bulk);
        let (mut allowed, mut largest) = (0u128, 0u32);
        for (ns, rate, burst, control) in stretches {
            egress.set_rate(wire.now, plan(Some(rate), burst, 30));
            if control {
                egress.mark_ready(peer(0), Class::Control);
            }
            let from = wire.sent.len();
            let end = wire.now + Duration::from_nanos(ns);
            run_until(end, &mut egress, &mut wire, &mut source, |_, _, _| {});
            assert_cap(&wire.sent[from..], rate, u64::from(burst));
            largest = largest.max(burst);
            allowed += u128::from(ns) * u128::from(rate);
        }
        let total = u128::from(bytes_of(&wire.sent, |_| true));
        prop_assert!(total * 8_000_000_000 <= allowed + u128::from(largest) * 8_000_000_000);
    }
}

#[test]
fn a_runaway_commander_gets_its_share_and_bulk_the_rest() {
    let mut egress = egress(plan(Some(10_000_000), 15_140, 20));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[MAX_FRAME])], control: vec![endless(&[1200])], asked: 0 };
    egress.add_flow(peer(0), 1);
    egress.mark_ready(peer(0), Class::Bulk);
    egress.mark_ready(peer(0), Class::Control);
    run_until(Nanos(10_000_000_000), &mut egress, &mut wire, &mut source, |_, _, _| {});
    let control = bytes_of(&wire.sent, |s| s.tc == 6);
    let bulk = bytes_of(&wire.sent, |s| s.tc == 0);
    // 20 % of 10 Mbit/s over 10 s is 2.5 MB, plus the policer's burst of 3028, less at most a staged frame.
    assert!((2_500_000 + 3_028 - 1_200..=2_500_000 + 3_028).contains(&control), "{control}");
    assert!((12_500_000 - 2 * MAX_FRAME..=12_500_000 + 15_140).contains(&(control + bulk)), "{}", control + bulk);
    assert_cap(&wire.sent, 10_000_000, 15_140);
    assert_eq!(egress.counters().tx_bytes, [0, control, bulk]);
}

#[test]
fn commands_within_their_share_are_not_held_back() {
    // 1200 bytes each 10 ms is 0.96 Mbit/s, below 1 Mbit/s: each leaves before any bulk frame after it.
    let mut egress = egress(plan(Some(10_000_000), 3_028, 10));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[MAX_FRAME])], control: vec![endless(&[1200])], asked: 0 };
    egress.add_flow(peer(0), 1);
    egress.mark_ready(peer(0), Class::Bulk);
    for round in 1..=200u64 {
        source.control[0].left = 1;
        egress.mark_ready(peer(0), Class::Control);
        let from = wire.sent.len();
        run_until(Nanos(round * 10_000_000), &mut egress, &mut wire, &mut source, |_, _, _| {});
        assert_eq!(wire.sent[from].tc, 6, "round {round}");
        assert!(wire.sent[from].at.0 - (round - 1) * 10_000_000 <= MAX_FRAME * 800, "round {round}");
    }
}

#[test]
fn nothing_overtakes_a_staged_command_but_oam() {
    let mut egress = egress(plan(Some(8_000), 1_514, 100));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[60])], control: vec![endless(&[1000])], asked: 0 };
    egress.add_flow(peer(0), 1);
    egress.mark_ready(peer(0), Class::Bulk);
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 1);
    egress.mark_ready(peer(0), Class::Control);
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 1, "1454 tokens suffice for one of 1000");
    // 454 tokens: the second command is staged, bulk of 60 may not go, OAM may.
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 0);
    let frame = wire.make(link_oam());
    egress.enqueue_oam(frame).unwrap();
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 1);
    assert_eq!(wire.sent.iter().map(|s| s.tc).collect::<Vec<_>>(), [0, 6, 7]);
    // 454 − 118 = 336 left, 664 missing at 1 byte per ms.
    assert_eq!(egress.next_wakeup(Nanos(0)), Some(Nanos(664_000_000)));
    assert_eq!(egress.pull(Nanos(663_999_999), LINK, &mut wire, &mut source), 0);
    assert_eq!(egress.pull(Nanos(664_000_000), LINK, &mut wire, &mut source), 1);
    assert_eq!(wire.sent.last().unwrap().tc, 6);
    egress.drain(&mut wire);
    assert_eq!(wire.in_hand, 0);
}

#[test]
fn control_does_not_overtake_oam_that_waits_for_the_policer() {
    // Policer: 100 bytes/s, burst 3028.
    let mut egress = egress(plan(Some(8_000), 15_140, 10));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[60])], control: vec![endless(&[1500, 1500, 60])], asked: 0 };
    source.control[0].left = 2;
    egress.add_flow(peer(0), 1);
    egress.mark_ready(peer(0), Class::Control);
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 2);
    let frame = wire.make(link_oam());
    egress.enqueue_oam(frame).unwrap();
    source.control[0].left = 1;
    source.bulk[0].left = 1;
    egress.mark_ready(peer(0), Class::Control);
    egress.mark_ready(peer(0), Class::Bulk);
    // 28 + 40 tokens: enough for the command of 60, not for the OAM frame of 118. Bulk may go.
    egress.pull(Nanos(400_000_000), LINK, &mut wire, &mut source);
    egress.pull(Nanos(2_000_000_000), LINK, &mut wire, &mut source);
    assert_eq!(wire.sent.iter().map(|s| s.tc).collect::<Vec<_>>(), [6, 6, 0, 7, 6]);
}

#[test]
fn bulk_is_not_asked_before_a_whole_frame_may_leave() {
    let mut egress = egress(plan(Some(8_000), 1_514, 10));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[100])], ..Source::default() };
    egress.add_flow(peer(0), 1);
    egress.mark_ready(peer(0), Class::Bulk);
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 1);
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 0, "it has left");
    assert_eq!(egress.pull(Nanos(99_000_000), LINK, &mut wire, &mut source), 0);
    assert_eq!(source.asked, 1);
    assert_eq!(egress.next_wakeup(Nanos(99_000_000)), Some(Nanos(100_000_000)));
}

#[test]
fn the_ring_holds_no_more_than_its_limit() {
    // 100 Mbit/s: 1 ms is 12500 bytes. 1 Mbit/s: two frames.
    for (rate, limit) in [(100_000_000, 12_500), (1_000_000, 2 * MAX_FRAME)] {
        let mut egress = egress(plan(Some(rate), 100_000, 10));
        let mut wire = Wire::new(Some(1_000));
        let mut source = Source { bulk: vec![endless(&[MAX_FRAME])], ..Source::default() };
        egress.add_flow(peer(0), 1);
        egress.mark_ready(peer(0), Class::Bulk);
        egress.pull(Nanos(0), LINK, &mut wire, &mut source);
        assert_eq!(wire.in_flight_bytes(LINK), limit / MAX_FRAME * MAX_FRAME);
        assert_eq!(egress.next_wakeup(Nanos(0)), None, "only room is missing");
    }
}

#[test]
fn a_flow_that_wakes_goes_first_once() {
    let mut egress = egress(plan(None, 10_000, 10));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[MAX_FRAME]); 3], ..Source::default() };
    source.bulk[2].left = 0;
    for i in 0..3 {
        egress.add_flow(peer(i), 1);
        egress.mark_ready(peer(i), Class::Bulk);
    }
    let mut pull = |egress: &mut Egress<Frame>, source: &mut Source, frames: usize| {
        let from = wire.sent.len();
        wire.room = frames;
        assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, source), frames);
        wire.sent[from..].iter().map(|s| s.flow - 100).collect::<Vec<_>>()
    };
    assert_eq!(pull(&mut egress, &mut source, 4), [0, 1, 0, 1]);
    source.bulk[2].left = 3;
    egress.mark_ready(peer(2), Class::Bulk);
    assert_eq!(pull(&mut egress, &mut source, 7), [2, 0, 1, 2, 0, 1, 2]);
}
