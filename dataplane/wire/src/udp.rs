//! The UDP header (RFC 768).

use crate::ParseError;

/// Length of a UDP header.
pub const UDP_BYTES: usize = 8;

/// Port of MPLS-in-UDP (RFC 7510 section 3).
pub const MPLS_UDP_PORT: u16 = 6635;

/// A UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Header and payload, bytes.
    pub length: u16,
    /// Checksum as on the wire; 0 = none.
    pub checksum: u16,
}

impl UdpHeader {
    /// Reads the header of a datagram that fills `available` bytes of IP payload.
    ///
    /// # Errors
    /// `TooShort`; `BadLength` if the length field is not exactly `available` (no surplus area as in RFC 9868) or is below 8.
    #[inline(always)]
    pub fn parse(bytes: &[u8], available: usize) -> Result<UdpHeader, ParseError> {
        let [s0, s1, d0, d1, l0, l1, c0, c1] = *bytes.first_chunk::<UDP_BYTES>().ok_or(ParseError::TooShort)?;
        let length = u16::from_be_bytes([l0, l1]);
        if usize::from(length) < UDP_BYTES || usize::from(length) != available {
            return Err(ParseError::BadLength);
        }
        Ok(UdpHeader {
            src_port: u16::from_be_bytes([s0, s1]),
            dst_port: u16::from_be_bytes([d0, d1]),
            length,
            checksum: u16::from_be_bytes([c0, c1]),
        })
    }

    /// Writes the header with the checksum that it holds.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; UDP_BYTES] {
        let [s0, s1] = self.src_port.to_be_bytes();
        let [d0, d1] = self.dst_port.to_be_bytes();
        let [l0, l1] = self.length.to_be_bytes();
        let [c0, c1] = self.checksum.to_be_bytes();
        [s0, s1, d0, d1, l0, l1, c0, c1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_mutation, each_truncation};

    #[test]
    fn damaged_headers_are_refused_or_carried() {
        let header = UdpHeader { src_port: 6635, dst_port: 0x1234, length: 100, checksum: 0xBEEF };
        let bytes = header.to_bytes();
        assert_eq!(bytes, [0x19, 0xEB, 0x12, 0x34, 0, 100, 0xBE, 0xEF]);
        assert_eq!(UdpHeader::parse(&bytes, 100), Ok(header));
        each_truncation(&bytes, |bytes| {
            assert_eq!(UdpHeader::parse(bytes, 100), Err(ParseError::TooShort));
        });
        each_mutation(&bytes, |at, bytes| match UdpHeader::parse(bytes, 100) {
            Ok(header) => assert_eq!(header.to_bytes(), bytes),
            Err(error) => assert_eq!((error, at & !1), (ParseError::BadLength, 4)),
        });
    }

    #[test]
    fn lengths_must_agree() {
        let bytes = |length| UdpHeader { src_port: 1, dst_port: 2, length, checksum: 0 }.to_bytes();
        assert_eq!(UdpHeader::parse(&bytes(7), 7), Err(ParseError::BadLength));
        assert_eq!(UdpHeader::parse(&bytes(8), 9), Err(ParseError::BadLength));
        assert!(UdpHeader::parse(&bytes(8), 8).is_ok());
    }
}
