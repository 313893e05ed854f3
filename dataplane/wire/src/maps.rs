//! What the eBPF program and user space say to each other through maps.
//!
//! | map | type | key | value |
//! |---|---|---|---|
//! | [`STEER_MAP`] | hash, [`STEER_MAP_ENTRIES`] | [`SteerKey`], 24 bytes | [`SteerValue`], 8 bytes |
//! | [`XSK_MAP`] | XSKMAP, [`XSK_MAP_ENTRIES`] | RX queue, u32 | socket |
//! | [`OUTCOME_MAP`] | per-CPU array, [`Outcome::COUNT`] | [`Outcome`], u32 | frames, u64 |
//!
//! Keys and values are byte arrays with their own encoding, all bytes defined, so neither side needs `unsafe` or a
//! representation attribute, and a map typed `HashMap<[u8; 24], [u8; 8]>` means the same to both. Numbers are big-endian,
//! as on the wire, which makes a dump of the map readable.
//!
//! One set of maps belongs to one interface; user space alone writes steer entries and sockets, the program alone counts.
//!
//! Limits: a link's remote address is not in the key. Links of one interface that share VLAN, local address and port share an
//! entry, and the worker tells them apart.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ParseError;

/// Name of the XDP program.
pub const PROGRAM: &str = "florelay_steer";
/// Name of the map from [`SteerKey`] to [`SteerValue`].
pub const STEER_MAP: &str = "STEER";
/// Name of the map from RX queue to AF_XDP socket.
pub const XSK_MAP: &str = "XSKS";
/// Name of the counters, by [`Outcome`].
pub const OUTCOME_MAP: &str = "OUTCOMES";
/// Name of the counters of malformed frames, by [`ParseError::index`](crate::ParseError::index). Outer headers that do not
/// parse are not in it: those frames pass.
pub const MALFORMED_MAP: &str = "MALFORMED";
/// Most steer entries of one interface.
pub const STEER_MAP_ENTRIES: u32 = 1024;
/// Most RX queues of one interface.
pub const XSK_MAP_ENTRIES: u32 = 256;

/// Length of an encoded [`SteerKey`].
pub const STEER_KEY_BYTES: usize = 24;
/// Length of an encoded [`SteerValue`].
pub const STEER_VALUE_BYTES: usize = 8;

/// Which frames are ours.
///
/// ```text
/// 0       2       4        5            8                 24
/// | vlan  | port  | family | 0   0   0  | local address   |
/// ```
///
/// `vlan` 0 = untagged; `family` 4 or 6; an IPv4 address fills the first four bytes, the rest is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SteerKey {
    /// VLAN id, 1–4094; 0 = untagged (or priority-tagged).
    pub vlan: u16,
    /// Local UDP port: the destination port of the frame.
    pub port: u16,
    /// Local address: the destination address of the frame.
    pub address: IpAddr,
}

impl SteerKey {
    /// The key in the map.
    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; STEER_KEY_BYTES] {
        let [v0, v1] = self.vlan.to_be_bytes();
        let [p0, p1] = self.port.to_be_bytes();
        match self.address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                [v0, v1, p0, p1, 4, 0, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
                [v0, v1, p0, p1, 6, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
            }
        }
    }

    /// A key out of the map; `None` if it was not written by [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8; STEER_KEY_BYTES]) -> Option<SteerKey> {
        let [v0, v1, p0, p1, family, _, _, _, address @ ..] = *bytes;
        let [a, b, c, d, ..] = address;
        let address = match family {
            4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            6 => IpAddr::V6(Ipv6Addr::from_octets(address)),
            _ => return None,
        };
        let key = SteerKey { vlan: u16::from_be_bytes([v0, v1]), port: u16::from_be_bytes([p0, p1]), address };
        (key.to_bytes() == *bytes).then_some(key)
    }
}

/// What to do with frames that are ours.
///
/// ```text
/// 0       2       4               8
/// | link  | flags | 0   0   0   0 |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SteerValue {
    /// Index of the (first) link behind this key, for logs; the worker decides by the frame.
    pub link: u16,
    /// Bits of `STEER_…`; unknown ones are ignored.
    pub flags: u16,
}

/// Flag: pass this entry's frames to the kernel although they are ours (the link stands on the socket rung).
pub const STEER_TO_KERNEL: u16 = 1;

impl SteerValue {
    /// The value in the map.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; STEER_VALUE_BYTES] {
        let [l0, l1] = self.link.to_be_bytes();
        let [f0, f1] = self.flags.to_be_bytes();
        [l0, l1, f0, f1, 0, 0, 0, 0]
    }

    /// A value out of the map; the last four bytes are ignored.
    #[inline(always)]
    pub const fn from_bytes(bytes: &[u8; STEER_VALUE_BYTES]) -> SteerValue {
        let [l0, l1, f0, f1, ..] = *bytes;
        SteerValue { link: u16::from_be_bytes([l0, l1]), flags: u16::from_be_bytes([f0, f1]) }
    }
}

/// What the program did with a frame: the index of a counter. Every frame counts exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Outcome {
    /// Redirected into the AF_XDP socket of its queue.
    Steered = 0,
    /// To the kernel: not IP, not UDP, or no steer entry for it.
    PassNotOurs = 1,
    /// To the kernel's held socket: ours, but no AF_XDP socket on this queue, or [`STEER_TO_KERNEL`].
    PassNoSocket = 2,
    /// To the kernel: a fragment; reassembly is the kernel's.
    PassFragment = 3,
    /// To the kernel: ends inside a header.
    PassTooShort = 4,
    /// To the kernel: IP or UDP that we do not read (options, bad checksum or length); the kernel counts its errors.
    PassUnread = 5,
    /// Dropped: ours, but not a link payload.
    DropMalformed = 6,
}

impl Outcome {
    /// How many there are: entries of the counter map.
    pub const COUNT: usize = 7;

    /// Counter names by index.
    pub const NAMES: [&'static str; Outcome::COUNT] = [
        "steered",
        "pass_not_ours",
        "pass_no_socket",
        "pass_fragment",
        "pass_too_short",
        "pass_unread",
        "drop_malformed",
    ];

    /// Index into the counter map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Name of the counter.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What becomes of a frame that [`outer::parse`](crate::outer::parse) refused: always one of the `Pass…`.
    #[inline(always)]
    pub const fn of_outer(error: ParseError) -> Outcome {
        match error {
            ParseError::NotIp | ParseError::NotUdp | ParseError::StackedVlan => Outcome::PassNotOurs,
            ParseError::Fragment => Outcome::PassFragment,
            ParseError::TooShort => Outcome::PassTooShort,
            _ => Outcome::PassUnread,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_mutation;
    use proptest::prelude::*;

    #[test]
    fn known_encodings() {
        let key = SteerKey { vlan: 0x123, port: 6635, address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)) };
        assert_eq!(key.to_bytes(), [1, 0x23, 0x19, 0xEB, 4, 0, 0, 0, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(SteerValue { link: 0x102, flags: STEER_TO_KERNEL }.to_bytes(), [1, 2, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn equal_keys_have_equal_bytes() {
        // whatever decodes encodes to the same bytes, so no entry hides behind an unused byte
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let bytes = SteerKey { vlan: 7, port: 9, address }.to_bytes();
            each_mutation(&bytes, |_, bytes| {
                let bytes = bytes.try_into().unwrap();
                if let Some(key) = SteerKey::from_bytes(&bytes) {
                    assert_eq!(key.to_bytes(), bytes);
                }
            });
        }
    }

    #[test]
    fn outcomes_fill_the_counter_map() {
        assert_eq!(Outcome::DropMalformed.index() as usize, Outcome::COUNT - 1);
        assert_eq!(Outcome::DropMalformed.name(), "drop_malformed");
        assert_eq!(Outcome::Steered.name(), "steered");
        for error in ParseError::ALL {
            assert!(Outcome::of_outer(*error).name().starts_with("pass_"));
        }
    }

    proptest! {
        #[test]
        fn round_trips(vlan in 0..=4094u16, port: u16, v4: u32, v6: u128, four: bool, link: u16, flags: u16) {
            let address = if four { IpAddr::V4(Ipv4Addr::from_bits(v4)) } else { IpAddr::V6(Ipv6Addr::from_bits(v6)) };
            let key = SteerKey { vlan, port, address };
            prop_assert_eq!(SteerKey::from_bytes(&key.to_bytes()), Some(key));
            let value = SteerValue { link, flags };
            prop_assert_eq!(SteerValue::from_bytes(&value.to_bytes()), value);
        }
    }
}
