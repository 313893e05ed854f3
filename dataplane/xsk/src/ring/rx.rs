//! Fill, RX and completion rings: batches over xsk-rs's queues, every address judged by the [`Umem`].
//!
//! Owner: the [`Socket`](crate::Socket); used by the worker that owns the UMEM.

use std::sync::Arc;

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue};

use super::BATCH_FRAMES;
use crate::frame::Frame;
use crate::socket::Lease;
use crate::sys;
use crate::umem::Umem;

type Scratch = Box<[FrameDesc; BATCH_FRAMES]>;

fn scratch() -> Scratch {
    Box::new([FrameDesc::default(); BATCH_FRAMES])
}

/// Hands empty frames to the kernel to receive into.
#[derive(Debug)]
pub struct FillRing {
    queue: FillQueue,
    scratch: Scratch,
    wakes: u64,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

impl FillRing {
    pub(crate) fn new(queue: FillQueue, lease: Arc<Lease>) -> Self {
        Self { queue, scratch: scratch(), wakes: 0, lease }
    }

    /// Move up to `max` frames from the pool to the ring, as far as there is room. Returns how many.
    ///
    /// Keep some frames back for sending: a fill ring takes all it can hold.
    pub fn refill(&mut self, umem: &mut Umem, max: usize) -> usize {
        if !umem.serves(self.lease.region()) {
            return 0;
        }
        let mut moved = 0;
        while moved < max {
            let want = (max - moved).min(BATCH_FRAMES).min(umem.free_count());
            let room = self.queue.nb_free(u32::try_from(want).unwrap_or(0)) as usize;
            let n = want.min(room);
            if n == 0 {
                break;
            }
            let n = umem.take_for_fill(self.lease.slot(), &mut self.scratch[..n]);
            // SAFETY: the descriptors are of this UMEM, and their chunks have just left the pool for this ring: no
            // Frame names them.
            let put = unsafe { self.queue.produce(&self.scratch[..n]) };
            debug_assert_eq!(put, n, "room was checked");
            moved += n;
        }
        moved
    }

    /// Frames of the UMEM that the kernel has to receive into, or has received and not yet handed over.
    #[must_use]
    pub fn in_kernel(&self, umem: &Umem) -> u32 {
        umem.in_fill(self.lease.slot())
    }

    /// Whether the driver sleeps until woken (need-wakeup flag of the fill ring).
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.queue.needs_wakeup()
    }

    /// Wake the driver if it asks for it. Returns whether a system call was made; its failure is not reported, because
    /// the driver keeps the flag set and the next call tries again.
    pub fn wake(&mut self) -> bool {
        if !self.queue.needs_wakeup() {
            return false;
        }
        self.wakes += 1;
        // SAFETY: `queue` is of this socket and lives as long as `self`.
        let fd = unsafe { self.lease.fd() };
        if let Err(error) = sys::wake_rx(fd) {
            tracing::trace!(%error, "waking the receive side");
        }
        true
    }

    /// System calls that [`wake`](Self::wake) has made.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wakes
    }
}

/// Hands received frames to the worker.
#[derive(Debug)]
pub struct RxRing {
    queue: RxQueue,
    scratch: Scratch,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

impl RxRing {
    pub(crate) fn new(queue: RxQueue, lease: Arc<Lease>) -> Self {
        Self { queue, scratch: scratch(), lease }
    }

    /// Append up to `max` received frames to `out`, but never more than its spare capacity: nothing is allocated.
    /// Returns how many. Descriptors that are not believable are counted by the UMEM and skipped.
    pub fn receive(&mut self, umem: &mut Umem, out: &mut Vec<Frame>, max: usize) -> usize {
        if !umem.serves(self.lease.region()) {
            return 0;
        }
        let max = max.min(out.capacity() - out.len());
        let mut received = 0;
        while received < max {
            let want = (max - received).min(BATCH_FRAMES);
            // SAFETY: this queue and `umem` belong together (checked above); what the kernel says is judged below.
            let got = unsafe { self.queue.consume(&mut self.scratch[..want]) };
            for desc in &self.scratch[..got] {
                let (len, more) = (desc.lengths().data(), desc.has_more_frames());
                if let Some(frame) = umem.accept_received(self.lease.slot(), desc.addr(), len, more) {
                    out.push(frame);
                    received += 1;
                }
            }
            if got < want {
                break;
            }
        }
        received
    }

    /// Whether frames wait; reads the ring's producer index, no system call.
    #[must_use]
    pub fn has_frames(&mut self) -> bool {
        self.queue.nb_avail(1) > 0
    }
}

/// Gives sent frames back to the pool.
#[derive(Debug)]
pub struct CompletionRing {
    queue: CompQueue,
    scratch: Scratch,
    completed: u64,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

impl CompletionRing {
    pub(crate) fn new(queue: CompQueue, lease: Arc<Lease>) -> Self {
        Self { queue, scratch: scratch(), completed: 0, lease }
    }

    /// Move up to `max` completed frames to the pool. Returns how many.
    pub fn reap(&mut self, umem: &mut Umem, max: usize) -> usize {
        if !umem.serves(self.lease.region()) {
            return 0;
        }
        let mut reaped = 0;
        let mut seen = 0;
        while seen < max {
            let want = (max - seen).min(BATCH_FRAMES);
            // SAFETY: this queue and `umem` belong together (checked above); what the kernel says is judged below.
            let got = unsafe { self.queue.consume(&mut self.scratch[..want]) };
            for desc in &self.scratch[..got] {
                reaped += usize::from(umem.accept_completion(self.lease.slot(), desc.addr()));
            }
            seen += got;
            if got < want {
                break;
            }
        }
        self.completed += reaped as u64;
        reaped
    }

    /// Frames ever completed: what [`CompletionWatchdog`](crate::CompletionWatchdog) watches.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed
    }
}
