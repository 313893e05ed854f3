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
        let (head, rest) = bytes
            .split_first_chunk::<IPV4_BYTES>()
            .ok_or(ParseError::TooShort)?;
        let [
            vi,
            tos,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            ttl,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *head;
        if vi >> 4 != 4 {
            return Err(ParseError::IpVersion);
        }
        if vi & 0xF != 5 {
            return Err(if vi & 0xF < 5 {
                ParseError::BadLength
            } else {
                ParseError::IpOptions
            });
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
        let checksum = self
            .partial_sum()
            .word(self.total_len)
            .word(self.id)
            .word(self.tos as u16)
            .checksum();
        let [l0, l1] = self.total_len.to_be_bytes();
        let [i0, i1] = self.id.to_be_bytes();
        let [f0, f1] = self.fragment_field().to_be_bytes();
        let [c0, c1] = checksum.to_be_bytes();
        let [s0, s1, s2, s3] = self.src.octets();
        let [d0, d1, d2, d3] = self.dst.octets();
        [
            0x45,
            self.tos,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            self.ttl,
            self.protocol,
            c0,
            c1,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ]
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
