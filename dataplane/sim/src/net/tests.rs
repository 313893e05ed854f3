//! The network itself, on a toy node that counts, answers and forwards.

use super::*;
use crate::port::SimFrame;
use crate::topo::{LinkSpec, Topology, line, pair};
use florelay_engine::api::Event;
use florelay_engine::port::{FrameBuf, Port};
use std::collections::VecDeque;

const LINK: LinkId = LinkId(0);

/// Sends the payload of every `Command::Message` as a frame on its link 0; says each arrival as a message event;
/// a node with two links passes frames on from one to the other. It misbehaves on command.
#[derive(Default)]
struct Toy {
    queue: VecDeque<(LinkId, Vec<u8>)>,
    events: VecDeque<Event>,
    transit: bool,
    misbehave: Option<Misbehaviour>,
    timeouts: Vec<Nanos>,
    timeout: Option<Nanos>,
}

#[derive(Clone, Copy, PartialEq)]
enum Misbehaviour {
    LeakFrames,
    IgnoreTheCap,
    Spin,
}

impl Node for Toy {
    fn handle_frame(&mut self, _now: Nanos, link: LinkId, frame: SimFrame, _ecn: Ecn, port: &mut SimPort) {
        if self.transit {
            self.queue.push_back((LinkId(1 - link.0), frame.bytes().to_vec()));
        } else {
            let payload = Bytes::copy_from_slice(frame.bytes());
            let id = payload.get(8..16).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b));
            self.events.push_back(Event::Message { peer: PeerId(0), id, payload });
        }
        match self.misbehave {
            Some(Misbehaviour::LeakFrames) => drop(frame),
            _ => port.free(frame),
        }
    }

    fn handle_command(&mut self, _now: Nanos, command: Command) {
        if let Command::Message { payload, .. } = command {
            self.queue.push_back((LINK, payload.to_vec()));
        }
    }

    fn handle_timeout(&mut self, now: Nanos) {
        self.timeouts.push(now);
        self.timeout = None;
    }

    fn transmit(&mut self, now: Nanos, link: LinkId, port: &mut SimPort) -> usize {
        let mut sent = 0;
        while self.queue.front().is_some_and(|(to, _)| *to == link) && port.tx_room(link) > 0 {
            let (_, bytes) = self.queue.pop_front().unwrap();
            let l2_bytes = bytes.len() as u32 + 42;
            let keeps_cap = port.rule(link).clone().sent(now, l2_bytes).is_ok();
            if !keeps_cap && self.misbehave != Some(Misbehaviour::IgnoreTheCap) {
                self.queue.push_front((link, bytes));
                self.timeout = Some(now + Duration::from_micros(10));
                break;
            }
            let mut frame = port.alloc(link).expect("a frame");
            frame.set_len(bytes.len());
            frame.bytes_mut().copy_from_slice(&bytes);
            port.send(link, frame, Ecn::Ect0);
            sent += 1;
        }
        sent
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        if self.misbehave == Some(Misbehaviour::Spin) { Some(now) } else { self.timeout }
    }
}

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

fn toys(seed: u64, topology: &Topology) -> Net<Toy> {
    let mut net = Net::new(seed);
    net.add_topology(topology, 32, |config, _| Toy { transit: config.links.len() == 2, ..Toy::default() });
    net
}

/// 100 messages of 100 bytes in 100 ms from the first node to the last.
fn flow(net: &mut Net<Toy>) {
    net.send_messages(A, PeerId(0), Nanos(0), Duration::from_millis(1), 100, 100);
    net.run_until(Nanos(10_000_000_000));
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn frames_take_the_time_that_interface_and_link_take() {
    let spec = LinkSpec::new(Some(10_000_000), ms(30)).both(|model| model.rate(1_136_000, 10_000));
    let mut net = toys(1, &pair(spec));
    flow(&mut net);
    let latencies = net.gateway(B).inbox.latencies();
    assert_eq!(latencies.len(), 100);
    // 142 bytes at layer 2: 1136 ns on the interface at 1 Gbit/s, exactly 1 ms on the link, 30 ms of delay;
    // the last nanoseconds of one frame overlap no other, because the link is just fast enough
    assert!(latencies.iter().all(|(_, l)| *l == ms(31) + Duration::from_nanos(1136)), "{latencies:?}");
}

#[test]
fn a_relay_passes_frames_on() {
    let spec = LinkSpec::new(None, ms(10));
    let mut net = toys(1, &line(&[spec.clone(), spec]));
    flow(&mut net);
    let inbox = &net.gateway(NodeId(2)).inbox;
    assert_eq!(inbox.latencies().len(), 100);
    assert_eq!(inbox.percentile(1.0), Some(ms(20) + Duration::from_nanos(2 * 1136)));
    assert_eq!(net.port(B).counters(LinkId(1)).sent_frames, 100);
}

#[test]
fn equal_seeds_have_equal_traces() {
    let spec = LinkSpec::new(None, ms(10)).both(|model| model.loss(0.3));
    let trace = |seed| {
        let mut net = toys(seed, &pair(spec.clone()));
        flow(&mut net);
        let lost = net.link((A, LINK)).counters().lost;
        assert!(lost > 10 && net.delivered() == 100 - lost, "{lost} lost");
        net.trace()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn wakes_come_once_and_in_time_and_calls_run() {
    let mut net = toys(1, &pair(LinkSpec::new(None, ms(1))));
    for (at, wake) in [(5, 50), (6, 20), (7, 30)] {
        net.at(Nanos(at), move |net| {
            net.node(A).timeout = Some(Nanos(wake));
            net.settle(A);
        });
    }
    net.run_until(Nanos(25));
    assert_eq!(net.now(), Nanos(25));
    net.run_until(Nanos(100));
    // 20 was replaced by 30 before it came
    assert_eq!(net.node(A).timeouts, [Nanos(30)]);
    assert!(!net.run_while(Nanos(200), |_| true), "there is nothing left to do");
}

#[test]
fn what_is_injected_or_meddled_with_arrives() {
    let mut net = toys(1, &pair(LinkSpec::new(None, ms(1))));
    net.meddle((A, LINK), Box::new(|_| Vec::new()));
    flow(&mut net);
    assert_eq!((net.delivered(), net.link((A, LINK)).counters().delivered), (0, 100));
    let Command::Message { payload, .. } = message() else { unreachable!() };
    net.inject(B, LINK, payload, Ecn::NotEct);
    net.run_until(net.now());
    assert_eq!(net.gateway(B).inbox.latencies().len(), 1);
}

fn message() -> Command {
    let (mut gateway, mut commands) = (Gateway::default(), Vec::new());
    gateway.send_messages(PeerId(0), Nanos(0), ms(1), 1000, 1);
    gateway.handle_timeout(Nanos(0), &mut commands);
    commands.remove(0)
}

#[test]
#[should_panic(expected = "Leaked(1)")]
fn a_leaked_frame_ends_the_run() {
    let mut net = toys(1, &pair(LinkSpec::new(None, ms(1))));
    net.node(B).misbehave = Some(Misbehaviour::LeakFrames);
    flow(&mut net);
}

#[test]
#[should_panic(expected = "Cap(LinkId(0)")]
fn a_cap_that_is_exceeded_ends_the_run() {
    let mut net = toys(1, &pair(LinkSpec::new(Some(500_000), ms(1))));
    net.node(A).misbehave = Some(Misbehaviour::IgnoreTheCap);
    flow(&mut net);
}

#[test]
fn a_cap_that_is_kept_does_not() {
    let mut net = toys(1, &pair(LinkSpec::new(Some(500_000), ms(1))));
    flow(&mut net);
    assert_eq!(net.gateway(B).inbox.latencies().len(), 100);
}

#[test]
#[should_panic(expected = "again and again")]
fn a_node_that_spins_ends_the_run() {
    let mut net = toys(1, &pair(LinkSpec::new(None, ms(1))));
    net.node(A).misbehave = Some(Misbehaviour::Spin);
    flow(&mut net);
}

#[test]
fn a_restart_loses_what_the_node_held() {
    let mut net = toys(1, &pair(LinkSpec::new(None, ms(1))));
    net.send_messages(A, PeerId(0), Nanos(0), ms(1), 100, 3);
    net.run_until(Nanos(500_000));
    // in the transmit ring when the power goes
    net.command(A, message());
    net.restart(A, |_, _| Toy::default(), |_| PeerId(0));
    net.run_until(Nanos(1_000_000_000));
    assert_eq!(net.gateway(B).inbox.latencies().len(), 3);
}
