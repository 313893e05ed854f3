//! A neighbour's Ethernet address, as the kernel knows it, over rtnetlink: route to the address, then the neighbour entry of the
//! gateway (or of the address itself) on that route's interface. Resolution is provoked by a datagram, never done here.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use florelay_wire::eth::MacAddr;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// What a link needs to write Ethernet headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// Index of the interface that the route names.
    pub(crate) interface: u32,
    /// That interface's address.
    pub(crate) own: MacAddr,
    /// The neighbour's.
    pub(crate) peer: MacAddr,
}

/// Asks until the kernel has resolved `address`, at most for `patience`; `provoke` is called before each question.
///
/// # Errors
/// If there is no route, or nobody answers.
pub(crate) fn resolve(address: Ipv4Addr, patience: Duration, mut provoke: impl FnMut() -> io::Result<()>) -> Result<NextHop> {
    let start = Instant::now();
    loop {
        provoke().with_context(|| format!("cannot send to {address}"))?;
        let (interface, gateway) = route(address)?;
        if let Some(peer) = neighbour(interface, gateway.unwrap_or(address))? {
            return Ok(NextHop { interface, own: own_address(interface)?, peer });
        }
        if start.elapsed() > patience {
            bail!("{address} is not resolved after {patience:?}");
        }
        // The kernel retransmits ARP by itself; this only paces the questions.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The interface's index and the gateway, if the route has one.
fn route(address: Ipv4Addr) -> Result<(u32, Option<Ipv4Addr>)> {
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    question.header.destination_prefix_length = 32;
    question.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address)));
    for answer in ask(RouteNetlinkMessage::GetRoute(question), NLM_F_REQUEST)? {
        let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
        let interface = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let gateway = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
            _ => None,
        });
        return Ok((interface.context("the route names no interface")?, gateway));
    }
    bail!("no route to {address}")
}

fn neighbour(interface: u32, address: Ipv4Addr) -> Result<Option<MacAddr>> {
    let mut question = NeighbourMessage::default();
    question.header.family = AddressFamily::Inet;
    for answer in ask(RouteNetlinkMessage::GetNeighbour(question), NLM_F_REQUEST | NLM_F_DUMP)? {
        let RouteNetlinkMessage::NewNeighbour(neighbour) = answer else { continue };
        let here = NeighbourAttribute::Destination(NeighbourAddress::Inet(address));
        if neighbour.header.ifindex != interface || !neighbour.attributes.contains(&here) {
            continue;
        }
        // An entry that is incomplete or failed has no link-layer address.
        let mac = neighbour.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLocalAddress(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        });
        return Ok(mac.map(MacAddr));
    }
    Ok(None)
}

fn own_address(interface: u32) -> Result<MacAddr> {
    let mut question = LinkMessage::default();
    question.header.index = interface;
    for answer in ask(RouteNetlinkMessage::GetLink(question), NLM_F_REQUEST)? {
        let RouteNetlinkMessage::NewLink(link) = answer else { continue };
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        });
        return Ok(MacAddr(mac.context("the interface has no Ethernet address")?));
    }
    bail!("no interface {interface}")
}

/// One question and all its answers.
fn ask(body: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut question = NetlinkMessage::from(body);
    question.header.flags = flags;
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut at = 0;
        while at < datagram.len() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[at..]).map_err(io::Error::other)?;
            // Messages start at multiples of four (NLMSG_ALIGN, linux/netlink.h).
            at += (message.header.length as usize).max(4).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => return Ok(answers),
            }
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(answers);
        }
    }
}
