//! Where answers go: to the conversation that asked. Nobody here waits for one that does not read.
//!
//! What waits for a conversation is counted. One that reads slowly hears of progress less often ([`Replies::is_busy`]);
//! one that does not read at all loses its socket before it costs the node its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::ipc::Response;

/// Answers that may wait before progress is held back.
const BUSY: usize = 4096;
/// Answers that may wait before the conversation is given up: all changes of some hundred thousand transfers.
const MOST: usize = 1 << 20;

/// The conversation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over;

struct Shared {
    /// Tells conversations apart.
    number: u64,
    waiting: AtomicUsize,
    given_up: AtomicBool,
}

/// Answers to one conversation, by whoever has them.
#[derive(Clone)]
pub(crate) struct Replies {
    sender: Sender<Response>,
    shared: Arc<Shared>,
}

/// The same, for the thread that writes them to the socket.
pub(crate) struct Answers {
    receiver: Receiver<Response>,
    shared: Arc<Shared>,
}

impl Replies {
    pub(crate) fn new() -> (Self, Answers) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (sender, receiver) = channel();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared { number, waiting: AtomicUsize::new(0), given_up: AtomicBool::new(false) });
        (Self { sender, shared: shared.clone() }, Answers { receiver, shared })
    }

    /// The conversation's number: with a tag it names a request.
    pub(crate) fn number(&self) -> u64 {
        self.shared.number
    }

    /// So much waits that what can wait too should.
    pub(crate) fn is_busy(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) >= BUSY
    }

    pub(crate) fn send(&self, response: Response) -> Result<(), Over> {
        if self.shared.given_up.load(Ordering::Relaxed) {
            return Err(Over);
        }
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= MOST {
            self.shared.given_up.store(true, Ordering::Relaxed);
            tracing::error!("the control process reads no answers; its conversation is given up");
            return Err(Over);
        }
        self.sender.send(response).map_err(|_| Over)
    }
}

impl Answers {
    /// Waits for the next; `None` = there are no more, or nobody is to read them.
    pub(crate) fn next(&self) -> Option<Response> {
        if self.shared.given_up.load(Ordering::Relaxed) {
            return None;
        }
        let response = self.receiver.recv().ok()?;
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(response)
    }

    /// The next, if there is one.
    #[cfg(test)]
    pub(crate) fn try_next(&self) -> Option<Response> {
        let response = self.receiver.try_recv().ok()?;
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::Answer;

    #[test]
    fn who_reads_slowly_is_spared_and_who_does_not_read_is_given_up() {
        let (replies, answers) = Replies::new();
        assert_ne!(replies.number(), Replies::new().0.number());
        let send = || replies.send(Response { tag: 1, body: Answer::Done });
        for _ in 0..BUSY {
            assert!(!replies.is_busy());
            send().unwrap();
        }
        assert!(replies.is_busy());
        answers.next().unwrap();
        assert!(!replies.is_busy());
        let taken = std::iter::repeat_with(send).take_while(Result::is_ok).count();
        assert_eq!(taken, MOST - BUSY + 1);
        assert_eq!((answers.next(), send()), (None, Err(Over)));
    }
}
