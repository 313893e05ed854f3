//! Names that are not synced, and chance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was done to a name.
pub(super) enum NameChange {
    Is(PathBuf, u64),
    Gone(PathBuf),
    Moved(PathBuf, PathBuf),
}

impl NameChange {
    /// The folder that must be synced for it.
    pub(super) fn folder(&self) -> Option<&Path> {
        let (Self::Is(path, _) | Self::Gone(path) | Self::Moved(_, path)) = self;
        path.parent()
    }

    pub(super) fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Is(path, inode) => {
                names.insert(path, inode);
            }
            Self::Gone(path) => {
                names.remove(&path);
            }
            Self::Moved(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

/// Chance from a seed (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
