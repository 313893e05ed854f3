//! What a reader says that it has: few words, and none late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::answers::Bell;

/// So many bytes are worth a word at once …
const STEP_BYTES: u64 = 256 << 10;
/// … and otherwise there is one in so long: a trickle is confirmed soon, and a quick stream costs few words.
const PAUSE: Duration = Duration::from_millis(20);

/// Says for its program, from any thread, which bytes of a stream are there for good: the sender may forget them. Clones
/// are the same.
#[derive(Debug, Clone)]
pub struct Processed {
    offset: Arc<AtomicU64>,
    bell: Arc<Bell>,
}

impl Processed {
    /// All bytes before `offset`. Never less than before, nor more than was read. The reader passes it on from within
    /// [`StreamReader::read`](super::StreamReader::read), also while that waits.
    pub fn up_to(&self, offset: u64) {
        if self.offset.fetch_max(offset, Ordering::AcqRel) < offset {
            self.bell.ring();
        }
    }
}

/// The words of one reader.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Without it, what was read before the last call is processed.
    by_hand: Option<Processed>,
    processed: u64,
    said: u64,
    said_at: Option<Instant>,
    /// Of the present `Listen`.
    number: u64,
    /// The word at the end says the rest.
    over: bool,
}

impl Words {
    pub(super) fn new(processed: u64) -> Self {
        Self { processed, said: processed, ..Self::default() }
    }

    pub(super) fn by_hand(&mut self, bell: &Arc<Bell>) -> Processed {
        let processed = Processed { offset: Arc::new(AtomicU64::new(self.processed)), bell: bell.clone() };
        self.by_hand.get_or_insert(processed).clone()
    }

    /// The program asks for more, and has had `read`.
    pub(super) fn asked_for_more(&mut self, read: u64) {
        self.processed = match &self.by_hand {
            None => read,
            Some(by_hand) => by_hand.offset.load(Ordering::Acquire).clamp(self.processed, read),
        };
    }

    /// The program has all.
    pub(super) fn took_all(&mut self, read: u64) {
        (self.processed, self.over) = (read, true);
    }

    pub(super) fn is_by_hand(&self) -> bool {
        self.by_hand.is_some()
    }

    pub(super) fn processed(&self) -> u64 {
        self.processed
    }

    /// For another `Listen`, which says what is processed.
    pub(super) fn begin(&mut self) -> u64 {
        self.said = self.processed;
        self.number = uuid::Uuid::new_v4().as_u64_pair().1;
        self.number
    }

    /// Some of them may be lost.
    pub(super) fn repeat(&mut self) {
        self.said = 0;
    }

    /// When the next is due, if there is one.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.processed > self.said && !self.over).then(|| self.said_at.map_or_else(Instant::now, |said| said + PAUSE))
    }

    /// The next word, number and place, if it is due or wanted `now`.
    pub(super) fn next(&mut self, now: bool) -> Option<(u64, u64)> {
        let at = self.due()?;
        if !now && self.processed - self.said < STEP_BYTES && Instant::now() < at {
            return None;
        }
        (self.said, self.said_at) = (self.processed, Some(Instant::now()));
        Some((self.number, self.said))
    }
}
