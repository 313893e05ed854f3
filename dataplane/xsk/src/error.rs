//! What can go wrong when a UMEM or a socket is made. The packet path has no errors: it has counters.

use std::io;

/// Why a UMEM or a socket could not be made or set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size is not one the kernel or this crate accepts.
    #[error("{what} is {value}; it must be {must}")]
    BadSize {
        /// Which option.
        what: &'static str,
        /// What was given.
        value: u64,
        /// What is accepted.
        must: &'static str,
    },
    /// The kernel refused to register the memory. Usual causes: RLIMIT_MEMLOCK, CAP_NET_RAW.
    #[error("cannot register {bytes} bytes as UMEM (CAP_NET_RAW? RLIMIT_MEMLOCK?): {reason}")]
    Umem {
        /// Size of the memory.
        bytes: usize,
        /// xsk-rs's message with the kernel's errno.
        reason: String,
    },
    /// The interface name holds a NUL byte or is longer than 15 bytes (IFNAMSIZ, linux/if.h).
    #[error("{0:?} is not an interface name")]
    InterfaceName(String),
    /// The kernel refused the bind.
    #[error("cannot bind an AF_XDP socket to {interface} queue {queue}, {mode}: {source}")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The mode asked for.
        mode: crate::BindMode,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket that shares a UMEM inherits the owner's mode (net/xdp/xsk_buff_pool.c, `xp_assign_dev_shared`).
    #[error("this UMEM's first socket is bound {owner}; a socket that shares it cannot be {asked}: use a second UMEM")]
    ModeConflict {
        /// The first socket's mode.
        owner: crate::BindMode,
        /// The mode asked for.
        asked: crate::BindMode,
    },
    /// The kernel bound the socket in another mode than asked for (XDP_OPTIONS says so).
    #[error("{interface} queue {queue} was to be bound {asked}, but the kernel says {got}")]
    ModeNotGiven {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Asked for.
        asked: crate::BindMode,
        /// What XDP_OPTIONS reports.
        got: crate::BindMode,
    },
    /// This UMEM already has a socket there.
    #[error("this UMEM already has a socket on {interface} queue {queue}")]
    AlreadyOpen {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The first socket of the UMEM was closed while others live. The kernel shares a UMEM only through a bound socket,
    /// so nothing can be added until the others are closed too.
    #[error("the first socket of this UMEM is closed and {open} others are open; close them, then open all again")]
    OwnerClosed {
        /// Sockets still open.
        open: usize,
    },
    /// The UMEM was made in another network namespace than the one its first socket is opened in. Its descriptor
    /// belongs to that namespace, and would bind whatever interface has the same index there.
    #[error("this UMEM was made in another network namespace; make it in the one its first socket is opened in")]
    OtherNamespace,
    /// More sockets than a UMEM can tell apart.
    #[error("a UMEM serves at most {0} sockets")]
    TooManySockets(usize),
    /// The TX ring's mapping was not found in /proc/self/maps (is /proc mounted?).
    #[error("the TX ring of {interface} queue {queue} is not in /proc/self/maps (is /proc mounted?)")]
    TxRingNotMapped {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Sys {
        /// Which, and on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn sys(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Sys { what, source }
    }

    /// The kernel's errno, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Bind { source, .. } | Self::Sys { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
