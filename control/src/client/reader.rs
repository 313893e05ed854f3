//! The reading end of a stream.
//!
//! It counts and hashes what was read, so that it can go on where it was after its node has restarted, and its word at the
//! end is about what the program really has. There is no thread: who does not read is waited for.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use florelay_dataplane::ipc::{Answer, RequestBody, TransferState, TransferStatus};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::Timespec;

use super::answers::Queue;
use super::{ClientError, Interrupt, Node, RETRY, Subscription};

/// Which stream a program wants to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only one of this name.
    pub name: Option<String>,
    /// Only one from this peer.
    pub from: Option<String>,
    /// Only this one.
    pub id: Option<u128>,
}

/// Who is told of each status.
struct Told(Box<dyn FnMut(&TransferStatus) + Send>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

/// A stream that comes to this node. Dropped before it was taken, it is given up.
#[derive(Debug)]
pub struct StreamReader {
    node: Node,
    wanted: Wanted,
    interrupt: Interrupt,
    answers: Arc<Queue>,
    /// `None`: the node has to be asked again.
    told: Option<Subscription>,
    pipe: Option<OwnedFd>,
    status: TransferStatus,
    read: u64,
    hasher: blake3::Hasher,
    /// Since when the node is looked for, and why.
    lost: Option<(Instant, ClientError)>,
    /// Since when the pipe is closed without a word why.
    unsaid: Option<Instant>,
    /// Not to be asked again before.
    again: Option<Instant>,
    /// The dataplane is another one, which does not know the stream (yet).
    away: bool,
    /// The size, once it was said; a dataplane that has started anew may say it later.
    size: Option<u64>,
    /// `TakeStream` was said to the present dataplane.
    taken: bool,
    watcher: Option<Told>,
}

impl StreamReader {
    /// Waits for a stream.
    ///
    /// # Errors
    /// The node refuses, because somebody else reads it or too many listen, or cannot be asked.
    pub fn open(node: &Node, wanted: Wanted) -> Result<Self, ClientError> {
        Self::open_until(node, wanted, &Interrupt::new()?)
    }

    /// The same; another thread may end the waiting, here and later.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`], and those of [`Self::open`].
    pub fn open_until(node: &Node, wanted: Wanted, interrupt: &Interrupt) -> Result<Self, ClientError> {
        Self::start(node, wanted, 0, blake3::Hasher::new(), interrupt)
    }

    /// Goes on with a stream of which a program before has read so many bytes; `hasher` has them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn resume(node: &Node, id: u128, hasher: blake3::Hasher) -> Result<Self, ClientError> {
        let read = hasher.count();
        Self::start(node, Wanted { id: Some(id), ..Wanted::default() }, read, hasher, &Interrupt::new()?)
    }

    fn start(
        node: &Node,
        wanted: Wanted,
        read: u64,
        hasher: blake3::Hasher,
        interrupt: &Interrupt,
    ) -> Result<Self, ClientError> {
        let answers = Arc::new(Queue::with_bell(interrupt.bell().clone()));
        let mut reader = Self {
            node: node.clone(),
            wanted,
            interrupt: interrupt.clone(),
            answers,
            told: None,
            pipe: None,
            status: TransferStatus::default(),
            read,
            hasher,
            lost: None,
            unsaid: None,
            again: None,
            away: false,
            size: None,
            taken: false,
            watcher: None,
        };
        reader.listen()?;
        let status = reader.next_status()?;
        reader.wanted.id = Some(status.id);
        reader.news(status);
        Ok(reader)
    }

    /// What was last heard of it; [`Self::read`] and [`Self::take`] hear.
    #[must_use]
    pub fn status(&self) -> &TransferStatus {
        &self.status
    }

    /// From now on each new status is told, from within [`Self::read`] and [`Self::take`].
    pub fn on_status(&mut self, tell: impl FnMut(&TransferStatus) + Send + 'static) {
        self.watcher = Some(Told(Box::new(tell)));
    }

    /// Bytes read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.read
    }

    /// BLAKE3 of what was read.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    /// Reads some bytes; 0 = that was all, and it waits for [`Self::take`].
    ///
    /// # Errors
    /// The stream was given up ([`ClientError::Ended`]), or the node has gone for good.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, ClientError> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            self.interrupt.check()?;
            self.hear()?;
            if self.size == Some(self.read) {
                return Ok(0);
            }
            if let Some(Err(failure)) = &self.status.ended {
                return Err(ClientError::Ended(failure.clone()));
            }
            let count = self.turn(into)?;
            if count > 0 {
                self.hasher.update(&into[..count]);
                self.read += count as u64;
                return Ok(count);
            }
        }
    }

    /// Says that the whole was read, and what its BLAKE3 is; waits for the end, which is in the status.
    ///
    /// # Errors
    /// Not all of it was read; the node refuses, or has gone for good.
    pub fn take(mut self) -> Result<TransferStatus, ClientError> {
        if self.size != Some(self.read) {
            return Err(ClientError::System("the stream was not read to its end".to_owned()));
        }
        let (id, digest) = (self.status.id, *self.hasher.finalize().as_bytes());
        loop {
            self.hear()?;
            if self.status.ended.is_some() {
                return Ok(self.status);
            }
            // A dataplane that has started anew has to hear of the end first.
            if self.told.is_some() && self.lost.is_none() && !self.taken && self.status.size.is_some() {
                self.taken = true;
                match self.node.ask(RequestBody::TakeStream { id, digest }) {
                    // When it was lost, so was the subscription, and it is said again after the next one.
                    Ok(_) => continue,
                    Err(error) if error.may_pass() => continue,
                    // It may have ended already, or the dataplane is another one.
                    Err(error) => {
                        self.watch()?;
                        match self.next_status() {
                            Ok(status) if status.ended.is_some() => return Ok(status),
                            Ok(_) => return Err(error),
                            Err(why) => {
                                (self.told, self.away) = (None, !why.may_pass());
                                self.lost = Some((Instant::now(), why));
                            }
                        }
                    }
                }
            }
            if self.turn(&mut [0])? > 0 {
                return Err(ClientError::Unexpected("bytes behind the end of the stream".to_owned()));
            }
        }
    }

    /// Waits for bytes or for an answer, and finds the node again.
    fn turn(&mut self, into: &mut [u8]) -> Result<usize, ClientError> {
        self.look_for_it()?;
        let readable = self.wait();
        let Some(pipe) = self.pipe.as_ref().filter(|_| readable) else { return Ok(0) };
        match rustix::io::read(pipe, into) {
            Ok(0) => {
                // The stream has ended, or the dataplane: an answer that says which may be on its way.
                self.pipe = None;
                self.unsaid = self.told.as_ref().map(|_| Instant::now());
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(error) => Err(ClientError::system(error)),
        }
    }

    /// What has been answered so far.
    fn hear(&mut self) -> Result<(), ClientError> {
        while let Some((tag, heard)) = self.answers.try_next() {
            if self.told.as_ref().is_none_or(|told| told.tag() != tag) {
                continue;
            }
            match heard.result() {
                Ok(Answer::Transfer(status)) => self.news(*status),
                Ok(other) => return Err(ClientError::Unexpected(format!("{other:?}"))),
                Err(why) => {
                    self.told = None;
                    // Once it was lost, a refusal means that the dataplane is another one.
                    if !why.may_pass() && self.lost.is_none() {
                        return Err(why);
                    }
                    self.away = !why.may_pass();
                    self.again = self.lost.as_ref().map(|_| Instant::now() + RETRY);
                    self.lost.get_or_insert_with(|| (Instant::now(), why));
                }
            }
        }
        Ok(())
    }

    fn news(&mut self, status: TransferStatus) {
        self.size = status.size.or(self.size);
        self.status = status;
        if let Some(Told(tell)) = &mut self.watcher {
            tell(&self.status);
        }
        // A stream that waits for a reader has lost us, if our pipe is empty.
        let unread = self.pipe.is_none() && self.status.state == TransferState::NoReader;
        if unread && self.status.ended.is_none() {
            self.told = None;
            self.away = true;
            self.lost.get_or_insert_with(|| (Instant::now(), gone()));
        } else {
            self.lost = None;
            self.away = false;
        }
    }

    /// Asks again, if nobody tells us any more: to be told; and for the rest of it, once the pipe is empty and the
    /// dataplane is another one.
    fn look_for_it(&mut self) -> Result<(), ClientError> {
        if self.told.is_some() {
            if self.unsaid.is_none_or(|since| since.elapsed() < RETRY) {
                return Ok(());
            }
            // It is not: then the answer to a new question.
            self.told = None;
            self.lost.get_or_insert_with(|| (Instant::now(), gone()));
        }
        self.unsaid = None;
        if self.again.is_some_and(|again| Instant::now() < again) {
            return Ok(());
        }
        let Some((since, why)) = self.lost.clone() else { return Ok(()) };
        if since.elapsed() >= self.node.patience() && self.again.is_some() {
            return Err(why);
        }
        let asked = match (self.away, &self.pipe) {
            // What is in it comes first, and then its end.
            (true, Some(_)) => return Ok(()),
            (true, None) => self.listen(),
            (false, _) => self.watch(),
        };
        match asked {
            Err(error) if error.may_pass() => {
                self.again = Some(Instant::now() + RETRY);
                Ok(())
            }
            asked => asked,
        }
    }

    fn watch(&mut self) -> Result<(), ClientError> {
        let body = RequestBody::Watch { id: self.status.id };
        self.told = Some(self.node.subscribe_to(&self.answers, body, None)?);
        self.taken = false;
        Ok(())
    }

    fn listen(&mut self) -> Result<(), ClientError> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(ClientError::system)?;
        let Wanted { name, from, id } = self.wanted.clone();
        let body = RequestBody::Listen { name, from, resume: id.map(|id| (id, self.read)) };
        self.told = Some(self.node.subscribe_to(&self.answers, body, Some(writer.as_fd()))?);
        self.pipe = Some(reader);
        self.taken = false;
        Ok(())
    }

    /// The first status that the last question is answered with.
    fn next_status(&mut self) -> Result<TransferStatus, ClientError> {
        loop {
            self.interrupt.check()?;
            let Some((tag, heard)) = self.answers.try_next() else {
                // There may be bytes already, which are not for now.
                let _ = poll(&mut [PollFd::new(&**self.interrupt.bell(), PollFlags::IN)], None);
                self.interrupt.bell().hush();
                continue;
            };
            if self.told.as_ref().is_some_and(|told| told.tag() == tag) {
                return match heard.result()? {
                    Answer::Transfer(status) => Ok(*status),
                    other => Err(ClientError::Unexpected(format!("{other:?}"))),
                };
            }
        }
    }

    /// For an answer, or for bytes. Says whether there are bytes, or the end of the pipe.
    fn wait(&self) -> bool {
        let mut fds = vec![PollFd::new(&**self.interrupt.bell(), PollFlags::IN)];
        fds.extend(self.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        // Somebody has to be found: not for ever.
        let most = if self.told.is_none() || self.unsaid.is_some() { Timespec::try_from(RETRY).ok() } else { None };
        // Interrupted by a signal: the caller looks again.
        let _ = poll(&mut fds, most.as_ref());
        let readable = fds.get(1).is_some_and(|pipe| !pipe.revents().is_empty());
        self.interrupt.bell().hush();
        readable
    }
}

fn gone() -> ClientError {
    ClientError::Unavailable("the dataplane has closed the stream's pipe and does not say why".to_owned())
}
