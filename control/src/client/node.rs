//! A connection to the control process, for many requests at once.
//!
//! One thread receives and hands each answer to whom asked, by the tag. Invariant: for each request that was sent, its sink
//! hears the last answer, or that the connection is lost, exactly once and nothing after it.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use florelay_dataplane::ipc::{Answer, Request, RequestBody, Response};
use florelay_dataplane::ipc_codec::IpcStream;

use super::answers::Queue;
use super::{Answers, ClientError, Heard, Sink};

/// How long a node that went away may take to come back before what waits for it is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two attempts.
pub(crate) const RETRY: Duration = Duration::from_millis(200);

/// A node, by its control socket. Clones share one connection, which is made at the first request, and anew at the first
/// one after it has ended.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    patience: Duration,
    next_tag: AtomicU64,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner) {
            connection.stream.shutdown();
        }
    }
}

struct Connection {
    /// For [`IpcStream::shutdown`].
    stream: IpcStream,
    writer: Mutex<IpcStream>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    sinks: HashMap<u64, Arc<dyn Sink>>,
    /// The connection has ended.
    gone: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("requests", &self.waiting().sinks.len()).finish_non_exhaustive()
    }
}

impl Node {
    /// The node whose control process listens here. Nothing is asked yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with_patience(socket, PATIENCE)
    }

    /// The same; streams give a node that went away up after so long, instead of [`PATIENCE`].
    #[must_use]
    pub fn with_patience(socket: impl Into<PathBuf>, patience: Duration) -> Self {
        let (next_tag, connection) = (AtomicU64::new(1), Mutex::new(None));
        Self(Arc::new(Inner { socket: socket.into(), patience, next_tag, connection }))
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.0.socket
    }

    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// Asks for what has one answer, without a descriptor, and waits for it.
    ///
    /// # Errors
    /// The node refuses, or cannot be asked; after [`ClientError::Lost`] it is not known whether it did what was asked.
    pub fn ask(&self, body: RequestBody) -> Result<Answer, ClientError> {
        self.subscribe(body, None)?.recv()
    }

    /// Asks for what has many answers, with the descriptor that belongs to the request.
    ///
    /// # Errors
    /// The node cannot be asked. What it answers, refusals too, is [`Answers::recv`]'s.
    pub fn subscribe(&self, body: RequestBody, fd: Option<BorrowedFd<'_>>) -> Result<Answers, ClientError> {
        let queue = Arc::new(Queue::default());
        let subscription = self.subscribe_to(&queue, body, fd)?;
        Ok(Answers::new(subscription, queue))
    }

    /// The same; the answers go to a sink, which may serve other requests too.
    pub(crate) fn subscribe_to(
        &self,
        sink: &Arc<impl Sink + 'static>,
        body: RequestBody,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Subscription, ClientError> {
        let tag = self.0.next_tag.fetch_add(1, Ordering::Relaxed);
        let request = Request { tag, body };
        let mut connection = self.connection()?;
        for attempt in 0.. {
            let expected = connection.expect(tag, sink.clone());
            let sent = connection.writer().send(&request, fd);
            match sent {
                Ok(()) => break,
                // It ended unnoticed, and the request did not get through whole.
                Err(error) if error.is_disconnect() && attempt == 0 => {
                    if expected && !connection.take_back(tag) {
                        // Its sink was told of the end.
                        break;
                    }
                    connection.stream.shutdown();
                    connection = self.reconnected(&connection)?;
                }
                Err(error) => {
                    connection.take_back(tag);
                    connection.stream.shutdown();
                    return Err(ClientError::Lost(format!("asking the control process: {error}")));
                }
            }
        }
        Ok(Subscription { node: self.clone(), connection, tag, done: AtomicBool::new(false) })
    }

    /// Says what is not answered. Whether it arrives is not known.
    pub(super) fn tell(&self, body: RequestBody) -> Result<(), ClientError> {
        let tag = self.0.next_tag.fetch_add(1, Ordering::Relaxed);
        let sent = self.connection()?.writer().send(&Request { tag, body }, None);
        sent.map_err(|error| ClientError::Lost(format!("telling the control process: {error}")))
    }

    fn connection(&self) -> Result<Arc<Connection>, ClientError> {
        let mut slot = self.0.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_ref().filter(|connection| !connection.waiting().gone) {
            Some(connection) => Ok(connection.clone()),
            None => Ok(slot.insert(Connection::open(&self.0.socket)?).clone()),
        }
    }

    /// Another connection than this one.
    fn reconnected(&self, than: &Arc<Connection>) -> Result<Arc<Connection>, ClientError> {
        let mut slot = self.0.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|present| Arc::ptr_eq(present, than)) {
            *slot = None;
        }
        drop(slot);
        self.connection()
    }
}

impl Connection {
    fn open(socket: &Path) -> Result<Arc<Self>, ClientError> {
        let unreachable = |reason: String, denied| ClientError::Unreachable { socket: socket.into(), reason, denied };
        let connected = UnixStream::connect(socket)
            .map_err(|e| unreachable(e.to_string(), e.kind() == ErrorKind::PermissionDenied))?;
        let connection = (|| {
            let stream = IpcStream::new(connected)?;
            stream.greet()?;
            let (writer, reader) = (Mutex::new(stream.try_clone()?), stream.try_clone()?);
            Ok((Arc::new(Self { stream, writer, waiting: Mutex::default() }), reader))
        })();
        let (connection, reader) =
            connection.map_err(|e: florelay_dataplane::ipc_codec::IpcError| unreachable(e.to_string(), false))?;
        let receiving = connection.clone();
        let receive = move || receiving.receive(&reader);
        thread::Builder::new().name("answers".into()).spawn(receive).map_err(ClientError::system)?;
        Ok(connection)
    }

    /// Hands on what comes, to the end of the connection.
    fn receive(&self, reader: &IpcStream) {
        let reason = loop {
            match reader.receive::<Response>() {
                Ok(Some((Response { tag, body }, _))) => {
                    let mut waiting = self.waiting();
                    // Late answers to a request that was given up are nobody's business.
                    let sink =
                        if body.is_last() { waiting.sinks.remove(&tag) } else { waiting.sinks.get(&tag).cloned() };
                    drop(waiting);
                    if let Some(sink) = sink {
                        sink.heard(tag, Heard::Answer(body));
                    }
                }
                Ok(None) => break "the control process has closed the connection".to_owned(),
                Err(error) => break format!("the control process: {error}"),
            }
        };
        reader.shutdown();
        let mut waiting = self.waiting();
        waiting.gone = true;
        let sinks = std::mem::take(&mut waiting.sinks);
        drop(waiting);
        for (tag, sink) in sinks {
            sink.heard(tag, Heard::Lost(reason.clone()));
        }
    }

    /// `false`: it has ended, and sending fails.
    fn expect(&self, tag: u64, sink: Arc<dyn Sink>) -> bool {
        let mut waiting = self.waiting();
        if !waiting.gone {
            waiting.sinks.insert(tag, sink);
        }
        !waiting.gone
    }

    /// `false`: its sink has heard the last.
    fn take_back(&self, tag: u64) -> bool {
        self.waiting().sinks.remove(&tag).is_some()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Each change leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, IpcStream> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that was sent. Dropped before its last answer, it says that nobody wants more.
#[derive(Debug)]
pub(crate) struct Subscription {
    node: Node,
    connection: Arc<Connection>,
    tag: u64,
    done: AtomicBool,
}

impl Subscription {
    /// What its sink is told by.
    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    /// The last answer was heard.
    pub(crate) fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.done.load(Ordering::Relaxed) || !self.connection.take_back(self.tag) {
            return;
        }
        let tag = self.node.0.next_tag.fetch_add(1, Ordering::Relaxed);
        // On the same connection: on another one the tag means nothing. One that has ended has forgotten already.
        let _ = self.connection.writer().send(&Request { tag, body: RequestBody::Forget { of: self.tag } }, None);
    }
}
