//! The Ethernet II header with at most one 802.1Q tag.
//!
//! ```text
//! destination 6 · source 6 · [0x8100 · priority 3, DEI 1, VLAN id 12] · EtherType 2
//! ```
//!
//! The frame check sequence is the driver's and never seen here.

use core::fmt;

use crate::ParseError;

/// Header length without a tag.
pub const ETH_BYTES: usize = 14;
/// Length of an 802.1Q tag.
pub const VLAN_TAG_BYTES: usize = 4;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86DD;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88A8;
/// Largest usable VLAN id (802.1Q table 9-2: 0 is a priority tag, 4095 is reserved).
pub const MAX_VLAN_ID: u16 = 4094;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthHeader {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// Tag control information: priority, DEI and VLAN id, if there is a tag.
    pub tci: Option<u16>,
    /// What follows.
    pub ether_type: u16,
}

impl EthHeader {
    /// Reads the header; what follows it comes with it.
    ///
    /// # Errors
    /// `TooShort`; `StackedVlan` for a tag behind the tag.
    #[inline(always)]
    pub fn parse(bytes: &[u8]) -> Result<(EthHeader, &[u8]), ParseError> {
        let (head, rest) = bytes.split_first_chunk::<ETH_BYTES>().ok_or(ParseError::TooShort)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *head;
        let dst = MacAddr([d0, d1, d2, d3, d4, d5]);
        let src = MacAddr([s0, s1, s2, s3, s4, s5]);
        let ether_type = u16::from_be_bytes([t0, t1]);
        if ether_type != ETHERTYPE_VLAN {
            return Ok((EthHeader { dst, src, tci: None, ether_type }, rest));
        }
        let ([c0, c1, t0, t1], rest) = rest.split_first_chunk::<VLAN_TAG_BYTES>().ok_or(ParseError::TooShort)?;
        let ether_type = u16::from_be_bytes([*t0, *t1]);
        if ether_type == ETHERTYPE_VLAN || ether_type == ETHERTYPE_SERVICE_VLAN {
            return Err(ParseError::StackedVlan);
        }
        Ok((EthHeader { dst, src, tci: Some(u16::from_be_bytes([*c0, *c1])), ether_type }, rest))
    }

    /// Length of the header, bytes.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        if self.tci.is_some() { ETH_BYTES + VLAN_TAG_BYTES } else { ETH_BYTES }
    }

    /// VLAN id; `None` without a tag, and for a priority tag (id 0), which belongs to the untagged network.
    #[inline(always)]
    pub const fn vlan(&self) -> Option<u16> {
        match self.tci {
            Some(tci) if tci & 0xFFF != 0 => Some(tci & 0xFFF),
            _ => None,
        }
    }

    /// Writes the header; its length, or `None` (nothing written) if the buffer is too small.
    #[inline(always)]
    #[must_use]
    pub fn write(&self, buf: &mut [u8]) -> Option<usize> {
        let [d0, d1, d2, d3, d4, d5] = self.dst.0;
        let [s0, s1, s2, s3, s4, s5] = self.src.0;
        let [t0, t1] = self.ether_type.to_be_bytes();
        match self.tci {
            None => {
                *buf.first_chunk_mut()? = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1];
            }
            Some(tci) => {
                let [v0, v1] = ETHERTYPE_VLAN.to_be_bytes();
                let [c0, c1] = tci.to_be_bytes();
                *buf.first_chunk_mut()? = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, v0, v1, c0, c1, t0, t1];
            }
        }
        Some(self.header_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_mutation, each_truncation};
    use proptest::prelude::*;

    const TAGGED: EthHeader = EthHeader {
        dst: MacAddr([2, 0, 0, 0, 0, 1]),
        src: MacAddr([2, 0, 0, 0, 0, 2]),
        tci: Some(0xE123),
        ether_type: ETHERTYPE_IPV6,
    };

    #[test]
    fn known_headers() {
        let mut buf = [0; 18];
        assert_eq!(TAGGED.write(&mut buf), Some(18));
        assert_eq!(buf, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0x00, 0xE1, 0x23, 0x86, 0xDD]);
        assert_eq!(TAGGED.vlan(), Some(0x123));
        assert_eq!(EthHeader { tci: Some(0xE000), ..TAGGED }.vlan(), None);
        let untagged = EthHeader { tci: None, ..TAGGED };
        assert_eq!(untagged.write(&mut buf), Some(14));
        assert_eq!(EthHeader::parse(&buf), Ok((untagged, &[0xE1, 0x23, 0x86, 0xDD][..])));
        assert_eq!(std::format!("{}", TAGGED.dst), "02:00:00:00:00:01");
    }

    #[test]
    fn stacked_tags_are_refused() {
        for inner in [ETHERTYPE_VLAN, ETHERTYPE_SERVICE_VLAN] {
            let mut buf = [0; 22];
            EthHeader { ether_type: inner, ..TAGGED }.write(&mut buf).unwrap();
            assert_eq!(EthHeader::parse(&buf), Err(ParseError::StackedVlan));
        }
    }

    #[test]
    fn damage() {
        let mut bytes = [0; 18];
        TAGGED.write(&mut bytes).unwrap();
        each_truncation(&bytes, |bytes| {
            assert_eq!(EthHeader::parse(bytes), Err(ParseError::TooShort));
        });
        each_mutation(&bytes, |_, bytes| {
            if let Ok((header, rest)) = EthHeader::parse(bytes) {
                let mut again = [0; 18];
                let len = header.write(&mut again).unwrap();
                assert_eq!(again[..len], bytes[..len]);
                assert_eq!(rest, &bytes[len..]);
            }
        });
        let mut short = [0xA5; 17];
        assert_eq!(TAGGED.write(&mut short), None);
        assert_eq!(short, [0xA5; 17]);
    }

    proptest! {
        #[test]
        fn round_trips(dst: [u8; 6], src: [u8; 6], tci: Option<u16>, ether_type: u16) {
            prop_assume!(ether_type != ETHERTYPE_VLAN && ether_type != ETHERTYPE_SERVICE_VLAN);
            let header = EthHeader { dst: MacAddr(dst), src: MacAddr(src), tci, ether_type };
            let mut buf = [0; 18];
            let len = header.write(&mut buf).unwrap();
            prop_assert_eq!(len, header.header_len());
            prop_assert_eq!(EthHeader::parse(&buf[..len]), Ok((header, &[][..])));
        }
    }
}
