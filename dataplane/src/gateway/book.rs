//! The book's thread: what came while one commit was on its way to the disk goes with the next, so that any number of changes
//! costs the gateway nothing and the disk one sync at a time. It ends when all its keepers are gone.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use florelay_spool::book::{Book, Change};

use super::{Input, Replies, reply};
use crate::ipc::Answer;
use crate::ring::GatewayBell;

/// Changes of one commit at most: a larger one keeps those that wait for it.
const MAX_BATCH: usize = 4096;
/// A book that cannot be written is tried again this often.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Who hears that a change is on the disk.
enum Then {
    Nobody,
    /// The gateway, by this.
    Gateway(Input),
    /// The same, and those who asked for it.
    Asked(Option<Input>, Vec<(u64, Replies)>),
    /// A thread that waits; `false` = the disk has refused, and it is tried again without it.
    Waiting(Sender<bool>),
    /// The same at the end: the file is not written any more when it hears.
    Closing(Sender<bool>),
}

/// What writes into the book. Clones write into the same one.
#[derive(Clone)]
pub(super) struct Keeper(Sender<(Vec<Change>, Then)>);

impl Keeper {
    /// Start the thread.
    pub(super) fn start(book: Book, to_gateway: Sender<Input>, bell: GatewayBell) -> io::Result<Self> {
        let (sender, changes) = channel();
        std::thread::Builder::new().name("book".into()).spawn(move || run(book, &changes, &to_gateway, &bell))?;
        Ok(Self(sender))
    }

    /// Without waiting.
    pub(super) fn note(&self, change: Change) {
        // The thread lives as long as its keepers.
        let _ = self.0.send((vec![change], Then::Nobody));
    }

    /// Without waiting; the gateway hears of it by this.
    pub(super) fn note_then(&self, change: Change, then: Input) {
        let _ = self.0.send((vec![change], Then::Gateway(then)));
    }

    /// These changes in one commit, without waiting; `asked` are answered when it is there, or the disk has refused once.
    pub(super) fn note_asked(&self, changes: Vec<Change>, then: Option<Input>, asked: Vec<(u64, Replies)>) {
        let _ = self.0.send((changes, Then::Asked(then, asked)));
    }

    /// Wait until it is on the disk; `false` = the disk refuses. Not on the gateway's thread.
    pub(super) fn note_and_wait(&self, change: Change) -> bool {
        self.wait(vec![change], Then::Waiting)
    }

    /// Wait until everything that was noted before is on the disk, or the disk has refused once, and nobody writes there: the next
    /// start may read it, also one in this process. What is noted later is written all the same.
    pub(super) fn close(&self) {
        self.wait(Vec::new(), Then::Closing);
    }

    fn wait(&self, changes: Vec<Change>, then: impl FnOnce(Sender<bool>) -> Then) -> bool {
        let (sender, done) = channel();
        self.0.send((changes, then(sender))).is_ok() && done.recv().unwrap_or(false)
    }
}

fn run(mut book: Book, changes: &Receiver<(Vec<Change>, Then)>, to_gateway: &Sender<Input>, bell: &GatewayBell) {
    let mut waiting: Vec<Then> = Vec::new();
    let mut failing = false;
    let tell = |input| {
        let _ = to_gateway.send(input);
        bell.ring();
    };
    loop {
        let first = if failing {
            changes.recv_timeout(RETRY_INTERVAL)
        } else {
            changes.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let (mut batch, mut last) = (Vec::new(), false);
        match first {
            Ok(first) => {
                for (changes, then) in std::iter::once(first).chain(changes.try_iter()).take(MAX_BATCH) {
                    batch.extend(changes);
                    waiting.push(then);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => last = true,
        }
        match book.apply(&batch) {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the book of transfers can be written again");
                }
                for then in waiting.drain(..) {
                    match then {
                        Then::Nobody => {}
                        Then::Gateway(input) => tell(input),
                        Then::Asked(input, asked) => {
                            input.into_iter().for_each(tell);
                            for (tag, replies) in asked {
                                reply(&replies, tag, Answer::Done);
                            }
                        }
                        Then::Waiting(sender) => {
                            let _ = sender.send(true);
                        }
                        Then::Closing(sender) => {
                            book.close();
                            let _ = sender.send(true);
                        }
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "what is new of transfers is not in the book; it is tried again each second");
                }
                // The book keeps the changes; only those who wait for a word are told.
                waiting.retain_mut(|then| match then {
                    Then::Nobody => false,
                    Then::Gateway(_) => true,
                    Then::Asked(input, asked) => {
                        for (tag, replies) in asked.drain(..) {
                            let reason =
                                "it is done, but the book of transfers cannot be written: a restart may undo it";
                            reply(&replies, tag, Answer::Failed(reason.into()));
                        }
                        input.is_some()
                    }
                    Then::Waiting(sender) | Then::Closing(sender) => {
                        let _ = sender.send(false);
                        false
                    }
                });
            }
        }
        if last {
            return;
        }
    }
}
