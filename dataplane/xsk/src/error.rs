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
    /// The kernel gave no memory, or refused to pin it for a socket. Usual cause: RLIMIT_MEMLOCK.
    #[error("cannot have {bytes} bytes as UMEM (RLIMIT_MEMLOCK?): {source}")]
    Umem {
        /// Size of the memory.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
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
    /// A socket that shares a UMEM inherits the mode of those that have it (net/xdp/xsk_buff_pool.c, `xp_assign_dev_shared`).
    #[error("this UMEM's sockets are bound {owner}; one that shares it cannot be {asked}: use a second UMEM")]
    ModeConflict {
        /// The open sockets' mode.
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
    /// The UMEM was made in another network namespace than the socket or the calling thread. A queue is known by its
    /// interface's name, which means something else there.
    #[error("this UMEM was made in another network namespace; make it in the one its sockets are opened in")]
    OtherNamespace,
    /// More sockets than a UMEM can tell apart.
    #[error("a UMEM serves at most {0} sockets")]
    TooManySockets(usize),
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
            Self::Bind { source, .. } | Self::Sys { source, .. } | Self::Umem { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
