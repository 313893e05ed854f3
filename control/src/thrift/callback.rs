//! The connection to one client's callback service: one thread writes what its [`Outbox`] says, in order, and pings.

use std::io;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::events;
use super::outbox::Outbox;
use super::types::Event;
use super::wire;
use super::{THREAD_REFUSED, small_thread};

/// How long a client may take to be connected to.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of what is written, and how long for the answer to a ping.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client's callback connection. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Callback {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: TcpStream,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    outbox: Outbox,
    open: bool,
}

impl Callback {
    /// Connects to a client; its thread pings each `ping`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(super) fn dial(at: SocketAddr, outbox: Outbox, ping: Duration) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&at, DIAL_TIMEOUT)?;
        // Each event is a message that somebody waits for.
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let shared = Arc::new(Shared { socket, state: Mutex::new(State { outbox, open: true }), wake: Condvar::new() });
        let own = Arc::clone(&shared);
        small_thread("thrift-callback", move || {
            if let Err(error) = speak(&own, ping) {
                tracing::info!("thrift: the client at {at} is not called any more: {error}");
            }
            own.close();
        })
        .then_some(Self { shared })
        .ok_or_else(|| io::Error::other(THREAD_REFUSED))
    }

    /// Adds to what the client is told.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Outbox)) {
        let mut state = self.shared.lock();
        change(&mut state.outbox);
        if state.outbox.is_full() {
            drop(state);
            tracing::warn!("thrift: a client reads no events and is not called any more");
            return self.shared.close();
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// The client is there, as far as is known without asking it.
    pub(super) fn is_open(&self) -> bool {
        use rustix::net::RecvFlags;
        if !self.shared.lock().open {
            return false;
        }
        // A client says nothing but answers to pings: an end that can be read is one.
        let peeked = rustix::net::recv(&self.shared.socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Ok((_, 0)))
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.outbox = Outbox::default();
        drop(state);
        self.wake.notify_one();
        // It may be closed already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Says what there is to say until the connection is closed.
fn speak(shared: &Shared, ping: Duration) -> ::thrift::Result<()> {
    let mut answers = wire::input(io::BufReader::new(&shared.socket));
    let (mut sequence, mut ping_at) = (0_i32, Instant::now() + ping);
    loop {
        let event = {
            let mut state = shared.lock();
            loop {
                if !state.open {
                    return Ok(());
                }
                let now = Instant::now();
                if now >= ping_at {
                    break Event::Ping;
                }
                if let Some(event) = state.outbox.next() {
                    break event;
                }
                let waited = shared.wake.wait_timeout(state, ping_at - now);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        sequence = sequence.wrapping_add(1);
        (&shared.socket).write_all(&events::write(&event, sequence)?)?;
        if event == Event::Ping {
            events::read_pong(&mut answers, sequence)?;
            ping_at = Instant::now() + ping;
        }
    }
}
