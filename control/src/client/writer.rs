//! The writing end of a stream.
//!
//! ```text
//!   write_all ─► window (what is not accepted, ≤ 16 MiB) ─► pump thread ─► pipe ─► dataplane
//!                └ shortened by ◄─ accepted ◄──────────────────────────────────────┘
//! ```
//!
//! What the dataplane has accepted it does not lose. What it has not is still here when it went away, and goes into a new
//! pipe once it is back.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use florelay_dataplane::ipc::{RequestBody, TransferOrder, TransferStatus};

use super::answers::Bell;
use super::pump::Pump;
use super::{ClientError, Node};

/// Most bytes of a stream that its writer keeps because the dataplane has not accepted them; then `write_all` waits.
pub const WINDOW_BYTES: u64 = 16 << 20;

/// What the pump thread and the writer share.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The bytes from `base` on.
    pub(super) window: VecDeque<u8>,
    /// Bytes before this are accepted.
    pub(super) base: u64,
    /// The size, once it is said.
    pub(super) size: Option<u64>,
    /// The dataplane has heard of the end, which is all in the pipe.
    pub(super) end_heard: bool,
    /// Newest known.
    pub(super) status: TransferStatus,
    /// Counts changes of `status`.
    pub(super) changes: u64,
    /// Nothing more can be done for it.
    pub(super) failed: Option<ClientError>,
    /// The writer has gone.
    pub(super) closed: bool,
}

impl State {
    pub(super) fn head(&self) -> u64 {
        self.base + self.window.len() as u64
    }

    /// The end is said and every byte is accepted.
    pub(super) fn is_safe(&self) -> bool {
        self.end_heard && self.size == Some(self.base)
    }

    /// Why nothing may be written any more.
    fn check(&self) -> Result<(), ClientError> {
        match (&self.status.ended, &self.failed) {
            (Some(Err(failure)), _) => Err(ClientError::Ended(failure.clone())),
            (_, Some(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.status.ended.is_some() || self.failed.is_some()
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) changed: Condvar,
    pub(super) bell: Arc<Bell>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the pump that nobody is there any more, once the last of writer and [`Running`] is gone.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.bell.ring();
    }
}

/// A stream that is written here. Dropped before its end was said, it is given up: by the dataplane, when nobody resumes it
/// within its `linger`.
#[derive(Debug)]
pub struct StreamWriter {
    node: Node,
    id: u128,
    handle: Handle,
}

impl StreamWriter {
    /// Begins a stream. `declared`: its size in bytes, if it is known before; more or fewer fail it. `linger`: how long it
    /// waits to be resumed when this program goes away.
    ///
    /// # Errors
    /// It is refused ([`ClientError::Refused`], [`ClientError::Failed`]), or the node cannot be asked.
    pub fn open(
        node: &Node,
        order: TransferOrder,
        declared: Option<u64>,
        linger: Duration,
    ) -> Result<Self, ClientError> {
        let id = order.id;
        let linger_ns = u64::try_from(linger.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self::start(node, id, RequestBody::SendStream { order, declared, linger_ns })?.0)
    }

    /// Goes on with a stream whose writing program or node went away; write on with the byte of the offset that comes with
    /// it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn resume(node: &Node, id: u128) -> Result<(Self, u64), ClientError> {
        Self::start(node, id, RequestBody::ResumeStream { id })
    }

    fn start(node: &Node, id: u128, body: RequestBody) -> Result<(Self, u64), ClientError> {
        let bell = Arc::new(Bell::new()?);
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), bell });
        let resumed = matches!(body, RequestBody::ResumeStream { .. });
        let pump = Pump::start(node.clone(), id, body, shared.clone())?;
        let at = {
            let mut state = shared.lock();
            if let Some(Err(failure)) = &state.status.ended {
                return Err(ClientError::Ended(failure.clone()));
            }
            if resumed {
                state.base = state.status.accepted;
            }
            state.base
        };
        thread::Builder::new().name("stream-pump".into()).spawn(move || pump.run(at)).map_err(ClientError::system)?;
        Ok((Self { node: node.clone(), id, handle: Handle(shared) }, at))
    }

    /// Writes all of it. Waits while [`WINDOW_BYTES`] are not accepted.
    ///
    /// # Errors
    /// The stream has ended ([`ClientError::Ended`]), or the node has gone for good.
    pub fn write_all(&mut self, mut data: &[u8]) -> Result<(), ClientError> {
        let shared = &self.handle.0;
        let mut state = shared.lock();
        loop {
            state.check()?;
            if state.status.ended.is_some() || state.size.is_some() {
                return Err(ClientError::System("the stream has ended".to_owned()));
            }
            let room = WINDOW_BYTES.saturating_sub(state.window.len() as u64);
            let (now, later) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            state.window.extend(now);
            data = later;
            if !now.is_empty() {
                shared.bell.ring();
            }
            if data.is_empty() {
                return Ok(());
            }
            state = shared.wait(state);
        }
    }

    /// Bytes that will not be lost any more, whatever happens to this node.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.handle.0.lock().base
    }

    /// Says that this was all, and waits until the dataplane has heard so and has every byte in hand or in its pipe: from
    /// then on the rest goes by itself, unless the dataplane dies with bytes that it has not accepted; see
    /// [`Self::finish`].
    ///
    /// # Errors
    /// The stream has ended without success, or the node has gone for good.
    pub fn end(&mut self) -> Result<(), ClientError> {
        let shared = &self.handle.0;
        let mut state = shared.lock();
        let size = state.head();
        state.size.get_or_insert(size);
        shared.bell.ring();
        while !state.end_heard && state.status.ended.is_none() {
            state.check()?;
            state = shared.wait(state);
        }
        state.check()
    }

    /// Says that this was all, and waits until nothing of it can be lost any more.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub fn finish(mut self) -> Result<Running, ClientError> {
        self.end()?;
        let shared = &self.handle.0;
        let mut state = shared.lock();
        while !state.is_safe() && state.status.ended.is_none() {
            state.check()?;
            state = shared.wait(state);
        }
        state.check()?;
        drop(state);
        Ok(Running { handle: self.handle })
    }

    /// Gives the stream up, at both ends.
    ///
    /// # Errors
    /// The node refuses, because it has ended, or cannot be asked.
    pub fn cancel(self) -> Result<(), ClientError> {
        self.node.ask(RequestBody::Cancel { id: self.id }).map(drop)
    }

    /// What was last heard of it.
    #[must_use]
    pub fn status(&self) -> TransferStatus {
        self.handle.0.lock().status.clone()
    }

    /// For another thread: each change of the status.
    #[must_use]
    pub fn watch(&self) -> Watcher {
        Watcher { shared: self.handle.0.clone(), seen: 0 }
    }
}

/// A stream whose end was said. It goes on by itself when this is dropped.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
}

impl Running {
    /// Waits for the end of the transfer; its `ended` is `Some`.
    ///
    /// # Errors
    /// The node has gone for good; the transfer may go on when it is back.
    pub fn wait(&self) -> Result<TransferStatus, ClientError> {
        let shared = &self.handle.0;
        let mut state = shared.lock();
        loop {
            if state.status.ended.is_some() {
                return Ok(state.status.clone());
            }
            state.check()?;
            state = shared.wait(state);
        }
    }

    /// What was last heard of it.
    #[must_use]
    pub fn status(&self) -> TransferStatus {
        self.handle.0.lock().status.clone()
    }
}

/// Changes of a stream that is written here.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    seen: u64,
}

impl Watcher {
    /// Ends whatever the writer waits for, with [`ClientError::Interrupted`]. It cannot go on, but [`StreamWriter::resume`]
    /// can; a stream whose end was not said is given up if nobody does.
    pub fn interrupt(&self) {
        self.shared.lock().failed.get_or_insert(ClientError::Interrupted);
        self.shared.changed.notify_all();
        self.shared.bell.ring();
    }

    /// Waits for a status that was not seen yet; `None` after the one with `ended`, or when nothing more can be heard.
    pub fn next_change(&mut self) -> Option<TransferStatus> {
        let mut state = self.shared.lock();
        loop {
            if state.changes > self.seen {
                self.seen = state.changes;
                return Some(state.status.clone());
            }
            if state.is_over() || state.closed {
                return None;
            }
            state = self.shared.wait(state);
        }
    }
}
