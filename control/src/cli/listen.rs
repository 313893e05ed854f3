//! `listen`: streams that come to this node, to standard output or into a file.
//!
//! What is written to a file is synced before the sender hears that it may forget it, so `--resume` goes on behind it after
//! a kill or a power cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{RequestBody, TransferStatus};
use uuid::Uuid;

use super::client::{Happening, Happenings, Post, exit, node};
use super::out::say;
use super::stream::{COPY_BYTES, Shown};
use super::transfer_args::ListenArgs;
use super::{EXIT_FAILED, EXIT_INTERRUPTED, Exit};
use crate::client::{ClientError, Node, StreamReader, Wanted};

/// A file is synced when so much of it is not …
const SYNC_BYTES: u64 = 4 << 20;
/// … after this long, so that a power cut costs little to send again …
const SYNC_DELAY: Duration = Duration::from_millis(250);
/// … and when nothing more comes for this long: the sender may wait for room.
const SYNC_IDLE: Duration = Duration::from_millis(20);
/// How long a stream that goes into a file waits for `--resume`, if it is not said.
const FILE_LINGER: Duration = Duration::from_secs(60);

/// What becomes of a stream that is read.
enum Heard {
    Status(Box<TransferStatus>),
    /// The file, or standard output, fails.
    Output(io::Error),
    Over(Result<Box<TransferStatus>, ClientError>),
}

/// `florelay listen`.
pub(super) fn listen(args: &ListenArgs) -> anyhow::Result<ExitCode> {
    let ListenArgs { name, from, id, once, output, resume, linger, json: as_json, target } = args;
    let (node, happenings) = (node(target)?, Happenings::<Heard>::new()?);
    let written = Arc::new(AtomicU64::new(0));
    let linger = linger.unwrap_or(if output.is_some() { FILE_LINGER } else { Duration::ZERO });
    loop {
        let id = resume.or(*id).map(|id| id.as_u128());
        let wanted = Wanted { name: name.clone(), from: from.clone(), id, linger };
        let (of_thread, post, count) = (node.clone(), happenings.post.clone(), written.clone());
        written.store(0, Ordering::Relaxed);
        let output = Output::open(output.as_deref(), resume.is_some())?;
        thread::spawn(move || post.tell(drain(&of_thread, wanted, output, &count, &post)));
        let mut shown = Shown::new(*as_json, true);
        let mut begun = None;
        let code = loop {
            match happenings.next(None) {
                Some(Happening::Local(Heard::Status(status))) => {
                    begun = Some(status.id);
                    shown.status(&status);
                }
                Some(Happening::Local(Heard::Over(Ok(status)))) => match &status.ended {
                    Some(result) => break shown.ended(&status, result),
                    None => anyhow::bail!("a stream is over and has not ended"),
                },
                Some(Happening::Local(Heard::Over(Err(ClientError::Ended(failure))))) => {
                    shown.clear();
                    say(format_args!("florelay: {}: {failure}", shown.name()));
                    break ExitCode::from(EXIT_FAILED);
                }
                Some(Happening::Local(Heard::Over(Err(error)))) => return Err(exit(error)),
                Some(Happening::Local(Heard::Output(error))) => {
                    return Err(failed(&error, args.output.as_deref(), begun, linger));
                }
                Some(Happening::Interrupt) => {
                    shown.abandon();
                    if let Some(id) = begun {
                        let bytes = written.load(Ordering::Relaxed);
                        say(format_args!("\nThe stream is given up after {bytes} bytes."));
                        if !linger.is_zero() {
                            node.ask(RequestBody::Cancel { id }).map_err(exit)?;
                        }
                    }
                    return Ok(ExitCode::from(EXIT_INTERRUPTED));
                }
                Some(Happening::Heard(..)) | None => {}
            }
        };
        if *once || id.is_some() || args.output.is_some() || code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
}

/// What cannot be written, and how to go on if the stream waits.
fn failed(error: &io::Error, output: Option<&Path>, id: Option<u128>, linger: Duration) -> anyhow::Error {
    let Some(path) = output else { return Exit::failed(format!("standard output: {error}")) };
    let path = path.display();
    let hint = id.filter(|_| !linger.is_zero()).map(Uuid::from_u128).map_or_else(String::new, |id| {
        format!("\n    hint: it waits {linger:?} for florelay listen --resume {id} --output {path}")
    });
    Exit::failed(format!("{path}: {error}{hint}"))
}

/// Where a stream goes.
struct Output {
    file: File,
    /// What is there of it from before.
    hasher: blake3::Hasher,
    resumes: bool,
    /// It is a file, which has to be synced.
    syncs: bool,
    /// Bytes that are not, since when, and when the last of them came.
    unsynced: Option<(u64, Instant, Instant)>,
}

impl Output {
    fn open(path: Option<&Path>, resumes: bool) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) => create(path, resumes)?,
            // The same open file, without a buffer in front.
            None => io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(|error| stdout_failed(&error))?,
        };
        let syncs = path.is_some() || file.metadata().map_err(|error| stdout_failed(&error))?.is_file();
        Ok(Self { file, hasher: blake3::Hasher::new(), resumes, syncs, unsynced: None })
    }

    /// Reads what is there, for the hash; the next byte goes behind it.
    fn catch_up(&mut self) -> io::Result<()> {
        if self.resumes {
            let mut buffer = vec![0; 1 << 20];
            loop {
                match self.file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => drop(self.hasher.update(&buffer[..n])),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            // Its last bytes may be in memory only, and are called processed from here on.
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if self.syncs {
            let now = Instant::now();
            let (count, since, _) = self.unsynced.unwrap_or((0, now, now));
            self.unsynced = Some((count + bytes.len() as u64, since, now));
        }
        Ok(())
    }

    /// When it is to be synced.
    fn due(&self) -> Option<Instant> {
        let (count, since, last) = self.unsynced?;
        Some(if count >= SYNC_BYTES { since } else { (since + SYNC_DELAY).min(last + SYNC_IDLE) })
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.unsynced.take().is_some() {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// The file of a new stream, or of one that goes on. That it is there survives a power cut, too.
fn create(path: &Path, resumes: bool) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(resumes).create_new(!resumes).truncate(false);
    let file = options.open(path).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::AlreadyExists {
            "\n    hint: nothing is written over; --resume UUID goes on behind what is in it"
        } else {
            ""
        };
        Exit::failed(format!("{}: {error}{hint}", path.display()))
    })?;
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), PathBuf::from);
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Exit::failed(format!("{} is not a file", path.display())));
    }
    let synced = file.sync_all().and_then(|()| File::open(folder)?.sync_all());
    synced.map_err(|error| Exit::failed(format!("{} cannot be synced: {error}", path.display())))?;
    Ok(file)
}

fn stdout_failed(error: &io::Error) -> anyhow::Error {
    Exit::failed(format!("standard output: {error}"))
}

/// Copies a stream, to its end.
fn drain(node: &Node, wanted: Wanted, mut output: Output, written: &AtomicU64, to: &Arc<Post<Heard>>) -> Heard {
    if let Err(error) = output.catch_up() {
        return Heard::Output(error);
    }
    let reader = match wanted.id.filter(|_| output.resumes) {
        Some(id) => StreamReader::resume(node, id, wanted.linger, output.hasher.clone()),
        None => StreamReader::open(node, wanted),
    };
    let result = reader.and_then(|mut reader| {
        let post = to.clone();
        to.tell(Heard::Status(Box::new(reader.status().clone())));
        // The end is told when all is over.
        reader.on_status(move |status| {
            if status.ended.is_none() {
                post.tell(Heard::Status(Box::new(status.clone())));
            }
        });
        match copy(&mut reader, &mut output, written)? {
            Ok(()) => reader.take().map(|status| Heard::Over(Ok(Box::new(status)))),
            Err(error) => Ok(Heard::Output(error)),
        }
    });
    result.unwrap_or_else(|error| Heard::Over(Err(error)))
}

/// Copies to the end that was said; the inner error is the output's.
fn copy(reader: &mut StreamReader, output: &mut Output, written: &AtomicU64) -> Result<io::Result<()>, ClientError> {
    // Into a pipe, what was written is processed; from there on it is another's.
    let processed = output.syncs.then(|| reader.by_hand());
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = reader.read_until(&mut buffer, output.due())?;
        if let Some(count @ 1..) = count {
            if let Err(error) = output.write(&buffer[..count]) {
                return Ok(Err(error));
            }
            written.fetch_add(count as u64, Ordering::Relaxed);
        }
        if count == Some(0) || output.due().is_some_and(|at| Instant::now() >= at) {
            if let Err(error) = output.sync() {
                return Ok(Err(error));
            }
            if let Some(processed) = &processed {
                processed.up_to(reader.offset());
            }
        }
        if count == Some(0) {
            return Ok(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests;
