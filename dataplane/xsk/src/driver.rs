//! Which driver an interface has, and which kernel this is: the keys of the quirk table.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::sys;

/// The driver of an interface as ethtool names it: `igb`, `virtio_net`, `veth`, `lo`; `unknown` if nothing says.
///
/// The link under /sys/class/net/IF/device/driver names the driver of real devices; veth and other virtual ones have
/// none and answer ETHTOOL_GDRVINFO; loopback has neither, and is known by its type (ARPHRD_LOOPBACK = 772,
/// linux/if_arp.h).
#[must_use]
pub fn driver_name(interface: &str) -> String {
    if let Ok(driver) = sys::ethtool_driver(interface) {
        return driver;
    }
    let class = Path::new("/sys/class/net").join(interface.replace('/', "!"));
    if let Ok(link) = fs::read_link(class.join("device/driver"))
        && let Some(name) = link.file_name()
    {
        return name.to_string_lossy().into_owned();
    }
    match fs::read_to_string(class.join("type")).as_deref().map(str::trim) {
        Ok("772") => "lo".to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// A kernel version, as far as quirks depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// 6 of 6.18.44
    pub major: u32,
    /// 18 of 6.18.44
    pub minor: u32,
    /// 44 of 6.18.44; 0 if the release does not say
    pub patch: u32,
}

impl KernelVersion {
    /// This version.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// The running kernel's; `None` if its release is not numbers and dots in front.
    #[must_use]
    pub fn running() -> Option<Self> {
        Self::parse(fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim())
    }

    /// From a release such as `6.18.44-amd64` or `7.2-rc1`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let number = release.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut part = number.split('.');
        let major = part.next()?.parse().ok()?;
        let minor = part.next()?.parse().ok()?;
        let patch = part.next().and_then(|p| p.parse().ok()).unwrap_or(0);
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        assert_eq!(KernelVersion::parse("6.18.44-fc-v595"), Some(KernelVersion::new(6, 18, 44)));
        assert_eq!(KernelVersion::parse("6.1.0-37-amd64"), Some(KernelVersion::new(6, 1, 0)));
        assert_eq!(KernelVersion::parse("7.2-rc1"), Some(KernelVersion::new(7, 2, 0)));
        assert_eq!(KernelVersion::parse("linux"), None);
        assert!(KernelVersion::running().is_some());
    }

    #[test]
    fn loopback_has_a_name() {
        assert_eq!(driver_name("lo"), "lo");
        assert_eq!(driver_name("no-such-if"), "unknown");
    }
}
