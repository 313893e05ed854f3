//! The thread behind a [`StreamWriter`](super::StreamWriter): fills the pipe, says the end, hears what is accepted, and
//! finds the dataplane again.
//!
//! ```text
//!            answers, pipe                     no answer of use                 patience is over
//!   Up ◄──────────────────── Asked ◄──────────────────────── Lost ──────────────────────────────► failed
//!    └── connection or dataplane gone ────────────────────────▲
//! ```
//!
//! While the dataplane has the reading end of the pipe only the control process has gone: then it is enough to watch. If
//! not, the stream is resumed with a new pipe, from the byte that the dataplane names.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{Answer, RequestBody, TransferState, TransferStatus};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::Timespec;

use super::answers::Queue;
use super::writer::{Shared, State};
use super::{ClientError, Node, RETRY, Subscription};

/// Most bytes that go into the pipe at once: as much as a pipe of Linux holds.
const WRITE_BYTES: usize = 64 << 10;

enum Standing {
    /// The dataplane tells us of the stream, or was asked again and has not answered yet.
    With(Subscription, Option<Asked>),
    /// It will be asked again.
    Lost { since: Instant, again: Instant, why: ClientError },
}

#[derive(Clone, Copy)]
struct Asked {
    /// When it was lost.
    since: Instant,
    /// With a new pipe.
    resumes: bool,
}

pub(super) struct Pump {
    node: Node,
    id: u128,
    shared: Arc<Shared>,
    answers: Arc<Queue>,
    standing: Standing,
    pipe: Option<OwnedFd>,
    /// The pipe was closed by its reader, although nobody has said why.
    broken_since: Option<Instant>,
    /// Bytes of the stream that are in the pipe or beyond.
    sent: u64,
    /// The `EndStream` that is not answered yet.
    ending: Option<Subscription>,
}

/// A pipe: its reading end for the dataplane, and its writing end, which does not block.
fn new_pipe() -> Result<(OwnedFd, OwnedFd), ClientError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(ClientError::system)?;
    let flags = fcntl_getfl(&writer).map_err(ClientError::system)?;
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).map_err(ClientError::system)?;
    Ok((reader, writer))
}

/// Whether somebody has the reading end.
fn has_reader(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
}

impl Pump {
    /// Asks for a new stream, or for an old one, and waits for the first answer.
    pub(super) fn start(node: Node, id: u128, body: RequestBody, shared: Arc<Shared>) -> Result<Self, ClientError> {
        let answers = Arc::new(Queue::with_bell(shared.bell.clone()));
        let (reader, writer) = new_pipe()?;
        let subscription = node.subscribe_to(&answers, body, Some(reader.as_fd()))?;
        drop(reader);
        let Some((_, heard)) = answers.next(None) else { return Err(ClientError::Timeout) };
        match heard.result()? {
            Answer::Transfer(status) => shared.lock().news(*status),
            other => return Err(ClientError::Unexpected(format!("{other:?}"))),
        }
        let standing = Standing::With(subscription, None);
        Ok(Self { node, id, shared, answers, standing, pipe: Some(writer), broken_since: None, sent: 0, ending: None })
    }

    /// To the end of the stream, or until its writer has gone.
    pub(super) fn run(mut self, at: u64) {
        self.sent = at;
        loop {
            if let Err(error) = self.turn() {
                self.shared.lock().failed = Some(error);
            }
            let wait = {
                let state = self.shared.lock();
                if state.closed || state.is_over() {
                    break;
                }
                self.interest(&state)
            };
            self.wait(wait);
        }
        self.shared.changed.notify_all();
    }

    fn turn(&mut self) -> Result<(), ClientError> {
        while let Some((tag, heard)) = self.answers.try_next() {
            self.hear(tag, heard.result())?;
        }
        // Asking again may take a while.
        self.shared.changed.notify_all();
        self.ask_again()?;
        self.fill();
        self.say_end()?;
        let patience = self.node.patience();
        if self.broken_since.is_some_and(|since| since.elapsed() >= patience) {
            return Err(ClientError::Failed(
                "the dataplane has closed the stream's pipe; another program may write it now".to_owned(),
            ));
        }
        Ok(())
    }

    fn hear(&mut self, tag: u64, heard: Result<Answer, ClientError>) -> Result<(), ClientError> {
        if self.ending.as_ref().is_some_and(|ending| ending.tag() == tag) {
            let ending = self.ending.take();
            return match heard {
                Ok(_) => {
                    ending.inspect(Subscription::done);
                    self.shared.lock().end_heard = true;
                    // All is in it, and that was said: now it may be closed.
                    self.pipe = None;
                    self.broken_since = None;
                    Ok(())
                }
                // Said again once it is found again; the other subscription is lost with this one.
                Err(why) if why.may_pass() => {
                    if matches!(self.standing, Standing::With(_, None)) {
                        let now = Instant::now();
                        self.standing = Standing::Lost { since: now, again: now, why };
                    }
                    Ok(())
                }
                // The stream has ended meanwhile, and we shall hear so, or it is unknown: that shows, too.
                Err(_) if self.broken_since.is_some() => Ok(()),
                Err(error) => Err(error),
            };
        }
        let asked = match &mut self.standing {
            Standing::With(subscription, asked) if subscription.tag() == tag => asked,
            // Of one that was replaced.
            _ => return Ok(()),
        };
        let since = asked.map(|asked| asked.since);
        match heard {
            Ok(Answer::Transfer(status)) => match asked.take() {
                // The dataplane has started anew, and the stream waits for a pipe.
                Some(Asked { since, resumes: false }) if status.state == TransferState::NoWriter => self.resume(since),
                Some(Asked { resumes: true, .. }) if status.ended.is_none() => self.resumed(*status),
                _ => {
                    self.shared.lock().news(*status);
                    Ok(())
                }
            },
            Ok(other) => Err(ClientError::Unexpected(format!("{other:?}"))),
            Err(why) if why.may_pass() => {
                tracing::debug!("stream {}: {why}", uuid::Uuid::from_u128(self.id));
                // The first time at once: the next control process may be there already.
                let now = Instant::now();
                let again = if since.is_some() { now + RETRY } else { now };
                self.standing = Standing::Lost { since: since.unwrap_or(now), again, why };
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Go on with the byte that it waits for.
    fn resumed(&mut self, status: TransferStatus) -> Result<(), ClientError> {
        let mut state = self.shared.lock();
        let (at, base, head) = (status.accepted, state.base, state.head());
        if at < base || at > head {
            let reason =
                format!("the dataplane wants to go on with byte {at} of the stream; {base} to {head} are here");
            return Err(ClientError::Failed(reason));
        }
        self.sent = at;
        self.broken_since = None;
        // It may not know of the end any more.
        state.end_heard = false;
        state.news(status);
        Ok(())
    }

    /// Look for the dataplane again, when it is time.
    fn ask_again(&mut self) -> Result<(), ClientError> {
        let Standing::Lost { since, again, why } = &self.standing else { return Ok(()) };
        if Instant::now() < *again {
            return Ok(());
        }
        let since = *since;
        // The first attempt is made in any case.
        if since.elapsed() >= self.node.patience() && *again > since {
            return Err(why.clone());
        }
        let whole = self.shared.lock().end_heard;
        if !whole && !self.pipe.as_ref().is_some_and(has_reader) {
            return self.resume(since);
        }
        let asked = self.node.subscribe_to(&self.answers, RequestBody::Watch { id: self.id }, None);
        self.asked(since, asked, false)
    }

    /// Offer a new pipe.
    fn resume(&mut self, since: Instant) -> Result<(), ClientError> {
        let (reader, writer) = new_pipe()?;
        self.pipe = Some(writer);
        let body = RequestBody::ResumeStream { id: self.id };
        let asked = self.node.subscribe_to(&self.answers, body, Some(reader.as_fd()));
        self.asked(since, asked, true)
    }

    fn asked(
        &mut self,
        since: Instant,
        asked: Result<Subscription, ClientError>,
        resumes: bool,
    ) -> Result<(), ClientError> {
        self.standing = match asked {
            Ok(subscription) => Standing::With(subscription, Some(Asked { since, resumes })),
            Err(why) if why.may_pass() => Standing::Lost { since, again: Instant::now() + RETRY, why },
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// The pipe may be written: it is the stream's, and the dataplane has not named another byte to go on with.
    fn may_write(&self) -> bool {
        !matches!(self.standing, Standing::With(_, Some(Asked { resumes: true, .. }))) && self.broken_since.is_none()
    }

    fn fill(&mut self) {
        if !self.may_write() {
            return;
        }
        let Some(pipe) = &self.pipe else { return };
        loop {
            let state = self.shared.lock();
            let Some(piece) = state.piece(self.sent) else { return };
            match rustix::io::write(pipe, piece) {
                Ok(written) => self.sent += written as u64,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The stream has ended, or the dataplane: an answer will say which.
                Err(_) => {
                    self.broken_since = Some(Instant::now());
                    return;
                }
            }
        }
    }

    /// Once all is in the pipe.
    fn say_end(&mut self) -> Result<(), ClientError> {
        let size = {
            let state = self.shared.lock();
            match state.size {
                Some(size) if size == self.sent && !state.end_heard => size,
                _ => return Ok(()),
            }
        };
        if self.ending.is_some() || !matches!(self.standing, Standing::With(_, None)) || self.pipe.is_none() {
            return Ok(());
        }
        match self.node.subscribe_to(&self.answers, RequestBody::EndStream { id: self.id, size }, None) {
            Ok(asked) => self.ending = Some(asked),
            // That the other subscription is lost too is in the queue.
            Err(error) if error.may_pass() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What to wait for beside the bell: room in the pipe; and until when.
    fn interest(&self, state: &State) -> (bool, Option<Duration>) {
        let writes = self.may_write() && self.pipe.is_some() && state.piece(self.sent).is_some();
        let again = match &self.standing {
            Standing::Lost { again, .. } => Some(again.saturating_duration_since(Instant::now())),
            Standing::With(..) => self.broken_since.map(|since| self.node.patience().saturating_sub(since.elapsed())),
        };
        (writes, again)
    }

    fn wait(&self, (writes, most): (bool, Option<Duration>)) {
        let mut fds = vec![PollFd::new(&*self.shared.bell, PollFlags::IN)];
        if let Some(pipe) = self.pipe.as_ref().filter(|_| writes) {
            fds.push(PollFd::new(pipe, PollFlags::OUT));
        }
        let most = most.and_then(|most| Timespec::try_from(most).ok());
        // Interrupted by a signal: the next turn finds nothing to do.
        let _ = poll(&mut fds, most.as_ref());
        self.shared.bell.hush();
    }
}

impl State {
    /// A newer status, and what it makes of the window.
    fn news(&mut self, status: TransferStatus) {
        // Not what is confirmed: a dataplane that is killed goes on with what is accepted, also where its receiver has more.
        let accepted = status.accepted.min(self.head());
        if accepted > self.base {
            self.window.drain(..usize::try_from(accepted - self.base).unwrap_or(usize::MAX));
            self.base = accepted;
        }
        self.status = status;
        self.changes += 1;
    }

    /// The next bytes for the pipe, of which so many have gone.
    fn piece(&self, sent: u64) -> Option<&[u8]> {
        let at = usize::try_from(sent.checked_sub(self.base)?).ok()?;
        let (front, back) = self.window.as_slices();
        let rest = if at < front.len() { &front[at..] } else { back.get(at - front.len()..)? };
        (!rest.is_empty()).then(|| &rest[..rest.len().min(WRITE_BYTES)])
    }
}
