//! Programs that write streams: they go away without a word, and may come back.
//!
//! What was taken from a pipe and is not `accepted` the writer still has, and writes again: its new pipe goes on with byte
//! `accepted`, and what is here already is passed over.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use florelay_engine::api::{FailCode, Failure, TransferId};
use uuid::Uuid;

use super::super::orders::Refused;
use super::super::pipes::{Order, PipeId, adopt};
use super::super::{Gateway, Replies};

/// After a restart of the dataplane a stream waits so long for its writer, whatever its order said.
const LEAST_LINGER: Duration = Duration::from_secs(60);

/// The writing side of a stream.
pub(super) struct Writer {
    /// Bytes that it has declared.
    declared: Option<u64>,
    /// How long the stream waits for it when it has gone.
    linger: Duration,
    /// Since when it has gone.
    gone: Option<Instant>,
    /// Where in the stream its pipe begins.
    pub(super) base: u64,
    /// Bytes of the pipe to come that are here already.
    known: u64,
}

impl Writer {
    pub(super) fn new(declared: Option<u64>, linger: Duration) -> Self {
        Self { declared, linger, gone: None, base: 0, known: 0 }
    }

    /// Of a stream from before a restart: it waits for a writer, or has had all of it.
    pub(super) fn missed(declared: Option<u64>, linger: Duration, whole: bool) -> Self {
        let gone = (!whole).then(Instant::now);
        Self { gone, ..Self::new(declared, linger.max(LEAST_LINGER)) }
    }

    /// What of the next bytes of its pipe is new.
    pub(super) fn news<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let known = self.known.min(bytes.len() as u64);
        self.known -= known;
        &bytes[known as usize..]
    }

    /// Whether the stream may have so many bytes.
    pub(super) fn check(&self, bytes: u64) -> Result<(), Failure> {
        match self.declared {
            Some(declared) if bytes > declared => {
                let reason = format!("{declared} bytes were declared, and its writer has written more");
                Err(Failure::new(FailCode::Size, reason))
            }
            _ => Ok(()),
        }
    }
}

impl Gateway {
    /// The writer of a stream has gone without having said the end.
    pub(super) fn writer_gone(&mut self, id: TransferId, reason: String) {
        let Some(stream) = self.streams.sending.get_mut(&id) else { return };
        if stream.writer.linger.is_zero() {
            self.give_up(id, Failure::new(FailCode::SenderClosed, reason));
            return;
        }
        stream.writer.gone = Some(Instant::now());
        self.streams.pipes.order(Order::Close(stream.pipe));
        tracing::info!(transfer = %Uuid::from_u128(id.0), reason, "waits for its writer");
        self.show_place(id);
    }

    /// Streams whose writers have been gone for too long end.
    pub(in super::super) fn miss_writers(&mut self, now: Instant) {
        let late = |writer: &Writer| writer.gone.is_some_and(|gone| now.duration_since(gone) >= writer.linger);
        let streams = self.streams.sending.iter().filter(|(_, stream)| late(&stream.writer));
        let given_up = streams.map(|(id, stream)| {
            let (head, linger) = (stream.tail.head(), stream.writer.linger);
            (*id, format!("its writing program went away after {head} bytes, and has not come back for {linger:?}"))
        });
        for (id, reason) in given_up.collect::<Vec<_>>() {
            if let Some(stream) = self.streams.sending.get_mut(&id) {
                stream.writer.gone = None;
            }
            self.give_up(id, Failure::new(FailCode::SenderClosed, reason));
        }
    }

    /// A program goes on writing a stream. What was there of another is closed.
    pub(in super::super) fn resume_stream(
        &mut self,
        id: TransferId,
        descriptor: Option<OwnedFd>,
        tag: u64,
        replies: &Replies,
    ) -> Result<(), Refused> {
        if let Some(status) = self.transfers.running(id) {
            let base = status.accepted;
            let pipe = adopt(descriptor).map_err(Refused::invalid)?;
            let number = PipeId(self.number());
            let stream = self.streams.sending.get_mut(&id);
            let stream = stream.ok_or_else(|| Refused::invalid("no such stream is sent from here"))?;
            self.streams.pipes.order(Order::Close(stream.pipe));
            stream.pipe = number;
            // Those are passed over, so there is room for them.
            let known = stream.tail.head().saturating_sub(base);
            stream.granted = stream.tail.head();
            stream.writer.gone = None;
            stream.said = None;
            (stream.writer.base, stream.writer.known) = (base, known);
            self.streams.pipes.order(Order::Read(number, pipe));
            self.streams.pipes.order(Order::Grant(number, known));
            self.show_place(id);
            self.streams.grant();
        }
        // Of one that has ended, its end.
        self.transfers.watch(id, tag, replies).map_err(Refused::invalid)
    }

    /// Whether this is a stream without a writer.
    pub(in super::super) fn lacks_writer(&self, id: TransferId) -> bool {
        self.streams.sending.get(&id).is_some_and(|stream| stream.writer.gone.is_some())
    }
}
