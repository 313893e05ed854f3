//! Streams that are sent from here: pipes that are read as far as there is room, bytes on their way to the disk and back.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::Event;
use florelay_engine::api::{FailCode, Failure, TransferId};
use florelay_engine::config::PeerId;
use florelay_spool::book::Source;
use florelay_spool::spooled::News as Spooled;
use florelay_spool::tail::Tail;

use super::super::orders::Refused;
use super::super::pipes::{News, Order, PipeId, adopt};
use super::super::spooler::Order as Spool;
use super::super::{Gateway, Replies, nanos, peer_worker};
use super::Streams;
use super::ahead::Ahead;
use super::writers::Writer;
use crate::ipc::{Refusal, TransferOrder};
use crate::ring::ToWorker;

/// Share of the node's spool that is divided among all streams that there may be, so that none is starved by others that
/// stand still; the rest is for those that need it.
const OWN_SHARE: u64 = 4;
/// Bytes that may be read from a program ahead of the gateway.
const GRANT_BYTES: u64 = 256 << 10;
/// Streams sent at once; more are refused.
const MAX_SENDING: usize = 1024;
/// Share of the node's spool for the last bytes of all streams, which need not be read back from the disk.
const TAIL_SHARE: u64 = 4;

/// A stream that a program of this machine writes.
pub(super) struct Sending {
    worker: usize,
    pub(super) pipe: PipeId,
    pub(super) tail: Tail,
    /// Of a stream that is on disk.
    ahead: Ahead,
    pub(super) granted: u64,
    /// The size that the program has said.
    pub(super) said: Option<u64>,
    pub(super) writer: Writer,
    /// The book has it, or it needs no book: a new start knows of it.
    booked: bool,
}

impl Sending {
    /// Everything below will not be lost any more.
    fn accepted(&self) -> u64 {
        if self.booked { self.tail.accepted() } else { 0 }
    }

    /// Bytes of memory that it has or may take at any moment. What is on its way to the disk is there twice.
    fn reserved(&self) -> u64 {
        let unread = self.granted.saturating_sub(self.tail.head());
        self.tail.held() + if self.tail.is_on_disk() { self.tail.pinned() + 2 * unread } else { unread }
    }
}

/// These bytes are to go to the disk, or to be passed over if they are confirmed.
fn hand_on(spooler: &Sender<Spool>, id: TransferId, data: impl Iterator<Item = Bytes>) {
    for data in data {
        // The thread lives as long as the gateway.
        let _ = spooler.send(Spool::Append(id, data));
    }
}

impl Streams {
    fn has_disk(&self) -> bool {
        self.limits.stream_disk_bytes > 0 && self.limits.node_disk_bytes > 0
    }

    fn own_bytes(&self) -> u64 {
        self.limits.node_bytes / OWN_SHARE / MAX_SENDING as u64
    }

    /// What stays in memory of a stream that is on disk.
    fn tail_bytes(&self) -> u64 {
        let most = (self.limits.stream_bytes / 2).max(1);
        (self.limits.node_bytes / TAIL_SHARE / self.sending.len().max(1) as u64).min(most)
    }

    pub(super) fn spool(&self, order: Spool) {
        // The thread lives as long as the gateway.
        let _ = self.spooler.send(order);
    }

    /// Give the spool's thread everything, and wait for it: at the end only.
    pub(in super::super) fn flush(&mut self) {
        for (id, stream) in &mut self.sending {
            hand_on(&self.spooler, *id, stream.ahead.all());
        }
        let (sender, done) = channel();
        self.spool(Spool::Flush(sender));
        let _ = done.recv();
    }

    /// Let programs write as far as there is room.
    pub(super) fn grant(&mut self) {
        let own = self.own_bytes();
        let shared = |reserved: u64| reserved.saturating_sub(own);
        let used = self.sending.values().map(|stream| shared(stream.reserved())).sum();
        let mut free = (self.limits.node_bytes - MAX_SENDING as u64 * own).saturating_sub(used);
        for stream in self.sending.values_mut() {
            let before = stream.reserved();
            let most = (before.max(own) + free).min(self.limits.stream_bytes);
            let times = if stream.tail.is_on_disk() { 2 } else { 1 };
            let more = most.saturating_sub(before) / times;
            let room = stream.tail.room().min(GRANT_BYTES);
            let granted = (stream.granted + more).min(stream.tail.head() + room);
            if granted > stream.granted {
                self.pipes.order(Order::Grant(stream.pipe, granted.saturating_sub(stream.writer.base)));
                stream.granted = granted;
                free = free.saturating_sub(shared(stream.reserved()) - shared(before));
            }
        }
    }

    /// What the spool holds, and of how much. `spool_full_streams`: so many programs are held back because there is no room.
    pub(in super::super) fn counters(&self) -> impl Iterator<Item = (String, u64)> {
        let memory = self.sending.values().map(|stream| stream.tail.held() + stream.tail.pinned()).sum();
        let full = self.sending.values().filter(|stream| stream.said.is_none() && stream.granted <= stream.tail.head());
        let (disk, disk_limit) = self.place.used();
        let figures = [
            ("spool_memory_bytes", memory),
            ("spool_memory_limit_bytes", self.limits.node_bytes),
            ("spool_disk_bytes", disk),
            ("spool_disk_limit_bytes", disk_limit),
            ("spool_full_streams", full.count() as u64),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), value))
    }

    /// The book has it no more, and so its segments may go. Before, a start would take it for one that has lost its bytes.
    pub(in super::super) fn forget_segments(&self, id: TransferId) {
        if !self.sending.contains_key(&id) {
            self.spool(Spool::Remove(id));
        }
    }

    /// It is over; its BLAKE3, if it is known.
    pub(super) fn close(&mut self, stream: &Sending) -> Option<[u8; 32]> {
        self.pipes.order(Order::Close(stream.pipe));
        self.grant();
        stream.tail.digest()
    }
}

impl Gateway {
    /// A program's pipe as a new stream.
    pub(in super::super) fn send_stream(
        &mut self,
        order: &TransferOrder,
        declared: Option<u64>,
        linger: Duration,
        descriptor: Option<OwnedFd>,
        tag: u64,
        replies: &Replies,
    ) -> Result<(), Refused> {
        let id = TransferId(order.id);
        if self.streams.sending.len() >= MAX_SENDING {
            let reason = format!("{MAX_SENDING} streams are sent from here, which is the limit");
            return Err(Refused::new(Refusal::Limit, reason));
        }
        let pipe = adopt(descriptor).map_err(Refused::invalid)?;
        let peer = self.enter(order, None, declared)?;
        let tail = if self.streams.has_disk() {
            self.streams.spool(Spool::New(id));
            self.book_order(id, Source::Stream { end: None, linger_ns: nanos(linger) });
            // More is said once the segments are there.
            Tail::on_disk(id, 0, 0, GRANT_BYTES)
        } else {
            Tail::in_memory(id)
        };
        let number = PipeId(self.number());
        self.streams.pipes.order(Order::Read(number, pipe));
        let worker = peer_worker(&self.plan, peer);
        let writer = Writer::new(declared, linger);
        let booked = !tail.is_on_disk();
        let ahead = Ahead::new();
        let stream = Sending { worker, pipe: number, tail, ahead, granted: 0, said: None, writer, booked };
        self.streams.sending.insert(id, stream);
        self.start(peer, id);
        self.streams.grant();
        self.transfers.watch(id, tag, replies).map_err(Refused::invalid)
    }

    /// A stream of which the book and the disk know from before a restart; gives what is confirmed of it, and its head.
    pub(in super::super) fn recover_stream(
        &mut self,
        peer: PeerId,
        id: TransferId,
        confirmed: u64,
        declared: Option<u64>,
        end: Option<(u64, [u8; 32])>,
        linger_ns: u64,
    ) -> Result<(u64, u64), Failure> {
        let segments = self.streams.place.recover(id, confirmed).map_err(|error| error.failure())?;
        let (head, confirmed) = (segments.head(), segments.confirmed());
        if let Some((size, _)) = end.filter(|(size, _)| *size != head) {
            let reason = format!("of the {size} bytes of this stream the spool has {head}");
            return Err(Failure::new(FailCode::LostPlace, reason));
        }
        let mut tail = Tail::on_disk(id, confirmed, head, segments.room());
        tail.end(end);
        self.streams.spool(Spool::Found(id, Box::new(segments)));
        let writer = Writer::missed(declared, Duration::from_nanos(linger_ns), end.is_some());
        let worker = peer_worker(&self.plan, peer);
        let pipe = PipeId(self.number());
        let ahead = Ahead::found(head);
        let stream = Sending { worker, pipe, tail, ahead, granted: head, said: None, writer, booked: true };
        self.streams.sending.insert(id, stream);
        Ok((confirmed, head))
    }

    /// Show what was accepted of recovered streams.
    pub(in super::super) fn show_accepted(&mut self) {
        for (id, stream) in &self.streams.sending {
            self.transfers.accepted(*id, stream.accepted());
            self.transfers.spooled(*id, stream.tail.unconfirmed());
            if let Some(size) = stream.tail.size() {
                self.transfers.size(*id, size);
            }
        }
    }

    /// The book has a new stream; or, said of one that it has already, its end.
    pub(in super::super) fn stream_booked(&mut self, id: TransferId) {
        let Some(stream) = self.streams.sending.get_mut(&id) else { return };
        if !std::mem::replace(&mut stream.booked, true) {
            self.transfers.accepted(id, stream.accepted());
        } else if let Some(end) = self.kept.end_of_stream(id) {
            self.whole(id, Some(end));
        }
    }

    /// The program says that it has written `size` bytes and this is all.
    pub(in super::super) fn end_stream(&mut self, id: TransferId, size: u64) -> Result<(), String> {
        let stream = self.streams.sending.get_mut(&id).ok_or("no such stream is sent from here")?;
        stream.said.get_or_insert(size);
        Ok(())
    }

    /// What the engine says of a stream that is sent. `false` = there is none of this id.
    pub(super) fn sending_event(&mut self, id: TransferId, event: &Event) -> bool {
        let most = self.streams.tail_bytes();
        let Some(stream) = self.streams.sending.get_mut(&id) else { return false };
        stream.tail.handle(event, most);
        if let Event::Confirmed { offset, .. } = *event {
            self.transfers.spooled(id, stream.tail.unconfirmed());
            self.transfers.confirmed(id, offset);
            if stream.tail.is_on_disk() {
                self.kept.confirmed(id, offset, None);
                let quick = stream.ahead.is_quick();
                let mut due = stream.ahead.due(offset).peekable();
                // Of a quick receiver with every batch.
                if !quick || due.peek().is_some() {
                    // The thread lives as long as the gateway.
                    let _ = self.streams.spooler.send(Spool::Confirmed(id, offset));
                }
                hand_on(&self.streams.spooler, id, due);
            } else {
                self.transfers.accepted(id, stream.accepted());
            }
            self.streams.grant();
        }
        true
    }

    /// To be called about every 100 ms: what quick receivers have not confirmed by then goes to the disk.
    pub(in super::super) fn look_at_receivers(&mut self) {
        for (id, stream) in self.streams.sending.iter_mut().filter(|(_, stream)| stream.tail.is_on_disk()) {
            let (confirmed, supplied) = (stream.tail.confirmed(), stream.tail.supplied());
            let mut due = stream.ahead.look(confirmed, supplied).peekable();
            if due.peek().is_some() {
                let _ = self.streams.spooler.send(Spool::Confirmed(*id, confirmed));
            }
            hand_on(&self.streams.spooler, *id, due);
        }
    }

    /// News of a pipe, if it is a writer's; gives them back if not.
    pub(super) fn writer_news(&mut self, pipe: PipeId, news: News) -> Option<News> {
        let most = self.streams.tail_bytes();
        let Some((&id, stream)) = self.streams.sending.iter_mut().find(|(_, stream)| stream.pipe == pipe) else {
            return Some(news);
        };
        let head = stream.tail.head();
        let reason = match news {
            News::Read(bytes) => {
                let new = stream.writer.news(&bytes);
                if let Err(failure) = stream.writer.check(head + new.len() as u64) {
                    self.give_up(id, failure);
                    return None;
                }
                let new = bytes.slice(bytes.len() - new.len()..);
                if stream.tail.is_on_disk() && !new.is_empty() {
                    stream.ahead.push(new.clone());
                    hand_on(&self.streams.spooler, id, stream.ahead.due(stream.tail.confirmed()));
                }
                stream.tail.push(new, most);
                self.transfers.spooled(id, stream.tail.unconfirmed());
                self.streams.grant();
                return None;
            }
            News::Ended if stream.said == Some(head) => {
                if stream.tail.is_on_disk() {
                    hand_on(&self.streams.spooler, id, stream.ahead.all());
                    // Its hash is there, and the end is said when all of it is on the disk.
                    self.streams.spool(Spool::End(id));
                } else {
                    self.whole(id, None);
                }
                return None;
            }
            // The program before it has said all of it.
            _ if stream.tail.size().is_some() => return None,
            News::Ended => {
                format!("the writing program went away after {head} bytes without saying that this is the end")
            }
            // What it has written is read as there is room; whether that is all shows at the end.
            News::HungUp if stream.said.is_some() => return None,
            News::HungUp => {
                format!("the writing program went away without saying the end; {head} bytes of it were read")
            }
            News::Broken(reason) => reason,
            News::Wrote(_) => return None,
        };
        self.writer_gone(id, reason);
        None
    }

    /// News of a stream's segments.
    pub(in super::super) fn spool_news(&mut self, id: TransferId, news: Spooled) {
        let most = self.streams.tail_bytes();
        let Some(stream) = self.streams.sending.get_mut(&id) else { return };
        match news {
            Spooled::Spooled { appended, synced, room } => {
                stream.tail.spooled(appended, synced, room, most);
                self.transfers.accepted(id, stream.accepted());
                self.streams.grant();
            }
            Spooled::Back(offset, data) => stream.tail.read_back(offset, data),
            Spooled::Ended(size, digest) => {
                // Its receiver hears of it when a new start would know: a writer that was told `done` does not come again.
                self.kept.stream_end(id, size, digest);
            }
            Spooled::Lost(reason) => self.give_up(id, Failure::new(FailCode::Storage, reason)),
        }
    }

    /// The writer has said its end, and all of it is here.
    fn whole(&mut self, id: TransferId, end: Option<(u64, [u8; 32])>) {
        if let Some(stream) = self.streams.sending.get_mut(&id)
            && let Some((size, _)) = stream.tail.end(end)
        {
            self.transfers.size(id, size);
        }
    }

    /// Supply a piece of each stream whose turn it is, and have read back what is not in memory.
    pub(in super::super) fn supply_streams(&mut self) -> bool {
        let mut steps = Vec::new();
        for (id, stream) in &mut self.streams.sending {
            // Back-pressure: for a worker that does not keep up nothing is taken out of the spool.
            if !self.backlog[stream.worker].is_empty() {
                continue;
            }
            if let Some((offset, most)) = stream.tail.wants() {
                // The thread lives as long as the gateway.
                let _ = self.streams.spooler.send(Spool::Read(*id, offset, most));
            }
            if stream.tail.is_ready() {
                steps.extend(stream.tail.step().map(|command| (stream.worker, command)));
            }
        }
        let any = !steps.is_empty();
        for (worker, command) in steps {
            self.tell_worker(worker, ToWorker::Engine(command));
        }
        any
    }
}
