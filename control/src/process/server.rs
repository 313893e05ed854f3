//! The sockets of the control process: where clients come in, and how the dataplane is found again.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{Answer, Request, RequestBody, Response};
use florelay_dataplane::ipc_codec::{IpcError, IpcStream};

use super::broker::{Broker, ClientId, Generation, Input, Output, Timing};

/// Clients at once; one more is turned away.
const MAX_CLIENTS: usize = 64;
/// Events that may wait for the broker.
const QUEUE: usize = 256;
/// Bytes, about, that may wait for one socket: a client that follows 20,000 transfers may hear of all of them at once, and of
/// their ends.
const WAITING_BYTES: usize = 32 << 20;
/// Between two attempts to connect to a dataplane that is not there: from, doubled up to.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Where dataplanes come from.
#[derive(Debug)]
pub enum Dataplane {
    /// It listens here; connected to again and again.
    Path(PathBuf),
    /// Each message on this stream (a `()`, see `ipc_codec`) brings a connected socket: the supervisor sends one whenever
    /// it has started a dataplane. When the stream ends, so does the control process.
    Passed(UnixStream),
}

/// Why the control process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another control process listens at {path}", path = .0.display())]
    Taken(PathBuf),
    /// The system refuses; paths beyond 107 bytes do not fit into a socket address.
    #[error("cannot listen at {path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
}

/// Binds the control socket: mode 0600, in place of a dead one, never of a live one.
///
/// # Errors
/// [`ListenError`].
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |e| ListenError::Io(path.to_owned(), e);
    if UnixStream::connect(path).is_ok() {
        return Err(ListenError::Taken(path.to_owned()));
    }
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    }
    // Bound beside and renamed, so that it is never there with a wider mode.
    let beside = path.with_extension(format!("{}", std::process::id()));
    let listener = UnixListener::bind(&beside).map_err(fail)?;
    let moved =
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).and_then(|()| fs::rename(&beside, path));
    if moved.is_err() {
        // Ours alone, by its name.
        let _ = fs::remove_file(&beside);
    }
    moved.map_err(fail)?;
    Ok(listener)
}

/// Serves until the supervisor is gone ([`Dataplane::Passed`]), or for ever.
pub fn serve(listener: UnixListener, dataplane: Dataplane, timing: Timing) {
    let (events, inbox) = sync_channel(QUEUE);
    let to_broker = events.clone();
    thread::spawn(move || accept_clients(&listener, &to_broker));
    thread::spawn(move || match dataplane {
        Dataplane::Path(path) => follow_path(&path, &events),
        Dataplane::Passed(stream) => follow_passed(stream, &events),
    });
    run_broker(&inbox, timing);
}

/// A request for the dataplane, with its descriptor.
type Order = (Request, Option<OwnedFd>);

enum Event {
    Client(ClientId, Peer<Response>),
    Dataplane(Generation, Peer<Order>),
    Input(Input),
    /// No more dataplanes will come.
    End,
}

/// The writing side of a connection.
struct Peer<T> {
    queue: Sender<(usize, T)>,
    /// What waits in it, in bytes.
    waiting: Arc<AtomicUsize>,
    stream: IpcStream,
}

/// What a message takes while it waits for its socket.
trait Heavy {
    fn about_bytes(&self) -> usize;
}

impl Heavy for Response {
    fn about_bytes(&self) -> usize {
        self.body.about_bytes()
    }
}

impl Heavy for Order {
    // With room for a descriptor in the kernel.
    fn about_bytes(&self) -> usize {
        let strings = |pairs: &[(String, String)]| pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        let more: usize = match &self.0.body {
            RequestBody::Message { payload, .. } => payload.len(),
            RequestBody::SendFile { order, .. } | RequestBody::SendStream { order, .. } => strings(&order.attributes),
            _ => 0,
        };
        512 + more
    }
}

/// It was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotTaken {
    /// Too much waits already.
    Full,
    /// The writer has gone.
    Gone,
}

impl<T: Heavy + Send + 'static> Peer<T> {
    fn new(stream: &IpcStream, write: fn(&IpcStream, T) -> Result<(), IpcError>) -> io::Result<Self> {
        let (queue, messages) = channel::<(usize, T)>();
        let writer = stream.try_clone()?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = Arc::clone(&waiting);
        thread::spawn(move || {
            while let Ok((bytes, message)) = messages.recv() {
                taken.fetch_sub(bytes, Ordering::Relaxed);
                if let Err(e) = write(&writer, message) {
                    tracing::debug!("writing: {e}");
                    break;
                }
            }
            // The reader notices, and cleans up.
            writer.shutdown();
        });
        Ok(Self { queue, waiting, stream: stream.try_clone()? })
    }

    /// Puts it behind what waits, never waits itself.
    fn send(&self, message: T) -> Result<(), NotTaken> {
        let bytes = message.about_bytes();
        if self.waiting.load(Ordering::Relaxed) >= WAITING_BYTES {
            return Err(NotTaken::Full);
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.queue.send((bytes, message)).map_err(|_| NotTaken::Gone)
    }
}

fn run_broker(inbox: &Receiver<Event>, timing: Timing) {
    let mut broker = Broker::new(Instant::now(), timing);
    let mut clients: HashMap<ClientId, Peer<Response>> = HashMap::new();
    let mut dataplane: Option<Peer<Order>> = None;
    let mut newest = None;
    loop {
        let wait = broker.next_deadline().map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
        let event = match inbox.recv_timeout(wait) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = Instant::now();
        let mut outputs = match event {
            None => Vec::new(),
            Some(Event::Client(id, peer)) => {
                clients.insert(id, peer);
                Vec::new()
            }
            // A slow greeting may let an older one arrive after a newer one.
            Some(Event::Dataplane(generation, _)) if newest.is_some_and(|n| n > generation) => Vec::new(),
            Some(Event::Dataplane(generation, peer)) => {
                newest = Some(generation);
                dataplane = Some(peer);
                broker.handle(now, Input::DataplaneUp(generation))
            }
            Some(Event::Input(input)) => {
                if let Input::ClientGone(id) = &input {
                    clients.remove(id);
                }
                broker.handle(now, input)
            }
            Some(Event::End) => return,
        };
        outputs.extend(broker.poll(now));
        for output in outputs {
            match output {
                Output::ToClient(id, response) => to_client(&mut clients, id, response),
                Output::ToDataplane(request, fd) => {
                    let tag = request.tag;
                    let taken = dataplane.as_ref().is_some_and(|d| d.send((request, fd)).is_ok());
                    if !taken {
                        let why = "the dataplane takes no more requests at the moment".to_owned();
                        let response = Response { tag, body: Answer::Failed(why) };
                        for output in broker.refused(now, response) {
                            if let Output::ToClient(id, response) = output {
                                to_client(&mut clients, id, response);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn to_client(clients: &mut HashMap<ClientId, Peer<Response>>, id: ClientId, response: Response) {
    let Some(peer) = clients.get(&id) else { return };
    match peer.send(response) {
        Ok(()) => {}
        Err(NotTaken::Full) => {
            tracing::warn!("client {} reads too slowly and is disconnected", id.0);
            peer.stream.shutdown();
            clients.remove(&id);
        }
        Err(NotTaken::Gone) => {
            clients.remove(&id);
        }
    }
}

fn accept_clients(listener: &UnixListener, events: &SyncSender<Event>) {
    let connected = Arc::new(AtomicUsize::new(0));
    for (number, stream) in (1..).zip(listener.incoming()) {
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                // For example no descriptors left; others are in use and will be closed.
                tracing::warn!("accepting a client: {e}");
                thread::sleep(RETRY.0);
                continue;
            }
        };
        if connected.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            tracing::warn!("more than {MAX_CLIENTS} clients; one is turned away");
            connected.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (events, connected) = (events.clone(), Arc::clone(&connected));
        thread::spawn(move || {
            let id = ClientId(number);
            if let Err(e) = client(id, stream, &events) {
                tracing::debug!("client {number}: {e}");
            }
            // The broker is gone only when the process ends.
            let _ = events.send(Event::Input(Input::ClientGone(id)));
            connected.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn client(id: ClientId, stream: UnixStream, events: &SyncSender<Event>) -> Result<(), IpcError> {
    let stream = IpcStream::new(stream)?;
    stream.greet()?;
    let peer = Peer::new(&stream, |s, response| s.send(&response, None))?;
    if events.send(Event::Client(id, peer)).is_err() {
        return Ok(());
    }
    let result = loop {
        match stream.receive::<Request>() {
            Ok(Some((request, fd))) => {
                if events.send(Event::Input(Input::Request(id, request, fd))).is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    stream.shutdown();
    result
}

fn follow_path(path: &Path, events: &SyncSender<Event>) {
    let mut pause = RETRY.0;
    for generation in (1..).map(Generation) {
        // Reconnecting is polling by nature: a socket file appears without notice.
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) => tracing::debug!("no dataplane at {}: {e}", path.display()),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(RETRY.1);
        };
        if talk(generation, stream, events).is_ok() {
            pause = RETRY.0;
        }
        thread::sleep(pause);
    }
}

fn follow_passed(stream: UnixStream, events: &SyncSender<Event>) {
    let supervisor = match IpcStream::new(stream) {
        Ok(supervisor) => supervisor,
        Err(e) => return tracing::error!("the supervisor's socket: {e}"),
    };
    let mut generation = 0;
    loop {
        match supervisor.receive::<()>() {
            Ok(Some(((), Some(fd)))) => {
                generation += 1;
                let (number, events) = (Generation(generation), events.clone());
                // In its own thread: the next dataplane may come while this one's socket lingers.
                thread::spawn(move || talk(number, UnixStream::from(fd), &events));
            }
            Ok(Some(((), None))) => {
                tracing::warn!("the supervisor sent a message without a socket");
            }
            Ok(None) => break,
            Err(e) => {
                tracing::error!("the supervisor's socket: {e}");
                break;
            }
        }
    }
    let _ = events.send(Event::End);
}

/// One conversation with one dataplane. `Err` = it never began.
fn talk(generation: Generation, stream: UnixStream, events: &SyncSender<Event>) -> Result<(), IpcError> {
    let begun = (|| {
        let stream = IpcStream::new(stream)?;
        // A dataplane that starts slowly is introduced only once; its thread can wait.
        stream.greet_patiently()?;
        let write = |s: &IpcStream, (request, fd): Order| s.send(&request, fd.as_ref().map(OwnedFd::as_fd));
        Ok((Peer::new(&stream, write)?, stream))
    })();
    let (peer, stream) = begun.inspect_err(|e: &IpcError| tracing::warn!("greeting the dataplane: {e}"))?;
    // A failed `send` here and below means that the process ends.
    let _ = events.send(Event::Dataplane(generation, peer));
    let reason = loop {
        match stream.receive::<Response>() {
            Ok(Some((response, _))) => {
                if events.send(Event::Input(Input::Answer(generation, response))).is_err() {
                    return Ok(());
                }
            }
            Ok(None) => break "it closed its socket".to_owned(),
            Err(e) => break e.to_string(),
        }
    };
    stream.shutdown();
    tracing::warn!("the dataplane is gone: {reason}");
    let _ = events.send(Event::Input(Input::DataplaneDown(generation, reason)));
    Ok(())
}
