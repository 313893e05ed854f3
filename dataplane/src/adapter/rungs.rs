//! Climbing the rung ladder: attach the XDP program, bind sockets on every queue, put them into the socket map. The first
//! rung that holds is taken; each higher one says why not.
//!
//! Order matters: attach before bind (some drivers set their rings up anew when a program comes), fill before bind (they
//! take their buffers then; `Socket::adopt_with` does it), steer last and only when the next hop has told the VLAN
//! (`worker::ports`).
//!
//! The active queues of an interface are those that bind: the kernel's number of queues (IFLA_NUM_RX_QUEUES) is what the
//! device was made with, and binding to a queue beyond the active ones answers EINVAL.

use florelay_xsk::{
    AttachMode, BindMode, FrameSize, HEADROOM_BYTES, Ladder, OpenOptions, RingSizes, Socket, Umem, UmemOptions, quirks,
};
use rtnetlink::packet_core::NLM_F_REQUEST;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::share::{Share, Turn};
use super::xdp::{FILL_FRAMES, Group, Queue, TX_FRAMES};
use crate::attach::Mode;
use crate::broker::SharedBroker;
use crate::netlink::socket;
use crate::plan::Rung;

/// The fill ring has twice as many as RX: `xdp::FILL_FRAMES`.
const RINGS: RingSizes = RingSizes { rx: FILL_FRAMES / 2, tx: TX_FRAMES };
/// Queues of one interface that get a socket; frames of further ones come through the kernel's socket.
const MAX_QUEUES: u32 = 16;
/// Frames of a UMEM beyond those that its rings can hold: transit queues and frames in hand.
const SPARE_FRAMES: u32 = 4096;
/// Largest UMEM in frames.
const MAX_FRAMES: u32 = 1 << 17;
/// … and in bytes.
pub(crate) const MAX_UMEM_BYTES: usize = MAX_FRAMES as usize * 4096;
/// Ethernet and one VLAN tag.
const LAYER2_BYTES: usize = 18;
/// EINVAL, asm-generic/errno-base.h.
const EINVAL: i32 = 22;

/// A worker's UMEMs: one for each bind mode that its sockets have, because a socket that shares a UMEM inherits the mode.
pub(crate) struct Pools {
    pub(crate) umems: Vec<Umem>,
    modes: Vec<Option<BindMode>>,
    options: UmemOptions,
}

impl Pools {
    /// For sockets on `queues` queues, IP packets of up to `mtu` bytes, and drivers that need chunks of at least `least`
    /// (`least_frame_size`). Nothing is mapped yet.
    pub(crate) fn new(queues: u32, mtu: u16, least: FrameSize) -> Self {
        let frame_size =
            if usize::from(mtu) + LAYER2_BYTES + HEADROOM_BYTES <= 2048 { least } else { FrameSize::Bytes4096 };
        let frame_count = (queues * (RINGS.fill() + RINGS.tx) + SPARE_FRAMES).min(MAX_FRAMES);
        let options = UmemOptions { frame_size, frame_count, rings: RINGS, ..UmemOptions::default() };
        Self { umems: Vec::new(), modes: Vec::new(), options }
    }

    /// Index of the UMEM for a mode; one that no socket has claimed serves any.
    fn of_mode(&mut self, mode: BindMode) -> Result<usize, String> {
        let of = |wanted| self.modes.iter().position(|mode| *mode == wanted);
        if let Some(at) = of(Some(mode)).or_else(|| of(None)) {
            return Ok(at);
        }
        self.umems.push(Umem::new(self.options).map_err(|error| error.to_string())?);
        self.modes.push(None);
        Ok(self.umems.len() - 1)
    }

    /// The mode of a UMEM's sockets.
    pub(crate) fn mode(&self, pool: usize) -> Option<BindMode> {
        self.modes.get(pool).copied().flatten()
    }

    fn fits(&self, mtu: u16) -> Result<(), String> {
        let room = self.options.frame_size.bytes() as usize - HEADROOM_BYTES;
        if usize::from(mtu) + LAYER2_BYTES <= room {
            return Ok(());
        }
        Err(format!("an mtu of {mtu} does not fit an AF_XDP frame, which has room for {}", room - LAYER2_BYTES))
    }
}

/// What came of it.
pub(crate) struct Climbed {
    /// `None` on the socket rung.
    pub(crate) group: Option<Group>,
    pub(crate) rung: Rung,
    pub(crate) reasons: Vec<(Rung, String)>,
}

/// What is wanted of an interface.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) interface: String,
    pub(crate) highest: Rung,
    pub(crate) mtu: u16,
    /// Let the worker's syscalls run the driver.
    pub(crate) busy_poll: bool,
    /// Which queues are this worker's.
    pub(crate) turn: Turn,
}

/// Find the highest rung that holds; where other workers own links of the interface, the first of them finds it for all.
/// One of the others that cannot stand there (there are fewer queues than workers) is on the socket rung: it sends through
/// its sockets, and what arrives for it on the others' queues comes to it through their rings.
pub(crate) fn climb_shared(
    wanted: &Wanted,
    share: Option<&Share>,
    pools: &mut Pools,
    broker: &SharedBroker,
) -> Climbed {
    let Some(share) = share.filter(|share| share.turn.of > 1) else { return climb(wanted, pools, broker) };
    let mut agreed = share.agreed();
    // Workers start one after the other, the first of an interface first.
    let Some((standing, reasons)) = agreed.standing.clone() else {
        let climbed = climb(wanted, pools, broker);
        agreed.standing = Some((climbed.rung, climbed.reasons.clone()));
        return climbed;
    };
    let mut climbed = Climbed { group: None, rung: Rung::Socket, reasons };
    let rung = florelay_xsk::Rung::ALL.into_iter().find(|rung| plan_rung(*rung) == standing);
    if let Some((mode, attach)) = rung.and_then(|rung| Some((rung.bind_mode()?, rung.attach_mode()?))) {
        match step(wanted, attach, mode, pools, broker, &mut false) {
            Ok(group) => (climbed.group, climbed.rung) = (Some(group), standing),
            Err(reason) => {
                tracing::warn!(interface = wanted.interface, reason, "this worker has no AF_XDP socket");
                climbed.reasons.push((standing, reason));
            }
        }
    }
    climbed
}

/// Find the highest rung that holds.
pub(crate) fn climb(wanted: &Wanted, pools: &mut Pools, broker: &SharedBroker) -> Climbed {
    let mut ladder = Ladder::for_interface(&wanted.interface);
    for rung in florelay_xsk::Rung::ALL.into_iter().filter(|rung| plan_rung(*rung) < wanted.highest) {
        ladder.deny(rung, "the configuration forbids it (highest-rung)");
    }
    let mut group = None;
    let mut attached = false;
    while let Some(rung) = ladder.next_rung() {
        let (Some(mode), Some(attach)) = (rung.bind_mode(), rung.attach_mode()) else { break };
        match step(wanted, attach, mode, pools, broker, &mut attached) {
            Ok(held) => {
                group = Some(held);
                break;
            }
            Err(reason) => {
                tracing::info!(interface = wanted.interface, %rung, reason, "rung not taken");
                ladder.failed(rung, reason);
            }
        }
    }
    if group.is_none() && attached {
        // Without a socket behind it the program would only cost.
        if let Err(reason) = broker.lock().detach(&wanted.interface) {
            tracing::warn!(interface = wanted.interface, reason, "XDP program not detached");
        }
    }
    Climbed {
        rung: ladder.standing().filter(|_| group.is_some()).map_or(Rung::Socket, plan_rung),
        reasons: ladder.refusals().iter().map(|refusal| (plan_rung(refusal.rung), refusal.reason.clone())).collect(),
        group,
    }
}

fn step(
    wanted: &Wanted,
    attach: AttachMode,
    mode: BindMode,
    pools: &mut Pools,
    broker: &SharedBroker,
    attached: &mut bool,
) -> Result<Group, String> {
    pools.fits(wanted.mtu)?;
    if rx_queues(&wanted.interface)? <= wanted.turn.place {
        return Err(no_queue(wanted));
    }
    let attach = match attach {
        AttachMode::Driver => Mode::Native,
        AttachMode::Skb => Mode::Generic,
    };
    broker.lock().attach(&wanted.interface, attach)?;
    *attached = true;
    let pool = pools.of_mode(mode)?;
    let queues = open_queues(wanted, mode, &mut pools.umems[pool], broker)?;
    pools.modes[pool] = Some(mode);
    // There are as many pools as bind modes: two.
    Ok(Group::new(wanted.interface.clone(), pool as u8, attach, queues))
}

fn no_queue(wanted: &Wanted) -> String {
    let (interface, of) = (&wanted.interface, wanted.turn.of);
    format!("{interface} has fewer queues than the {of} workers that own links on it; its queues are other workers'")
}

/// Bind and register every active queue of this worker; at least the first must hold.
pub(crate) fn open_queues(
    wanted: &Wanted,
    mode: BindMode,
    umem: &mut Umem,
    broker: &SharedBroker,
) -> Result<Vec<Queue>, String> {
    let interface = &wanted.interface;
    let mut queues = Vec::new();
    for id in (0..rx_queues(interface)?).filter(|id| wanted.turn.has(*id)) {
        let options = OpenOptions { interface: interface.clone(), queue: id, mode, fill: FILL_FRAMES };
        let fresh = broker.lock().xdp_socket(interface, id, wanted.busy_poll)?;
        let socket = match Socket::adopt_with(umem, options, fresh.fd, &mut broker.clone()) {
            Ok(socket) => socket,
            Err(error) if id == 0 => return Err(error.to_string()),
            // Made with more queues than it has now.
            Err(error) if queues.is_empty() && error.errno() == Some(EINVAL) => return Err(no_queue(wanted)),
            Err(error) if queues.is_empty() => return Err(error.to_string()),
            Err(error) if error.errno() == Some(EINVAL) => break,
            Err(error) => {
                tracing::warn!(interface, queue = id, %error, "this queue's frames take the way through the kernel");
                continue;
            }
        };
        if let Some(reason) = &fresh.no_busy_poll {
            tracing::info!(interface, queue = id, reason, "no busy polling");
        }
        broker.lock().register(interface, id, socket.fd())?;
        queues.push(Queue::new(socket, wanted.busy_poll && fresh.no_busy_poll.is_none()));
    }
    Ok(queues)
}

/// Queues that an interface was made with, up to `MAX_QUEUES`.
///
/// # Errors
/// No such interface, in words.
pub(crate) fn rx_queues(interface: &str) -> Result<u32, String> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(interface.to_owned()));
    let answer = socket::request(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST)
        .map_err(|error| format!("interface {interface}: {error}"))?;
    let count = answer.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::NumRxQueues(count) => Some(*count),
            _ => None,
        }),
        _ => None,
    });
    Ok(count.unwrap_or(1).clamp(1, MAX_QUEUES))
}

/// The smallest chunk that suits the drivers of all these interfaces, because a worker's interfaces share its UMEMs.
pub(crate) fn least_frame_size<'a>(interfaces: impl Iterator<Item = &'a str>) -> FrameSize {
    let of = |interface| quirks::frame_size(&florelay_xsk::driver_name(interface));
    interfaces.map(of).max().unwrap_or_default()
}

fn plan_rung(rung: florelay_xsk::Rung) -> Rung {
    match rung {
        florelay_xsk::Rung::ZeroCopy => Rung::ZeroCopy,
        florelay_xsk::Rung::DriverCopy => Rung::DriverCopy,
        florelay_xsk::Rung::Generic => Rung::Generic,
        florelay_xsk::Rung::Socket => Rung::Socket,
    }
}
