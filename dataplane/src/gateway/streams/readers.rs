//! Programs that read streams: what they say that they have is confirmed, and one that has gone may come back.
//!
//! ```text
//!   confirmed ≤ what it says that it has, and what the pipe took ≤ arrived ≤ confirmed + credit
//! ```
//!
//! What lies in the pipe and in the program when its machine loses power is thus with the sender still. What a program that
//! may come back has not called its own is kept here, within the same credit.

use std::time::{Duration, Instant};

use florelay_engine::Command;
use florelay_engine::api::{FailCode, Failure, TransferId};
use uuid::Uuid;

use super::super::pipes::{News, Order, PipeId, Written};
use super::super::{Gateway, reply};
use super::{CREDIT_BYTES, Listener, Receiving};
use crate::ipc::Answer;
use crate::ring::ToWorker;

/// The reading side of a stream.
pub(super) struct Reader {
    pub(super) pipe: PipeId,
    /// Where in the stream the pipe begins.
    base: u64,
    /// What the pipe took.
    written: u64,
    pub(super) arrived: u64,
    /// What its sender may be ahead of it, in bytes.
    pub(super) credit: u64,
    pub(super) end: Option<(u64, [u8; 32])>,
    /// What it says its words with; `None`: it says none, and has what the pipe took.
    number: Option<u64>,
    /// What it has said that it has.
    has: u64,
    confirmed: u64,
    /// How long the stream waits for it when it has gone.
    linger: Duration,
    /// Since when it has gone.
    gone: Option<Instant>,
}

impl Reader {
    /// Whether a program reads.
    pub(super) fn is_there(&self) -> bool {
        self.gone.is_none()
    }

    /// Bytes that are here and that it does not have.
    pub(super) fn missing(&self) -> u64 {
        self.arrived - self.confirmed
    }

    /// What it has now, if that is more than was confirmed.
    fn confirm(&mut self) -> Option<u64> {
        // It may say so before the pipe's thread does.
        let has = if self.number.is_some() { self.has.min(self.written) } else { self.written };
        (has > self.confirmed).then(|| {
            self.confirmed = has;
            has
        })
    }
}

impl Listener {
    /// How long its stream waits for it when it has gone. Of one that says no words nobody knows what it has.
    fn lingers(&self) -> Duration {
        self.reader.map_or(Duration::ZERO, |_| self.linger)
    }
}

impl Gateway {
    /// Bring readers and streams together.
    pub(super) fn introduce(&mut self) {
        while let Some((listener, id)) = self.streams.matched() {
            let (tag, replies) = (listener.tag, listener.replies.clone());
            let met =
                if self.streams.lacks_reader(id) { self.comes_back(listener, id) } else { self.begins(listener, id) };
            match met {
                Ok(()) => {
                    self.transfers.waiting(id, false);
                    if let Err(reason) = self.transfers.watch(id, tag, &replies) {
                        reply(&replies, tag, Answer::Failed(reason));
                    }
                }
                Err(reason) => {
                    self.streams.waiting.push_front(id);
                    reply(&replies, tag, Answer::Failed(reason));
                }
            }
        }
    }

    fn begins(&mut self, listener: Listener, id: TransferId) -> Result<(), String> {
        let pipe = PipeId(self.number());
        let base = listener.resume.map_or(0, |(_, has)| has);
        let credit = self.streams.next_credit(self.streams.credits());
        let stream = self.streams.receiving.get_mut(&id).ok_or("it has ended")?;
        let linger = listener.lingers();
        stream.reader = Some(Reader {
            pipe,
            base,
            written: base,
            arrived: base,
            credit,
            end: None,
            number: listener.reader,
            has: base,
            confirmed: base,
            linger,
            gone: None,
        });
        let worker = stream.worker;
        let written = if linger.is_zero() { Written::Forgotten } else { Written::Kept };
        self.streams.pipes.order(Order::Write(pipe, listener.pipe, written));
        self.transfers.confirmed(id, base);
        let bytes = u32::try_from(credit).unwrap_or(u32::MAX);
        self.tell_worker(worker, ToWorker::Engine(Command::Credit { id, bytes }));
        self.tell_worker(worker, ToWorker::Engine(Command::Accept { id, offset: base }));
        Ok(())
    }

    /// The reader before has gone, and its engine goes on: what it has not called its own is still here.
    fn comes_back(&mut self, listener: Listener, id: TransferId) -> Result<(), String> {
        let reader = self.streams.receiving.get_mut(&id).and_then(|stream| stream.reader.as_mut());
        let reader = reader.ok_or("it has ended")?;
        let base = listener.resume.map_or(0, |(_, has)| has);
        let (from, to) = (reader.confirmed, reader.written);
        if !(from..=to).contains(&base) {
            return Err(format!("it can be read on from bytes {from} to {to}, not from byte {base}"));
        }
        (reader.number, reader.linger, reader.gone) = (listener.reader, listener.lingers(), None);
        (reader.written, reader.has) = (base, base);
        let order = Order::Rewrite(reader.pipe, listener.pipe, base - reader.base);
        self.streams.pipes.order(order);
        self.confirm(id);
        Ok(())
    }

    /// A program says what it has of a stream.
    pub(in super::super) fn read_up_to(&mut self, id: TransferId, number: u64, offset: u64) -> Result<(), String> {
        let reader = self.streams.receiving.get_mut(&id).and_then(|stream| stream.reader.as_mut());
        let reader = reader.filter(|reader| reader.number == Some(number) && reader.is_there());
        let reader = reader.ok_or("this program does not read it")?;
        if !(reader.has..=reader.arrived).contains(&offset) {
            let (from, to) = (reader.has, reader.arrived);
            return Err(format!("it has said that it has {from} bytes, {to} are here, and {offset} are called read"));
        }
        reader.has = offset;
        self.confirm(id);
        Ok(())
    }

    /// Confirm what the reader of a stream has.
    fn confirm(&mut self, id: TransferId) {
        let reader = self.streams.receiving.get_mut(&id).and_then(|stream| stream.reader.as_mut());
        let Some((reader, offset)) = reader.and_then(|reader| reader.confirm().map(|offset| (reader, offset))) else {
            return;
        };
        let missing = reader.missing();
        let release = Order::Release(reader.pipe, offset - reader.base);
        if reader.number.is_some() {
            self.streams.pipes.order(release);
        }
        self.transfers.spooled(id, missing);
        self.transfers.confirmed(id, offset);
        self.tell_transfer(id, Command::Written { id, offset });
    }

    /// News of a reader's pipe.
    pub(super) fn reader_news(&mut self, pipe: PipeId, news: News) {
        let of_pipe = |stream: &mut Receiving| stream.reader.as_mut().is_some_and(|reader| reader.pipe == pipe);
        let stream =
            self.streams.receiving.iter_mut().find_map(|(id, stream)| of_pipe(stream).then_some((*id, stream)));
        let Some((id, Receiving { reader: Some(reader), .. })) = stream else { return };
        match news {
            News::Wrote(bytes) => {
                reader.written = reader.base + bytes;
                self.confirm(id);
            }
            News::Broken(reason) if reader.linger.is_zero() => {
                let reason = format!("at {}: {reason}", self.plan.node);
                self.tell_transfer(id, Command::Cancel { id, failure: Failure::new(FailCode::ReaderClosed, reason) });
            }
            News::Broken(reason) => {
                reader.gone = Some(Instant::now());
                tracing::info!(transfer = %Uuid::from_u128(id.0), reason, "waits for its reader");
                self.streams.waiting.push_back(id);
                self.transfers.waiting(id, true);
                self.introduce();
            }
            _ => {}
        }
    }

    /// Streams whose readers have been gone for too long end.
    pub(in super::super) fn miss_readers(&mut self, now: Instant) {
        let late = |reader: &&mut Reader| reader.gone.is_some_and(|gone| now.duration_since(gone) >= reader.linger);
        let readers = self.streams.receiving.iter_mut();
        let readers = readers.filter_map(|(id, stream)| Some((*id, stream.reader.as_mut().filter(late)?)));
        let given_up = readers.map(|(id, reader)| {
            // Once is enough.
            reader.gone = None;
            let (confirmed, linger) = (reader.confirmed, reader.linger);
            (id, format!("its reader went away after {confirmed} bytes, and has not come back for {linger:?}"))
        });
        for (id, reason) in given_up.collect::<Vec<_>>() {
            let reason = format!("at {}: {reason}", self.plan.node);
            self.streams.waiting.retain(|waiting| *waiting != id);
            self.tell_transfer(id, Command::Cancel { id, failure: Failure::new(FailCode::ReaderClosed, reason) });
        }
    }

    /// Readers that got little because there were many may get more.
    pub(super) fn raise_credits(&mut self) {
        let mut credits = self.streams.credits();
        for id in self.streams.receiving.keys().copied().collect::<Vec<_>>() {
            let next = self.streams.next_credit(credits);
            let Some(stream) = self.streams.receiving.get_mut(&id) else { continue };
            // Not for a little.
            let worth =
                |reader: &&mut Reader| reader.credit < next && (2 * reader.credit <= next || next == CREDIT_BYTES.1);
            let Some(reader) = stream.reader.as_mut().filter(worth) else { continue };
            credits += next - reader.credit;
            reader.credit = next;
            let (worker, bytes) = (stream.worker, u32::try_from(next).unwrap_or(u32::MAX));
            self.tell_worker(worker, ToWorker::Engine(Command::Credit { id, bytes }));
        }
    }
}
