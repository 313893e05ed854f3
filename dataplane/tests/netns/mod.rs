//! Two network namespaces joined by a veth pair, for tests that need a real kernel path.
//!
//! ```text
//!   namespace a                      namespace b
//!   va 10.77.0.1/24 ──── veth ────── vb 10.77.0.2/24
//!      fd77::1/64                       fd77::2/64
//! ```
//!
//! Names of namespaces carry the process id and a number, so that tests run beside each other; interfaces live inside their
//! namespace and need no such care. Everything goes away with the last namespace.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Address of `va`.
pub(crate) const A: &str = "10.77.0.1";
/// Address of `vb`.
pub(crate) const B: &str = "10.77.0.2";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A name that no other test uses.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// True if the test can go on. Without root it is skipped, visibly; with `CI=true` that is a failure.
pub(crate) fn may_run(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs root, and CI must not skip it");
    eprintln!("SKIPPED {test}: needs root (network namespaces, XDP)");
    false
}

/// True if the kernel knows a kind of interface. Where it does not, the test is skipped, visibly: that is the machine's
/// limit, not a missing privilege.
pub(crate) fn kernel_has(test: &str, options: &str) -> bool {
    let name = unique("fk");
    run("ip", &["netns", "add", &name]);
    run("ip", &["-n", &name, "link", "add", "k0", "type", "veth", "peer", "name", "k1"]);
    let add = format!("-n {name} link add link k0 name k2 type {options}");
    let known = output("ip", &add.split(' ').collect::<Vec<_>>()).status.success();
    run("ip", &["netns", "del", &name]);
    if !known {
        eprintln!("SKIPPED {test}: this kernel has no interfaces of type {options}");
    }
    known
}

/// The two namespaces.
pub(crate) struct Net {
    /// Name of namespace a.
    pub(crate) a: String,
    /// Name of namespace b.
    pub(crate) b: String,
}

impl Net {
    /// Makes them, with addresses, both ends up.
    pub(crate) fn new() -> Self {
        let name = unique("fl");
        let net = Self { a: format!("{name}-a"), b: format!("{name}-b") };
        for ns in [&net.a, &net.b] {
            run("ip", &["netns", "add", ns]);
            net.ip(ns, "link set lo up");
            // No background neighbour discovery or duplicate detection beyond what a test asks for.
            net.sysctl(ns, "net/ipv6/conf/default/accept_dad", "0");
            net.sysctl(ns, "net/ipv6/conf/default/router_solicitations", "0");
        }
        run("ip", &["link", "add", "va", "netns", &net.a, "type", "veth", "peer", "name", "vb", "netns", &net.b]);
        net.ip(&net.a, &format!("addr add {A}/24 dev va"));
        net.ip(&net.b, &format!("addr add {B}/24 dev vb"));
        net.ip(&net.a, "addr add fd77::1/64 dev va nodad");
        net.ip(&net.b, "addr add fd77::2/64 dev vb nodad");
        net.ip(&net.a, "link set va up");
        net.ip(&net.b, "link set vb up");
        net
    }

    /// `ip …` in a namespace.
    pub(crate) fn ip(&self, ns: &str, arguments: &str) -> String {
        let mut all = vec!["-n", ns];
        all.extend(arguments.split_whitespace());
        run("ip", &all)
    }

    /// A command in a namespace; whether it succeeded.
    pub(crate) fn try_in(&self, ns: &str, program: &str, arguments: &[&str]) -> bool {
        let net = format!("--net={}", path(ns));
        let mut all = vec![net.as_str(), program];
        all.extend(arguments);
        output("nsenter", &all).status.success()
    }

    /// A command in a namespace that must succeed.
    pub(crate) fn run_in(&self, ns: &str, program: &str, arguments: &[&str]) -> String {
        let net = format!("--net={}", path(ns));
        let mut all = vec![net.as_str(), program];
        all.extend(arguments);
        run("nsenter", &all)
    }

    /// One echo request and its reply.
    pub(crate) fn ping(&self, ns: &str, address: &str) -> bool {
        self.try_in(ns, "busybox", &["ping", "-c", "1", "-W", "5", address])
    }

    /// Writes a network sysctl.
    pub(crate) fn sysctl(&self, ns: &str, name: &str, value: &str) {
        in_netns(ns, || {
            std::fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|error| panic!("{name}: {error}"));
        });
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

fn path(ns: &str) -> String {
    format!("/run/netns/{ns}")
}

/// Moves the calling thread, and the threads that it starts from now on, into a namespace.
pub(crate) fn enter(ns: &str) {
    let file = File::open(path(ns)).expect("the namespace exists");
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
        .expect("root may enter it");
}

/// An AF_XDP socket that is bound to no queue, with the RX ring that Linux 7.2 wants before it may go into a map.
pub(crate) fn xsk() -> OwnedFd {
    let socket = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .expect("the kernel has AF_XDP");
    rustix::net::sockopt::set_xdp_rx_ring_size(&socket, 64).expect("an RX ring can be made");
    socket
}

/// Runs `work` on a thread of its own in a namespace.
pub(crate) fn in_netns<T: Send>(ns: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter(ns);
            work()
        });
        match worker.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
