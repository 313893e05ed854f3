//! A peer that has the right keys and says what it likes: bytes on the session stream, streams and datagrams of commands,
//! stripe headers and stripes, at any time, broken off anywhere.
//!
//! Invariants: the node it talks to does not panic, gives every frame back, keeps its links' caps; what it hands to its
//! gateways stays in order and exactly once, and names are file names; and when the hostile program is replaced by one
//! that behaves (a new start, with a new boot id), both speak with each other at once.

use std::time::Duration;

use bytes::Bytes;
use florelay_engine::Command;
use florelay_engine::api::{Kept, TransferId, TransferMeta};
use florelay_engine::config::PeerId;
use florelay_engine::fuzzing::message;
use florelay_sim::topo::{LinkSpec, pair};
use quinn_proto::{Connection, Dir, Side, StreamId, VarInt};

use crate::bed::Bed;
use crate::input::Input;

const PEER: PeerId = PeerId(0);

/// One input: which end is hostile, then what it does, step by step.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let hostile = usize::from(input.byte() & 1);
    let honest = 1 - hostile;
    let topology = pair(LinkSpec::new(Some(50_000_000), Duration::ZERO));
    let mut bed = Bed::new(&topology, 256);
    bed.connect(2);
    // The honest node offers a file, so that there is something to accept, confirm and cancel.
    let meta = TransferMeta { name: "x".to_owned(), size: None, declared: None, priority: 1, attributes: Vec::new() };
    bed.nodes[honest].command(bed.now, Command::Send { peer: PEER, id: TransferId(0), meta, kept: Kept::default() });
    let mut steps = 0;
    while !input.is_empty() && steps < 200 {
        steps += 1;
        let op = input.byte();
        if op & 0x0f == 0 {
            bed.step(Duration::from_millis(u64::from(input.byte())));
        } else if op & 0x0f == 1 {
            let data = Bytes::copy_from_slice(input.bytes(1000));
            let command = Command::Supply { id: TransferId(0), offset: input.number(), data };
            bed.nodes[honest].command(bed.now, command);
        } else {
            let engine = &mut bed.nodes[hostile].engine;
            let mut act = |quic: &mut Connection| act(quic, op, &mut input);
            if !engine.with_connection(PEER, op & 0x10 != 0, &mut act) {
                settle(&mut bed, 10);
            }
        }
    }
    settle(&mut bed, 40);
    bed.restart(hostile, topology.config(hostile));
    afterwards(&mut bed, honest);
}

/// A message of the honest node is acknowledged.
fn afterwards(bed: &mut Bed, honest: usize) {
    const NUMBER: u64 = 0xfeed;
    bed.nodes[honest]
        .command(bed.now, Command::Message { peer: PEER, id: NUMBER, payload: Bytes::from_static(b"still there?") });
    for _ in 0..1000 {
        bed.step(Duration::from_millis(20));
        if bed.nodes[honest].acknowledged.contains(&NUMBER) {
            return;
        }
    }
    panic!("no connection any more: {:#?}", bed.nodes[honest].engine.status());
}

fn settle(bed: &mut Bed, steps: usize) {
    for _ in 0..steps {
        bed.step(Duration::from_millis(20));
    }
}

fn act(quic: &mut Connection, op: u8, input: &mut Input<'_>) {
    let session = StreamId::new(Side::Client, Dir::Bi, 0);
    let id = TransferId(u128::from(input.byte() % 4));
    match op & 0x0f {
        2..=5 => {
            let (kind, number) = (input.byte(), input.number());
            let text = String::from_utf8_lossy(input.bytes(300)).into_owned();
            write(quic, session, &message(kind, id, number, &text));
        }
        6 => write(quic, session, input.bytes(200)),
        7 | 8 => {
            // A stripe: id, offset, bytes.
            let header = [&id.0.to_be_bytes()[..], &input.number().to_be_bytes()].concat();
            let stripe = [&header, input.bytes(1500)].concat();
            stream(quic, &stripe, input.byte());
        }
        9 | 10 => {
            // A command message by stream: number, payload.
            let command = [&u64::from(input.byte()).to_be_bytes()[..], input.bytes(1500)].concat();
            stream(quic, &command, input.byte());
        }
        11 => stream(quic, input.bytes(100), input.byte()),
        12 | 13 => {
            // A message or acknowledgement by datagram: kind, number, payload.
            let (kind, number) = (input.byte() % 4, u64::from(input.byte()));
            let datagram = [&[kind][..], &number.to_be_bytes(), input.bytes(300)].concat();
            let _ = quic.datagrams().send(datagram.into(), true);
        }
        14 => {
            let _ = quic.datagrams().send(Bytes::copy_from_slice(input.bytes(40)), true);
        }
        _ => {
            let code = VarInt::from_u32(u32::from(input.byte()));
            let any = StreamId::new(
                if op & 0x20 == 0 { Side::Client } else { Side::Server },
                if op & 0x40 == 0 { Dir::Uni } else { Dir::Bi },
                u64::from(input.byte() % 4),
            );
            match input.byte() % 4 {
                0 => drop(quic.streams().open(Dir::Bi)),
                // Its own half of the session ends, or breaks off.
                1 if quic.side().is_client() => drop(quic.send_stream(session).finish()),
                2 if any.initiator() == quic.side() => drop(quic.send_stream(any).reset(code)),
                _ if other_half(quic, any) => drop(quic.recv_stream(any).stop(code)),
                _ => {}
            }
        }
    }
}

/// quinn-proto asserts that a stream can be read at all. (And it counts wrongly when a stream that was never accepted is
/// reset: misuse by its own program, which the other end cannot bring about.)
fn other_half(quic: &Connection, stream: StreamId) -> bool {
    stream.dir() == Dir::Bi || stream.initiator() != quic.side()
}

fn write(quic: &mut Connection, stream: StreamId, bytes: &[u8]) {
    let _ = quic.send_stream(stream).write(bytes);
}

/// A stream of its own: left open, finished, or broken off.
fn stream(quic: &mut Connection, bytes: &[u8], end: u8) {
    let Some(stream) = quic.streams().open(Dir::Uni) else { return };
    write(quic, stream, bytes);
    match end % 3 {
        0 => drop(quic.send_stream(stream).finish()),
        1 => drop(quic.send_stream(stream).reset(VarInt::from_u32(9))),
        _ => {}
    }
}

/// An offer with its stripes and end; answers to the honest node's offer; commands by both ways; a broken session.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let offer = [&[0x12, 1, 1, 40, 0, 5][..], b"a.raw"].concat();
    let stripe = [&[0x17, 1, 0, 0, 40][..], &[9; 40], &[0]].concat();
    let finish = vec![0x12, 1, 3, 40, 0, 0];
    let wait = vec![0, 100, 0, 100, 0, 100];
    let accept = vec![0x12, 0, 2, 0, 0, 0];
    let supply = [&[1, 0, 20][..], &[8; 20], &[0]].concat();
    let confirm = vec![0x12, 0, 4, 20, 0, 0, 0x12, 0, 5, 0, 0, 0];
    let cancel = [&[0x12, 0, 6, 0, 0, 4][..], b"why?"].concat();
    let credit = vec![0x12, 0, 9, 40, 0, 0];
    let stream = [&[0x12, 2, 12, 0, 0, 5][..], b"a.log"].concat();
    let declared = [&[0x12, 1, 11, 40, 0, 5][..], b"b.log"].concat();
    let too_much = [&[0x17, 1, 20, 0, 40][..], &[9; 40], &[0]].concat();
    let fail = [&[0x12, 0, 10, 9, 0, 4][..], b"size"].concat();
    let offers_end = vec![0x12, 0, 7, 77, 0, 0, 0x12, 0, 7, 78, 0, 0];
    let received = vec![0x02, 0, 8, 3, 0, 0];
    let datagram = vec![0x0c, 0, 1, 5, 0, 2, 65, 66, 0x0c, 0, 2, 5, 0, 0];
    let command = vec![0x09, 0, 5, 0, 3, 65, 66, 67, 0];
    let broken = vec![0x16, 0, 0, 6, 255, 255, 255, 255, 1, 2];
    let hello = vec![0x02, 0, 0, 0, 0, 1, 98];
    let ends = vec![0x0f, 0, 3, 0, 1, 0x3f, 0, 3, 0, 3, 0x7f, 0, 3, 0, 2];
    let mut seeds = Vec::new();
    for hostile in [0, 1] {
        let end = [hostile];
        seeds.extend([
            [&end[..], &wait, &offer, &wait, &stripe, &finish, &wait].concat(),
            [&end[..], &wait, &accept, &wait, &supply, &wait, &confirm, &wait, &cancel].concat(),
            [&end[..], &wait, &accept, &credit, &wait, &supply, &wait, &stream, &wait, &offers_end, &wait].concat(),
            [&end[..], &wait, &command, &received, &wait, &offer, &stripe, &offers_end, &wait].concat(),
            [&end[..], &wait, &datagram, &command, &wait, &broken, &wait, &hello].concat(),
            [&end[..], &wait, &declared, &wait, &stripe, &wait, &too_much, &wait, &finish, &wait].concat(),
            [&end[..], &wait, &offer, &wait, &stripe, &too_much, &wait, &accept, &fail, &wait].concat(),
            [&end[..], &ends, &offer, &stripe, &wait, &ends].concat(),
        ]);
    }
    seeds
}
