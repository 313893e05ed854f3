//! What is known to fail, as data: driver × kernel range × rung, with the reason and where it comes from.
//!
//! A row is for what crashes, stalls, or can never work; what merely may be refused is tried, and the kernel's answer is
//! the reason. Add a row instead of a special case in code.

use crate::driver::KernelVersion;
use crate::ladder::Rung;
use crate::umem::FrameSize;

/// One known failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirk {
    /// Driver, as ethtool names it.
    pub driver: &'static str,
    /// First kernel that has it; `None`: all before `until`.
    pub since: Option<KernelVersion>,
    /// First kernel that does not have it any more; `None`: no such kernel is known.
    pub until: Option<KernelVersion>,
    /// What not to try.
    pub rung: Rung,
    /// What would happen, for a person.
    pub reason: &'static str,
    /// Who says so: a kernel source file, or "tried" with the kernels.
    pub source: &'static str,
}

const fn always(driver: &'static str, rung: Rung, reason: &'static str, source: &'static str) -> Quirk {
    Quirk { driver, since: None, until: None, rung, reason, source }
}

const fn before(until: KernelVersion, always: Quirk) -> Quirk {
    Quirk { until: Some(until), ..always }
}

const fn only(since: KernelVersion, until: KernelVersion, always: Quirk) -> Quirk {
    Quirk { since: Some(since), until: Some(until), ..always }
}

/// The table.
pub const QUIRKS: &[Quirk] = &[
    always("veth", Rung::ZeroCopy, "veth has no AF_XDP zero-copy", "drivers/net/veth.c: no XDP_SETUP_XSK_POOL"),
    always("lo", Rung::ZeroCopy, "loopback has no AF_XDP zero-copy", "drivers/net/loopback.c: no ndo_bpf"),
    always("lo", Rung::DriverCopy, "loopback has no XDP in the driver", "drivers/net/loopback.c: no ndo_bpf"),
    always("e1000e", Rung::ZeroCopy, "e1000e has no AF_XDP zero-copy", "e1000e/netdev.c: no ndo_bpf; tried 6.1 to 7.2"),
    always(
        "e1000e",
        Rung::DriverCopy,
        "e1000e has no XDP in the driver",
        "e1000e/netdev.c: no ndo_bpf; tried 6.1 to 7.2",
    ),
    only(
        KernelVersion::new(6, 16, 12),
        KernelVersion::new(6, 16, 13),
        always("veth", Rung::DriverCopy, "AF_XDP copy-mode TX on veth panics this kernel", "tried 6.16.12"),
    ),
    only(
        KernelVersion::new(6, 16, 12),
        KernelVersion::new(6, 16, 13),
        always("veth", Rung::Generic, "AF_XDP copy-mode TX on veth panics this kernel", "tried 6.16.12"),
    ),
    before(
        KernelVersion::new(6, 13, 0),
        always("virtio_net", Rung::ZeroCopy, "virtio_net refuses zero-copy on this kernel", "tried 6.1 and 6.12"),
    ),
    before(
        KernelVersion::new(6, 13, 0),
        always("igb", Rung::ZeroCopy, "igb refuses zero-copy on this kernel", "tried 6.1 and 6.12"),
    ),
];

/// Drivers on which SO_PREFER_BUSY_POLL stalls zero-copy TX, because TX has its own NAPI: `sendto` returns 0 and nothing
/// completes. Plain SO_BUSY_POLL is fine. Tried on 6.16, 6.18 and 7.2 (igb with two CPUs).
pub const PREFER_BUSY_POLL_STALLS: &[&str] = &["virtio_net", "igb"];

/// Drivers that need chunks of a page, with the reason. igb tells its NIC the size of a buffer in whole kilobytes
/// (SRRCTL): a chunk of 2048 bytes less 256 of headroom leaves 1024, and longer frames arrive cut, as good ones. Tried
/// on 6.18 and 7.2.
pub const PAGE_CHUNKS: &[(&str, &str)] =
    &[("igb", "buffers are counted in whole kilobytes: of a 2048-byte chunk only 1024 would be used")];

/// The smallest chunk with which a driver receives whole frames of Ethernet's 1500 bytes in zero-copy mode.
#[must_use]
pub fn frame_size(driver: &str) -> FrameSize {
    if PAGE_CHUNKS.iter().any(|(name, _)| *name == driver) { FrameSize::Bytes4096 } else { FrameSize::Bytes2048 }
}

/// The row that denies this rung.
#[must_use]
pub fn find(driver: &str, kernel: Option<KernelVersion>, rung: Rung) -> Option<&'static Quirk> {
    QUIRKS.iter().find(|q| q.driver == driver && q.rung == rung && q.covers(kernel))
}

/// Whether SO_PREFER_BUSY_POLL may be set for a link of this driver on this rung.
#[must_use]
pub fn may_prefer_busy_poll(driver: &str, rung: Rung) -> bool {
    rung != Rung::ZeroCopy || !PREFER_BUSY_POLL_STALLS.contains(&driver)
}

impl Quirk {
    /// Whether a kernel has this quirk. An unknown kernel has only the quirks of all kernels.
    #[must_use]
    pub fn covers(&self, kernel: Option<KernelVersion>) -> bool {
        match kernel {
            Some(k) => self.since.is_none_or(|since| k >= since) && self.until.is_none_or(|until| k < until),
            None => self.since.is_none() && self.until.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open() {
        let at = |patch| find("veth", Some(KernelVersion::new(6, 16, patch)), Rung::DriverCopy);
        assert!(at(11).is_none());
        assert!(at(12).is_some());
        assert!(at(13).is_none());
        assert!(find("igb", KernelVersion::parse("6.12.9"), Rung::ZeroCopy).is_some());
        assert!(find("igb", KernelVersion::parse("6.16.0"), Rung::ZeroCopy).is_none());
        assert!(find("igb", None, Rung::ZeroCopy).is_none());
        assert!(find("veth", None, Rung::ZeroCopy).is_some());
    }

    #[test]
    fn every_row_says_why_and_the_socket_is_never_denied() {
        for quirk in QUIRKS {
            assert!(!quirk.reason.is_empty() && !quirk.source.is_empty(), "{quirk:?}");
            assert_ne!(quirk.rung, Rung::Socket, "{quirk:?}");
            assert!(quirk.since.zip(quirk.until).is_none_or(|(a, b)| a < b), "{quirk:?}");
        }
    }

    #[test]
    fn a_driver_that_counts_kilobytes_gets_pages() {
        assert_eq!(frame_size("igb"), FrameSize::Bytes4096);
        assert_eq!(frame_size("virtio_net"), FrameSize::Bytes2048);
        assert!(PAGE_CHUNKS.iter().all(|(_, reason)| !reason.is_empty()));
    }

    #[test]
    fn busy_polling_is_kept_from_drivers_that_stall() {
        assert!(!may_prefer_busy_poll("igb", Rung::ZeroCopy));
        assert!(may_prefer_busy_poll("igb", Rung::DriverCopy));
        assert!(may_prefer_busy_poll("ice", Rung::ZeroCopy));
    }
}
