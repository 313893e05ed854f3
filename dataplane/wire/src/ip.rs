//! IPv4 (RFC 791) without options or fragments, and IPv6 (RFC 8200) without extension headers.
//!
//! A datagram that uses what is left out is refused, never misread. The parsers take the length of what follows Ethernet
//! separately from its bytes, so that a program that sees only the front of a frame can check the length fields too.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::ParseError;
use crate::checksum::Sum;

/// Length of an IPv4 header without options.
pub const IPV4_BYTES: usize = 20;
/// Length of an IPv6 header.
pub const IPV6_BYTES: usize = 40;
/// TTL and hop limit of what we send (RFC 1700's recommended default).
pub const DEFAULT_TTL: u8 = 64;
/// The ECN bits of the TOS or traffic class byte (RFC 3168 section 5).
pub const ECN_MASK: u8 = 0b11;
/// ECN: not capable.
pub const ECN_NOT_ECT: u8 = 0b00;
/// ECN: capable, codepoint 1.
pub const ECN_ECT1: u8 = 0b01;
/// ECN: capable, codepoint 0.
pub const ECN_ECT0: u8 = 0b10;
/// ECN: congestion experienced.
pub const ECN_CE: u8 = 0b11;

const DONT_FRAGMENT: u16 = 0x4000;
const NEXT_HEADER_FRAGMENT: u8 = 44;

/// An IPv4 header of 20 bytes; its checksum is checked on reading and computed on writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Header {
    /// DSCP (high six bits) and ECN (low two).
    pub tos: u8,
    /// Header and payload, bytes; at least 20.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// DF flag.
    pub dont_fragment: bool,
    /// Time to live, hops.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
}

impl Ipv4Header {
    /// Reads the header of a datagram of which `bytes` is the front and `available` the length with all that follows
    /// Ethernet (padding included). What follows the header in `bytes` comes with it.
    ///
    /// # Errors
    /// `TooShort`, `IpVersion`, `IpOptions`, `BadLength`, `IpChecksum`, `Fragment` (more fragments, an offset, or the
    /// reserved bit).
    #[inline(always)]
    pub fn parse(bytes: &[u8], available: usize) -> Result<(Ipv4Header, &[u8]), ParseError> {
        let (head, rest) = bytes.split_first_chunk::<IPV4_BYTES>().ok_or(ParseError::TooShort)?;
        let [vi, tos, l0, l1, i0, i1, f0, f1, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *head;
        if vi >> 4 != 4 {
            return Err(ParseError::IpVersion);
        }
        if vi & 0xF != 5 {
            return Err(if vi & 0xF < 5 { ParseError::BadLength } else { ParseError::IpOptions });
        }
        if header_sum(head).folded() != 0xFFFF {
            return Err(ParseError::IpChecksum);
        }
        let total_len = u16::from_be_bytes([l0, l1]);
        if usize::from(total_len) < IPV4_BYTES || usize::from(total_len) > available {
            return Err(ParseError::BadLength);
        }
        let fragment = u16::from_be_bytes([f0, f1]);
        if fragment & !DONT_FRAGMENT != 0 {
            return Err(ParseError::Fragment);
        }
        let header = Ipv4Header {
            tos,
            total_len,
            id: u16::from_be_bytes([i0, i1]),
            dont_fragment: fragment & DONT_FRAGMENT != 0,
            ttl,
            protocol,
            src: Ipv4Addr::new(s0, s1, s2, s3),
            dst: Ipv4Addr::new(d0, d1, d2, d3),
        };
        Ok((header, rest))
    }

    /// The header with its checksum.
    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; IPV4_BYTES] {
        let checksum = self.partial_sum().word(self.total_len).word(self.id).word(self.tos as u16).checksum();
        let [l0, l1] = self.total_len.to_be_bytes();
        let [i0, i1] = self.id.to_be_bytes();
        let [f0, f1] = self.fragment_field().to_be_bytes();
        let [c0, c1] = checksum.to_be_bytes();
        let [s0, s1, s2, s3] = self.src.octets();
        let [d0, d1, d2, d3] = self.dst.octets();
        [0x45, self.tos, l0, l1, i0, i1, f0, f1, self.ttl, self.protocol, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3]
    }

    /// Sum of the fields that stay the same from datagram to datagram: all but TOS, total length, identification.
    pub(crate) const fn partial_sum(&self) -> Sum {
        Sum::ZERO
            .word(0x4500)
            .word(self.fragment_field())
            .word(u16::from_be_bytes([self.ttl, self.protocol]))
            .double(self.src.to_bits())
            .double(self.dst.to_bits())
    }

    const fn fragment_field(&self) -> u16 {
        if self.dont_fragment { DONT_FRAGMENT } else { 0 }
    }
}

/// Straight-line sum of the header: a loop would cost the verifier more than the machine.
#[inline(always)]
fn header_sum(head: &[u8; IPV4_BYTES]) -> Sum {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = *head;
    Sum::ZERO
        .double(u32::from_be_bytes([a, b, c, d]))
        .double(u32::from_be_bytes([e, f, g, h]))
        .double(u32::from_be_bytes([i, j, k, l]))
        .double(u32::from_be_bytes([m, n, o, p]))
        .double(u32::from_be_bytes([q, r, s, t]))
}

/// An IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Header {
    /// DSCP (high six bits) and ECN (low two).
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// What follows the header, bytes.
    pub payload_len: u16,
    /// What follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// Reads the header of a datagram of which `bytes` is the front and `available` the length with all that follows
    /// Ethernet (padding included). What follows the header in `bytes` comes with it.
    ///
    /// # Errors
    /// `TooShort`, `IpVersion`, `BadLength`, `Fragment` (a fragment header follows).
    #[inline(always)]
    pub fn parse(bytes: &[u8], available: usize) -> Result<(Ipv6Header, &[u8]), ParseError> {
        let ([v0, v1, v2, v3, l0, l1, next_header, hop_limit], rest) =
            bytes.split_first_chunk::<8>().ok_or(ParseError::TooShort)?;
        let (src, rest) = rest.split_first_chunk::<16>().ok_or(ParseError::TooShort)?;
        let (dst, rest) = rest.split_first_chunk::<16>().ok_or(ParseError::TooShort)?;
        let word = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
        if word >> 28 != 6 {
            return Err(ParseError::IpVersion);
        }
        let payload_len = u16::from_be_bytes([*l0, *l1]);
        if IPV6_BYTES + usize::from(payload_len) > available {
            return Err(ParseError::BadLength);
        }
        if *next_header == NEXT_HEADER_FRAGMENT {
            return Err(ParseError::Fragment);
        }
        let header = Ipv6Header {
            traffic_class: (word >> 20) as u8,
            flow_label: word & 0xF_FFFF,
            payload_len,
            next_header: *next_header,
            hop_limit: *hop_limit,
            src: Ipv6Addr::from_octets(*src),
            dst: Ipv6Addr::from_octets(*dst),
        };
        Ok((header, rest))
    }

    /// Writes the header; its length, or `None` (nothing written) if the buffer is too small. Only the low 20 bits of the
    /// flow label are written.
    #[inline(always)]
    #[must_use]
    pub fn write(&self, buf: &mut [u8]) -> Option<usize> {
        let (head, rest) = buf.get_mut(..IPV6_BYTES)?.split_first_chunk_mut::<8>()?;
        let (src, rest) = rest.split_first_chunk_mut::<16>()?;
        let dst = rest.first_chunk_mut::<16>()?;
        let word = (6 << 28) | (u32::from(self.traffic_class) << 20) | (self.flow_label & 0xF_FFFF);
        let [v0, v1, v2, v3] = word.to_be_bytes();
        let [l0, l1] = self.payload_len.to_be_bytes();
        *head = [v0, v1, v2, v3, l0, l1, self.next_header, self.hop_limit];
        *src = self.src.octets();
        *dst = self.dst.octets();
        Some(IPV6_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use crate::testing::{each_mutation, each_truncation};
    use proptest::prelude::*;

    const V4: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];
    const V6: Ipv6Header = Ipv6Header {
        traffic_class: 0xB9,
        flow_label: 0x1_2345,
        payload_len: 32,
        next_header: 17,
        hop_limit: 64,
        src: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        dst: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    };

    /// Puts a valid checksum into a changed header.
    fn sealed(mut header: [u8; 20]) -> [u8; 20] {
        [header[10], header[11]] = [0, 0];
        [header[10], header[11]] = checksum::checksum(&header).to_be_bytes();
        header
    }

    #[test]
    fn a_known_ipv4_header() {
        let (header, rest) = Ipv4Header::parse(&V4, 0x73).unwrap();
        assert_eq!(rest, &[]);
        assert_eq!(
            header,
            Ipv4Header {
                tos: 0,
                total_len: 0x73,
                id: 0,
                dont_fragment: true,
                ttl: 64,
                protocol: 17,
                src: Ipv4Addr::new(192, 168, 0, 1),
                dst: Ipv4Addr::new(192, 168, 0, 199),
            }
        );
        assert_eq!(header.to_bytes(), V4);
    }

    #[test]
    fn precise_ipv4_errors() {
        let refused = |at: usize, value: u8, available: usize| {
            let mut header = V4;
            header[at] = value;
            Ipv4Header::parse(&sealed(header), available).map(|_| ()).unwrap_err()
        };
        assert_eq!(refused(0, 0x65, 0x73), ParseError::IpVersion);
        assert_eq!(refused(0, 0x46, 0x73), ParseError::IpOptions);
        assert_eq!(refused(0, 0x44, 0x73), ParseError::BadLength);
        assert_eq!(refused(3, 19, 0x73), ParseError::BadLength);
        assert_eq!(refused(3, 0x73, 0x72), ParseError::BadLength);
        for fragment in [0x20, 0x80, 0x60, 0x01, 0x41] {
            assert_eq!(refused(6, fragment, 0x73), ParseError::Fragment);
        }
        assert_eq!(refused(7, 1, 0x73), ParseError::Fragment);
    }

    #[test]
    fn every_damaged_ipv4_byte_is_noticed() {
        each_mutation(&V4, |_, bytes| {
            assert!(Ipv4Header::parse(bytes, 0xFFFF).is_err());
        });
        each_truncation(&V4, |bytes| {
            assert_eq!(Ipv4Header::parse(bytes, 0xFFFF), Err(ParseError::TooShort));
        });
        // with its checksum put right again it is refused or carried
        each_mutation(&V4, |at, bytes| {
            let bytes = sealed(bytes.try_into().unwrap());
            if let Ok((header, _)) = Ipv4Header::parse(&bytes, 0xFFFF) {
                assert_eq!(header.to_bytes(), bytes, "byte {at}");
            }
        });
    }

    #[test]
    fn damaged_ipv6_headers_are_refused_or_carried() {
        let mut bytes = [0; 40];
        assert_eq!(V6.write(&mut bytes), Some(40));
        assert_eq!(bytes[..8], [0x6B, 0x91, 0x23, 0x45, 0, 32, 17, 64]);
        assert_eq!(V6.write(&mut [0; 39]), None);
        each_truncation(&bytes, |bytes| {
            assert_eq!(Ipv6Header::parse(bytes, 72), Err(ParseError::TooShort));
        });
        let mut carried = 0;
        each_mutation(&bytes, |_, bytes| {
            if let Ok((header, rest)) = Ipv6Header::parse(bytes, 72) {
                let mut again = [0; 40];
                assert_eq!(header.write(&mut again), Some(40));
                assert_eq!(again, bytes);
                assert_eq!(rest, &[]);
                carried += 1;
            }
        });
        assert!(carried > 36 * 255);
    }

    #[test]
    fn precise_ipv6_errors() {
        let refused = |header: Ipv6Header| {
            let mut bytes = [0; 40];
            header.write(&mut bytes).unwrap();
            Ipv6Header::parse(&bytes, 72).map(|_| ()).unwrap_err()
        };
        assert_eq!(refused(Ipv6Header { payload_len: 33, ..V6 }), ParseError::BadLength);
        assert_eq!(refused(Ipv6Header { next_header: 44, ..V6 }), ParseError::Fragment);
        assert_eq!(Ipv6Header::parse(&[0x45; 40], 72).unwrap_err(), ParseError::IpVersion);
    }

    proptest! {
        #[test]
        fn ipv4_round_trips(
            tos: u8, total_len in 20..=u16::MAX, id: u16, dont_fragment: bool, ttl: u8, protocol: u8, src: u32, dst: u32,
        ) {
            let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
            let header = Ipv4Header { tos, total_len, id, dont_fragment, ttl, protocol, src, dst };
            let bytes = header.to_bytes();
            prop_assert!(checksum::verify(&bytes));
            prop_assert_eq!(Ipv4Header::parse(&bytes, usize::from(total_len)), Ok((header, &[][..])));
        }

        #[test]
        fn ipv6_round_trips(
            traffic_class: u8, flow_label in 0..=0xF_FFFFu32, payload_len: u16, next_header: u8, hop_limit: u8,
            src: u128, dst: u128,
        ) {
            prop_assume!(next_header != 44);
            let (src, dst) = (Ipv6Addr::from_bits(src), Ipv6Addr::from_bits(dst));
            let header = Ipv6Header { traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst };
            let mut bytes = [0; 40];
            prop_assert_eq!(header.write(&mut bytes), Some(40));
            prop_assert_eq!(Ipv6Header::parse(&bytes, 40 + usize::from(payload_len)), Ok((header, &[][..])));
        }
    }
}
