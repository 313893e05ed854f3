//! What of a stream the spool's thread is not given yet: a quick receiver confirms it before it need be on a disk.
//!
//! ```text
//!   confirmed ───── handed on ─────────── waiting ─────── head
//!        │ written to segments, or passed over │ in memory alone, with the program that wrote it as the other copy
//! ```
//!
//! Nothing of it is accepted before it was handed on and synced, so its writer still has it. The receiver is *quick* as long
//! as, between two looks, it confirms what had been supplied at the first; and much, as whoever writes little waits for each
//! word that it is accepted. What waits is bounded as everything is that is not on the disk: the writer's pipe is not read.

use bytes::Bytes;

use florelay_spool::memory::Memory;

/// Bytes confirmed between two looks, at least, for a receiver to be quick: 100 Mbit/s at a look each 100 ms.
const LEAST_BYTES: u64 = 1 << 20;
/// Confirmed bytes are handed on in batches of this size, or at the next look.
const BATCH_BYTES: u64 = 512 << 10;

/// See the module.
pub(super) struct Ahead {
    waiting: Memory,
    /// First byte that waits.
    at: u64,
    quick: bool,
    /// What was confirmed, and supplied, at the last look.
    last: Option<(u64, u64)>,
}

impl Ahead {
    /// Of a new stream: it is taken for quick until the second look.
    pub(super) fn new() -> Self {
        Self { waiting: Memory::default(), at: 0, quick: true, last: None }
    }

    /// Of a stream from before a restart, which has its bytes below `head` on the disk.
    pub(super) fn found(head: u64) -> Self {
        Self { at: head, quick: false, ..Self::new() }
    }

    pub(super) fn is_quick(&self) -> bool {
        self.quick
    }

    /// The stream's next bytes. What is to be handed on now is taken with `due`.
    pub(super) fn push(&mut self, data: Bytes) {
        self.waiting.push(data);
    }

    /// What is to be handed on, by what is confirmed.
    pub(super) fn due(&mut self, confirmed: u64) -> impl Iterator<Item = Bytes> {
        let to = match self.quick {
            false => u64::MAX,
            true if confirmed >= self.at.saturating_add(BATCH_BYTES) => confirmed,
            true => 0,
        };
        self.take(to)
    }

    /// All of it: the stream ends, or this node.
    pub(super) fn all(&mut self) -> impl Iterator<Item = Bytes> {
        self.take(u64::MAX)
    }

    /// To be called about every 100 ms; what is to be handed on then. Supplied: first byte that the engine was not given.
    pub(super) fn look(&mut self, confirmed: u64, supplied: u64) -> impl Iterator<Item = Bytes> {
        if let Some((confirmed_then, supplied_then)) = self.last.replace((confirmed, supplied)) {
            self.quick = confirmed >= supplied_then && confirmed >= confirmed_then.saturating_add(LEAST_BYTES);
        }
        self.take(if self.quick { confirmed } else { u64::MAX })
    }

    /// Whole pieces below `to`.
    fn take(&mut self, to: u64) -> impl Iterator<Item = Bytes> {
        std::iter::from_fn(move || {
            let piece = self.waiting.pop(to.saturating_sub(self.at))?;
            self.at += piece.len() as u64;
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 64 << 10;

    fn bytes(pieces: impl Iterator<Item = Bytes>) -> u64 {
        pieces.map(|piece| piece.len() as u64).sum()
    }

    fn push(ahead: &mut Ahead, pieces: u64) {
        (0..pieces).for_each(|_| ahead.push(vec![0; PIECE as usize].into()));
    }

    #[test]
    fn a_quick_receivers_bytes_are_handed_on_when_they_are_confirmed_and_in_batches() {
        let mut ahead = Ahead::new();
        push(&mut ahead, 100);
        assert_eq!(bytes(ahead.due(0)), 0);
        assert_eq!(bytes(ahead.due(BATCH_BYTES - 1)), 0);
        // Whole pieces.
        assert_eq!(bytes(ahead.due(BATCH_BYTES + 100)), BATCH_BYTES);
        assert_eq!(bytes(ahead.look(BATCH_BYTES + PIECE, 90 * PIECE)), PIECE);
        assert_eq!(bytes(ahead.look(90 * PIECE, 100 * PIECE)), 90 * PIECE - BATCH_BYTES - PIECE);
        push(&mut ahead, 10);
        assert_eq!(bytes(ahead.due(90 * PIECE)), 0);
        assert_eq!(bytes(ahead.all()), 20 * PIECE);
        assert_eq!(bytes(ahead.due(200 * PIECE)), 0);
    }

    #[test]
    fn what_a_slow_receiver_leaves_is_handed_on_at_once_until_it_is_quick_again() {
        // Dark; a little at a time; much, with a long way to go; and in the end quick.
        for (confirmed, supplied, quick) in [
            ([0, 0], [10 * PIECE, 50 * PIECE], false),
            ([0, PIECE], [PIECE, PIECE], false),
            ([PIECE, 40 * PIECE], [50 * PIECE, 99 * PIECE], false),
            ([PIECE, 40 * PIECE], [40 * PIECE, 99 * PIECE], true),
        ] {
            let mut ahead = Ahead::new();
            push(&mut ahead, 100);
            let first = bytes(ahead.look(confirmed[0], supplied[0]));
            assert_eq!(first, confirmed[0], "the first look has nothing to compare with");
            let second = bytes(ahead.look(confirmed[1], supplied[1]));
            assert_eq!(first + second, if quick { confirmed[1] } else { 100 * PIECE });
            push(&mut ahead, 1);
            assert_eq!(bytes(ahead.due(confirmed[1])), if quick { 0 } else { PIECE });
        }
        let mut ahead = Ahead::found(1000);
        push(&mut ahead, 1);
        assert_eq!(bytes(ahead.due(0)), PIECE);
    }
}
