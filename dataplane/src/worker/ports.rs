//! The adapters of one worker, as its engine sees them (`florelay_engine::Port`).
//!
//! ```text
//!  pools (UMEM per bind mode) ◄─ alloc / free ─┐
//!  heap pool ◄─────────────────  alloc / free ─┤ Ports ── send ──► lane of a group (AF_XDP) | train of a UDP link
//!                                              └─ receive ──► inbox ──► engine
//! ```
//!
//! Who owns what: every frame is in a pool, in `inbox`, with the engine, or with the kernel. A frame of another memory than
//! its out link's is copied once and counted (`crossed_copies`); to a UDP link every frame is copied into the train.

use std::net::IpAddr;
use std::sync::Arc;

use florelay_engine::config::LinkId;
use florelay_engine::port::Ecn;
use florelay_engine::{Command, FrameBuf, Port};
use florelay_wire::maps::{SteerKey, SteerValue};
use florelay_xsk::Frame;

use super::LinkAdapterReport;
use super::frame::{HeapPool, UmemFrame, WorkerFrame};
use crate::adapter::rungs::{self, Pools, Wanted};
use crate::adapter::socket::SocketLink;
use crate::adapter::xdp::Group;
use crate::adapter::{BURST_FRAMES, LaneAt, LinkPort, Received};
use crate::broker::SharedBroker;
use crate::ipc::FrameAccount;
use crate::netlink::NextHop;
use crate::plan::{AdapterPlan, LinkPlan};

/// Heap frames of a worker: 75 MB if all are used at once, made as they are needed.
const HEAP_FRAMES: usize = 8192;

/// Frames of each pool that transit queues may not take: what arrives in several bursts.
const RESERVE_FRAMES: usize = 2048;

/// What a link waits for before the kernel has been asked.
const NO_NEXT_HOP_YET: &str = "the next hop is not known yet";

/// All adapters of a worker.
pub(crate) struct Ports {
    pub(crate) links: Vec<LinkPort>,
    /// `LinkId` → index in `links`; `usize::MAX` = another worker's.
    index: Vec<usize>,
    pub(crate) groups: Vec<Group>,
    wanted: Vec<Wanted>,
    pub(crate) pools: Pools,
    pub(crate) heap: HeapPool,
    pub(crate) inbox: Vec<Received>,
    scratch: Vec<Frame>,
    broker: SharedBroker,
    /// Frames to spare in the scarcest pool, as of the last `receive`; the reserve covers what one burst takes.
    spare: usize,
    /// Syscalls of sockets that were closed: kicks, wake-ups.
    closed_syscalls: (u64, u64),
}

impl Ports {
    /// Climb every interface's ladder.
    ///
    /// # Errors
    /// A link that may not fall to the socket rung finds no other.
    pub(crate) fn open(
        links: Vec<(LinkId, LinkPlan, SocketLink)>,
        busy_poll: bool,
        broker: SharedBroker,
    ) -> Result<Self, String> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for (_, plan, _) in &links {
            let AdapterPlan::Xdp { interface, highest_rung, .. } = &plan.adapter else { continue };
            match wanted.iter_mut().find(|wanted| wanted.interface == *interface) {
                Some(wanted) => {
                    // The links of an interface share its sockets, and so the rung: the lowest that any allows.
                    wanted.highest = wanted.highest.max(*highest_rung);
                    wanted.mtu = wanted.mtu.max(plan.mtu);
                }
                None => wanted.push(Wanted {
                    interface: interface.clone(),
                    highest: *highest_rung,
                    mtu: plan.mtu,
                    busy_poll,
                }),
            }
        }
        // An interface that cannot be asked will say so on its ladder.
        let queues = wanted.iter().map(|wanted| rungs::rx_queues(&wanted.interface).unwrap_or(0)).sum();
        let mtu = wanted.iter().map(|wanted| wanted.mtu).max().unwrap_or(0);
        let least = rungs::least_frame_size(wanted.iter().map(|wanted| wanted.interface.as_str()));
        let size = links.iter().map(|(id, ..)| usize::from(id.0) + 1).max().unwrap_or(0);
        let mut ports = Self {
            links: links.into_iter().map(|(id, plan, socket)| LinkPort::new(id, plan, socket)).collect(),
            index: vec![usize::MAX; size],
            groups: Vec::new(),
            wanted: Vec::new(),
            pools: Pools::new(queues, mtu, least),
            heap: HeapPool::new(HEAP_FRAMES),
            inbox: Vec::with_capacity(1024),
            scratch: Vec::with_capacity(florelay_xsk::BATCH_FRAMES),
            broker,
            spare: 0,
            closed_syscalls: (0, 0),
        };
        for (at, link) in ports.links.iter().enumerate() {
            ports.index[usize::from(link.id.0)] = at;
        }
        for wanted in wanted {
            ports.open_interface(wanted)?;
        }
        Ok(ports)
    }

    fn open_interface(&mut self, wanted: Wanted) -> Result<(), String> {
        let climbed = rungs::climb(&wanted, &mut self.pools, &self.broker);
        let mut group = climbed.group;
        for link in &mut self.links {
            let AdapterPlan::Xdp { interface, fallback, .. } = &link.plan.adapter else { continue };
            if *interface != wanted.interface {
                continue;
            }
            link.rung = climbed.rung;
            link.reasons.clone_from(&climbed.reasons);
            match &mut group {
                Some(group) => {
                    let lane = group.add_lane(link.id, link.plan.local, link.plan.remote);
                    link.lane = Some(LaneAt { group: self.groups.len(), lane });
                }
                None if *fallback => {}
                None => {
                    let reasons: Vec<_> =
                        climbed.reasons.iter().map(|(rung, reason)| format!("{rung:?}: {reason}")).collect();
                    return Err(format!(
                        "link {} may not fall back to a socket, and no AF_XDP rung holds on {interface}: {}",
                        link.plan.name,
                        reasons.join("; ")
                    ));
                }
            }
        }
        if let Some(group) = group {
            self.groups.push(group);
            self.wanted.push(wanted);
        }
        Ok(())
    }

    /// What the engine must hear before it starts.
    pub(crate) fn first_commands(&self) -> Vec<Command> {
        let waiting = self.links.iter().filter(|link| link.lane.is_some());
        waiting.map(|link| Command::SetCarrier { link: link.id, state: Err(NO_NEXT_HOP_YET.into()) }).collect()
    }

    /// A next hop from the kernel; what it means for the link, if it stands on AF_XDP.
    pub(crate) fn next_hop(&mut self, link: LinkId, hop: Result<NextHop, Arc<str>>) -> Option<Command> {
        let at = self.at(link)?;
        let port = &self.links[at];
        let lane = port.lane?;
        let group = &mut self.groups[lane.group];
        let state = match group.set_next_hop(lane.lane, port.plan.mtu, hop.map_err(|reason| reason.to_string())) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let steered = steer(&self.broker, group);
                if steered.is_err() {
                    // Try again at the next news.
                    group.lanes[lane.lane].vlan = None;
                }
                steered
            }
            Err(reason) => Err(reason),
        };
        let state = match &group.broken {
            Some(reason) => Err(reason.clone()),
            None => state,
        };
        Some(Command::SetCarrier { link, state: state.map_err(Into::into) })
    }

    /// Move what has arrived into the inbox. `sockets`: also look into UDP sockets that nobody called readable.
    /// Returns frames received and AF_XDP frames completed.
    pub(crate) fn receive(&mut self, sockets: bool) -> (usize, usize) {
        let (mut received, mut completed) = (0, 0);
        for group in &mut self.groups {
            let umem = &mut self.pools.umems[usize::from(group.pool)];
            let (rx, tx) = group.receive(umem, &mut self.scratch, &mut self.inbox);
            received += rx;
            completed += tx;
        }
        for link in &mut self.links {
            if !(link.readable || sockets && link.lane.is_none()) {
                continue;
            }
            let (heap, inbox, counters, id) = (&mut self.heap, &mut self.inbox, &mut link.counters, link.id);
            let count = link.socket.receive(|datagram, ecn| {
                let Some(mut frame) = heap.alloc() else {
                    counters.no_frame += 1;
                    return;
                };
                if frame.fill(datagram) {
                    inbox.push(Received { link: id, frame: WorkerFrame::Heap(frame), ecn });
                } else {
                    counters.too_long += 1;
                    heap.free(frame);
                }
            });
            if link.lane.is_some() {
                link.counters.from_kernel += count as u64;
            }
            link.readable = count > 0;
            received += count;
        }
        let umems = self.pools.umems.iter().map(|umem| umem.account().free as usize);
        let free = umems.chain([self.heap.allocatable()]).min().unwrap_or(0);
        self.spare = free.saturating_sub(RESERVE_FRAMES);
        (received, completed)
    }

    /// Before `transmit` of a link: what may be sent in this burst.
    pub(crate) fn begin(&mut self, link: LinkId) {
        let Some(at) = self.at(link) else { return };
        let port = &mut self.links[at];
        port.room = match port.lane {
            Some(lane) => self.groups[lane.group].room(lane.lane),
            None => port.socket.room().min(BURST_FRAMES),
        };
    }

    /// Hand what was sent to the kernel. `all`: also what would gain by waiting for company. Returns how many blocked links
    /// can send again.
    pub(crate) fn flush(&mut self, now_ns: u64, all: bool) -> usize {
        let mut freed = 0;
        for link in &mut self.links {
            let blocked = link.socket.room() == 0;
            link.socket.flush(now_ns);
            freed += usize::from(blocked && link.socket.room() > 0);
        }
        for group in &mut self.groups {
            group.kick(&self.pools.umems[usize::from(group.pool)], now_ns, all);
        }
        freed
    }

    /// Off the packet path, every few milliseconds: held sockets, watchdogs, frames to collect. Returns what the engine
    /// must hear.
    pub(crate) fn housekeeping(&mut self, now_ns: u64, recycle: bool) -> Vec<Command> {
        for link in &mut self.links {
            link.readable |= link.lane.is_some();
        }
        for umem in &mut self.pools.umems {
            umem.housekeeping(now_ns);
        }
        for group in &mut self.groups {
            group.watch(now_ns);
        }
        if recycle { self.recycle() } else { Vec::new() }
    }

    /// Open the sockets of broken interfaces anew; others that share their UMEM go on. Blocks for as long as the kernel
    /// needs to let go of the queues.
    fn recycle(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        for (group, wanted) in self.groups.iter_mut().zip(&self.wanted) {
            let pool = usize::from(group.pool);
            let Some(mode) = self.pools.mode(pool).filter(|_| group.broken.is_some()) else { continue };
            let umem = &mut self.pools.umems[pool];
            let (kicks, wakes) = group.syscalls();
            self.closed_syscalls.0 += kicks;
            self.closed_syscalls.1 += wakes;
            for queue in group.take_queues() {
                queue.into_socket().close(umem);
            }
            let was = group.broken.take();
            let reopened = restore_program(&self.broker, group)
                .and_then(|()| rungs::open_queues(wanted, mode, umem, &self.broker))
                .map(|queues| group.queues = queues);
            group.counters.recycled += 1;
            tracing::warn!(interface = %group.interface, reason = was.as_deref(), ?reopened, "AF_XDP sockets opened anew");
            group.broken = reopened.err();
            for lane in &group.lanes {
                let state = match &group.broken {
                    Some(reason) => Err(reason.as_str().into()),
                    None if lane.has_next_hop() => Ok(()),
                    None => continue,
                };
                commands.push(Command::SetCarrier { link: lane.link, state });
            }
        }
        commands
    }

    /// When frames that wait, for company or for their time on a `sim` link, must go.
    pub(crate) fn deadline_ns(&mut self) -> Option<u64> {
        let due = self.links.iter().filter_map(|link| link.socket.deadline_ns());
        self.groups.iter_mut().filter_map(Group::deadline_ns).chain(due).min()
    }

    /// AF_XDP frames sent and not completed.
    pub(crate) fn outstanding(&self) -> usize {
        self.groups.iter().map(Group::outstanding).sum()
    }

    /// Conservation of UMEM frames. What is quarantined is still with the kernel, and counts as in the fill ring.
    pub(crate) fn account(&self) -> FrameAccount {
        self.pools.umems.iter().map(florelay_xsk::Umem::account).fold(FrameAccount::default(), |sum, one| {
            FrameAccount {
                total: sum.total + u64::from(one.total),
                free: sum.free + u64::from(one.free),
                fill: sum.fill + u64::from(one.fill + one.quarantined),
                held: sum.held + u64::from(one.held),
                tx: sum.tx + u64::from(one.tx),
                leaked: sum.leaked + i64::from(one.leaked),
            }
        })
    }

    /// Kicks, and all syscalls of the adapters.
    pub(crate) fn syscalls(&mut self) -> (u64, u64) {
        let (mut kicks, mut wakes) = self.closed_syscalls;
        for group in &mut self.groups {
            let (more_kicks, more_wakes) = group.syscalls();
            kicks += more_kicks;
            wakes += more_wakes;
        }
        (kicks, kicks + wakes + self.links.iter().map(|link| link.socket.syscalls()).sum::<u64>())
    }

    /// What interfaces count, summed.
    pub(crate) fn group_counters(&self) -> Vec<(&'static str, u64)> {
        if self.groups.is_empty() {
            return Vec::new();
        }
        let sum = |of: fn(&Group) -> u64| self.groups.iter().map(of).sum::<u64>();
        vec![
            ("xdp_unknown_remote", sum(|group| group.counters.unknown_remote)),
            ("xdp_malformed", sum(|group| group.counters.malformed)),
            ("xdp_bad_checksum", sum(|group| group.counters.checksum)),
            ("xdp_recycled", sum(|group| group.counters.recycled)),
            ("xdp_rx_dropped", sum(|group| group.statistics().rx_dropped)),
            ("xdp_rx_ring_full", sum(|group| group.statistics().rx_ring_full)),
            ("xdp_fill_ring_empty", sum(|group| group.statistics().rx_fill_ring_empty_descs)),
        ]
    }

    /// Where each link stands.
    pub(crate) fn link_reports(&self) -> Vec<LinkAdapterReport> {
        let report = |link: &LinkPort| LinkAdapterReport {
            link: link.id.0,
            rung: link.rung,
            reasons: link.reasons.clone(),
            queues: link
                .lane
                .map_or_else(Vec::new, |lane| self.groups[lane.group].queues.iter().map(|queue| queue.id).collect()),
            counters: [
                ("adapter_no_frame", link.counters.no_frame),
                ("adapter_too_long", link.counters.too_long),
                ("adapter_from_kernel", link.counters.from_kernel),
                ("adapter_tx_dropped", link.counters.tx_dropped),
                ("adapter_crossed_copies", link.counters.crossed_copies),
            ]
            .into_iter()
            .chain(link.socket.counters())
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        };
        self.links.iter().map(report).collect()
    }

    fn at(&self, link: LinkId) -> Option<usize> {
        self.index.get(usize::from(link.0)).copied().filter(|at| *at != usize::MAX)
    }

    /// Make it a frame of this UMEM, by a copy if need be.
    fn adopt(&mut self, at: usize, pool: u8, frame: WorkerFrame) -> Option<Frame> {
        match frame {
            WorkerFrame::Umem(own) if own.pool == pool => Some(own.frame),
            other => {
                self.links[at].counters.crossed_copies += 1;
                let copy = self.pools.umems[usize::from(pool)].alloc().map(|frame| {
                    let mut copy = WorkerFrame::Umem(UmemFrame { pool, frame });
                    let fits = other.bytes().len() <= copy.capacity();
                    if fits {
                        copy.set_len(other.bytes().len());
                        copy.bytes_mut().copy_from_slice(other.bytes());
                    }
                    (copy, fits)
                });
                self.free(other);
                match copy {
                    Some((WorkerFrame::Umem(copy), true)) => Some(copy.frame),
                    Some((copy, _)) => {
                        self.free(copy);
                        None
                    }
                    None => None,
                }
            }
        }
    }
}

impl Port for Ports {
    type Frame = WorkerFrame;

    fn alloc(&mut self, link: LinkId) -> Option<WorkerFrame> {
        let at = self.at(link)?;
        match self.links[at].lane {
            Some(lane) => {
                let pool = self.groups[lane.group].pool;
                let frame = self.pools.umems[usize::from(pool)].alloc()?;
                Some(WorkerFrame::Umem(UmemFrame { pool, frame }))
            }
            None => self.heap.alloc().map(WorkerFrame::Heap),
        }
    }

    fn free(&mut self, frame: WorkerFrame) {
        match frame {
            WorkerFrame::Umem(UmemFrame { pool, frame }) => self.pools.umems[usize::from(pool)].free(frame),
            WorkerFrame::Heap(frame) => self.heap.free(frame),
        }
    }

    fn spare_frames(&self) -> usize {
        self.spare
    }

    fn in_flight_bytes(&self, link: LinkId) -> u64 {
        let Some(at) = self.at(link) else { return 0 };
        match self.links[at].lane {
            Some(lane) => self.groups[lane.group].in_flight(lane.lane),
            None => self.links[at].socket.pending_bytes() as u64,
        }
    }

    fn tx_room(&self, link: LinkId) -> usize {
        self.at(link).map_or(0, |at| self.links[at].room)
    }

    fn send(&mut self, link: LinkId, frame: WorkerFrame, ecn: Ecn) {
        let Some(at) = self.at(link) else {
            self.free(frame);
            return;
        };
        let sent = match self.links[at].lane {
            Some(lane) => {
                let pool = self.groups[lane.group].pool;
                let frame = self.adopt(at, pool, frame);
                let umem = &mut self.pools.umems[usize::from(pool)];
                frame.is_some_and(|frame| self.groups[lane.group].send(umem, lane.lane, frame, ecn))
            }
            None => {
                let sent = self.links[at].socket.send(frame.bytes(), ecn);
                self.free(frame);
                sent
            }
        };
        let port = &mut self.links[at];
        port.room = port.room.saturating_sub(1);
        if !sent {
            port.counters.tx_dropped += 1;
            port.room = port.room.min(port.socket.room());
        }
    }
}

/// Attach and steer again where the interface was made anew.
fn restore_program(broker: &SharedBroker, group: &mut Group) -> Result<(), String> {
    if !group.lost_program {
        return Ok(());
    }
    {
        let mut broker = broker.lock();
        broker.detach(&group.interface)?;
        broker.attach(&group.interface, group.attach)?;
    }
    steer(broker, group)?;
    group.lost_program = false;
    Ok(())
}

/// Make the lanes of a group, as far as their VLAN is known, the steering table of its interface.
fn steer(broker: &SharedBroker, group: &Group) -> Result<(), String> {
    let mut entries: Vec<(SteerKey, SteerValue)> = Vec::new();
    for lane in &group.lanes {
        let Some(vlan) = lane.vlan else { continue };
        let address: IpAddr = lane.local().ip();
        let key = SteerKey { vlan: vlan.unwrap_or(0), port: lane.local().port(), address };
        // Lanes that differ in the remote address alone share an entry.
        if entries.iter().all(|(other, _)| *other != key) {
            entries.push((key, SteerValue { link: lane.link.0, flags: 0 }));
        }
    }
    broker.lock().steer(&group.interface, entries)
}
