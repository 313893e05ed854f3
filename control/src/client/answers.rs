//! Answers between the thread that receives them and the one that wants them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::Answer;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{ClientError, Subscription};

/// Answers that may wait for a reader; one that leaves more is not told any more. Progress of one transfer is one answer.
const MAX_WAITING: usize = 65_536;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Heard {
    /// An answer.
    Answer(Answer),
    /// No more will come: the connection has ended, for this reason.
    Lost(String),
}

impl Heard {
    /// A refusal, or the end of the connection, as an error.
    pub(crate) fn result(self) -> Result<Answer, ClientError> {
        match self {
            Self::Answer(answer) => ClientError::of(answer),
            Self::Lost(reason) => Err(ClientError::Lost(reason)),
        }
    }

    /// Nothing comes after it.
    pub(crate) fn is_last(&self) -> bool {
        match self {
            Self::Answer(answer) => answer.is_last(),
            Self::Lost(_) => true,
        }
    }

    /// The other one, which came later, says all that this one does.
    fn is_made_stale_by(&self, later: &Self) -> bool {
        let (Self::Answer(Answer::Transfer(this)), Self::Answer(Answer::Transfer(later))) = (self, later) else {
            return false;
        };
        this.id == later.id && this.state == later.state && this.ended.is_none() && later.ended.is_none()
    }
}

/// Where answers go. It must not block: all answers of a connection come by one thread.
pub(crate) trait Sink: Send + Sync {
    /// This was heard of the request of this tag.
    fn heard(&self, tag: u64, heard: Heard);
}

/// A bounded queue of answers to one or more requests.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<(u64, Heard)>>,
    arrived: Condvar,
    bell: Option<Arc<Bell>>,
}

impl Queue {
    /// One that rings a bell when something has arrived.
    pub(super) fn with_bell(bell: Arc<Bell>) -> Self {
        Self { bell: Some(bell), ..Self::default() }
    }

    pub(super) fn try_next(&self) -> Option<(u64, Heard)> {
        self.lock().pop_front()
    }

    /// `None`: nothing came until then.
    pub(super) fn next(&self, until: Option<Instant>) -> Option<(u64, Heard)> {
        let mut waiting = self.lock();
        loop {
            if let Some(next) = waiting.pop_front() {
                return Some(next);
            }
            waiting = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => self.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Heard)>> {
        // Each change leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Queue {
    fn heard(&self, tag: u64, heard: Heard) {
        let mut waiting = self.lock();
        let count = waiting.len();
        match waiting.back_mut() {
            Some((last, stale)) if *last == tag && stale.is_made_stale_by(&heard) => *stale = heard,
            _ if count > MAX_WAITING => return,
            _ if count == MAX_WAITING => {
                waiting.push_back((tag, Heard::Lost("answers were not read, and are lost".to_owned())));
            }
            _ => waiting.push_back((tag, heard)),
        }
        drop(waiting);
        self.arrived.notify_all();
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

/// Wakes a thread that polls descriptors.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> Result<Self, ClientError> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self).map_err(ClientError::system)
    }

    pub(super) fn ring(&self) {
        // It cannot fail but when it has been rung 2^64 times, and then it is ringing.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Stop ringing.
    pub(super) fn hush(&self) {
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The answers to one request, as they come. Dropped, it says that nobody wants more.
#[derive(Debug)]
pub struct Answers {
    subscription: Subscription,
    queue: Arc<Queue>,
    last: Mutex<bool>,
}

impl Answers {
    pub(super) fn new(subscription: Subscription, queue: Arc<Queue>) -> Self {
        Self { subscription, queue, last: Mutex::new(false) }
    }

    /// Waits for the next answer. Progress of a transfer that nobody has taken is replaced by newer progress.
    ///
    /// # Errors
    /// The node refuses ([`ClientError::Failed`], [`ClientError::Refused`]); it cannot answer any more
    /// ([`ClientError::Lost`], [`ClientError::Unavailable`]); or it had said all ([`ClientError::Unexpected`]).
    pub fn recv(&self) -> Result<Answer, ClientError> {
        self.recv_until(None)
    }

    /// The same, but waits only so long.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], and those of [`Self::recv`].
    pub fn recv_timeout(&self, most: Duration) -> Result<Answer, ClientError> {
        self.recv_until(Some(Instant::now() + most))
    }

    fn recv_until(&self, until: Option<Instant>) -> Result<Answer, ClientError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last {
            return Err(ClientError::Unexpected("the last one has been heard".to_owned()));
        }
        let (_, heard) = self.queue.next(until).ok_or(ClientError::Timeout)?;
        if heard.is_last() {
            *last = true;
            self.subscription.done();
        }
        heard.result()
    }
}
