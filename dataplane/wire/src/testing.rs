//! What the tests share: systematic damage to valid bytes.

use std::vec::Vec;

/// Calls `check` with every variant of `bytes` in which exactly one byte is different.
pub(crate) fn each_mutation(bytes: &[u8], mut check: impl FnMut(usize, &[u8])) {
    let mut mutated = Vec::from(bytes);
    for at in 0..bytes.len() {
        for flip in 1..=255 {
            mutated[at] = bytes[at] ^ flip;
            check(at, &mutated);
        }
        mutated[at] = bytes[at];
    }
}

/// Calls `check` with every proper prefix of `bytes`.
pub(crate) fn each_truncation(bytes: &[u8], mut check: impl FnMut(&[u8])) {
    for len in 0..bytes.len() {
        check(&bytes[..len]);
    }
}
