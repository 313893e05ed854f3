//! A whole link payload, that is what lies inside UDP: label stack, then control word or associated channel, then the rest.
//!
//! Two shapes exist, and nothing else is accepted:
//!
//! | stack | then | scope |
//! |---|---|---|
//! | LSE 0 (S=0), LSE 1 (S=1), both labels ≥ 16 | control word or associated channel | a path |
//! | one LSE: label 13 (GAL), S=1, TTL 1 | associated channel | this link |
//!
//! The parser does not look at the TTL of path frames: whether a frame has expired is the FIB's verdict (a trace needs the
//! expired ones). The writers set the S bits themselves.

use crate::ParseError;
use crate::ach::{ACH_NIBBLE, AchHeader};
use crate::cw::{ControlWord, FLAGS_ECN_MASK};
use crate::mpls::{LSE_BYTES, Label, Lse, Tc};

/// Two label stack entries and a control word (or associated channel header).
pub const PATH_HEADER_BYTES: usize = 12;

/// One label stack entry and an associated channel header.
pub const LINK_OAM_HEADER_BYTES: usize = 8;

/// TTL of link-scope OAM: it never leaves the link.
pub const LINK_OAM_TTL: u8 = 1;

/// A parsed link payload; borrows what follows the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkFrame<'a> {
    /// LSE 0: the label by which the receiver knows this path, or GAL.
    pub forward: Lse,
    /// LSE 1: the label by which the receiver reaches the sender. `None` exactly for link-scope OAM.
    pub backward: Option<Lse>,
    /// What follows the stack.
    pub body: Body<'a>,
}

/// What follows the label stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// A control word and a payload.
    Payload {
        /// The control word.
        cw: ControlWord,
        /// All bytes after it; may be empty.
        payload: &'a [u8],
    },
    /// An associated channel.
    Channel {
        /// Its header.
        ach: AchHeader,
        /// All bytes after it: one of the bodies in [`oam`](crate::oam).
        message: &'a [u8],
    },
}

/// Parses a whole link payload.
///
/// # Errors
/// The first thing that is wrong, front to back: `TooShort`, `StackDepth`, `ReservedLabel`, `LinkTtl`, `BadNibble`,
/// `UnknownPayload`, `ChannelHeader`, `UnknownChannel`.
#[inline(always)]
pub fn parse(bytes: &[u8]) -> Result<LinkFrame<'_>, ParseError> {
    LinkFrame::parse(bytes)
}

impl<'a> LinkFrame<'a> {
    /// Same as [`parse`].
    ///
    /// # Errors
    /// See [`parse`].
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<LinkFrame<'a>, ParseError> {
        let (forward, rest) = split_lse(bytes)?;
        if forward.bottom {
            return parse_link_oam(forward, rest);
        }
        if forward.label.is_reserved() {
            return Err(ParseError::ReservedLabel);
        }
        let (backward, rest) = split_lse(rest)?;
        if !backward.bottom {
            return Err(ParseError::StackDepth);
        }
        if backward.label.is_reserved() {
            return Err(ParseError::ReservedLabel);
        }
        let (word, rest) = rest.split_first_chunk().ok_or(ParseError::TooShort)?;
        let body = if word[0] >> 4 == ACH_NIBBLE {
            Body::Channel { ach: AchHeader::from_bytes(*word)?, message: rest }
        } else {
            Body::Payload { cw: ControlWord::from_bytes(*word)?, payload: rest }
        };
        Ok(LinkFrame { forward, backward: Some(backward), body })
    }
}

#[inline(always)]
fn split_lse(bytes: &[u8]) -> Result<(Lse, &[u8]), ParseError> {
    let (lse, rest) = bytes.split_first_chunk::<LSE_BYTES>().ok_or(ParseError::TooShort)?;
    Ok((Lse::from_bytes(*lse), rest))
}

#[inline(always)]
fn parse_link_oam(forward: Lse, rest: &[u8]) -> Result<LinkFrame<'_>, ParseError> {
    if forward.label != Label::GAL {
        return Err(if forward.label.is_reserved() { ParseError::ReservedLabel } else { ParseError::StackDepth });
    }
    if forward.ttl != LINK_OAM_TTL {
        return Err(ParseError::LinkTtl);
    }
    let (word, message) = rest.split_first_chunk().ok_or(ParseError::TooShort)?;
    let ach = AchHeader::from_bytes(*word)?;
    Ok(LinkFrame { forward, backward: None, body: Body::Channel { ach, message } })
}

/// Writes the header of a path frame with a payload; its length, or `None` (nothing written) if the buffer is too small.
/// The S bits of both entries are set as the shape demands.
#[inline(always)]
#[must_use]
pub fn write_path_header(buf: &mut [u8], forward: Lse, backward: Lse, cw: ControlWord) -> Option<usize> {
    write_path(buf, forward, backward, cw.to_bytes())
}

/// Writes the header of a path frame with an associated channel; its length, or `None` (nothing written) if the buffer is
/// too small. The S bits of both entries are set as the shape demands.
#[inline(always)]
#[must_use]
pub fn write_path_channel(buf: &mut [u8], forward: Lse, backward: Lse, ach: AchHeader) -> Option<usize> {
    write_path(buf, forward, backward, ach.to_bytes())
}

/// Writes the header of link-scope OAM; its length, or `None` (nothing written) if the buffer is too small.
#[inline(always)]
#[must_use]
pub fn write_link_channel(buf: &mut [u8], tc: Tc, ach: AchHeader) -> Option<usize> {
    let header = buf.first_chunk_mut::<LINK_OAM_HEADER_BYTES>()?;
    let lse = Lse { label: Label::GAL, tc, bottom: true, ttl: LINK_OAM_TTL };
    let [a, b, c, d] = lse.to_bytes();
    let [e, f, g, h] = ach.to_bytes();
    *header = [a, b, c, d, e, f, g, h];
    Some(LINK_OAM_HEADER_BYTES)
}

/// Puts ECN (the low two bits of `ecn`, RFC 3168 section 5) into the control word of a link payload, for a link without
/// IP. Link-scope OAM and associated channels have no control word and are left alone: they are never ECN-capable.
#[inline(always)]
pub fn set_ecn(bytes: &mut [u8], ecn: u8) {
    if let Some(flags) = flags_mut(bytes) {
        *flags = (*flags & !FLAGS_ECN_MASK) | (ecn & FLAGS_ECN_MASK);
    }
}

/// Takes ECN out of the control word of a link payload that came over a link without IP; 0 if it has none. The bits are
/// clear afterwards: the next link says it its own way.
#[inline(always)]
#[must_use]
pub fn take_ecn(bytes: &mut [u8]) -> u8 {
    let Some(flags) = flags_mut(bytes) else { return 0 };
    let ecn = *flags & FLAGS_ECN_MASK;
    *flags &= !FLAGS_ECN_MASK;
    ecn
}

/// The flags of the control word, if there is one.
#[inline(always)]
fn flags_mut(bytes: &mut [u8]) -> Option<&mut u8> {
    let header = bytes.first_chunk_mut::<PATH_HEADER_BYTES>()?;
    let [_, _, bottom, _, _, _, _, _, nibble, flags, ..] = header;
    (*bottom & 1 == 0 && *nibble >> 4 == 0).then_some(flags)
}

#[inline(always)]
fn write_path(buf: &mut [u8], forward: Lse, backward: Lse, word: [u8; 4]) -> Option<usize> {
    let header = buf.first_chunk_mut::<PATH_HEADER_BYTES>()?;
    let [a, b, c, d] = Lse { bottom: false, ..forward }.to_bytes();
    let [e, f, g, h] = Lse { bottom: true, ..backward }.to_bytes();
    let [i, j, k, l] = word;
    *header = [a, b, c, d, e, f, g, h, i, j, k, l];
    Some(PATH_HEADER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ach::ChannelType;
    use crate::cw::PayloadType;
    use crate::testing::{each_mutation, each_truncation};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn lse(label: u32, ttl: u8) -> Lse {
        Lse { label: Label::new(label).unwrap(), tc: Tc::CONTROL, bottom: false, ttl }
    }

    /// What the writers make of a parsed frame.
    fn written(frame: &LinkFrame<'_>) -> Vec<u8> {
        let mut buf = vec![0; PATH_HEADER_BYTES];
        let (len, rest) = match (frame.backward, frame.body) {
            (Some(backward), Body::Payload { cw, payload }) => {
                (write_path_header(&mut buf, frame.forward, backward, cw), payload)
            }
            (Some(backward), Body::Channel { ach, message }) => {
                (write_path_channel(&mut buf, frame.forward, backward, ach), message)
            }
            (None, Body::Channel { ach, message }) => (write_link_channel(&mut buf, frame.forward.tc, ach), message),
            (None, Body::Payload { .. }) => panic!("a payload without a path"),
        };
        buf.truncate(len.unwrap());
        buf.extend_from_slice(rest);
        buf
    }

    fn samples() -> [Vec<u8>; 3] {
        let cw = ControlWord { payload: PayloadType::Quic, flags: 2, sequence: 7 };
        let mut payload = vec![0; PATH_HEADER_BYTES];
        write_path_header(&mut payload, lse(16, 64), lse(0xF_FFFF, 0), cw).unwrap();
        payload.extend_from_slice(b"payload");
        let mut channel = vec![0; PATH_HEADER_BYTES];
        let ach = AchHeader { channel: ChannelType::TraceRequest };
        write_path_channel(&mut channel, lse(17, 2), lse(18, 0), ach).unwrap();
        channel.extend_from_slice(b"request");
        let mut oam = vec![0; LINK_OAM_HEADER_BYTES];
        write_link_channel(&mut oam, Tc::OAM, AchHeader { channel: ChannelType::Liveness }).unwrap();
        oam.extend_from_slice(b"liveness");
        [payload, channel, oam]
    }

    #[test]
    fn known_frames() {
        let [payload, channel, oam] = samples();
        assert_eq!(payload[..12], [0x00, 0x01, 0x0C, 0x40, 0xFF, 0xFF, 0xFD, 0x00, 0x00, 0x02, 0x00, 0x07]);
        assert_eq!(channel[..12], [0x00, 0x01, 0x1C, 0x02, 0x00, 0x01, 0x2D, 0x00, 0x10, 0x00, 0x7F, 0xFA]);
        assert_eq!(oam[..8], [0x00, 0x00, 0xDF, 0x01, 0x10, 0x00, 0x7F, 0xF8]);
        let parsed = parse(&payload).unwrap();
        assert_eq!(parsed.forward, lse(16, 64));
        assert_eq!(parsed.backward, Some(Lse { bottom: true, ..lse(0xF_FFFF, 0) }));
        assert!(matches!(parsed.body, Body::Payload { payload: b"payload", cw } if cw.sequence == 7));
        assert_eq!(parse(&oam).unwrap().backward, None);
    }

    #[test]
    fn ecn_goes_into_control_words_and_nothing_else() {
        let [mut payload, channel, oam] = samples();
        payload[9] = 0xA0;
        for ecn in 0..4 {
            set_ecn(&mut payload, 0xF0 | ecn);
            assert_eq!(payload[9], 0xA0 | ecn);
            assert_eq!((take_ecn(&mut payload), payload[9]), (ecn, 0xA0));
        }
        for mut other in [channel, oam, payload[..11].to_vec(), Vec::new()] {
            let before = other.clone();
            set_ecn(&mut other, 3);
            assert_eq!((take_ecn(&mut other), other), (0, before));
        }
    }

    #[test]
    fn precise_errors() {
        let refused = |bytes: &[u8]| parse(bytes).unwrap_err();
        // reserved forward label, reserved backward label, GAL with a second entry below it
        assert_eq!(refused(&[0, 0, 0xF0, 9, 0, 1, 1, 0, 0, 0, 0, 0]), ParseError::ReservedLabel);
        assert_eq!(refused(&[0, 1, 0, 9, 0, 0, 0xF1, 0, 0, 0, 0, 0]), ParseError::ReservedLabel);
        assert_eq!(refused(&[0, 0, 0xD0, 1, 0, 1, 1, 0, 0x10, 0, 0x7F, 0xF8]), ParseError::ReservedLabel);
        // one entry that is not GAL: an allocated label, a reserved one; three entries
        assert_eq!(refused(&[0, 1, 1, 9, 0x10, 0, 0x7F, 0xF8]), ParseError::StackDepth);
        assert_eq!(refused(&[0, 0, 1, 9, 0x10, 0, 0x7F, 0xF8]), ParseError::ReservedLabel);
        assert_eq!(refused(&[0, 1, 0, 9, 0, 1, 0x10, 9, 0, 1, 0x21, 9, 0, 0, 0, 0]), ParseError::StackDepth);
        // link-scope OAM from afar, and with a control word
        assert_eq!(refused(&[0, 0, 0xD1, 2, 0x10, 0, 0x7F, 0xF8]), ParseError::LinkTtl);
        assert_eq!(refused(&[0, 0, 0xD1, 1, 0x00, 0, 0, 0]), ParseError::BadNibble);
        // IPv4 straight after the stack
        assert_eq!(refused(&[0, 1, 0, 9, 0, 1, 1, 0, 0x45, 0, 0, 0]), ParseError::BadNibble);
        assert_eq!(refused(&[0, 1, 0, 9, 0, 1, 1, 0, 0x0F, 0, 0, 0]), ParseError::UnknownPayload);
        assert_eq!(refused(&[0, 1, 0, 9, 0, 1, 1, 0, 0x10, 0, 0, 0x21]), ParseError::UnknownChannel);
    }

    #[test]
    fn mutations_are_refused_or_carried() {
        for sample in samples() {
            each_mutation(&sample, |_, bytes| {
                if let Ok(frame) = parse(bytes) {
                    assert_eq!(written(&frame), bytes);
                }
            });
        }
    }

    #[test]
    fn truncated_headers_are_too_short() {
        for (sample, header) in samples().iter().zip([12, 12, 8]) {
            each_truncation(&sample[..header], |bytes| {
                assert_eq!(parse(bytes), Err(ParseError::TooShort));
            });
            assert!(parse(&sample[..header]).is_ok());
        }
    }

    #[test]
    fn small_buffers_are_left_alone() {
        let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0 };
        let ach = AchHeader { channel: ChannelType::Alarm };
        let mut buf = [0xA5; 11];
        assert_eq!(write_path_header(&mut buf, lse(16, 1), lse(16, 1), cw), None);
        assert_eq!(write_path_channel(&mut buf, lse(16, 1), lse(16, 1), ach), None);
        assert_eq!(write_link_channel(&mut buf[..7], Tc::OAM, ach), None);
        assert_eq!(buf, [0xA5; 11]);
    }

    proptest! {
        #[test]
        fn path_frames_round_trip(
            forward in 16..=0xF_FFFFu32, backward in 16..=0xF_FFFFu32, tc in 0..8u8, ttl: u8, flags: u8, sequence: u16,
            kind in 0..3u8, payload: Vec<u8>,
        ) {
            let tc = Tc::new(tc).unwrap();
            let forward = Lse { tc, ..lse(forward, ttl) };
            let backward = Lse { tc, bottom: true, ..lse(backward, 0) };
            let cw = ControlWord { payload: PayloadType::from_bits(kind).unwrap(), flags, sequence };
            let mut bytes = vec![0; PATH_HEADER_BYTES];
            prop_assert_eq!(write_path_header(&mut bytes, forward, backward, cw), Some(PATH_HEADER_BYTES));
            bytes.extend_from_slice(&payload);
            let body = Body::Payload { cw, payload: &payload };
            prop_assert_eq!(parse(&bytes), Ok(LinkFrame { forward, backward: Some(backward), body }));
        }

        #[test]
        fn anything_is_refused_or_carried(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(frame) = parse(&bytes) {
                prop_assert_eq!(written(&frame), bytes);
            }
        }
    }
}
