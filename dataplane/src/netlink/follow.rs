//! The thread that follows rtnetlink: notifications into a [`Table`], changed next hops to the caller.
//!
//! ```text
//!  kernel ── notifications ──► Table ── changed? ──► publish(link, next hop | reason)
//!     ▲                          └──── unknown, stale, or long not refreshed ──► provoke(link)
//!     └───────────── dump, at start and whenever something may have been missed
//! ```
//!
//! It subscribes first and dumps then, so nothing falls between; a notification that is older than the dump is followed
//! by the newer one. It dumps anew when the socket's buffer overflowed (ENOBUFS), and when an address went or a device
//! went down: then the kernel flushes IPv4 routes without saying so.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use florelay_engine::config::LinkId;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::table::{LinkSpec, NextHop, Table, Update};
use super::{convert, socket};

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Notifications taken before changes are published, so that an endless stream of them delays no link for ever.
const BURST: usize = 256;
/// After an error of the socket itself.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// How to follow: mostly when a neighbour's resolution is provoked.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Between two provocations while the neighbour is not resolved.
    pub retry: Duration,
    /// The same while its entry is stale. The kernel waits `delay_first_probe_time` (5 s) for a confirmation before it asks, and
    /// does not notify the beginning of that wait.
    pub stale_retry: Duration,
    /// The same while it is resolved: uses the entry, so that the kernel keeps it and confirms it when its time
    /// (`base_reachable_time`, 30 s) has run out. The datagrams are outside the link's rate plan, so: seldom.
    pub refresh: Duration,
    /// Receive buffer of the notification socket, bytes (the kernel doubles it, and has a minimum). A change of a full
    /// routing table may overflow it, which costs a dump.
    pub rx_buffer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(1),
            stale_retry: Duration::from_secs(7),
            refresh: Duration::from_secs(20),
            rx_buffer_bytes: 1 << 20,
        }
    }
}

/// A running thread. Dropping it stops the thread and waits for it.
#[derive(Debug)]
pub struct Follower {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    overflows: Arc<AtomicU64>,
}

impl Follower {
    /// Starts to follow the network namespace of the calling thread.
    ///
    /// `publish` is called for each link once at the start and then on each change; `provoke` asks the caller to send one
    /// empty UDP datagram to the link's remote address through the socket that it holds on the link's local address and
    /// port. (Where several interfaces reach the remote address, that socket should be bound to the link's.) Both are called on
    /// the follower's thread, must not block, and are not called any more after the follower has been dropped.
    ///
    /// # Errors
    /// The thread, the sockets or the first dump failed.
    pub fn start(
        links: Vec<(LinkId, LinkSpec)>,
        options: Options,
        publish: impl FnMut(LinkId, Result<NextHop, Arc<str>>) + Send + 'static,
        provoke: impl FnMut(LinkId) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (started, first) = mpsc::sync_channel(1);
        let links =
            links.into_iter().map(|(id, spec)| Link { id, spec, published: None, want: Want::Nothing, provoked: None });
        let overflows = Arc::new(AtomicU64::new(0));
        let mut watch = Watch { links: links.collect(), options, overflows: Arc::clone(&overflows), publish, provoke };
        let thread = thread::Builder::new().name("netlink".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            runtime.block_on(run(&mut watch, stopped, &started));
        })?;
        let follower = Self { stop: Some(stop), thread: Some(thread), overflows };
        first.recv().map_err(|_| io::Error::other("the netlink thread ended"))??;
        Ok(follower)
    }

    /// How often notifications were lost and everything was read anew, for statistics.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the netlink thread panicked");
        }
    }
}

/// Sessions, one after the other: each has a socket of its own.
async fn run<P, Q>(watch: &mut Watch<P, Q>, mut stop: oneshot::Receiver<()>, started: &mpsc::SyncSender<io::Result<()>>)
where
    P: FnMut(LinkId, Result<NextHop, Arc<str>>),
    Q: FnMut(LinkId),
{
    let mut first = true;
    loop {
        let error = match open(watch.options.rx_buffer_bytes) {
            Ok((socket, table)) => {
                if first {
                    first = false;
                    let _ = started.send(Ok(()));
                }
                match session(watch, &socket, table, &mut stop).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) if first => {
                let _ = started.send(Err(error));
                return;
            }
            Err(error) => error,
        };
        if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NOBUFS) {
            watch.overflows.fetch_add(1, Ordering::Relaxed);
            tracing::info!("rtnetlink notifications were lost: reading everything anew");
            continue;
        }
        tracing::warn!(%error, "following rtnetlink failed: trying again");
        tokio::select! {
            _ = &mut stop => return,
            () = tokio::time::sleep(ERROR_PAUSE) => {}
        }
    }
}

fn open(rx_buffer_bytes: usize) -> io::Result<(TokioSocket, Table)> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.iter().fold(0, |bits, group| bits | 1 << (*group as u32 - 1));
    socket.socket_mut().set_rx_buf_sz(rx_buffer_bytes)?;
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok((socket, dump()?))
}

/// The present state.
fn dump() -> io::Result<Table> {
    let mut table = Table::default();
    for request in [
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        RouteNetlinkMessage::GetRoute(RouteMessage::default()),
        RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
    ] {
        for message in socket::dump(&request)? {
            for update in convert::updates(message, 0) {
                table.apply(update);
            }
        }
    }
    Ok(table)
}

/// Follows until told to stop.
async fn session<P, Q>(
    watch: &mut Watch<P, Q>,
    socket: &TokioSocket,
    mut table: Table,
    stop: &mut oneshot::Receiver<()>,
) -> io::Result<()>
where
    P: FnMut(LinkId, Result<NextHop, Arc<str>>),
    Q: FnMut(LinkId),
{
    loop {
        watch.publish_changes(&table);
        let due = watch.provoke_due(Instant::now());
        let datagram = tokio::select! {
            biased;
            _ = &mut *stop => return Ok(()),
            datagram = socket.recv_from_full() => datagram?.0,
            () = tokio::time::sleep_until(due) => continue,
        };
        let mut flushed = apply(&mut table, &datagram)?;
        for _ in 1..BURST {
            // What is there already; the timeout polls the socket before it looks at the time.
            let Ok(next) = tokio::time::timeout(Duration::ZERO, socket.recv_from_full()).await else {
                break;
            };
            flushed |= apply(&mut table, &next?.0)?;
        }
        if flushed {
            table = dump()?;
        }
    }
}

/// Takes the notifications of one datagram; whether routes may have been flushed silently.
fn apply(table: &mut Table, datagram: &[u8]) -> io::Result<bool> {
    let mut flushed = false;
    for message in socket::messages(datagram) {
        let message = message?;
        let flags = message.header.flags;
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            continue;
        };
        for update in convert::updates(inner, flags) {
            flushed |= match &update {
                Update::AddressGone(..) => true,
                Update::Device(device) => !device.up,
                _ => false,
            };
            table.apply(update);
        }
    }
    Ok(flushed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// Resolved and fresh, or nothing that a datagram could help.
    Nothing,
    Refresh,
    Confirm,
    Resolve,
}

struct Link {
    id: LinkId,
    spec: LinkSpec,
    published: Option<Result<NextHop, Arc<str>>>,
    want: Want,
    provoked: Option<Instant>,
}

/// The links and what their owner wants to know.
struct Watch<P, Q> {
    links: Vec<Link>,
    options: Options,
    overflows: Arc<AtomicU64>,
    publish: P,
    provoke: Q,
}

impl<P, Q> Watch<P, Q>
where
    P: FnMut(LinkId, Result<NextHop, Arc<str>>),
    Q: FnMut(LinkId),
{
    fn publish_changes(&mut self, table: &Table) {
        for link in &mut self.links {
            let resolution = table.resolve(&link.spec);
            link.want = match (&resolution.next_hop, resolution.provoke) {
                (Ok(_), false) => Want::Refresh,
                (Ok(_), true) => Want::Confirm,
                (Err(_), true) => Want::Resolve,
                (Err(_), false) => Want::Nothing,
            };
            if link.published.as_ref() != Some(&resolution.next_hop) {
                link.published = Some(resolution.next_hop.clone());
                (self.publish)(link.id, resolution.next_hop);
            }
        }
    }

    /// Provokes where it is time; when to look again.
    fn provoke_due(&mut self, now: Instant) -> Instant {
        /// When nothing is wanted.
        const IDLE: Duration = Duration::from_secs(3600);
        let mut next = now + IDLE;
        for link in &mut self.links {
            let interval = match link.want {
                Want::Nothing => continue,
                Want::Refresh => self.options.refresh,
                Want::Confirm => self.options.stale_retry,
                Want::Resolve => self.options.retry,
            };
            // A link that is fresh at the start needs nothing before its first interval.
            let at = match link.provoked {
                Some(last) => last + interval,
                None if link.want == Want::Refresh => *link.provoked.insert(now) + interval,
                None => now,
            };
            if at <= now {
                link.provoked = Some(now);
                (self.provoke)(link.id);
                next = next.min(now + interval);
            } else {
                next = next.min(at);
            }
        }
        next
    }
}
