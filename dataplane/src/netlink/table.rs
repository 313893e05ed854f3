//! What the kernel knows about links, addresses, routes and neighbours, and which next hop follows from it.
//!
//! ```text
//!  local address ──► device that holds it ──► (VLAN? its parent carries the frames)
//!                          │ up, carrier, Ethernet
//!                     route to the remote address over this device: longest prefix, then lowest metric
//!                          │ on link, or through a gateway
//!                     neighbour entry ──► MAC
//! ```
//!
//! Nothing here talks to the kernel: updates go in, answers come out, in any order and for any kind of update. The
//! follower beside it feeds it from rtnetlink.
//!
//! Invariant: an update replaces the object with the same key, so the answer depends on the last update of each object alone.
//! (The kernel flushes some routes without a message; then the owner of a table makes a new one.)
//!
//! Limits: main table only (no policy rules, no VRF); a link's interface is authoritative, so only routes over the
//! device that holds the local address count; of several next hops of a multipath route the first on that device; one
//! VLAN tag.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use florelay_wire::eth::{MAX_VLAN_ID, MacAddr};

/// A link whose next hop is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// Interface by name: the one that holds the local address, or the parent of the VLAN interface that does.
    pub interface: String,
    /// Own address.
    pub local: IpAddr,
    /// The neighbour's address, same family.
    pub remote: IpAddr,
}

/// How frames of a link leave. Immutable; a change is a new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface on which frames leave and XDP runs: the parent, if the address is on a VLAN interface.
    pub ifindex: u32,
    /// Its name.
    pub interface: Arc<str>,
    /// Own MAC: that of the device that holds the address.
    pub src_mac: MacAddr,
    /// MAC of the neighbour, or of its gateway.
    pub dst_mac: MacAddr,
    /// VLAN id, 1–4094, if the address is on a VLAN interface.
    pub vlan: Option<u16>,
    /// Largest IP packet in bytes: the smallest of device, parent and route.
    pub mtu: u32,
}

/// The answer for one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The next hop, or why there is none, in words for a person.
    pub next_hop: Result<NextHop, Arc<str>>,
    /// The kernel should be made to look for the neighbour (again), by a datagram to the remote address: its entry is
    /// missing, failed or stale. A stale entry is used meanwhile, as the kernel itself does (RFC 4861 section 7.3.2).
    pub provoke: bool,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its index, the key.
    pub ifindex: u32,
    /// Its name.
    pub name: Arc<str>,
    /// Its address; `None` if it has none or is not Ethernet.
    pub mac: Option<MacAddr>,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The layer below is up.
    pub carrier: bool,
    /// Parent's index (0 = in another namespace) and VLAN id (0 = not an 802.1Q tag), if it is a VLAN interface.
    pub vlan: Option<(u32, u16)>,
}

/// An address on a device. Device and address are the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The device.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Duplicate address detection has not finished, or has found a duplicate (RFC 4862 section 5.4).
    pub tentative: bool,
}

/// A unicast route of the main table over one device. All but `mtu` is the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination network.
    pub network: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// `None` = on link.
    pub gateway: Option<IpAddr>,
    /// The device.
    pub ifindex: u32,
    /// Lower is preferred.
    pub metric: u32,
    /// MTU metric of the route, bytes.
    pub mtu: Option<u32>,
}

impl Route {
    fn same_key(&self, other: &Self) -> bool {
        Self { mtu: None, ..*self } == Self { mtu: None, ..*other }
    }

    fn covers(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// State of a neighbour entry, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// Confirmed, permanent, or being confirmed by the kernel already: leave it alone.
    Good,
    /// Known, but not confirmed for a while, and the kernel does nothing about it until it is used.
    Stale,
    /// Being asked for.
    Incomplete,
    /// It did not answer.
    Failed,
}

/// A neighbour on a device. Device and address are the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The device.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC, if known.
    pub mac: Option<MacAddr>,
    /// How well it is known.
    pub state: Reachability,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A device is new or has changed.
    Device(Device),
    /// A device is gone, and with it what was on it.
    DeviceGone(u32),
    /// An address is new or has changed.
    Address(Address),
    /// An address was removed from a device.
    AddressGone(u32, IpAddr),
    /// A route is new or has changed.
    Route(Route),
    /// A route was removed.
    RouteGone(Route),
    /// All routes to this network with this metric were removed, because others replace them.
    RoutesReplaced {
        /// Destination network.
        network: IpAddr,
        /// Prefix length.
        prefix: u8,
        /// Metric.
        metric: u32,
    },
    /// A neighbour is new or has changed.
    Neighbour(Neighbour),
    /// A neighbour was removed from a device.
    NeighbourGone(u32, IpAddr),
}

/// The state of the machine's network, as told by updates.
#[derive(Debug, Default)]
pub struct Table {
    devices: HashMap<u32, Device>,
    addresses: HashMap<(u32, IpAddr), Address>,
    routes: Vec<Route>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
}

impl Table {
    /// Takes one change.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Device(device) => {
                if !device.up {
                    // The kernel removes IPv4 routes of a device that goes down without a message for each.
                    self.forget_routes(device.ifindex);
                }
                self.devices.insert(device.ifindex, device);
            }
            Update::DeviceGone(ifindex) => {
                self.devices.remove(&ifindex);
                self.addresses.retain(|(holder, _), _| *holder != ifindex);
                self.neighbours.retain(|(holder, _), _| *holder != ifindex);
                self.forget_routes(ifindex);
            }
            Update::Address(address) => {
                self.addresses.insert((address.ifindex, address.address), address);
            }
            Update::AddressGone(ifindex, address) => {
                self.addresses.remove(&(ifindex, address));
            }
            Update::Route(route) => {
                self.routes.retain(|known| !known.same_key(&route));
                self.routes.push(route);
            }
            Update::RouteGone(route) => self.routes.retain(|known| !known.same_key(&route)),
            Update::RoutesReplaced { network, prefix, metric } => {
                self.routes.retain(|known| (known.network, known.prefix, known.metric) != (network, prefix, metric));
            }
            Update::Neighbour(neighbour) => {
                self.neighbours.insert((neighbour.ifindex, neighbour.address), neighbour);
            }
            Update::NeighbourGone(ifindex, address) => {
                self.neighbours.remove(&(ifindex, address));
            }
        }
    }

    fn forget_routes(&mut self, ifindex: u32) {
        self.routes.retain(|route| route.ifindex != ifindex);
    }

    /// The next hop of a link in the present state.
    #[must_use]
    pub fn resolve(&self, spec: &LinkSpec) -> Resolution {
        match self.find(spec) {
            Ok((next_hop, provoke)) => Resolution { next_hop: Ok(next_hop), provoke },
            Err(obstacle) => Resolution {
                provoke: matches!(obstacle, Obstacle::Unknown { .. } | Obstacle::Failed { .. }),
                next_hop: Err(obstacle.to_string().into()),
            },
        }
    }

    fn find(&self, spec: &LinkSpec) -> Result<(NextHop, bool), Obstacle<'_>> {
        let named = self.devices.values().find(|device| *device.name == *spec.interface);
        let named = named.ok_or_else(|| Obstacle::NoInterface(spec.interface.clone()))?;
        // Said first, because IPv6 addresses go when an interface goes down.
        if !named.up {
            return Err(Obstacle::Down(&named.name));
        }
        let holder = self.holder(named, spec.local)?;
        let (carrier, vlan) = match holder.vlan {
            None => (holder, None),
            Some((parent, vlan)) => {
                let parent = self.devices.get(&parent).ok_or(Obstacle::NoParent(&holder.name))?;
                if parent.vlan.is_some() || !(1..=MAX_VLAN_ID).contains(&vlan) {
                    return Err(Obstacle::StackedVlan(&holder.name));
                }
                (parent, Some(vlan))
            }
        };
        for device in [carrier, holder] {
            if !device.up {
                return Err(Obstacle::Down(&device.name));
            }
            if !device.carrier {
                return Err(Obstacle::NoCarrier(&device.name));
            }
        }
        let src_mac = holder.mac.ok_or(Obstacle::NotEthernet(&holder.name))?;
        let route = self.route(holder.ifindex, spec.remote);
        let route = route.ok_or(Obstacle::NoRoute { remote: spec.remote, device: &holder.name })?;
        let (dst_mac, stale) = self.neighbour(holder, route.gateway, spec.remote)?;
        let mtu = holder.mtu.min(carrier.mtu).min(route.mtu.unwrap_or(u32::MAX));
        let next_hop =
            NextHop { ifindex: carrier.ifindex, interface: Arc::clone(&carrier.name), src_mac, dst_mac, vlan, mtu };
        Ok((next_hop, stale))
    }

    /// The device that holds the local address: the one that was named, or a VLAN interface on it.
    fn holder(&self, named: &Device, local: IpAddr) -> Result<&Device, Obstacle<'_>> {
        let holders = || {
            let held = self.addresses.values().filter(move |address| address.address == local);
            held.filter_map(|address| Some((self.devices.get(&address.ifindex)?, address.tentative)))
        };
        let on_named = holders().find(|(device, _)| device.ifindex == named.ifindex);
        let on_vlan = || holders().find(|(device, _)| device.vlan.is_some_and(|(parent, _)| parent == named.ifindex));
        match on_named.or_else(on_vlan) {
            Some((_, true)) => Err(Obstacle::Tentative(local)),
            Some((device, false)) => Ok(device),
            None => Err(match holders().next() {
                Some((elsewhere, _)) => Obstacle::Elsewhere { local, device: &elsewhere.name },
                None => Obstacle::NoAddress(local),
            }),
        }
    }

    fn route(&self, ifindex: u32, remote: IpAddr) -> Option<&Route> {
        let usable = self.routes.iter().filter(|route| route.ifindex == ifindex && route.covers(remote));
        usable.min_by_key(|route| (std::cmp::Reverse(route.prefix), route.metric))
    }

    /// MAC of whoever takes the frames, and whether its entry is stale.
    fn neighbour<'a>(
        &self,
        holder: &'a Device,
        gateway: Option<IpAddr>,
        remote: IpAddr,
    ) -> Result<(MacAddr, bool), Obstacle<'a>> {
        let address = gateway.unwrap_or(remote);
        let unknown = Obstacle::Unknown { address, device: &holder.name, gateway: gateway.is_some() };
        let Some(entry) = self.neighbours.get(&(holder.ifindex, address)) else {
            return Err(unknown);
        };
        match (entry.state, entry.mac) {
            (Reachability::Good, Some(mac)) => Ok((mac, false)),
            (Reachability::Stale, Some(mac)) => Ok((mac, true)),
            (Reachability::Failed, _) => {
                Err(Obstacle::Failed { address, device: &holder.name, gateway: gateway.is_some() })
            }
            (Reachability::Incomplete, _) | (_, None) => Err(unknown),
        }
    }
}

/// Why there is no next hop.
enum Obstacle<'a> {
    NoInterface(String),
    NoAddress(IpAddr),
    Elsewhere { local: IpAddr, device: &'a str },
    Tentative(IpAddr),
    NoParent(&'a str),
    StackedVlan(&'a str),
    Down(&'a str),
    NoCarrier(&'a str),
    NotEthernet(&'a str),
    NoRoute { remote: IpAddr, device: &'a str },
    Unknown { address: IpAddr, device: &'a str, gateway: bool },
    Failed { address: IpAddr, device: &'a str, gateway: bool },
}

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = |gateway: &bool| if *gateway { "gateway" } else { "neighbour" };
        match self {
            Self::NoInterface(name) => write!(f, "interface {name} does not exist"),
            Self::NoAddress(local) => write!(f, "no interface has the local address {local}"),
            Self::Elsewhere { local, device } => {
                write!(f, "the local address {local} is on {device}, another interface")
            }
            Self::Tentative(local) => write!(f, "duplicate address detection for {local} has not succeeded"),
            Self::NoParent(device) => {
                write!(f, "the parent of VLAN interface {device} is not in this network namespace")
            }
            Self::StackedVlan(device) => {
                write!(f, "VLAN interface {device} needs more than one 802.1Q tag, or another kind of tag")
            }
            Self::Down(device) => write!(f, "interface {device} is down"),
            Self::NoCarrier(device) => write!(f, "interface {device} has no carrier"),
            Self::NotEthernet(device) => write!(f, "interface {device} is not Ethernet"),
            Self::NoRoute { remote, device } => write!(f, "no route to {remote} over {device}"),
            Self::Unknown { address, device, gateway } => {
                write!(f, "{} {address} on {device} is not resolved yet", role(gateway))
            }
            Self::Failed { address, device, gateway } => {
                write!(f, "{} {address} on {device} does not answer", role(gateway))
            }
        }
    }
}

#[cfg(test)]
mod tests;
