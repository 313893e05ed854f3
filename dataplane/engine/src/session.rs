//! The session stream of a connection: its one bidirectional stream, on which both ends exchange framed messages
//! (big-endian `u32` length, postcard body). It opens with a hello from each side.
//!
//! What a peer can make this end hold is bounded: unread bytes stay in QUIC, whose window then shuts, while
//! [`INBOX_BYTES`] are here; and a peer that lets more than [`MAX_OUTBOX_BYTES`] of answers wait is disconnected.

use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use quinn_proto::{Connection, Dir, StreamId};
use serde::{Deserialize, Serialize};

use crate::api::{Failure, TransferId, TransferMeta};

/// Version of the session messages; the peer's may differ by one (N and N−1 interoperate).
pub(crate) const SESSION_VERSION: u16 = 3;
/// Oldest session version this end still speaks.
pub(crate) const MIN_SESSION_VERSION: u16 = 1;
/// First session version with `OffersEnd` and `Received`.
const RECONCILES: u16 = 2;
/// First session version with `Credit`, without which no open-ended stream goes.
const STREAMS: u16 = 2;
/// First session version with `Fail`, `OfferStream` and `Heard`.
const CODES: u16 = 3;
/// Largest message body in bytes: an offer with all its attributes.
const MAX_MESSAGE_BYTES: usize = 192 << 10;
const LENGTH_BYTES: usize = 4;
/// Received bytes held here: one whole message. The rest stays in QUIC's window.
const INBOX_BYTES: usize = LENGTH_BYTES + MAX_MESSAGE_BYTES;
/// While this much waits to be written, nothing is added that can wait too: offers and confirmations.
const BUSY_BYTES: usize = 64 << 10;
/// Answers that may wait, in bytes: 20,000 transfers of a peer, each refused with the longest reason of ours
/// ([`OWN_REASON_BYTES`]), and as much again.
const MAX_OUTBOX_BYTES: usize = 10 << 20;
/// Longest reason that this end gives, in bytes; the rest is cut.
const OWN_REASON_BYTES: usize = 240;

/// What travels on a session stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// First in each direction.
    Hello { version: u16, min_version: u16, class: u8, node: String },
    /// Sender: a transfer begins, or goes on after a lost connection.
    Offer { id: u128, meta: OfferedMeta },
    /// Receiver: send from this offset on.
    Accept { id: u128, offset: u64 },
    /// Sender: the transfer is complete.
    Finish { id: u128, size: u64, digest: [u8; 32] },
    /// Receiver: everything below is written.
    Confirm { id: u128, offset: u64 },
    /// Receiver: verified, synced, in place.
    Done { id: u128 },
    /// Either: given up, for this reason. Towards version 3 it is `Fail`.
    Cancel { id: u128, reason: String },
    /// Sender, from version 2: every transfer that it knew when the session began has been offered. `boot` is its boot
    /// id, so that the receiver can tell what was given up from what was forgotten in a restart.
    OffersEnd { boot: u64 },
    /// Receiver of command messages, from version 2: these are written.
    Received { ids: Vec<u64> },
    /// Receiver of a stream, from version 2: bytes below `limit` may be sent. Grows only, until the next `Accept`.
    Credit { id: u128, limit: u64 },
    /// Either, from version 3: given up, with the number of a [`FailCode`](crate::api::FailCode).
    Fail { id: u128, code: u8, reason: String },
    /// Sender, from version 3: as `Offer`, a stream whose writer has declared its size.
    OfferStream { id: u128, meta: OfferedMeta, declared: u64 },
    /// Either, from version 3: the end that the other has said by `Fail` is kept here, or there is nothing to end.
    Heard { id: u128 },
}

/// A transfer's description in the shape that every version has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferedMeta {
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    pub(crate) priority: u8,
    pub(crate) attributes: Vec<(String, String)>,
}

impl OfferedMeta {
    pub(crate) fn into_meta(self, declared: Option<u64>) -> TransferMeta {
        let Self { name, size, priority, attributes } = self;
        TransferMeta { name, size, declared: declared.filter(|_| size.is_none()), priority, attributes }
    }
}

impl Message {
    pub(crate) fn transfer(&self) -> Option<TransferId> {
        match self {
            Self::Hello { .. } | Self::OffersEnd { .. } | Self::Received { .. } => None,
            Self::Offer { id, .. }
            | Self::OfferStream { id, .. }
            | Self::Accept { id, .. }
            | Self::Finish { id, .. }
            | Self::Confirm { id, .. }
            | Self::Done { id }
            | Self::Cancel { id, .. }
            | Self::Fail { id, .. }
            | Self::Heard { id }
            | Self::Credit { id, .. } => Some(TransferId(*id)),
        }
    }
}

/// Why a session cannot go on. The connection is closed with it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SessionError {
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("a message does not parse")]
    Malformed,
    #[error("the peer ended the session stream")]
    Ended,
    #[error("the session speaks versions {min}..={max}, this node {MIN_SESSION_VERSION}..={SESSION_VERSION}")]
    Version { min: u16, max: u16 },
    #[error("the first message is not a hello, or says another class than the path")]
    Hello,
    #[error("the peer asks and does not read: {0} bytes of answers wait for it")]
    Unread(usize),
    #[error("the peer has said no hello in {} s", .0.as_secs())]
    NoHello(Duration),
}

/// One end of a session stream.
#[derive(Debug, Default)]
pub(crate) struct Session {
    stream: Option<StreamId>,
    inbox: BytesMut,
    outbox: BytesMut,
    /// The peer's hello was read.
    pub(crate) ready: bool,
    /// The peer's version, once `ready`.
    version: u16,
    /// QUIC may have bytes, or `inbox` a message, that was not looked at.
    pub(crate) unread: bool,
}

impl Session {
    /// The end that dialled opens the stream.
    pub(crate) fn open(&mut self, quic: &mut Connection) {
        self.stream = quic.streams().open(Dir::Bi);
    }

    /// The end that was dialled takes it.
    pub(crate) fn accept(&mut self, quic: &mut Connection) {
        if self.stream.is_none() {
            self.stream = quic.streams().accept(Dir::Bi);
        }
    }

    pub(crate) fn is(&self, stream: StreamId) -> bool {
        self.stream == Some(stream)
    }

    /// Say that something is given up, in words that the peer's version has. Own reasons are short ones.
    pub(crate) fn push_failure(&mut self, TransferId(id): TransferId, failure: &Failure) {
        let Failure { code, reason } = failure;
        let end = (0..=reason.len().min(OWN_REASON_BYTES)).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        let reason = reason[..end].to_owned();
        self.push(&if self.version >= CODES {
            Message::Fail { id, code: code.number(), reason }
        } else {
            Message::Cancel { id, reason }
        });
    }

    /// Offer a transfer. A peer of an older version does not learn what was declared.
    pub(crate) fn push_offer(&mut self, TransferId(id): TransferId, meta: &TransferMeta) {
        let TransferMeta { name, size, declared, priority, attributes } = meta.clone();
        let offered = OfferedMeta { name, size, priority, attributes };
        self.push(&match declared.filter(|_| size.is_none() && self.version >= CODES) {
            Some(declared) => Message::OfferStream { id, meta: offered, declared },
            None => Message::Offer { id, meta: offered },
        });
    }

    pub(crate) fn push(&mut self, message: &Message) {
        let at = self.outbox.len();
        self.outbox.put_u32(0);
        // Writing into a growing buffer cannot fail; a message that serde refuses would be a bug of ours.
        if let Err(error) = postcard::to_io(message, (&mut self.outbox).writer()) {
            tracing::error!(%error, "session message dropped");
            self.outbox.truncate(at);
            return;
        }
        let body = self.outbox.len() - at - LENGTH_BYTES;
        self.outbox[at..at + LENGTH_BYTES].copy_from_slice(&(body as u32).to_be_bytes());
    }

    /// Write at most `limit` bytes of what waits; returns how many.
    pub(crate) fn feed(&mut self, quic: &mut Connection, limit: usize) -> usize {
        let Some(stream) = self.stream else { return 0 };
        let take = limit.min(self.outbox.len());
        if take == 0 {
            return 0;
        }
        let written = quic.send_stream(stream).write(&self.outbox[..take]).unwrap_or(0);
        self.outbox.advance(written);
        written
    }

    /// So much waits that what can wait should.
    pub(crate) fn is_busy(&self) -> bool {
        self.outbox.len() >= BUSY_BYTES
    }

    /// The peer speaks of unfinished transfers and written messages at each session.
    pub(crate) fn reconciles(&self) -> bool {
        self.version >= RECONCILES
    }

    /// The peer can send and receive open-ended streams.
    pub(crate) fn carries_streams(&self) -> bool {
        self.version >= STREAMS
    }

    /// The peer says when it has heard of an end.
    pub(crate) fn says_heard(&self) -> bool {
        self.version >= CODES
    }

    /// Whether the peer reads what it asked for.
    pub(crate) fn check(&self) -> Result<(), SessionError> {
        if self.outbox.len() > MAX_OUTBOX_BYTES { Err(SessionError::Unread(self.outbox.len())) } else { Ok(()) }
    }

    /// Take what has arrived, as far as there is room for it. Says whether something came.
    pub(crate) fn receive(&mut self, quic: &mut Connection) -> Result<bool, SessionError> {
        let Some(stream) = self.stream else { return Ok(false) };
        let mut receiver = quic.recv_stream(stream);
        let mut chunks = receiver.read(true).map_err(|_| SessionError::Ended)?;
        let before = self.inbox.len();
        let result = loop {
            let room = INBOX_BYTES.saturating_sub(self.inbox.len());
            if room == 0 {
                break Ok(());
            }
            match chunks.next(room) {
                Ok(Some(chunk)) => self.inbox.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(quinn_proto::ReadError::Reset(_)) => break Err(SessionError::Ended),
                Err(quinn_proto::ReadError::Blocked) => break Ok(()),
            }
        };
        let _ = chunks.finalize();
        result.map(|()| self.inbox.len() > before)
    }

    /// The next whole message.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, SessionError> {
        let Some(length) = self.inbox.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(SessionError::TooLong(length));
        }
        let Some(body) = self.inbox.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
        let Ok((message, [])) = postcard::take_from_bytes(body) else { return Err(SessionError::Malformed) };
        self.inbox.advance(LENGTH_BYTES + length);
        Ok(Some(message))
    }

    /// Check the peer's hello.
    pub(crate) fn greet(&mut self, message: &Message, class: u8) -> Result<(), SessionError> {
        match message {
            Message::Hello { version, min_version, .. }
                if *min_version > SESSION_VERSION || *version < MIN_SESSION_VERSION =>
            {
                Err(SessionError::Version { min: *min_version, max: *version })
            }
            Message::Hello { class: theirs, version, .. } if *theirs == class => {
                self.ready = true;
                self.version = *version;
                Ok(())
            }
            _ => Err(SessionError::Hello),
        }
    }
}

/// For [`crate::fuzzing`].
impl Session {
    pub(crate) fn deliver(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// Both ends have greeted each other; the peer speaks this version.
    #[cfg(test)]
    pub(crate) fn greeted(version: u16) -> Self {
        Self { ready: true, version, ..Self::default() }
    }

    pub(crate) fn take_outbox(&mut self) -> Vec<u8> {
        self.outbox.split().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FailCode;

    fn delivered(bytes: &[u8]) -> Session {
        Session { inbox: BytesMut::from(bytes), ..Session::default() }
    }

    #[test]
    fn messages_survive_any_split() {
        let mut out = Session::default();
        let messages = [
            Message::Confirm { id: 7, offset: u64::MAX },
            Message::Cancel { id: u128::MAX, reason: "no space left".into() },
            Message::Done { id: 0 },
        ];
        for message in &messages {
            out.push(message);
        }
        let bytes = out.outbox.to_vec();
        let mut inbox = Session::default();
        let mut seen = Vec::new();
        for byte in bytes {
            inbox.inbox.extend_from_slice(&[byte]);
            while let Some(message) = inbox.next().unwrap() {
                seen.push(message);
            }
        }
        assert_eq!(seen, messages);
    }

    #[test]
    fn too_long_or_malformed_is_an_error_and_never_a_panic() {
        assert_eq!(delivered(&[0xff; 8]).next(), Err(SessionError::TooLong(0xffff_ffff)));
        assert_eq!(delivered(&[0, 0, 0, 1, 0xff]).next(), Err(SessionError::Malformed));
        // Trailing bytes inside a message are refused too.
        let mut out = Session::default();
        out.push(&Message::Done { id: 1 });
        let mut bytes = out.outbox.to_vec();
        bytes[3] += 1;
        bytes.push(0);
        assert_eq!(delivered(&bytes).next(), Err(SessionError::Malformed));
        for first in 0..=255u8 {
            let _ = delivered(&[0, 0, 0, 3, first, 0x80, 0x80]).next();
        }
    }

    #[test]
    fn answers_that_nobody_reads_have_a_bound_and_own_reasons_a_length() {
        let mut session = Session::greeted(SESSION_VERSION);
        for id in 0..20_000 {
            session.push_failure(TransferId(u128::MAX - id), &Failure::new(FailCode::Unknown, "ä".repeat(4000)));
        }
        // All that an honest peer can have asked for.
        assert_eq!(session.check(), Ok(()));
        assert!(session.is_busy());
        while session.check().is_ok() {
            session.push(&Message::Done { id: u128::MAX });
        }
        assert!(session.outbox.len() < MAX_OUTBOX_BYTES + 100);
        assert_eq!(session.check(), Err(SessionError::Unread(session.outbox.len())));
    }

    #[test]
    fn an_older_peer_hears_what_it_has_words_for() {
        let declared = TransferMeta {
            name: "f".into(),
            size: None,
            declared: Some(7),
            priority: 1,
            attributes: vec![("a".into(), "b".into())],
        };
        let offered = declared.clone();
        let offered = OfferedMeta { name: offered.name, size: None, priority: 1, attributes: offered.attributes };
        let failure = Failure::new(FailCode::Storage, "no space");
        let said = |version| {
            let mut session = Session::greeted(version);
            session.push_failure(TransferId(1), &failure);
            session.push_offer(TransferId(2), &declared);
            let mut read = delivered(&session.take_outbox());
            [read.next().unwrap().unwrap(), read.next().unwrap().unwrap()]
        };
        let old =
            [Message::Cancel { id: 1, reason: "no space".into() }, Message::Offer { id: 2, meta: offered.clone() }];
        assert_eq!(said(2), old);
        assert_eq!(said(1), old);
        let new = [
            Message::Fail { id: 1, code: 6, reason: "no space".into() },
            Message::OfferStream { id: 2, meta: offered.clone(), declared: 7 },
        ];
        assert_eq!(said(3), new);
        assert_eq!(said(4), new);
        assert_eq!(offered.clone().into_meta(Some(7)), declared);
        // A file has one size only.
        assert_eq!(OfferedMeta { size: Some(5), ..offered }.into_meta(Some(7)).declared, None);
    }

    #[test]
    fn offers_and_cancellations_have_the_bytes_of_version_2() {
        // Written down from version 2: number, id, then name, size, priority, attributes; or the reason.
        let meta =
            OfferedMeta { name: "ab".into(), size: Some(300), priority: 5, attributes: vec![("k".into(), "".into())] };
        let mut session = Session::greeted(2);
        session.push(&Message::Offer { id: 1, meta });
        session.push(&Message::Cancel { id: 2, reason: "no".into() });
        let offer = [0, 0, 0, 13, 1, 1, 2, b'a', b'b', 1, 0xac, 2, 5, 1, 1, b'k', 0];
        let cancel = [0, 0, 0, 5, 6, 2, 2, b'n', b'o'];
        assert_eq!(session.take_outbox(), [&offer[..], &cancel[..]].concat());
    }

    #[test]
    fn hello_checks_version_overlap_and_class() {
        let hello = |version, min_version, class| Message::Hello { version, min_version, class, node: "b".into() };
        let mut session = Session::default();
        assert!(session.greet(&hello(SESSION_VERSION + 1, SESSION_VERSION, 1), 1).is_ok());
        assert!(session.reconciles());
        assert_eq!(session.greet(&hello(9, 8, 1), 1), Err(SessionError::Version { min: 8, max: 9 }));
        let mut old = Session::default();
        assert!(old.greet(&hello(1, 1, 1), 1).is_ok() && !old.reconciles() && !old.carries_streams());
        assert_eq!(session.greet(&hello(1, 1, 0), 1), Err(SessionError::Hello));
        assert_eq!(session.greet(&Message::Done { id: 1 }, 1), Err(SessionError::Hello));
    }
}
