//! `stream`: standard input at this node becomes what [`listen`](super::listen) writes at another.
//!
//! ```text
//!   stdin ─ StreamWriter ═► dataplane ═══ link ═══ dataplane ═► StreamReader ─► stdout, or a file
//! ```
//!
//! Each has a thread that copies, which may stand still for ever, and one that waits for everything else.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use florelay_dataplane::ipc::{Failure, RequestBody, TransferOrder, TransferStatus};
use indicatif::ProgressBar;
use uuid::Uuid;

use super::args::Target;
use super::client::{Happening, Happenings, Post, exit, node};
use super::out::say;
use super::progress::{new_bar, show};
use super::send::node_option;
use super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit, report};
use crate::client::{ClientError, Node, StreamWriter};

/// Most bytes copied at once.
pub(super) const COPY_BYTES: usize = 64 << 10;
const SEEK_HINT: &str = "give it the file that it was begun with: florelay stream --resume --id UUID --to NODE < FILE";

/// What `florelay stream` was told.
pub(super) struct Order {
    pub(super) to: String,
    pub(super) name: String,
    pub(super) priority: u8,
    pub(super) id: Option<Uuid>,
    /// Nanoseconds since 1970.
    pub(super) deadline: Option<u64>,
    pub(super) attributes: Vec<(String, String)>,
    /// Bytes.
    pub(super) declared: Option<u64>,
    pub(super) linger: Duration,
    pub(super) resume: bool,
}

/// What becomes of a stream that is written.
enum Sent {
    Status(Box<TransferStatus>),
    /// Input has ended; the dataplane has not heard so yet.
    Read,
    /// It has.
    Ended,
    /// Standard input fails.
    Input(io::Error),
    /// The transfer is over.
    Over(Result<Box<TransferStatus>, ClientError>),
}

/// `florelay stream`.
pub(super) fn stream(target: &Target, order: Order, as_json: bool) -> anyhow::Result<ExitCode> {
    let id = order.id.unwrap_or_else(Uuid::new_v4);
    let node = node(target)?;
    let writer = begin(&node, id, order)?;
    let happenings: Happenings<Sent> = Happenings::new()?;
    let (mut watcher, post) = (writer.watch(), happenings.post.clone());
    thread::spawn(move || {
        while let Some(status) = watcher.next_change() {
            post.tell(Sent::Status(Box::new(status)));
        }
    });
    let post = happenings.post.clone();
    thread::spawn(move || feed(writer, &post));
    let mut shown = Shown::new(as_json, false);
    let (mut read, mut ended, mut interrupted) = (false, false, false);
    let leave = || {
        let node = node_option(target);
        say(format_args!(
            "\nThe stream has ended here; what is left is being sent. To watch it: florelay watch {id}{node}\nTo give it up: florelay cancel {id}{node}"
        ));
        Ok(ExitCode::from(EXIT_INTERRUPTED))
    };
    loop {
        match happenings.next(None) {
            Some(Happening::Local(Sent::Status(status))) => match &status.ended {
                Some(_) if interrupted => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
                Some(result) => {
                    shown.status(&status);
                    return Ok(shown.ended(&status, result));
                }
                None => shown.status(&status),
            },
            // Its status says so, too, or has.
            Some(Happening::Local(Sent::Over(Ok(_)) | Sent::Over(Err(ClientError::Ended(_))))) => {}
            Some(Happening::Local(Sent::Over(Err(error)))) => {
                return Err(exit(error).context("the stream does not go on"));
            }
            Some(Happening::Local(Sent::Read)) => read = true,
            Some(Happening::Local(Sent::Ended)) => {
                ended = true;
                if interrupted {
                    return leave();
                }
            }
            Some(Happening::Local(Sent::Input(error))) => {
                // That it has ended meanwhile is no news.
                let _ = node.ask(RequestBody::Cancel { id: id.as_u128() });
                return Err(Exit::failed(format!("standard input: {error}; the stream is given up")));
            }
            // An ended stream goes on by itself; another one is given up, and we wait to hear so, unless asked again.
            Some(Happening::Interrupt) => {
                shown.abandon();
                if ended {
                    return leave();
                }
                if interrupted {
                    return Ok(ExitCode::from(EXIT_INTERRUPTED));
                }
                interrupted = true;
                if !read {
                    say("\nInput has not ended: the stream is cancelled.");
                    node.ask(RequestBody::Cancel { id: id.as_u128() }).map_err(exit)?;
                }
            }
            Some(Happening::Heard(..)) | None => {}
        }
    }
}

/// A new stream; or one whose writer went away, with standard input at the byte that it goes on with.
fn begin(node: &Node, id: Uuid, order: Order) -> anyhow::Result<StreamWriter> {
    let Order { to, name, priority, deadline, attributes, declared, linger, resume, .. } = order;
    if !resume {
        let order = TransferOrder {
            attributes,
            deadline_unix_ns: deadline,
            ..TransferOrder::new(to, id.as_u128(), name, priority)
        };
        return StreamWriter::open(node, order, declared, linger).map_err(exit);
    }
    // The same open file: what is sought here is where the copying thread reads on.
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(|e| Exit::failed(format!("standard input: {e}")))?;
    let mut input = std::fs::File::from(input);
    let no = |e: io::Error| {
        Exit::failed(format!("standard input cannot go to where the stream was: {e}\n    hint: {SEEK_HINT}"))
    };
    input.stream_position().map_err(no)?;
    let (writer, at) = StreamWriter::resume(node, id.as_u128()).map_err(exit)?;
    input.seek(SeekFrom::Start(at)).map_err(no)?;
    Ok(writer)
}

/// Copies standard input, says the end, and waits for that of the transfer.
fn feed(mut writer: StreamWriter, to: &Arc<Post<Sent>>) {
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; COPY_BYTES];
    let result = loop {
        match input.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => {
                if let Err(error) = writer.write_all(&buffer[..n]) {
                    break Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return to.tell(Sent::Input(error)),
        }
    };
    let result = result.and_then(|()| {
        to.tell(Sent::Read);
        writer.end()?;
        to.tell(Sent::Ended);
        writer.finish()?.wait().map(Box::new)
    });
    to.tell(Sent::Over(result));
}

/// Progress for people or machines. Standard output is the stream's with `listen`.
pub(super) struct Shown {
    as_json: bool,
    to_stderr: bool,
    bar: Option<ProgressBar>,
    last: Option<TransferStatus>,
}

impl Shown {
    pub(super) fn new(as_json: bool, to_stderr: bool) -> Self {
        Self { as_json, to_stderr, bar: None, last: None }
    }

    fn line(&self, text: &str) {
        // A reader that has gone is no error of ours.
        let _ = if self.to_stderr { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") };
    }

    pub(super) fn status(&mut self, status: &TransferStatus) {
        if self.as_json {
            self.line(&report::transfer_json(status).to_string());
        } else {
            show(self.bar.get_or_insert_with(|| new_bar(status)), status);
        }
        self.last = Some(status.clone());
    }

    /// The stream, for a sentence.
    pub(super) fn name(&self) -> String {
        self.last.as_ref().map_or_else(
            || "the stream".to_owned(),
            |status| {
                let way = if status.outgoing { "to" } else { "from" };
                format!("{} {way} {}", crate::printable::printable(&status.name), status.peer)
            },
        )
    }

    pub(super) fn ended(&mut self, status: &TransferStatus, result: &Result<[u8; 32], Failure>) -> ExitCode {
        self.clear();
        if self.as_json && self.to_stderr {
            self.status(status);
        }
        self.last = Some(status.clone());
        match result {
            Ok(digest) => {
                if !self.as_json {
                    self.line(&report::transfer_done(status, digest));
                }
                ExitCode::SUCCESS
            }
            Err(failure) => {
                say(format_args!("florelay: {}: {failure}", self.name()));
                ExitCode::from(EXIT_FAILED)
            }
        }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    pub(super) fn abandon(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
