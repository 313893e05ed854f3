//! The steps of a socket's life that a process with fewer rights leaves to a deputy with more: making it, which needs
//! CAP_NET_RAW (`xsk_create`, net/xdp/xsk.c); registering its memory, which is charged to the limit or the CAP_IPC_LOCK of
//! whoever does it (`xdp_umem_account_pages`, net/xdp/xdp_umem.c); and binding it, which needs nothing and is worth checking
//! all the same, because an unbound socket can be bound to any queue of any interface.
//!
//! ```text
//!   deputy:  create ──►                        ──► register ──►                  ──► bind ──►
//!   owner:              Socket::adopt_with: rings                fill (the rings)              which mode? ─► Socket
//! ```

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::Error;
use crate::socket::BindMode;
use crate::sys;

/// Where a socket is to be bound, and how.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// Interface name in the network namespace of the thread that binds.
    pub interface: &'a str,
    /// Queue, from 0.
    pub queue: u32,
    /// Zero-copy or copy. A socket that shares a UMEM inherits it.
    pub mode: BindMode,
    /// A bound socket whose UMEM it shares (XDP_SHARED_UMEM); `None` = it has one of its own.
    pub lender: Option<BorrowedFd<'a>>,
}

impl fmt::Display for Binding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} queue {}, {}", self.interface, self.queue, self.mode)
    }
}

/// A fresh AF_XDP socket of the calling thread's network namespace. Needs CAP_NET_RAW.
///
/// # Errors
///
/// [`Error::Sys`]: EPERM without CAP_NET_RAW, EAFNOSUPPORT (a kernel without AF_XDP), EMFILE.
pub fn create() -> Result<OwnedFd, Error> {
    sys::xdp_socket().map_err(Error::sys("socket(AF_XDP) (CAP_NET_RAW?)"))
}

/// The memory of a UMEM: a file that both the owner and the deputy can map. The deputy never reads or writes it.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// From memfd_create(2).
    pub file: BorrowedFd<'a>,
    /// Its length in bytes.
    pub bytes: usize,
    /// Bytes of a chunk: 2048 or 4096.
    pub chunk: u32,
}

/// Who registers and binds. [`Direct`] in this process.
pub trait Deputy {
    /// See [`register`].
    ///
    /// # Errors
    /// The same.
    fn register(&mut self, socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()>;

    /// See [`bind`].
    ///
    /// # Errors
    /// The same.
    fn bind(&mut self, socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()>;
}

/// Registers and binds in this process.
#[derive(Debug, Clone, Copy)]
pub struct Direct;

impl Deputy for Direct {
    fn register(&mut self, socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()> {
        register(socket, memory)
    }

    fn bind(&mut self, socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()> {
        bind(socket, to)
    }
}

/// Make memory the UMEM of a fresh socket. The calling process maps it for the length of the call.
///
/// # Errors
///
/// The kernel's errno: ENOBUFS (RLIMIT_MEMLOCK, and no CAP_IPC_LOCK), EBUSY (the socket has one), EFAULT (the file is shorter
/// than it is said to be), EINVAL.
pub fn register(socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()> {
    sys::register_umem(socket, memory.file, memory.bytes, memory.chunk)
}

/// Bind a socket that has memory and rings, with XDP_USE_NEED_WAKEUP. One try.
///
/// # Errors
///
/// The kernel's errno: EBUSY (the queue is taken, or not released yet), EBADF (the lender is not bound any more),
/// EOPNOTSUPP or EINVAL (no zero-copy, no such queue), ENODEV.
pub fn bind(socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()> {
    let mode = match to.mode {
        BindMode::ZeroCopy => libc::XDP_ZEROCOPY,
        BindMode::Copy => libc::XDP_COPY,
    };
    let interface = sys::interface_index(to.interface)?;
    sys::bind(socket, interface, to.queue, mode | libc::XDP_USE_NEED_WAKEUP, to.lender)
}
