//! The socket that every link has: of the kernel's network, or of a `sim` link.

use std::os::fd::BorrowedFd;

use florelay_engine::port::Ecn;

use super::sim::SimLink;
use super::udp::UdpLink;
use crate::plan::Rung;

/// See the module.
pub(crate) enum SocketLink {
    /// The socket rung; on the AF_XDP rungs it holds the port.
    Udp(UdpLink),
    /// An impaired link between two nodes of one machine.
    Sim(Box<SimLink>),
}

impl SocketLink {
    /// Where a link without AF_XDP stands.
    pub(crate) fn rung(&self) -> Rung {
        match self {
            Self::Udp(_) => Rung::Socket,
            Self::Sim(_) => Rung::Sim,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(udp) => udp.fd(),
            Self::Sim(sim) => sim.fd(),
        }
    }

    /// Datagrams that `send` can take.
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Udp(udp) if udp.is_blocked() => 0,
            Self::Udp(_) => usize::MAX,
            Self::Sim(sim) => sim.room(),
        }
    }

    /// `poll` will say when there is room again. A `sim` link knows by its clock.
    pub(crate) fn waits_for_room(&self) -> bool {
        match self {
            Self::Udp(udp) => udp.is_blocked(),
            Self::Sim(_) => false,
        }
    }

    /// Bytes that were sent and have not left this process's hands as far as the scheduler is concerned.
    pub(crate) fn pending_bytes(&self) -> usize {
        match self {
            Self::Udp(udp) => udp.pending_bytes(),
            Self::Sim(sim) => sim.pending_bytes(),
        }
    }

    /// A contact begins, or the last one is over: nothing that waits may leave then. What a `sim` link has taken is on its
    /// way already.
    pub(crate) fn set_open(&mut self, open: bool) {
        match self {
            Self::Udp(udp) => udp.set_open(open),
            Self::Sim(_) => {}
        }
    }

    /// Take a datagram; it leaves at `flush` at the latest. `false`: not taken.
    pub(crate) fn send(&mut self, datagram: &[u8], ecn: Ecn) -> bool {
        match self {
            Self::Udp(udp) => udp.send(datagram, ecn),
            Self::Sim(sim) => sim.send(datagram, ecn),
        }
    }

    /// Hand to the kernel, or to the link's delay, what was sent, and to the kernel what is due.
    pub(crate) fn flush(&mut self, now_ns: u64) {
        match self {
            Self::Udp(udp) => udp.flush(),
            Self::Sim(sim) => sim.flush(now_ns),
        }
    }

    /// When `flush` has something to do without anything being sent.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        match self {
            Self::Udp(_) => None,
            Self::Sim(sim) => sim.deadline_ns(),
        }
    }

    /// Take what has arrived. Returns how many datagrams.
    pub(crate) fn receive(&mut self, each: impl FnMut(&[u8], Ecn)) -> usize {
        match self {
            Self::Udp(udp) => udp.receive(each),
            Self::Sim(sim) => sim.receive(each),
        }
    }

    pub(crate) fn syscalls(&self) -> u64 {
        match self {
            Self::Udp(udp) => udp.counters.syscalls,
            Self::Sim(sim) => sim.syscalls(),
        }
    }

    /// Its counters, as `status` shows them.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Udp(udp) => vec![
                ("socket_send_dropped", udp.counters.send_dropped),
                ("socket_send_blocked", udp.counters.send_blocked),
                ("socket_foreign", udp.counters.foreign),
            ],
            Self::Sim(sim) => sim.counters(),
        }
    }
}
