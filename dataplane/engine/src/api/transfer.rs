//! What a transfer is called, what is known of it before its first byte, and how it fails.

/// A transfer's name: a UUID as the 128-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub u128);

/// What a receiver learns of a transfer before its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferMeta {
    /// File name without a directory; at most 255 bytes.
    pub name: String,
    /// Whole size in bytes. `None` = an open-ended stream: its end is known when it comes.
    pub size: Option<u64>,
    /// Size in bytes that the writer of a stream has declared; a stream of another size ends with [`FailCode::Size`].
    /// `None` for files, and where nothing was declared. A peer of session version 2 or older does not learn it.
    pub declared: Option<u64>,
    /// 0–127; 64 and above is strict over bulk.
    pub priority: u8,
    /// Passed on verbatim; at most 64 pairs of at most 1024 bytes.
    pub attributes: Vec<(String, String)>,
}

/// Why a transfer ended without success, for programs. The numbers cross the wire and the APIs: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailCode {
    /// Somebody at either end has cancelled it.
    Cancelled = 0,
    /// The program that wrote it went away without saying that this is the end.
    SenderClosed = 1,
    /// The link or the peer was given up.
    LinkFailed = 2,
    /// It was taken out of the queue before it began.
    QueueCleared = 3,
    /// Its deadline has passed.
    Timeout = 4,
    /// An end does not take it: its name, its id, a limit.
    Refused = 5,
    /// A disk at either end has failed or is full.
    Storage = 6,
    /// The file was changed, cut or removed while it was sent.
    SourceChanged = 7,
    /// What arrived does not have the sender's BLAKE3.
    Digest = 8,
    /// More or fewer bytes than were declared.
    Size = 9,
    /// The ends do not agree any more on what has arrived.
    LostPlace = 10,
    /// Its sender was restarted and does not know it any more.
    Forgotten = 11,
    /// The program that read it went away before the end.
    ReaderClosed = 12,
    /// Something else; also a code of a newer version.
    Unknown = 255,
}

impl FailCode {
    /// From the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Cancelled,
            1 => Self::SenderClosed,
            2 => Self::LinkFailed,
            3 => Self::QueueCleared,
            4 => Self::Timeout,
            5 => Self::Refused,
            6 => Self::Storage,
            7 => Self::SourceChanged,
            8 => Self::Digest,
            9 => Self::Size,
            10 => Self::LostPlace,
            11 => Self::Forgotten,
            12 => Self::ReaderClosed,
            _ => Self::Unknown,
        }
    }

    /// On the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// As it is written in JSON and tables: `sender-closed`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::SenderClosed => "sender-closed",
            Self::LinkFailed => "link-failed",
            Self::QueueCleared => "queue-cleared",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Storage => "storage",
            Self::SourceChanged => "source-changed",
            Self::Digest => "digest",
            Self::Size => "size",
            Self::LostPlace => "lost-place",
            Self::Forgotten => "forgotten",
            Self::ReaderClosed => "reader-closed",
            Self::Unknown => "unknown",
        }
    }
}

/// How a transfer ended without success.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: FailCode,
    /// For people.
    pub reason: String,
}

impl Failure {
    /// With these.
    #[must_use]
    pub fn new(code: FailCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What a sender's gateway still has of a transfer when it offers it again after a restart. The default is a new transfer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The receiver has confirmed everything below; of a stream these bytes are gone.
    pub confirmed: u64,
    /// First byte that is not here yet. The receiver may have more: see [`Event::SupplyFrom`](super::Event::SupplyFrom).
    pub head: u64,
}
