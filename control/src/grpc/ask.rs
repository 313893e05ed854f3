//! Questions to the node, from calls that must not block.
//!
//! Each call has its own queue of answers, filled by the thread that receives all of them: it must not wait, so a call
//! that reads too slowly loses its place. One that goes away says `Forget` by dropping its [`Answers`].

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use florelay_dataplane::ipc::{Answer, RequestBody};
use tokio::sync::mpsc;

use crate::client::{ClientError, Heard, Node, Sink, Subscription};

/// Answers that may wait for a call that reads slowly.
const QUEUE: usize = 1024;

/// Asks for what has one answer.
///
/// # Errors
/// The node refuses, or cannot be asked.
pub(super) async fn ask(node: &Node, body: RequestBody) -> Result<Answer, ClientError> {
    listen(node, body, 1).await?.next().await.unwrap_or(Err(ClientError::Timeout))
}

/// Asks for what has many answers.
///
/// # Errors
/// The node cannot be asked. What it answers is [`Answers::next`]'s.
pub(super) async fn subscribe(node: &Node, body: RequestBody) -> Result<Answers, ClientError> {
    listen(node, body, QUEUE).await
}

async fn listen(node: &Node, body: RequestBody, queue: usize) -> Result<Answers, ClientError> {
    let (sender, answers) = mpsc::channel(queue);
    let sink = Arc::new(Queue(Mutex::new(Some(sender))));
    let node = node.clone();
    let subscription = blocking(move || node.subscribe_to(&sink, body, None)).await?;
    Ok(Answers { subscription, answers })
}

/// Runs what may block.
///
/// # Errors
/// Its own.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    // It ends early only if it panics, or with the process.
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|e| Err(ClientError::System(e.to_string())))
}

/// Closed by the first answer that does not fit: what comes behind a gap is worth nothing.
struct Queue(Mutex<Option<mpsc::Sender<Heard>>>);

impl Sink for Queue {
    fn heard(&self, _tag: u64, heard: Heard) {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.as_ref().is_some_and(|sender| sender.try_send(heard).is_err()) {
            *sender = None;
        }
    }
}

/// The answers to one request.
pub(super) struct Answers {
    subscription: Subscription,
    answers: mpsc::Receiver<Heard>,
}

impl Answers {
    /// The next one. `None`: it was not there to take them when they came, and they are lost.
    pub(super) async fn next(&mut self) -> Option<Result<Answer, ClientError>> {
        let heard = self.answers.recv().await?;
        if heard.is_last() {
            self.subscription.done();
        }
        Some(heard.result())
    }
}
