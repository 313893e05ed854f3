//! What XDP program, if any, an interface runs now, as rtnetlink tells it.

use aya::programs::links::{FdLink, PinnedLink};
use rtnetlink::packet_core::NLM_F_REQUEST;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};

use super::{AttachError, Mode, pins};
use crate::netlink::socket;

/// `ENODEV`, asm-generic/errno-base.h.
const ENODEV: i32 = 19;

/// An interface and its XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct XdpState {
    pub(super) ifindex: u32,
    /// Id of the program that runs, and how it is attached (`None`: in hardware, or several ways at once).
    pub(super) program: Option<(u32, Option<Mode>)>,
}

/// Asks the kernel about `interface` in the caller's network namespace.
pub(super) fn xdp_state(interface: &str) -> Result<XdpState, AttachError> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(interface.to_owned()));
    let answer = socket::request(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST).map_err(|source| {
        if source.raw_os_error() == Some(ENODEV) {
            AttachError::NoInterface { interface: interface.to_owned() }
        } else {
            AttachError::Netlink { source }
        }
    })?;
    let link = answer.into_iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    let link = link.ok_or_else(|| AttachError::NoInterface { interface: interface.to_owned() })?;
    Ok(read(&link))
}

fn read(link: &LinkMessage) -> XdpState {
    let mut mode = None;
    let mut id = None;
    for attribute in &link.attributes {
        let LinkAttribute::Xdp(parts) = attribute else {
            continue;
        };
        for part in parts {
            match part {
                LinkXdp::Attached(XdpAttached::Driver) => mode = Some(Mode::Native),
                LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(Mode::Generic),
                LinkXdp::ProgId(program)
                | LinkXdp::DrvProgId(program)
                | LinkXdp::SkbProgId(program)
                | LinkXdp::HwProgId(program) => id = id.or(Some(*program)),
                _ => {}
            }
        }
    }
    XdpState { ifindex: link.header.index, program: id.filter(|id| *id != 0).map(|id| (id, mode)) }
}

/// The error that names a program that is not ours to replace.
pub(super) fn foreign(interface: &str, id: u32) -> AttachError {
    let program = aya::programs::loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "without a name".to_owned());
    let owner = pins::pinned_links().into_iter().find_map(|(folder, link)| {
        let link = FdLink::from(PinnedLink::from_pin(link).ok()?);
        (link.info().ok()?.program_id() == id).then_some(folder)
    });
    let owner = match owner {
        Some(folder) => format!("it belongs to the florelay node that pins it at {}", folder.display()),
        None => {
            "whoever attached it must detach it first; `ip -details link show` and `bpftool net` tell more".to_owned()
        }
    };
    AttachError::Foreign { interface: interface.to_owned(), program, id, owner }
}
