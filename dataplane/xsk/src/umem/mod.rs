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
//! Limits: chunks of 2048 or 4096 bytes, aligned mode, no multi-buffer packets; at most 64 sockets; ring sizes are one
//! set per UMEM, because libxdp keeps the fill and completion sizes with the UMEM.

mod options;
mod state;
#[cfg(test)]
mod tests;

pub use options::{FrameSize, RingSizes, UmemOptions};

use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use xsk_rs::FrameDesc;

use crate::error::Error;
use crate::frame::{Frame, FreeFrame, HEADROOM_BYTES};
use crate::region::Region;
use crate::socket::BindMode;
use crate::stats::{FrameAccount, UmemCounters};
use crate::sys;
use options::umem_config;
use state::{Slot, State};

/// Sockets that one UMEM can tell apart: six bits of the state byte.
pub const MAX_SOCKETS: usize = 64;

/// How long frames of a closed socket stay away when its queue is not bound again, in nanoseconds.
///
/// The kernel gives a queue back in deferred work after the last reference (xp_put_pool, net/xdp/xsk_buff_pool.c);
/// that takes milliseconds. Binding the same queue again proves it is done; this is for queues that never come back.
pub const QUARANTINE_NS: u64 = 2_000_000_000;

/// The socket whose descriptor libxdp keeps for the UMEM: the first one.
#[derive(Debug, Clone, Copy)]
struct Owner {
    slot: u8,
    mode: BindMode,
}

/// Frames and their accounts. See the module's drawing.
pub struct Umem {
    region: &'static Region,
    xsk: xsk_rs::Umem,
    /// xsk-rs makes descriptors only here, so one per chunk is kept for the fill ring.
    descs: Box<[FrameDesc]>,
    free: Vec<u32>,
    states: Box<[State]>,
    /// Length of each frame while it is in state tx.
    tx_len: Box<[u16]>,
    slots: Vec<Slot>,
    held: u32,
    owner: Option<Owner>,
    /// The network namespace of libxdp's descriptor, while no socket has been opened.
    netns: Option<u64>,
    counters: UmemCounters,
    options: UmemOptions,
    huge_pages: bool,
}

impl Umem {
    /// Map, zero and register the memory. It stays mapped until the process ends. To be called in the network namespace
    /// in which the first socket will be opened.
    ///
    /// # Errors
    ///
    /// [`Error::BadSize`] for sizes out of range, [`Error::Umem`] if the kernel refuses.
    pub fn new(options: UmemOptions) -> Result<Self, Error> {
        let frame_size = options.frame_size.bytes();
        let count = NonZeroU32::new(options.frame_count).filter(|n| n.get() <= 1 << 20).ok_or(Error::BadSize {
            what: "frame_count",
            value: options.frame_count.into(),
            must: "1 to 2^20",
        })?;
        let config = umem_config(options)?;
        let bytes = frame_size as usize * count.get() as usize;
        let mut huge_pages = options.huge_pages;
        let made = match xsk_rs::Umem::new(config, count, huge_pages) {
            Err(refused) if huge_pages => {
                huge_pages = false;
                tracing::warn!(
                    bytes,
                    reason = %describe(&refused),
                    "no huge pages for the UMEM (vm.nr_hugepages?); using ordinary pages"
                );
                xsk_rs::Umem::new(config, count, false)
            }
            made => made,
        };
        let (xsk, mut descs) = made.map_err(|e| Error::Umem { bytes, reason: describe(&e) })?;
        // One reference that is never given back: the mapping outlives every frame.
        std::mem::forget(xsk.clone());
        let region = Region::leak(base_of(&xsk, &mut descs[0]), frame_size.trailing_zeros(), count.get());
        let n = count.get();
        Ok(Self {
            region,
            xsk,
            descs: descs.into_boxed_slice(),
            free: (0..n).rev().collect(),
            states: vec![State::FREE; n as usize].into_boxed_slice(),
            tx_len: vec![0; n as usize].into_boxed_slice(),
            slots: Vec::new(),
            held: 0,
            owner: None,
            netns: current_netns()?,
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
        self.owner.filter(|_| self.slots.iter().any(|s| s.open)).map(|owner| owner.mode)
    }

    /// Whether the memory really is on huge pages.
    #[must_use]
    pub fn on_huge_pages(&self) -> bool {
        self.huge_pages
    }

    // ---- for the rings -----------------------------------------------------------------------------------------

    /// Move up to `max` free frames to the fill ring of `slot`; their descriptors go into `out`. Returns how many.
    pub(crate) fn take_for_fill(&mut self, slot: u8, out: &mut [FrameDesc]) -> usize {
        let n = out.len().min(self.free.len());
        for desc in &mut out[..n] {
            let Some(index) = self.free.pop() else { break };
            self.states[index as usize] = State::fill(slot);
            *desc = self.descs[index as usize];
        }
        self.slots[usize::from(slot)].fill += u32::try_from(n).unwrap_or(0);
        n
    }

    /// A frame that the RX ring of `slot` hands over; `None`, counted, if the descriptor is not believable.
    pub(crate) fn accept_received(&mut self, slot: u8, address: usize, len: usize, more: bool) -> Option<Frame> {
        let Some((index, offset)) = self.region.locate(address) else {
            self.counters.bad_rx_address += 1;
            return None;
        };
        if self.states[index as usize] != State::fill(slot) {
            self.counters.bad_rx_address += 1;
            return None;
        }
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
    pub(crate) fn accept_completion(&mut self, slot: u8, address: usize) -> bool {
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

    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
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

    pub(crate) fn xsk(&self) -> &xsk_rs::Umem {
        &self.xsk
    }

    /// The mode that a new socket inherits; `None` if it will be the first.
    pub(crate) fn owner_mode(&self) -> Result<Option<BindMode>, Error> {
        let open = self.slots.iter().filter(|s| s.open).count();
        match self.owner {
            Some(owner) if self.slots[usize::from(owner.slot)].open => Ok(Some(owner.mode)),
            _ if open > 0 => Err(Error::OwnerClosed { open }),
            _ => Ok(None),
        }
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

    /// Make libxdp's descriptor usable for a first socket again, if an earlier first socket was closed. To be called
    /// before every attempt to bind a first socket: a failed one leaves the descriptor half set up.
    ///
    /// Beside xsk-rs, because libxdp 1.6 neither closes the first socket's descriptor before the UMEM is deleted nor
    /// can register existing memory on a new one; without this a first socket could never be recycled.
    pub(crate) fn renew_anchor(&mut self) -> Result<(), Error> {
        let Some(anchor) = self.region.anchor() else {
            return if self.netns == current_netns()? { Ok(()) } else { Err(Error::OtherNamespace) };
        };
        let fresh = sys::xdp_socket().map_err(Error::sys("socket(AF_XDP)"))?;
        let fd: BorrowedFd<'_> = fresh.as_fd();
        sys::register_umem(fd, self.region.base(), self.region.len(), self.options.frame_size.bytes())
            .map_err(Error::sys("XDP_UMEM_REG on a recycled socket"))?;
        // libxdp remembers that it has set these up on its descriptor, and will not do it again.
        sys::set_ring_size(fd, libc::XDP_RX_RING, self.options.rings.rx).map_err(Error::sys("XDP_RX_RING"))?;
        sys::set_ring_size(fd, libc::XDP_TX_RING, self.options.rings.tx).map_err(Error::sys("XDP_TX_RING"))?;
        sys::replace_descriptor(&fresh, anchor).map_err(Error::sys("dup3 over libxdp's descriptor"))
    }

    /// The socket of `slot` is bound: what the queue held before it was closed is ours again.
    pub(crate) fn opened(&mut self, slot: u8, first: Option<BindMode>) {
        if let Some(mode) = first {
            self.owner = Some(Owner { slot, mode });
        }
        self.release_quarantine(slot);
        let s = &mut self.slots[usize::from(slot)];
        s.open = true;
        s.closed_ns = None;
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

/// First byte of the mapping that xsk-rs made.
fn base_of(xsk: &xsk_rs::Umem, first: &mut FrameDesc) -> NonNull<u8> {
    let offset = first.addr();
    // SAFETY: `first` is the descriptor of chunk 0 of this very UMEM, and nobody else uses the UMEM yet.
    let data = unsafe { xsk.data_mut(first) };
    let base = data.contents().as_ptr().expose_provenance() - offset;
    // The mapping is not a Rust allocation: its address has been given to the kernel by xsk-rs, so it is exposed.
    let base = std::ptr::with_exposed_provenance_mut(base);
    NonNull::new(base).unwrap_or(NonNull::dangling())
}

/// The calling thread's network namespace.
fn current_netns() -> Result<Option<u64>, Error> {
    let probe = sys::xdp_socket().map_err(Error::sys("socket(AF_XDP) (CAP_NET_RAW?)"))?;
    sys::netns_cookie(probe.as_fd()).map_err(Error::sys("getsockopt(SO_NETNS_COOKIE)"))
}

#[expect(clippy::cast_possible_truncation, reason = "at most MAX_SOCKETS = 64 slots")]
fn slot_number(at: usize) -> u8 {
    at as u8
}

/// An error with its cause in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
