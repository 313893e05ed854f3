//! For the fuzz targets (`fuzz/targets`): datagrams of the kernel, from bytes to the table.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::table::Table;
use super::{convert, socket};

/// The interface, own address and neighbour of [`datagrams`].
pub const LINK: (&str, IpAddr, IpAddr) =
    ("eth0", IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 9, 9)));

/// Apply what one datagram says. Answers the number of updates.
///
/// # Errors
/// The datagram is broken from some message on; what was before it is applied.
pub fn apply(table: &mut Table, datagram: &[u8]) -> std::io::Result<usize> {
    let mut count = 0;
    for message in socket::messages(datagram) {
        let message = message?;
        let flags = message.header.flags;
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            for update in convert::updates(inner, flags) {
                table.apply(update);
                count += 1;
            }
        }
    }
    Ok(count)
}

/// What a kernel says of [`LINK`]: a VLAN interface on `eth0` that holds the address, a gateway and its MAC; all in one
/// datagram, then the removals.
#[must_use]
pub fn datagrams() -> Vec<Vec<u8>> {
    let parent = ethernet(2, "eth0", 1);
    let vlan = vlan(3, "eth0.7", VlanProtocol::Ieee8021Q, 7);
    let mut address = AddressMessage::default();
    address.header.index = 3;
    address.header.family = AddressFamily::Inet;
    address.attributes = vec![AddressAttribute::Local(LINK.1)];
    let gateway = Ipv4Addr::new(10, 0, 0, 2);
    let mut route = default_route(gateway, 3);
    route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    neighbour.header.ifindex = 3;
    neighbour.header.state = NeighbourState::Reachable;
    neighbour.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(gateway)),
        NeighbourAttribute::LinkLocalAddress(vec![2, 0, 0, 0, 0, 2]),
    ];
    let new = [
        RouteNetlinkMessage::NewLink(parent.clone()),
        RouteNetlinkMessage::NewLink(vlan),
        RouteNetlinkMessage::NewAddress(address.clone()),
        RouteNetlinkMessage::NewRoute(route.clone()),
        RouteNetlinkMessage::NewNeighbour(neighbour.clone()),
    ];
    let gone = [
        RouteNetlinkMessage::DelNeighbour(neighbour),
        RouteNetlinkMessage::DelRoute(route),
        RouteNetlinkMessage::DelAddress(address),
        RouteNetlinkMessage::DelLink(parent),
    ];
    let all: Vec<u8> = new.into_iter().flat_map(|message| bytes(message, NLM_F_REPLACE)).collect();
    std::iter::once(all).chain(gone.into_iter().map(|message| bytes(message, 0))).collect()
}

fn bytes(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// An Ethernet interface that is up; `mac` ends its address.
pub(super) fn ethernet(index: u32, name: &str, mac: u8) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, mac]),
    ];
    message
}

/// What the kernel sends for `ip link add link PARENT name NAME type vlan …`, where PARENT has index 2.
pub(super) fn vlan(index: u32, name: &str, protocol: VlanProtocol, id: u16) -> LinkMessage {
    let mut message = ethernet(index, name, 9);
    let data = LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Protocol(protocol), InfoVlan::Id(id)]));
    message.attributes.push(LinkAttribute::Link(2));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), data]));
    message
}

/// The default route of the main table.
pub(super) fn default_route(gateway: Ipv4Addr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.kind = RouteType::Unicast;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.attributes = vec![RouteAttribute::Oif(index), RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
    message
}
