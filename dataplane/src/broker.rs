//! What needs privileges, which the dataplane has none of: XDP programs and their maps, AF_XDP sockets, ports, NAPI threads.
//!
//! The supervisor keeps those privileges and answers over a unix socket; [`LocalBroker`] does the same in this process,
//! for tests and for a dataplane that runs without a supervisor. Called at start and when something is recycled or a
//! next hop moves to another VLAN: never on the packet path.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use florelay_wire::maps::{SteerKey, SteerValue};
use florelay_xsk::poll::{busy_poll, set_threaded_napi};
use florelay_xsk::unbound::{self, Binding, Deputy, Memory};

use crate::attach::{Attachment, Mode, OBJECT};

/// A fresh AF_XDP socket.
#[derive(Debug)]
pub struct FreshSocket {
    /// Without memory, rings or a queue.
    pub fd: OwnedFd,
    /// Why it does not run the driver in its system calls, though it was to.
    pub no_busy_poll: Option<String>,
}

/// Does what the dataplane may not. Errors are texts for a person: they end up as the reason of a rung.
pub trait Broker: Send {
    /// Run the steering program on `interface` in this mode, in place of one of ours in the other mode. Nothing to do
    /// if it runs already. A change of mode forgets sockets and steering.
    ///
    /// # Errors
    /// The driver or the kernel refuses, or somebody else's program runs there.
    fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), String>;

    /// A socket for RX queue `queue` (CAP_NET_RAW, net/xdp/xsk.c). `busy`: with busy polling switched on (CAP_NET_ADMIN:
    /// SO_PREFER_BUSY_POLL and SO_BUSY_POLL_BUDGET, net/core/sock.c; switching it off later needs nothing).
    ///
    /// # Errors
    /// The kernel refuses.
    fn xdp_socket(&mut self, interface: &str, queue: u32, busy: bool) -> Result<FreshSocket, String>;

    /// Make memory its UMEM (CAP_IPC_LOCK, or RLIMIT_MEMLOCK).
    ///
    /// # Errors
    /// The kernel's, with its errno ([`unbound::register`]), or a refusal without one.
    fn register_umem(&mut self, socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()>;

    /// Bind such a socket, which has its memory and rings by now. One try.
    ///
    /// # Errors
    /// The kernel's, with its errno ([`unbound::bind`]), or a refusal without one.
    fn bind_xdp(&mut self, socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()>;

    /// The UDP socket of a link, bound to its address and port (below 1024: CAP_NET_BIND_SERVICE).
    ///
    /// # Errors
    /// In words; another program has the port, or this machine has no such address.
    fn udp_socket(&mut self, local: SocketAddr) -> Result<UdpSocket, String>;

    /// Move an interface's NAPI to kernel threads, or back (CAP_NET_ADMIN).
    ///
    /// # Errors
    /// The kernel refuses.
    fn thread_napi(&mut self, interface: &str, on: bool) -> Result<(), String>;

    /// How the start went, for whoever waits to hear it.
    fn started(&mut self, _outcome: Result<(), String>) {}

    /// Link frames that arrive on RX queue `queue` go into this AF_XDP socket, bound to the same queue.
    ///
    /// # Errors
    /// The interface is not attached, or the kernel refuses.
    fn register(&mut self, interface: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String>;

    /// These entries become the whole steering table of `interface`.
    ///
    /// # Errors
    /// The interface is not attached, or the kernel refuses.
    fn steer(&mut self, interface: &str, entries: Vec<(SteerKey, SteerValue)>) -> Result<(), String>;

    /// What the program has counted since it was loaded: frames by outcome, and malformed ones by reason
    /// (`malformed_…`), the latter only where there were any.
    ///
    /// # Errors
    /// The interface is not attached, or the kernel refuses.
    fn counters(&mut self, interface: &str) -> Result<Vec<(String, u64)>, String>;

    /// Take the program away; no error if there is none.
    ///
    /// # Errors
    /// The kernel keeps it.
    fn detach(&mut self, interface: &str) -> Result<(), String>;
}

/// The one broker of a dataplane, shared by its workers. The lock is held for one call.
#[derive(Clone)]
pub(crate) struct SharedBroker(Arc<Mutex<Box<dyn Broker>>>);

impl SharedBroker {
    pub(crate) fn new(broker: Box<dyn Broker>) -> Self {
        Self(Arc::new(Mutex::new(broker)))
    }

    /// [`Broker::counters`], unless a worker is having something recycled: a status does not wait for that.
    pub(crate) fn counters(&self, interface: &str) -> Option<Vec<(String, u64)>> {
        self.0.try_lock().ok()?.counters(interface).ok()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Box<dyn Broker>> {
        // A panic of another worker ends the daemon anyway; what the broker holds is still to be detached.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For a socket that is being adopted: the broker is free between two tries, because another worker may need it while this
/// queue is not released yet.
impl Deputy for SharedBroker {
    fn register(&mut self, socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()> {
        self.lock().register_umem(socket, memory)
    }

    fn bind(&mut self, socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()> {
        self.lock().bind_xdp(socket, to)
    }
}

/// Bind a link's UDP socket.
///
/// # Errors
/// The kernel's.
pub(crate) fn bind_udp(local: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(local)
}

/// What the kernel's answer to [`bind_udp`] means.
pub(crate) fn why_not_bound(error: &io::Error) -> String {
    let hint = match error.kind() {
        ErrorKind::AddrInUse => "another program holds this port; `ss -ulpn` says which",
        ErrorKind::AddrNotAvailable => "no interface of this machine has this address",
        ErrorKind::PermissionDenied => "a port below net.ipv4.ip_unprivileged_port_start needs CAP_NET_BIND_SERVICE",
        _ => return error.to_string(),
    };
    format!("{error}: {hint}")
}

/// Does it in this process, which must have the privileges.
pub struct LocalBroker {
    node: String,
    attached: HashMap<String, Attachment>,
    /// Interfaces whose NAPI was moved to threads and not back.
    threaded: HashSet<String>,
}

impl LocalBroker {
    /// For the node of this name, under which its programs are pinned.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), attached: HashMap::new(), threaded: HashSet::new() }
    }

    /// Pass on what the programs have logged.
    pub(crate) fn drain_logs(&mut self) {
        self.attached.values_mut().for_each(Attachment::drain_log);
    }

    /// Leave nothing behind: all are tried, the errors are joined.
    pub(crate) fn detach_all(&mut self) -> Result<(), String> {
        let detach = |(interface, attachment): (String, Attachment)| {
            attachment.detach().err().map(|error| format!("{interface}: {error}"))
        };
        let errors: Vec<_> = self.attached.drain().filter_map(detach).collect();
        // Left by a dataplane that was killed.
        for interface in std::mem::take(&mut self.threaded) {
            if let Err(error) = set_threaded_napi(&interface, false) {
                tracing::warn!(interface, %error, "threaded NAPI stays on");
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    fn attachment(&mut self, interface: &str) -> Result<&mut Attachment, String> {
        self.attached.get_mut(interface).ok_or_else(|| format!("no program is attached to {interface}"))
    }
}

impl Broker for LocalBroker {
    fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), String> {
        if self.attached.get(interface).is_some_and(|attachment| attachment.mode() == mode) {
            return Ok(());
        }
        self.detach(interface)?;
        let attachment = Attachment::attach(interface, &self.node, mode, OBJECT).map_err(|error| error.to_string())?;
        self.attached.insert(interface.to_owned(), attachment);
        Ok(())
    }

    fn xdp_socket(&mut self, _interface: &str, _queue: u32, busy: bool) -> Result<FreshSocket, String> {
        let fd = unbound::create().map_err(|error| error.to_string())?;
        let no_busy_poll = if busy { busy_poll(&fd, true).err().map(|error| error.to_string()) } else { None };
        Ok(FreshSocket { fd, no_busy_poll })
    }

    fn register_umem(&mut self, socket: BorrowedFd<'_>, memory: &Memory<'_>) -> io::Result<()> {
        unbound::register(socket, memory)
    }

    fn bind_xdp(&mut self, socket: BorrowedFd<'_>, to: &Binding<'_>) -> io::Result<()> {
        unbound::bind(socket, to)
    }

    fn udp_socket(&mut self, local: SocketAddr) -> Result<UdpSocket, String> {
        bind_udp(local).map_err(|error| why_not_bound(&error))
    }

    fn thread_napi(&mut self, interface: &str, on: bool) -> Result<(), String> {
        set_threaded_napi(interface, on).map_err(|error| error.to_string())?;
        if on {
            self.threaded.insert(interface.to_owned());
        } else {
            self.threaded.remove(interface);
        }
        Ok(())
    }

    fn register(&mut self, interface: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String> {
        self.attachment(interface)?.register_socket(queue, socket).map_err(|error| error.to_string())
    }

    fn steer(&mut self, interface: &str, entries: Vec<(SteerKey, SteerValue)>) -> Result<(), String> {
        self.attachment(interface)?.set_steering(&entries).map_err(|error| error.to_string())
    }

    fn counters(&mut self, interface: &str) -> Result<Vec<(String, u64)>, String> {
        let attachment = self.attachment(interface)?;
        let counted = attachment.counters().and_then(|outcomes| Ok((outcomes, attachment.malformed()?)));
        let (outcomes, malformed) = counted.map_err(|error| error.to_string())?;
        let outcomes = outcomes.into_iter().map(|(name, count)| (name.to_owned(), count));
        let malformed = malformed.into_iter().filter(|(_, count)| *count > 0);
        Ok(outcomes.chain(malformed.map(|(reason, count)| (format!("malformed_{reason}"), count))).collect())
    }

    fn detach(&mut self, interface: &str) -> Result<(), String> {
        match self.attached.remove(interface) {
            Some(attachment) => attachment.detach().map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}
