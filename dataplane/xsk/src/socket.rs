//! A socket: one queue of one interface, bound to a UMEM, with its four rings.
//!
//! Owner: the worker that owns the UMEM. The XDP program is attached before the bind (by the caller, with aya) and the
//! socket is put in its XSKMAP after it, by [`Socket::fd`]; libxdp's own program is never loaded.
//!
//! Sharing a UMEM: the first socket decides zero-copy or copy, need-wakeup included; a later one is bound with
//! XDP_SHARED_UMEM, which carries no mode flags, and inherits both. Asking for another mode is refused here, because
//! the kernel would not say so. The first socket also is the one through which the kernel shares: close it last, or
//! close all and open again.
//!
//! Closing: dropping a socket unbinds it at once and quarantines the frames that the kernel had; opening the same queue
//! again gives them back. [`Socket::open`] waits for a queue that the kernel has not released yet (EBUSY), for at most
//! [`BIND_PATIENCE`].

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue};

use crate::error::Error;
use crate::region::Region;
use crate::ring::{CompletionRing, FillRing, RxRing, TxMapping, TxRing};
use crate::stats::XdpStatistics;
use crate::sys;
use crate::umem::Umem;

/// How long [`Socket::open`] tries again while the kernel answers EBUSY. The queue of a closed socket is released in
/// deferred work (xp_put_pool, net/xdp/xsk_buff_pool.c); a driver reset takes up to 400 ms (igb).
pub const BIND_PATIENCE: Duration = Duration::from_millis(1000);

/// Pause between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// Frames that one `sendto` may carry in copy mode, where the kernel lets us choose (6.17). It is also the ring's
/// smallest size times four: an upper bound of about 0.3 ms in the kernel.
const TX_BUDGET_FRAMES: u32 = 256;

/// Bytes asked of SO_SNDBUF in copy mode: each frame in flight is charged its skb, about 2.3 KB with the 212992-byte
/// default (net/core/sock.c) that is 92 frames. The kernel clamps to net.core.wmem_max.
const COPY_SNDBUF_BYTES: i32 = 8 << 20;

/// How a socket is bound; never "auto", so that nobody has to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BindMode {
    /// XDP_ZEROCOPY: the device reads and writes the UMEM.
    ZeroCopy,
    /// XDP_COPY: the kernel copies between UMEM and skb.
    Copy,
}

impl fmt::Display for BindMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy mode",
        })
    }
}

/// Where and how to bind. Ring sizes are the UMEM's ([`RingSizes`](crate::RingSizes)).
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Interface name in the calling thread's network namespace.
    pub interface: String,
    /// Queue, from 0.
    pub queue: u32,
    /// Zero-copy or copy.
    pub mode: BindMode,
}

/// A bound AF_XDP socket.
#[derive(Debug)]
pub struct Socket {
    rx: RxRing,
    tx: TxRing,
    fill: FillRing,
    completion: CompletionRing,
    options: OpenOptions,
}

/// The four rings of a socket, to be used at the same time.
#[derive(Debug)]
pub struct Rings<'a> {
    /// Received frames.
    pub rx: &'a mut RxRing,
    /// Frames to send.
    pub tx: &'a mut TxRing,
    /// Empty frames to receive into.
    pub fill: &'a mut FillRing,
    /// Sent frames.
    pub completion: &'a mut CompletionRing,
}

impl Socket {
    /// Bind. The fill ring is empty afterwards: call [`FillRing::refill`] before expecting frames.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] with the kernel's errno: EOPNOTSUPP (the driver has no zero-copy), EINVAL, EBUSY (queue taken),
    /// EPERM (CAP_NET_RAW), ENODEV; or one of the conflicts that this crate sees itself.
    pub fn open(umem: &mut Umem, options: OpenOptions) -> Result<Self, Error> {
        umem.collect_closed();
        let slot = umem.claim_slot(&options.interface, options.queue)?;
        let inherited = umem.owner_mode()?;
        if let Some(owner) = inherited.filter(|owner| *owner != options.mode) {
            return Err(Error::ModeConflict { owner, asked: options.mode });
        }
        let anchor = inherited.is_none();
        let queues = bind_patiently(umem, &options, anchor)?;
        let fd = queues.tx.fd().as_raw_fd();
        // From here on a failure drops the queues and then the lease, which frees the queue of the device.
        let Queues { rx, tx, fill, completion } = queues;
        let lease = Arc::new(Lease { region: umem.region(), slot, fd, anchor });
        if anchor {
            umem.region().set_anchor(fd);
        }
        umem.opened(slot, anchor.then_some(options.mode));

        // SAFETY: `tx` keeps the descriptor open until the end of this function.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let made = Self::check_and_map(umem, &options, borrowed);
        let mapping = match made {
            Ok(mapping) => mapping,
            Err(error) => {
                drop((rx, tx, fill, completion));
                drop(lease);
                umem.collect_closed();
                return Err(error);
            }
        };
        let copy_mode = options.mode == BindMode::Copy;
        if copy_mode {
            prepare_copy_mode(borrowed, umem.options().rings.tx);
        }
        tracing::info!(interface = %options.interface, queue = options.queue, mode = %options.mode, "AF_XDP socket bound");
        Ok(Self {
            rx: RxRing::new(rx, Arc::clone(&lease)),
            tx: TxRing::new(tx, mapping, Arc::clone(&lease), copy_mode),
            fill: FillRing::new(fill, Arc::clone(&lease)),
            completion: CompletionRing::new(completion, lease),
            options,
        })
    }

    /// Ask the kernel what it really bound, keep the descriptor from children, and find the TX ring.
    fn check_and_map(umem: &Umem, options: &OpenOptions, fd: BorrowedFd<'_>) -> Result<TxMapping, Error> {
        let (interface, queue) = (options.interface.clone(), options.queue);
        // libxdp makes its sockets without SOCK_CLOEXEC; a child process would keep the queue bound.
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| Error::sys("fcntl(FD_CLOEXEC)")(e.into()))?;
        let zero_copy = sys::is_zero_copy(fd).map_err(Error::sys("getsockopt(XDP_OPTIONS)"))?;
        let got = if zero_copy { BindMode::ZeroCopy } else { BindMode::Copy };
        if got != options.mode {
            return Err(Error::ModeNotGiven { interface, queue, asked: options.mode, got });
        }
        let offsets = sys::tx_offsets(fd).map_err(Error::sys("getsockopt(XDP_MMAP_OFFSETS)"))?;
        let range = sys::find_tx_ring(fd).map_err(Error::sys("reading /proc/self/maps"))?;
        range
            .and_then(|range| TxMapping::new(range, offsets, umem.options().rings.tx))
            .ok_or(Error::TxRingNotMapped { interface, queue })
    }

    /// Unbind, and quarantine what the kernel had. The same as dropping the socket followed by
    /// [`Umem::housekeeping`]'s collection, in one call.
    pub fn close(self, umem: &mut Umem) {
        drop(self);
        umem.collect_closed();
    }

    /// The descriptor: to be put in the XSKMAP at this queue's index, and to be polled.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// All four rings at once.
    pub fn rings(&mut self) -> Rings<'_> {
        Rings { rx: &mut self.rx, tx: &mut self.tx, fill: &mut self.fill, completion: &mut self.completion }
    }

    /// Received frames.
    pub fn rx(&mut self) -> &mut RxRing {
        &mut self.rx
    }

    /// Frames to send.
    pub fn tx(&mut self) -> &mut TxRing {
        &mut self.tx
    }

    /// Empty frames to receive into.
    pub fn fill(&mut self) -> &mut FillRing {
        &mut self.fill
    }

    /// Sent frames.
    pub fn completion(&mut self) -> &mut CompletionRing {
        &mut self.completion
    }

    /// Interface, queue and mode.
    #[must_use]
    pub fn options(&self) -> &OpenOptions {
        &self.options
    }

    /// How the kernel says it is bound: XDP_OPTIONS, asked again.
    ///
    /// # Errors
    ///
    /// The kernel's answer to getsockopt.
    pub fn bound_mode(&self) -> io::Result<BindMode> {
        Ok(if sys::is_zero_copy(self.fd())? { BindMode::ZeroCopy } else { BindMode::Copy })
    }

    /// What the kernel dropped, and why.
    ///
    /// # Errors
    ///
    /// The kernel's answer to getsockopt.
    pub fn statistics(&self) -> io::Result<XdpStatistics> {
        sys::statistics(self.fd())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tx.fd()
    }
}

/// The right to a slot of the UMEM, held by each of a socket's four rings; giving it up reports the slot as closed.
///
/// In the rings and not in the [`Socket`], because `&mut` access to a ring is enough to swap it out of its socket: what
/// the kernel has may be quarantined only when the last ring is gone, wherever it is. One reference count per socket,
/// touched on open and close.
#[derive(Debug)]
pub(crate) struct Lease {
    region: &'static Region,
    slot: u8,
    fd: RawFd,
    /// This socket's descriptor is the one that libxdp keeps for the UMEM.
    anchor: bool,
}

impl Lease {
    /// The UMEM's memory.
    pub(crate) fn region(&self) -> &'static Region {
        self.region
    }

    /// The socket's number in its UMEM.
    pub(crate) fn slot(&self) -> u8 {
        self.slot
    }

    /// The socket's descriptor.
    ///
    /// # Safety
    ///
    /// The caller owns an xsk-rs queue of this socket, which keeps the descriptor open, for as long as the borrow lives.
    pub(crate) unsafe fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the caller's promise.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.anchor {
            // libxdp does not close the descriptor of a UMEM's first socket, which would leave the queue bound and the
            // kernel receiving into our frames. Putting an unbound socket in its place closes it; an AF_XDP one, since
            // libxdp asks this descriptor for ring offsets when it unmaps the rings of the other sockets.
            let replaced = sys::xdp_socket().and_then(|fresh| sys::replace_descriptor(&fresh, self.fd));
            if let Err(error) = replaced {
                tracing::error!(%error, "cannot release the descriptor of a UMEM's first socket; its queue stays bound");
            }
        }
        self.region.note_closed(self.slot);
    }
}

struct Queues {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

/// Bind, trying again while the kernel has not released the queue.
fn bind_patiently(umem: &mut Umem, options: &OpenOptions, first: bool) -> Result<Queues, Error> {
    let began = Instant::now();
    loop {
        if first {
            umem.renew_anchor()?;
        }
        match bind(umem, options) {
            Err(Error::Bind { source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) && began.elapsed() < BIND_PATIENCE =>
            {
                thread::sleep(BIND_PAUSE);
            }
            bound => return bound,
        }
    }
}

fn bind(umem: &Umem, options: &OpenOptions) -> Result<Queues, Error> {
    let bad_name = || Error::InterfaceName(options.interface.clone());
    if options.interface.is_empty() || options.interface.len() >= libc::IFNAMSIZ {
        return Err(bad_name());
    }
    let interface: Interface = options.interface.parse().map_err(|_| bad_name())?;
    let rings = umem.options().rings;
    let size =
        |n| QueueSize::new(n).map_err(|_| Error::BadSize { what: "ring", value: n.into(), must: "a power of two" });
    let mode = match options.mode {
        BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
        BindMode::Copy => BindFlags::XDP_COPY,
    };
    let config = SocketConfig::builder()
        .rx_queue_size(size(rings.rx)?)
        .tx_queue_size(size(rings.tx)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    // SAFETY: INHIBIT_PROG_LOAD is set, which is what xsk-rs asks for.
    let made = unsafe { xsk_rs::Socket::new(config, umem.xsk(), &interface, options.queue) };
    let (tx, rx, rings) = made.map_err(|error| Error::Bind {
        interface: options.interface.clone(),
        queue: options.queue,
        mode: options.mode,
        source: errno_of(&error),
    })?;
    let (fill, completion) =
        rings.ok_or(Error::AlreadyOpen { interface: options.interface.clone(), queue: options.queue })?;
    Ok(Queues { rx, tx, fill, completion })
}

/// The kernel's errno inside xsk-rs's error.
fn errno_of(error: &xsk_rs::socket::SocketCreateError) -> io::Error {
    let code = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Options that only help; refusal is normal on older kernels.
fn prepare_copy_mode(fd: BorrowedFd<'_>, tx_ring: u32) {
    if let Err(error) = sys::set_tx_budget(fd, TX_BUDGET_FRAMES.min(tx_ring)) {
        tracing::debug!(%error, "XDP_MAX_TX_SKB_BUDGET not set: 32 frames a kick");
    }
    if let Err(error) = sys::set_socket_int(fd, libc::SO_SNDBUF, COPY_SNDBUF_BYTES) {
        tracing::debug!(%error, "SO_SNDBUF not raised");
    }
}
