//! `Streams.Read`.
//!
//! A stream whose call is lost and that has a `linger` is [`parked`](super::parked): its reader, which nobody reads
//! meanwhile, and the bytes that the client has not called processed. The next call with its id takes both over.
//!
//! What the client has not called processed is not confirmed to the stream's sender.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::super::api::{Answered, Api};
use super::super::proto::{self, read_response::Message as To};
use super::super::requests::Reading;
use super::super::{answers, error};
use super::parked::{Held, Parked, Window};
use super::progress::{Answers, Hears, Progress};
use crate::client::{ClientError, Interrupt, Node, StreamReader, Wanted};

/// Most bytes that a client has not called processed; then the stream is not read on.
pub(super) const WINDOW_BYTES: u64 = 4 << 20;
/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for HTTP/2.
const AHEAD: usize = 4;

/// Opens the stream, or takes over one that was read before, and lets it run.
pub(super) async fn start(
    api: &Api,
    inbound: Streaming<proto::ReadRequest>,
    wanted: Reading,
) -> Result<Answered<proto::ReadResponse>, Status> {
    let Reading { id, name, from, offset, linger } = wanted;
    let held = match id {
        Some(id) => api.parked.take(id, offset).await?,
        None => None,
    };
    let (source, interrupt) = match held {
        Some(held) => {
            let interrupt = held.interrupt.clone();
            interrupt.clear();
            (Source::Before(held), interrupt)
        }
        None if offset > 0 => return Err(Status::not_found("no stream of this id waits to be read on")),
        None => {
            let interrupt = Interrupt::new().map_err(error::status)?;
            (Source::New(api.node.clone(), Wanted { name, from, id, ..Wanted::default() }, api.place()?), interrupt)
        }
    };
    let progress = Arc::new(Progress::new(offset));
    let (to, receiver) = mpsc::channel(AHEAD);
    let hears = Hears { inbound, to: to.clone(), progress: progress.clone(), interrupt: interrupt.clone() };
    tokio::spawn(hears.run(Box::pin(api.stopped())));
    let (parked, runtime) = (api.parked.clone(), Handle::current());
    let call = Call { to, progress };
    tokio::task::spawn_blocking(move || match source.open(&interrupt, linger) {
        Ok(held) => read(call, held, offset, &parked, &runtime),
        Err(ClientError::Interrupted) => call.say_why(),
        Err(e) => call.say_last(Err(error::status(e))),
    });
    Ok(ReceiverStream::new(receiver))
}

enum Source {
    New(Node, Wanted, OwnedSemaphorePermit),
    Before(Box<Held>),
}

impl Source {
    /// Waits for the stream.
    fn open(self, interrupt: &Interrupt, linger: Duration) -> Result<Box<Held>, ClientError> {
        match self {
            Self::New(node, wanted, place) => {
                let reader = StreamReader::open_until(&node, wanted, interrupt)?;
                let (window, interrupt) = (Window::new(!linger.is_zero()), interrupt.clone());
                Ok(Box::new(Held { reader, window, interrupt, linger, place }))
            }
            Self::Before(mut held) => {
                held.linger = linger;
                Ok(held)
            }
        }
    }
}

/// The thread of a call.
fn read(call: Call, held: Box<Held>, offset: u64, parked: &Parked, runtime: &Handle) {
    let id = held.reader.status().id;
    if held.linger.is_zero() {
        call.run(held, offset);
        return;
    }
    let linger = held.linger;
    parked.reads(id, call.progress.clone(), held.interrupt.clone());
    if let Some(number) = parked.leaves(id, call.run(held, offset)) {
        tracing::info!("stream {}: its reader has gone, and may come back", uuid::Uuid::from_u128(id));
        let parked = parked.clone();
        runtime.spawn(async move {
            tokio::time::sleep(linger).await;
            // It waits for a dataplane that cannot answer.
            let _ = tokio::task::spawn_blocking(move || parked.expire(id, number)).await;
        });
    }
}

/// The thread's side of a call.
struct Call {
    to: Answers,
    progress: Arc<Progress>,
}

impl Call {
    /// Reads to the end, if it can; a stream whose call is lost comes back.
    fn run(self, mut held: Box<Held>, offset: u64) -> Option<Box<Held>> {
        held.window.processed(offset);
        self.progress.pass_on(held.reader.by_hand());
        let transfer = Some(answers::transfer(held.reader.status().clone()));
        let mut at = Some(offset);
        if self.say(To::Opened(proto::ReadOpened { transfer, offset_bytes: offset })).is_none() {
            at = None;
        }
        for piece in held.window.pieces() {
            at = at.and_then(|at| self.piece(at, piece));
        }
        while let Some(from) = at.filter(|_| self.room(&mut held.window)) {
            let mut piece = vec![0; PIECE_BYTES];
            match held.reader.read(&mut piece) {
                Ok(0) => return self.end(held),
                Ok(count) => {
                    piece.truncate(count);
                    let piece = Bytes::from(piece);
                    held.window.push(&piece);
                    at = self.piece(from, piece);
                }
                Err(ClientError::Interrupted) => break,
                Err(ClientError::Ended(_)) if held.reader.status().ended.is_some() => {
                    let ended = answers::transfer(held.reader.status().clone());
                    self.say_last(Ok(To::Ended(ended)));
                    return None;
                }
                Err(e) => {
                    self.say_last(Err(error::status(e)));
                    return None;
                }
            }
        }
        Some(self.lost(held))
    }

    /// Waits until there is room in the window; `false`: the call is over.
    fn room(&self, window: &mut Window) -> bool {
        self.progress.wait(|state| {
            window.processed(state.processed);
            if state.gone.is_some() { Some(false) } else { (window.kept < WINDOW_BYTES).then_some(true) }
        })
    }

    fn piece(&self, at: u64, data: Bytes) -> Option<u64> {
        let next = at + data.len() as u64;
        // Before it is sent: the client may be quick.
        self.progress.lock().sent = next;
        self.say(To::Chunk(proto::Chunk { offset_bytes: at, data }))?;
        Some(next)
    }

    /// All was read. The client takes it, or it is lost.
    fn end(self, mut held: Box<Held>) -> Option<Box<Held>> {
        self.progress.lock().complete = true;
        let blake3 = held.reader.digest().to_vec();
        // One that is not there any more does not take it either.
        let _ = self.say(To::End(proto::ReadEnd { size_bytes: held.reader.offset(), blake3 }));
        let taken = self.progress.wait(|state| {
            held.window.processed(state.processed);
            if state.take { Some(true) } else { state.gone.is_some().then_some(false) }
        });
        if !taken {
            return Some(self.lost(held));
        }
        // What was taken is taken, whether the client waits for the answer or not.
        held.interrupt.clear();
        let Held { reader, place, .. } = *held;
        let ended = reader.take();
        self.say_last(ended.map(|status| To::Ended(answers::transfer(status))).map_err(error::status));
        drop(place);
        None
    }

    fn lost(self, mut held: Box<Held>) -> Box<Held> {
        held.window.processed(self.progress.lock().processed);
        // Nobody reads meanwhile.
        held.reader.say_processed();
        self.say_why();
        held
    }

    /// Says why the call is over.
    fn say_why(self) {
        let why = self.progress.wait(|state| state.gone.take());
        if let Some(status) = why {
            self.say_last(Err(status));
        }
    }

    /// `None`: nobody is there.
    fn say(&self, message: To) -> Option<()> {
        self.to.blocking_send(Ok(proto::ReadResponse { message: Some(message) })).ok()
    }

    fn say_last(&self, last: Result<To, Status>) {
        // Whoever has gone needs no answer.
        let _ = self.to.blocking_send(last.map(|message| proto::ReadResponse { message: Some(message) }));
    }
}
