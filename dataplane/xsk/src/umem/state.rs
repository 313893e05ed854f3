//! Where each chunk is, and each socket's share of them. Plain data; the rules are the parent module's.

use std::sync::Weak;

use crate::socket::Lease;
use crate::stats::FrameAccount;

/// Where a chunk is, in one byte: two bits of kind, six of slot (zero for the first two kinds).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct State(u8);

impl State {
    pub(super) const FREE: Self = Self(0);
    pub(super) const HELD: Self = Self(1);
    pub(super) fn fill(slot: u8) -> Self {
        Self(0x40 | slot)
    }
    pub(super) fn tx(slot: u8) -> Self {
        Self(0x80 | slot)
    }
    pub(super) fn quarantined(slot: u8) -> Self {
        Self(0xC0 | slot)
    }

    /// Add one chunk in this state to an account.
    pub(super) fn add_to(self, account: &mut FrameAccount) {
        match (self, self.0 & 0xC0) {
            (Self::FREE, _) => account.free += 1,
            (Self::HELD, _) => account.held += 1,
            (_, 0x40) => account.fill += 1,
            (_, 0x80) => account.tx += 1,
            (_, _) => account.quarantined += 1,
        }
    }
}

/// One socket's share of the UMEM.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) interface: String,
    pub(super) queue: u32,
    /// From before its rings are filled until its last ring is gone.
    pub(super) open: bool,
    /// The open socket.
    pub(super) lease: Weak<Lease>,
    pub(super) fill: u32,
    pub(super) tx: u32,
    pub(super) tx_bytes: u64,
    pub(super) quarantined: u32,
    /// When housekeeping first saw it closed, in nanoseconds.
    pub(super) closed_ns: Option<u64>,
}
