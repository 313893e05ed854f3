//! The rung ladder: the ways to move frames on an interface, best first, and why each better one is not taken.
//!
//! ```text
//!   zero-copy     XDP in the driver, XDP_ZEROCOPY bind
//!   driver copy   XDP in the driver, XDP_COPY bind
//!   generic       XDP on the skb,    XDP_COPY bind
//!   socket        a UDP socket, no XDP: always there
//! ```
//!
//! Pure: it attaches and binds nothing. The adapter asks for the next rung, tries it, and reports; what the quirk
//! table or the operator denies is passed over with its reason. A zero-copy and a copy socket need separate UMEMs, so
//! a worker whose interfaces stand on different rungs has one UMEM per rung.
//!
//! ```
//! use florelay_xsk::{KernelVersion, Ladder, Rung};
//! let mut ladder = Ladder::new("veth", KernelVersion::parse("6.18.0"));
//! while let Some(rung) = ladder.next_rung() {
//!     match rung {
//!         Rung::DriverCopy => break, // attached and bound: stay
//!         _ => ladder.failed(rung, "EOPNOTSUPP"),
//!     }
//! }
//! assert_eq!(ladder.standing(), Some(Rung::DriverCopy));
//! assert_eq!(ladder.refusals()[0].rung, Rung::ZeroCopy);
//! ```

use std::fmt;

use crate::driver::{KernelVersion, driver_name};
use crate::quirks;
use crate::socket::BindMode;

/// A way to move frames, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// The device reads and writes the UMEM.
    ZeroCopy,
    /// XDP in the driver, the kernel copies.
    DriverCopy,
    /// XDP on the skb, the kernel copies.
    Generic,
    /// A UDP socket.
    Socket,
}

impl Rung {
    /// All, best first.
    pub const ALL: [Self; 4] = [Self::ZeroCopy, Self::DriverCopy, Self::Generic, Self::Socket];

    /// How to bind the AF_XDP socket; `None` for [`Rung::Socket`].
    #[must_use]
    pub fn bind_mode(self) -> Option<BindMode> {
        match self {
            Self::ZeroCopy => Some(BindMode::ZeroCopy),
            Self::DriverCopy | Self::Generic => Some(BindMode::Copy),
            Self::Socket => None,
        }
    }

    /// Where to attach the XDP program; `None` for [`Rung::Socket`].
    #[must_use]
    pub fn attach_mode(self) -> Option<AttachMode> {
        match self {
            Self::ZeroCopy | Self::DriverCopy => Some(AttachMode::Driver),
            Self::Generic => Some(AttachMode::Skb),
            Self::Socket => None,
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::DriverCopy => "driver copy",
            Self::Generic => "generic",
            Self::Socket => "socket",
        })
    }
}

/// Where an XDP program runs; never the kernel's choice, which would hide a fall to generic mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttachMode {
    /// XDP_FLAGS_DRV_MODE
    Driver,
    /// XDP_FLAGS_SKB_MODE
    Skb,
}

/// A rung that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub rung: Rung,
    /// Why, for a person.
    pub reason: String,
}

/// The descent of one link.
#[derive(Debug, Clone)]
pub struct Ladder {
    driver: String,
    kernel: Option<KernelVersion>,
    denied: Vec<Refusal>,
    refusals: Vec<Refusal>,
    /// Index in [`Rung::ALL`] of the rung to offer next.
    next: usize,
    standing: Option<Rung>,
}

impl Ladder {
    /// For a driver (as [`driver_name`] names it) and a kernel. An unknown kernel matches only quirks of all kernels.
    #[must_use]
    pub fn new(driver: &str, kernel: Option<KernelVersion>) -> Self {
        Self { driver: driver.to_owned(), kernel, denied: Vec::new(), refusals: Vec::new(), next: 0, standing: None }
    }

    /// For an interface of the calling thread's network namespace and the running kernel.
    #[must_use]
    pub fn for_interface(interface: &str) -> Self {
        Self::new(&driver_name(interface), KernelVersion::running())
    }

    /// The operator denies a rung for this link. Has no effect on rungs already offered.
    pub fn deny(&mut self, rung: Rung, reason: impl Into<String>) {
        self.denied.push(Refusal { rung, reason: reason.into() });
    }

    /// The best rung not yet refused, to be tried now; `None` when even the socket was refused. If the attempt fails, say
    /// so with [`failed`](Self::failed) and ask again; if not, the link stands on it.
    pub fn next_rung(&mut self) -> Option<Rung> {
        while let Some(rung) = Rung::ALL.get(self.next).copied() {
            self.next += 1;
            let denied = self.denied.iter().find(|d| d.rung == rung).map(|d| d.reason.clone());
            let quirk =
                || quirks::find(&self.driver, self.kernel, rung).map(|q| format!("{} ({})", q.reason, q.source));
            match denied.or_else(quirk) {
                Some(reason) => self.refusals.push(Refusal { rung, reason }),
                None => {
                    self.standing = Some(rung);
                    return Some(rung);
                }
            }
        }
        self.standing = None;
        None
    }

    /// The rung that [`next_rung`](Self::next_rung) gave did not hold: at the attempt, or later (a stall).
    pub fn failed(&mut self, rung: Rung, reason: impl fmt::Display) {
        self.refusals.push(Refusal { rung, reason: reason.to_string() });
        if self.standing == Some(rung) {
            self.standing = None;
        }
    }

    /// The rung the link stands on: the last one offered and not failed.
    #[must_use]
    pub fn standing(&self) -> Option<Rung> {
        self.standing
    }

    /// Every rung not taken, best first, with the reason.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The driver this ladder is for.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Option<KernelVersion> = Some(KernelVersion::new(6, 18, 0));

    fn descend(ladder: &mut Ladder, holds: Rung) -> Vec<Rung> {
        let mut tried = Vec::new();
        while let Some(rung) = ladder.next_rung() {
            tried.push(rung);
            if rung == holds {
                break;
            }
            ladder.failed(rung, "no");
        }
        tried
    }

    #[test]
    fn an_unknown_driver_is_tried_on_every_rung_in_order() {
        let mut ladder = Ladder::new("wonder", KERNEL);
        assert_eq!(descend(&mut ladder, Rung::Socket), Rung::ALL);
        assert_eq!(ladder.standing(), Some(Rung::Socket));
        let refused: Vec<_> = ladder.refusals().iter().map(|r| r.rung).collect();
        assert_eq!(refused, Rung::ALL[..3]);
    }

    #[test]
    fn a_quirk_is_not_tried_and_its_reason_is_kept() {
        let mut ladder = Ladder::new("veth", KERNEL);
        assert_eq!(descend(&mut ladder, Rung::DriverCopy), [Rung::DriverCopy]);
        assert_eq!(ladder.refusals().len(), 1);
        assert!(ladder.refusals()[0].reason.contains("veth"), "{:?}", ladder.refusals());
    }

    #[test]
    fn the_operator_may_deny_any_rung() {
        let mut ladder = Ladder::new("wonder", KERNEL);
        for rung in Rung::ALL {
            ladder.deny(rung, format!("link says no {rung}"));
        }
        assert_eq!(ladder.next_rung(), None);
        assert_eq!(ladder.standing(), None);
        assert_eq!(ladder.refusals()[3].reason, "link says no socket");
    }

    #[test]
    fn a_stall_later_steps_down() {
        let mut ladder = Ladder::new("wonder", KERNEL);
        assert_eq!(ladder.next_rung(), Some(Rung::ZeroCopy));
        assert_eq!(ladder.standing(), Some(Rung::ZeroCopy));
        ladder.failed(Rung::ZeroCopy, "nothing completed for 1 s");
        assert_eq!(ladder.standing(), None);
        assert_eq!(ladder.next_rung(), Some(Rung::DriverCopy));
    }
}
