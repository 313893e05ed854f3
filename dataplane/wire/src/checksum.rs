//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and the pseudo headers of UDP.
//!
//! A [`Sum`] is a partial one's complement sum. Sums of pieces are added in any order, as long as every piece begins at an
//! even offset of the whole. Bytes are summed in the machine's own order, eight at a time, and turned round once at the
//! end (RFC 1071 section 2(B)), which compilers turn into vector code.
//!
//! A checksum of 0 means "none" in UDP, so the UDP functions send 0xFFFF instead (RFC 768) and leave 0 alone.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// A partial one's complement sum. 2^48 words fit before it could overflow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Sum = Sum(0);

    /// The sum of a piece; an odd last byte counts as the high half of a word.
    #[inline]
    pub fn of(bytes: &[u8]) -> Sum {
        let (blocks, tail) = bytes.as_chunks::<8>();
        let mut low = 0u64;
        let mut high = 0u64;
        for block in blocks {
            let word = u64::from_ne_bytes(*block);
            low += word & 0xFFFF_FFFF;
            high += word >> 32;
        }
        let (pairs, odd) = tail.as_chunks::<2>();
        for pair in pairs {
            low += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = odd {
            low += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        // a half overflows beyond 32 GiB, which no frame has; their sum could before, so fold first
        let native = fold(fold64(low) + fold64(high));
        Sum(u64::from(u16::from_be(native)))
    }

    /// Adds a 16-bit word in host order.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: u16) -> Sum {
        Sum(self.0 + word as u64)
    }

    /// Adds two 16-bit words that are one 32-bit field in host order.
    #[inline(always)]
    #[must_use]
    pub const fn double(self, double: u32) -> Sum {
        Sum(self.0 + (double >> 16) as u64 + (double & 0xFFFF) as u64)
    }

    /// Adds another piece.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Sum) -> Sum {
        Sum(self.0 + other.0)
    }

    /// Takes a piece out again: adds its complement.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, other: Sum) -> Sum {
        self.word(!other.folded())
    }

    /// The sum after a 32-bit field at an even offset changed.
    #[inline(always)]
    #[must_use]
    pub const fn replace(self, old: u32, new: u32) -> Sum {
        self.double(!old).double(new)
    }

    /// The 16-bit one's complement sum; 0xFFFF over data that contains its own valid checksum.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum field for this sum (IPv4 header, ICMP).
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum field of UDP for this sum: never 0.
    #[inline(always)]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xFFFF,
            checksum => checksum,
        }
    }
}

/// Two sums are equal if they mean the same checksum (0 and 0xFFFF are the same number in one's complement).
impl PartialEq for Sum {
    fn eq(&self, other: &Sum) -> bool {
        let (a, b) = (self.folded(), other.folded());
        a == b || (a == 0 && b == 0xFFFF) || (a == 0xFFFF && b == 0)
    }
}

impl Eq for Sum {}

/// 64 bits to at most 33, without losing a carry.
#[inline(always)]
const fn fold64(sum: u64) -> u64 {
    (sum >> 32) + (sum & 0xFFFF_FFFF)
}

/// To 16 bits. Four steps do for any input: 64 → 33 → 18 → 17 → 16 bits.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = fold64(sum);
    let sum = (sum >> 16) + (sum & 0xFFFF);
    let sum = (sum >> 16) + (sum & 0xFFFF);
    let sum = (sum >> 16) + (sum & 0xFFFF);
    sum as u16
}

/// Checksum of a whole piece.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::of(bytes).checksum()
}

/// True if a piece that contains its checksum is intact.
#[inline]
pub fn verify(bytes: &[u8]) -> bool {
    Sum::of(bytes).folded() == 0xFFFF
}

/// A checksum field after a 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.word(!checksum).word(!old).word(new).checksum()
}

/// A checksum field after a 32-bit field at an even offset changed from `old` to `new`.
#[inline(always)]
pub const fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    Sum::ZERO.word(!checksum).replace(old, new).checksum()
}

/// Like [`update32`] for UDP: no checksum (0) stays none, and 0 is never produced.
#[inline(always)]
pub const fn update32_udp(checksum: u16, old: u32, new: u32) -> u16 {
    if checksum == 0 {
        return 0;
    }
    Sum::ZERO.word(!checksum).replace(old, new).udp_checksum()
}

/// Sum of the UDP pseudo header over IPv4 (RFC 768) without the length.
#[inline(always)]
pub const fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr) -> Sum {
    Sum::ZERO.double(src.to_bits()).double(dst.to_bits()).word(PROTOCOL_UDP as u16)
}

/// Sum of the UDP pseudo header over IPv6 (RFC 8200 section 8.1) without the length.
#[inline(always)]
pub const fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr) -> Sum {
    let [a, b, c, d, e, f, g, h] = src.segments();
    let [i, j, k, l, m, n, o, p] = dst.segments();
    let src = Sum::ZERO.word(a).word(b).word(c).word(d).word(e).word(f).word(g).word(h);
    src.word(i).word(j).word(k).word(l).word(m).word(n).word(o).word(p).word(PROTOCOL_UDP as u16)
}

/// Sum of the UDP pseudo header without the length; `None` if the families differ.
#[inline(always)]
pub const fn pseudo(src: IpAddr, dst: IpAddr) -> Option<Sum> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Some(pseudo_v4(src, dst)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Some(pseudo_v6(src, dst)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// RFC 1071 section 4.1, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        // section 3: the sum of these words is ddf2
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), 0xddf2);
        assert_eq!(checksum(&bytes), 0x220d);
    }

    #[test]
    fn rfc_1624_example() {
        // section 4: equation 2 would give ffff here
        assert_eq!(update(0xDD2F, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn ipv4_header_of_a_known_packet() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert!(verify(&header));
        let mut without = header;
        [without[10], without[11]] = [0, 0];
        assert_eq!(checksum(&without), 0xb861);
    }

    #[test]
    fn carries_are_not_lost() {
        for len in [0, 1, 7, 8, 9, 63, 64, 1500, 65_535] {
            let bytes = std::vec![0xFF; len];
            assert_eq!(checksum(&bytes), reference(&bytes), "{len}");
        }
        assert_eq!(fold(u64::MAX), 0xFFFF);
        assert_eq!(fold(0xFFFF_FFFF_0000_0001), 1);
        // the inputs that need the third and the fourth step
        assert_eq!(fold(0x1_FFFE_FFFF), 0xFFFF);
        assert_eq!(fold(0x0001_0000_FFFF_FFFF), 1);
    }

    #[test]
    fn no_udp_checksum_stays_none() {
        assert_eq!(update32_udp(0, 1, 2), 0);
        assert_eq!(Sum::ZERO.word(0xFFFF).udp_checksum(), 0xFFFF);
    }

    proptest! {
        #[test]
        fn equals_the_reference(bytes: Vec<u8>) {
            prop_assert_eq!(checksum(&bytes), reference(&bytes));
        }

        #[test]
        fn pieces_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..200), at: proptest::sample::Index) {
            let even = at.index(bytes.len() + 1) & !1;
            let (a, b) = bytes.split_at(even);
            prop_assert_eq!(Sum::of(a).plus(Sum::of(b)), Sum::of(&bytes));
            prop_assert_eq!(Sum::of(&bytes).minus(Sum::of(b)), Sum::of(a));
        }

        #[test]
        fn incremental_update_equals_recompute(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..200), at: proptest::sample::Index, new: u32,
            // zeros and ones, where one's complement has two names for one number
            corner in prop_oneof![Just(None), Just(Some(0u32)), Just(Some(u32::MAX)), Just(Some(0xFFFF_0000))],
        ) {
            bytes.truncate(bytes.len() & !1);
            // a byte that never changes: a sum over zeros alone is no checksum of ours
            bytes[0] |= 1;
            let at = (2 + at.index(bytes.len() - 5)) & !1;
            let new = corner.unwrap_or(new);
            let before = checksum(&bytes);
            let udp_before = Sum::of(&bytes).udp_checksum();
            let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update32(before, old, new), checksum(&bytes));
            prop_assert_eq!(update32_udp(udp_before, old, new), Sum::of(&bytes).udp_checksum());
            let high = update(before, (old >> 16) as u16, (new >> 16) as u16);
            prop_assert_eq!(update(high, old as u16, new as u16), checksum(&bytes));
        }
    }
}
