//! The reading end of a stream.
//!
//! It counts and hashes what was read, so that it can go on where it was after its node has restarted, and its word at the
//! end is about what the program really has. There is no thread: who does not read is waited for.
//!
//! ```text
//!   said ≤ processed ≤ read        said: confirmed to the sender, which forgets it
//! ```
//!
//! What was read is processed when the program asks for more; one that has it later, because it syncs a file or passes it
//! on, says so itself ([`StreamReader::by_hand`]). After a restart of the node the stream comes again from what is processed;
//! what of it was read is passed over.

mod words;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{Answer, RequestBody, TransferState, TransferStatus};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::Timespec;

pub use self::words::Processed;
use self::words::Words;
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
    /// When this process is killed, the stream waits so long for one that [resumes](StreamReader::resume) it.
    pub linger: Duration,
}

/// Who is told of each status.
struct Told(Box<dyn FnMut(&TransferStatus) + Send>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

/// A stream that comes to this node. Dropped before it was taken, it is given up, after [`Wanted::linger`].
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
    /// Bytes to come from the pipe that were read already.
    again: u64,
    words: Words,
    hasher: blake3::Hasher,
    /// Since when the node is looked for, and why.
    lost: Option<(Instant, ClientError)>,
    /// Since when the pipe is closed without a word why.
    unsaid: Option<Instant>,
    /// Not to be asked again before.
    not_before: Option<Instant>,
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

    /// Goes on with a stream of which the program has so many bytes for good, from a process before; `hasher` has them.
    ///
    /// # Errors
    /// The stream does not go on there any more; and as [`Self::open`].
    pub fn resume(node: &Node, id: u128, linger: Duration, hasher: blake3::Hasher) -> Result<Self, ClientError> {
        let read = hasher.count();
        Self::start(node, Wanted { id: Some(id), linger, ..Wanted::default() }, read, hasher, &Interrupt::new()?)
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
            again: 0,
            words: Words::new(read),
            hasher,
            lost: None,
            unsaid: None,
            not_before: None,
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

    /// From now on nothing is processed but what is said to be.
    pub fn by_hand(&mut self) -> Processed {
        self.words.by_hand(self.interrupt.bell())
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

    /// Reads some bytes; 0 = that was all, and it waits for [`Self::take`]. What was read before is processed.
    ///
    /// # Errors
    /// The stream was given up ([`ClientError::Ended`]), or the node has gone for good.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, ClientError> {
        loop {
            if let Some(count) = self.read_until(into, None)? {
                return Ok(count);
            }
        }
    }

    /// The same, but does not wait longer; `None` = nothing came.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_until(&mut self, into: &mut [u8], until: Option<Instant>) -> Result<Option<usize>, ClientError> {
        if into.is_empty() {
            return Ok(Some(0));
        }
        loop {
            self.interrupt.check()?;
            self.hear()?;
            let is_whole = self.size == Some(self.read);
            self.words.asked_for_more(self.read);
            self.speak(is_whole);
            if is_whole {
                return Ok(Some(0));
            }
            if let Some(Err(failure)) = &self.status.ended {
                return Err(ClientError::Ended(failure.clone()));
            }
            let count = self.turn(into, until)?;
            if count > 0 {
                self.hasher.update(&into[..count]);
                self.read += count as u64;
                return Ok(Some(count));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(None);
            }
        }
    }

    /// Says now what is processed; for a program that does not read on for a while.
    pub fn say_processed(&mut self) {
        self.words.asked_for_more(if self.words.is_by_hand() { self.read } else { self.words.processed() });
        self.speak(true);
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
        // The word at the end says so of all.
        self.words.took_all(self.read);
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
            if self.turn(&mut [0], None)? > 0 {
                return Err(ClientError::Unexpected("bytes behind the end of the stream".to_owned()));
            }
        }
    }

    /// Says what is processed, if it is time for it or wanted `now`. Where it is lost, the next question says it again.
    fn speak(&mut self, now: bool) {
        if let Some((reader, offset)) = self.words.next(now) {
            let _ = self.node.tell(RequestBody::ReadUpTo { id: self.status.id, reader, offset });
        }
    }

    /// Waits for bytes or for an answer, and finds the node again.
    fn turn(&mut self, into: &mut [u8], until: Option<Instant>) -> Result<usize, ClientError> {
        self.look_for_it()?;
        let readable = self.wait(until);
        let Some(pipe) = self.pipe.as_ref().filter(|_| readable) else { return Ok(0) };
        let most =
            if self.again > 0 { into.len().min(usize::try_from(self.again).unwrap_or(usize::MAX)) } else { into.len() };
        let into = &mut into[..most];
        match rustix::io::read(pipe, into) {
            Ok(0) => {
                // The stream has ended, or the dataplane: an answer that says which may be on its way.
                self.pipe = None;
                self.unsaid = self.told.as_ref().map(|_| Instant::now());
                Ok(0)
            }
            Ok(count) if self.again > 0 => {
                self.again -= count as u64;
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
                    self.not_before = self.lost.as_ref().map(|_| Instant::now() + RETRY);
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
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let Some((since, why)) = self.lost.clone() else { return Ok(()) };
        if since.elapsed() >= self.node.patience() && self.not_before.is_some() {
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
                self.not_before = Some(Instant::now() + RETRY);
                Ok(())
            }
            asked => asked,
        }
    }

    fn watch(&mut self) -> Result<(), ClientError> {
        let body = RequestBody::Watch { id: self.status.id };
        self.told = Some(self.node.subscribe_to(&self.answers, body, None)?);
        self.taken = false;
        self.words.repeat();
        Ok(())
    }

    fn listen(&mut self) -> Result<(), ClientError> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(ClientError::system)?;
        let Wanted { name, from, id, linger } = self.wanted.clone();
        let has = self.words.processed();
        let linger_ns = u64::try_from(linger.as_nanos()).unwrap_or(u64::MAX);
        let number = Some(self.words.begin());
        let body = RequestBody::Listen { name, from, resume: id.map(|id| (id, has)), reader: number, linger_ns };
        self.told = Some(self.node.subscribe_to(&self.answers, body, Some(writer.as_fd()))?);
        self.again = self.read - has;
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

    /// For an answer, or for bytes; or until something is to be said. Says whether there are bytes, or the end of the pipe.
    fn wait(&self, until: Option<Instant>) -> bool {
        let mut fds = vec![PollFd::new(&**self.interrupt.bell(), PollFlags::IN)];
        fds.extend(self.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        // Somebody has to be found: not for ever.
        let looking = (self.told.is_none() || self.unsaid.is_some()).then(|| Instant::now() + RETRY);
        let until = [looking, self.words.due(), until].into_iter().flatten().min();
        let most = until.and_then(|at| Timespec::try_from(at.saturating_duration_since(Instant::now())).ok());
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
