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
//! Frames that arrive on this worker's queues for links of another go into the ring to it (`crossing`).

mod engine_side;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use florelay_engine::Command;
use florelay_engine::config::LinkId;
use florelay_wire::maps::{SteerKey, SteerValue};
use florelay_xsk::Frame;

use super::LinkAdapterReport;
use super::frame::{HeapPool, WorkerFrame};
use crate::adapter::rungs::{self, Pools, Wanted};
use crate::adapter::share::{Share, Turn};
use crate::adapter::socket::SocketLink;
use crate::adapter::xdp::Group;
use crate::adapter::{BURST_FRAMES, LaneAt, LinkPort, Received};
use crate::broker::SharedBroker;
use crate::crossing::{Across, Crossed, Freight};
use crate::ipc::FrameAccount;
use crate::netlink::NextHop;
use crate::plan::{AdapterPlan, LinkPlan};

/// Heap frames of a worker: 75 MB if all are used at once, made as they are needed.
const HEAP_FRAMES: usize = 8192;

/// Frames of each pool that transit queues may not take: what arrives in several bursts.
const RESERVE_FRAMES: usize = 2048;

/// What a link waits for before the kernel has been asked.
const NO_NEXT_HOP_YET: &str = "the next hop is not known yet";

/// What a worker has in common with the others.
pub(crate) struct Sharing {
    pub(crate) across: Across,
    /// By interface.
    pub(crate) shares: HashMap<String, Share>,
    /// Links of others on this worker's interfaces.
    pub(crate) beside: Vec<(LinkId, LinkPlan)>,
}

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
    /// Received for links of other workers.
    strays: Vec<Received>,
    pub(crate) across: Across,
    /// Taken from other workers.
    pub(crate) crossed: Vec<Crossed>,
    /// Interfaces on which others own links, too, and these links.
    shares: HashMap<String, Share>,
    beside: Vec<(LinkId, LinkPlan)>,
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
        sharing: Sharing,
        busy_poll: bool,
        broker: SharedBroker,
    ) -> Result<Self, String> {
        let Sharing { across, shares, beside } = sharing;
        let mut wanted: Vec<Wanted> = Vec::new();
        for plan in links.iter().map(|(_, plan, _)| plan).chain(beside.iter().map(|(_, plan)| plan)) {
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
                    turn: shares.get(interface).map_or(Turn::ALONE, |share| share.turn),
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
            strays: Vec::with_capacity(1024),
            across,
            crossed: Vec::with_capacity(1024),
            shares,
            beside,
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
        let share = self.shares.get(&wanted.interface);
        let climbed = rungs::climb_shared(&wanted, share, &mut self.pools, &self.broker);
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
                    let lane = group.add_lane(link.id, link.plan.local, link.plan.remote, true);
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
        if let Some(mut group) = group {
            for (id, plan) in &self.beside {
                if matches!(&plan.adapter, AdapterPlan::Xdp { interface, .. } if *interface == wanted.interface) {
                    group.add_lane(*id, plan.local, plan.remote, false);
                }
            }
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

    /// A next hop from the kernel; what it means for the link, if it is this worker's and stands on AF_XDP. Of another
    /// worker's link it tells the VLAN by which frames of it are known on this one's queues.
    pub(crate) fn next_hop(&mut self, link: LinkId, hop: Result<NextHop, Arc<str>>) -> Option<Command> {
        let own = self.at(link).map(|at| &self.links[at]);
        let (lane, mtu) = match own {
            Some(port) => (port.lane?, port.plan.mtu),
            None => (self.foreign_lane(link)?, 0),
        };
        let group = &mut self.groups[lane.group];
        let state = match group.set_next_hop(lane.lane, mtu, hop.map_err(|reason| reason.to_string())) {
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
        if !group.lanes[lane.lane].own {
            return None;
        }
        Some(Command::SetCarrier { link, state: state.map_err(Into::into) })
    }

    /// Move what has arrived into the inbox. `sockets`: also look into UDP sockets that nobody called readable.
    /// Returns frames received and AF_XDP frames completed.
    pub(crate) fn receive(&mut self, sockets: bool) -> (usize, usize) {
        let (mut received, mut completed) = (0, 0);
        for group in &mut self.groups {
            let umem = &mut self.pools.umems[usize::from(group.pool)];
            let (rx, tx) = group.receive(umem, &mut self.scratch, &mut self.inbox, &mut self.strays);
            received += rx;
            completed += tx;
        }
        if !self.strays.is_empty() {
            self.pass_on_strays();
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

    fn pass_on_strays(&mut self) {
        let mut strays = std::mem::take(&mut self.strays);
        for Received { link, frame, ecn } in strays.drain(..) {
            // What does not fit is counted; QUIC and liveness repeat it.
            self.hand_over(link, Freight::Received(link), frame, ecn);
        }
        self.strays = strays;
    }

    /// Take what other workers have for this one into `crossed`; how much.
    pub(crate) fn take_crossed(&mut self) -> usize {
        self.across.take(&mut self.heap, &mut self.crossed)
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
            let reopened = restore_program(&self.broker, group, self.shares.get(&wanted.interface))
                .and_then(|()| rungs::open_queues(wanted, mode, umem, &self.broker))
                .map(|queues| group.queues = queues);
            group.counters.recycled += 1;
            tracing::warn!(interface = %group.interface, reason = was.as_deref(), ?reopened, "AF_XDP sockets opened anew");
            group.broken = reopened.err();
            for lane in group.lanes.iter().filter(|lane| lane.own) {
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
            ("xdp_no_next_hop", sum(|group| group.counters.no_next_hop)),
            ("xdp_malformed", sum(|group| group.counters.malformed)),
            ("xdp_bad_checksum", sum(|group| group.counters.checksum)),
            ("xdp_recycled", sum(|group| group.counters.recycled)),
            ("xdp_rx_dropped", sum(|group| group.statistics().rx_dropped)),
            ("xdp_rx_ring_full", sum(|group| group.statistics().rx_ring_full)),
            ("xdp_fill_ring_empty", sum(|group| group.statistics().rx_fill_ring_empty_descs)),
        ]
    }

    /// What crossed to and from other workers; nothing where there is no ring.
    pub(crate) fn ring_counters(&self) -> Vec<(&'static str, u64)> {
        if self.across.is_alone() {
            return Vec::new();
        }
        let counters = &self.across.counters;
        vec![
            ("ring_received_out", counters.received_out),
            ("ring_transit_out", counters.transit_out),
            ("ring_copied", counters.copied),
            ("ring_taken", counters.taken),
            ("ring_waiting", self.across.waiting() as u64),
            ("ring_full_received", counters.received_full),
            ("ring_full_transit", counters.transit_full),
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

    fn foreign_lane(&self, link: LinkId) -> Option<LaneAt> {
        (0..).zip(&self.groups).find_map(|(group, its)| {
            let lane = its.lanes.iter().position(|lane| lane.link == link)?;
            Some(LaneAt { group, lane })
        })
    }

    fn at(&self, link: LinkId) -> Option<usize> {
        self.index.get(usize::from(link.0)).copied().filter(|at| *at != usize::MAX)
    }
}

/// Attach and steer again where the interface was made anew; by the first worker that finds it so.
fn restore_program(broker: &SharedBroker, group: &mut Group, share: Option<&Share>) -> Result<(), String> {
    if !group.lost_program {
        return Ok(());
    }
    let mut agreed = share.map(Share::agreed);
    if agreed.as_ref().is_none_or(|agreed| agreed.restored.is_none() || agreed.restored != group.ifindex()) {
        let mut broker = broker.lock();
        broker.detach(&group.interface)?;
        broker.attach(&group.interface, group.attach)?;
        if let Some(agreed) = &mut agreed {
            agreed.restored = group.ifindex();
        }
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
