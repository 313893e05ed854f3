//! A data port: a listening socket for one transfer and one client, and the rules by which a connection to it counts.
//!
//! Clients are known to *probe* a port, that is to connect and to close at once. A stream of no bytes looks the same from
//! here, so:
//! - the writer is the connection that sends the first byte; a connection that closes without one is a probe,
//! - unless the client has declared 0 bytes: then it is the whole stream;
//! - if nothing was declared, it is the whole stream when no other connection comes within [`EMPTY_AFTER`].
//!
//! A reader's first bytes are kept until it has shown that it reads them ([`super::receiving`]). Only the client's own
//! address may connect; others are closed.

use std::io::{self, Read as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long after a probe of a port whose stream may be empty another connection is waited for.
pub(super) const EMPTY_AFTER: Duration = Duration::from_secs(2);
/// Connections that may stand open without having sent a byte.
const MAX_SILENT: usize = 8;
/// Bytes that are read at once.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// A data port.
#[derive(Debug)]
pub(super) struct Port {
    listener: TcpListener,
    number: u16,
    client: IpAddr,
    timeout: Duration,
}

/// Who came.
#[derive(Debug)]
pub(super) enum Came {
    /// The client, with its first bytes if it writes.
    Client(TcpStream, Vec<u8>),
    /// The client, and its stream has no bytes.
    Empty,
    /// Nobody in time.
    Nobody,
    /// The transfer has ended otherwise.
    Stopped,
}

impl Port {
    /// Opens a port for the client of this address.
    ///
    /// # Errors
    /// The system has none.
    pub(super) fn open(bind: IpAddr, client: IpAddr, timeout: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(bind, 0))?;
        listener.set_nonblocking(true)?;
        let number = listener.local_addr()?.port();
        Ok(Self { listener, number, client, timeout })
    }

    /// What clients connect to.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Waits for the client that writes; `declared` bytes if it has said so.
    pub(super) fn writer(&self, declared: Option<u64>, stop: &Stop) -> Came {
        let (mut silent, mut empty_at) = (Vec::new(), None::<Instant>);
        let patience = Instant::now() + self.timeout;
        loop {
            let until = match (silent.is_empty(), empty_at) {
                (true, Some(at)) => Some(at),
                (true, None) => Some(patience),
                // It has come, and may think as long as it likes.
                (false, _) => None,
            };
            match self.wait(&silent, stop, until) {
                Waited::Stopped => return Came::Stopped,
                Waited::Late if empty_at.is_some() => return Came::Empty,
                Waited::Late => return Came::Nobody,
                Waited::Something => {}
            }
            while let Some(socket) = self.accept() {
                if silent.len() < MAX_SILENT {
                    silent.push(socket);
                }
                empty_at = None;
            }
            let mut at = 0;
            while let Some(socket) = silent.get_mut(at) {
                let mut bytes = vec![0; CHUNK_BYTES];
                match socket.read(&mut bytes) {
                    Ok(0) => {
                        silent.remove(at);
                        match declared {
                            Some(0) => return Came::Empty,
                            Some(_) => {}
                            None => empty_at = Some(Instant::now() + EMPTY_AFTER),
                        }
                    }
                    Ok(n) => {
                        bytes.truncate(n);
                        return Came::Client(silent.swap_remove(at), bytes);
                    }
                    Err(error) if is_transient(&error) => at += 1,
                    Err(_) => {
                        silent.remove(at);
                    }
                }
            }
        }
    }

    /// Waits for the client that reads.
    pub(super) fn reader(&self, stop: &Stop) -> Came {
        let patience = Instant::now() + self.timeout;
        loop {
            match self.wait(&[], stop, Some(patience)) {
                Waited::Stopped => return Came::Stopped,
                Waited::Late => return Came::Nobody,
                Waited::Something => {}
            }
            if let Some(socket) = self.accept() {
                return Came::Client(socket, Vec::new());
            }
        }
    }

    /// A connection from the right address.
    fn accept(&self) -> Option<TcpStream> {
        loop {
            match self.listener.accept() {
                Ok((socket, from)) if is_same(from.ip(), self.client) => {
                    if socket.set_nonblocking(true).is_ok() && socket.set_nodelay(true).is_ok() {
                        return Some(socket);
                    }
                }
                Ok((_, from)) => {
                    let (port, client) = (self.number, self.client);
                    tracing::warn!("thrift: {from} is not let in at data port {port}, which is for {client}");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // The other side was quicker, or descriptors are short: the next wait shows.
                Err(_) => return None,
            }
        }
    }

    fn wait(&self, silent: &[TcpStream], stop: &Stop, until: Option<Instant>) -> Waited {
        loop {
            if stop.is_stopped() {
                return Waited::Stopped;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::new(&stop.waits, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            fds.extend(silent.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) if left.is_some() => return Waited::Late,
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if stop.is_stopped() => return Waited::Stopped,
                Ok(_) => return Waited::Something,
                Err(error) => {
                    tracing::error!("thrift: waiting at data port {}: {error}", self.number);
                    return Waited::Late;
                }
            }
        }
    }
}

enum Waited {
    Something,
    Late,
    Stopped,
}

/// Ends what waits at a port or in its connection, from another thread.
#[derive(Debug)]
pub(super) struct Stop {
    waits: UnixStream,
    rings: UnixStream,
    state: Mutex<StopState>,
}

#[derive(Debug, Default)]
struct StopState {
    stopped: bool,
    socket: Option<TcpStream>,
}

impl Stop {
    /// Nothing has been stopped yet.
    ///
    /// # Errors
    /// Descriptors are short.
    pub(super) fn new() -> io::Result<Self> {
        let (waits, rings) = UnixStream::pair()?;
        Ok(Self { waits, rings, state: Mutex::default() })
    }

    /// From now on nothing waits. A connection of a stream that is not `whole` is broken, not closed: its end would be
    /// taken for the stream's.
    pub(super) fn stop(&self, whole: bool) {
        let mut state = self.lock();
        state.stopped = true;
        // Both ends are ours, and a socket that is closed already is what is wanted.
        let _ = self.rings.shutdown(Shutdown::Both);
        if let Some(socket) = state.socket.take() {
            let closed = if whole { socket.shutdown(Shutdown::Both) } else { break_off(&socket) };
            let _ = closed;
        }
    }

    /// This is the connection that has to be closed then.
    pub(super) fn covers(&self, socket: &TcpStream) {
        let mut state = self.lock();
        state.socket = socket.try_clone().ok();
        if state.stopped {
            let _ = break_off(socket);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, StopState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resets a connection; who waits in it is woken.
fn break_off(socket: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

/// Waits until one of these happens to the socket, at most so long.
pub(super) fn happens(socket: &TcpStream, what: PollFlags, most: Duration) -> bool {
    let end = Instant::now() + most;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), what)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            other => return matches!(other, Ok(n) if n > 0),
        }
    }
}

/// One machine: an address of the loopback network is any of them.
fn is_same(a: IpAddr, b: IpAddr) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    a == b || (a.is_loopback() && b.is_loopback())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
