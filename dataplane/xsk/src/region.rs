//! The memory under a UMEM: base address and geometry, shared by every frame of it.
//!
//! Owner: nobody; it is leaked on purpose. Each [`Frame`](crate::Frame) holds a `&'static Region` instead of a
//! reference count, so moving a frame costs no shared cache line. What is shared and mutable here (`dropped`,
//! `closed`) is touched on mistakes and on socket close only, never per packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    /// What is mapped there.
    file: OwnedFd,
    shift: u32,
    frame_count: u32,
    /// Frames dropped instead of given back, to be collected by housekeeping.
    dropped: Mutex<Vec<u32>>,
    /// How many frames were ever dropped.
    dropped_total: AtomicU64,
    /// Slots whose socket has gone and whose frames wait for quarantine.
    closed: Mutex<Vec<u8>>,
}

// SAFETY: `base` points to a mapping that is never unmapped and that nobody accesses through the Region itself;
// everything else is a lock or an atomic.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Map zeroed memory for `frame_count` chunks of `1 << shift` bytes, for ever.
    pub(crate) fn map(shift: u32, frame_count: u32, huge_pages: bool) -> io::Result<&'static Self> {
        let bytes = (frame_count as usize) << shift;
        let file = sys::memory_file(bytes, huge_pages)?;
        let base = sys::map_memory(file.as_fd(), bytes)?;
        Ok(Box::leak(Box::new(Self {
            base,
            file,
            shift,
            frame_count,
            dropped: Mutex::new(Vec::new()),
            dropped_total: AtomicU64::new(0),
            closed: Mutex::new(Vec::new()),
        })))
    }

    /// The memory as a file, for whoever tells the kernel of it.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn frame_size(&self) -> usize {
        1 << self.shift
    }

    pub(crate) fn frame_count(&self) -> u32 {
        self.frame_count
    }

    pub(crate) fn len(&self) -> usize {
        (self.frame_count as usize) << self.shift
    }

    /// First byte of a chunk; `index` is below the frame count.
    pub(crate) fn chunk(&self, index: u32) -> NonNull<u8> {
        debug_assert!(index < self.frame_count);
        // SAFETY: index < frame_count, so the offset is inside the mapping of frame_count << shift bytes.
        unsafe { self.base.add((index as usize) << self.shift) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the number of chunks fits u32")]
    pub(crate) fn index_of(&self, chunk: NonNull<u8>) -> u32 {
        ((chunk.as_ptr() as usize - self.base.as_ptr() as usize) >> self.shift) as u32
    }

    /// Chunk number and offset in the chunk of an address from the kernel; `None` if outside the UMEM.
    #[expect(clippy::cast_possible_truncation, reason = "less than the frame size, at most 4096")]
    pub(crate) fn locate(&self, address: u64) -> Option<(u32, usize)> {
        let index = u32::try_from(address >> self.shift).ok()?;
        (index < self.frame_count).then_some((index, address as usize & (self.frame_size() - 1)))
    }

    /// The address of a chunk's first byte, as the kernel counts: from the start of the UMEM.
    pub(crate) fn address_of(&self, index: u32) -> u64 {
        u64::from(index) << self.shift
    }

    pub(crate) fn note_dropped(&self, index: u32) {
        self.dropped_total.fetch_add(1, Ordering::Relaxed);
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(index);
    }

    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped_total.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped_now(&self) -> usize {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn take_dropped(&self) -> Vec<u32> {
        std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn note_closed(&self, slot: u8) {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }

    pub(crate) fn take_closed(&self) -> Vec<u8> {
        std::mem::take(&mut *self.closed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_outside_the_umem_is_never_located() {
        let region = Region::map(11, 4, false).unwrap();
        assert_eq!(region.locate(0), Some((0, 0)));
        assert_eq!(region.locate(3 * 2048 + 2047), Some((3, 2047)));
        assert_eq!(region.locate(4 * 2048), None);
        assert_eq!(region.locate(u64::MAX), None);
        assert_eq!(region.index_of(region.chunk(3)), 3);
    }
}
