//! Label stack entries (RFC 3032 section 2.1; the TC field as in RFC 5462).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------+-----+-+---------------+
//! | label                                 | TC  |S| TTL           |
//! +---------------------------------------+-----+-+---------------+
//! ```
//!
//! Every bit of an entry is a field, so parse and write are inverse for all 2^32 values.

use core::fmt;

/// Length of a label stack entry.
pub const LSE_BYTES: usize = 4;

/// First label that may be allocated; 0–15 are special-purpose (RFC 7274).
pub const FIRST_UNRESERVED: u32 = 16;

/// TC and S bits of an entry read as one big-endian word: what a swap keeps.
const TC_AND_S: u32 = 0x0000_0F00;

/// A 20-bit label. It names a row in the receiver's table for one link, nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(u32);

impl Label {
    /// Generic associated channel label (RFC 5586 section 4).
    pub const GAL: Label = Label(13);
    /// Largest label.
    pub const MAX: Label = Label(0xF_FFFF);
    /// First label that may be allocated, as a number.
    pub const FIRST_UNRESERVED: u32 = FIRST_UNRESERVED;

    /// A label from its number; `None` above 20 bits.
    #[inline(always)]
    pub const fn new(label: u32) -> Option<Label> {
        if label <= Label::MAX.0 { Some(Label(label)) } else { None }
    }

    /// The number, 0–0xFFFFF.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// True for 0–15, which are never allocated.
    #[inline(always)]
    pub const fn is_reserved(self) -> bool {
        self.0 < FIRST_UNRESERVED
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({})", self.0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Traffic class, 0–7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tc(u8);

impl Tc {
    /// Weighted bulk.
    pub const BULK: Tc = Tc(0);
    /// Command messages: strict priority.
    pub const CONTROL: Tc = Tc(6);
    /// Liveness, alarms, traces.
    pub const OAM: Tc = Tc(7);

    /// A class from its number; `None` above 7.
    #[inline(always)]
    pub const fn new(tc: u8) -> Option<Tc> {
        if tc <= 7 { Some(Tc(tc)) } else { None }
    }

    /// The number, 0–7.
    #[inline(always)]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// One label stack entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lse {
    /// The label.
    pub label: Label,
    /// Traffic class.
    pub tc: Tc,
    /// S bit: bottom of the stack.
    pub bottom: bool,
    /// Time to live, hops.
    pub ttl: u8,
}

impl Lse {
    /// Reads an entry. Every value is one.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LSE_BYTES]) -> Lse {
        let word = u32::from_be_bytes(bytes);
        Lse { label: Label(word >> 12), tc: Tc(((word >> 9) & 7) as u8), bottom: word & 0x100 != 0, ttl: word as u8 }
    }

    /// Writes an entry.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; LSE_BYTES] {
        let word = (self.label.0 << 12) | ((self.tc.0 as u32) << 9) | ((self.bottom as u32) << 8) | self.ttl as u32;
        word.to_be_bytes()
    }
}

/// Replaces label and TTL in place and keeps TC and S: one 32-bit read and one 32-bit write.
#[inline(always)]
pub const fn swap(bytes: &mut [u8; LSE_BYTES], label: Label, ttl: u8) {
    let word = u32::from_be_bytes(*bytes);
    *bytes = ((label.0 << 12) | (word & TC_AND_S) | ttl as u32).to_be_bytes();
}

/// [`swap`] on the entry that starts at byte `offset`; `None`, and nothing written, if it is not all there.
#[inline(always)]
#[must_use]
pub fn swap_at(bytes: &mut [u8], offset: usize, label: Label, ttl: u8) -> Option<()> {
    swap(bytes.get_mut(offset..)?.first_chunk_mut()?, label, ttl);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_words() {
        let gal = Lse { label: Label::GAL, tc: Tc::OAM, bottom: true, ttl: 1 };
        assert_eq!(gal.to_bytes(), [0x00, 0x00, 0xDF, 0x01]);
        let largest = Lse { label: Label::MAX, tc: Tc::BULK, bottom: false, ttl: 255 };
        assert_eq!(largest.to_bytes(), [0xFF, 0xFF, 0xF0, 0xFF]);
        assert_eq!(
            Lse::from_bytes([0x00, 0x01, 0x0D, 0x40]),
            Lse { label: Label::new(16).unwrap(), tc: Tc::CONTROL, bottom: true, ttl: 64 }
        );
    }

    #[test]
    fn ranges() {
        assert_eq!(Label::new(0x10_0000), None);
        assert_eq!(Tc::new(8), None);
        assert!(Label::new(15).unwrap().is_reserved());
        assert!(!Label::new(16).unwrap().is_reserved());
    }

    #[test]
    fn swap_at_refuses_what_is_not_there() {
        let mut bytes = [0xA5; 7];
        assert_eq!(swap_at(&mut bytes, 4, Label::GAL, 1), None);
        assert_eq!(swap_at(&mut bytes, usize::MAX, Label::GAL, 1), None);
        assert_eq!(bytes, [0xA5; 7]);
        assert_eq!(swap_at(&mut bytes, 3, Label::GAL, 1), Some(()));
        assert_eq!(bytes, [0xA5, 0xA5, 0xA5, 0x00, 0x00, 0xD5, 0x01]);
    }

    proptest! {
        #[test]
        fn every_word_round_trips(bytes: [u8; 4]) {
            prop_assert_eq!(Lse::from_bytes(bytes).to_bytes(), bytes);
        }

        #[test]
        fn swap_keeps_tc_and_s(bytes: [u8; 4], label in 0..=0xF_FFFFu32, ttl: u8) {
            let label = Label::new(label).unwrap();
            let mut swapped = bytes;
            swap(&mut swapped, label, ttl);
            prop_assert_eq!(Lse::from_bytes(swapped), Lse { label, ttl, ..Lse::from_bytes(bytes) });
        }
    }
}
