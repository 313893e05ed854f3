//! How many bytes all spools of a node have on disk, and how many they may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SegmentError;

/// The account that all streams of a node share. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Account(Arc<Totals>);

#[derive(Debug)]
struct Totals {
    limit: u64,
    used: AtomicU64,
}

impl Account {
    /// With this limit in bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Totals { limit, used: AtomicU64::new(0) }))
    }

    /// Bytes on disk.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The limit, in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.0.limit);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn change(&self, add: u64, subtract: u64) {
        self.0.used.fetch_add(add, Ordering::Relaxed);
        self.0.used.fetch_sub(subtract, Ordering::Relaxed);
    }
}

/// One stream's part of it, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    account: Account,
    used: u64,
    limit: u64,
}

impl Share {
    pub(super) fn new(account: &Account, limit: u64) -> Self {
        Self { account: account.clone(), used: 0, limit }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used).min(self.account.limit().saturating_sub(self.account.used()))
    }

    /// Less than half of either limit is left.
    pub(super) fn is_scarce(&self) -> bool {
        self.used > self.limit / 2 || self.account.used() > self.account.limit() / 2
    }

    pub(super) fn take(&mut self, bytes: u64) -> Result<(), SegmentError> {
        if self.used.saturating_add(bytes) > self.limit || !self.account.take(bytes) {
            return Err(SegmentError::Full);
        }
        self.used += bytes;
        Ok(())
    }

    /// What was found on disk counts, also beyond a limit that was lowered meanwhile.
    pub(super) fn found(&mut self, bytes: u64) {
        self.account.change(bytes, 0);
        self.used += bytes;
    }

    pub(super) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.used);
        self.account.change(0, bytes);
        self.used -= bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.account.change(0, self.used);
    }
}
