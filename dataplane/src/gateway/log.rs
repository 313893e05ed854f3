//! Received command messages, one JSON object a line in `messages.jsonl` beside the inbox's files: what arrived, from
//! whom, when. Programs follow the file; a program interface of its own comes with the client APIs.
//!
//! A message is acknowledged once its line is written. What cannot be written (a full disk) waits here and is tried
//! again; the engine's credit bounds how much that is, and the sender keeps the rest. Which messages were written is
//! kept in `messages.journal` in the state directory, so that one whose acknowledgement was lost is not logged twice
//! after a restart. Killed between line and journal, the line itself is found at the next start.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::journal::Journal;

pub(super) const FILE_NAME: &str = "messages.jsonl";
const JOURNAL_NAME: &str = "messages.journal";
/// Messages remembered per peer: as many as the engine does, and more than a sender lets wait (4096).
const MAX_REMEMBERED: usize = 16_384;
/// Of the log's end, read at start: a message of 64 KiB takes less than 400 KiB as JSON.
const TAIL_BYTES: u64 = 1 << 20;

#[derive(Serialize)]
struct Entry<'a> {
    /// Nanoseconds since 1970-01-01 UTC at reception.
    received_unix_ns: u64,
    from: &'a str,
    id: u64,
    bytes: usize,
    /// The message as text; bytes that are not UTF-8 are replaced.
    text: &'a str,
}

/// What of an entry names the message.
#[derive(Deserialize)]
struct Named {
    from: String,
    id: u64,
}

struct Unwritten<P> {
    peer: P,
    from: String,
    id: u64,
    payload: Bytes,
    received_unix_ns: u64,
}

/// An open log. `P` is how its user names a peer.
pub(crate) struct MessageLog<P> {
    file: File,
    unwritten: VecDeque<Unwritten<P>>,
    /// The rest of the first one's line, when a part of it is in the file.
    line: Vec<u8>,
    written: Remembered,
    failing: bool,
    /// The same of the journal.
    journal_failing: bool,
}

impl<P: Copy> MessageLog<P> {
    pub(crate) fn open(inbox: &Path, state_dir: &Path) -> io::Result<Self> {
        for folder in [inbox, state_dir] {
            std::fs::create_dir_all(folder)?;
        }
        let path = inbox.join(FILE_NAME);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut written = Remembered::open(state_dir)?;
        for named in tail(&file)? {
            written.insert(&named.from, named.id)?;
        }
        Ok(Self { file, unwritten: VecDeque::new(), line: Vec::new(), written, failing: false, journal_failing: false })
    }

    /// Take a message; `write_out` says when it is written.
    pub(crate) fn append(&mut self, peer: P, from: &str, id: u64, payload: Bytes) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let from = from.to_owned();
        self.unwritten.push_back(Unwritten { peer, from, id, payload, received_unix_ns: super::nanos(since) });
    }

    /// Write what waits, and name to `done` what is written now, or was at an earlier time.
    pub(crate) fn write_out(&mut self, mut done: impl FnMut(P, u64)) {
        while let Some(first) = self.unwritten.front() {
            if !self.written.contains(&first.from, first.id) {
                if let Err(error) = write_line(&mut self.file, &mut self.line, first) {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(%error, "command messages wait: {FILE_NAME} cannot be written");
                    }
                    return;
                }
                // The log has it; without the journal it may only be there a second time after a restart.
                let recorded = self.written.insert(&first.from, first.id);
                let was_failing = std::mem::replace(&mut self.journal_failing, recorded.is_err());
                match recorded {
                    Err(error) if !was_failing => {
                        tracing::error!(%error, "messages are not recorded: {JOURNAL_NAME} cannot be written");
                    }
                    Ok(()) if was_failing => tracing::info!("{JOURNAL_NAME} can be written again"),
                    Ok(()) | Err(_) => {}
                }
            }
            if std::mem::take(&mut self.failing) {
                tracing::info!("{FILE_NAME} can be written again");
            }
            done(first.peer, first.id);
            self.unwritten.pop_front();
        }
    }
}

fn write_line<P>(file: &mut File, line: &mut Vec<u8>, message: &Unwritten<P>) -> io::Result<()> {
    if line.is_empty() {
        let Unwritten { from, id, payload, received_unix_ns, .. } = message;
        let text = String::from_utf8_lossy(payload);
        let received_unix_ns = *received_unix_ns;
        *line = serde_json::to_vec(&Entry { received_unix_ns, from, id: *id, bytes: payload.len(), text: &text })?;
        line.push(b'\n');
    }
    while !line.is_empty() {
        match file.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => drop(line.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The last messages of the log. A line that was being written when the process was killed is cut off: its message was
/// not acknowledged, and comes again.
fn tail(file: &File) -> io::Result<Vec<Named>> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() && (whole > 0 || from == 0) {
        tracing::warn!(bytes = bytes.len() - whole, "torn line of {FILE_NAME} cut off");
        file.set_len(from + whole as u64)?;
    }
    let lines = bytes[..whole].split(|byte| *byte == b'\n');
    // The first may be the end of a longer one, which does not parse.
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Ids of written messages, by sender.
struct Remembered {
    journal: Journal,
    peers: HashMap<String, Ids>,
}

#[derive(Default)]
struct Ids {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Remembered {
    fn open(state_dir: &Path) -> io::Result<Self> {
        let (journal, bodies) = Journal::open(state_dir.join(JOURNAL_NAME))?;
        let mut remembered = Self { journal, peers: HashMap::new() };
        for body in bodies {
            if let Some((id, from)) = body.split_first_chunk::<8>()
                && let Ok(from) = std::str::from_utf8(from)
            {
                remembered.peers.entry(from.to_owned()).or_default().insert(u64::from_le_bytes(*id));
            }
        }
        Ok(remembered)
    }

    fn contains(&self, from: &str, id: u64) -> bool {
        self.peers.get(from).is_some_and(|ids| ids.known.contains(&id))
    }

    fn insert(&mut self, from: &str, id: u64) -> io::Result<()> {
        if self.contains(from, id) {
            return Ok(());
        }
        self.peers.entry(from.to_owned()).or_default().insert(id);
        self.journal.append(&record(from, id), false)?;
        let live: usize = self.peers.values().map(|ids| ids.order.len()).sum();
        let each = |(from, ids): (&String, &Ids)| ids.order.iter().map(|id| record(from, *id)).collect::<Vec<_>>();
        self.journal.shrink(2 * live.max(MAX_REMEMBERED), || Ok(self.peers.iter().flat_map(each).collect()));
        Ok(())
    }
}

impl Ids {
    fn insert(&mut self, id: u64) {
        if !self.known.insert(id) {
            return;
        }
        if self.order.len() == MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(id);
    }
}

fn record(from: &str, id: u64) -> Vec<u8> {
    [&id.to_le_bytes(), from.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folders(tempfile::TempDir);

    impl Folders {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> MessageLog<u16> {
            MessageLog::open(&self.0.path().join("inbox"), &self.0.path().join("state")).unwrap()
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(if name == FILE_NAME { "inbox" } else { "state" }).join(name)
        }

        /// The texts in the log.
        fn texts(&self) -> Vec<String> {
            let text = std::fs::read_to_string(self.path(FILE_NAME)).unwrap();
            let text_of = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].to_string();
            text.lines().map(text_of).collect()
        }
    }

    fn receive(log: &mut MessageLog<u16>, id: u64, text: &'static str) -> Vec<(u16, u64)> {
        let mut done = Vec::new();
        log.append(7, "station-a", id, Bytes::from_static(text.as_bytes()));
        log.write_out(|peer, id| done.push((peer, id)));
        done
    }

    #[test]
    fn a_message_is_logged_once_and_acknowledged_each_time_also_after_a_restart() {
        let folders = Folders::new();
        let mut log = folders.open();
        for (id, text) in [(1, "stow"), (2, ""), (1, "stow")] {
            assert_eq!(receive(&mut log, id, text), [(7, id)]);
        }
        let mut log = folders.open();
        assert_eq!(receive(&mut log, 2, ""), [(7, 2)]);
        assert_eq!(receive(&mut log, 3, "track\n\u{0}"), [(7, 3)]);
        // The journal is gone: the log's own end knows.
        std::fs::remove_file(folders.path(JOURNAL_NAME)).unwrap();
        assert_eq!(receive(&mut folders.open(), 3, "track\n\u{0}"), [(7, 3)]);
        assert_eq!(folders.texts(), [r#""stow""#, r#""""#, r#""track\n\u0000""#]);
    }

    #[test]
    fn killed_at_any_byte_of_log_or_journal_every_message_is_logged_exactly_once() {
        let whole = Folders::new();
        let mut log = whole.open();
        for (id, text) in [(1, "one"), (2, "two"), (3, "three")] {
            receive(&mut log, id, text);
        }
        for name in [FILE_NAME, JOURNAL_NAME] {
            let bytes = std::fs::read(whole.path(name)).unwrap();
            for cut in 0..=bytes.len() {
                let folders = Folders::new();
                drop(folders.open());
                std::fs::write(folders.path(name), &bytes[..cut]).unwrap();
                // A journal never runs ahead of its log; a log without its journal is the kill between the two.
                if name == JOURNAL_NAME {
                    std::fs::copy(whole.path(FILE_NAME), folders.path(FILE_NAME)).unwrap();
                }
                let mut log = folders.open();
                // None was acknowledged as far as the sender knows.
                for (id, text) in [(1, "one"), (2, "two"), (3, "three")] {
                    assert_eq!(receive(&mut log, id, text), [(7, id)], "{name} cut at {cut}");
                }
                assert_eq!(folders.texts(), [r#""one""#, r#""two""#, r#""three""#], "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_a_full_disk_does_not_take_waits_and_is_not_acknowledged() {
        let folders = Folders::new();
        let mut log = folders.open();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut log.file, full);
        assert_eq!(receive(&mut log, 1, "one"), []);
        assert_eq!(receive(&mut log, 2, "two"), []);
        log.file = good;
        assert_eq!(receive(&mut log, 3, "three"), [(7, 1), (7, 2), (7, 3)]);
        assert_eq!(folders.texts(), [r#""one""#, r#""two""#, r#""three""#]);
    }

    #[test]
    fn memory_and_journal_are_bounded() {
        let folders = Folders::new();
        let mut log = folders.open();
        for id in 0..3 * MAX_REMEMBERED as u64 {
            log.written.insert("a", id).unwrap();
        }
        assert!(log.written.journal.records() <= 2 * MAX_REMEMBERED);
        let log = folders.open();
        assert_eq!(log.written.peers["a"].order.len(), MAX_REMEMBERED);
        assert!(log.written.contains("a", 3 * MAX_REMEMBERED as u64 - 1) && !log.written.contains("a", 0));
    }
}
