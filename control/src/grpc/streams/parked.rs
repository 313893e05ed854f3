//! Streams whose reader may come back: what is kept of one, and where it waits.
//!
//! Invariant: a stream is either with a call ([`Parked::reads`]), or waiting here, or unknown; a call that asks for one that
//! is with another call takes it over, because that one's client may have gone without a word.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::timeout;
use tonic::Status;

use super::progress::Progress;
use crate::client::{Interrupt, StreamReader};

/// How long the thread of another call may take to let go of a stream.
const HAND_OVER: Duration = Duration::from_secs(5);

/// A stream that is read here.
pub(super) struct Held {
    pub(super) reader: StreamReader,
    pub(super) window: Window,
    pub(super) interrupt: Interrupt,
    pub(super) linger: Duration,
    pub(super) place: OwnedSemaphorePermit,
}

/// What was read and not called processed.
pub(super) struct Window {
    /// Place of its first byte.
    pub(super) base: u64,
    /// The pieces, unless nobody may come back for them.
    bytes: VecDeque<Bytes>,
    /// Their size.
    pub(super) kept: u64,
    keeps: bool,
}

impl Window {
    /// Of a stream that begins; `keeps`: somebody may come back for what is in it.
    pub(super) fn new(keeps: bool) -> Self {
        Self { base: 0, bytes: VecDeque::new(), kept: 0, keeps }
    }

    pub(super) fn end(&self) -> u64 {
        self.base + self.kept
    }

    pub(super) fn push(&mut self, piece: &Bytes) {
        self.kept += piece.len() as u64;
        if self.keeps {
            self.bytes.push_back(piece.clone());
        }
    }

    /// The pieces.
    pub(super) fn pieces(&self) -> Vec<Bytes> {
        self.bytes.iter().cloned().collect()
    }

    /// Forgets what comes before this place.
    pub(super) fn processed(&mut self, offset: u64) {
        let mut done = offset.min(self.end()).saturating_sub(self.base);
        self.base += done;
        self.kept -= done;
        while let Some(piece) = self.bytes.front_mut().filter(|_| done > 0) {
            let size = (piece.len() as u64).min(done);
            done -= size;
            if size == piece.len() as u64 {
                self.bytes.pop_front();
            } else {
                *piece = piece.slice(usize::try_from(size).unwrap_or(0)..);
            }
        }
    }
}

/// Streams that wait for another call of their reader, and those that are with one.
#[derive(Clone, Default)]
pub(in super::super) struct Parked(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Each with a number, by which it is ended if nobody came.
    waiting: HashMap<u128, (u64, Box<Held>)>,
    /// Those that could be parked.
    read: HashMap<u128, (Arc<Progress>, Interrupt)>,
    number: u64,
}

impl Parked {
    /// The stream is with this call.
    pub(super) fn reads(&self, id: u128, progress: Arc<Progress>, interrupt: Interrupt) {
        self.lock().read.insert(id, (progress, interrupt));
    }

    /// It is with no call any more; `held` is what is left of it, and waits. The number is for [`Self::expire`].
    pub(super) fn leaves(&self, id: u128, held: Option<Box<Held>>) -> Option<u64> {
        let mut state = self.lock();
        state.read.remove(&id);
        let number = held.map(|held| {
            state.number += 1;
            let number = state.number;
            state.waiting.insert(id, (number, held));
            number
        });
        drop(state);
        self.0.changed.notify_waiters();
        number
    }

    /// Takes a stream over, from a call if it is with one. `None`: it is not known here.
    ///
    /// # Errors
    /// `offset` cannot be had any more; or the other call does not let go of it.
    pub(super) async fn take(&self, id: u128, offset: u64) -> Result<Option<Box<Held>>, Status> {
        let taken = timeout(HAND_OVER, async {
            loop {
                let changed = self.0.changed.notified();
                {
                    let mut state = self.lock();
                    if let Some((_, held)) = state.waiting.get(&id) {
                        let (from, to) = (held.window.base, held.window.end());
                        if !(from..=to).contains(&offset) {
                            let reason = format!("open.offset_bytes: {offset}; bytes {from} to {to} can be had");
                            return Err(Status::out_of_range(reason));
                        }
                        return Ok(state.waiting.remove(&id).map(|(_, held)| held));
                    }
                    let Some((progress, interrupt)) = state.read.get(&id) else { return Ok(None) };
                    progress.gone(Some(Status::aborted("another call reads this stream on")));
                    interrupt.interrupt();
                }
                changed.await;
            }
        });
        taken.await.unwrap_or_else(|_| Err(Status::unavailable("another call has not let go of this stream yet")))
    }

    /// Gives a stream up that still waits.
    pub(super) fn expire(&self, id: u128, number: u64) {
        let mut state = self.lock();
        let late = state.waiting.get(&id).is_some_and(|(parked, _)| *parked == number);
        let gone = if late { state.waiting.remove(&id) } else { None };
        drop(state);
        // Dropped, the reader gives its stream up; not under the lock.
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
