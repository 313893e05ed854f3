//! What the dataplane may ask of the kernel once it runs: an allow-list; everything else answers EPERM.
//!
//! Not on it, on purpose: starting programs (`execve`), other processes' memory (`ptrace`, `process_vm_*`), `bpf`, mounts,
//! namespaces, changes of identity; `socket` for AF_XDP, and `bind` for anything but netlink, because an AF_XDP socket that
//! the supervisor has made can be bound to any queue of any interface. Both are the broker's. The filter is inherited by every thread, so it is set before the first one starts.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Why the filter could not be set. The dataplane does not start then.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The list does not compile.
    #[error("the system call filter does not compile: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refuses it.
    #[error("the kernel refuses the system call filter: {0}")]
    Install(#[from] seccompiler::Error),
}

/// The calls of steady state and set-up, in groups with their reason.
const ALLOWED: &[(&str, &[i64])] = &[
    (
        "files of transfers, their spool and book (which locks nothing and maps nothing), keys, message log",
        &[
            libc::SYS_openat,
            libc::SYS_close,
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_pread64,
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_pwrite64,
            libc::SYS_lseek,
            libc::SYS_statx,
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_ftruncate,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
            libc::SYS_mkdirat,
            libc::SYS_getdents64,
            libc::SYS_readlinkat,
            libc::SYS_fchmod,
            libc::SYS_fcntl,
            libc::SYS_flock,
        ],
    ),
    (
        "AF_XDP, UDP, netlink and unix sockets; for `socket`, `bind` and `ioctl` see below",
        &[
            libc::SYS_connect,
            libc::SYS_accept4,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
            libc::SYS_getsockopt,
            libc::SYS_setsockopt,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_sendmmsg,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_recvmmsg,
            libc::SYS_shutdown,
        ],
    ),
    (
        "waiting: worker sleep, tokio, eventfd doorbells",
        &[
            libc::SYS_ppoll,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_eventfd2,
            libc::SYS_pipe2,
            libc::SYS_socketpair,
            libc::SYS_futex,
            libc::SYS_clock_gettime,
            libc::SYS_clock_nanosleep,
            libc::SYS_nanosleep,
            libc::SYS_restart_syscall,
        ],
    ),
    (
        "memory: the allocator, UMEM, rings",
        &[
            libc::SYS_memfd_create,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_mprotect,
            libc::SYS_madvise,
            libc::SYS_brk,
        ],
    ),
    (
        "threads and their placement",
        &[
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_gettid,
            libc::SYS_getpid,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_yield,
            libc::SYS_membarrier,
            libc::SYS_prctl,
            libc::SYS_prlimit64,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ],
    ),
    (
        "signals, and an abort that leaves a trace",
        &[
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_tgkill,
        ],
    ),
    (
        "whether the clock is synchronised; to set it takes a capability that this process has not",
        &[libc::SYS_adjtimex, libc::SYS_clock_adjtime],
    ),
    ("seeds, boot ids, the machine's name for kernel quirks", &[libc::SYS_getrandom, libc::SYS_uname]),
];

/// Calls that not every architecture has, beside their modern forms. What the C library makes of `rename` is `renameat`
/// where there is no `rename`, as on aarch64.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_access,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    // the folder of a stream's spool, when the stream has ended; elsewhere `unlinkat`
    libc::SYS_rmdir,
];
#[cfg(target_arch = "aarch64")]
const ALLOWED_OLD: &[i64] = &[libc::SYS_renameat];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ALLOWED_OLD: &[i64] = &[];

/// Families that `socket` may be called with, and the one protocol where there is a choice: of netlink, routes and links.
const FAMILIES: [(i32, Option<i32>); 4] = [
    (libc::AF_UNIX, None),
    (libc::AF_INET, None),
    (libc::AF_INET6, None),
    (libc::AF_NETLINK, Some(libc::NETLINK_ROUTE)),
];

/// What `ioctl` may ask: sockets that do not block or are not inherited, an interface's number and its driver's name
/// (asm-generic/ioctls.h, linux/sockios.h).
const IOCTLS: [u64; 4] = [libc::FIONBIO, libc::FIOCLEX, libc::SIOCGIFINDEX, SIOCETHTOOL];
const SIOCETHTOOL: u64 = 0x8946;

/// `bind` takes shorter addresses than this alone: that of netlink (12 bytes) is one, those of AF_XDP, IPv4 and IPv6 are not
/// (struct sockaddr_xdp, linux/if_xdp.h, has 16; `xsk_bind` answers EINVAL to less).
const SHORTEST_REFUSED_ADDRESS: u64 = 16;

/// Confine this process and all threads it will start. Call it before any thread is started.
///
/// # Errors
/// See [`SeccompError`]. An architecture that seccompiler does not know is only logged.
pub fn confine() -> Result<(), SeccompError> {
    let Ok(arch) = TargetArch::try_from(ARCH) else {
        tracing::warn!(arch = ARCH, "no system call filter for this architecture");
        return Ok(());
    };
    seccompiler::apply_filter(&program(arch)?)?;
    Ok(())
}

fn program(arch: TargetArch) -> Result<BpfProgram, SeccompError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALLOWED.iter().flat_map(|(_, calls)| *calls).chain(ALLOWED_OLD) {
        rules.insert(*call, vec![]);
    }
    let is = |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let families = FAMILIES.iter().map(|(family, protocol)| {
        let mut conditions = vec![is(0, u64::from(family.unsigned_abs()))?];
        if let Some(protocol) = protocol {
            conditions.push(is(2, u64::from(protocol.unsigned_abs()))?);
        }
        SeccompRule::new(conditions)
    });
    let families = families.collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_socket, families);
    let requests = IOCTLS.iter().map(|request| SeccompRule::new(vec![is(1, *request)?]));
    rules.insert(libc::SYS_ioctl, requests.collect::<Result<Vec<_>, _>>()?);
    let short = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Lt, SHORTEST_REFUSED_ADDRESS)?;
    rules.insert(libc::SYS_bind, vec![SeccompRule::new(vec![short])?]);
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, eperm, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;
    use std::process::Command;

    use florelay_xsk::unbound::Binding;
    use rustix::io::Errno;
    use rustix::net::AddressFamily;

    use super::*;

    /// In a thread: the filter holds for the thread that sets it and those it starts, and this thread ends.
    fn confined(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            confine().unwrap();
            test();
        });
        thread.join().unwrap();
    }

    #[test]
    fn programs_cannot_be_started_and_raw_sockets_not_be_made() {
        confined(|| {
            let refused = Command::new("/bin/true").status().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            for family in [AddressFamily::PACKET, AddressFamily::XDP] {
                let made = rustix::net::socket(family, rustix::net::SocketType::RAW, None);
                assert_eq!(made.unwrap_err(), Errno::PERM, "{family:?}");
            }
            let _ = florelay_xsk::unbound::create().unwrap_err();
            florelay_xsk::clock::synchronised().unwrap();
        });
    }

    #[test]
    fn files_can_be_renamed_by_each_call_that_does_so() {
        use rustix::fs::{CWD, RenameFlags, renameat, renameat_with};
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        std::fs::write(&one, b"journal").unwrap();
        confined(move || {
            std::fs::rename(&one, &two).unwrap();
            renameat(CWD, &two, CWD, &one).unwrap();
            renameat_with(CWD, &one, CWD, &two, RenameFlags::NOREPLACE).unwrap();
        });
    }

    #[test]
    fn nothing_but_netlink_can_be_bound() {
        confined(|| {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let refused = UdpSocket::bind(address).unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{address}");
            }
            // It is the address that is refused, not the socket.
            rustix::net::socket(AddressFamily::INET, rustix::net::SocketType::DGRAM, None).unwrap();
            crate::adapter::rungs::rx_queues("lo").unwrap();
            assert_eq!(florelay_xsk::driver_name("lo"), "lo");
            let generic = rustix::net::netlink::GENERIC;
            let other = rustix::net::socket(AddressFamily::NETLINK, rustix::net::SocketType::RAW, Some(generic));
            assert_eq!(other.unwrap_err(), Errno::PERM);
        });
    }

    /// As root: the kernel, and not only the filter, is asked on the way.
    #[test]
    fn a_socket_that_was_made_elsewhere_cannot_be_bound() {
        let Ok(fresh) = florelay_xsk::unbound::create() else { return };
        confined(move || {
            let to = Binding { interface: "lo", queue: 0, mode: florelay_xsk::BindMode::Copy, lender: None };
            let refused = florelay_xsk::unbound::bind(fresh.as_fd(), &to).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        });
    }
}
