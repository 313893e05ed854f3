//! Seeds of the targets that read wire formats: one valid value of each kind, written by the format's own writers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use florelay_engine::port::Ecn;
use florelay_wire::ach::{AchHeader, ChannelType};
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::eth::MacAddr;
use florelay_wire::link::{self, PATH_HEADER_BYTES};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::oam::{
    Alarm, AlarmKind, Extension, Liveness, MIN_WIRE_VERSION, Role, State, TAG_BYTES, TraceReply, TraceRequest,
    WIRE_VERSION, alarm_reason,
};
use florelay_wire::outer::{NextHop, OuterTemplate};

/// Every OAM body with its channel.
fn bodies() -> [(ChannelType, Vec<u8>); 5] {
    let liveness = Liveness {
        version: WIRE_VERSION,
        min_version: MIN_WIRE_VERSION,
        state: State::Up,
        detect_mult: 3,
        my_interval_us: 100_000,
        boot_id: 7,
        your_boot_id: 9,
        sequence: 11,
        sent_ns: 1 << 40,
        echo_ns: 1 << 39,
        echo_hold_ns: 1 << 20,
        extension: Some(Extension { wall_ns: 1 << 60, expected: 1000, lost: 3 }),
        tag: [0xEE; TAG_BYTES],
    };
    let first = Liveness { version: 1, extension: None, ..liveness };
    let alarm = Alarm {
        version: WIRE_VERSION,
        kind: AlarmKind::Down,
        sequence: 9,
        node: 0xAABB,
        reason: alarm_reason::LIVENESS,
    };
    let request = TraceRequest { token: 5, sent_ns: 6, hop: 7 };
    let reply = TraceReply { token: 5, sent_ns: 6, hop: 7, role: Role::Egress, name: "relay-1" };
    [
        (ChannelType::Liveness, written(|buf| liveness.write(buf))),
        (ChannelType::Alarm, written(|buf| alarm.write(buf))),
        (ChannelType::TraceRequest, written(|buf| request.write(buf))),
        (ChannelType::TraceReply, written(|buf| reply.write(buf))),
        (ChannelType::Liveness, written(|buf| first.write(buf))),
    ]
}

fn written(write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut buf = vec![0; 256];
    let len = write(&mut buf).expect("256 bytes are enough");
    buf.truncate(len);
    buf
}

/// Label stack entries of a path frame.
pub(crate) fn stack(forward: Label, backward: Label, tc: Tc, ttl: u8) -> (Lse, Lse) {
    (Lse { label: forward, tc, bottom: false, ttl }, Lse { label: backward, tc, bottom: true, ttl })
}

pub(crate) fn oam() -> Vec<Vec<u8>> {
    (0_u8..).zip(bodies()).map(|(choice, (_, body))| [&[choice][..], &body].concat()).collect()
}

/// Link payloads: every OAM body at link and path scope, a QUIC payload, a cell.
pub(crate) fn links() -> Vec<Vec<u8>> {
    let label = |number| Label::new(number).expect("20 bits");
    let (forward, backward) = stack(label(16), label(17), Tc::BULK, 64);
    let mut seeds = Vec::new();
    for (channel, body) in bodies() {
        let ach = AchHeader { channel };
        for scope in [
            written(|buf| link::write_link_channel(buf, Tc::CONTROL, ach)),
            written(|buf| link::write_path_channel(buf, forward, backward, ach)),
        ] {
            seeds.push([scope, body.clone()].concat());
        }
    }
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 3 };
    let header = written(|buf| link::write_path_header(buf, forward, backward, cw));
    assert_eq!(header.len(), PATH_HEADER_BYTES);
    seeds.push([header, vec![0x40; 64]].concat());
    seeds
}

/// Whole frames: both families, with and without a VLAN tag.
pub(crate) fn outer() -> Vec<Vec<u8>> {
    let ends = |near: IpAddr, far: IpAddr| (SocketAddr::new(near, 6635), SocketAddr::new(far, 6635));
    let families = [
        ends(Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into()),
        ends(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into()),
    ];
    let mut seeds = Vec::new();
    for (src, dst) in families {
        for vlan in [None, Some(7)] {
            for payload in links().into_iter().take(2) {
                let hop = NextHop {
                    src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
                    dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                    vlan,
                    src,
                    dst,
                };
                let template = OuterTemplate::new(&hop).expect("one family");
                let mut frame = vec![0; template.header_len()];
                template.write(&mut frame, &payload, Ecn::Ect0.bits(), 1).expect("it fits");
                frame.extend_from_slice(&payload);
                seeds.push(frame);
            }
        }
    }
    seeds
}
