//! Why bytes were refused. One flat enum, because each variant is also a drop reason with a counter.

use core::fmt;

macro_rules! parse_errors {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)*) => {
        /// Why bytes were refused. The discriminants are dense from 0, so that they index an array of counters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ParseError {
            $($(#[$doc])* $variant,)*
        }

        impl ParseError {
            /// All variants, in order of [`index`](Self::index).
            pub const ALL: &'static [ParseError] = &[$(ParseError::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Position in an array of counters, below [`COUNT`](Self::COUNT).
            #[inline(always)]
            pub const fn index(self) -> usize {
                self as usize
            }

            /// Name of the drop counter, snake case, e.g. `bad_nibble`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ParseError::$variant => $name,)*
                }
            }
        }

        impl fmt::Display for ParseError {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(ParseError::$variant => $text,)*
                })
            }
        }
    };
}

parse_errors! {
    /// The bytes end inside a header or a body.
    TooShort = "too_short", "the bytes end inside a header";
    /// The EtherType is neither IPv4 nor IPv6.
    NotIp = "not_ip", "the EtherType is neither IPv4 nor IPv6";
    /// More than one VLAN tag.
    StackedVlan = "stacked_vlan", "more than one VLAN tag";
    /// The IP version does not match the EtherType.
    IpVersion = "ip_version", "the IP version does not match the EtherType";
    /// IPv4 header length other than 20 bytes.
    IpOptions = "ip_options", "an IPv4 header with options";
    /// The IPv4 header checksum is wrong.
    IpChecksum = "ip_checksum", "the IPv4 header checksum is wrong";
    /// An IP or UDP length that does not fit the bytes around it.
    BadLength = "bad_length", "an IP or UDP length does not fit the frame";
    /// An IP fragment, or an IPv6 fragment header.
    Fragment = "fragment", "an IP fragment";
    /// The protocol inside IP is not UDP (IPv6 extension headers count as this).
    NotUdp = "not_udp", "the protocol inside IP is not UDP";
    /// No UDP checksum over IPv6 (RFC 8200 section 8.1).
    NoUdpChecksum = "no_udp_checksum", "no UDP checksum over IPv6";
    /// The UDP checksum is wrong.
    UdpChecksum = "udp_checksum", "the UDP checksum is wrong";
    /// A label below 16 where an allocated label belongs.
    ReservedLabel = "reserved_label", "a reserved label where an allocated one belongs";
    /// A label stack that is neither two entries nor the single GAL.
    StackDepth = "stack_depth", "the label stack has the wrong depth";
    /// Link-scope OAM whose TTL is not 1: it did not come from this link's neighbour.
    LinkTtl = "link_ttl", "link-scope OAM whose TTL is not 1";
    /// The nibble after the label stack is neither 0 nor 1, or not the one the stack demands.
    BadNibble = "bad_nibble", "the nibble after the label stack is wrong";
    /// A control word with an unknown payload type.
    UnknownPayload = "unknown_payload", "unknown payload type in the control word";
    /// An associated channel header of another version, or with reserved bits set.
    ChannelHeader = "channel_header", "associated channel header with unknown version or reserved bits";
    /// An unknown channel type.
    UnknownChannel = "unknown_channel", "unknown channel type";
    /// An OAM body of a version that cannot be spoken here.
    WireVersion = "wire_version", "OAM body of a version that is not spoken here";
    /// An OAM body with bytes after its end.
    TrailingBytes = "trailing_bytes", "OAM body with bytes after its end";
    /// An OAM field outside its range.
    FieldRange = "field_range", "OAM field outside its range";
}

impl core::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense_and_names_unique() {
        for (at, error) in ParseError::ALL.iter().enumerate() {
            assert_eq!(error.index(), at);
            assert_eq!(ParseError::ALL.iter().filter(|e| e.name() == error.name()).count(), 1);
        }
    }
}
