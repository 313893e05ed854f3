//! Open-ended streams between programs and the engine.
//!
//! ```text
//!   program ─ pipe ─► memory ─► Supply …     ►│ engines │─ Data ─► pipe ─► program
//!                       └► disk, read back ─┘     │   └ Written ◄─ what its reader has
//!           read only what there is room for ◄─ Confirmed
//! ```
//!
//! Back-pressure all the way: a reader that stops fills its pipe, then its credit, then the sender's spool, and then the
//! writing program's pipe is not read. An end must be *said* (`EndStream`) before the pipe is closed, and what was read
//! must be *taken* (`TakeStream`) with its BLAKE3: a program that dies at either end is never taken for a whole stream.

mod ahead;
mod readers;
mod sending;
mod writers;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::time::Duration;

use florelay_engine::api::{FailCode, Failure, TransferId, TransferMeta};
use florelay_engine::config::PeerId;
use florelay_engine::{Command, Event};
use florelay_spool::spooled::Place;

use self::readers::Reader;
use self::sending::Sending;
use super::pipes::{News, Order, PipeId, Pipes, has_reader};
use super::spooler;
use super::{Gateway, Replies, reply};
use crate::ipc::Answer;
use crate::plan::SpoolPlan;
use crate::ring::ToWorker;

/// Streams read at once. Listeners beyond wait.
const MAX_READING: usize = 1024;
/// Offered streams without a reader; more are refused by name. They cost nothing but their names.
const MAX_WAITING: usize = 1024;
/// Listeners without a stream; more are refused.
const MAX_LISTENERS: usize = 1024;

/// What a stream's sender may be ahead of its reader, in bytes: the least, and the most (the engine's own limit).
const CREDIT_BYTES: (u64, u64) = (256 << 10, 16 << 20);
/// The part of what is left of the node's limit that one more reader gets. With it, and the least credit, the bytes ahead of
/// all readers stay below the node's limit and 256 KiB for each.
const CREDIT_SHARE: u64 = 4;

/// A stream for a program of this machine.
struct Receiving {
    worker: usize,
    peer: PeerId,
    name: String,
    /// `None` = it waits for one.
    reader: Option<Reader>,
}

impl Receiving {
    fn is_read(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::is_there)
    }
}

/// What a program that wants to read asks for.
pub(super) struct Listener {
    pub(super) tag: u64,
    pub(super) replies: Replies,
    pub(super) pipe: OwnedFd,
    pub(super) name: Option<String>,
    pub(super) from: Option<PeerId>,
    /// It has so much of this stream already.
    pub(super) resume: Option<(TransferId, u64)>,
    /// It says what it has, with this number.
    pub(super) reader: Option<u64>,
    /// Such a one may come back within this time.
    pub(super) linger: Duration,
}

impl Listener {
    fn wants(&self, id: TransferId, stream: &Receiving) -> bool {
        match self.resume {
            Some((resumed, _)) => resumed == id,
            // What is before that is not here any more.
            None if stream.reader.is_some() => false,
            None => {
                self.name.as_ref().is_none_or(|name| *name == stream.name)
                    && self.from.is_none_or(|from| from == stream.peer)
            }
        }
    }
}

/// All streams of the node.
pub(super) struct Streams {
    pipes: Pipes,
    limits: SpoolPlan,
    place: Place,
    spooler: Sender<spooler::Order>,
    sending: BTreeMap<TransferId, Sending>,
    receiving: BTreeMap<TransferId, Receiving>,
    /// Without a reader, in the order of their offers.
    waiting: VecDeque<TransferId>,
    listeners: Vec<Listener>,
}

impl Streams {
    pub(super) fn new(pipes: Pipes, limits: SpoolPlan, place: Place, spooler: Sender<spooler::Order>) -> Self {
        Self {
            pipes,
            limits,
            place,
            spooler,
            sending: BTreeMap::new(),
            receiving: BTreeMap::new(),
            waiting: VecDeque::new(),
            listeners: Vec::new(),
        }
    }

    pub(super) fn knows(&self, id: TransferId) -> bool {
        self.sending.contains_key(&id) || self.receiving.contains_key(&id)
    }

    /// A program does not wait for a stream any more.
    pub(super) fn forget(&mut self, tag: u64, replies: &Replies) {
        self.listeners.retain(|listener| (listener.tag, listener.replies.number()) != (tag, replies.number()));
    }

    /// What the senders of streams may be ahead of their readers here, in bytes.
    fn credits(&self) -> u64 {
        self.receiving.values().filter_map(|stream| stream.reader.as_ref()).map(|reader| reader.credit).sum()
    }

    /// The same for one more stream, if it is `credits` for the others: a share of what they leave of the node's limit.
    fn next_credit(&self, credits: u64) -> u64 {
        (self.limits.node_bytes.saturating_sub(credits) / CREDIT_SHARE).clamp(CREDIT_BYTES.0, CREDIT_BYTES.1)
    }

    /// Whether the reader of a stream has gone and may come back.
    fn lacks_reader(&self, id: TransferId) -> bool {
        self.receiving.get(&id).and_then(|stream| stream.reader.as_ref()).is_some_and(|reader| !reader.is_there())
    }

    /// The next listener and the stream that it wants.
    fn matched(&mut self) -> Option<(Listener, TransferId)> {
        // Those whose readers may come back have their places.
        let full = self.receiving.values().filter(|stream| stream.reader.is_some()).count() >= MAX_READING;
        // One that has gone must not take a stream with it.
        self.listeners.retain(|listener| has_reader(&listener.pipe));
        let (at, id) = self.listeners.iter().enumerate().find_map(|(at, listener)| {
            let wanted = |id: &&TransferId| {
                let stream = self.receiving.get(id).filter(|stream| !full || stream.reader.is_some());
                stream.is_some_and(|stream| listener.wants(**id, stream))
            };
            Some((at, *self.waiting.iter().find(wanted)?))
        })?;
        self.waiting.retain(|waiting| *waiting != id);
        Some((self.listeners.remove(at), id))
    }
}

impl Gateway {
    /// A program wants to read a stream.
    pub(super) fn listen(&mut self, listener: Listener) -> Result<(), String> {
        self.streams.listeners.retain(|listener| has_reader(&listener.pipe));
        if self.streams.listeners.len() >= MAX_LISTENERS {
            return Err(format!("{MAX_LISTENERS} programs listen here, which is the limit"));
        }
        if let Some((id, _)) = listener.resume
            && self.streams.receiving.get(&id).is_some_and(Receiving::is_read)
        {
            return Err("somebody else reads this stream".into());
        }
        if let Some((id, _)) = listener.resume
            && !self.streams.receiving.contains_key(&id)
            && self.transfers.known_end(id).is_some()
        {
            // It does not come any more: its reader hears how it has ended.
            return self.transfers.watch(id, listener.tag, &listener.replies);
        }
        self.streams.listeners.push(listener);
        self.introduce();
        Ok(())
    }

    /// The program has read the whole stream, and this is its BLAKE3.
    pub(super) fn take_stream(&mut self, id: TransferId, digest: &[u8; 32]) -> Result<(), String> {
        let reader = self.streams.receiving.get(&id).and_then(|stream| stream.reader.as_ref());
        let reader = reader.ok_or("no such stream is read here")?;
        // That it has all of it shows in the digest; the pipes thread may not have said so yet.
        let (size, announced) = reader.end.ok_or("it has not ended yet")?;
        if announced == *digest {
            self.book_taken(id, size, announced);
        } else {
            let reason = format!("the {size} bytes that were read do not have the sender's BLAKE3");
            let result = Err(Failure::new(FailCode::Digest, reason));
            self.tell_transfer(id, Command::Complete { id, result });
        }
        Ok(())
    }

    pub(super) fn stream_offered(&mut self, worker: usize, peer: PeerId, id: TransferId, meta: &TransferMeta) {
        if self.was_taken(peer, id, meta) {
            // Its sender has not heard so.
            self.tell_worker(worker, ToWorker::Engine(Command::Complete { id, result: Ok(()) }));
            return;
        }
        if self.streams.waiting.len() >= MAX_WAITING {
            let reason = format!("{MAX_WAITING} streams wait for a reader at {}, which is the limit", self.plan.node);
            let failure = Failure::new(FailCode::Refused, reason);
            self.tell_worker(worker, ToWorker::Engine(Command::Cancel { id, failure }));
            return;
        }
        let name = self.plan.peers.get(usize::from(peer.0)).map_or("?", |peer| &peer.name);
        self.transfers.started(id, name, meta, false);
        self.transfers.waiting(id, true);
        self.streams.receiving.insert(id, Receiving { worker, peer, name: meta.name.clone(), reader: None });
        self.streams.waiting.push_back(id);
        self.introduce();
    }

    /// An event of a stream. `false` = it is no stream's.
    pub(super) fn stream_event(&mut self, event: &Event) -> bool {
        match event {
            Event::SupplyFrom { id, .. } | Event::SupplyUpTo { id, .. } | Event::Confirmed { id, .. } => {
                self.sending_event(*id, event)
            }
            Event::Data { id, data, .. } => {
                let Some(stream) = self.streams.receiving.get_mut(id) else { return false };
                if let Some(reader) = &mut stream.reader {
                    reader.arrived += data.len() as u64;
                    self.transfers.spooled(*id, reader.missing());
                    self.streams.pipes.order(Order::Data(reader.pipe, data.clone()));
                }
                true
            }
            Event::DataEnd { id, size, digest } => {
                let Some(stream) = self.streams.receiving.get_mut(id) else { return false };
                if let Some(reader) = &mut stream.reader {
                    reader.end = Some((*size, *digest));
                    self.transfers.size(*id, *size);
                }
                true
            }
            _ => false,
        }
    }

    /// The engine has ended a stream.
    pub(super) fn stream_ended(&mut self, id: TransferId, result: Result<(), Failure>) {
        let mut digest = [0; 32];
        if let Some(stream) = self.streams.sending.remove(&id) {
            digest = self.streams.close(&stream).unwrap_or_default();
        } else if let Some(Receiving { reader, .. }) = self.streams.receiving.remove(&id) {
            self.streams.waiting.retain(|waiting| *waiting != id);
            if let Some(reader) = reader {
                digest = reader.end.map_or(digest, |(_, digest)| digest);
                self.streams.pipes.order(Order::Close(reader.pipe));
            }
        }
        self.transfers.spooled(id, 0);
        self.transfers.ended(id, result.map(|()| digest));
        // Who still waits to read it hears so.
        let waited = |listener: &mut Listener| listener.resume.is_some_and(|(wanted, _)| wanted == id);
        for listener in self.streams.listeners.extract_if(.., waited) {
            if let Err(reason) = self.transfers.watch(id, listener.tag, &listener.replies) {
                reply(&listener.replies, listener.tag, Answer::Failed(reason));
            }
        }
        // A place to read at may be free.
        self.introduce();
        self.raise_credits();
    }

    pub(super) fn pipe_news(&mut self, pipe: PipeId, news: News) {
        if let Some(news) = self.writer_news(pipe, news) {
            self.reader_news(pipe, news);
        }
    }
}

#[cfg(test)]
mod tests;
