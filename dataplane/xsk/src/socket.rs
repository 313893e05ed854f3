//! A socket: one queue of one interface, bound to a UMEM, with its four rings.
//!
//! Owner: the worker that owns the UMEM. The XDP program is attached before the bind (by the caller, with aya) and the
//! socket is put in its XSKMAP after it, by [`Socket::fd`].
//!
//! ```text
//!   socket(AF_XDP) ─► memory (first socket only) ─► ring sizes ─► map the rings ─► fill ─► bind ─► which mode?
//! ```
//!
//! Filling comes before the bind, because a driver takes its buffers when it sets a queue up, and some never look again:
//! igb on 6.18 stays deaf for good if the fill ring was empty then.
//!
//! Sharing a UMEM: the first socket decides zero-copy or copy, need-wakeup included; a later one is bound with
//! XDP_SHARED_UMEM through any that is still bound, carries no mode flags, and inherits both. Asking for another mode is
//! refused here, because the kernel would not say so. Sockets may be closed in any order.
//!
//! Closing: dropping a socket unbinds it at once and quarantines the frames that the kernel had; opening the same queue
//! again gives them back. [`Socket::open`] waits for a queue that the kernel has not released yet (EBUSY), for at most
//! [`BIND_PATIENCE`].

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::region::Region;
use crate::ring::{CompletionRing, Consumer, Desc, FillRing, Producer, RxRing, TxRing};
use crate::stats::XdpStatistics;
use crate::sys::{self, RingKind};
use crate::umem::{RingSizes, Umem};
use crate::unbound::{self, Binding, Deputy};

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

/// Frames that [`OpenOptions::new`] asks to be put in the fill ring: half of what the default [`RingSizes`] hold there.
pub const DEFAULT_FILL_FRAMES: u32 = 2048;

/// Where and how to bind. Ring sizes are the UMEM's ([`RingSizes`](crate::RingSizes)).
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Interface name in the calling thread's network namespace.
    pub interface: String,
    /// Queue, from 0.
    pub queue: u32,
    /// Zero-copy or copy.
    pub mode: BindMode,
    /// Frames for the kernel to receive into, put in the fill ring before the bind; fewer if the ring or the pool has
    /// fewer. With 0 some drivers never receive anything, see the module's description.
    pub fill: u32,
}

impl OpenOptions {
    /// With [`DEFAULT_FILL_FRAMES`].
    #[must_use]
    pub fn new(interface: impl Into<String>, queue: u32, mode: BindMode) -> Self {
        Self { interface: interface.into(), queue, mode, fill: DEFAULT_FILL_FRAMES }
    }
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
    /// Make a socket, fill its fill ring, and bind it. Needs CAP_NET_RAW.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] with the kernel's errno: EOPNOTSUPP (the driver has no zero-copy), EINVAL, EBUSY (queue taken),
    /// ENODEV; [`Error::Sys`], EPERM without CAP_NET_RAW; [`Error::Umem`]; or one of the conflicts that this crate sees
    /// itself. What the kernel has not taken of the fill ring is in the pool again, the rest in quarantine.
    pub fn open(umem: &mut Umem, options: OpenOptions) -> Result<Self, Error> {
        Self::adopt(umem, options, unbound::create()?)
    }

    /// The same with a socket made elsewhere, by whoever has CAP_NET_RAW: a fresh AF_XDP one, of the calling thread's
    /// network namespace. Nothing else here needs that capability.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`Error::Sys`] if it is no AF_XDP socket (ENOPROTOOPT) or not a fresh one.
    pub fn adopt(umem: &mut Umem, options: OpenOptions, fd: OwnedFd) -> Result<Self, Error> {
        Self::adopt_with(umem, options, fd, &mut unbound::Direct)
    }

    /// The same with a deputy, who registers and binds where that is allowed. A bind is tried again while the answer is
    /// EBUSY, for at most [`BIND_PATIENCE`], and without a lender for whom it was EBADF.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Self::adopt); [`Error::Umem`] and [`Error::Bind`] hold what the deputy answers.
    pub fn adopt_with(
        umem: &mut Umem,
        options: OpenOptions,
        fd: OwnedFd,
        deputy: &mut dyn Deputy,
    ) -> Result<Self, Error> {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| Error::sys("fcntl(FD_CLOEXEC)")(e.into()))?;
        umem.check_namespace(fd.as_fd())?;
        umem.collect_closed();
        let slot = umem.claim_slot(&options.interface, options.queue)?;
        if let Some(owner) = umem.mode().filter(|owner| *owner != options.mode) {
            return Err(Error::ModeConflict { owner, asked: options.mode });
        }
        check_interface(&options)?;
        let Queues { rx, tx, fill, completion } = Queues::map(fd.as_fd(), umem.options().rings)?;
        let lenders = umem.lenders();
        let lease = Arc::new(Lease { fd, report: Report { region: umem.region(), slot } });
        umem.opening(slot, &lease);
        let mut fill = FillRing::new(fill, Arc::clone(&lease));
        let filled = fill.refill(umem, options.fill as usize);

        let mut bound = bind_patiently(umem, &options, lease.fd(), lenders, deputy);
        if bound.is_err() {
            fill.take_back(umem);
        } else {
            bound = check_mode(&options, lease.fd());
        }
        if let Err(error) = bound {
            // The last ring unmapped and the descriptor closed: only then is the device's queue free again.
            drop((rx, tx, fill, completion, lease));
            umem.collect_closed();
            return Err(error);
        }
        umem.bound(slot, options.mode);
        // Frames of this queue's last socket may have been all there were.
        fill.refill(umem, (options.fill as usize).saturating_sub(filled));
        let copy_mode = options.mode == BindMode::Copy;
        if copy_mode {
            prepare_copy_mode(lease.fd(), umem.options().rings.tx);
        }
        tracing::info!(interface = %options.interface, queue = options.queue, mode = %options.mode, "AF_XDP socket bound");
        Ok(Self {
            rx: RxRing::new(rx, Arc::clone(&lease)),
            tx: TxRing::new(tx, Arc::clone(&lease), copy_mode),
            fill,
            completion: CompletionRing::new(completion, lease),
            options,
        })
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

/// The descriptor and the right to a slot of the UMEM, held by each of a socket's four rings; giving it up closes the
/// one and reports the other.
///
/// In the rings and not in the [`Socket`], because `&mut` access to a ring is enough to swap it out of its socket: what
/// the kernel has may be quarantined only when the last ring is gone, wherever it is. One reference count per socket,
/// touched on open and close.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Closed before the report is made.
    fd: OwnedFd,
    report: Report,
}

impl Lease {
    /// The UMEM's memory.
    pub(crate) fn region(&self) -> &'static Region {
        self.report.region
    }

    /// The socket's number in its UMEM.
    pub(crate) fn slot(&self) -> u8 {
        self.report.slot
    }

    /// The socket's descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Tells the UMEM that a socket has gone.
#[derive(Debug)]
struct Report {
    region: &'static Region,
    slot: u8,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.region.note_closed(self.slot);
    }
}

/// Four mapped rings without owners.
struct Queues {
    rx: Consumer<Desc>,
    tx: Producer<Desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
}

impl Queues {
    /// Set the sizes of a fresh socket's rings and map them. A socket that shares a UMEM has its own fill and completion
    /// rings too, because it serves another queue.
    fn map(fd: BorrowedFd<'_>, sizes: RingSizes) -> Result<Self, Error> {
        use RingKind::{Completion, Fill, Rx, Tx};
        for (kind, size) in [(Fill, sizes.fill()), (Completion, sizes.tx), (Rx, sizes.rx), (Tx, sizes.tx)] {
            sys::set_ring_size(fd, kind, size).map_err(Error::sys(format!("size of the {kind:?} ring")))?;
        }
        let at = sys::offsets(fd).map_err(Error::sys("getsockopt(XDP_MMAP_OFFSETS)"))?;
        Ok(Self {
            rx: Consumer::map(fd, Rx, at.rx, sizes.rx).map_err(Error::sys("mapping the RX ring"))?,
            tx: Producer::map(fd, Tx, at.tx, sizes.tx).map_err(Error::sys("mapping the TX ring"))?,
            fill: Producer::map(fd, Fill, at.fill, sizes.fill()).map_err(Error::sys("mapping the fill ring"))?,
            completion: Consumer::map(fd, Completion, at.completion, sizes.tx)
                .map_err(Error::sys("mapping the completion ring"))?,
        })
    }
}

/// Whether the calling thread's namespace has the interface.
fn check_interface(options: &OpenOptions) -> Result<(), Error> {
    let name = &options.interface;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(Error::InterfaceName(name.clone()));
    }
    sys::interface_index(name).map(drop).map_err(|source| refused(options, source))
}

/// Bind, trying again while the kernel has not released the queue. The memory comes from a lender that is still bound
/// (one whose interface was deleted is not: EBADF), or is registered anew if there is none.
fn bind_patiently(
    umem: &Umem,
    options: &OpenOptions,
    fd: BorrowedFd<'_>,
    mut lenders: Vec<Arc<Lease>>,
    deputy: &mut dyn Deputy,
) -> Result<(), Error> {
    let began = Instant::now();
    if lenders.is_empty() {
        umem.register(fd, deputy)?;
    }
    loop {
        let lender = lenders.last().map(|lender| lender.fd());
        let to = Binding { interface: &options.interface, queue: options.queue, mode: options.mode, lender };
        let Err(source) = deputy.bind(fd, &to) else { return Ok(()) };
        match source.raw_os_error() {
            Some(libc::EBADF) if lenders.pop().is_some() => {
                if lenders.is_empty() {
                    umem.register(fd, deputy)?;
                }
            }
            Some(libc::EBUSY) if began.elapsed() < BIND_PATIENCE => thread::sleep(BIND_PAUSE),
            _ => return Err(refused(options, source)),
        }
    }
}

fn refused(options: &OpenOptions, source: io::Error) -> Error {
    Error::Bind { interface: options.interface.clone(), queue: options.queue, mode: options.mode, source }
}

/// Ask the kernel what it really bound.
fn check_mode(options: &OpenOptions, fd: BorrowedFd<'_>) -> Result<(), Error> {
    let zero_copy = sys::is_zero_copy(fd).map_err(Error::sys("getsockopt(XDP_OPTIONS)"))?;
    let got = if zero_copy { BindMode::ZeroCopy } else { BindMode::Copy };
    if got == options.mode {
        return Ok(());
    }
    let (interface, queue) = (options.interface.clone(), options.queue);
    Err(Error::ModeNotGiven { interface, queue, asked: options.mode, got })
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
