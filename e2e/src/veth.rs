//! A wire between two namespaces.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::counters::Counters;
use crate::namespace::Namespace;
use crate::process::{output, quiet};

/// Ethernet header without VLAN tag, bytes.
const ETHERNET_BYTES: u64 = 14;

/// One end of a wire.
#[derive(Debug, Clone, Copy)]
pub struct End<'n> {
    /// Where it is.
    pub namespace: &'n Namespace,
    /// Interface name there.
    pub interface: &'n str,
    /// Its address, in a /24 with the other end's.
    pub address: Ipv4Addr,
}

/// A pair of veth interfaces, made for XDP: transmit checksumming off at both ends (a packet from a kernel socket
/// would carry an unfinished checksum), no IPv6 (its own chatter would be counted), both up. It goes with its namespaces.
#[derive(Debug, Clone)]
pub struct VethPair {
    interfaces: [String; 2],
}

impl VethPair {
    /// Makes and raises the pair. `queues` is the number of receive and transmit queues at each end; queue i talks to queue i.
    ///
    /// # Errors
    /// No root, a name that is taken, no iproute2 or ethtool.
    pub fn connect(ends: [End<'_>; 2], queues: u32, mtu: u16) -> Result<Self> {
        let [a, b] = ends;
        let (queues, mtu) = (queues.to_string(), mtu.to_string());
        let queues: [&str; 4] = ["numrxqueues", &queues, "numtxqueues", &queues];
        let mut add = a.namespace.ip();
        add.args(["link", "add", a.interface, "mtu", &mtu]).args(queues).args(["type", "veth", "peer", "name"]);
        add.args([b.interface, "netns", b.namespace.name(), "mtu", &mtu]).args(queues);
        quiet(&mut add)?;
        for end in ends {
            let ip = |args: &[&str]| quiet(end.namespace.ip().args(args));
            ip(&["link", "set", end.interface, "addrgenmode", "none"])?;
            ip(&["address", "add", &format!("{}/24", end.address), "dev", end.interface])?;
            quiet(end.namespace.command("ethtool").args(["-K", end.interface, "tx", "off"]))?;
        }
        for end in ends {
            quiet(end.namespace.ip().args(["link", "set", end.interface, "up"]))?;
        }
        Ok(Self { interfaces: [a.interface.to_owned(), b.interface.to_owned()] })
    }

    /// Interface names of the two ends.
    #[must_use]
    pub fn interfaces(&self) -> [&str; 2] {
        [&self.interfaces[0], &self.interfaces[1]]
    }
}

/// Is an XDP program attached to the interface, in driver mode?
///
/// # Errors
/// No such interface.
pub(crate) fn has_driver_xdp(namespace: &Namespace, interface: &str) -> Result<bool> {
    /// `XDP_ATTACHED_DRV`, linux/if_link.h
    const DRIVER: u64 = 1;
    let shown = output(namespace.ip().args(["-json", "link", "show", "dev", interface]))?;
    let shown: Value = serde_json::from_str(&shown).context("ip -json")?;
    Ok(shown[0]["xdp"]["mode"] == DRIVER)
}

/// Bytes sent, at layer 2.
///
/// veth counts a frame where its peer receives it. With a driver-mode XDP program at the receiver it counts *after* the
/// Ethernet header was taken off (seen on kernel 6.18: 142-byte frames count 128), without one before.
pub(crate) fn layer2_tx_bytes(counters: Counters, receiver_has_driver_xdp: bool) -> u64 {
    let header = if receiver_has_driver_xdp { ETHERNET_BYTES } else { 0 };
    counters.tx_bytes + header * counters.tx_packets
}
