//! The AF_XDP rungs: one socket on every RX queue of an interface (or on this worker's part of them, see `share`), and
//! the links (*lanes*) that share them.
//!
//! ```text
//!   RX ring ─► parse outer header ─► checksum ─► match lane ─► pull the header ─► inbox
//!   send ─► push the lane's outer header ─► TX ring of the lane's queue ─► kick ─► completion ring ─► pool
//! ```
//!
//! A frame belongs to a lane by (VLAN, local address, port, remote address, port); what matches none is counted. A lane
//! without a next hop sends nothing. In-flight bytes are kept per lane: a socket completes frames in the order it sent
//! them, so a queue of (lane, bytes) beside each TX ring says whose bytes a completion frees; a driver that completes out
//! of order mixes lanes up by a frame or two, but the sum stays right and is zero when nothing is outstanding.
//!
//! Costs: the UDP checksum is verified for every frame and computed for every frame, one pass each over the payload
//! (about 0.1 µs for 1460 bytes out of the cache). QUIC would notice damage by itself, OAM would not.
//!
//! Limits: matching is a linear search, right for the tens of links that an interface has; one VLAN tag.

use std::collections::VecDeque;
use std::net::SocketAddr;

use florelay_engine::config::LinkId;
use florelay_engine::port::Ecn;
use florelay_wire::outer::{self, Outer, OuterTemplate};
use florelay_xsk::{BATCH_FRAMES, CompletionWatchdog, Frame, Socket, Umem, Verdict, XdpStatistics};

use super::{BURST_FRAMES, Received};
use crate::attach::Mode;
use crate::netlink::NextHop;
use crate::worker::frame::{UmemFrame, WorkerFrame};

/// Frames that each queue keeps with the kernel to receive into: the whole fill ring of `rungs::RINGS`.
pub(crate) const FILL_FRAMES: u32 = 4096;
/// Frames that a TX ring holds.
pub(crate) const TX_FRAMES: u32 = 1024;
/// Below this the fill ring is topped up: in halves, so that the refill is a batch.
const FILL_LOW: u32 = FILL_FRAMES - BATCH_FRAMES as u32;
/// Completions taken from one queue in a burst.
const REAP_FRAMES: usize = 256;

/// One RX queue's socket.
pub(crate) struct Queue {
    pub(crate) id: u32,
    socket: Socket,
    dog: CompletionWatchdog,
    completed: u64,
    /// Lane and bytes of each frame that is not completed, oldest first.
    sent: VecDeque<(usize, u32)>,
}

impl Queue {
    pub(crate) fn new(socket: Socket, prefers_busy_poll: bool) -> Self {
        let id = socket.options().queue;
        let dog = CompletionWatchdog::new(prefers_busy_poll);
        Self { id, socket, dog, completed: 0, sent: VecDeque::with_capacity(TX_FRAMES as usize) }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

/// One link on the interface.
pub(crate) struct Lane {
    pub(crate) link: LinkId,
    /// `false`: another worker's; known here so that its frames are.
    pub(crate) own: bool,
    local: SocketAddr,
    remote: SocketAddr,
    /// Index of the queue that it sends on.
    queue: usize,
    template: Option<OuterTemplate>,
    /// The last known VLAN; `None` = not known yet.
    pub(crate) vlan: Option<Option<u16>>,
    ip_id: u16,
    in_flight: u64,
}

impl Lane {
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn has_next_hop(&self) -> bool {
        self.template.is_some()
    }
}

/// What an interface counts that no link can be told for.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct GroupCounters {
    /// From a neighbour that no link has.
    pub(crate) unknown_remote: u64,
    /// From a link's neighbour, before a next hop has told the link's VLAN.
    pub(crate) no_next_hop: u64,
    /// Outer headers that do not parse.
    pub(crate) malformed: u64,
    /// Wrong UDP checksums.
    pub(crate) checksum: u64,
    /// Sockets opened anew because completions had stopped.
    pub(crate) recycled: u64,
}

/// The AF_XDP sockets of one interface.
pub(crate) struct Group {
    pub(crate) interface: String,
    /// Index of the UMEM.
    pub(crate) pool: u8,
    pub(crate) queues: Vec<Queue>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) counters: GroupCounters,
    /// Why the sockets do not work, until they are opened anew.
    pub(crate) broken: Option<String>,
    /// The interface is another one of the same name: program and steering are gone, too.
    pub(crate) lost_program: bool,
    /// How the program is attached.
    pub(crate) attach: Mode,
    /// The interface that the sockets are bound to, once a next hop has told it.
    ifindex: Option<u32>,
}

impl Group {
    pub(crate) fn new(interface: String, pool: u8, attach: Mode, queues: Vec<Queue>) -> Self {
        Self {
            interface,
            pool,
            queues,
            lanes: Vec::new(),
            counters: GroupCounters::default(),
            broken: None,
            lost_program: false,
            attach,
            ifindex: None,
        }
    }

    /// The interface that the sockets are bound to, once a next hop has told it.
    pub(crate) fn ifindex(&self) -> Option<u32> {
        self.ifindex
    }

    /// Returns the lane's index.
    pub(crate) fn add_lane(&mut self, link: LinkId, local: SocketAddr, remote: SocketAddr, own: bool) -> usize {
        let queue = self.lanes.iter().filter(|lane| lane.own).count() % self.queues.len().max(1);
        let lane = Lane { link, own, local, remote, queue, template: None, vlan: None, ip_id: 0, in_flight: 0 };
        self.lanes.push(lane);
        self.lanes.len() - 1
    }

    /// Where the lane's frames go from now on. Says whether its VLAN has changed, and with it what must be steered here.
    ///
    /// # Errors
    /// The reason why nothing can be sent.
    pub(crate) fn set_next_hop(&mut self, lane: usize, mtu: u16, hop: Result<NextHop, String>) -> Result<bool, String> {
        let interface = &self.interface;
        let lane = &mut self.lanes[lane];
        lane.template = None;
        let hop = hop?;
        if *hop.interface != **interface {
            let leaves = &hop.interface;
            return Err(format!(
                "frames to {} leave by {leaves}, not by the link's interface {interface}",
                lane.remote
            ));
        }
        if hop.mtu < u32::from(mtu) {
            return Err(format!(
                "the way to {} takes packets of {} bytes, the link's mtu is {mtu}",
                lane.remote, hop.mtu
            ));
        }
        let template = OuterTemplate::new(&outer::NextHop {
            src_mac: hop.src_mac,
            dst_mac: hop.dst_mac,
            vlan: hop.vlan,
            src: lane.local,
            dst: lane.remote,
        });
        lane.template = Some(template.map_err(|error| error.to_string())?);
        if self.ifindex.replace(hop.ifindex).is_some_and(|old| old != hop.ifindex) {
            self.broken = Some(format!("interface {interface} was made anew"));
            self.lost_program = true;
        }
        Ok(lane.vlan.replace(hop.vlan) != Some(hop.vlan))
    }

    pub(crate) fn in_flight(&self, lane: usize) -> u64 {
        self.lanes[lane].in_flight
    }

    /// Frames that the lane can send now.
    pub(crate) fn room(&mut self, lane: usize) -> usize {
        let lane = &self.lanes[lane];
        match self.queues.get_mut(lane.queue) {
            Some(queue) if lane.template.is_some() => queue.socket.tx().room().min(BURST_FRAMES),
            _ => 0,
        }
    }

    /// Put a link payload of this group's UMEM on the wire. `false`, with the frame freed, if that cannot be.
    pub(crate) fn send(&mut self, umem: &mut Umem, lane: usize, mut frame: Frame, ecn: Ecn) -> bool {
        let index = lane;
        let lane = &mut self.lanes[index];
        let (Some(template), Some(queue)) = (&lane.template, self.queues.get_mut(lane.queue)) else {
            umem.free(frame);
            return false;
        };
        let header_len = template.header_len();
        lane.ip_id = lane.ip_id.wrapping_add(1);
        let written = frame.push_front(header_len).is_some() && {
            let (header, payload) = frame.bytes_mut().split_at_mut(header_len);
            template.write(header, payload, ecn.bits(), lane.ip_id).is_some()
        };
        if !written {
            umem.free(frame);
            return false;
        }
        // A frame has at most 4096 bytes.
        let bytes = frame.len() as u32;
        match queue.socket.tx().send(umem, frame) {
            Ok(()) => {
                queue.sent.push_back((index, bytes));
                lane.in_flight += u64::from(bytes);
                true
            }
            Err(refused) => {
                umem.free(refused.into_frame());
                false
            }
        }
    }

    /// Take completions, keep fill rings full, put received link payloads into `inbox`, those of other workers' links into
    /// `strays`. Returns frames received and frames completed.
    pub(crate) fn receive(
        &mut self,
        umem: &mut Umem,
        scratch: &mut Vec<Frame>,
        inbox: &mut Vec<Received>,
        strays: &mut Vec<Received>,
    ) -> (usize, usize) {
        let Self { queues, lanes, counters, pool, .. } = self;
        let (mut received, mut completed) = (0, 0);
        for queue in queues {
            let rings = queue.socket.rings();
            let reaped = rings.completion.reap(umem, REAP_FRAMES);
            for (lane, bytes) in queue.sent.drain(..reaped.min(queue.sent.len())) {
                lanes[lane].in_flight -= u64::from(bytes);
            }
            queue.completed += reaped as u64;
            completed += reaped;
            let filled = rings.fill.in_kernel(umem);
            if filled < FILL_LOW {
                rings.fill.refill(umem, (FILL_FRAMES - filled) as usize);
            }
            rings.fill.wake();
            received += rings.rx.receive(umem, scratch, BATCH_FRAMES);
            for mut frame in scratch.drain(..) {
                match locate(lanes, counters, frame.bytes()) {
                    Some((lane, outer))
                        if frame.pull_front(outer.payload.offset) && frame.set_len(outer.payload.len) =>
                    {
                        let frame = WorkerFrame::Umem(UmemFrame { pool: *pool, frame });
                        let to = if lane.own { &mut *inbox } else { &mut *strays };
                        to.push(Received { link: lane.link, frame, ecn: Ecn::from_bits(outer.ecn) });
                    }
                    _ => umem.free(frame),
                }
            }
        }
        (received, completed)
    }

    /// Let the kernel send what is due, or everything. Errors make the group broken.
    pub(crate) fn kick(&mut self, umem: &Umem, now_ns: u64, all: bool) {
        for queue in &mut self.queues {
            let tx = queue.socket.tx();
            let result = if all && tx.pending() > 0 { tx.kick_now(now_ns) } else { tx.kick(umem, now_ns) };
            if let Err(error) = result
                && self.broken.is_none()
            {
                self.broken = Some(format!("AF_XDP on {} queue {}: {error}", self.interface, queue.id));
            }
        }
    }

    /// When waiting frames want a kick.
    pub(crate) fn deadline_ns(&mut self) -> Option<u64> {
        self.queues.iter_mut().filter_map(|queue| queue.socket.tx().deadline_ns()).min()
    }

    /// Frames sent and not completed.
    pub(crate) fn outstanding(&self) -> usize {
        self.queues.iter().map(|queue| queue.sent.len()).sum()
    }

    /// Have completions stopped? To be asked in housekeeping.
    pub(crate) fn watch(&mut self, now_ns: u64) {
        let link_up = self.lanes.iter().any(|lane| lane.template.is_some());
        for queue in &mut self.queues {
            let outstanding = u32::try_from(queue.sent.len()).unwrap_or(u32::MAX);
            match queue.dog.observe(now_ns, outstanding, queue.completed, link_up) {
                Verdict::Healthy | Verdict::Waiting(_) => {}
                Verdict::StepDown => {
                    tracing::warn!(interface = %self.interface, queue = queue.id, "completions stopped: no busy polling");
                    if let Err(error) = florelay_xsk::poll::prefer_busy_poll(&queue.socket, false) {
                        tracing::warn!(%error, "SO_PREFER_BUSY_POLL not switched off");
                    }
                }
                Verdict::Recycle => {
                    self.broken = Some(format!("AF_XDP on {} queue {}: completions stopped", self.interface, queue.id));
                }
            }
        }
    }

    /// Syscalls that the rings made: kicks to send, wake-ups to receive.
    pub(crate) fn syscalls(&mut self) -> (u64, u64) {
        self.queues.iter_mut().fold((0, 0), |(kicks, wakes), queue| {
            (kicks + queue.socket.tx().kicks().calls, wakes + queue.socket.fill().wakes())
        })
    }

    /// What the kernel dropped on these queues.
    pub(crate) fn statistics(&self) -> XdpStatistics {
        self.queues.iter().filter_map(|queue| queue.socket.statistics().ok()).fold(
            XdpStatistics::default(),
            |sum, one| XdpStatistics {
                rx_dropped: sum.rx_dropped + one.rx_dropped,
                rx_invalid_descs: sum.rx_invalid_descs + one.rx_invalid_descs,
                tx_invalid_descs: sum.tx_invalid_descs + one.tx_invalid_descs,
                rx_ring_full: sum.rx_ring_full + one.rx_ring_full,
                rx_fill_ring_empty_descs: sum.rx_fill_ring_empty_descs + one.rx_fill_ring_empty_descs,
                tx_ring_empty_descs: sum.tx_ring_empty_descs + one.tx_ring_empty_descs,
            },
        )
    }

    /// The sockets, to be closed. Nothing is in flight any more.
    pub(crate) fn take_queues(&mut self) -> Vec<Queue> {
        for lane in &mut self.lanes {
            lane.in_flight = 0;
        }
        std::mem::take(&mut self.queues)
    }
}

/// Whose frame it is.
fn locate<'a>(lanes: &'a [Lane], counters: &mut GroupCounters, frame: &[u8]) -> Option<(&'a Lane, Outer)> {
    let Ok(outer) = outer::parse(frame) else {
        counters.malformed += 1;
        return None;
    };
    if outer::verify_udp_checksum(frame, &outer).is_err() {
        counters.checksum += 1;
        return None;
    }
    let lane = lanes.iter().find(|lane| {
        lane.local.port() == outer.dst_port
            && lane.remote.port() == outer.src_port
            && lane.remote.ip() == outer.src
            && lane.local.ip() == outer.dst
            && lane.vlan.is_none_or(|vlan| vlan == outer.vlan)
    });
    match lane {
        Some(lane) if lane.vlan.is_some() => return Some((lane, outer)),
        Some(_) => counters.no_next_hop += 1,
        None => counters.unknown_remote += 1,
    }
    None
}

#[cfg(test)]
mod tests {
    use florelay_wire::eth::MacAddr;

    use super::*;

    const MTU: u16 = 1500;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn hop(vlan: Option<u16>) -> NextHop {
        NextHop {
            ifindex: 3,
            interface: "eth1".into(),
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            vlan,
            mtu: 1500,
        }
    }

    fn group() -> Group {
        let mut group = Group::new("eth1".into(), 0, Mode::Native, Vec::new());
        group.add_lane(LinkId(4), address("10.0.0.1:6635"), address("10.0.0.2:6635"), true);
        group.add_lane(LinkId(5), address("10.0.0.1:6635"), address("10.0.0.3:6635"), true);
        group
    }

    /// A frame as the neighbour at `from` sends it.
    fn frame(from: &str, vlan: Option<u16>) -> Vec<u8> {
        let payload = b"link payload";
        let template = OuterTemplate::new(&outer::NextHop {
            src_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            vlan,
            src: address(from),
            dst: address("10.0.0.1:6635"),
        })
        .unwrap();
        let mut frame = vec![0; template.header_len()];
        template.write(&mut frame, payload, 2, 7).unwrap();
        frame.extend_from_slice(payload);
        frame
    }

    fn located(group: &mut Group, frame: &[u8]) -> Option<LinkId> {
        locate(&group.lanes, &mut group.counters, frame).map(|(lane, outer)| {
            assert_eq!(outer.payload.of(frame), Some(&b"link payload"[..]));
            lane.link
        })
    }

    #[test]
    fn frames_belong_to_the_lane_of_their_neighbour_port_and_vlan() {
        let mut group = group();
        // Nothing is taken before the VLAN is known.
        assert_eq!(located(&mut group, &frame("10.0.0.2:6635", None)), None);
        assert_eq!((group.counters.no_next_hop, group.counters.unknown_remote), (1, 0));
        assert_eq!(group.set_next_hop(0, MTU, Ok(hop(None))), Ok(true));
        assert_eq!(group.set_next_hop(1, MTU, Ok(hop(Some(9)))), Ok(true));
        assert_eq!(group.set_next_hop(1, MTU, Ok(hop(Some(9)))), Ok(false));
        assert_eq!(located(&mut group, &frame("10.0.0.2:6635", None)), Some(LinkId(4)));
        assert_eq!(located(&mut group, &frame("10.0.0.3:6635", Some(9))), Some(LinkId(5)));
        for (from, vlan) in
            [("10.0.0.2:6635", Some(9)), ("10.0.0.3:6635", None), ("10.0.0.2:6636", None), ("10.0.0.4:6635", None)]
        {
            assert_eq!(located(&mut group, &frame(from, vlan)), None, "{from} {vlan:?}");
        }
        assert_eq!((group.counters.no_next_hop, group.counters.unknown_remote), (1, 4));
    }

    #[test]
    fn damage_is_counted_and_dropped() {
        let mut group = group();
        group.set_next_hop(0, MTU, Ok(hop(None))).unwrap();
        let mut damaged = frame("10.0.0.2:6635", None);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(located(&mut group, &damaged), None);
        assert_eq!(located(&mut group, &damaged[..20]), None);
        assert_eq!((group.counters.checksum, group.counters.malformed), (1, 1));
    }

    #[test]
    fn a_next_hop_that_does_not_fit_is_a_reason() {
        let mut group = group();
        let elsewhere = NextHop { interface: "eth2".into(), ..hop(None) };
        assert!(group.set_next_hop(0, MTU, Ok(elsewhere)).unwrap_err().contains("eth2"));
        let small = NextHop { mtu: 1400, ..hop(None) };
        assert!(group.set_next_hop(0, MTU, Ok(small)).unwrap_err().contains("1400"));
        assert_eq!(group.set_next_hop(0, MTU, Err("no carrier".into())), Err("no carrier".into()));
        assert!(!group.lanes[0].has_next_hop());
    }

    #[test]
    fn an_interface_of_the_same_name_is_another_one() {
        let mut group = group();
        group.set_next_hop(0, MTU, Ok(hop(None))).unwrap();
        group.set_next_hop(0, MTU, Err("gone".into())).unwrap_err();
        assert!(group.broken.is_none());
        group.set_next_hop(0, MTU, Ok(NextHop { ifindex: 8, ..hop(None) })).unwrap();
        assert!(group.broken.is_some() && group.lost_program);
    }
}
