//! The system calls of AF_XDP, in one place: making and binding sockets, memory and rings, socket options, kicks, and the
//! driver's name.
//!
//! Everything here is a thin function over one call; no state. Not on the packet path except [`kick_tx`] and
//! [`wake_rx`], which are the system calls that the packet path exists to avoid.
//!
//! Numbers and layouts are libc's, from include/uapi/linux/if_xdp.h unless another header is named; what libc lacks is
//! written here with its header. What the kernel does with them: net/xdp/xsk.c.

use std::ffi::{CString, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::MemfdFlags;

use crate::stats::XdpStatistics;

/// Where the indices of a ring lie in its mapping, in bytes (struct xdp_ring_offset, linux/if_xdp.h).
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingOffsets {
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) desc: usize,
    pub(crate) flags: usize,
}

/// `sendto` with no data: ask the kernel to look at the TX ring.
pub(crate) fn kick_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open (borrowed), and a null buffer of length zero is not read.
    let sent = unsafe { libc::sendto(fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `recvfrom` with no buffer: ask the driver to look at the fill ring (xsk_recvmsg, net/xdp/xsk.c).
pub(crate) fn wake_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open (borrowed), and a null buffer of length zero is not written.
    let got = unsafe {
        libc::recvfrom(fd.as_raw_fd(), ptr::null_mut(), 0, libc::MSG_DONTWAIT, ptr::null_mut(), ptr::null_mut())
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the socket is bound zero-copy: XDP_OPTIONS.
pub(crate) fn is_zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let options: libc::xdp_options = get_option(fd, libc::SOL_XDP, libc::XDP_OPTIONS)?.0;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// XDP_STATISTICS; fields that an old kernel does not fill stay zero.
pub(crate) fn statistics(fd: BorrowedFd<'_>) -> io::Result<XdpStatistics> {
    let s: libc::xdp_statistics = get_option(fd, libc::SOL_XDP, libc::XDP_STATISTICS)?.0;
    Ok(XdpStatistics {
        rx_dropped: s.rx_dropped,
        rx_invalid_descs: s.rx_invalid_descs,
        tx_invalid_descs: s.tx_invalid_descs,
        rx_ring_full: s.rx_ring_full,
        rx_fill_ring_empty_descs: s.rx_fill_ring_empty_descs,
        tx_ring_empty_descs: s.tx_ring_empty_descs,
    })
}

/// Which ring of a socket: names its size option and the offset at which it is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingKind {
    /// XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_FILL_RING
    Fill,
    /// XDP_UMEM_COMPLETION_RING, XDP_UMEM_PGOFF_COMPLETION_RING
    Completion,
    /// XDP_RX_RING, XDP_PGOFF_RX_RING
    Rx,
    /// XDP_TX_RING, XDP_PGOFF_TX_RING
    Tx,
}

impl RingKind {
    fn size_option(self) -> i32 {
        match self {
            Self::Fill => libc::XDP_UMEM_FILL_RING,
            Self::Completion => libc::XDP_UMEM_COMPLETION_RING,
            Self::Rx => libc::XDP_RX_RING,
            Self::Tx => libc::XDP_TX_RING,
        }
    }

    fn map_offset(self) -> io::Result<libc::off_t> {
        let offset = match self {
            Self::Fill => libc::XDP_UMEM_PGOFF_FILL_RING,
            Self::Completion => libc::XDP_UMEM_PGOFF_COMPLETION_RING,
            Self::Rx => return Ok(libc::XDP_PGOFF_RX_RING),
            Self::Tx => return Ok(libc::XDP_PGOFF_TX_RING),
        };
        libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::Unsupported.into())
    }
}

/// Where the parts of each ring lie: XDP_MMAP_OFFSETS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offsets {
    pub(crate) fill: RingOffsets,
    pub(crate) completion: RingOffsets,
    pub(crate) rx: RingOffsets,
    pub(crate) tx: RingOffsets,
}

/// Kernels before 5.4 answer a shorter struct without flags; refused.
pub(crate) fn offsets(fd: BorrowedFd<'_>) -> io::Result<Offsets> {
    let (answer, len): (libc::xdp_mmap_offsets, usize) = get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
    if len < size_of::<libc::xdp_mmap_offsets>() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "kernel older than 5.4: no ring flags"));
    }
    let ring = |from: libc::xdp_ring_offset| {
        let at = |v: u64| usize::try_from(v).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok::<_, io::Error>(RingOffsets {
            producer: at(from.producer)?,
            consumer: at(from.consumer)?,
            desc: at(from.desc)?,
            flags: at(from.flags)?,
        })
    };
    Ok(Offsets { fill: ring(answer.fr)?, completion: ring(answer.cr)?, rx: ring(answer.rx)?, tx: ring(answer.tx)? })
}

/// A new, unbound AF_XDP socket. Needs CAP_NET_RAW.
pub(crate) fn xdp_socket() -> io::Result<OwnedFd> {
    new_socket(libc::AF_XDP, libc::SOCK_RAW)
}

fn new_socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A number for the network namespace of a socket: SO_NETNS_COOKIE (kernel 5.14); `None` on older kernels.
pub(crate) fn netns_of(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    const SO_NETNS_COOKIE: i32 = 71; // asm-generic/socket.h
    match get_option::<u64>(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE) {
        Ok((cookie, _)) => Ok(Some(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same for the calling thread.
pub(crate) fn current_netns() -> io::Result<Option<u64>> {
    let probe = new_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    netns_of(probe.as_fd())
}

/// The index of an interface in the calling thread's network namespace; ENODEV if there is none.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}

/// A file of `bytes` bytes that lives in memory: to be mapped by us, and by whoever registers it as a UMEM.
pub(crate) fn memory_file(bytes: usize, huge_pages: bool) -> io::Result<OwnedFd> {
    let huge = if huge_pages { MemfdFlags::HUGETLB } else { MemfdFlags::empty() };
    let file = rustix::fs::memfd_create("umem", MemfdFlags::CLOEXEC | huge)?;
    // A file on huge pages grows when it is mapped (hugetlbfs_file_mmap, fs/hugetlbfs/inode.c), by whole ones.
    if !huge_pages {
        rustix::fs::ftruncate(&file, bytes as u64)?;
    }
    Ok(file)
}

/// Map such a file, all of it present, shared (so that a fork leaves the kernel's pages ours).
pub(crate) fn map_memory(file: BorrowedFd<'_>, bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    mapped(unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, file.as_raw_fd(), 0) })
}

/// Map a ring of an unbound socket.
pub(crate) fn map_ring(fd: BorrowedFd<'_>, kind: RingKind, bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    let offset = kind.map_offset()?;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    mapped(unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd.as_raw_fd(), offset) })
}

fn mapped(address: *mut c_void) -> io::Result<NonNull<u8>> {
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Unmap.
///
/// # Safety
///
/// `base` and `bytes` are a whole mapping of [`map_ring`] or [`map_memory`], and nothing uses a pointer into it afterwards.
pub(crate) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. It cannot fail for such a range.
    let _ = unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
}

/// Register the first `bytes` bytes of a memory file as the UMEM of a fresh socket: XDP_UMEM_REG. The kernel pins the pages
/// through a mapping of the calling process, which it does not need afterwards, and charges them to it.
pub(crate) fn register_umem(fd: BorrowedFd<'_>, file: BorrowedFd<'_>, bytes: usize, chunk: u32) -> io::Result<()> {
    let page = usize::try_from(rustix::fs::fstat(file)?.st_blksize).unwrap_or(1).max(1);
    // Huge pages are unmapped whole.
    let whole = bytes.checked_next_multiple_of(page).ok_or(io::ErrorKind::InvalidInput)?;
    let base = map_memory(file, whole)?;
    let registered = register_mapped(fd, base, bytes, chunk);
    // SAFETY: this function made the mapping and nobody else has heard of it.
    unsafe { unmap(base, whole) };
    registered
}

fn register_mapped(fd: BorrowedFd<'_>, base: NonNull<u8>, bytes: usize, chunk: u32) -> io::Result<()> {
    let reg = libc::xdp_umem_reg {
        addr: base.as_ptr().expose_provenance() as u64,
        len: bytes as u64,
        chunk_size: chunk,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &reg)
}

/// Set the size of a ring of a fresh socket, in entries: a power of two.
pub(crate) fn set_ring_size(fd: BorrowedFd<'_>, kind: RingKind, size: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_XDP, kind.size_option(), &size)
}

/// Bind to a queue: struct sockaddr_xdp. `flags` are XDP_ZEROCOPY or XDP_COPY with XDP_USE_NEED_WAKEUP; a socket with an
/// `owner` (XDP_SHARED_UMEM: the descriptor of a bound socket) inherits them, and the kernel refuses any.
pub(crate) fn bind(
    fd: BorrowedFd<'_>,
    interface: u32,
    queue: u32,
    flags: u16,
    owner: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).map_err(|_| io::ErrorKind::InvalidInput)?,
        sxdp_flags: if owner.is_some() { libc::XDP_SHARED_UMEM } else { flags },
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: owner.map_or(0, |owner| owner.as_raw_fd().cast_unsigned()),
    };
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_xdp>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `len` bytes of `address`, which outlives the call.
    let code = unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), len) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raise how many frames one `sendto` carries in copy mode (XDP_MAX_TX_SKB_BUDGET = 9, linux/if_xdp.h, kernel 6.17;
/// the default is 32). Older kernels answer ENOPROTOOPT.
pub(crate) fn set_tx_budget(fd: BorrowedFd<'_>, frames: u32) -> io::Result<()> {
    const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
    set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &frames)
}

/// An integer option of SOL_SOCKET.
pub(crate) fn set_socket_int(fd: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, option, &value)
}

/// The driver's name as ethtool would print it: ETHTOOL_GDRVINFO.
pub(crate) fn ethtool_driver(interface: &str) -> io::Result<String> {
    const ETHTOOL_GDRVINFO: u32 = 3; // linux/ethtool.h
    const SIOCETHTOOL: libc::c_ulong = 0x8946; // linux/sockios.h
    /// struct ethtool_drvinfo, linux/ethtool.h.
    #[repr(C)]
    struct DrvInfo {
        cmd: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let fd = new_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let mut info = DrvInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: ifreq is plain data; all-zero is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut info).cast();
    // SAFETY: the request names a DrvInfo of the size the kernel fills (196 bytes), alive until the call returns.
    if unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let end = info.driver.iter().position(|b| *b == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

/// Plain data that the kernel may fill: every bit pattern is valid.
trait Plain: Copy {}
impl Plain for u64 {}
impl Plain for libc::xdp_options {}
impl Plain for libc::xdp_statistics {}
impl Plain for libc::xdp_mmap_offsets {}

fn get_option<T: Plain>(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<(T, usize)> {
    // SAFETY: T is plain integers; all-zero is valid.
    let mut value: T = unsafe { zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `len` = size_of::<T>() bytes into `value`.
    let code = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, ptr::from_mut(&mut value).cast::<c_void>(), &raw mut len)
    };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok((value, len as usize)) }
}

fn set_option<T: Copy>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `len` = size_of::<T>() bytes from `value`, which outlives the call.
    let code = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, ptr::from_ref(value).cast::<c_void>(), len) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
