//! Received command messages, one JSON object a line in `messages.jsonl` beside the inbox's files: what arrived, from
//! whom, when. Programs follow the file; a program interface of its own comes with the client APIs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

pub(super) const FILE_NAME: &str = "messages.jsonl";

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

/// An open log.
pub(crate) struct MessageLog {
    file: File,
}

impl MessageLog {
    pub(crate) fn open(inbox: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(inbox)?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(inbox.join(FILE_NAME))?;
        Ok(Self { file })
    }

    /// A log that cannot be written is reported; the message was received all the same.
    pub(crate) fn append(&mut self, from: &str, id: u64, payload: &[u8]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = String::from_utf8_lossy(payload);
        let entry = Entry { received_unix_ns: super::nanos(since), from, id, bytes: payload.len(), text: &text };
        let line = serde_json::to_string(&entry).map(|line| line + "\n");
        if let Err(error) = line.map_err(io::Error::from).and_then(|line| self.file.write_all(line.as_bytes())) {
            tracing::error!(%error, from, id, "message not logged");
        }
    }
}
