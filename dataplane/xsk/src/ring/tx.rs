//! The TX ring, beside xsk-rs.
//!
//! xsk-rs's `TxQueue::produce` takes `FrameDesc`s, and a `FrameDesc` cannot be made with an address of our own: a
//! frame whose window was moved by [`Frame::push_front`] (a pushed label, another outer header) could only be sent
//! after moving its bytes back, up to 4 KB a frame. So this crate writes the descriptors itself, into the mapping that
//! xsk-rs made; the `TxQueue` is kept because it owns that mapping. It also saves two calls across FFI per frame.
//!
//! ```text
//!   consumer (kernel)          producer (published)        next (ours)
//!        │  pending: kernel has not taken │   written, unpublished  │   room
//! ```
//!
//! Invariants: `next - consumer <= size`; descriptors from consumer to next are frames in state tx; indices are u32 and
//! wrap, differences are taken modulo 2^32.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xsk_rs::TxQueue;

use crate::frame::Frame;
use crate::kick::{DOWN_RETRY_NS, KICK_ROUNDS, KickInput, KickPolicy, RETRY_NS};
use crate::socket::Lease;
use crate::stats::{KickCounters, TxCounters};
use crate::sys::{self, RingOffsets};
use crate::umem::Umem;

/// XDP_RING_NEED_WAKEUP, linux/if_xdp.h.
const RING_NEED_WAKEUP: u32 = 1;

/// Shortest frame, in bytes: an Ethernet header (ETH_HLEN, linux/if_ether.h).
const MIN_FRAME_BYTES: usize = 14;

/// struct xdp_desc, linux/if_xdp.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Desc {
    addr: u64,
    len: u32,
    options: u32,
}

/// Where the TX ring of a socket is mapped; valid while the socket's `TxQueue` lives.
#[derive(Debug)]
pub(crate) struct TxMapping {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    descs: NonNull<Desc>,
    size: u32,
}

impl TxMapping {
    /// From the range that /proc/self/maps shows; `None` if the ring does not fit in it.
    pub(crate) fn new(range: (usize, usize), offsets: RingOffsets, size: u32) -> Option<Self> {
        let (from, to) = range;
        let end = offsets.desc.checked_add(size as usize * size_of::<Desc>())?;
        let indices = [offsets.producer, offsets.consumer, offsets.flags];
        let inside = indices.iter().all(|at| at % align_of::<AtomicU32>() == 0 && *at + 4 <= to - from);
        if !inside || end > to - from || !offsets.desc.is_multiple_of(align_of::<Desc>()) {
            return None;
        }
        let at = |offset: usize| std::ptr::with_exposed_provenance_mut::<u8>(from + offset);
        Some(Self {
            producer: NonNull::new(at(offsets.producer).cast())?,
            consumer: NonNull::new(at(offsets.consumer).cast())?,
            flags: NonNull::new(at(offsets.flags).cast())?,
            descs: NonNull::new(at(offsets.desc).cast())?,
            size,
        })
    }
}

/// Why a frame was not taken; the frame comes back.
#[derive(Debug)]
pub enum SendError {
    /// No room on the ring: kick, reap completions, try again.
    Full(Frame),
    /// Shorter than an Ethernet header.
    TooShort(Frame),
    /// The frame, or this ring, belongs to another UMEM.
    Foreign(Frame),
}

impl SendError {
    /// The frame that was not taken.
    pub fn into_frame(self) -> Frame {
        match self {
            Self::Full(frame) | Self::TooShort(frame) | Self::Foreign(frame) => frame,
        }
    }
}

/// What [`TxRing::kick`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// No system call: nothing to do, or not due yet.
    NotDue,
    /// The kernel was called and has taken everything.
    Done,
    /// The kernel was called and left frames on the ring; a later call goes on.
    Unfinished,
}

/// Hands frames to the kernel to send.
#[derive(Debug)]
pub struct TxRing {
    ring: TxMapping,
    next: u32,
    cached_consumer: u32,
    policy: KickPolicy,
    copy_mode: bool,
    kicks: KickCounters,
    counters: TxCounters,
    /// Owns the mapping that `ring` points into.
    _queue: TxQueue,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

// SAFETY: the pointers lead into a mapping that `_queue` (itself Send) keeps alive; only this value writes through
// them in this process.
unsafe impl Send for TxRing {}

impl TxRing {
    pub(crate) fn new(queue: TxQueue, ring: TxMapping, lease: Arc<Lease>, copy_mode: bool) -> Self {
        let mut tx = Self {
            ring,
            next: 0,
            cached_consumer: 0,
            policy: KickPolicy::default(),
            copy_mode,
            kicks: KickCounters::default(),
            counters: TxCounters::default(),
            _queue: queue,
            lease,
        };
        tx.next = tx.producer().load(Ordering::Relaxed);
        tx.cached_consumer = tx.consumer().load(Ordering::Acquire);
        tx
    }

    /// Put one frame on the ring. The kernel sees it at the next [`publish`](Self::publish) or [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// The frame comes back with the reason.
    pub fn send(&mut self, umem: &mut Umem, frame: Frame) -> Result<(), SendError> {
        if !umem.serves(self.lease.region()) || !umem.owns(&frame) {
            return Err(SendError::Foreign(frame));
        }
        if frame.len() < MIN_FRAME_BYTES {
            self.counters.too_short += 1;
            return Err(SendError::TooShort(frame));
        }
        if self.room() == 0 {
            return Err(SendError::Full(frame));
        }
        let (addr, len) = umem.give_to_tx(self.lease.slot(), frame);
        let at = (self.next & (self.ring.size - 1)) as usize;
        // SAFETY: `at` is below the ring size, so the slot is inside the mapping; room() > 0 says that the kernel has
        // consumed what was there, and it does not read it again before publish() moves the producer.
        unsafe {
            self.ring.descs.as_ptr().add(at).write(Desc { addr, len, options: 0 });
        }
        self.next = self.next.wrapping_add(1);
        self.counters.frames += 1;
        self.counters.bytes += u64::from(len);
        Ok(())
    }

    /// Put frames from the front of `frames` on the ring while there is room, and publish them. Returns how many were
    /// taken out of `frames`. Frames that cannot be sent at all (too short, foreign) are taken out and freed, counted.
    pub fn send_batch(&mut self, umem: &mut Umem, frames: &mut Vec<Frame>) -> usize {
        let n = self.room().min(frames.len());
        for frame in frames.drain(..n) {
            if let Err(refused) = self.send(umem, frame) {
                umem.free(refused.into_frame());
            }
        }
        self.publish();
        n
    }

    /// Let the kernel see what was put on the ring. One store; no system call.
    pub fn publish(&mut self) {
        // Release: the descriptors and the frames' bytes are written before the kernel sees the index.
        self.producer().store(self.next, Ordering::Release);
    }

    /// Frames that [`send`](Self::send) can take now.
    #[must_use]
    pub fn room(&mut self) -> usize {
        let free = self.ring.size.saturating_sub(self.next.wrapping_sub(self.cached_consumer));
        if free > 0 {
            return free as usize;
        }
        self.cached_consumer = self.consumer().load(Ordering::Acquire);
        self.ring.size.saturating_sub(self.next.wrapping_sub(self.cached_consumer)) as usize
    }

    /// Frames that the kernel has not taken from the ring yet.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.consumer().load(Ordering::Acquire))
    }

    /// Frames and bytes sent and not yet reaped from the completion ring.
    #[must_use]
    pub fn in_flight(&self, umem: &Umem) -> (u32, u64) {
        umem.in_flight(self.lease.slot())
    }

    /// Whether the driver asks to be kicked.
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        // SAFETY: the flags word lies in the mapping (TxMapping::new) and the kernel writes it atomically.
        unsafe { self.ring.flags.as_ref() }.load(Ordering::Relaxed) & RING_NEED_WAKEUP != 0
    }

    /// Publish, and make the system call if it is due (see [`kick`](crate::kick)). At most [`KICK_ROUNDS`] calls.
    ///
    /// # Errors
    ///
    /// Only what retrying cannot cure: the socket is no longer bound (ENXIO: the interface is gone) or the like. EAGAIN,
    /// EBUSY, ENOBUFS, ENETDOWN and EINTR are counted and tried again later.
    pub fn kick(&mut self, umem: &Umem, now_ns: u64) -> io::Result<Kick> {
        self.publish();
        // Store-load barrier: the flag is read after the kernel can see the producer index, otherwise both sides could
        // think that the other one acts (as smp_mb in the kernel's documentation of need-wakeup).
        std::sync::atomic::fence(Ordering::SeqCst);
        let input = KickInput {
            now_ns,
            pending: self.pending(),
            outstanding: umem.in_flight(self.lease.slot()).0,
            needs_wakeup: self.needs_wakeup(),
            copy_mode: self.copy_mode,
        };
        if !self.policy.due(&input) {
            return Ok(Kick::NotDue);
        }
        self.kick_now(now_ns)
    }

    /// Publish and make the system call whether or not it is due: before sleeping, and in tests.
    ///
    /// # Errors
    ///
    /// As [`kick`](Self::kick).
    pub fn kick_now(&mut self, now_ns: u64) -> io::Result<Kick> {
        self.publish();
        for _ in 0..KICK_ROUNDS {
            let before = self.pending();
            self.kicks.calls += 1;
            let answer = sys::kick_tx(self.fd());
            let pending = self.pending();
            let Err(error) = answer else {
                self.policy.kicked(now_ns, pending);
                return Ok(if pending == 0 { Kick::Done } else { Kick::Unfinished });
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {
                    self.kicks.again += 1;
                    if pending == 0 || pending == before {
                        self.policy.kicked(now_ns, pending);
                        return Ok(if pending == 0 { Kick::Done } else { Kick::Unfinished });
                    }
                    continue;
                }
                Some(libc::EBUSY) => {
                    self.kicks.busy += 1;
                    self.policy.refused(now_ns, RETRY_NS);
                }
                Some(libc::ENOBUFS) => {
                    self.kicks.no_buffers += 1;
                    self.policy.refused(now_ns, RETRY_NS);
                }
                Some(libc::ENETDOWN) => {
                    self.kicks.net_down += 1;
                    self.policy.refused(now_ns, DOWN_RETRY_NS);
                }
                _ => return Err(error),
            }
            return Ok(Kick::Unfinished);
        }
        self.policy.kicked(now_ns, self.pending());
        Ok(Kick::Unfinished)
    }

    /// When waiting frames become due for a kick; `None` if none wait.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        self.policy.deadline_ns()
    }

    /// System calls made and their answers.
    #[must_use]
    pub fn kicks(&self) -> KickCounters {
        self.kicks
    }

    /// What was sent and refused.
    #[must_use]
    pub fn counters(&self) -> TxCounters {
        self.counters
    }

    /// The socket's descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `_queue` is of this socket and lives as long as `self`.
        unsafe { self.lease.fd() }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and inside the mapping (TxMapping::new), which `_queue` keeps.
        unsafe { self.ring.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`; the kernel writes this word atomically.
        unsafe { self.ring.consumer.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_leaves_its_mapping_is_refused() {
        let offsets = RingOffsets { producer: 0, consumer: 64, flags: 72, desc: 128 };
        assert!(TxMapping::new((0x1000, 0x1000 + 128 + 16 * 64), offsets, 64).is_some());
        assert!(TxMapping::new((0x1000, 0x1000 + 128 + 16 * 64 - 1), offsets, 64).is_none());
        assert!(TxMapping::new((0x1000, 0x9000), RingOffsets { consumer: 66, ..offsets }, 64).is_none());
        assert!(TxMapping::new((0x1000, 0x9000), RingOffsets { desc: usize::MAX - 8, ..offsets }, 64).is_none());
    }
}
