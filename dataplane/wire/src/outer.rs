//! From Ethernet to UDP: a parser for what arrives and a template for what is sent.
//!
//! ```text
//! Ethernet 14 · [802.1Q 4] · IPv4 20 | IPv6 40 · UDP 8 · link payload
//! ```
//!
//! The parser checks every length and the IPv4 header checksum, but not the UDP checksum: that costs a pass over the
//! payload, and only the owner of the frame knows whether the driver or an encrypted payload makes it superfluous. A
//! transit node never sums a payload: [`Outer::payload_sum`] gets its sum out of the received checksum, the changed label
//! stack is put into it with [`Sum::replace`], and [`OuterTemplate::write_with_sum`] writes it on.
//!
//! A template belongs to one next hop; whoever follows the neighbour tables makes a new one when any address changes.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::ParseError;
use crate::checksum::{self, PROTOCOL_UDP, Sum};
use crate::eth::{ETH_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthHeader, MAX_VLAN_ID, MacAddr, VLAN_TAG_BYTES};
use crate::ip::{DEFAULT_TTL, ECN_MASK, IPV4_BYTES, IPV6_BYTES, Ipv4Header, Ipv6Header};
use crate::udp::{UDP_BYTES, UdpHeader};

/// Shortest outer header: untagged, IPv4.
pub const MIN_OUTER_BYTES: usize = ETH_BYTES + IPV4_BYTES + UDP_BYTES;

/// Longest outer header: tagged, IPv6. A program that sees this much of a frame can parse it.
pub const MAX_OUTER_BYTES: usize = ETH_BYTES + VLAN_TAG_BYTES + IPV6_BYTES + UDP_BYTES;

/// Where the UDP payload lies in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Span {
    /// These bytes of a frame; `None` if the frame is not the one that was parsed.
    #[inline(always)]
    pub fn of(self, frame: &[u8]) -> Option<&[u8]> {
        frame.get(self.offset..)?.get(..self.len)
    }

    /// These bytes of a frame, to change; `None` if the frame is not the one that was parsed.
    #[inline(always)]
    pub fn of_mut(self, frame: &mut [u8]) -> Option<&mut [u8]> {
        frame.get_mut(self.offset..)?.get_mut(..self.len)
    }
}

/// What the outer headers of a received frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// VLAN id; `None` for untagged and priority-tagged frames.
    pub vlan: Option<u16>,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, same family.
    pub dst: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// ECN bits of the IP header, 0–3.
    pub ecn: u8,
    /// The link payload.
    pub payload: Span,
    /// UDP checksum as on the wire; 0 = none (IPv4 only).
    pub udp_checksum: u16,
}

/// Parses a whole frame. Ethernet padding behind the datagram is not part of the payload.
///
/// # Errors
/// The first thing that is wrong, front to back; see the variants of [`ParseError`] from `TooShort` to `NoUdpChecksum`.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Outer, ParseError> {
    parse_front(frame, frame.len())
}

/// Parses a frame of `frame_len` bytes of which only the front is at hand ([`MAX_OUTER_BYTES`] always suffice).
///
/// # Errors
/// As [`parse`]; `TooShort` also if `front` ends inside a header.
#[inline(always)]
pub fn parse_front(front: &[u8], frame_len: usize) -> Result<Outer, ParseError> {
    let (eth, rest) = EthHeader::parse(front)?;
    let available = frame_len.checked_sub(eth.header_len()).ok_or(ParseError::TooShort)?;
    match eth.ether_type {
        ETHERTYPE_IPV4 => {
            let (ip, rest) = Ipv4Header::parse(rest, available)?;
            if ip.protocol != PROTOCOL_UDP {
                return Err(ParseError::NotUdp);
            }
            let udp = UdpHeader::parse(rest, usize::from(ip.total_len) - IPV4_BYTES)?;
            Ok(Outer {
                vlan: eth.vlan(),
                src: IpAddr::V4(ip.src),
                dst: IpAddr::V4(ip.dst),
                src_port: udp.src_port,
                dst_port: udp.dst_port,
                ecn: ip.tos & ECN_MASK,
                payload: span(eth.header_len() + IPV4_BYTES, udp),
                udp_checksum: udp.checksum,
            })
        }
        ETHERTYPE_IPV6 => {
            let (ip, rest) = Ipv6Header::parse(rest, available)?;
            if ip.next_header != PROTOCOL_UDP {
                return Err(ParseError::NotUdp);
            }
            let udp = UdpHeader::parse(rest, usize::from(ip.payload_len))?;
            if udp.checksum == 0 {
                return Err(ParseError::NoUdpChecksum);
            }
            Ok(Outer {
                vlan: eth.vlan(),
                src: IpAddr::V6(ip.src),
                dst: IpAddr::V6(ip.dst),
                src_port: udp.src_port,
                dst_port: udp.dst_port,
                ecn: ip.traffic_class & ECN_MASK,
                payload: span(eth.header_len() + IPV6_BYTES, udp),
                udp_checksum: udp.checksum,
            })
        }
        _ => Err(ParseError::NotIp),
    }
}

#[inline(always)]
fn span(udp_offset: usize, udp: UdpHeader) -> Span {
    // UdpHeader::parse refuses lengths below 8
    Span { offset: udp_offset + UDP_BYTES, len: usize::from(udp.length).saturating_sub(UDP_BYTES) }
}

/// Checks the UDP checksum of a parsed frame; none (IPv4 only) is accepted.
///
/// # Errors
/// `UdpChecksum` if it is wrong, `TooShort` if `frame` does not hold the payload.
#[inline]
pub fn verify_udp_checksum(frame: &[u8], outer: &Outer) -> Result<(), ParseError> {
    match outer.payload_sum() {
        None => Ok(()),
        Some(expected) if expected == Sum::of(outer.payload.of(frame).ok_or(ParseError::TooShort)?) => Ok(()),
        Some(_) => Err(ParseError::UdpChecksum),
    }
}

impl Outer {
    /// The sum that the payload has if the received UDP checksum is right; `None` if there is no checksum.
    #[inline(always)]
    pub fn payload_sum(&self) -> Option<Sum> {
        if self.udp_checksum == 0 {
            return None;
        }
        let length = (self.payload.len + UDP_BYTES) as u16;
        // the length stands in the pseudo header and in the UDP header
        let headers =
            checksum::pseudo(self.src, self.dst)?.word(self.src_port).word(self.dst_port).word(length).word(length);
        Some(Sum::ZERO.word(!self.udp_checksum).minus(headers))
    }
}

/// Why a template cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateError {
    /// One address is IPv4, the other IPv6.
    MixedFamilies,
    /// A VLAN id outside 1–4094.
    VlanId,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TemplateError::MixedFamilies => "local and remote address are of different IP families",
            TemplateError::VlanId => "a VLAN id must be 1 to 4094",
        })
    }
}

impl core::error::Error for TemplateError {}

/// Everything that a template needs to know about a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Own Ethernet address.
    pub src_mac: MacAddr,
    /// The neighbour's (or its gateway's) Ethernet address.
    pub dst_mac: MacAddr,
    /// VLAN id, 1–4094.
    pub vlan: Option<u16>,
    /// Own address and port.
    pub src: SocketAddr,
    /// The neighbour's address and port.
    pub dst: SocketAddr,
}

/// The outer header of all frames to one next hop: TTL 64, DF set, DSCP 0, flow label 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterTemplate {
    bytes: [u8; MAX_OUTER_BYTES],
    header_len: usize,
    /// Sum of the constant fields of the IPv4 header; unused over IPv6.
    ip_sum: Sum,
    /// Sum of the pseudo header and the ports.
    udp_sum: Sum,
    /// Bytes of IP and UDP header.
    ip_udp_bytes: usize,
}

impl OuterTemplate {
    /// Makes a template. Scope ids and flow labels of IPv6 socket addresses are not used.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn new(hop: &NextHop) -> Result<OuterTemplate, TemplateError> {
        if hop.vlan.is_some_and(|id| id == 0 || id > MAX_VLAN_ID) {
            return Err(TemplateError::VlanId);
        }
        let pseudo = checksum::pseudo(hop.src.ip(), hop.dst.ip()).ok_or(TemplateError::MixedFamilies)?;
        let udp_sum = pseudo.word(hop.src.port()).word(hop.dst.port());
        let udp = UdpHeader { src_port: hop.src.port(), dst_port: hop.dst.port(), length: 0, checksum: 0 };
        let ether_type = if hop.src.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let eth = EthHeader { dst: hop.dst_mac, src: hop.src_mac, tci: hop.vlan, ether_type };

        let mut template =
            OuterTemplate { bytes: [0; MAX_OUTER_BYTES], header_len: 0, ip_sum: Sum::ZERO, udp_sum, ip_udp_bytes: 0 };
        let eth_len = eth.header_len();
        // the buffer is as long as the longest header, so nothing below finds it too small
        let (eth_bytes, rest) = template.bytes.split_at_mut(eth_len);
        let _ = eth.write(eth_bytes);
        let ip_len = match (hop.src.ip(), hop.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ip = Ipv4Header {
                    tos: 0,
                    total_len: 0,
                    id: 0,
                    dont_fragment: true,
                    ttl: DEFAULT_TTL,
                    protocol: PROTOCOL_UDP,
                    src,
                    dst,
                };
                template.ip_sum = ip.partial_sum();
                rest[..IPV4_BYTES].copy_from_slice(&ip.to_bytes());
                IPV4_BYTES
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: 0,
                    next_header: PROTOCOL_UDP,
                    hop_limit: DEFAULT_TTL,
                    src,
                    dst,
                };
                let _ = ip.write(rest);
                IPV6_BYTES
            }
            _ => return Err(TemplateError::MixedFamilies),
        };
        rest[ip_len..ip_len + UDP_BYTES].copy_from_slice(&udp.to_bytes());
        template.ip_udp_bytes = ip_len + UDP_BYTES;
        template.header_len = eth_len + template.ip_udp_bytes;
        Ok(template)
    }

    /// Writes all headers in front of a payload, with valid checksums. `header` is exactly
    /// [`header_len`](Self::header_len) bytes; of `ecn` the low two bits count; `ip_id` is unused over IPv6.
    /// `None` (nothing written) if `header` has another length or the payload does not fit an IP datagram.
    #[inline]
    #[must_use]
    pub fn write(&self, header: &mut [u8], payload: &[u8], ecn: u8, ip_id: u16) -> Option<()> {
        self.write_with_sum(header, payload.len(), Sum::of(payload), ecn, ip_id)
    }

    /// Like [`write`](Self::write) for a payload whose sum is known.
    #[inline]
    #[must_use]
    pub fn write_with_sum(
        &self,
        header: &mut [u8],
        payload_len: usize,
        payload_sum: Sum,
        ecn: u8,
        ip_id: u16,
    ) -> Option<()> {
        if header.len() != self.header_len {
            return None;
        }
        // over IPv6 the field holds 40 bytes less, but what does not fit IPv4 fits no MTU of ours either
        let ip_len = u16::try_from(self.ip_udp_bytes.checked_add(payload_len)?).ok()?;
        let udp_len = (UDP_BYTES + payload_len) as u16;
        let ecn = ecn & ECN_MASK;

        header.copy_from_slice(self.bytes.get(..self.header_len)?);
        let (_, ip_udp) = header.split_at_mut_checked(self.header_len.checked_sub(self.ip_udp_bytes)?)?;
        if self.is_ipv4() {
            let ip = ip_udp.first_chunk_mut::<IPV4_BYTES>()?;
            let sum = self.ip_sum.word(u16::from(ecn)).word(ip_len).word(ip_id).checksum();
            ip[1] = ecn;
            [ip[2], ip[3]] = ip_len.to_be_bytes();
            [ip[4], ip[5]] = ip_id.to_be_bytes();
            [ip[10], ip[11]] = sum.to_be_bytes();
        } else {
            let ip = ip_udp.first_chunk_mut::<IPV6_BYTES>()?;
            // version 6, then the traffic class across the byte boundary
            ip[1] = ecn << 4;
            [ip[4], ip[5]] = udp_len.to_be_bytes();
        }
        let udp = ip_udp.last_chunk_mut::<UDP_BYTES>()?;
        let sum = self.udp_sum.word(udp_len).word(udp_len).plus(payload_sum).udp_checksum();
        [udp[4], udp[5]] = udp_len.to_be_bytes();
        [udp[6], udp[7]] = sum.to_be_bytes();
        Some(())
    }

    /// Length of the headers that [`write`](Self::write) writes, bytes; 42 to 66.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Largest link payload in bytes where an IP packet may have `mtu` bytes; 0 if not even the headers fit.
    #[inline(always)]
    pub const fn max_payload(&self, mtu: usize) -> usize {
        mtu.saturating_sub(self.ip_udp_bytes)
    }

    #[inline(always)]
    const fn is_ipv4(&self) -> bool {
        self.ip_udp_bytes == IPV4_BYTES + UDP_BYTES
    }
}

#[cfg(test)]
mod tests;
