//! Fill, RX and completion rings: every address judged by the [`Umem`].
//!
//! Owner: the [`Socket`](crate::Socket); used by the worker that owns the UMEM.

use std::sync::Arc;

use super::mapped::{Consumer, Desc, Producer};
use crate::frame::Frame;
use crate::socket::Lease;
use crate::sys;
use crate::umem::Umem;

/// Hands empty frames to the kernel to receive into.
#[derive(Debug)]
pub struct FillRing {
    queue: Producer<u64>,
    wakes: u64,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

impl FillRing {
    pub(crate) fn new(queue: Producer<u64>, lease: Arc<Lease>) -> Self {
        Self { queue, wakes: 0, lease }
    }

    /// Move up to `max` frames from the pool to the ring, as far as there is room. Returns how many.
    ///
    /// Keep some frames back for sending: a fill ring takes all it can hold.
    pub fn refill(&mut self, umem: &mut Umem, max: usize) -> usize {
        if !umem.serves(self.lease.region()) {
            return 0;
        }
        let want = max.min(umem.available());
        let n = want.min(self.queue.room(want));
        if n == 0 {
            return 0;
        }
        // The chunks leave the pool for this ring: no Frame names them.
        let moved = umem.take_for_fill(self.lease.slot(), n, |address| self.queue.push(address));
        self.queue.publish();
        moved
    }

    /// Return to the pool what the kernel has not taken. Only before the socket is bound.
    pub(crate) fn take_back(&mut self, umem: &mut Umem) {
        while let Some(address) = self.queue.take_back() {
            umem.return_from_fill(self.lease.slot(), address);
        }
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
        if let Err(error) = sys::wake_rx(self.lease.fd()) {
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
    queue: Consumer<Desc>,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

impl RxRing {
    pub(crate) fn new(queue: Consumer<Desc>, lease: Arc<Lease>) -> Self {
        Self { queue, lease }
    }

    /// Append up to `max` received frames to `out`, but never more than its spare capacity: nothing is allocated.
    /// Returns how many. Descriptors that are not believable are counted by the UMEM and skipped.
    pub fn receive(&mut self, umem: &mut Umem, out: &mut Vec<Frame>, max: usize) -> usize {
        if !umem.serves(self.lease.region()) {
            return 0;
        }
        let max = max.min(out.capacity() - out.len());
        let (mut seen, mut received) = (0, 0);
        while seen < max
            && let Some(desc) = self.queue.take()
        {
            seen += 1;
            let more = desc.options & libc::XDP_PKT_CONTD != 0;
            if let Some(frame) = umem.accept_received(self.lease.slot(), desc.addr, desc.len, more) {
                out.push(frame);
                received += 1;
            }
        }
        if seen > 0 {
            self.queue.release();
        }
        received
    }

    /// Whether frames wait; reads the ring's producer index, no system call.
    #[must_use]
    pub fn has_frames(&mut self) -> bool {
        self.queue.has_entries()
    }
}

/// Gives sent frames back to the pool.
#[derive(Debug)]
pub struct CompletionRing {
    queue: Consumer<u64>,
    completed: u64,
    /// Dropped after the queue.
    lease: Arc<Lease>,
}

impl CompletionRing {
    pub(crate) fn new(queue: Consumer<u64>, lease: Arc<Lease>) -> Self {
        Self { queue, completed: 0, lease }
    }

    /// Move up to `max` completed frames to the pool. Returns how many.
    pub fn reap(&mut self, umem: &mut Umem, max: usize) -> usize {
        if !umem.serves(self.lease.region()) {
            return 0;
        }
        let (mut seen, mut reaped) = (0, 0);
        while seen < max
            && let Some(address) = self.queue.take()
        {
            seen += 1;
            reaped += usize::from(umem.accept_completion(self.lease.slot(), address));
        }
        if seen > 0 {
            self.queue.release();
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
