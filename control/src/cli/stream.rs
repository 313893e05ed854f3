//! `stream` and `listen`: standard input at one node becomes standard output at another.
//!
//! ```text
//!   stdin ─ copied ─► pipe ─► dataplane ═══ link ═══ dataplane ─► pipe ─ copied, hashed ─► stdout
//! ```
//!
//! The dataplane has one end of a pipe of ours, never standard input or output themselves: it makes its end non-blocking,
//! which would change a terminal for everybody. What `listen` has written it counts and hashes, so that it can go on
//! where it was after its node has restarted, and its word at the end is about what really came out.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::bail;
use florelay_dataplane::ipc::{Answer, Failure, RequestBody, TransferOrder, TransferStatus};
use indicatif::ProgressBar;
use rustix::pipe::{PipeFlags, pipe_with};
use uuid::Uuid;

use super::args::Target;
use super::client::{Client, Happening, PATIENCE, RETRY, on_interrupt, reconnect};
use super::out::say;
use super::transfer::{new_bar, node_option, show};
use super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit, report};

/// Most bytes copied at once.
const COPY_BYTES: usize = 64 << 10;

/// What happens, beside what the control process says.
enum Local {
    Client(Happening),
    /// Copied to or from the pipe of this attempt: so much in all, and that is the whole.
    Copied(u64, io::Result<u64>),
    /// The pipe of this attempt was closed from the other side, and is empty.
    Ended(u64),
}

impl From<Happening> for Local {
    fn from(happening: Happening) -> Self {
        Self::Client(happening)
    }
}

/// What `florelay stream` was told.
pub(super) struct Order {
    pub(super) to: String,
    pub(super) name: String,
    pub(super) priority: u8,
    pub(super) id: Option<Uuid>,
}

/// `florelay stream`.
pub(super) fn stream(target: &Target, order: Order, as_json: bool) -> anyhow::Result<ExitCode> {
    let id = order.id.unwrap_or_else(Uuid::new_v4);
    let mut client = Client::connect(target)?;
    let (sender, happenings) = sync_channel(16);
    client.report_to(&sender)?;
    on_interrupt(sender.clone())?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let Order { to, name, priority, .. } = order;
    let body = RequestBody::SendStream {
        order: TransferOrder::new(to, id.as_u128(), name, priority),
        declared: None,
        linger_ns: 0,
    };
    client.ask(body, Some(reader.as_fd()))?;
    drop(reader);
    // The pipe is closed only when its end was said: the clone is this thread's, `writer` ours.
    let feeding = writer.try_clone()?;
    let to_us = sender.clone();
    thread::spawn(move || feed(feeding, &to_us));
    let mut shown = Shown::new(as_json, false);
    let mut state =
        Sending { id, writer: Some(writer), size: None, interrupted: false, leaving: false, lost: None, closed: false };
    loop {
        match happenings.recv() {
            Ok(Local::Client(Happening::Answer(Answer::Transfer(status)))) => {
                state.lost = None;
                shown.status(&status);
                if let Some(result) = &status.ended {
                    let code = shown.ended(&status, result);
                    return Ok(if state.interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { code });
                }
            }
            // The end is known to the dataplane, or the stream is given up: nothing more goes into the pipe.
            Ok(Local::Client(Happening::Answer(Answer::Done))) => {
                state.writer = None;
                if state.leaving {
                    return Ok(state.leave(target));
                }
            }
            // A control process that has just come back does not know its dataplane yet.
            Ok(Local::Client(Happening::Answer(Answer::Failed(_) | Answer::Unavailable(_))))
                if state.may_come_back() =>
            {
                thread::sleep(RETRY);
                state.ask_again(&mut client)?;
            }
            Ok(Local::Client(Happening::Answer(Answer::Failed(reason)))) => return Err(Exit::failed(reason)),
            Ok(Local::Client(Happening::Answer(Answer::Unavailable(reason)))) => return Err(Exit::unavailable(reason)),
            Ok(Local::Client(Happening::Answer(other))) => bail!("unexpected answer: {other:?}"),
            Ok(Local::Copied(_, Ok(size))) => {
                state.size = Some(size);
                client.ask(RequestBody::EndStream { id: id.as_u128(), size }, None)?;
            }
            Ok(Local::Copied(_, Err(error))) => {
                client.ask(RequestBody::Cancel { id: id.as_u128() }, None)?;
                return Err(Exit::failed(format!("standard input: {error}; the stream is given up")));
            }
            Ok(Local::Ended(_)) => state.closed = true,
            Ok(Local::Client(Happening::Gone(reason))) => {
                say(format_args!("florelay: {reason}; the stream goes on, looking for the control process"));
                let Some(again) = reconnect(target, &sender, PATIENCE).map_err(|e| e.context(reason))? else {
                    return Ok(ExitCode::from(EXIT_INTERRUPTED));
                };
                client = again;
                state.lost = Some(Instant::now());
                state.ask_again(&mut client)?;
            }
            Ok(Local::Client(Happening::Interrupt)) | Err(_) => {
                if let Some(code) = state.interrupt(target, &mut client, &mut shown)? {
                    return Ok(code);
                }
            }
        }
    }
}

struct Sending {
    id: Uuid,
    writer: Option<OwnedFd>,
    /// Bytes in all, once standard input has ended.
    size: Option<u64>,
    /// Ctrl-C came before the end of input, and the stream was cancelled.
    interrupted: bool,
    /// Ctrl-C came after it, before the dataplane had heard of the end.
    leaving: bool,
    /// Since when the control process is looked for.
    lost: Option<Instant>,
    /// The dataplane takes no more.
    closed: bool,
}

impl Sending {
    fn may_come_back(&self) -> bool {
        !self.closed && self.lost.is_some_and(|since| since.elapsed() < PATIENCE)
    }

    fn ask_again(&self, client: &mut Client) -> anyhow::Result<()> {
        let id = self.id.as_u128();
        if let (Some(size), Some(_)) = (self.size, &self.writer) {
            client.ask(RequestBody::EndStream { id, size }, None)?;
        }
        client.ask(RequestBody::Watch { id }, None)
    }

    fn leave(&self, target: &Target) -> ExitCode {
        let id = self.id;
        let node = node_option(target);
        say(format_args!(
            "\nThe stream has ended here; what is left is being sent. To watch it: florelay watch {id}{node}\nTo give it up: florelay cancel {id}{node}"
        ));
        ExitCode::from(EXIT_INTERRUPTED)
    }

    /// Ctrl-C. An ended stream goes on by itself; another one is given up, and we wait to hear so, unless asked again.
    fn interrupt(
        &mut self,
        target: &Target,
        client: &mut Client,
        shown: &mut Shown,
    ) -> anyhow::Result<Option<ExitCode>> {
        shown.abandon();
        if self.size.is_some() && self.writer.is_none() {
            return Ok(Some(self.leave(target)));
        }
        if self.interrupted || self.leaving {
            return Ok(Some(ExitCode::from(EXIT_INTERRUPTED)));
        }
        if self.size.is_some() {
            self.leaving = true;
        } else {
            self.interrupted = true;
            say("\nInput has not ended: the stream is cancelled.");
            client.ask(RequestBody::Cancel { id: self.id.as_u128() }, None)?;
        }
        Ok(None)
    }
}

/// Copies standard input into the pipe and says how much it was, or that the dataplane takes no more.
fn feed(pipe: OwnedFd, to: &SyncSender<Local>) {
    let (mut pipe, mut input, mut size) = (std::fs::File::from(pipe), io::stdin().lock(), 0);
    let mut buffer = vec![0; COPY_BYTES];
    let result = loop {
        match input.read(&mut buffer) {
            Ok(0) => break Ok(size),
            Ok(n) => {
                if pipe.write_all(&buffer[..n]).is_err() {
                    let _ = to.send(Local::Ended(0));
                    return;
                }
                size += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    // Nobody listens once the command is over; above too.
    let _ = to.send(Local::Copied(0, result));
}

/// What `florelay listen` was told.
pub(super) struct Wanted {
    pub(super) name: Option<String>,
    pub(super) from: Option<String>,
    pub(super) once: bool,
}

/// `florelay listen`.
pub(super) fn listen(target: &Target, wanted: &Wanted, as_json: bool) -> anyhow::Result<ExitCode> {
    let (sender, happenings) = sync_channel(16);
    on_interrupt(sender.clone())?;
    let client = Client::connect(target)?;
    client.report_to(&sender)?;
    let at = Place::default();
    let mut listening =
        Listening { target, wanted, sender: &sender, client, at, attempt: 0, eof: false, gone: false, done: None };
    loop {
        let code = listening.run(&happenings, as_json)?;
        if wanted.once || code != ExitCode::SUCCESS {
            return Ok(code);
        }
        listening.done = std::mem::take(&mut listening.at).id;
        listening.eof = false;
    }
}

/// What came out of the pipe.
#[derive(Default)]
struct Out {
    bytes: u64,
    size: Option<u64>,
    hasher: blake3::Hasher,
}

#[derive(Clone, Default)]
struct Place {
    id: Option<u128>,
    out: Arc<Mutex<Out>>,
}

impl Place {
    fn with<T>(&self, act: impl FnOnce(&mut Out) -> T) -> T {
        act(&mut self.out.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn bytes(&self) -> u64 {
        self.with(|out| out.bytes)
    }
}

struct Listening<'a> {
    target: &'a Target,
    wanted: &'a Wanted,
    sender: &'a SyncSender<Local>,
    client: Client,
    at: Place,
    /// Pipes are counted, so that late news of an older one concern nobody.
    attempt: u64,
    /// The pipe was closed from the other side, and is empty.
    eof: bool,
    /// The control process has closed our connection.
    gone: bool,
    /// The stream before this one: late news of it are passed over.
    done: Option<u128>,
}

impl Listening<'_> {
    /// One stream, to its end.
    fn run(&mut self, happenings: &Receiver<Local>, as_json: bool) -> anyhow::Result<ExitCode> {
        self.ask()?;
        let mut shown = Shown::new(as_json, true);
        // Why the answers stopped; the stream is looked for again when the pipe is empty.
        let mut lost: Option<(Instant, String)> = None;
        loop {
            if let Some((since, reason)) = &lost {
                if since.elapsed() > PATIENCE {
                    return Err(Exit::unavailable(format!("{reason}\n    hint: the stream was not found again")));
                }
                if self.eof {
                    thread::sleep(RETRY);
                    self.eof = false;
                    if std::mem::take(&mut self.gone) && !self.reconnect(reason)? {
                        return Ok(ExitCode::from(EXIT_INTERRUPTED));
                    }
                    self.ask()?;
                }
            }
            match happenings.recv() {
                Ok(Local::Client(Happening::Answer(Answer::Transfer(status)))) => {
                    if self.at.id.is_some_and(|id| id != status.id) || self.done == Some(status.id) {
                        continue;
                    }
                    lost = None;
                    self.at.id = Some(status.id);
                    shown.status(&status);
                    if let Some(result) = &status.ended {
                        return Ok(shown.ended(&status, result));
                    }
                    if let Some(size) = status.size
                        && self.at.with(|out| out.size.replace(size).is_none() && out.bytes == size)
                    {
                        self.take()?;
                    }
                }
                Ok(Local::Client(Happening::Answer(Answer::Done))) => {}
                Ok(Local::Client(Happening::Answer(Answer::Failed(reason)))) if self.at.id.is_none() => {
                    return Err(Exit::failed(reason));
                }
                Ok(Local::Client(Happening::Answer(Answer::Unavailable(reason)))) if self.at.id.is_none() => {
                    return Err(Exit::unavailable(reason));
                }
                Ok(Local::Client(Happening::Answer(Answer::Failed(reason) | Answer::Unavailable(reason)))) => {
                    lost.get_or_insert_with(|| (Instant::now(), reason));
                }
                Ok(Local::Client(Happening::Answer(other))) => bail!("unexpected answer: {other:?}"),
                Ok(Local::Client(Happening::Gone(reason))) => {
                    let Some(id) = self.at.id else { return Err(Exit::unavailable(reason)) };
                    self.gone = lost.is_some();
                    if lost.is_none() {
                        say(format_args!("florelay: {reason}; looking for the control process"));
                        if !self.reconnect(&reason)? {
                            return Ok(ExitCode::from(EXIT_INTERRUPTED));
                        }
                        self.client.ask(RequestBody::Watch { id }, None)?;
                    }
                }
                Ok(Local::Copied(attempt, Ok(_))) if attempt == self.attempt => self.take()?,
                Ok(Local::Ended(attempt)) if attempt == self.attempt => self.eof = true,
                Ok(Local::Copied(_, Ok(_)) | Local::Ended(_)) => {}
                Ok(Local::Copied(_, Err(error))) => return Err(Exit::failed(format!("standard output: {error}"))),
                Ok(Local::Client(Happening::Interrupt)) | Err(_) => {
                    shown.abandon();
                    if self.at.id.is_some() {
                        say(format_args!("\nThe stream is given up after {} bytes.", self.at.bytes()));
                    }
                    return Ok(ExitCode::from(EXIT_INTERRUPTED));
                }
            }
        }
    }

    /// Finds the control process again; `false`: Ctrl-C came meanwhile.
    fn reconnect(&mut self, reason: &str) -> anyhow::Result<bool> {
        let client = reconnect(self.target, self.sender, PATIENCE).map_err(|e| e.context(reason.to_owned()))?;
        Ok(client.map(|client| self.client = client).is_some())
    }

    /// Ask for a stream, or for the rest of ours.
    fn ask(&mut self) -> anyhow::Result<()> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // The size is said again, and this time it may be that nothing is missing.
        let read = self.at.with(|out| {
            out.size = None;
            out.bytes
        });
        let body = RequestBody::Listen {
            name: self.wanted.name.clone(),
            from: self.wanted.from.clone(),
            resume: self.at.id.map(|id| (id, read)),
        };
        self.client.ask(body, Some(writer.as_fd()))?;
        drop(writer);
        self.attempt += 1;
        let (place, to_us, attempt) = (self.at.clone(), self.sender.clone(), self.attempt);
        thread::spawn(move || drain(reader, &place, attempt, &to_us));
        Ok(())
    }

    fn take(&mut self) -> anyhow::Result<()> {
        let Some(id) = self.at.id else { return Ok(()) };
        let digest = self.at.with(|out| *out.hasher.finalize().as_bytes());
        self.client.ask(RequestBody::TakeStream { id, digest }, None)
    }
}

/// Copies the pipe to standard output; says when the whole is out, and when the pipe has ended.
fn drain(pipe: OwnedFd, place: &Place, attempt: u64, to: &SyncSender<Local>) {
    let mut pipe = std::fs::File::from(pipe);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let n = match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let mut output = io::stdout().lock();
        if let Err(error) = output.write_all(&buffer[..n]).and_then(|()| output.flush()) {
            // Nobody listens once the command is over; so below.
            let _ = to.send(Local::Copied(attempt, Err(error)));
            return;
        }
        let whole = place.with(|out| {
            out.hasher.update(&buffer[..n]);
            out.bytes += n as u64;
            (out.size == Some(out.bytes)).then_some(out.bytes)
        });
        if let Some(size) = whole {
            let _ = to.send(Local::Copied(attempt, Ok(size)));
        }
    }
    let _ = to.send(Local::Ended(attempt));
}

/// Progress for people or machines. Standard output is the stream's with `listen`.
struct Shown {
    as_json: bool,
    to_stderr: bool,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new(as_json: bool, to_stderr: bool) -> Self {
        Self { as_json, to_stderr, bar: None }
    }

    fn line(&self, text: &str) {
        // A reader that has gone is no error of ours.
        let _ = if self.to_stderr { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") };
    }

    fn status(&mut self, status: &TransferStatus) {
        if self.as_json {
            self.line(&report::transfer_json(status).to_string());
        } else {
            show(self.bar.get_or_insert_with(|| new_bar(status)), status);
        }
    }

    fn ended(&mut self, status: &TransferStatus, result: &Result<[u8; 32], Failure>) -> ExitCode {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        match result {
            Ok(digest) => {
                if !self.as_json {
                    self.line(&report::transfer_done(status, digest));
                }
                ExitCode::SUCCESS
            }
            Err(reason) => {
                let way = if status.outgoing { "to" } else { "from" };
                say(format_args!("florelay: {} {way} {}: {reason}", status.name, status.peer));
                ExitCode::from(EXIT_FAILED)
            }
        }
    }

    fn abandon(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
