//! A small seeded mutator, so that the ordinary test command tries the same inputs on every machine. It has no coverage
//! to steer by; libFuzzer does that (`cargo xtask fuzz`).

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Equal seeds, equal numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit as u64) as usize
    }
}

/// Longest input that comes out, in bytes: libFuzzer's own default.
pub const MAX_BYTES: usize = 4096;

/// A seed with a few changes: flipped bits, edge values, pieces cut, doubled, filled in or taken from another seed.
#[must_use]
pub fn mutant(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, 0x10, b'\n'];
    let mut bytes = if seeds.is_empty() { Vec::new() } else { seeds[rng.below(seeds.len())].clone() };
    for _ in 0..=rng.below(6) {
        let at = rng.below(bytes.len() + 1);
        let len = rng.below((bytes.len() - at).min(16) + 1);
        match rng.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = EDGES[rng.below(EDGES.len())];
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.draw() as u8;
                }
            }
            3 => drop(bytes.drain(at..at + len)),
            4 => {
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let piece: Vec<u8> = (0..rng.below(16)).map(|_| rng.draw() as u8).collect();
                bytes.splice(at..at, piece);
            }
            6 => bytes.truncate(at),
            7 => bytes[at..at + len].fill(EDGES[rng.below(EDGES.len())]),
            _ => {
                if !seeds.is_empty() {
                    let other = &seeds[rng.below(seeds.len())];
                    let from = rng.below(other.len() + 1);
                    let to = from + rng.below((other.len() - from).min(64) + 1);
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
            }
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}
