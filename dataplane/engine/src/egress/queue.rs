//! Transit frames in hand: FIFO queues threaded through one preallocated pool per link, so that a million flows cost
//! nothing until they hold frames, and queueing a frame never allocates.
//!
//! ```text
//!   FrameQueue (per flow and class)     FramePool (per link)
//!   head ─────────────────────────────► slot ─next─► slot ─next─► NIL
//!   tail ───────────────────────────────────────────► ┘
//! ```
//!
//! Invariant: a slot is either on the pool's free list (empty) or on exactly one queue (holds a frame).

use crate::port::Ecn;

/// End of a list.
pub(super) const NIL: u32 = u32::MAX;

struct Slot<F> {
    entry: Option<(F, Ecn)>,
    next: u32,
}

/// All frames that a link's transit queues hold.
pub(super) struct FramePool<F> {
    slots: Vec<Slot<F>>,
    free: u32,
    used: usize,
    limit: usize,
}

/// One queue; its frames live in the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameQueue {
    head: u32,
    tail: u32,
    bytes: u64,
}

impl<F> FramePool<F> {
    /// Reserves room for `limit` frames; memory is touched as it is first used.
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(NIL as usize - 1);
        Self { slots: Vec::with_capacity(limit), free: NIL, used: 0, limit }
    }

    pub(super) fn is_full(&self) -> bool {
        self.used >= self.limit
    }

    /// Frames held.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Appends a frame of `bytes` at layer 2. The caller has checked `is_full`; a full pool gives the frame back.
    pub(super) fn push(&mut self, queue: &mut FrameQueue, frame: F, ecn: Ecn, bytes: u64) -> Result<(), F> {
        if self.is_full() {
            return Err(frame);
        }
        let slot = Slot { entry: Some((frame, ecn)), next: NIL };
        let at = if self.free == NIL {
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = std::mem::replace(&mut self.slots[at as usize], slot).next;
            at
        };
        if queue.tail == NIL {
            queue.head = at;
        } else {
            self.slots[queue.tail as usize].next = at;
        }
        queue.tail = at;
        queue.bytes += bytes;
        self.used += 1;
        Ok(())
    }

    /// Takes the oldest frame. `size` gives its bytes at layer 2, as at `push`.
    pub(super) fn pop(&mut self, queue: &mut FrameQueue, size: impl FnOnce(&F) -> u64) -> Option<(F, Ecn)> {
        if queue.head == NIL {
            return None;
        }
        let at = queue.head;
        let slot = &mut self.slots[at as usize];
        let entry = slot.entry.take();
        queue.head = std::mem::replace(&mut slot.next, self.free);
        self.free = at;
        if queue.head == NIL {
            queue.tail = NIL;
        }
        self.used -= 1;
        if let Some((frame, _)) = &entry {
            queue.bytes = queue.bytes.saturating_sub(size(frame));
        }
        entry
    }
}

impl FrameQueue {
    pub(super) const fn new() -> Self {
        Self { head: NIL, tail: NIL, bytes: 0 }
    }

    /// Bytes at layer 2 queued.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
