//! The TX ring: frames as they are, wherever their data starts, and the kicks.
//!
//! Owner: the [`Socket`](crate::Socket); used by the worker that owns the UMEM.
//!
//! Invariant: the entries from the kernel's index to ours are frames in state tx of this socket's slot.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::mapped::{Desc, Producer};
use crate::frame::Frame;
use crate::kick::{DOWN_RETRY_NS, KICK_ROUNDS, KickInput, KickPolicy, RETRY_NS};
use crate::socket::Lease;
use crate::stats::{KickCounters, TxCounters};
use crate::sys;
use crate::umem::Umem;

/// Shortest frame, in bytes: an Ethernet header (ETH_HLEN, linux/if_ether.h).
const MIN_FRAME_BYTES: usize = 14;

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
    queue: Producer<Desc>,
    policy: KickPolicy,
    copy_mode: bool,
    kicks: KickCounters,
    counters: TxCounters,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

impl TxRing {
    pub(crate) fn new(queue: Producer<Desc>, lease: Arc<Lease>, copy_mode: bool) -> Self {
        Self {
            queue,
            policy: KickPolicy::default(),
            copy_mode,
            kicks: KickCounters::default(),
            counters: TxCounters::default(),
            lease,
        }
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
        self.queue.push(Desc { addr, len, options: 0 });
        self.counters.frames += 1;
        self.counters.bytes += u64::from(len);
        Ok(())
    }

    /// Put frames from the front of `frames` on the ring while there is room, and publish them. Returns how many were
    /// taken out of `frames`. Frames that cannot be sent at all (too short, foreign) are taken out and freed, counted.
    pub fn send_batch(&mut self, umem: &mut Umem, frames: &mut Vec<Frame>) -> usize {
        let n = self.queue.room(frames.len()).min(frames.len());
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
        self.queue.publish();
    }

    /// Frames that [`send`](Self::send) can take at least.
    #[must_use]
    pub fn room(&mut self) -> usize {
        self.queue.room(1)
    }

    /// Frames that the kernel has not taken from the ring yet.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.queue.pending()
    }

    /// Frames and bytes sent and not yet reaped from the completion ring.
    #[must_use]
    pub fn in_flight(&self, umem: &Umem) -> (u32, u64) {
        umem.in_flight(self.lease.slot())
    }

    /// Whether the driver asks to be kicked.
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.queue.needs_wakeup()
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
        fence(Ordering::SeqCst);
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
        self.lease.fd()
    }
}
