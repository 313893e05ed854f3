//! What the client of a `Read` says, on its way to the thread that reads.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::super::api::stopping;
use super::super::proto::{self, read_request::Message as From};
use crate::client::{Interrupt, Processed};

/// Where the answers of a call go.
pub(super) type Answers = mpsc::Sender<Result<proto::ReadResponse, Status>>;

/// What the client has said, for the thread.
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// The client has been given so much.
    pub(super) sent: u64,
    pub(super) processed: u64,
    /// Tells the node what is processed.
    words: Option<Processed>,
    /// The client has been told the end.
    pub(super) complete: bool,
    pub(super) take: bool,
    /// The call is over; this is why, if the client is still there to hear it.
    pub(super) gone: Option<Option<Status>>,
}

impl Progress {
    pub(super) fn new(offset: u64) -> Self {
        let state = State { sent: offset, processed: offset, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the client calls processed goes to the node, from now on without the thread: that may wait for bytes.
    pub(super) fn pass_on(&self, words: Processed) {
        let mut state = self.lock();
        words.up_to(state.processed);
        state.words = Some(words);
    }

    /// Waits until `look` finds something.
    pub(super) fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn heard(&self, message: &From) -> Result<(), Status> {
        let mut state = self.lock();
        match message {
            &From::Processed(proto::Processed { offset_bytes }) => {
                if offset_bytes < state.processed || offset_bytes > state.sent {
                    return Err(Status::invalid_argument(format!(
                        "processed.offset_bytes: {offset_bytes} is not within {} to {}",
                        state.processed, state.sent
                    )));
                }
                state.processed = offset_bytes;
                if let Some(words) = &state.words {
                    words.up_to(offset_bytes);
                }
            }
            From::Take(_) if state.complete => state.take = true,
            From::Take(_) => return Err(Status::invalid_argument("take: the stream has not been read to its end")),
            From::Open(_) => return Err(Status::invalid_argument("message: `processed` or `take` is expected")),
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn gone(&self, why: Option<Status>) {
        self.lock().gone.get_or_insert(why);
        self.changed.notify_all();
    }
}

/// The task that listens to the client.
pub(super) struct Hears {
    pub(super) inbound: Streaming<proto::ReadRequest>,
    pub(super) to: Answers,
    pub(super) progress: Arc<Progress>,
    pub(super) interrupt: Interrupt,
}

impl Hears {
    /// To the end of the call.
    pub(super) async fn run(mut self, mut stop: impl Future<Output = ()> + Unpin) {
        let why = loop {
            tokio::select! {
                message = self.inbound.message() => {
                    let heard = match message {
                        Ok(Some(proto::ReadRequest { message: Some(message) })) => self.progress.heard(&message),
                        Ok(Some(proto::ReadRequest { message: None })) => {
                            Err(Status::invalid_argument("message: it is empty"))
                        }
                        // Taken, it needs to say no more.
                        Ok(None) if self.progress.lock().take => {
                            self.to.closed().await;
                            break None;
                        }
                        Ok(None) => Err(Status::cancelled("the call was half-closed before `take`")),
                        Err(status) => Err(status),
                    };
                    if let Err(status) = heard {
                        break Some(status);
                    }
                }
                () = self.to.closed() => break None,
                () = &mut stop => break Some(stopping()),
            }
        };
        self.progress.gone(why);
        self.interrupt.interrupt();
    }
}
