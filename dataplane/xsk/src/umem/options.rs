//! What a UMEM is to be: chunk size and number, ring sizes, huge pages; checked before the kernel sees them.

use xsk_rs::config::{FrameSize as XskFrameSize, QueueSize, UmemConfig};

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

/// xsk-rs's configuration, or which option is out of range.
pub(super) fn umem_config(options: UmemOptions) -> Result<UmemConfig, Error> {
    let size = |what, value: u32| {
        QueueSize::new(value).ok().filter(|_| (64..=1 << 15).contains(&value)).ok_or(Error::BadSize {
            what,
            value: value.into(),
            must: "a power of two from 64 to 32768",
        })
    };
    size("rings.rx", options.rings.rx)?;
    let bad_frame = |_| Error::BadSize { what: "frame_size", value: 0, must: "2048 or 4096" };
    let mut builder = UmemConfig::builder();
    builder
        .frame_size(XskFrameSize::new(options.frame_size.bytes()).map_err(bad_frame)?)
        .fill_queue_size(size("fill ring (twice rings.rx)", options.rings.fill())?)
        .comp_queue_size(size("rings.tx", options.rings.tx)?);
    builder.build().map_err(|_| Error::BadSize { what: "frame_size", value: 0, must: "2048 or 4096" })
}
