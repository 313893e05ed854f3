//! What is sent: pseudo-random bytes in memory, the same amount for everybody, larger than the caches, so that nobody
//! encrypts out of a warm cache what others fetch from memory.

use bytes::Bytes;

/// Bytes that are different; then they come again.
pub const PAYLOAD_BYTES: usize = 64 << 20;
/// Bytes of one piece: what is written to a stream, or supplied to the engine, at once.
pub const PIECE_BYTES: usize = 64 << 10;

/// An endless payload.
#[derive(Debug, Clone)]
pub struct Payload(Bytes);

impl Default for Payload {
    fn default() -> Self {
        let mut bytes = vec![0; PAYLOAD_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        Self(bytes.into())
    }
}

impl Payload {
    /// Bytes from `offset` on without a copy: a piece, or less where `limit` or the payload's own end cuts it.
    #[must_use]
    pub fn piece(&self, offset: u64, limit: u64) -> Bytes {
        let at = (offset % PAYLOAD_BYTES as u64) as usize;
        let left = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = PIECE_BYTES.min(left).min(PAYLOAD_BYTES - at);
        self.0.slice(at..at + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_go_round_and_end_at_the_limit() {
        let payload = Payload::default();
        let end = PAYLOAD_BYTES as u64;
        assert_eq!(payload.piece(end - 10, u64::MAX).len(), 10);
        assert_eq!(payload.piece(end, u64::MAX), payload.piece(0, u64::MAX));
        assert_eq!(payload.piece(5, 8).len(), 3);
        assert_ne!(payload.piece(0, u64::MAX), payload.piece(PIECE_BYTES as u64, u64::MAX));
    }
}
