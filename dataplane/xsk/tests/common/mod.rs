//! Test bed: network namespaces joined by veth pairs, and the smallest XDP program that steers everything into AF_XDP.
//!
//! Owner: one [`Bed`] per test; dropping it deletes its namespaces, and with them the interfaces. Sockets and programs
//! stay valid until then. Names carry the process id and a tag, so tests run in parallel.
#![allow(dead_code, reason = "each test file uses its part of the bed")]
#![allow(unreachable_pub, reason = "shared between test binaries by `mod common`")]

pub mod bpf;

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use florelay_xsk::{AttachMode, BindMode, Frame, OpenOptions, Socket, Umem, UmemOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Ethertype for local experiments (IEEE 802).
pub const ETHERTYPE: [u8; 2] = [0x88, 0xB5];

/// A test that makes no progress for this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the bed can be built. Without root: a visible SKIPPED, or a failure where CI=true.
pub fn can_run(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: needs root, and CI=true forbids skipping");
    // Not eprintln!, which the test harness hides when the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs root (namespaces, XDP, AF_XDP)");
    false
}

/// Namespaces and the veth pairs between them.
pub struct Bed {
    prefix: String,
    namespaces: Vec<String>,
}

impl Bed {
    /// `tag`: at most four letters, unique in the test binary.
    pub fn new(tag: &str) -> Self {
        Self { prefix: format!("fx{}{tag}", std::process::id() % 100_000), namespaces: Vec::new() }
    }

    /// A namespace without IPv6, so that nothing but the test sends.
    pub fn namespace(&mut self, name: &str) {
        let full = self.full(name);
        run("ip", &["netns", "add", &full]);
        self.namespaces.push(full.clone());
        let net = format!("--net=/run/netns/{full}");
        run("nsenter", &[&net, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
        run("nsenter", &[&net, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    }

    /// A veth pair: (namespace, interface) to (namespace, interface), both up. Interface names are one letter or two.
    pub fn veth(&self, a: (&str, &str), b: (&str, &str), mtu: u32) {
        let (ns_a, ns_b) = (self.full(a.0), self.full(b.0));
        let (if_a, if_b) = (self.interface(a.1), self.interface(b.1));
        run("ip", &["link", "add", &if_a, "netns", &ns_a, "type", "veth", "peer", "name", &if_b, "netns", &ns_b]);
        for (ns, interface) in [(&ns_a, &if_a), (&ns_b, &if_b)] {
            let net = format!("--net=/run/netns/{ns}");
            run("nsenter", &[&net, "ethtool", "-K", interface, "tx", "off"]);
            run("ip", &["-n", ns, "link", "set", interface, "mtu", &mtu.to_string(), "up"]);
        }
    }

    /// Open queue 0 in copy mode under a program that is attached already. A program is kept over a recycled socket, as
    /// in the daemon; here also because a link's descriptor may live on for a moment in a child that another test forks.
    pub fn reopen(&self, namespace: &str, interface: &str, umem: &mut Umem, program: bpf::Redirect) -> End {
        self.enter(namespace);
        let socket = Socket::open(umem, copy(&self.interface(interface))).expect("copy mode on veth");
        program.steer(0, socket.fd());
        End { program, socket }
    }

    /// Give this thread a private mount namespace whose /sys shows a network namespace.
    pub fn sysfs(&self, namespace: &str) {
        self.enter(namespace);
        // SAFETY: unshares only this thread's mounts and working directory; nothing else in the process relies on them.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_FS) };
        assert_eq!(unshared, 0, "unshare: {}", std::io::Error::last_os_error());
        for (kind, target, flags) in [(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE), (c"sysfs", c"/sys", 0)] {
            // SAFETY: NUL-terminated strings that outlive the call; no data argument.
            let code =
                unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
            assert_eq!(code, 0, "mount {target:?}: {}", std::io::Error::last_os_error());
        }
    }

    /// Delete an interface, and its peer with it.
    pub fn delete(&self, namespace: &str, interface: &str) {
        run("ip", &["-n", &self.full(namespace), "link", "del", &self.interface(interface)]);
    }

    /// Set an interface up or down.
    pub fn set(&self, namespace: &str, interface: &str, state: &str) {
        run("ip", &["-n", &self.full(namespace), "link", "set", &self.interface(interface), state]);
    }

    /// An interface's full name.
    pub fn interface(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Move this thread into a namespace.
    pub fn enter(&self, name: &str) {
        let file = File::open(format!("/run/netns/{}", self.full(name))).expect("namespace exists");
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).expect("setns");
    }

    /// 4096 chunks of 2048 bytes on ordinary pages, for sockets of this namespace. Moves this thread into it.
    pub fn umem(&self, namespace: &str) -> Umem {
        self.umem_with(namespace, UmemOptions { frame_count: 4096, huge_pages: false, ..UmemOptions::default() })
    }

    /// With these options.
    pub fn umem_with(&self, namespace: &str, options: UmemOptions) -> Umem {
        self.enter(namespace);
        Umem::new(options).expect("UMEM (root, memlock)")
    }

    /// Attach the redirect program to an interface and open queue 0 of it in copy mode.
    pub fn end(&self, namespace: &str, interface: &str, umem: &mut Umem) -> End {
        self.end_on(namespace, interface, umem, AttachMode::Driver)
    }

    /// The same, with the program in the driver or on the skb.
    pub fn end_on(&self, namespace: &str, interface: &str, umem: &mut Umem, mode: AttachMode) -> End {
        self.enter(namespace);
        let program = bpf::Redirect::attach(&self.interface(interface), mode);
        self.reopen(namespace, interface, umem, program)
    }

    fn full(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// One end: program attached, socket steered to.
pub struct End {
    pub program: bpf::Redirect,
    pub socket: Socket,
}

/// Queue 0 in copy mode, with 1024 frames to receive into.
pub fn copy(interface: &str) -> OpenOptions {
    OpenOptions { fill: 1024, ..OpenOptions::new(interface, 0, BindMode::Copy) }
}

/// Every frame is somewhere: the running account adds up with nothing leaked, and nothing impossible was seen.
pub fn assert_conserved(umem: &Umem) {
    let a = umem.account();
    assert_eq!(a.total, a.free + a.fill + a.held + a.tx + a.quarantined, "{a:?}");
    assert_eq!(a.leaked, 0, "{a:?}");
    assert_eq!(umem.counters(), florelay_xsk::UmemCounters::default());
}

/// The running account equals a recount of the state table.
pub fn assert_audited(umem: &Umem) {
    assert_conserved(umem);
    assert_eq!(umem.account(), umem.audit());
}

/// Write a frame of `len` bytes: Ethernet header, sequence number, pattern derived from it.
pub fn write_frame(frame: &mut Frame, sequence: u32, len: usize) {
    assert!(frame.set_len(len), "frame holds {len}");
    let bytes = frame.bytes_mut();
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&ETHERTYPE);
    bytes[14..18].copy_from_slice(&sequence.to_be_bytes());
    for (i, byte) in bytes[18..].iter_mut().enumerate() {
        *byte = pattern(sequence, i);
    }
}

/// The sequence number of a frame that `write_frame` made, after checking every byte of it.
pub fn check_frame(bytes: &[u8], len: usize) -> u32 {
    assert_eq!(bytes.len(), len);
    assert_eq!(bytes[12..14], ETHERTYPE, "a stranger's frame: {:?}", &bytes[..18]);
    let sequence = u32::from_be_bytes([bytes[14], bytes[15], bytes[16], bytes[17]]);
    assert!(bytes[18..].iter().enumerate().all(|(i, b)| *b == pattern(sequence, i)), "frame {sequence} is damaged");
    sequence
}

#[expect(clippy::cast_possible_truncation, reason = "a byte pattern")]
fn pattern(sequence: u32, i: usize) -> u8 {
    (sequence as u8).wrapping_mul(31).wrapping_add(i as u8)
}

/// Wait until one of the sockets is readable, at most 100 ms; then it is up to the caller's own deadline.
pub fn wait(sockets: &[&Socket]) {
    let mut fds: Vec<_> = sockets.iter().map(|s| PollFd::from_borrowed_fd(s.fd(), PollFlags::IN)).collect();
    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
}

/// Nanoseconds since the process first asked.
pub fn now_ns() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).expect("584 years")
}

/// Run a command; its failure is the test's.
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One turn of a worker: reap, refill, receive.
pub fn turn(end: &mut End, umem: &mut Umem, out: &mut Vec<Frame>) -> usize {
    let rings = end.socket.rings();
    rings.completion.reap(umem, 256);
    rings.fill.refill(umem, 256usize.saturating_sub(rings.fill.in_kernel(umem) as usize));
    rings.fill.wake();
    rings.rx.receive(umem, out, 64)
}

/// Wait for a frame.
pub fn receive_one(end: &mut End, umem: &mut Umem) -> Frame {
    let began = Instant::now();
    let mut out = Vec::with_capacity(1);
    loop {
        let rings = end.socket.rings();
        rings.fill.wake();
        if rings.rx.receive(umem, &mut out, 1) == 1 {
            return out.swap_remove(0);
        }
        assert!(began.elapsed() < PATIENCE, "nothing received; {:?}", end.socket.statistics());
        wait(&[&end.socket]);
    }
}

/// Reap until nothing is in flight.
pub fn settle(end: &mut End, umem: &mut Umem) {
    let began = Instant::now();
    while umem.account().tx > 0 {
        end.socket.tx().kick(umem, now_ns()).expect("kick");
        end.socket.completion().reap(umem, usize::MAX);
        assert!(began.elapsed() < PATIENCE, "not completed: {:?}", umem.account());
        std::thread::yield_now();
    }
}
