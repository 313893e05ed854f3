//! The tag of a liveness message: a keyed BLAKE3 hash, cut.

use florelay_wire::oam::TAG_BYTES;

/// The tag of `covered` under `key`.
pub(super) fn tag_of(key: &[u8; 32], covered: &[u8]) -> [u8; TAG_BYTES] {
    let hash = blake3::keyed_hash(key, covered);
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&hash.as_bytes()[..TAG_BYTES]);
    tag
}

/// Compares in constant time: `blake3::Hash` does, so both are padded to its size.
pub(super) fn same_tag(a: &[u8; TAG_BYTES], b: &[u8; TAG_BYTES]) -> bool {
    let padded = |tag: &[u8; TAG_BYTES]| {
        let mut bytes = [0; blake3::OUT_LEN];
        bytes[..TAG_BYTES].copy_from_slice(tag);
        blake3::Hash::from_bytes(bytes)
    };
    padded(a) == padded(b)
}
