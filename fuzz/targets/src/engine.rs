//! A line of three engines with simulated crypto, fed with arbitrary frames and commands at arbitrary times: a relay that
//! transits one path and ends two others, and its neighbours.
//!
//! Invariants: no panic; every frame is accounted for after every step, also with a pool that is nearly empty; the cap and
//! the MTU of every link are kept whatever it is told; a receiver gets bytes in order and each once.

use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::{Command, FailCode, Failure, Kept, TransferId, TransferMeta};
use florelay_engine::config::{LinkId, PeerId, RatePlan};
use florelay_engine::port::Ecn;
use florelay_sim::topo::{LinkSpec, Topology};
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_header};
use florelay_wire::mpls::{Label, Tc};

use crate::bed::Bed;
use crate::input::Input;
use crate::seeds::stack;

/// The longest payload of a link of ours.
const MAX_FRAME_BYTES: usize = 1472;

fn topology() -> Topology {
    let spec = LinkSpec::new(Some(20_000_000), Duration::ZERO);
    let mut topology = Topology::new();
    let [a, relay, b] = ["a", "relay", "b"].map(|name| topology.node(name));
    let near = topology.link(a, relay, spec.clone());
    let far = topology.link(relay, b, spec);
    topology.path(a, &[near, far], 100);
    topology.path(a, &[near], 10);
    topology.path(relay, &[far], 10);
    topology
}

/// One input: the size of the pools, then what happens, step by step.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let frames = 16 + usize::from(input.byte());
    let mut bed = Bed::new(&topology(), frames);
    if !input.byte().is_multiple_of(4) {
        bed.connect(6);
    }
    let mut steps = 0;
    while !input.is_empty() && steps < 200 {
        steps += 1;
        let op = input.byte();
        let node = usize::from(op >> 6) % 3;
        let link = LinkId(u16::from(op >> 5 & 1));
        let link = if node == 1 { link } else { LinkId(0) };
        match op & 0x0f {
            0 => {
                let bytes = input.bytes(MAX_FRAME_BYTES);
                bed.inject(node, link, bytes, Ecn::from_bits(op));
            }
            1 => path_frame(&mut bed, node, link, &mut input),
            2..=4 => again(&mut bed, &mut input),
            5 | 6 => bed.step(Duration::from_millis(u64::from(input.byte()))),
            7 => bed.step(Duration::from_secs(u64::from(input.byte()))),
            _ => {
                let command = command(op, link, &mut input);
                bed.nodes[node].command(bed.now, command);
            }
        }
    }
    for _ in 0..20 {
        bed.step(Duration::from_millis(50));
    }
}

/// A frame whose labels are in use, with any payload.
fn path_frame(bed: &mut Bed, node: usize, link: LinkId, input: &mut Input<'_>) {
    let flags = input.byte();
    let label = |n: u8| Label::new(Label::FIRST_UNRESERVED + u32::from(n & 3)).expect("20 bits");
    let tc = Tc::new(flags & 7).expect("three bits");
    let (forward, backward) = stack(label(flags >> 3), label(flags >> 5), tc, input.byte());
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: input.short() };
    let mut frame = vec![0; PATH_HEADER_BYTES];
    write_path_header(&mut frame, forward, backward, cw).expect("it fits");
    frame.extend_from_slice(input.bytes(MAX_FRAME_BYTES - PATH_HEADER_BYTES));
    bed.inject(node, link, &frame, Ecn::Ect0);
}

/// A frame that was sent before, once more: as it was, with a byte changed, cut, or to another node.
fn again(bed: &mut Bed, input: &mut Input<'_>) {
    let count = bed.heard.len();
    let Some((to, link, packet)) = bed.heard.get(usize::from(input.byte()) % count.max(1)).cloned() else { return };
    let mut bytes = packet.bytes.to_vec();
    let at = usize::from(input.short()) % bytes.len().max(1);
    match input.byte() % 4 {
        0 => {}
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= input.byte().max(1);
            }
        }
        2 => bytes.truncate(at),
        _ => {
            bytes.extend_from_slice(input.bytes(64));
            bytes.truncate(MAX_FRAME_BYTES);
        }
    }
    bed.inject(to, link, &bytes, packet.ecn);
}

/// A command as a gateway could give it: names and sizes as they come, rates within what the gateway lets through.
fn command(op: u8, link: LinkId, input: &mut Input<'_>) -> Command {
    let id = TransferId(u128::from(input.byte() % 4));
    let peer = PeerId(u16::from(input.byte() % 3));
    match op & 0x0f {
        8 => {
            let name = String::from_utf8_lossy(input.bytes(40)).into_owned();
            let (size, priority) = (input.number(), input.byte());
            let (size, declared) = if op & 0x10 == 0 { (Some(size), None) } else { (None, Some(size)) };
            let meta = TransferMeta { name, size, declared, priority, attributes: Vec::new() };
            Command::Send { peer, id, meta, kept: Kept::default() }
        }
        9 => {
            let offset = input.number();
            Command::Supply { id, offset, data: Bytes::copy_from_slice(input.bytes(2000)) }
        }
        10 => Command::SupplyEnd { id, size: input.number(), digest: [7; 32] },
        11 => Command::Cancel { id, failure: Failure::new(FailCode::Cancelled, "tired") },
        12 => {
            Command::Message { peer, id: input.number(), payload: Bytes::from(vec![3; usize::from(input.short()) * 2]) }
        }
        13 => {
            // At least one frame, as the gateway demands; not zero.
            let burst_bytes = (input.number() as u32).max(1600);
            let rate_bps = Some(input.number().max(1)).filter(|_| op & 0x10 == 0);
            Command::SetRate { link, rate: RatePlan { rate_bps, burst_bytes, control_percent: 1 + input.byte() % 100 } }
        }
        14 => match input.byte() % 3 {
            0 => Command::SetAdmin { link, up: op & 0x10 == 0 },
            1 => Command::SetCarrier { link, state: if op & 0x10 == 0 { Ok(()) } else { Err("gone".into()) } },
            _ => Command::Accept { id, offset: input.number() },
        },
        _ => match input.byte() % 6 {
            0 => Command::Trace { peer, token: input.number() },
            1 => Command::Written { id, offset: input.number() },
            3 => Command::Synced { id, offset: input.number() },
            4 => Command::SetPriority { id, priority: input.byte() },
            5 => Command::Hold { id, held: op & 0x10 == 0 },
            _ => Command::Complete { id, result: Err(Failure::new(FailCode::Storage, "no space")) },
        },
    }
}

/// A transfer, a message, damaged frames, a rate change, links down and up.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let send = [&[8, 1, 0, 0, 3][..], b"abc", &[100, 5]].concat();
    let supply = [&[9, 1, 0, 0, 0, 50][..], &[7; 50]].concat();
    let end = vec![10, 1, 0, 50];
    let wait = vec![5, 100, 5, 100, 5, 100];
    let message = vec![12, 0, 0, 9, 0, 50];
    let damage = vec![2, 60, 0, 20, 1, 4, 3, 61, 0, 30, 2, 4, 50, 0, 0, 3, 0, 4, 1, 2, 3, 4];
    let rate = vec![13, 0, 0, 159, 6, 80, 159, 0x27, 0x10, 9];
    let links = vec![0x4e, 0, 0, 0, 7, 2, 0x5e, 0, 0, 0, 5, 100, 0x4e, 0, 0, 0, 5, 100];
    let trace = vec![15, 0, 0, 0, 5, 5, 100];
    let raw =
        [&[0x40, 0, 12, 0, 1, 0, 64, 0, 1, 1, 64, 0, 0, 0, 0][..], &[0x41, 0x21, 5, 0, 1, 0, 3, 1, 2, 3]].concat();
    let begin = [200, 1];
    vec![
        [&begin[..], &send, &wait, &supply, &end, &wait].concat(),
        [&begin[..], &message, &wait, &damage, &wait, &trace].concat(),
        [&[0, 1][..], &send, &supply, &rate, &wait, &links].concat(),
        [&[9, 0][..], &raw, &wait, &message, &raw, &damage].concat(),
    ]
}
