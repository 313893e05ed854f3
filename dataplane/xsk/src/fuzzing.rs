//! For the fuzz targets (`fuzz/targets`): a UMEM whose kernel says what it likes. Not an interface; nothing else may use
//! it.

use crate::{BindMode, Error, Frame, RingSizes, Umem, UmemOptions};

/// Frames of the UMEM.
pub const FRAMES: u32 = 32;

/// A UMEM with two bound queues and no socket: descriptors are made up. Its memory stays mapped until the process ends,
/// as every UMEM's, so make one and [`reset`](Self::reset) it.
pub struct Kernel {
    umem: Umem,
    slots: [u8; 2],
    with_kernel: Vec<(u8, u64, Ring)>,
    held: Vec<Frame>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ring {
    Fill,
    Tx,
}

impl Kernel {
    /// # Errors
    /// If there is no memory.
    pub fn new() -> Result<Self, Error> {
        let rings = RingSizes { rx: 64, tx: 64 };
        let options = UmemOptions { frame_count: FRAMES, rings, huge_pages: false, ..UmemOptions::default() };
        let mut umem = Umem::new(options)?;
        let slots = [umem.claim_slot("x", 0)?, umem.claim_slot("x", 1)?];
        for slot in slots {
            umem.bound(slot, BindMode::Copy);
        }
        Ok(Self { umem, slots, with_kernel: Vec::new(), held: Vec::new() })
    }

    /// Up to `max` frames go to the fill ring of a queue.
    pub fn fill(&mut self, queue: bool, max: usize) {
        let slot = self.slots[usize::from(queue)];
        self.umem.take_for_fill(slot, max, |address| self.with_kernel.push((slot, address, Ring::Fill)));
    }

    /// A frame of `len` bytes, if it has room for them, goes to the TX ring of a queue.
    pub fn send(&mut self, queue: bool, len: usize) {
        let slot = self.slots[usize::from(queue)];
        let Some(mut frame) = self.held.pop().or_else(|| self.umem.alloc()) else { return };
        if !frame.set_len(len) {
            self.held.push(frame);
            return;
        }
        let (address, given) = self.umem.give_to_tx(slot, frame);
        assert_eq!(given as usize, len);
        self.with_kernel.push((slot, address, Ring::Tx));
    }

    /// The kernel's RX descriptor on a queue. Answers whether a frame came of it; the frame is then held.
    pub fn received(&mut self, queue: bool, address: u64, len: u32, more: bool) -> bool {
        let slot = self.slots[usize::from(queue)];
        let Some(frame) = self.umem.accept_received(slot, address, len, more) else { return false };
        assert_eq!(frame.len(), len as usize);
        // Every byte that the descriptor names is ours to read.
        std::hint::black_box(frame.bytes().iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
        self.held.push(frame);
        true
    }

    /// The kernel's completion on a queue.
    pub fn completed(&mut self, queue: bool, address: u64) -> bool {
        self.umem.accept_completion(self.slots[usize::from(queue)], address)
    }

    /// An address that was given to the kernel, perhaps taken back since; `None` if none was.
    #[must_use]
    pub fn given(&self, choice: usize) -> Option<u64> {
        let count = self.with_kernel.len();
        (count > 0).then(|| self.with_kernel[choice % count].1)
    }

    /// A frame in hand goes back to the pool.
    pub fn free(&mut self) {
        if let Some(frame) = self.held.pop() {
            self.umem.free(frame);
        }
    }

    /// # Panics
    /// If a frame is not accounted for.
    pub fn check(&self) {
        let account = self.umem.account();
        assert_eq!(account, self.umem.audit());
        assert_eq!(account.leaked, 0, "{account:?}");
        assert_eq!(account.held as usize, self.held.len());
    }

    /// Everything goes back to the pool, as if the kernel had behaved.
    ///
    /// # Panics
    /// If a frame is missing.
    pub fn reset(&mut self) {
        while !self.held.is_empty() {
            self.free();
        }
        for (slot, address, ring) in std::mem::take(&mut self.with_kernel) {
            match ring {
                Ring::Fill => self.umem.return_from_fill(slot, address),
                Ring::Tx => drop(self.umem.accept_completion(slot, address)),
            }
        }
        self.check();
        assert_eq!(self.umem.account().free, FRAMES);
    }
}
