//! How large things are on a link: from the MTU of its IP packets to a QUIC packet and to a frame at layer 2.

use std::net::SocketAddr;

/// Least UDP payload that QUIC works with, RFC 9000 section 14.1.
pub const QUIC_MIN_BYTES: u16 = 1200;
/// UDP header, RFC 768.
const UDP_BYTES: u16 = 8;
/// Two label stack entries (RFC 3032) and a control word (RFC 4385).
const LABELS_BYTES: u16 = 2 * 4 + 4;
/// Ethernet header with one VLAN tag: whether the interface has one is known only at run time.
pub const ETHERNET_VLAN_BYTES: u32 = 14 + 4;

/// Bytes between the IP packet's size and a QUIC packet's: 40 over IPv4 (RFC 791), 60 over IPv6 (RFC 8200).
#[must_use]
pub fn quic_overhead(local: &SocketAddr) -> u16 {
    let ip = if local.is_ipv4() { 20 } else { 40 };
    ip + UDP_BYTES + LABELS_BYTES
}

/// Size of a QUIC packet on a path whose smallest MTU is `mtu`; `None` if QUIC does not work on it.
#[must_use]
pub fn quic_mtu(mtu: u16, local: &SocketAddr) -> Option<u16> {
    mtu.checked_sub(quic_overhead(local)).filter(|q| *q >= QUIC_MIN_BYTES)
}

/// Largest frame at layer 2, a VLAN tag included, as the token bucket counts it.
#[must_use]
pub fn frame_bytes(mtu: u16, extra_overhead: u16) -> u32 {
    u32::from(mtu) + ETHERNET_VLAN_BYTES + u32::from(extra_overhead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_on_ethernet() {
        let v4 = "10.0.0.1:6635".parse().unwrap();
        let v6 = "[fd00::1]:6635".parse().unwrap();
        assert_eq!(quic_mtu(1500, &v4), Some(1460));
        assert_eq!(quic_mtu(1500, &v6), Some(1440));
        assert_eq!(quic_mtu(1240, &v4), Some(1200));
        assert_eq!(quic_mtu(1239, &v4), None);
        assert_eq!(quic_mtu(1259, &v6), None);
        assert_eq!(quic_mtu(0, &v6), None);
    }
}
