//! From rtnetlink messages to [`Update`]s. What the table has no use for becomes no update.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use florelay_wire::eth::MacAddr;
use rtnetlink::packet_core::NLM_F_REPLACE;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::table::{Address, Device, Neighbour, Reachability, Route, Update};

/// The updates that a message amounts to; `flags` are those of its netlink header.
pub(super) fn updates(message: RouteNetlinkMessage, flags: u16) -> Vec<Update> {
    match message {
        RouteNetlinkMessage::NewLink(link) => device(&link).map(Update::Device).into_iter().collect(),
        // A bridge announces with this message, under its own family, that a port left it.
        RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            vec![Update::DeviceGone(link.header.index)]
        }
        RouteNetlinkMessage::NewAddress(message) => address(&message).map(Update::Address).into_iter().collect(),
        RouteNetlinkMessage::DelAddress(message) => {
            let gone = address(&message).map(|gone| Update::AddressGone(gone.ifindex, gone.address));
            gone.into_iter().collect()
        }
        RouteNetlinkMessage::NewRoute(message) => {
            let routes = routes(&message);
            let replaced = routes.first().filter(|_| flags & NLM_F_REPLACE != 0).map(|route| Update::RoutesReplaced {
                network: route.network,
                prefix: route.prefix,
                metric: route.metric,
            });
            replaced.into_iter().chain(routes.into_iter().map(Update::Route)).collect()
        }
        RouteNetlinkMessage::DelRoute(message) => routes(&message).into_iter().map(Update::RouteGone).collect(),
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message).map(Update::Neighbour).into_iter().collect(),
        RouteNetlinkMessage::DelNeighbour(message) => {
            let gone = neighbour(&message).map(|gone| Update::NeighbourGone(gone.ifindex, gone.address));
            gone.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn device(message: &LinkMessage) -> Option<Device> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut device = Device {
        ifindex: message.header.index,
        name: "".into(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        vlan: None,
    };
    let (mut parent, mut foreign_parent, mut tag) = (0, false, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name.as_str().into(),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Address(address) if message.header.link_layer_type == LinkLayerType::Ether => {
                device.mac = mac(address);
            }
            LinkAttribute::Link(index) => parent = *index,
            LinkAttribute::LinkNetNsId(_) => foreign_parent = true,
            LinkAttribute::LinkInfo(parts) => tag = parts.iter().find_map(vlan_tag),
            _ => {}
        }
    }
    device.vlan = tag.map(|tag| (if foreign_parent { 0 } else { parent }, tag));
    Some(device)
}

/// VLAN id of a VLAN interface; 0 for a service tag.
fn vlan_tag(part: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(parts)) = part else {
        return None;
    };
    let id = parts.iter().find_map(|part| match part {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let service = parts.iter().any(|part| matches!(part, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    Some(if service { 0 } else { id })
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    Some(MacAddr(bytes.try_into().ok()?))
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut own, mut other, mut flags) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface `Address` is the far end's, `Local` ours; elsewhere both are ours, or only one is there.
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Flags(bits) => flags = Some(*bits),
            _ => {}
        }
    }
    let flags = flags.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    let usable = flags.contains(AddressFlags::Optimistic) && !flags.contains(AddressFlags::Dadfailed);
    let tentative = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) && !usable;
    Some(Address { ifindex: message.header.index, address: own.or(other)?, tentative })
}

/// One route for each next hop; none if it is not a unicast route of the main table.
fn routes(message: &RouteMessage) -> Vec<Route> {
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let mut route = Route {
        network: any,
        prefix: header.destination_prefix_length,
        gateway: None,
        ifindex: 0,
        metric: 0,
        mtu: None,
    };
    let mut table = u32::from(header.table);
    let mut hops = &[][..];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.network = IpAddr::V4(*address);
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                route.network = IpAddr::V6(*address);
            }
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::MultiPath(several) => hops = several,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return Vec::new();
    }
    if hops.is_empty() {
        route.gateway = gateway(&message.attributes);
        return vec![route];
    }
    let several =
        hops.iter().map(|hop| Route { ifindex: hop.interface_index, gateway: gateway(&hop.attributes), ..route });
    several.collect()
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut link_address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(one)) => {
                address = Some(IpAddr::V4(*one));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(one)) => {
                address = Some(IpAddr::V6(*one));
            }
            NeighbourAttribute::LinkLocalAddress(bytes) => link_address = mac(bytes),
            _ => {}
        }
    }
    let state = match message.header.state {
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Permanent
        | NeighbourState::Noarp => Reachability::Good,
        NeighbourState::Stale => Reachability::Stale,
        NeighbourState::Failed => Reachability::Failed,
        _ => Reachability::Incomplete,
    };
    Some(Neighbour { ifindex: message.header.ifindex, address: address?, mac: link_address, state })
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::{default_route, vlan};
    use super::*;

    fn vlan_device(id: u16, protocol: VlanProtocol, more: Option<LinkAttribute>) -> Option<Device> {
        let mut message = vlan(5, "eth0.100", protocol, id);
        message.attributes.extend(more);
        match updates(RouteNetlinkMessage::NewLink(message), 0).pop()? {
            Update::Device(device) => Some(device),
            _ => None,
        }
    }

    #[test]
    fn a_vlan_interface_has_parent_and_tag_as_far_as_both_can_be_used() {
        let device = vlan_device(100, VlanProtocol::Ieee8021Q, None).expect("a device");
        let expected = Device {
            ifindex: 5,
            name: "eth0.100".into(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
            mtu: 1500,
            up: true,
            carrier: true,
            vlan: Some((2, 100)),
        };
        assert_eq!(device, expected);
        let service = vlan_device(100, VlanProtocol::Ieee8021Ad, None).expect("a device");
        assert_eq!(service.vlan, Some((2, 0)));
        let elsewhere = vlan_device(100, VlanProtocol::Ieee8021Q, Some(LinkAttribute::LinkNetNsId(0)));
        assert_eq!(elsewhere.expect("a device").vlan, Some((0, 100)));
    }

    #[test]
    fn routes_of_other_tables_and_kinds_are_left_out_and_a_replacement_says_so() {
        let message = default_route(Ipv4Addr::new(10, 0, 0, 2), 2);
        let given = |message: &RouteMessage, flags| updates(RouteNetlinkMessage::NewRoute(message.clone()), flags);
        let default = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let route = Route {
            network: default,
            prefix: 0,
            gateway: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))),
            ifindex: 2,
            metric: 0,
            mtu: None,
        };
        assert_eq!(given(&message, 0), [Update::Route(route)]);
        let replaced = Update::RoutesReplaced { network: default, prefix: 0, metric: 0 };
        assert_eq!(given(&message, NLM_F_REPLACE), [replaced, Update::Route(route)]);

        let mut other = message.clone();
        other.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(given(&other, 0), []);
        let mut local = message;
        local.header.kind = RouteType::Local;
        assert_eq!(given(&local, 0), []);
    }
}
