//! Bytes for a pipe: those that its reader has not taken, and, where they are kept, those that it has not released.
//!
//! ```text
//!   start ─ kept ─ wrote ─ not written ─ end        nothing is kept: start = wrote
//! ```

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::READ_BYTES;

/// What becomes of written bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Forgotten,
    /// Until they are released, also when the reader goes.
    Kept,
}

pub(super) struct Writing {
    queue: VecDeque<u8>,
    /// Place of its first byte in all that came.
    start: u64,
    wrote: u64,
    written: Written,
}

impl Writing {
    pub(super) fn new(written: Written) -> Self {
        Self { queue: VecDeque::new(), start: 0, wrote: 0, written }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.queue.extend(data);
    }

    /// Writes what the pipe takes; the bytes written in all, if there are more now.
    pub(super) fn write(&mut self, pipe: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
        let before = self.wrote;
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                break;
            }
            match rustix::io::write(pipe, rest) {
                Ok(n) => self.wrote += n as u64,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error),
            }
            if !self.keeps() {
                self.release(self.wrote);
            }
        }
        Ok((self.wrote > before).then_some(self.wrote))
    }

    /// What is kept below this byte is not wanted any more.
    pub(super) fn release(&mut self, below: u64) {
        let end = below.min(self.wrote).max(self.start);
        self.queue.drain(..(end - self.start) as usize);
        self.start = end;
        if self.queue.is_empty() {
            self.queue.shrink_to(READ_BYTES);
        }
    }

    /// Another reader goes on at this byte, or at the first that is kept.
    pub(super) fn rewind(&mut self, to: u64) {
        self.wrote = to.min(self.wrote).max(self.start);
    }

    pub(super) fn keeps(&self) -> bool {
        self.written == Written::Kept
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// What is not written, as far as it lies in one piece.
    fn rest(&self) -> &[u8] {
        let (first, second) = self.queue.as_slices();
        let at = (self.wrote - self.start) as usize;
        if at < first.len() { &first[at..] } else { &second[at - first.len()..] }
    }
}
