//! A station's control socket, as a client program uses it: files, status, and commands that carry the time they were said.
//!
//! Both ends of a command's way are on this machine: it carries `CLOCK_REALTIME` of the moment before it was handed to the
//! control process, and `messages.jsonl` at the receiver has the same clock's time of its reception. One way is the
//! difference; the hand-over to the node and the receiving gateway are in it, writing the line is not.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use florelay::config::CONTROL_SOCKET;
use florelay_dataplane::ipc::{Answer, Request, RequestBody, Response, Status, TransferOrder};
use florelay_dataplane::ipc_codec::IpcStream;
use florelay_e2e::Deadline;

/// A transfer is in its node's list within this.
const LISTED: Duration = Duration::from_secs(10);

/// A connection; requests one after the other.
pub(super) struct Client {
    stream: IpcStream,
    tag: u64,
}

impl Client {
    /// Connects to the control process of the node with this home.
    ///
    /// # Errors
    /// It does not listen (yet).
    pub(super) fn connect(home: &Path) -> Result<Self> {
        let path = home.join("state").join(CONTROL_SOCKET);
        let stream = IpcStream::new(UnixStream::connect(&path).with_context(|| path.display().to_string())?)?;
        stream.greet()?;
        Ok(Self { stream, tag: 0 })
    }

    /// The node's state.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn status(&mut self) -> Result<Status> {
        self.ask(RequestBody::Status, None)?;
        loop {
            let (response, _) = self.stream.receive::<Response>()?.context("the control process has gone")?;
            match response.body {
                Answer::Status(status) => return Ok(*status),
                Answer::Failed(reason) | Answer::Unavailable(reason) => bail!(reason),
                // progress of a file that was asked for before
                _ => {}
            }
        }
    }

    /// Begins to send a file, and waits until the node has it in its list; its progress is to be seen elsewhere.
    ///
    /// # Errors
    /// It is not there, nobody listens, or the node refuses.
    pub(super) fn send_file(&mut self, to: &str, id: u128, path: &Path) -> Result<()> {
        let file = File::open(path)?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a file's name")?.to_owned();
        let body = RequestBody::SendFile { order: TransferOrder::new(to, id, name, 10), path: None };
        self.ask(body, Some(&file))?;
        let listed = || Ok(self.status()?.transfers.iter().any(|transfer| transfer.id == id).then_some(()));
        Deadline::after(LISTED).wait("a transfer to be in the node's list", listed)
    }

    fn ask(&mut self, body: RequestBody, file: Option<&File>) -> Result<()> {
        self.tag += 1;
        Ok(self.stream.send(&Request { tag: self.tag, body }, file.map(File::as_fd))?)
    }
}

/// How commands are said.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Between two.
    pub(super) interval: Duration,
    /// Sizes, which take turns; at least [`STAMP_BYTES`].
    pub(super) sizes: Vec<usize>,
    /// After so many it ends by itself.
    pub(super) at_most: usize,
}

impl Pace {
    /// 256 bytes each, without end.
    pub(super) fn each(interval: Duration) -> Self {
        Self { interval, sizes: vec![256], at_most: usize::MAX }
    }
}

/// A command's number and time fit into this.
pub(super) const STAMP_BYTES: usize = 48;

/// Says commands at a pace on a thread of its own, until it is told to stop.
pub(super) struct Commander {
    phase: &'static str,
    stop: Arc<AtomicBool>,
    said: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    refused: Arc<Mutex<Vec<String>>>,
    stream: IpcStream,
    threads: Vec<JoinHandle<()>>,
}

impl Commander {
    /// Begins. `phase` is in each command, so that [`heard`] finds them.
    ///
    /// # Errors
    /// The control process does not listen.
    pub(super) fn begin(home: &Path, to: &str, phase: &'static str, pace: Pace) -> Result<Self> {
        let Client { stream, .. } = Client::connect(home)?;
        let mut commander = Self {
            phase,
            stop: Arc::default(),
            said: Arc::default(),
            answered: Arc::default(),
            refused: Arc::default(),
            stream: stream.try_clone()?,
            threads: Vec::new(),
        };
        let (answers, answered, refused) =
            (stream.try_clone()?, Arc::clone(&commander.answered), Arc::clone(&commander.refused));
        let reader = thread::spawn(move || {
            while let Ok(Some((Response { body, .. }, _))) = answers.receive::<Response>() {
                if let Answer::Failed(reason) | Answer::Unavailable(reason) = body {
                    refused.lock().unwrap_or_else(PoisonError::into_inner).push(reason);
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (stop, said, to) = (Arc::clone(&commander.stop), Arc::clone(&commander.said), to.to_owned());
        let writer = thread::spawn(move || {
            let began = Instant::now();
            for number in 0..pace.at_most {
                let due = began + pace.interval * u32::try_from(number).unwrap_or(u32::MAX);
                while Instant::now() < due && !stop.load(Ordering::Relaxed) {
                    thread::sleep((due - Instant::now()).min(Duration::from_millis(20)));
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let size = pace.sizes[number % pace.sizes.len()].max(STAMP_BYTES);
                let text = format!("{:<size$}", format!("{phase} {number} {}", unix_ns()));
                let body = RequestBody::Message { to: to.clone(), payload: text.into_bytes() };
                if stream.send(&Request { tag: number as u64, body }, None).is_err() {
                    break;
                }
                said.fetch_add(1, Ordering::Relaxed);
            }
        });
        commander.threads = vec![writer, reader];
        Ok(commander)
    }

    /// Says no more, and waits until each one was acknowledged. Says how many were said.
    ///
    /// # Errors
    /// One was refused, or is not acknowledged in time.
    pub(super) fn finish(mut self, deadline: Deadline) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer_ended()?;
        let said = self.said.load(Ordering::Relaxed);
        let what = format!("{said} commands ({}) to be acknowledged", self.phase);
        let all = || Ok((self.answered.load(Ordering::Relaxed) >= said).then_some(()));
        deadline.wait(&what, all)?;
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(refused.is_empty(), "{} commands refused: {}", refused.len(), refused[0]);
        drop(refused);
        Ok(said)
    }

    /// As [`finish`](Self::finish), after a pace with an end has said all of it.
    ///
    /// # Errors
    /// As there.
    pub(super) fn finish_all(mut self, deadline: Deadline) -> Result<usize> {
        self.writer_ended()?;
        self.finish(deadline)
    }

    fn writer_ended(&mut self) -> Result<()> {
        if self.threads.len() < 2 {
            return Ok(());
        }
        self.threads.remove(0).join().map_err(|_| anyhow!("the commander panicked"))
    }
}

impl Drop for Commander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stream.shutdown();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A command as it was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Heard {
    /// Its number.
    pub(super) number: usize,
    /// One way, in milliseconds.
    pub(super) latency_ms: f64,
}

/// Commands of a phase in a node's message log, in order of arrival.
///
/// # Errors
/// There is no log.
pub(super) fn heard(inbox: &Path, phase: &str) -> Result<Vec<Heard>> {
    let path = inbox.join("messages.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.lines().filter_map(|line| parse(line, phase)).collect())
}

fn parse(line: &str, phase: &str) -> Option<Heard> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    let mut words = entry["text"].as_str()?.split_whitespace();
    let (of, number, said) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse::<u64>().ok()?);
    let received = entry["received_unix_ns"].as_u64()?;
    // Negative if somebody set the clock meanwhile; better seen than hidden.
    let latency_ns = i128::from(received) - i128::from(said);
    (of == phase).then_some(Heard { number, latency_ms: latency_ns as f64 / 1e6 })
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A file that a node is to send, and where it shows at the receiver.
#[derive(Debug, Clone)]
pub(super) struct Sending {
    /// Transfer id.
    pub(super) id: u128,
    /// Bytes.
    pub(super) size: u64,
    /// The original.
    pub(super) from: PathBuf,
    /// While it comes, and when it is there.
    pub(super) part: PathBuf,
    /// See `part`.
    pub(super) whole: PathBuf,
}

impl Sending {
    /// Writes a file of pseudo-random bytes into `folder`; `inbox` is the receiver's.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn write(folder: &Path, inbox: &Path, number: usize, size: u64) -> Result<Self> {
        use std::io::Write as _;
        let from = folder.join(format!("file-{number}.bin"));
        let mut file = File::create(&from)?;
        let mut random = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
        let mut piece = vec![0; 1 << 20];
        let mut left = size;
        while left > 0 {
            let now = left.min(piece.len() as u64) as usize;
            random.fill(&mut piece[..now]);
            file.write_all(&piece[..now])?;
            left -= now as u64;
        }
        Ok(Self::place(from, inbox, number, size))
    }

    /// A file of zeros without blocks, for loads that never end.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn sparse(folder: &Path, inbox: &Path, number: usize, size: u64) -> Result<Self> {
        let from = folder.join(format!("file-{number}.bin"));
        File::create(&from)?.set_len(size)?;
        Ok(Self::place(from, inbox, number, size))
    }

    fn place(from: PathBuf, inbox: &Path, number: usize, size: u64) -> Self {
        // Version 4, variant 1 (RFC 9562), so that the file name of the part is as the node writes it.
        let id = 0x1000_4000_8000_0000_0000_0000_u128 << 32 | number as u128;
        let hex = format!("{id:032x}");
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        let whole = inbox.join(from.file_name().unwrap_or_default());
        Self { id, size, part: inbox.join(format!(".{uuid}.part")), whole, from }
    }

    /// Bytes that are in order at the receiver.
    pub(super) fn arrived(&self) -> u64 {
        // It may be renamed between two looks.
        let length = |path: &Path| std::fs::metadata(path).map(|found| found.len()).ok();
        length(&self.whole).or_else(|| length(&self.part)).or_else(|| length(&self.whole)).unwrap_or(0)
    }

    /// Verified and in place at the receiver.
    pub(super) fn done(&self) -> bool {
        self.whole.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_by_its_phase_with_its_latency() {
        let line = r#"{"received_unix_ns":1500000000,"from":"a","id":7,"bytes":256,"text":"idle 3 1400000000      "}"#;
        assert_eq!(parse(line, "idle"), Some(Heard { number: 3, latency_ms: 100.0 }));
        assert_eq!(parse(line, "busy"), None);
        assert_eq!(parse("{", "idle"), None);
    }

    #[test]
    fn a_stamp_fits_the_smallest_command() {
        assert!(format!("saturated 99999999 {}", u64::MAX).len() <= STAMP_BYTES);
    }
}
