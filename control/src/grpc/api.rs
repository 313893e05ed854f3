//! What all services of the API have in common.

use std::sync::Arc;
use std::time::Duration;

use florelay_dataplane::ipc::{Answer, RequestBody};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::ask::{self, Answers};
use super::counters::Counters;
use super::error::{self, Subject};
use super::plan::GrpcPlan;
use super::streams::Parked;
use crate::client::{ClientError, Node};

/// Calls at once whose answers are a stream of messages, but for streams of bytes.
const SUBSCRIPTIONS: usize = 256;
/// Messages of an answer that are made before the client takes them.
const AHEAD: usize = 16;
/// Longest wait for a dataplane that hangs, where an answer comes at once.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The answers of a call.
pub(super) type Answered<T> = ReceiverStream<Result<T, Status>>;

/// The node, and what the calls share.
#[derive(Clone)]
pub(super) struct Api(Arc<Shared>);

pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) counters: Arc<Counters>,
    pub(super) allow_paths: bool,
    /// Places for streams of bytes; held until nothing of one is in memory.
    pub(super) streams: Arc<Semaphore>,
    pub(super) parked: Parked,
    subscriptions: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Api {
    pub(super) fn new(plan: &GrpcPlan, node: Node, counters: Arc<Counters>, stop: watch::Receiver<bool>) -> Self {
        Self(Arc::new(Shared {
            node,
            counters,
            allow_paths: plan.allow_paths,
            streams: Arc::new(Semaphore::new(plan.streams as usize)),
            parked: Parked::default(),
            subscriptions: Arc::new(Semaphore::new(SUBSCRIPTIONS)),
            stop,
        }))
    }

    /// Asks for what is answered at once.
    ///
    /// # Errors
    /// With a code that says whether `subject` is there.
    pub(super) async fn ask(&self, subject: Subject, body: RequestBody) -> Result<Answer, Status> {
        let answer = tokio::time::timeout(ANSWER_TIME, ask::ask(&self.node, body)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error::about(&self.node, subject, error).await),
            Err(_) => Err(Status::unavailable("the dataplane does not answer")),
        }
    }

    /// Asks for many answers; each becomes a message, or the end of the call.
    ///
    /// # Errors
    /// The first answer is a refusal, or too many calls of this kind are under way.
    pub(super) async fn subscribe<T: Send + 'static>(
        &self,
        node: Node,
        subject: Subject,
        body: RequestBody,
        message: impl Fn(Answer) -> Step<T> + Send + Sync + 'static,
    ) -> Result<Answered<T>, Status> {
        let place = self.subscriptions.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted(format!("more than {SUBSCRIPTIONS} such calls")))?;
        let mut answers = ask::subscribe(&node, body).await.map_err(error::status)?;
        let first = match answers.next().await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Err(error::about(&node, subject, error).await),
            None => return Err(lagged()),
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        let stop = self.stopped();
        tokio::spawn(async move {
            let _place = place;
            let end = tokio::select! {
                end = forward(first, &mut answers, &message, &sender) => end,
                () = stop => Some(stopping()),
                () = sender.closed() => None,
            };
            if let Some(status) = end {
                // A client that has gone needs no reason.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Comes to its end when the server does.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move {
            // The sender lives as long as the server.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }
}

/// What an answer becomes.
pub(super) enum Step<T> {
    /// A message, and more may follow.
    More(T),
    /// The last message.
    Last(T),
    /// Not an answer to this.
    Unexpected,
}

/// Hands answers on, to the end; `Some` is a bad one.
async fn forward<T>(
    first: Answer,
    answers: &mut Answers,
    message: &impl Fn(Answer) -> Step<T>,
    to: &mpsc::Sender<Result<T, Status>>,
) -> Option<Status> {
    let mut answer = first;
    loop {
        let (message, last) = match message(answer) {
            Step::More(message) => (message, false),
            Step::Last(message) => (message, true),
            Step::Unexpected => return Some(unexpected()),
        };
        if to.send(Ok(message)).await.is_err() || last {
            return None;
        }
        answer = match answers.next().await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Some(error::status(error)),
            None => return Some(lagged()),
        };
    }
}

/// The answer is none to what was asked.
pub(super) fn unexpected() -> Status {
    error::status(ClientError::Unexpected("it belongs to another request".to_owned()))
}

/// The server ends.
pub(super) fn stopping() -> Status {
    Status::unavailable("the control process is stopping")
}

fn lagged() -> Status {
    Status::resource_exhausted("the client reads too slowly; answers were lost")
}
