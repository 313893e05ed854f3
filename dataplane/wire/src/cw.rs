//! The control word after the label stack (shape of RFC 4385 section 3).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+-----------+---+-------------------------------+
//! |0 0 0 0| type  | flags     |ECN| sequence                      |
//! +-------+-------+-----------+---+-------------------------------+
//! ```
//!
//! The sequence counts frames of one sender on one link (not of one path), wraps at 2^16, and gives loss and reorder per
//! hop. Flag bits other than ECN have no meaning yet; they are carried as they are.

use crate::ParseError;

/// Length of a control word.
pub const CONTROL_WORD_BYTES: usize = 4;

/// The two low flag bits, which carry ECN (RFC 3168) on links without IP.
pub const FLAGS_ECN_MASK: u8 = 0b11;

/// What follows the control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PayloadType {
    /// A QUIC packet (or several coalesced ones of one datagram).
    Quic = 0,
    /// A delay-line cell.
    Cell = 1,
    /// A FlorIO datagram.
    FlorIo = 2,
}

impl PayloadType {
    /// From the 4-bit type field.
    ///
    /// # Errors
    /// [`ParseError::UnknownPayload`] for any other value.
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Result<PayloadType, ParseError> {
        match bits {
            0 => Ok(PayloadType::Quic),
            1 => Ok(PayloadType::Cell),
            2 => Ok(PayloadType::FlorIo),
            _ => Err(ParseError::UnknownPayload),
        }
    }
}

/// A control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ControlWord {
    /// What follows.
    pub payload: PayloadType,
    /// Flags; the two low bits are ECN where the link has no IP.
    pub flags: u8,
    /// Number of this frame on the link, wrapping.
    pub sequence: u16,
}

impl ControlWord {
    /// Reads a control word.
    ///
    /// # Errors
    /// [`ParseError::BadNibble`] if the first nibble is not 0, [`ParseError::UnknownPayload`] for an unknown type.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; CONTROL_WORD_BYTES]) -> Result<ControlWord, ParseError> {
        let [kind, flags, high, low] = bytes;
        if kind >> 4 != 0 {
            return Err(ParseError::BadNibble);
        }
        match PayloadType::from_bits(kind & 0xF) {
            Ok(payload) => Ok(ControlWord { payload, flags, sequence: u16::from_be_bytes([high, low]) }),
            Err(error) => Err(error),
        }
    }

    /// Writes a control word.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; CONTROL_WORD_BYTES] {
        let [high, low] = self.sequence.to_be_bytes();
        [self.payload as u8, self.flags, high, low]
    }

    /// ECN bits carried in the flags, 0–3.
    #[inline(always)]
    pub const fn ecn(self) -> u8 {
        self.flags & FLAGS_ECN_MASK
    }

    /// The same word with these ECN bits (the low two of `ecn`).
    #[inline(always)]
    #[must_use]
    pub const fn with_ecn(self, ecn: u8) -> ControlWord {
        ControlWord { flags: (self.flags & !FLAGS_ECN_MASK) | (ecn & FLAGS_ECN_MASK), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_mutation;

    const CELL: ControlWord = ControlWord { payload: PayloadType::Cell, flags: 0xA3, sequence: 0x1234 };

    #[test]
    fn known_word() {
        assert_eq!(CELL.to_bytes(), [0x01, 0xA3, 0x12, 0x34]);
        assert_eq!(ControlWord::from_bytes([0x10, 0, 0, 0]), Err(ParseError::BadNibble));
        assert_eq!(ControlWord::from_bytes([0x03, 0, 0, 0]), Err(ParseError::UnknownPayload));
    }

    #[test]
    fn mutations_are_refused_or_carried() {
        let mut carried = 0;
        each_mutation(&CELL.to_bytes(), |_, bytes| {
            if let Ok(word) = ControlWord::from_bytes(bytes.try_into().unwrap()) {
                assert_eq!(word.to_bytes(), bytes);
                carried += 1;
            }
        });
        // two other types, and all values of the other three bytes
        assert_eq!(carried, 2 + 3 * 255);
    }

    #[test]
    fn ecn_is_the_low_two_flags() {
        assert_eq!(CELL.ecn(), 3);
        assert_eq!(CELL.with_ecn(0b110), ControlWord { flags: 0xA2, ..CELL });
    }
}
