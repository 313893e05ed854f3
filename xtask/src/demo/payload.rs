//! The file that is sent: random bytes, because a compressible or sparse file would prove less.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Result;
use florelay_e2e::interrupted;

const CHUNK_BYTES: usize = 1 << 16;

/// Writes `megabytes` × 10^6 bytes. The same every time, from a fixed seed: a failure can be repeated.
pub(super) fn write(path: &Path, megabytes: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = megabytes * 1_000_000;
    let mut chunk = [0; CHUNK_BYTES];
    while left > 0 {
        anyhow::ensure!(!interrupted(), "interrupted");
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&next(&mut state).to_le_bytes());
        }
        let count = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        file.write_all(&chunk[..count])?;
        left -= count as u64;
    }
    file.flush()?;
    Ok(())
}

/// xorshift64* (Vigna, 2014).
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_exact_and_the_bytes_do_not_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("payload");
        write(&file, 1).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes.len(), 1_000_000);
        assert_ne!(bytes[..CHUNK_BYTES], bytes[CHUNK_BYTES..2 * CHUNK_BYTES]);
    }
}
