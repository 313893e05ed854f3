//! The UMEM: one per worker, the only allocator of frames, and the only judge of addresses that come from the kernel.
//!
//! Owner: the worker. Everything that changes where a frame is goes through `&mut Umem`, so the state table needs no
//! lock:
//!
//! ```text
//!             alloc                  TxRing::send
//!   ┌──────┐ ───────► ┌──────┐ ─────────────────► ┌────────┐
//!   │ free │          │ held │                    │ tx (s) │
//!   └──────┘ ◄─────── └──────┘                    └────────┘
//!    ▲    │    free      ▲                             │
//!    │    │ refill       │ RxRing::receive             │ CompletionRing::reap
//!    │    ▼              │                             │
//!    │  ┌──────────┐ ────┘                             │
//!    │  │ fill (s) │                                   │
//!    │  └──────────┘                                   │
//!    └─────────────────────────────────────────────────┘
//!   (s) = per socket. Closing a socket moves its fill and tx frames to quarantined (s); binding the queue again
//!   moves them to free.
//! ```
//!
//! Invariants
//! - Every chunk is in exactly one state; a transition checks the state it leaves. A kernel address that names no
//!   chunk, or a chunk that is not with the kernel on that socket, is counted and dropped.
//! - The memory is leaked: mapped until the process ends, so that frames can carry a plain pointer.
//!
//! The kernel learns of the memory from the first socket (XDP_UMEM_REG) and shares it from then on through any socket
//! that is bound (XDP_SHARED_UMEM). When none is left, the next one registers the same memory again.
//!
//! Limits: chunks of 2048 or 4096 bytes, aligned mode, no multi-buffer packets; at most 64 sockets, of one network
//! namespace, because a queue is known by its interface's name; ring sizes are one set per UMEM.

mod options;
mod state;
#[cfg(test)]
mod tests;

pub use options::{FrameSize, RingSizes, UmemOptions};

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use crate::error::Error;
use crate::frame::{Frame, FreeFrame, HEADROOM_BYTES};
use crate::region::Region;
use crate::socket::{BindMode, Lease};
use crate::stats::{FrameAccount, UmemCounters};
use crate::sys;
use crate::unbound::{Deputy, Memory};
use options::check;
use state::{Slot, State};

/// Sockets that one UMEM can tell apart: six bits of the state byte.
pub const MAX_SOCKETS: usize = 64;

/// How long frames of a closed socket stay away when its queue is not bound again, in nanoseconds.
///
/// The kernel gives a queue back in deferred work after the last reference (xp_put_pool, net/xdp/xsk_buff_pool.c);
/// that takes milliseconds. Binding the same queue again proves it is done; this is for queues that never come back.
pub const QUARANTINE_NS: u64 = 2_000_000_000;

/// Frames and their accounts. See the module's drawing.
pub struct Umem {
    region: &'static Region,
    free: Vec<u32>,
    states: Box<[State]>,
    /// Length of each frame while it is in state tx.
    tx_len: Box<[u16]>,
    slots: Vec<Slot>,
    held: u32,
    /// The mode of the last socket that was bound, and so of all that are open.
    mode: Option<BindMode>,
    /// The network namespace in which it was made; `None` if the kernel does not say (before 5.14).
    netns: Option<u64>,
    counters: UmemCounters,
    options: UmemOptions,
    huge_pages: bool,
}

impl Umem {
    /// Map and zero the memory. It stays mapped until the process ends. The kernel is told of it when the first socket is
    /// opened. To be called in the network namespace of its sockets.
    ///
    /// # Errors
    ///
    /// [`Error::BadSize`] for sizes out of range, [`Error::Umem`] if there is not so much memory.
    pub fn new(options: UmemOptions) -> Result<Self, Error> {
        check(options)?;
        let (chunk, count) = (options.frame_size.bytes(), options.frame_count);
        let bytes = chunk as usize * count as usize;
        let map = |huge_pages| Region::map(chunk.trailing_zeros(), count, huge_pages);
        let mut huge_pages = options.huge_pages;
        let region = match map(huge_pages) {
            Err(error) if huge_pages => {
                huge_pages = false;
                tracing::warn!(bytes, %error, "no huge pages for the UMEM (vm.nr_hugepages?); using ordinary pages");
                map(false)
            }
            made => made,
        };
        Ok(Self {
            region: region.map_err(|source| Error::Umem { bytes, source })?,
            free: (0..count).rev().collect(),
            states: vec![State::FREE; count as usize].into_boxed_slice(),
            tx_len: vec![0; count as usize].into_boxed_slice(),
            slots: Vec::new(),
            held: 0,
            mode: None,
            netns: sys::current_netns().map_err(Error::sys("getsockopt(SO_NETNS_COOKIE)"))?,
            counters: UmemCounters::default(),
            options,
            huge_pages,
        })
    }

    /// A free frame with an empty window at [`HEADROOM_BYTES`]; `None` when the pool is empty.
    #[must_use]
    pub fn alloc(&mut self) -> Option<Frame> {
        self.take_free().map(|free| free.into_frame(HEADROOM_BYTES))
    }

    /// A free frame without a window; `None` when the pool is empty.
    #[must_use]
    pub fn take_free(&mut self) -> Option<FreeFrame> {
        let index = self.free.pop()?;
        self.states[index as usize] = State::HELD;
        self.held += 1;
        // SAFETY: the chunk was in the pool and is now held, so this is the only Frame that names it.
        Some(FreeFrame::new(unsafe { Frame::from_parts(self.region, index, 0, 0) }))
    }

    /// Frames in the pool.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Give a frame back to the pool. A frame of another UMEM goes home as dropped, and is counted here.
    pub fn free(&mut self, frame: Frame) {
        if !frame.is_of(self.region) {
            self.counters.foreign_frames += 1;
            return;
        }
        let index = frame.surrender();
        self.held -= 1;
        self.put_free(index);
    }

    /// Give a frame without a window back to the pool.
    pub fn give_back(&mut self, free: FreeFrame) {
        self.free(free.into_frame(0));
    }

    /// Collect dropped frames, frames of closed sockets, and frames whose quarantine is over. Off the packet path.
    pub fn housekeeping(&mut self, now_ns: u64) {
        for index in self.region.take_dropped() {
            tracing::warn!(index, "a frame was dropped instead of given back");
            self.held -= 1;
            self.put_free(index);
        }
        self.collect_closed();
        for slot in 0..self.slots.len() {
            let s = &mut self.slots[slot];
            if s.open || s.quarantined == 0 {
                continue;
            }
            let since = *s.closed_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since) >= QUARANTINE_NS {
                self.release_quarantine(slot_number(slot));
            }
        }
    }

    /// Where the frames are, from running counters.
    #[must_use]
    pub fn account(&self) -> FrameAccount {
        let total = self.region.frame_count();
        let dropped = u32::try_from(self.region.dropped_now()).unwrap_or(u32::MAX);
        let free = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        let (mut fill, mut tx, mut quarantined) = (0, 0, 0);
        for slot in &self.slots {
            fill += slot.fill;
            tx += slot.tx;
            quarantined += slot.quarantined;
        }
        let held = self.held.saturating_sub(dropped);
        let known = free + fill + held + tx + quarantined;
        FrameAccount { total, free, fill, held, tx, quarantined, leaked: total.saturating_sub(known) }
    }

    /// Where the frames are, counted chunk by chunk in the state table: for tests and slow housekeeping. Equal to
    /// [`account`](Self::account) unless this crate is wrong.
    #[must_use]
    pub fn audit(&self) -> FrameAccount {
        let dropped = u32::try_from(self.region.dropped_now()).unwrap_or(u32::MAX);
        let mut account = FrameAccount { total: self.region.frame_count(), leaked: dropped, ..FrameAccount::default() };
        for state in &self.states {
            state.add_to(&mut account);
        }
        account.held = account.held.saturating_sub(dropped);
        account
    }

    /// What must not happen, counted.
    #[must_use]
    pub fn counters(&self) -> UmemCounters {
        UmemCounters { dropped: self.region.dropped_total(), ..self.counters }
    }

    /// What this UMEM was made with.
    #[must_use]
    pub fn options(&self) -> UmemOptions {
        self.options
    }

    /// How its open sockets are bound: what a further one must ask for. `None` if it has none.
    #[must_use]
    pub fn mode(&self) -> Option<BindMode> {
        self.mode.filter(|_| self.slots.iter().any(|s| s.open))
    }

    /// Whether the memory really is on huge pages.
    #[must_use]
    pub fn on_huge_pages(&self) -> bool {
        self.huge_pages
    }

    // ---- for the rings -----------------------------------------------------------------------------------------

    /// Move up to `max` free frames to the fill ring of `slot`, by handing their addresses to `put`. Returns how many.
    pub(crate) fn take_for_fill(&mut self, slot: u8, max: usize, mut put: impl FnMut(u64)) -> usize {
        let from = self.free.len().saturating_sub(max);
        let mut n = 0;
        for index in self.free.drain(from..).rev() {
            self.states[index as usize] = State::fill(slot);
            put(self.region.address_of(index));
            n += 1;
        }
        self.slots[usize::from(slot)].fill += n;
        n as usize
    }

    /// Undo [`take_for_fill`](Self::take_for_fill) for a frame that the kernel has not taken from the ring.
    pub(crate) fn return_from_fill(&mut self, slot: u8, address: u64) {
        let located = self.region.locate(address).map(|(index, _)| index);
        if let Some(index) = located.filter(|i| self.states[*i as usize] == State::fill(slot)) {
            self.slots[usize::from(slot)].fill -= 1;
            self.put_free(index);
        }
    }

    /// A frame that the RX ring of `slot` hands over; `None`, counted, if the descriptor is not believable.
    pub(crate) fn accept_received(&mut self, slot: u8, address: u64, len: u32, more: bool) -> Option<Frame> {
        let Some((index, offset)) = self.region.locate(address) else {
            self.counters.bad_rx_address += 1;
            return None;
        };
        if self.states[index as usize] != State::fill(slot) {
            self.counters.bad_rx_address += 1;
            return None;
        }
        let len = len as usize;
        self.slots[usize::from(slot)].fill -= 1;
        if more || len > self.region.frame_size() - offset {
            // The chunk is ours again, its contents are not a packet.
            self.counters.bad_rx_length += 1;
            self.put_free(index);
            return None;
        }
        self.states[index as usize] = State::HELD;
        self.held += 1;
        // SAFETY: the state table says that the kernel had this chunk until now and nobody else; it is held from here.
        Some(unsafe { Frame::from_parts(self.region, index, offset, len) })
    }

    /// Whether a ring of that memory may be used with this UMEM; a foreign one is counted. Without this check the wrong
    /// UMEM would judge the kernel's addresses.
    pub(crate) fn serves(&mut self, region: &'static Region) -> bool {
        let own = std::ptr::eq(self.region, region);
        self.counters.foreign_rings += u64::from(!own);
        own
    }

    /// Whether a frame belongs to this UMEM; a foreign one is counted.
    pub(crate) fn owns(&mut self, frame: &Frame) -> bool {
        let own = frame.is_of(self.region);
        self.counters.foreign_frames += u64::from(!own);
        own
    }

    /// Move an own frame in hand to the TX ring of `slot`. Returns its address and length.
    pub(crate) fn give_to_tx(&mut self, slot: u8, frame: Frame) -> (u64, u32) {
        let (address, len) = (frame.address(), frame.len());
        let index = frame.surrender() as usize;
        self.states[index] = State::tx(slot);
        self.tx_len[index] = u16::try_from(len).unwrap_or(u16::MAX);
        self.held -= 1;
        let s = &mut self.slots[usize::from(slot)];
        s.tx += 1;
        s.tx_bytes += len as u64;
        (address, u32::try_from(len).unwrap_or(u32::MAX))
    }

    /// Move a completed frame to the pool; `false`, counted, if the address is not believable.
    pub(crate) fn accept_completion(&mut self, slot: u8, address: u64) -> bool {
        let located = self.region.locate(address).map(|(index, _)| index);
        let Some(index) = located.filter(|i| self.states[*i as usize] == State::tx(slot)) else {
            self.counters.bad_completion_address += 1;
            return false;
        };
        let s = &mut self.slots[usize::from(slot)];
        s.tx -= 1;
        s.tx_bytes -= u64::from(self.tx_len[index as usize]);
        self.put_free(index);
        true
    }

    /// Frames and bytes that `slot` has sent and not seen completed.
    pub(crate) fn in_flight(&self, slot: u8) -> (u32, u64) {
        self.slots.get(usize::from(slot)).map_or((0, 0), |s| (s.tx, s.tx_bytes))
    }

    /// Frames that `slot` has given to the kernel to receive into.
    pub(crate) fn in_fill(&self, slot: u8) -> u32 {
        self.slots.get(usize::from(slot)).map_or(0, |s| s.fill)
    }

    // ---- for sockets -------------------------------------------------------------------------------------------

    pub(crate) fn region(&self) -> &'static Region {
        self.region
    }

    /// Whether a socket belongs to the namespace in which this UMEM was made, and the calling thread too.
    pub(crate) fn check_namespace(&self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let asked = [sys::netns_of(socket), sys::current_netns()];
        for netns in asked {
            if netns.map_err(Error::sys("getsockopt(SO_NETNS_COOKIE)"))? != self.netns {
                return Err(Error::OtherNamespace);
            }
        }
        Ok(())
    }

    /// Tell the kernel of the memory, through a fresh socket.
    pub(crate) fn register(&self, socket: BorrowedFd<'_>, deputy: &mut dyn Deputy) -> Result<(), Error> {
        let bytes = self.region.len();
        let memory = Memory { file: self.region.file(), bytes, chunk: self.options.frame_size.bytes() };
        deputy.register(socket, &memory).map_err(|source| Error::Umem { bytes, source })
    }

    /// The open sockets: each that is still bound can lend the UMEM to another.
    pub(crate) fn lenders(&self) -> Vec<Arc<Lease>> {
        self.slots.iter().filter(|s| s.open).filter_map(|s| s.lease.upgrade()).collect()
    }

    /// A slot for a socket on this queue, not yet open.
    pub(crate) fn claim_slot(&mut self, interface: &str, queue: u32) -> Result<u8, Error> {
        let same = |s: &Slot| s.interface == interface && s.queue == queue;
        if let Some(at) = self.slots.iter().position(same) {
            if self.slots[at].open {
                return Err(Error::AlreadyOpen { interface: interface.to_owned(), queue });
            }
            return Ok(slot_number(at));
        }
        let fresh = Slot { interface: interface.to_owned(), queue, ..Slot::default() };
        if let Some(at) = self.slots.iter().position(|s| !s.open && s.quarantined == 0) {
            self.slots[at] = fresh;
            return Ok(slot_number(at));
        }
        if self.slots.len() == MAX_SOCKETS {
            return Err(Error::TooManySockets(MAX_SOCKETS));
        }
        self.slots.push(fresh);
        Ok(slot_number(self.slots.len() - 1))
    }

    /// The socket of `slot` is being opened: its rings may take frames.
    pub(crate) fn opening(&mut self, slot: u8, lease: &Arc<Lease>) {
        let s = &mut self.slots[usize::from(slot)];
        s.open = true;
        s.closed_ns = None;
        s.lease = Arc::downgrade(lease);
    }

    /// The socket of `slot` is bound: what the queue held before it was closed is ours again.
    pub(crate) fn bound(&mut self, slot: u8, mode: BindMode) {
        self.mode = Some(mode);
        self.release_quarantine(slot);
    }

    /// Quarantine the frames of sockets that have gone.
    pub(crate) fn collect_closed(&mut self) {
        for slot in self.region.take_closed() {
            let s = &mut self.slots[usize::from(slot)];
            if !s.open {
                continue;
            }
            s.open = false;
            s.closed_ns = None;
            s.lease = Weak::new();
            s.quarantined += s.fill + s.tx;
            (s.fill, s.tx, s.tx_bytes) = (0, 0, 0);
            for state in &mut self.states {
                if *state == State::fill(slot) || *state == State::tx(slot) {
                    *state = State::quarantined(slot);
                }
            }
        }
    }

    fn release_quarantine(&mut self, slot: u8) {
        if self.slots[usize::from(slot)].quarantined == 0 {
            return;
        }
        for index in 0..self.region.frame_count() {
            if self.states[index as usize] == State::quarantined(slot) {
                self.put_free(index);
            }
        }
        self.slots[usize::from(slot)].quarantined = 0;
    }

    fn put_free(&mut self, index: u32) {
        self.states[index as usize] = State::FREE;
        self.free.push(index);
    }
}

impl std::fmt::Debug for Umem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Umem").field("options", &self.options).field("account", &self.account()).finish_non_exhaustive()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most MAX_SOCKETS = 64 slots")]
fn slot_number(at: usize) -> u8 {
    at as u8
}
