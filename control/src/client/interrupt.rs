//! Ends what another thread waits for at the reading end of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ClientError;
use super::answers::Bell;

/// Interrupts a [`StreamReader`](super::StreamReader) that was opened with it, whatever it waits for, until it is cleared.
/// Clones are the same.
#[derive(Debug, Clone)]
pub struct Interrupt {
    bell: Arc<Bell>,
    said: Arc<AtomicBool>,
}

impl Interrupt {
    /// One that was not said.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> Result<Self, ClientError> {
        Ok(Self { bell: Arc::new(Bell::new()?), said: Arc::default() })
    }

    /// The reader's thread stops waiting, with [`ClientError::Interrupted`]; nothing is lost.
    pub fn interrupt(&self) {
        self.said.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// It may wait again.
    pub fn clear(&self) {
        self.said.store(false, Ordering::Release);
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    pub(super) fn check(&self) -> Result<(), ClientError> {
        if self.said.load(Ordering::Acquire) { Err(ClientError::Interrupted) } else { Ok(()) }
    }
}
