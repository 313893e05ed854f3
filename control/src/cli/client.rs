//! How commands ask a node, and what they wait for: answers, Ctrl-C, and their own threads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use florelay_dataplane::ipc::{Answer, RequestBody};
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use super::args::Target;
use crate::client::{ClientError, Heard, Node, Sink};

/// The node that the options name. Nothing is asked yet.
pub(super) fn node(target: &Target) -> anyhow::Result<Node> {
    Ok(Node::new(match &target.socket {
        Some(path) => path.clone(),
        None => crate::config::control_socket(&target.config)?,
    }))
}

/// One question with one answer.
pub(super) fn ask(target: &Target, body: RequestBody) -> anyhow::Result<Answer> {
    node(target)?.ask(body).map_err(exit)
}

/// What a person has to know, and the code for scripts.
pub(super) fn exit(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Unreachable { denied, .. } => {
            let hint = if denied {
                "only root and the user that runs the node may ask it"
            } else {
                "is `florelay up` running? (--socket PATH, or --config FILE of the node, say which)"
            };
            Exit::unavailable(format!("{error}\n    hint: {hint}"))
        }
        ClientError::Lost(_) | ClientError::Unavailable(_) => Exit::unavailable(error.to_string()),
        ClientError::Failed(_) | ClientError::Refused { .. } | ClientError::Ended(_) => Exit::failed(error.to_string()),
        ClientError::Interrupted | ClientError::Timeout | ClientError::Unexpected(_) | ClientError::System(_) => {
            error.into()
        }
    }
}

/// What a command waits for. `L` is what its own threads say.
pub(super) enum Happening<L = ()> {
    /// An answer to the request of this tag.
    Heard(u64, Heard),
    /// Ctrl-C.
    Interrupt,
    /// From a thread of the command.
    Local(L),
}

/// Where it arrives; clones may be given away.
pub(super) struct Post<L>(Sender<Happening<L>>);

impl<L: Send> Sink for Post<L> {
    fn heard(&self, tag: u64, heard: Heard) {
        // Nobody waits any more once the command is over; so below.
        let _ = self.0.send(Happening::Heard(tag, heard));
    }
}

impl<L> Post<L> {
    pub(super) fn tell(&self, local: L) {
        let _ = self.0.send(Happening::Local(local));
    }
}

/// All that a command waits for, in order.
pub(super) struct Happenings<L = ()> {
    pub(super) post: Arc<Post<L>>,
    inbox: Receiver<Happening<L>>,
}

impl<L: Send + 'static> Happenings<L> {
    /// From the return of this function on, Ctrl-C is one of them, and does not end the process.
    pub(super) fn new() -> anyhow::Result<Self> {
        let (sender, inbox) = channel();
        let post = Arc::new(Post(sender));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut interrupts = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt())?
        };
        let to = post.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                while interrupts.recv().await.is_some() {
                    if to.0.send(Happening::Interrupt).is_err() {
                        break;
                    }
                }
            });
        });
        Ok(Self { post, inbox })
    }

    /// The next one; `None`: nothing happened until then.
    pub(super) fn next(&self, until: Option<Instant>) -> Option<Happening<L>> {
        match until {
            // We have a sender ourselves: it does not end.
            None => self.inbox.recv().ok(),
            Some(until) => self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
        }
    }
}
