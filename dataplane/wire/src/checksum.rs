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
        // neither half can overflow for a slice that fits in memory, but their sum could: fold first
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
    Sum::ZERO
        .double(src.to_bits())
        .double(dst.to_bits())
        .word(PROTOCOL_UDP as u16)
}

/// Sum of the UDP pseudo header over IPv6 (RFC 8200 section 8.1) without the length.
#[inline(always)]
pub const fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr) -> Sum {
    let [a, b, c, d, e, f, g, h] = src.segments();
    let [i, j, k, l, m, n, o, p] = dst.segments();
    let src = Sum::ZERO
        .word(a)
        .word(b)
        .word(c)
        .word(d)
        .word(e)
        .word(f)
        .word(g)
        .word(h);
    src.word(i)
        .word(j)
        .word(k)
        .word(l)
        .word(m)
        .word(n)
        .word(o)
        .word(p)
        .word(PROTOCOL_UDP as u16)
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
