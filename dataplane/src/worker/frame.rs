//! A worker's frames: a UMEM frame where an AF_XDP adapter made it, a pooled heap buffer elsewhere.

use florelay_engine::FrameBuf;

/// Capacity of a heap frame in bytes: a jumbo frame's link payload.
pub(crate) const HEAP_FRAME_BYTES: usize = crate::plan::MAX_MTU as usize;

/// A frame in hand.
pub(crate) enum WorkerFrame {
    /// In one of the worker's UMEMs.
    Umem(UmemFrame),
    /// On the heap, from the worker's pool.
    Heap(HeapFrame),
}

/// A UMEM frame, and the number of its UMEM: the kernel needs a second one for a second bind mode.
pub(crate) struct UmemFrame {
    pub(crate) pool: u8,
    pub(crate) frame: florelay_xsk::Frame,
}

/// A pooled buffer.
pub(crate) struct HeapFrame {
    bytes: Box<[u8]>,
    len: usize,
}

impl HeapFrame {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; HEAP_FRAME_BYTES].into(), len: 0 }
    }

    /// Hold exactly these bytes. `false`, with the frame unchanged, if they do not fit.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.bytes.get_mut(..bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.len = bytes.len();
        true
    }
}

impl FrameBuf for WorkerFrame {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Umem(umem) => umem.frame.bytes(),
            Self::Heap(frame) => &frame.bytes[..frame.len],
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Umem(umem) => umem.frame.bytes_mut(),
            Self::Heap(frame) => &mut frame.bytes[..frame.len],
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Umem(umem) => umem.frame.capacity(),
            Self::Heap(frame) => frame.bytes.len(),
        }
    }

    fn set_len(&mut self, len: usize) {
        match self {
            Self::Umem(umem) => {
                let fits = umem.frame.set_len(len.min(umem.frame.capacity()));
                debug_assert!(fits);
            }
            Self::Heap(frame) => frame.len = len.min(frame.bytes.len()),
        }
    }
}

/// Heap frames that wait to be used again. Grows to its limit and never beyond.
pub(crate) struct HeapPool {
    free: Vec<HeapFrame>,
    made: usize,
    limit: usize,
}

impl HeapPool {
    pub(crate) fn new(limit: usize) -> Self {
        Self { free: Vec::with_capacity(limit), made: 0, limit }
    }

    pub(crate) fn alloc(&mut self) -> Option<HeapFrame> {
        if let Some(mut frame) = self.free.pop() {
            frame.len = 0;
            return Some(frame);
        }
        (self.made < self.limit).then(|| {
            self.made += 1;
            HeapFrame::new()
        })
    }

    pub(crate) fn free(&mut self, frame: HeapFrame) {
        self.free.push(frame);
    }

    /// Frames that `alloc` can still give.
    pub(crate) fn allocatable(&self) -> usize {
        self.limit - self.made + self.free.len()
    }

    pub(crate) fn total(&self) -> usize {
        self.made
    }

    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }
}
