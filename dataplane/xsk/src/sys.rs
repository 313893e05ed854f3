//! System calls that xsk-rs does not make, in one place: socket options of SOL_XDP, the kicks, the busy-poll options,
//! the driver's name, and where the TX ring is mapped.
//!
//! Everything here is a thin, safe function over one call; no state. Not on the packet path except [`kick_tx`] and
//! [`wake_rx`], which are the system calls that the packet path exists to avoid.

use std::ffi::c_void;
use std::fs;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

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

/// Offsets of the TX ring: XDP_MMAP_OFFSETS. Kernels before 5.4 answer a shorter struct without flags; refused.
pub(crate) fn tx_offsets(fd: BorrowedFd<'_>) -> io::Result<RingOffsets> {
    let (offsets, len): (libc::xdp_mmap_offsets, usize) = get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
    if len < size_of::<libc::xdp_mmap_offsets>() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "kernel older than 5.4: no ring flags"));
    }
    let at = |v: u64| usize::try_from(v).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let tx = offsets.tx;
    Ok(RingOffsets { producer: at(tx.producer)?, consumer: at(tx.consumer)?, desc: at(tx.desc)?, flags: at(tx.flags)? })
}

/// A new, unbound AF_XDP socket.
pub(crate) fn xdp_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A number for the network namespace of a socket: SO_NETNS_COOKIE (kernel 5.14); `None` on older kernels.
pub(crate) fn netns_cookie(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    const SO_NETNS_COOKIE: i32 = 71; // asm-generic/socket.h
    match get_option::<u64>(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE) {
        Ok((cookie, _)) => Ok(Some(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Register `len` bytes at `base` as the UMEM of a fresh socket.
pub(crate) fn register_umem(fd: BorrowedFd<'_>, base: ptr::NonNull<u8>, len: usize, chunk: u32) -> io::Result<()> {
    let reg = libc::xdp_umem_reg {
        addr: base.as_ptr() as u64,
        len: len as u64,
        chunk_size: chunk,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &reg)
}

/// Set the size of an RX or TX ring (`option` is XDP_RX_RING or XDP_TX_RING), in descriptors.
pub(crate) fn set_ring_size(fd: BorrowedFd<'_>, option: i32, size: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_XDP, option, &size)
}

/// Raise how many frames one `sendto` carries in copy mode (XDP_MAX_TX_SKB_BUDGET = 9, linux/if_xdp.h, kernel 6.17;
/// the default is 32). Older kernels answer ENOPROTOOPT.
pub(crate) fn set_tx_budget(fd: BorrowedFd<'_>, frames: u32) -> io::Result<()> {
    const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
    set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &frames)
}

/// Put `source` behind the number `target`, closing what was there.
pub(crate) fn replace_descriptor(source: &OwnedFd, target: RawFd) -> io::Result<()> {
    // SAFETY: no pointers. `target` is the number libxdp keeps for the UMEM; it stays a valid AF_XDP descriptor.
    let fd = unsafe { libc::dup3(source.as_raw_fd(), target, libc::O_CLOEXEC) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Set an int at SOL_SOCKET.
pub(crate) fn set_socket_int(fd: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, option, &value)
}

/// The address at which the TX ring of this socket is mapped in this process.
///
/// A mapping of a socket shows in /proc/self/maps (proc(5)) as `socket:[inode]`, its offset names the ring:
/// XDP_PGOFF_TX_RING. Needed because xsk-rs maps the ring and keeps the address, and the kernel refuses a second
/// mmap once the socket is bound (xsk_mmap, net/xdp/xsk.c, answers EBUSY).
pub(crate) fn find_tx_ring(fd: BorrowedFd<'_>) -> io::Result<Option<(usize, usize)>> {
    let inode = rustix::fs::fstat(fd)?.st_ino;
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(parse_tx_mapping(&maps, inode))
}

/// Start and end address of the TX ring of the socket with this inode.
fn parse_tx_mapping(maps: &str, inode: u64) -> Option<(usize, usize)> {
    maps.lines().find_map(|line| {
        let mut field = line.split_ascii_whitespace();
        let (from, to) = field.next()?.split_once('-')?;
        let offset = i64::from_str_radix(field.nth(1)?, 16).ok()?;
        let line_inode: u64 = field.nth(1)?.parse().ok()?;
        let is_socket = field.next().is_some_and(|path| path.starts_with("socket:["));
        if offset != libc::XDP_PGOFF_TX_RING || line_inode != inode || !is_socket {
            return None;
        }
        Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    })
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
    // SAFETY: any AF_INET datagram socket serves for SIOCETHTOOL; the result is checked below.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
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

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000001000 rw-s 00000000 00:08 4711                       socket:[4711]
7f0000002000-7f000000b000 rw-s 80000000 00:08 4711                       socket:[4711]
7f000000c000-7f000000d000 rw-s 80000000 00:08 4712                       socket:[4712]
7f000000e000-7f000000f000 rw-s 100000000 00:08 4713                      socket:[4713]
7f0000010000-7f0000011000 rw-p 80000000 00:08 4713                       /tmp/file
7f0000012000-7f0000013000 rw-p 00000000 00:00 0
";

    #[test]
    fn the_tx_mapping_is_found_by_inode_and_offset() {
        assert_eq!(parse_tx_mapping(MAPS, 4711), Some((0x7f00_0000_2000, 0x7f00_0000_b000)));
        assert_eq!(parse_tx_mapping(MAPS, 4712), Some((0x7f00_0000_c000, 0x7f00_0000_d000)));
        assert_eq!(parse_tx_mapping(MAPS, 4713), None);
    }
}
