//! The socket rung: a link over one UDP socket. Needs no privileges. Batches with segmentation offload (GSO) on
//! send and GRO on receive where the kernel has them, through quinn-udp, which knows the kernels' differences.
//!
//! On an `xdp` link the same socket *holds the port*: nothing else can bind it, ICMP makes sense, next-hop
//! resolution can be provoked through it, and a frame that XDP passes up while no AF_XDP socket is bound still arrives.
//!
//! A train that the kernel has no room for stays here and blocks the link: the scheduler above waits, nothing is lost.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use florelay_engine::port::Ecn;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;

/// Socket buffers in bytes: a burst of a large window must not be dropped between two polls of a worker.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// One receive call takes at most this many messages (recvmmsg) …
const RECEIVE_BATCH: usize = 8;
/// … each up to a whole GRO train.
const RECEIVE_BYTES: usize = 65_535;
/// A GSO train holds at most this many bytes (UDP length field).
const TRAIN_BYTES: usize = 65_000;

/// What a UDP link counts.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct UdpCounters {
    pub(crate) syscalls: u64,
    /// Datagrams the kernel refused by an error; QUIC repairs them.
    pub(crate) send_dropped: u64,
    /// Times the kernel had no buffer for a train.
    pub(crate) send_blocked: u64,
    /// Datagrams from an address that is not the neighbour's.
    pub(crate) foreign: u64,
}

/// A UDP socket to one neighbour.
pub(crate) struct UdpLink {
    socket: UdpSocket,
    state: UdpSocketState,
    remote: SocketAddr,
    train: Vec<u8>,
    segment: usize,
    segments: usize,
    /// The last segment was shorter: nothing may follow it in this train.
    closed: bool,
    ecn: Ecn,
    /// The kernel has no room for the train; it is tried again at each `flush`.
    blocked: bool,
    /// The link is in contact, or has no contact plan; shared with whoever else sends by the socket.
    open: Arc<AtomicBool>,
    buffers: Vec<Box<[u8]>>,
    pub(crate) counters: UdpCounters,
}

impl UdpLink {
    /// Over a socket that is bound to the link's address. quinn-udp binds sockets of its own here, once, to find out what the
    /// kernel can do: after the system call filter it would find nothing and send single datagrams.
    pub(crate) fn new(socket: UdpSocket, remote: SocketAddr) -> io::Result<Self> {
        // The kernel grants what rmem_max allows; less is no error.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self {
            socket,
            state,
            remote,
            train: Vec::with_capacity(TRAIN_BYTES),
            segment: 0,
            segments: 0,
            closed: false,
            ecn: Ecn::NotEct,
            blocked: false,
            open: Arc::new(AtomicBool::new(true)),
            buffers: (0..RECEIVE_BATCH).map(|_| vec![0; RECEIVE_BYTES].into()).collect(),
            counters: UdpCounters::default(),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The kernel has no room for what waits.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Bytes of the train.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.train.len()
    }

    /// What makes the kernel look for the neighbour, for use on another thread.
    pub(crate) fn prober(&self) -> io::Result<Prober> {
        Ok(Prober { socket: self.socket.try_clone()?, remote: self.remote, open: self.open.clone() })
    }

    /// Append a datagram to the train; the train leaves when it is full, or at `flush`. `false`: the link is blocked,
    /// the datagram was not taken.
    pub(crate) fn send(&mut self, datagram: &[u8], ecn: Ecn) -> bool {
        let fits = self.segments > 0
            && !self.closed
            && ecn == self.ecn
            && datagram.len() <= self.segment
            && self.train.len() + datagram.len() <= TRAIN_BYTES
            && self.segments < self.state.max_gso_segments();
        if !fits {
            self.flush();
            if self.blocked {
                return false;
            }
            self.segment = datagram.len();
            self.ecn = ecn;
            self.closed = false;
        }
        self.closed = datagram.len() < self.segment;
        self.train.extend_from_slice(datagram);
        self.segments += 1;
        true
    }

    /// A contact begins or is over. Then a train that the kernel had no room for may not leave any more: it is dropped and
    /// counted, and QUIC repairs it.
    pub(crate) fn set_open(&mut self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
        if !open {
            self.counters.send_dropped += self.segments as u64;
            self.train.clear();
            (self.segments, self.blocked) = (0, false);
        }
    }

    /// Hand the train to the kernel.
    pub(crate) fn flush(&mut self) {
        if self.segments == 0 {
            return;
        }
        let transmit = Transmit {
            destination: self.remote,
            ecn: EcnCodepoint::from_bits(self.ecn.bits()),
            contents: &self.train,
            segment_size: (self.segments > 1).then_some(self.segment),
            src_ip: None,
        };
        self.counters.syscalls += 1;
        match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.counters.send_blocked += u64::from(!self.blocked);
                self.blocked = true;
                return;
            }
            Err(error) => {
                self.counters.send_dropped += self.segments as u64;
                tracing::debug!(remote = %self.remote, %error, "datagrams not sent");
            }
            Ok(()) => {}
        }
        self.blocked = false;
        self.train.clear();
        self.segments = 0;
    }

    /// Take what has arrived: `each` gets every datagram of the neighbour. Returns how many.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&[u8], Ecn)) -> usize {
        let mut metas = [RecvMeta::default(); RECEIVE_BATCH];
        let mut slices = self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer));
        let mut slices: [IoSliceMut<'_>; RECEIVE_BATCH] =
            std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        self.counters.syscalls += 1;
        let messages = match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas) {
            Ok(messages) => messages,
            Err(error) => {
                // ECONNREFUSED and the like report an ICMP answer to an earlier send; liveness says what it means.
                if error.kind() != ErrorKind::WouldBlock {
                    tracing::debug!(remote = %self.remote, %error, "receive");
                }
                return 0;
            }
        };
        let mut count = 0;
        for (meta, buffer) in metas.iter().zip(&slices).take(messages) {
            if meta.addr.ip() != self.remote.ip() || meta.addr.port() != self.remote.port() {
                self.counters.foreign += 1;
                continue;
            }
            let ecn = meta.ecn.map_or(Ecn::NotEct, |ecn| Ecn::from_bits(ecn as u8));
            for datagram in segments(buffer, meta.len, meta.stride) {
                each(datagram, ecn);
                count += 1;
            }
        }
        count
    }
}

/// The datagrams of a GRO train: `len` bytes of `buffer`, cut every `stride` bytes. The kernel's two numbers are not
/// believed beyond the buffer: of what is not in it there is nothing to hand on.
pub(crate) fn segments(buffer: &[u8], len: usize, stride: usize) -> impl Iterator<Item = &[u8]> {
    buffer[..len.min(buffer.len())].chunks(stride.max(1))
}

/// A second handle of a link's socket that only provokes next-hop resolution.
#[derive(Debug)]
pub(crate) struct Prober {
    socket: UdpSocket,
    remote: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Prober {
    /// Make the kernel resolve the neighbour's address: an empty datagram, which the other side counts as too short.
    /// Not outside a contact: it would be a frame on the link.
    pub(crate) fn provoke(&self) {
        if !self.open.load(Ordering::Relaxed) {
            return;
        }
        let _ = self.socket.send_to(&[], self.remote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpLink, UdpLink) {
        let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
        (UdpLink::new(a, at_b).unwrap(), UdpLink::new(b, at_a).unwrap())
    }

    fn collect(link: &mut UdpLink, want: usize) -> Vec<(Vec<u8>, Ecn)> {
        let mut seen = Vec::new();
        while seen.len() < want {
            let mut fds = [rustix::event::PollFd::new(&link.socket, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1, "only {} datagrams came", seen.len());
            link.receive(|datagram, ecn| seen.push((datagram.to_vec(), ecn)));
        }
        seen
    }

    #[test]
    fn trains_keep_boundaries_order_and_ecn() {
        let (mut a, mut b) = pair();
        let mut sent = Vec::new();
        for (index, size) in [1000, 1000, 1000, 400, 1000, 1200, 1200, 1].into_iter().enumerate() {
            let ecn = if index < 5 { Ecn::Ect0 } else { Ecn::NotEct };
            let datagram = vec![index as u8; size];
            a.send(&datagram, ecn);
            sent.push((datagram, ecn));
        }
        a.flush();
        assert_eq!(collect(&mut b, sent.len()), sent);
    }

    #[test]
    fn other_senders_are_counted_and_dropped() {
        let (mut a, mut b) = pair();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"x", a.remote).unwrap();
        a.send(b"y", Ecn::NotEct);
        a.flush();
        assert_eq!(collect(&mut b, 1), [(b"y".to_vec(), Ecn::NotEct)]);
        assert_eq!(b.counters.foreign, 1);
    }
}
