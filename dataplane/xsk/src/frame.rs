//! Frames: the chunks of a [`Umem`](crate::Umem) as affine types.
//!
//! What for: to make "who may touch these bytes" a question for the compiler.
//!
//! ```text
//!   chunk (frame size bytes, aligned to its size)
//!   ├── headroom ──┬──────── data window ────────┬── tailroom ──┤
//!   0            start                      start + len      frame size
//!                  ◄ push_front(n)     set_len(n) ►
//!                  ► pull_front(n)
//! ```
//!
//! Invariants
//! - Neither [`FreeFrame`] nor [`Frame`] is `Clone` or `Copy`; at any moment at most one value names a chunk, and none
//!   does while the kernel has it. So `&mut [u8]` into the chunk is unique.
//! - `start + len <= frame size` after every method.
//! - The memory behind a frame is never unmapped (the UMEM is leaked), so a frame may outlive everything else.
//! - The bytes are never uninitialised: the kernel zeroes the mapping. They may be *old*: a frame taken from the pool
//!   shows whatever the chunk last held.
//!
//! A frame cannot be used after it was given away, nor exist twice:
//!
//! ```compile_fail,E0382
//! fn twice(umem: &mut florelay_xsk::Umem, frame: florelay_xsk::Frame) {
//!     umem.free(frame);
//!     umem.free(frame);
//! }
//! ```
//!
//! ```compile_fail,E0599
//! fn copy(frame: &florelay_xsk::Frame) -> florelay_xsk::Frame {
//!     florelay_xsk::Frame::clone(frame)
//! }
//! ```
//!
//! Limits: dropping a [`Frame`] instead of giving it back is a leak. It is counted, and
//! [`Umem::housekeeping`](crate::Umem::housekeeping) returns it to the pool; that path takes a lock, so it is for
//! mistakes only. `mem::forget` shows as `held` for ever.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use crate::region::Region;

/// Where the data window of a fresh frame starts, in bytes from the start of its chunk.
///
/// Equal to `XDP_PACKET_HEADROOM` (256, linux/bpf.h): the kernel starts received packets there, so received and
/// allocated frames have the same room in front. It has to hold what a label push may add: Ethernet 14 + two VLAN
/// tags 8 + IPv6 40 + UDP 8 + two label stack entries 8 + control word 4 = 82 bytes.
pub const HEADROOM_BYTES: usize = 256;

/// A chunk in the pool: it has no contents. [`FreeFrame::into_frame`] gives it a window.
#[must_use = "a free frame that is dropped leaves the pool for good"]
#[derive(Debug)]
pub struct FreeFrame(Frame);

impl FreeFrame {
    pub(crate) fn new(frame: Frame) -> Self {
        Self(frame)
    }

    /// Give the frame an empty window at `headroom` bytes from the start of its chunk (clamped to the frame size).
    pub fn into_frame(self, headroom: usize) -> Frame {
        let mut frame = self.0;
        let start = headroom.min(frame.region.frame_size());
        frame.start = to_u32(start);
        frame.len = 0;
        frame
    }
}

/// A frame in hand: bytes of one chunk that nobody else can reach.
#[must_use = "a frame that is dropped is counted as leaked; send it or give it back to its Umem"]
pub struct Frame {
    /// First byte of the chunk.
    chunk: NonNull<u8>,
    region: &'static Region,
    start: u32,
    len: u32,
}

// SAFETY: a Frame is the only value that names its chunk (invariant of this module), its region is `Sync`, and the
// chunk has no thread affinity; moving the Frame moves the exclusive right to the bytes.
unsafe impl Send for Frame {}
// SAFETY: `&Frame` only gives `&[u8]`.
unsafe impl Sync for Frame {}

impl Frame {
    /// Name a chunk.
    ///
    /// # Safety
    ///
    /// `index < region.frame_count()`, and no other `Frame` names this chunk, and the kernel does not have it.
    /// The caller proves that with the state table of its `Umem`: the chunk has just been moved to "held".
    pub(crate) unsafe fn from_parts(region: &'static Region, index: u32, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= region.frame_size());
        Self { chunk: region.chunk(index), region, start: to_u32(start), len: to_u32(len) }
    }

    /// The data window.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start + len <= frame size, so the range lies in this chunk, which is mapped for ever and which this
        // value alone may access.
        unsafe { slice::from_raw_parts(self.chunk.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The data window, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.chunk.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// Grow the window by `n` bytes at the front; the new bytes (old contents of the headroom) are returned to be
    /// written. `None`, with the frame unchanged, if the headroom is smaller than `n`.
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.start as usize {
            return None;
        }
        self.start -= to_u32(n);
        self.len += to_u32(n);
        Some(&mut self.bytes_mut()[..n])
    }

    /// Shrink the window by `n` bytes at the front. `false`, with the frame unchanged, if it holds fewer.
    #[must_use]
    pub fn pull_front(&mut self, n: usize) -> bool {
        if n > self.len as usize {
            return false;
        }
        self.start += to_u32(n);
        self.len -= to_u32(n);
        true
    }

    /// Set the length of the window. `false`, with the frame unchanged, if `len` exceeds [`capacity`](Self::capacity).
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        if len > self.capacity() {
            return false;
        }
        self.len = to_u32(len);
        true
    }

    /// Start an empty window `headroom` bytes into the chunk. `false`, with the frame unchanged, beyond the chunk.
    #[must_use]
    pub fn reset(&mut self, headroom: usize) -> bool {
        if headroom > self.region.frame_size() {
            return false;
        }
        self.start = to_u32(headroom);
        self.len = 0;
        true
    }

    /// How long the window can become at the back, in bytes from its start.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.region.frame_size() - self.start as usize
    }

    /// Bytes in front of the window.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Bytes in the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the window is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunk's number in its UMEM.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.region.index_of(self.chunk)
    }

    /// Whether this frame belongs to that region.
    pub(crate) fn is_of(&self, region: &'static Region) -> bool {
        std::ptr::eq(self.region, region)
    }

    /// Offset of the window from the start of the UMEM: the address that a descriptor carries.
    pub(crate) fn address(&self) -> u64 {
        self.region.address_of(self.index()) + u64::from(self.start)
    }

    /// Give up the right to the bytes without counting a leak: the caller has moved the chunk to another state.
    pub(crate) fn surrender(self) -> u32 {
        let index = self.index();
        std::mem::forget(self);
        index
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.region.note_dropped(self.index());
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("index", &self.index())
            .field("start", &self.start)
            .field("len", &self.len)
            .finish()
    }
}

/// A chunk is at most 4096 bytes (`UmemOptions`), so offsets in it fit.
#[expect(clippy::cast_possible_truncation, reason = "bounded by the frame size, at most 4096")]
fn to_u32(n: usize) -> u32 {
    n as u32
}
