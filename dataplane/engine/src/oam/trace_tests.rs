//! A trace through real forwarding tables: station-a — relay-1 — relay-2 — station-b.

use std::sync::Arc;

use florelay_wire::link::parse;
use proptest::prelude::*;

use super::*;
use crate::config::{
    Congestion, LinkConfig, LinkId, PeerId, RatePlan, Role as PathRole, Thresholds, TransitConfig, TransitEnd,
};
use crate::fib::{Fib, PathBody, Verdict};

const TIMEOUT: Duration = Duration::from_secs(1);

fn label(n: u32) -> Label {
    Label::new(n).unwrap()
}

fn link(id: u16) -> LinkConfig {
    LinkConfig {
        id: LinkId(id),
        name: Arc::from("link"),
        mtu_payload: 1472,
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

fn peer(in_label: u32, out_label: u32) -> PeerConfig {
    PeerConfig {
        id: PeerId(0),
        name: Arc::from("peer"),
        spiffe_id: Arc::from("spiffe://test/peer"),
        link: LinkId(0),
        out_label: label(out_label),
        in_label: label(in_label),
        role: PathRole::Originator,
        quic_mtu: 1200,
        initial_rtt: Duration::from_millis(1),
        path_rate_bps: None,
        return_rate_bps: None,
        weight: 1,
        memory: None,
    }
}

fn relay(a: (u32, u32), b: (u32, u32)) -> Fib {
    let end = |id, (i, o)| TransitEnd { link: LinkId(id), in_label: label(i), out_label: label(o) };
    Fib::build(&[link(0), link(1)], &[], &[], &[TransitConfig { a: end(0, a), b: end(1, b), weight: 1 }]).unwrap()
}

fn message(frame: &[u8]) -> &[u8] {
    match parse(frame).unwrap().body {
        Body::Channel { message, .. } => message,
        Body::Payload { .. } => panic!("a channel"),
    }
}

/// Nodes in a row; node 0 and the last are ends. Labels: hop i forward 1000 + i, backward 2000 + i.
struct Chain {
    names: Vec<&'static str>,
    fibs: Vec<Fib>,
    silent: Vec<usize>,
}

impl Chain {
    fn new() -> Self {
        let fibs = vec![
            Fib::build(&[link(0)], &[], &[peer(2000, 1000)], &[]).unwrap(),
            relay((1000, 2000), (2001, 1001)),
            relay((1001, 2001), (2002, 1002)),
            Fib::build(&[link(0)], &[], &[peer(1002, 2002)], &[]).unwrap(),
        ];
        Self { names: vec!["station-a", "relay-1", "relay-2", "station-b"], fibs, silent: Vec::new() }
    }

    /// Carries a frame from node 0 until somebody answers, and the answer back; the reply's frame as node 0 gets it.
    fn ask(&self, mut frame: Vec<u8>) -> Option<Vec<u8>> {
        let mut at = 1;
        loop {
            let as_received = frame.clone();
            let role = match self.fibs[at].forward(LinkId(0), &mut frame) {
                Verdict::Transit { out_link, .. } => {
                    assert_eq!(out_link, LinkId(1));
                    at += 1;
                    continue;
                }
                Verdict::TtlExpired { body: PathBody::Channel(ChannelType::TraceRequest), .. } => Role::Transit,
                Verdict::Local { body: PathBody::Channel(ChannelType::TraceRequest), .. } => Role::Egress,
                other => panic!("{other:?}"),
            };
            if self.silent.contains(&at) {
                return None;
            }
            let mut buf = [0; TRACE_REPLY_BYTES];
            let len = trace_reply(&as_received, self.names[at], role, &mut buf).unwrap();
            frame = buf[..len].to_vec();
            break;
        }
        while at > 1 {
            at -= 1;
            assert!(matches!(
                self.fibs[at].forward(LinkId(1), &mut frame),
                Verdict::Transit { out_link: LinkId(0), .. }
            ));
        }
        let local = self.fibs[0].forward(LinkId(0), &mut frame);
        assert!(matches!(local, Verdict::Local { body: PathBody::Channel(ChannelType::TraceReply), .. }));
        Some(frame)
    }

    fn trace(&self) -> Vec<(u8, Option<String>, bool)> {
        let mut trace = Trace::new(&peer(2000, 1000), 42, TIMEOUT);
        let mut now = Nanos(5);
        let mut hops = Vec::new();
        let mut buf = [0; TRACE_REQUEST_BYTES];
        while !trace.is_done() {
            assert_eq!(trace.next_timeout(), Nanos::ZERO);
            let len = trace.poll_transmit(now, &mut buf).unwrap();
            assert_eq!(trace.poll_transmit(now, &mut buf), None);
            let hop = match self.ask(buf[..len].to_vec()) {
                Some(frame) => {
                    now += Duration::from_millis(3);
                    let hop = trace.handle(now, &TraceReply::parse(message(&frame)).unwrap()).unwrap();
                    assert_eq!(hop.rtt, Duration::from_millis(3));
                    hop
                }
                None => {
                    now = trace.next_timeout();
                    trace.check(now).unwrap()
                }
            };
            hops.push((hop.hop, hop.node, hop.last));
        }
        assert_eq!((trace.next_timeout(), trace.poll_transmit(now, &mut buf)), (Nanos::MAX, None));
        hops
    }
}

#[test]
fn names_every_hop() {
    let name = |n: &str| Some(n.to_owned());
    let expected = [(1, name("relay-1"), false), (2, name("relay-2"), false), (3, name("station-b"), true)];
    assert_eq!(Chain::new().trace(), expected);
}

#[test]
fn passes_a_silent_hop_and_gives_up_on_silence() {
    let mut chain = Chain::new();
    chain.silent = vec![1];
    let hops = chain.trace();
    assert_eq!((hops.len(), &hops[0].1, hops[2].2), (3, &None, true));
    chain.silent = vec![2, 3];
    let hops = chain.trace();
    assert_eq!(hops.len(), 1 + usize::from(MAX_SILENT_HOPS));
    assert!(hops.last().unwrap().2 && hops[0].1.is_some());
}

#[test]
fn only_the_answer_to_this_request_counts() {
    let mut trace = Trace::new(&peer(2000, 1000), 42, TIMEOUT);
    let right = TraceReply { token: 42, sent_ns: 5, hop: 1, role: Role::Transit, name: "r" };
    assert_eq!(trace.handle(Nanos(9), &right), None, "nothing was asked");
    trace.poll_transmit(Nanos(5), &mut [0; TRACE_REQUEST_BYTES]).unwrap();
    for wrong in [TraceReply { token: 43, ..right }, TraceReply { hop: 2, ..right }, TraceReply { sent_ns: 6, ..right }]
    {
        assert_eq!(trace.handle(Nanos(9), &wrong), None);
    }
    assert_eq!(trace.check(Nanos(9)), None);
    assert!(trace.handle(Nanos(9), &right).is_some());
    assert_eq!(trace.handle(Nanos(9), &right), None, "twice");
}

proptest! {
    // Whatever is asked, the responder answers or refuses; it never panics, and never answers what is no request.
    #[test]
    fn answers_requests_only(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0usize..30, value: u8) {
        let mut buf = [0; TRACE_REPLY_BYTES];
        let _ = trace_reply(&bytes, "relay", Role::Transit, &mut buf);
        let mut trace = Trace::new(&peer(2000, 1000), 42, TIMEOUT);
        let mut frame = [0; TRACE_REQUEST_BYTES];
        trace.poll_transmit(Nanos(5), &mut frame).unwrap();
        frame[at] = value;
        if let Ok(len) = trace_reply(&frame, "relay", Role::Transit, &mut buf) {
            let (asked, answer) = (parse(&frame).unwrap(), parse(&buf[..len]).unwrap());
            prop_assert_eq!(answer.forward.label, asked.backward.unwrap().label);
            prop_assert_eq!(answer.backward.unwrap().label, asked.forward.label);
            let request = TraceRequest::parse(message(&frame)).unwrap();
            let reply = TraceReply::parse(message(&buf[..len])).unwrap();
            prop_assert_eq!((reply.token, reply.hop, reply.sent_ns), (request.token, request.hop, request.sent_ns));
        }
    }
}
