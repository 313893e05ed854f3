//! A fast keyed 128-bit checksum: two independent lanes of 64-bit folded multiplication.
//!
//! It stands in for an AEAD tag, so that corruption, a wrong key and a wrong packet number are detected (a miss has
//! a chance near 2^-128 for accidental damage). It is **not** cryptographic and never leaves the simulation.

/// Key of one checksum: one word per lane.
pub(super) type Key = [u64; 2];

/// Bytes of a checksum; the tag length of AES-GCM, so that packets have the sizes they have in production.
pub(super) const TAG_BYTES: usize = 16;

/// Odd multipliers of the lanes: the golden ratio and the square root of 3, as 64-bit fractions.
const LANE_MULTIPLIERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// Checksum over `number` and the concatenation of `parts`, each with its length.
pub(super) fn checksum(key: Key, number: u64, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
    let mut lanes = key;
    absorb(&mut lanes, number);
    for part in parts {
        absorb(&mut lanes, part.len() as u64);
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            absorb(&mut lanes, u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            absorb(&mut lanes, u64::from_le_bytes(last));
        }
    }
    // The key once more, so that a lane that fell to zero at the end does not forget it.
    let mut tag = [0; TAG_BYTES];
    tag[..8].copy_from_slice(&fold(lanes[0] ^ key[1].rotate_left(32), LANE_MULTIPLIERS[1]).to_le_bytes());
    tag[8..].copy_from_slice(&fold(lanes[1] ^ key[0].rotate_left(32), LANE_MULTIPLIERS[0]).to_le_bytes());
    tag
}

fn absorb(lanes: &mut Key, word: u64) {
    for (lane, multiplier) in lanes.iter_mut().zip(LANE_MULTIPLIERS) {
        *lane = fold(lane.rotate_left(23) ^ word, multiplier).wrapping_add(multiplier);
    }
}

/// Both halves of the 128-bit product, so that every input bit reaches every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_bit_changes_the_tag() {
        let key = [3, 5];
        let data: Vec<u8> = (0..67).collect();
        let tag = checksum(key, 9, &[&data]);
        for bit in 0..data.len() * 8 {
            let mut other = data.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(key, 9, &[&other]), tag, "bit {bit}");
        }
        assert_ne!(checksum(key, 10, &[&data]), tag, "number");
        assert_ne!(checksum([3, 4], 9, &[&data]), tag, "key lane 1");
        assert_ne!(checksum([2, 5], 9, &[&data]), tag, "key lane 0");
        assert_ne!(checksum(key, 9, &[&data[..60], &data[60..]]), tag, "part boundary");
    }
}
