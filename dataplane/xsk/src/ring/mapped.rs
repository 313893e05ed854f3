//! One ring in memory: the mapping that the kernel and this process share, and its two ends.
//!
//! Owner: one ring type each ([`FillRing`](super::FillRing) and so on); dropping it unmaps the memory, which matters: a
//! mapping keeps the kernel's socket alive like a descriptor does.
//!
//! ```text
//!   consumer index            producer index (published)      next (ours, producing end only)
//!        │  entries to be consumed      │   written, unpublished   │   room
//! ```
//!
//! Invariants
//! - The index, flag and entry words lie inside the mapping and are aligned (checked when it is made); an entry is found
//!   by its index modulo the size, so that no index, ours or the kernel's, leads outside.
//! - Indices are u32 and wrap; differences are taken modulo 2^32. The size is a power of two.
//! - Each index has one writer. Entries between the consumer's and the producer's index belong to the consuming end.
//!
//! Layout and memory order: Documentation/networking/af_xdp.rst, include/uapi/linux/if_xdp.h, net/xdp/xsk_queue.h.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::{self, RingKind, RingOffsets};

/// What an entry may be: plain data, any bits valid. RX and TX rings hold `xdp_desc`, the other two addresses.
pub(crate) trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for Desc {}

/// struct xdp_desc, linux/if_xdp.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Desc {
    /// Offset of the data from the start of the UMEM.
    pub(crate) addr: u64,
    /// Bytes of data.
    pub(crate) len: u32,
    /// XDP_PKT_CONTD and others.
    pub(crate) options: u32,
}

/// A mapped ring.
#[derive(Debug)]
struct Mapped<T: Entry> {
    base: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
}

// SAFETY: the pointers lead into a mapping that this value owns and that has no thread affinity; in this process only
// this value uses them.
unsafe impl<T: Entry + Send> Send for Mapped<T> {}

impl<T: Entry> Mapped<T> {
    /// Map a ring whose size has been set on this socket, before the socket is bound (the kernel refuses it later).
    fn map(fd: BorrowedFd<'_>, kind: RingKind, offsets: RingOffsets, size: u32) -> io::Result<Self> {
        let bytes = span::<T>(offsets, size).ok_or(io::ErrorKind::InvalidData)?;
        let base = sys::map_ring(fd, kind, bytes)?;
        // SAFETY: `span` has checked that all four lie within `bytes` bytes, which is what is mapped at `base`, and that
        // they are aligned; a mapping starts at a page.
        unsafe {
            Ok(Self {
                base,
                bytes,
                producer: base.add(offsets.producer).cast(),
                consumer: base.add(offsets.consumer).cast(),
                flags: base.add(offsets.flags).cast(),
                entries: base.add(offsets.desc).cast(),
                size,
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and inside the mapping (`map`), which lives as long as `self`; both sides access it atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below the size, and `size` entries are inside the mapping (`map`).
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

impl<T: Entry> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; no pointer into it leaves this module.
        unsafe { sys::unmap(self.base, self.bytes) }
    }
}

/// How many bytes a ring takes; `None` if the kernel's offsets cannot be believed.
fn span<T>(offsets: RingOffsets, size: u32) -> Option<usize> {
    let bytes = offsets.desc.checked_add((size as usize).checked_mul(size_of::<T>())?)?;
    let aligned = |at: usize| at.is_multiple_of(align_of::<AtomicU32>());
    let inside = |at: usize| at.checked_add(size_of::<AtomicU32>()).is_some_and(|end| end <= bytes);
    let indices = [offsets.producer, offsets.consumer, offsets.flags];
    let sound = size.is_power_of_two()
        && offsets.desc.is_multiple_of(align_of::<T>())
        && indices.into_iter().all(|at| aligned(at) && inside(at));
    sound.then_some(bytes)
}

/// The producing end: ours in the fill and TX rings.
#[derive(Debug)]
pub(crate) struct Producer<T: Entry> {
    ring: Mapped<T>,
    next: u32,
    cached_consumer: u32,
}

impl<T: Entry> Producer<T> {
    pub(crate) fn map(fd: BorrowedFd<'_>, kind: RingKind, offsets: RingOffsets, size: u32) -> io::Result<Self> {
        let ring = Mapped::map(fd, kind, offsets, size)?;
        let next = ring.producer().load(Ordering::Relaxed);
        let cached_consumer = ring.consumer().load(Ordering::Acquire);
        Ok(Self { ring, next, cached_consumer })
    }

    /// Entries that can be written; the kernel's index is read only if fewer than `want` are known.
    pub(crate) fn room(&mut self, want: usize) -> usize {
        let known = self.known_room();
        if known >= want {
            return known;
        }
        // Acquire: the kernel has read the entries before it moved the index; they may be overwritten.
        self.cached_consumer = self.ring.consumer().load(Ordering::Acquire);
        self.known_room()
    }

    fn known_room(&self) -> usize {
        self.ring.size.saturating_sub(self.next.wrapping_sub(self.cached_consumer)) as usize
    }

    /// Write an entry; the caller knows that there is [`room`](Self::room).
    pub(crate) fn push(&mut self, entry: T) {
        debug_assert!(self.known_room() > 0, "room was checked");
        // SAFETY: the entry is inside the mapping. The kernel has consumed what was there (room), and does not read it
        // again before `publish` moves the producer's index.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Let the kernel see what was written. One store; no system call.
    pub(crate) fn publish(&mut self) {
        // Release: the entries, and what they point to, are written before the kernel sees the index.
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Entries that the kernel has not consumed.
    pub(crate) fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    /// Take back the entry written last that the kernel has not consumed. Only while no kernel code serves the ring: its
    /// socket is not bound.
    pub(crate) fn take_back(&mut self) -> Option<T> {
        if self.pending() == 0 {
            return None;
        }
        self.next = self.next.wrapping_sub(1);
        // SAFETY: inside the mapping, and written by `push`.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.publish();
        Some(entry)
    }
}

/// The consuming end: ours in the RX and completion rings.
#[derive(Debug)]
pub(crate) struct Consumer<T: Entry> {
    ring: Mapped<T>,
    next: u32,
    cached_producer: u32,
}

impl<T: Entry> Consumer<T> {
    pub(crate) fn map(fd: BorrowedFd<'_>, kind: RingKind, offsets: RingOffsets, size: u32) -> io::Result<Self> {
        let ring = Mapped::map(fd, kind, offsets, size)?;
        let next = ring.consumer().load(Ordering::Relaxed);
        Ok(Self { cached_producer: next, ring, next })
    }

    /// Whether an entry waits.
    pub(crate) fn has_entries(&self) -> bool {
        self.next != self.ring.producer().load(Ordering::Relaxed)
    }

    /// The next entry. Its place is the kernel's again after [`release`](Self::release).
    pub(crate) fn take(&mut self) -> Option<T> {
        if self.next == self.cached_producer {
            // Acquire: the entries, and what they point to, are read after the index.
            self.cached_producer = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.cached_producer {
                return None;
            }
        }
        // SAFETY: inside the mapping; the kernel has published it and does not write there before `release`.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Let the kernel use the places of the entries taken. One store.
    pub(crate) fn release(&mut self) {
        // Release: the entries are read before the kernel sees that it may overwrite them.
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_leaves_its_mapping_is_refused() {
        let offsets = RingOffsets { producer: 0, consumer: 64, flags: 72, desc: 128 };
        assert_eq!(span::<Desc>(offsets, 64), Some(128 + 16 * 64));
        assert_eq!(span::<u64>(offsets, 64), Some(128 + 8 * 64));
        assert_eq!(span::<Desc>(offsets, 63), None, "no power of two");
        assert_eq!(span::<Desc>(RingOffsets { consumer: 66, ..offsets }, 64), None, "not aligned");
        assert_eq!(span::<Desc>(RingOffsets { flags: 128 + 16 * 64, ..offsets }, 64), None, "behind the end");
        assert_eq!(span::<Desc>(RingOffsets { producer: usize::MAX - 3, ..offsets }, 64), None, "wraps");
        assert_eq!(span::<Desc>(RingOffsets { desc: usize::MAX - 7, ..offsets }, 64), None, "wraps");
    }

    /// Both ends over one ring in ordinary memory.
    fn both_ends(memory: &mut [u64; 16]) -> (Producer<u64>, Consumer<u64>) {
        let base = NonNull::from(memory).cast::<u8>();
        let ring = || {
            // SAFETY: 16 words: three indices in the first eight, then eight entries.
            unsafe {
                Mapped {
                    base,
                    bytes: 0,
                    producer: base.cast(),
                    consumer: base.add(8).cast(),
                    flags: base.add(16).cast(),
                    entries: base.add(64).cast(),
                    size: 8,
                }
            }
        };
        let start = u32::MAX - 2;
        let ends = (
            Producer { ring: ring(), next: start, cached_consumer: start },
            Consumer { ring: ring(), next: start, cached_producer: start },
        );
        ends.0.ring.producer().store(start, Ordering::Relaxed);
        ends.1.ring.consumer().store(start, Ordering::Relaxed);
        ends
    }

    #[test]
    fn entries_pass_in_order_across_the_wrap_of_the_indices() {
        let mut memory = [0_u64; 16];
        let (mut producer, mut consumer) = both_ends(&mut memory);
        for round in 0..5_u64 {
            assert_eq!(producer.room(8), 8);
            for entry in 0..8 {
                producer.push(round * 8 + entry);
            }
            assert_eq!(producer.room(1), 0);
            assert!(!consumer.has_entries() && consumer.take().is_none(), "not published yet");
            producer.publish();
            assert!(consumer.has_entries());
            assert_eq!(producer.pending(), 8);
            for entry in 0..8 {
                assert_eq!(consumer.take(), Some(round * 8 + entry));
            }
            assert_eq!((consumer.take(), producer.room(1)), (None, 0), "not released yet");
            consumer.release();
            assert_eq!(producer.pending(), 0);
        }
        std::mem::forget((producer, consumer));
    }

    #[test]
    fn what_the_other_end_has_not_taken_can_be_taken_back() {
        let mut memory = [0_u64; 16];
        let (mut producer, mut consumer) = both_ends(&mut memory);
        for entry in 1..=4 {
            producer.push(entry);
        }
        producer.publish();
        assert_eq!(consumer.take(), Some(1));
        consumer.release();
        let back: Vec<_> = std::iter::from_fn(|| producer.take_back()).collect();
        assert_eq!(back, [4, 3, 2]);
        assert_eq!((producer.room(8), producer.pending()), (8, 0));
        std::mem::forget((producer, consumer));
    }
}
