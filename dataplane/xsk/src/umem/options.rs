//! What a UMEM is to be: chunk size and number, ring sizes, huge pages; checked before the kernel sees them.

use crate::error::Error;

/// Bytes of a chunk; the larger is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum FrameSize {
    /// Two chunks a page: enough for Ethernet 1500 with labels.
    #[default]
    Bytes2048,
    /// One chunk a page: for drivers that want page-sized frames, and MTUs up to 3800.
    Bytes4096,
}

impl FrameSize {
    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            Self::Bytes2048 => 2048,
            Self::Bytes4096 => 4096,
        }
    }
}

/// Descriptors in the rings of every socket of a UMEM; powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// RX ring. The fill ring has twice as many: the driver takes a batch before it returns the previous one.
    pub rx: u32,
    /// TX ring; the completion ring has as many, because the kernel reserves a completion for each frame it takes.
    pub tx: u32,
}

impl Default for RingSizes {
    fn default() -> Self {
        Self { rx: 2048, tx: 2048 }
    }
}

impl RingSizes {
    /// Descriptors in the fill ring.
    #[must_use]
    pub fn fill(self) -> u32 {
        self.rx.saturating_mul(2)
    }
}

/// What a UMEM is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UmemOptions {
    /// Bytes of a chunk.
    pub frame_size: FrameSize,
    /// Number of chunks, 1 to 2^20.
    pub frame_count: u32,
    /// Ring sizes of every socket of this UMEM.
    pub rings: RingSizes,
    /// Try huge pages (MAP_HUGETLB) first; falls back to ordinary pages with a warning.
    pub huge_pages: bool,
}

impl Default for UmemOptions {
    fn default() -> Self {
        Self { frame_size: FrameSize::default(), frame_count: 8192, rings: RingSizes::default(), huge_pages: true }
    }
}

/// Which option is out of range.
pub(super) fn check(options: UmemOptions) -> Result<(), Error> {
    if !(1..=1 << 20).contains(&options.frame_count) {
        return Err(Error::BadSize { what: "frame_count", value: options.frame_count.into(), must: "1 to 2^20" });
    }
    let rings = [
        ("rings.rx", options.rings.rx),
        ("fill ring (twice rings.rx)", options.rings.fill()),
        ("rings.tx", options.rings.tx),
    ];
    for (what, value) in rings {
        if !value.is_power_of_two() || !(64..=1 << 15).contains(&value) {
            return Err(Error::BadSize { what, value: value.into(), must: "a power of two from 64 to 32768" });
        }
    }
    Ok(())
}
