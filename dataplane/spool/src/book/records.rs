//! What the book has of each transfer. Values are a version byte and postcard; a later version is refused, and left alone.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::BookError;
use crate::hash::HashState;
use crate::storage::Identity;

/// Version of all records. A change of any of them raises it, and the readers of the versions before stay.
pub const VERSION: u8 = 1;

/// A transfer that this node sends.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OwnTransfer {
    /// UUID.
    pub id: u128,
    /// The peer's node name.
    pub peer: String,
    /// Name at the receiver.
    pub name: String,
    /// A file, or a stream.
    pub source: Source,
    /// Whole size in bytes: of a file, or as the writer of a stream has declared it.
    pub size: Option<u64>,
    /// 0–127.
    pub priority: u8,
    /// Passed on verbatim.
    pub attributes: Vec<(String, String)>,
    /// When it is given up, nanoseconds since 1970.
    pub deadline_unix_ns: Option<u64>,
    /// When it was asked for, nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// It was paused by a person.
    pub held: bool,
    /// Its receiver was told of it.
    pub begun: bool,
    /// Its place in the queue: lower goes first.
    pub order: u64,
    /// First byte that the receiver has not confirmed.
    pub confirmed: u64,
}

/// Where a transfer's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Source {
    /// A file, read in place.
    File {
        /// Where it is; bytes, as a path need not be UTF-8. `None` = only its descriptor was given.
        path: Option<Vec<u8>>,
        /// Which file it was, and in which state.
        identity: Identity,
        /// BLAKE3 as far as it was read.
        hash: HashState,
    },
    /// A stream; its bytes are in its spool.
    Stream {
        /// Size and BLAKE3, once the writer has said that this is all.
        end: Option<(u64, [u8; 32])>,
        /// It waits so long for a writer that has gone, in nanoseconds.
        linger_ns: u64,
    },
}

/// A transfer that this node receives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IncomingTransfer {
    /// UUID.
    pub id: u128,
    /// The sender's node name.
    pub peer: String,
    /// Name that the sender gave it.
    pub name: String,
    /// Whole size in bytes; `None` = a stream.
    pub size: Option<u64>,
    /// Of a file: what is synced of it.
    pub progress: Progress,
}

/// How far a partial file is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Bytes that a power cut does not take.
    pub synced: u64,
    /// BLAKE3 of them, up to a whole block.
    pub hash: HashState,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`) under which it was written: under the same one, what was
    /// written and not synced is there, too.
    pub boot: String,
}

/// A transfer that is over.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EndedTransfer {
    /// UUID.
    pub id: u128,
    /// The peer's node name.
    pub peer: String,
    /// Name at the receiver.
    pub name: String,
    /// This node has sent it.
    pub outgoing: bool,
    /// It was a stream.
    pub stream: bool,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the whole, if it arrived.
    pub digest: Option<[u8; 32]>,
    /// Why it failed: the number of the failure code, and the reason for a person; `None` = it ended well.
    pub failed: Option<(u8, String)>,
    /// Where it is: the file that was sent, or the one in the inbox.
    pub path: Option<Vec<u8>>,
    /// When, nanoseconds since 1970.
    pub ended_unix_ns: u64,
}

/// A change of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An own transfer is new, or got on.
    Own(OwnTransfer),
    /// An own transfer is none any more.
    OwnGone(u128),
    /// An incoming one is new, or got on.
    Incoming(IncomingTransfer),
    /// An incoming one of this peer is none any more.
    IncomingGone(String, u128),
    /// A transfer has ended: the last of this peer, direction and id that is told of.
    Ended(EndedTransfer),
    /// The same of one that ended by this node, and its peer may not have heard so.
    GaveUp(EndedTransfer),
    /// The peer has heard of the last end of this peer, direction (`true` = sent from here) and id.
    Heard(String, bool, u128),
    /// The last end of this peer, direction (`true` = sent from here) and id did not happen.
    NotEnded(String, bool, u128),
}

/// A record's bytes.
pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, BookError> {
    postcard::to_extend(record, vec![VERSION]).map_err(|error| BookError::Damaged(error.to_string()))
}

/// The inverse of `encode`.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BookError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|error| BookError::Damaged(error.to_string())),
        Some((&version, _)) if version > VERSION => Err(BookError::Newer(version)),
        _ => Err(BookError::Damaged("a record without a version".into())),
    }
}

/// Read bytes as each kind of record, for fuzzers: none may panic, and what is read is written the same again, or shorter.
///
/// # Panics
/// If that does not hold.
pub fn check(bytes: &[u8]) {
    fn one<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        if let Ok(record) = decode::<T>(bytes) {
            let again = encode(&record).and_then(|bytes| decode::<T>(&bytes));
            assert!(again.is_ok_and(|again| again == record));
        }
    }
    one::<OwnTransfer>(bytes);
    one::<IncomingTransfer>(bytes);
    one::<EndedTransfer>(bytes);
}
