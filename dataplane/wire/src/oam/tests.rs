//! All bodies against the same damage, and what is particular to each.

use super::*;
use crate::testing::{each_mutation, each_truncation};
use proptest::prelude::*;
use std::string::String;
use std::vec;
use std::vec::Vec;

const LIVENESS: Liveness = Liveness {
    version: 2,
    min_version: 1,
    state: State::Init,
    detect_mult: 3,
    my_interval_us: 100_000,
    boot_id: 0x0102_0304_0506_0708,
    your_boot_id: 0x1112_1314_1516_1718,
    sequence: 0x2122_2324,
    sent_ns: 0x3132_3334_3536_3738,
    echo_ns: 0x4142_4344_4546_4748,
    echo_hold_ns: 0x5152_5354_5556_5758,
    extension: Some(Extension { wall_ns: 0x6162_6364_6566_6768, expected: 0x7172_7374, lost: 0x8182_8384 }),
    tag: [0xEE; TAG_BYTES],
};
/// As a node of version 1 writes it.
const LIVENESS_1: Liveness = Liveness { version: 1, extension: None, ..LIVENESS };
const ALARM: Alarm =
    Alarm { version: 2, kind: AlarmKind::Down, sequence: 9, node: 0xAABB, reason: alarm_reason::LIVENESS };
const REQUEST: TraceRequest = TraceRequest { token: 5, sent_ns: 6, hop: 7 };
const REPLY: TraceReply<'static> = TraceReply { token: 5, sent_ns: 6, hop: 7, role: Role::Egress, name: "relay-1" };

fn body(write: impl Fn(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut buf = vec![0; 128];
    let len = write(&mut buf).unwrap();
    buf.truncate(len);
    // exactly that much room is enough, one byte less is not and stays untouched
    let mut exact = vec![0; len];
    assert_eq!(write(&mut exact), Some(len));
    assert_eq!(exact, buf);
    let mut short = vec![0xA5; len - 1];
    assert_eq!(write(&mut short), None);
    assert_eq!(short, vec![0xA5; len - 1]);
    buf
}

/// Every body with the function that parses it and writes it again.
type Rewrite = fn(&[u8]) -> Result<Vec<u8>, ParseError>;
fn samples() -> [(Vec<u8>, Rewrite); 5] {
    [
        (body(|b| LIVENESS.write(b)), |m| Liveness::parse(m).map(|v| body(|b| v.write(b)))),
        (body(|b| LIVENESS_1.write(b)), |m| Liveness::parse(m).map(|v| body(|b| v.write(b)))),
        (body(|b| ALARM.write(b)), |m| Alarm::parse(m).map(|v| body(|b| v.write(b)))),
        (body(|b| REQUEST.write(b)), |m| TraceRequest::parse(m).map(|v| body(|b| v.write(b)))),
        (body(|b| REPLY.write(b)), |m| TraceReply::parse(m).map(|v| body(|b| v.write(b)))),
    ]
}

#[test]
fn layouts() {
    let bytes = body(|b| LIVENESS.write(b));
    assert_eq!(bytes.len(), 84);
    assert_eq!(bytes[..8], [2, 1, 2, 3, 0x00, 0x01, 0x86, 0xA0]);
    assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes[24..29], [0x21, 0x22, 0x23, 0x24, 0x31]);
    assert_eq!(bytes[51..53], [0x58, 0x61]);
    assert_eq!(bytes[59..65], [0x68, 0x71, 0x72, 0x73, 0x74, 0x81]);
    assert_eq!(bytes[67..69], [0x84, 0xEE]);
    let first = body(|b| LIVENESS_1.write(b));
    assert_eq!((first.len(), &first[1..52], &first[52..]), (68, &bytes[1..52], &bytes[68..]));
    assert_eq!(body(|b| ALARM.write(b)), [2, 1, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0xAA, 0xBB]);
    assert_eq!(body(|b| REQUEST.write(b)), [2, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6]);
    assert_eq!(body(|b| REPLY.write(b))[..5], [2, 7, 2, 7, 0]);
    assert_eq!(body(|b| REPLY.write(b))[20..], *b"relay-1");
}

#[test]
fn mutations_are_refused_or_carried() {
    for (sample, rewrite) in samples() {
        let mut carried = 0;
        each_mutation(&sample, |at, bytes| {
            if let Ok(again) = rewrite(bytes) {
                // of a newer version the traces keep only what they know
                let from = usize::from(at == 0);
                assert_eq!(again[from..], bytes[from..]);
                carried += 1;
            }
        });
        assert!(carried > 0);
    }
}

#[test]
fn truncations_are_too_short() {
    for (sample, rewrite) in samples() {
        each_truncation(&sample, |bytes| {
            assert_eq!(rewrite(bytes), Err(ParseError::TooShort));
        });
    }
}

#[test]
fn newer_versions_may_be_longer_ours_may_not() {
    for (mut sample, rewrite) in samples() {
        let ours = sample.clone();
        // between fields and tag for liveness, which is appended like anything else where there is no tag
        let liveness = [Liveness::LEN, Liveness::LEN_1].contains(&sample.len());
        let end = if liveness { sample.len() - TAG_BYTES } else { sample.len() };
        sample.splice(end..end, *b"news");
        assert_eq!(rewrite(&sample), Err(ParseError::TrailingBytes));
        if ours.len() == Liveness::LEN_1 {
            // Neither whole nor old.
            sample[0] = WIRE_VERSION;
            assert_eq!(rewrite(&sample), Err(ParseError::TooShort));
            continue;
        }
        sample[0] = WIRE_VERSION + 1;
        assert_eq!(rewrite(&sample).unwrap()[1..], ours[1..]);
        sample[0] = MIN_WIRE_VERSION - 1;
        assert_eq!(rewrite(&sample), Err(ParseError::WireVersion));
    }
}

#[test]
fn liveness_of_newer_peers() {
    let newer = Liveness { version: 3, min_version: 1, ..LIVENESS };
    assert_eq!(Liveness::parse(&body(|b| newer.write(b))), Ok(newer));
    let too_new = Liveness { version: 4, min_version: 3, ..LIVENESS };
    assert_eq!(Liveness::parse(&body(|b| too_new.write(b))), Err(ParseError::WireVersion));
    let nonsense = Liveness { version: 2, min_version: 3, ..LIVENESS };
    assert_eq!(Liveness::parse(&body(|b| nonsense.write(b))), Err(ParseError::FieldRange));
}

/// What a node of version 1 reads of a body: it takes a longer one from a newer version only, and knows the first 52 bytes.
#[test]
fn a_node_of_version_1_can_read_ours() {
    let ours = body(|b| LIVENESS.write(b));
    assert!(ours[0] > 1 && ours[1] <= 1, "the version says that it is longer, and that version 1 will do");
    assert_eq!(Liveness::parse(&body(|b| LIVENESS_1.write(b))), Ok(LIVENESS_1));
    let mut buf = [0; Liveness::LEN];
    assert_eq!(Liveness { version: 1, ..LIVENESS }.write(&mut buf), None);
    assert_eq!(Liveness { extension: None, ..LIVENESS }.write(&mut buf), None);
}

#[test]
fn liveness_fields_that_are_never_zero() {
    for bad in [Liveness { detect_mult: 0, ..LIVENESS }, Liveness { boot_id: 0, ..LIVENESS }] {
        assert_eq!(Liveness::parse(&body(|b| bad.write(b))), Err(ParseError::FieldRange));
    }
}

#[test]
fn the_tag_is_last_and_covers_the_rest() {
    let mut bytes = body(|b| LIVENESS.write(b));
    assert_eq!(Liveness::authenticated_bytes(&bytes).unwrap(), &bytes[..68]);
    Liveness::set_tag(&mut bytes, [0x77; TAG_BYTES]).unwrap();
    assert_eq!(Liveness::parse(&bytes), Ok(Liveness { tag: [0x77; TAG_BYTES], ..LIVENESS }));
    assert_eq!(Liveness::authenticated_bytes(&bytes[..15]), None);
    // what a newer version appends is covered too
    bytes[0] = 3;
    bytes.splice(68..68, *b"news");
    assert!(Liveness::authenticated_bytes(&bytes).unwrap().ends_with(b"news"));
}

#[test]
fn names_that_would_harm_a_terminal_are_refused() {
    let mut bytes = body(|b| REPLY.write(b));
    for bad in [0x1B, b' ', 0x7F, 0x80, 0xFF, 0] {
        bytes[22] = bad;
        assert_eq!(TraceReply::parse(&bytes), Err(ParseError::FieldRange));
    }
    let long = "x".repeat(64);
    assert_eq!(TraceReply { name: &long, ..REPLY }.write(&mut [0; 128]), None);
    assert_eq!(TraceReply { name: &long[..63], ..REPLY }.write(&mut [0; 128]), Some(TraceReply::LEN));
    assert_eq!(TraceReply { name: "a b", ..REPLY }.write(&mut [0; 128]), None);
}

proptest! {
    #[test]
    fn liveness_round_trips(
        state in 0..4u8, detect_mult in 1..=255u8, my_interval_us: u32, boot_id in 1..=u64::MAX, your_boot_id: u64,
        sequence: u32, sent_ns: u64, echo_ns: u64, echo_hold_ns: u64, tag: [u8; TAG_BYTES], version in 1..=255u8,
        wall_ns: u64, expected: u32, lost: u32,
    ) {
        let state = State::from_u8(state).unwrap();
        let extension = (version > 1).then_some(Extension { wall_ns, expected, lost });
        let value = Liveness {
            version, min_version: 1, state, detect_mult, my_interval_us, boot_id, your_boot_id, sequence, sent_ns,
            echo_ns, echo_hold_ns, extension, tag,
        };
        prop_assert_eq!(Liveness::parse(&body(|b| value.write(b))), Ok(value));
    }

    #[test]
    fn alarm_round_trips(up: bool, sequence: u32, node: u64, reason: u8, version in 1..=255u8) {
        let kind = if up { AlarmKind::Up } else { AlarmKind::Down };
        let value = Alarm { version, kind, sequence, node, reason };
        prop_assert_eq!(Alarm::parse(&body(|b| value.write(b))), Ok(value));
    }

    #[test]
    fn traces_round_trip(token: u64, sent_ns: u64, hop: u8, egress: bool, name in "[!-~]{0,63}") {
        let request = TraceRequest { token, sent_ns, hop };
        prop_assert_eq!(TraceRequest::parse(&body(|b| request.write(b))), Ok(request));
        let role = if egress { Role::Egress } else { Role::Transit };
        let name: String = name;
        let reply = TraceReply { token, sent_ns, hop, role, name: &name };
        let bytes = body(|b| reply.write(b));
        prop_assert_eq!(TraceReply::parse(&bytes), Ok(reply));
    }

    #[test]
    fn anything_is_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        for (_, rewrite) in samples() {
            let _ = rewrite(&bytes);
        }
    }
}
