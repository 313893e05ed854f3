//! Whole frames: template and link header written, parsed back, damaged, passed on.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::cw::{ControlWord, PayloadType};
use crate::link::{self, Body, LinkFrame, PATH_HEADER_BYTES};
use crate::mpls::{self, Label, Lse, Tc};
use crate::testing::{each_mutation, each_truncation};
use proptest::prelude::*;

fn hop(v6: bool, vlan: Option<u16>) -> NextHop {
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xFFFF, 2).into(),
        )
    } else {
        (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into())
    };
    NextHop {
        src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        vlan,
        src: SocketAddr::new(src, 6635),
        dst: SocketAddr::new(dst, 40_000),
    }
}

fn hops() -> [NextHop; 4] {
    [hop(false, None), hop(false, Some(7)), hop(true, None), hop(true, Some(4094))]
}

fn lse(label: u32, ttl: u8) -> Lse {
    Lse { label: Label::new(label).unwrap(), tc: Tc::BULK, bottom: false, ttl }
}

fn link_payload(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; PATH_HEADER_BYTES];
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0xFFFE };
    link::write_path_header(&mut bytes, lse(1000, 64), lse(2000, 0), cw).unwrap();
    bytes.extend_from_slice(payload);
    bytes
}

fn framed(hop: &NextHop, payload: &[u8], ecn: u8, ip_id: u16) -> Vec<u8> {
    let template = OuterTemplate::new(hop).unwrap();
    let mut frame = vec![0xA5; template.header_len()];
    template.write(&mut frame, payload, ecn, ip_id).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// The UDP checksum over pseudo header and datagram, put together as RFC 768 and RFC 8200 draw it.
fn datagram_is_intact(frame: &[u8], outer: &Outer) -> bool {
    let datagram = &frame[outer.payload.offset - UDP_BYTES..outer.payload.offset + outer.payload.len];
    let length = datagram.len() as u16;
    let mut whole = Vec::new();
    match (outer.src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            whole.extend_from_slice(&src.octets());
            whole.extend_from_slice(&dst.octets());
            whole.extend_from_slice(&[0, 17]);
            whole.extend_from_slice(&length.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            whole.extend_from_slice(&src.octets());
            whole.extend_from_slice(&dst.octets());
            whole.extend_from_slice(&u32::from(length).to_be_bytes());
            whole.extend_from_slice(&[0, 0, 0, 17]);
        }
        _ => panic!("mixed families"),
    }
    whole.extend_from_slice(datagram);
    checksum::verify(&whole)
}

#[test]
fn a_known_frame() {
    let frame = framed(&hop(false, Some(7)), b"abc", 2, 0x1234);
    #[rustfmt::skip]
    let expected = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0x00, 0x07, 0x08, 0x00,
        0x45, 0x02, 0, 31, 0x12, 0x34, 0x40, 0x00, 64, 17, 0xA4, 0x94, 192, 0, 2, 1, 192, 0, 2, 2,
        0x19, 0xEB, 0x9C, 0x40, 0, 11, 0x01, 0x46, b'a', b'b', b'c',
    ];
    assert_eq!(frame, expected);
}

#[test]
fn whole_frames_come_back() {
    for hop in hops() {
        let payload = link_payload(b"a QUIC packet");
        let frame = framed(&hop, &payload, 1, 77);
        let outer = parse(&frame).unwrap();
        assert_eq!(outer.vlan, hop.vlan);
        assert_eq!(SocketAddr::new(outer.src, outer.src_port), hop.src);
        assert_eq!(SocketAddr::new(outer.dst, outer.dst_port), hop.dst);
        assert_eq!(outer.ecn, 1);
        assert!(datagram_is_intact(&frame, &outer));
        assert_eq!(verify_udp_checksum(&frame, &outer), Ok(()));
        let bytes = outer.payload.of(&frame).unwrap();
        assert_eq!(bytes, payload);
        let LinkFrame { forward, backward, body } = link::parse(bytes).unwrap();
        assert_eq!(forward, lse(1000, 64));
        assert_eq!(backward, Some(Lse { bottom: true, ..lse(2000, 0) }));
        assert!(matches!(body, Body::Payload { payload: b"a QUIC packet", .. }));
    }
}

#[test]
fn dscp_is_not_ecn() {
    let mut frame = framed(&hop(false, None), b"payload", 1, 0);
    frame[15] |= 0xB8;
    frame[24..26].fill(0);
    let sum = checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(parse(&frame).unwrap().ecn, 1);

    let mut frame = framed(&hop(true, None), b"payload", 1, 0);
    frame[14] |= 0x0B;
    frame[15] |= 0x80;
    assert_eq!(parse(&frame).unwrap().ecn, 1);
}

#[test]
fn padding_is_not_payload() {
    for hop in hops() {
        let mut frame = framed(&hop, b"x", 0, 0);
        let unpadded = parse(&frame).unwrap();
        frame.resize(100, 0xEE);
        assert_eq!(parse(&frame), Ok(unpadded));
        assert_eq!(unpadded.payload.of(&frame), Some(&b"x"[..]));
        assert_eq!(verify_udp_checksum(&frame, &unpadded), Ok(()));
    }
}

#[test]
fn the_front_is_enough() {
    for hop in hops() {
        let frame = framed(&hop, &[0; 200], 0, 0);
        assert_eq!(parse_front(&frame[..MAX_OUTER_BYTES], frame.len()), parse(&frame));
        assert_eq!(parse_front(&frame[..MAX_OUTER_BYTES], frame.len() - 1), Err(ParseError::BadLength));
        assert_eq!(parse_front(&frame, 3), Err(ParseError::TooShort));
    }
}

#[test]
fn truncated_frames_are_refused() {
    for hop in hops() {
        let header = OuterTemplate::new(&hop).unwrap().header_len();
        each_truncation(&framed(&hop, b"payload", 0, 0), |bytes| {
            // a length field is met before the headers behind it
            let error = parse(bytes).unwrap_err();
            assert!(matches!(error, ParseError::TooShort | ParseError::BadLength), "{error}");
            assert!(bytes.len() < header || error == ParseError::BadLength);
        });
    }
}

#[test]
fn every_damaged_byte_that_a_checksum_covers_is_noticed() {
    for hop in hops() {
        let eth = ETH_BYTES + if hop.vlan.is_some() { VLAN_TAG_BYTES } else { 0 };
        // IPv6 leaves version, class, label and hop limit to other layers
        let covered = |at: usize| at >= eth && (hop.src.is_ipv4() || (at >= eth + 4 && at != eth + 7));
        each_mutation(&framed(&hop, &link_payload(b"some bytes"), 0, 9), |at, bytes| {
            let Ok(outer) = parse(bytes) else { return };
            let intact = verify_udp_checksum(bytes, &outer);
            assert_eq!(intact.is_ok(), datagram_is_intact(bytes, &outer));
            if covered(at) {
                assert_eq!(intact, Err(ParseError::UdpChecksum), "byte {at}");
            }
        });
    }
}

#[test]
fn a_missing_udp_checksum_is_for_ipv4_alone() {
    for hop in hops() {
        let mut frame = framed(&hop, b"payload", 0, 0);
        let at = OuterTemplate::new(&hop).unwrap().header_len() - 2;
        frame[at..at + 2].fill(0);
        match parse(&frame) {
            Ok(outer) => {
                assert!(hop.src.is_ipv4());
                assert_eq!(outer.payload_sum(), None);
                assert_eq!(verify_udp_checksum(&frame, &outer), Ok(()));
            }
            Err(error) => {
                assert!(hop.src.is_ipv6());
                assert_eq!(error, ParseError::NoUdpChecksum);
            }
        }
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    for hop in hops() {
        // the payload that makes the sum ffff
        let zeros = parse(&framed(&hop, &[0, 0], 0, 0)).unwrap();
        let payload = zeros.udp_checksum.to_be_bytes();
        let frame = framed(&hop, &payload, 0, 0);
        let outer = parse(&frame).unwrap();
        assert_eq!(outer.udp_checksum, 0xFFFF);
        assert_eq!(verify_udp_checksum(&frame, &outer), Ok(()));
    }
}

#[test]
fn transit_passes_a_frame_on_without_summing_its_payload() {
    for from in hops() {
        for to in hops() {
            let frame = framed(&from, &link_payload(b"stays as it is, odd"), 3, 1);
            let outer = parse(&frame).unwrap();
            let mut payload = outer.payload.of(&frame).unwrap().to_vec();
            let old = u32::from_be_bytes(payload[..4].try_into().unwrap());
            mpls::swap_at(&mut payload, 0, Label::new(99).unwrap(), 63).unwrap();
            let new = u32::from_be_bytes(payload[..4].try_into().unwrap());
            let sum = outer.payload_sum().unwrap().replace(old, new);

            let template = OuterTemplate::new(&to).unwrap();
            let mut passed = vec![0; template.header_len()];
            template.write_with_sum(&mut passed, payload.len(), sum, outer.ecn, 5).unwrap();
            passed.extend_from_slice(&payload);
            assert_eq!(passed, framed(&to, &payload, 3, 5));

            // damage on the way in stays visible on the way out
            *passed.last_mut().unwrap() ^= 1;
            assert_eq!(verify_udp_checksum(&passed, &parse(&passed).unwrap()), Err(ParseError::UdpChecksum));
        }
    }
}

#[test]
fn templates_refuse_what_they_cannot_do() {
    let mixed = NextHop { dst: hop(true, None).dst, ..hop(false, None) };
    assert_eq!(OuterTemplate::new(&mixed), Err(TemplateError::MixedFamilies));
    for id in [0, 4095, 0xFFFF] {
        assert_eq!(OuterTemplate::new(&hop(false, Some(id))), Err(TemplateError::VlanId));
    }
    for hop in hops() {
        let template = OuterTemplate::new(&hop).unwrap();
        let mut long = [0xA5; MAX_OUTER_BYTES + 1];
        assert_eq!(template.write(&mut long[..template.header_len() - 1], b"", 0, 0), None);
        assert_eq!(template.write(&mut long[..template.header_len() + 1], b"", 0, 0), None);
        let most = template.max_payload(65_535);
        assert_eq!(template.write_with_sum(&mut long[..template.header_len()], most + 1, Sum::ZERO, 0, 0), None);
        assert_eq!(template.write_with_sum(&mut long[..template.header_len()], usize::MAX, Sum::ZERO, 0, 0), None);
        assert_eq!(long, [0xA5; MAX_OUTER_BYTES + 1]);
        assert_eq!(template.write_with_sum(&mut long[..template.header_len()], most, Sum::ZERO, 0, 0), Some(()));
    }
}

#[test]
fn room_for_quic() {
    let room = |v6| OuterTemplate::new(&hop(v6, Some(1))).unwrap().max_payload(1500) - PATH_HEADER_BYTES;
    assert_eq!(room(false), 1460);
    assert_eq!(room(true), 1440);
    assert_eq!(OuterTemplate::new(&hop(false, None)).unwrap().max_payload(27), 0);
}

#[test]
fn errors_by_header() {
    let refused = |hop: NextHop, at: usize, value: u8| {
        let mut frame = framed(&hop, b"payload", 0, 0);
        frame[at] = value;
        parse(&frame).unwrap_err()
    };
    assert_eq!(refused(hop(false, None), 13, 0x06), ParseError::NotIp);
    assert_eq!(refused(hop(false, Some(1)), 17, 0x06), ParseError::NotIp);
    assert_eq!(refused(hop(false, None), 22, 63), ParseError::IpChecksum);
    assert_eq!(refused(hop(true, None), 20, 6), ParseError::NotUdp);
    assert_eq!(refused(hop(true, None), 20, 44), ParseError::Fragment);
    assert_eq!(refused(hop(true, None), 59, 200), ParseError::BadLength);
}

proptest! {
    #[test]
    fn templates_round_trip(
        v6: bool, vlan in prop_oneof![Just(None), (1..=4094u16).prop_map(Some)], src: [u8; 16], dst: [u8; 16],
        src_mac: [u8; 6], dst_mac: [u8; 6], src_port: u16, dst_port: u16, ecn in 0..4u8, ip_id: u16, payload: Vec<u8>,
    ) {
        let ip = |bytes: [u8; 16]| {
            let [a, b, c, d, ..] = bytes;
            if v6 { IpAddr::from(bytes) } else { IpAddr::from([a, b, c, d]) }
        };
        let hop = NextHop {
            src_mac: MacAddr(src_mac),
            dst_mac: MacAddr(dst_mac),
            vlan,
            src: SocketAddr::new(ip(src), src_port),
            dst: SocketAddr::new(ip(dst), dst_port),
        };
        let frame = framed(&hop, &payload, ecn, ip_id);
        let outer = parse(&frame).unwrap();
        prop_assert!(datagram_is_intact(&frame, &outer));
        let header_len = frame.len() - payload.len();
        prop_assert_eq!(outer, Outer {
            vlan,
            src: ip(src),
            dst: ip(dst),
            src_port,
            dst_port,
            ecn,
            payload: Span { offset: header_len, len: payload.len() },
            udp_checksum: outer.udp_checksum,
        });
        prop_assert_eq!(verify_udp_checksum(&frame, &outer), Ok(()));
        let (eth, _) = EthHeader::parse(&frame).unwrap();
        prop_assert_eq!((eth.src, eth.dst), (hop.src_mac, hop.dst_mac));
    }

    #[test]
    fn anything_is_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128), at in 0..2usize) {
        let mut frame = framed(&hops()[at * 2 + 1], b"", 0, 0);
        for (to, from) in frame[18..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        for bytes in [&bytes, &frame] {
            if let Ok(outer) = parse(bytes) {
                prop_assert!(outer.payload.of(bytes).is_some());
            }
        }
    }
}
