//! Frames from Ethernet to UDP.
//!
//! Invariants, for any bytes that are not refused:
//! - the payload lies inside the frame, and the front of the frame gives the same answer as the whole;
//! - a template made from what was parsed writes a frame that parses to the same, with a valid UDP checksum;
//! - if the received checksum was valid, the template's is the same, and so is the one made without summing the payload.
//!
//! The fuzzer does not guess checksums, so a bad IPv4 header checksum is put right and the frame tried again.

use std::net::SocketAddr;

use florelay_wire::eth::{EthHeader, MAX_VLAN_ID};
use florelay_wire::outer::{self, MAX_OUTER_BYTES, NextHop, Outer, OuterTemplate, Span};
use florelay_wire::{ParseError, checksum, link};

/// One input.
pub fn run(bytes: &[u8]) {
    match outer::parse(bytes) {
        Ok(parsed) => check(bytes, &parsed),
        Err(ParseError::IpChecksum) => {
            let mut frame = bytes.to_vec();
            let (eth, _) = EthHeader::parse(bytes).expect("the IP header was reached");
            let ip = &mut frame[eth.header_len()..][..20];
            ip[10..12].fill(0);
            let sum = checksum::checksum(ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            match outer::parse(&frame) {
                Ok(parsed) => check(&frame, &parsed),
                Err(error) => assert_ne!(error, ParseError::IpChecksum),
            }
        }
        Err(_) => {}
    }
}

fn check(frame: &[u8], parsed: &Outer) {
    let front = &frame[..frame.len().min(MAX_OUTER_BYTES)];
    assert_eq!(outer::parse_front(front, frame.len()), Ok(*parsed));
    let payload = parsed.payload.of(frame).expect("the payload lies in the frame");
    let _ = link::parse(payload);

    let (eth, _) = EthHeader::parse(frame).expect("the frame was parsed");
    let hop = NextHop {
        src_mac: eth.src,
        dst_mac: eth.dst,
        vlan: parsed.vlan,
        src: SocketAddr::new(parsed.src, parsed.src_port),
        dst: SocketAddr::new(parsed.dst, parsed.dst_port),
    };
    if parsed.vlan.is_some_and(|id| id > MAX_VLAN_ID) {
        assert!(OuterTemplate::new(&hop).is_err());
        return;
    }
    let template = OuterTemplate::new(&hop).expect("the addresses are of one family");
    let offset = template.header_len();
    let mut again = vec![0xA5; offset];
    if template.write(&mut again, payload, parsed.ecn, 1).is_none() {
        assert!(payload.len() > template.max_payload(usize::from(u16::MAX)));
        return;
    }
    again.extend_from_slice(payload);

    let reparsed = outer::parse(&again).expect("a template writes what the parser reads");
    let span = Span { offset, len: payload.len() };
    assert_eq!(reparsed, Outer { payload: span, udp_checksum: reparsed.udp_checksum, ..*parsed });
    assert_eq!(outer::verify_udp_checksum(&again, &reparsed), Ok(()));

    if parsed.udp_checksum != 0 && outer::verify_udp_checksum(frame, parsed).is_ok() {
        assert_eq!(reparsed.udp_checksum, parsed.udp_checksum);
    }
    if let Some(sum) = parsed.payload_sum() {
        let mut passed_on = vec![0; offset];
        template.write_with_sum(&mut passed_on, payload.len(), sum, parsed.ecn, 1).expect("it fitted before");
        passed_on.extend_from_slice(payload);
        let passed_on = outer::parse(&passed_on).expect("the same headers");
        assert_eq!(passed_on.udp_checksum, parsed.udp_checksum);
    }
}
