//! The associated channel header (RFC 5586 section 2), which stands where the control word would.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+-------------------------------+
//! |0 0 0 1|version| reserved      | channel type                  |
//! +-------+-------+---------------+-------------------------------+
//! ```
//!
//! Version and reserved are 0. The channel types are from the experimental range 0x7FF8–0x7FFF (RFC 7214).

use crate::ParseError;

/// Length of an associated channel header.
pub const ACH_BYTES: usize = 4;

/// First nibble of an associated channel header.
pub const ACH_NIBBLE: u8 = 1;

/// Which OAM body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ChannelType {
    /// [`oam::Liveness`](crate::oam::Liveness), link scope.
    Liveness = 0x7FF8,
    /// [`oam::Alarm`](crate::oam::Alarm), along the backward label of a path.
    Alarm = 0x7FF9,
    /// [`oam::TraceRequest`](crate::oam::TraceRequest), along a path.
    TraceRequest = 0x7FFA,
    /// [`oam::TraceReply`](crate::oam::TraceReply), along the backward label of a path.
    TraceReply = 0x7FFB,
}

impl ChannelType {
    /// From the 16-bit field.
    ///
    /// # Errors
    /// [`ParseError::UnknownChannel`] for any other value.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Result<ChannelType, ParseError> {
        match bits {
            0x7FF8 => Ok(ChannelType::Liveness),
            0x7FF9 => Ok(ChannelType::Alarm),
            0x7FFA => Ok(ChannelType::TraceRequest),
            0x7FFB => Ok(ChannelType::TraceReply),
            _ => Err(ParseError::UnknownChannel),
        }
    }
}

/// An associated channel header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AchHeader {
    /// What follows.
    pub channel: ChannelType,
}

impl AchHeader {
    /// Reads an associated channel header.
    ///
    /// # Errors
    /// [`ParseError::BadNibble`] if the first nibble is not 1, [`ParseError::ChannelHeader`] if version or reserved is not 0,
    /// [`ParseError::UnknownChannel`] for an unknown type.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; ACH_BYTES]) -> Result<AchHeader, ParseError> {
        let [first, reserved, high, low] = bytes;
        if first >> 4 != ACH_NIBBLE {
            return Err(ParseError::BadNibble);
        }
        if first & 0xF != 0 || reserved != 0 {
            return Err(ParseError::ChannelHeader);
        }
        match ChannelType::from_bits(u16::from_be_bytes([high, low])) {
            Ok(channel) => Ok(AchHeader { channel }),
            Err(error) => Err(error),
        }
    }

    /// Writes an associated channel header.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; ACH_BYTES] {
        let [high, low] = (self.channel as u16).to_be_bytes();
        [ACH_NIBBLE << 4, 0, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_mutation;

    #[test]
    fn known_words() {
        assert_eq!(AchHeader { channel: ChannelType::Liveness }.to_bytes(), [0x10, 0, 0x7F, 0xF8]);
        assert_eq!(AchHeader::from_bytes([0x00, 0, 0x7F, 0xF8]), Err(ParseError::BadNibble));
        assert_eq!(AchHeader::from_bytes([0x11, 0, 0x7F, 0xF8]), Err(ParseError::ChannelHeader));
        assert_eq!(AchHeader::from_bytes([0x10, 1, 0x7F, 0xF8]), Err(ParseError::ChannelHeader));
        assert_eq!(AchHeader::from_bytes([0x10, 0, 0x7F, 0xFF]), Err(ParseError::UnknownChannel));
    }

    #[test]
    fn mutations_are_refused_or_carried() {
        let mut carried = 0;
        each_mutation(&AchHeader { channel: ChannelType::Alarm }.to_bytes(), |_, bytes| {
            if let Ok(header) = AchHeader::from_bytes(bytes.try_into().unwrap()) {
                assert_eq!(header.to_bytes(), bytes);
                carried += 1;
            }
        });
        // the other three channels
        assert_eq!(carried, 3);
    }
}
