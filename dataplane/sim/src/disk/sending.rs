//! What is sent from a node: files read in place, streams through segments, and the programs that write these.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::{Command, Event, FailCode, Failure, Kept, TransferId};
use florelay_engine::time::Nanos;
use florelay_spool::book::{Book, Change, OwnTransfer, Source};
use florelay_spool::outgoing::Outgoing;
use florelay_spool::segments::Segments;
use florelay_spool::spooled::{News, Spooled};
use florelay_spool::storage::{Open, Storage as _};
use florelay_spool::tail::Tail;

use super::file_out::FileOut;
use super::keeping::{PEER_NAME, Then};
use super::process::Process;
use super::{DiskGateway, Told};
use crate::gateway::{Pace, content, file_meta, stream_meta};

/// Confirmed or hashed bytes after which the book is told; less than the dataplane's, as all transfers are small here.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Most bytes that a writer keeps because they are not accepted.
const PUMP_BYTES: u64 = 96 << 10;
/// Of a stream that is on disk so much stays in memory, so that some is read back.
const TAIL_BYTES: u64 = 40 << 10;
/// Bytes that may be read from a program before its segments are there.
const GRANT_BYTES: u64 = 32 << 10;
/// A program that is held back tries again this often.
const WRITE_AGAIN: Duration = Duration::from_millis(5);
/// What a program whose order was forgotten takes to come again, at most.
const ORDER_AGAIN: Duration = Duration::from_millis(1500);

/// Who has asked for a transfer; outlives the node.
#[derive(Debug)]
pub struct Program {
    size: u64,
    /// What it was told.
    pub told: Told,
    writer: Option<Writer>,
    order_at: Option<Nanos>,
    /// How often it was told to begin anew, because the book had not got its order.
    pub forgotten: u64,
    /// How often its writer had no room.
    pub held_back: u64,
    /// Bytes that were confirmed were asked for.
    pub asked_again: bool,
}

/// A program that writes a stream; it keeps what was not accepted.
#[derive(Debug)]
struct Writer {
    pace: Pace,
    /// Next byte for the pipe.
    position: u64,
    write_at: Option<Nanos>,
}

impl Program {
    pub(super) fn file(size: u64) -> Self {
        Self {
            size,
            told: Told::default(),
            writer: None,
            order_at: None,
            forgotten: 0,
            held_back: 0,
            asked_again: false,
        }
    }

    pub(super) fn stream(size: u64, pace: Pace) -> Self {
        let writer = Some(Writer { pace, position: 0, write_at: None });
        Self { writer, ..Self::file(size) }
    }

    /// It writes a stream.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.writer.is_some()
    }

    /// Bytes of it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// A stream that is sent.
#[derive(Debug)]
pub(super) struct Sending {
    tail: Tail,
    booked: bool,
    /// Its writer has said the end.
    said: bool,
}

impl Sending {
    fn accepted(&self) -> u64 {
        if self.booked { self.tail.accepted() } else { 0 }
    }
}

/// What the spool's thread is to do.
#[derive(Debug)]
pub(super) enum SpoolOrder {
    New(TransferId),
    Found(TransferId, Box<Segments>),
    Append(TransferId, Bytes),
    Confirmed(TransferId, u64),
    Read(TransferId, u64, usize),
    End(TransferId),
    Remove(TransferId),
}

impl SpoolOrder {
    pub(super) fn carry_out(self, streams: &mut BTreeMap<TransferId, Spooled>) {
        match self {
            Self::New(id) => drop(streams.insert(id, Spooled::new(id, None))),
            Self::Found(id, segments) => drop(streams.insert(id, Spooled::new(id, Some(*segments)))),
            // What cannot be removed is swept at the next start.
            Self::Remove(id) => drop(streams.remove(&id).map(Spooled::remove)),
            Self::Append(id, bytes) => streams.entry(id).and_modify(|stream| stream.append(bytes)).finish(),
            Self::Confirmed(id, offset) => streams.entry(id).and_modify(|stream| stream.confirm(offset)).finish(),
            Self::Read(id, from, most) => streams.entry(id).and_modify(|stream| stream.read(from, most)).finish(),
            Self::End(id) => streams.entry(id).and_modify(Spooled::end).finish(),
        }
    }
}

/// For chains that give nothing.
trait Finish {
    fn finish(self);
}

impl<T> Finish for T {
    fn finish(self) {}
}

/// Where a file is that is sent.
pub(super) fn path_of(id: TransferId) -> PathBuf {
    format!("files/{:032x}", id.0).into()
}

impl DiskGateway {
    /// The user's order reaches the gateway.
    pub(super) fn order(&mut self, now: Nanos, id: TransferId, commands: &mut Vec<Command>) {
        let delay = self.delay();
        let (Some(program), Some(process)) = (self.programs.get_mut(&id), &mut self.process) else { return };
        program.order_at = None;
        let (source, meta) = match &mut program.writer {
            None => {
                let opened = self.files.open(&path_of(id), Open::Existing).expect("it was put there");
                let file = Outgoing::new(opened).expect("a regular file");
                let source = Source::File {
                    path: Some(path_of(id).into_os_string().into_encoded_bytes()),
                    identity: file.identity(),
                    hash: file.state(),
                };
                process.outgoing.insert(id, FileOut::new(file));
                (source, file_meta(id, program.size, 0))
            }
            Some(writer) => {
                (writer.position, writer.write_at) = (0, Some(now + delay));
                let tail = Tail::on_disk(id, 0, 0, GRANT_BYTES);
                process.sending.insert(id, Sending { tail, booked: false, said: false });
                (Source::Stream { end: None, linger_ns: 0 }, stream_meta(id, None))
            }
        };
        let own = OwnTransfer {
            id: id.0,
            peer: PEER_NAME.into(),
            name: meta.name.clone(),
            source,
            size: meta.size,
            priority: 0,
            attributes: Vec::new(),
            deadline_unix_ns: None,
            started_unix_ns: 0,
            held: false,
            begun: false,
            order: 0,
            confirmed: 0,
        };
        process.own.insert(id, own.clone());
        if meta.size.is_none() {
            self.spool(now, SpoolOrder::New(id));
        }
        self.note(now, Change::Own(own), Then::Synced(id, 0));
        self.change_own(now, id, |own| own.begun = true);
        commands.push(Command::Send { peer: self.peer, id, meta, kept: Kept::default() });
    }

    /// Begin a run of the gateway; `false` = its disk did not let it.
    pub(super) fn start(&mut self, now: Nanos, commands: &mut Vec<Command>) -> bool {
        let before = commands.len();
        for program in self.programs.values_mut() {
            program.order_at = None;
            if let Some(writer) = &mut program.writer {
                writer.write_at = None;
            }
        }
        let Ok((book, contents)) = Book::open(Arc::new(self.state.clone()), "transfers.redb".into()) else {
            return false;
        };
        assert!(contents.set_aside.is_none(), "the book was damaged");
        // A file that was renamed just before a kill counts as arrived from here on.
        if self.inbox.sync_folder("inbox".as_ref()).is_err() {
            return false;
        }
        let place = self.place();
        let _ = place.sweep(|id| contents.own.iter().any(|own| own.id == id.0));
        self.process = Some(Process::new(book, place));
        self.recall(now, contents.incoming, &contents.ended);
        for own in contents.own {
            self.recover(now, own, commands);
        }
        if self.is_dead() {
            commands.truncate(before);
            return false;
        }
        let known: Vec<TransferId> = self.process.iter().flat_map(|process| process.own.keys().copied()).collect();
        for (id, program) in &mut self.programs {
            let ended = program.told.result().is_some();
            match (known.contains(id), ended) {
                (true, true) => program.told.comes_again(),
                (false, false) => {
                    assert_eq!(program.told.accepted(), 0, "{id:?}: accepted, and forgotten");
                    program.forgotten += 1;
                    if program.is_stream() {
                        // Its writer has all of it, and its reader hears that it was forgotten.
                        program.told = Told::default();
                    }
                    let after = ORDER_AGAIN.mul_f64(f64::from(u32::from(self.boot % 3 == 1)));
                    program.order_at = Some(now + after);
                }
                _ => {}
            }
        }
        true
    }

    /// A transfer that was under way goes on.
    fn recover(&mut self, now: Nanos, own: OwnTransfer, commands: &mut Vec<Command>) {
        let id = TransferId(own.id);
        let Some(program) = self.programs.get_mut(&id) else { panic!("{id:?} was never asked for") };
        let Some(process) = &mut self.process else { return };
        let (kept, meta) = match &own.source {
            Source::File { identity, hash, .. } => {
                let opened = self.files.open(&path_of(id), Open::Existing).expect("it was put there");
                let file = Outgoing::resume(opened, identity, hash).expect("the same file");
                process.outgoing.insert(id, FileOut::new(file));
                (Kept { confirmed: own.confirmed, head: identity.size }, file_meta(id, program.size, 0))
            }
            Source::Stream { end, .. } => {
                let segments = match process.place.recover(id, own.confirmed) {
                    Ok(segments) => segments,
                    Err(_) if self.state.is_dead() => return,
                    Err(error) => {
                        let result = Err(error.failure());
                        // One whose end the book did not get before the node was gone is told of twice (limits).
                        if program.told.result().is_none() {
                            program.told.end(id, result.clone());
                        }
                        self.note(now, Change::OwnGone(id.0), Then::Nobody);
                        return self.note_end(now, id, true, None, &result);
                    }
                };
                let (head, confirmed) = (segments.head(), segments.confirmed());
                assert!(end.is_none_or(|(size, _)| size == head), "{id:?}: {end:?} is booked, and {head} are here");
                let mut tail = Tail::on_disk(id, confirmed, head, segments.room());
                tail.end(*end);
                let writer = program.writer.as_mut().unwrap_or_else(|| panic!("{id:?} is a file"));
                // It goes on with what was accepted, and must still have it.
                let accepted = tail.accepted();
                assert!(accepted <= writer.position.max(program.told.accepted()), "{id:?}: {accepted} accepted");
                program.told.accept(id, accepted);
                writer.position = accepted;
                writer.write_at = (tail.size().is_none() && program.told.result().is_none()).then_some(now);
                process.sending.insert(id, Sending { said: tail.size().is_some(), tail, booked: true });
                process.spool_orders.push_back(SpoolOrder::Found(id, Box::new(segments)));
                process.spool_due = Some(now);
                (Kept { confirmed: confirmed.min(head), head }, stream_meta(id, None))
            }
        };
        // One that had not begun is sent as if it was new.
        let kept = if own.begun { kept } else { Kept::default() };
        process.own.insert(id, own);
        commands.push(Command::Send { peer: self.peer, id, meta, kept });
        self.change_own(now, id, |own| own.begun = true);
    }

    pub(super) fn sending_event(&mut self, now: Nanos, id: TransferId, event: &Event) {
        let (Some(program), Some(process)) = (self.programs.get_mut(&id), &mut self.process) else { return };
        let stream = process.sending.get_mut(&id);
        match event {
            Event::SupplyFrom { offset, .. } => {
                program.asked_again |= *offset < program.told.confirmed();
            }
            Event::Confirmed { offset, .. } => program.told.confirm(*offset),
            Event::TransferEnded { result, .. } => {
                program.told.end(id, result.clone());
                if let Some(writer) = &mut program.writer {
                    writer.write_at = None;
                }
                let file = process.outgoing.remove(&id);
                process.own.remove(&id);
                process.sending.remove(&id);
                // Its segments go when the book has forgotten it.
                self.note(now, Change::OwnGone(id.0), Then::Gone(id));
                return self.note_end(now, id, true, file.and_then(|file| file.file.digest()), result);
            }
            _ => {}
        }
        let mut hash = None;
        match (stream, process.outgoing.get_mut(&id)) {
            (Some(stream), _) => stream.tail.handle(event, TAIL_BYTES),
            (None, Some(file)) => {
                file.event(event);
                hash = Some(file.file.state());
            }
            (None, None) => {}
        }
        if let Event::Confirmed { offset, .. } = *event {
            let due = |own: &OwnTransfer| offset >= own.confirmed + PROGRESS_BYTES;
            if process.own.get(&id).is_some_and(due) {
                self.change_own(now, id, |own| {
                    own.confirmed = offset;
                    if let (Source::File { hash: of_book, .. }, Some(hash)) = (&mut own.source, hash) {
                        *of_book = hash;
                    }
                });
            }
            if self.programs[&id].is_stream() {
                self.spool(now, SpoolOrder::Confirmed(id, offset));
            }
        }
    }

    /// Supply what can be, and have read back what is not in memory.
    pub(super) fn supply(&mut self, commands: &mut Vec<Command>) {
        let Some(process) = &mut self.process else { return };
        for (&id, file) in &mut process.outgoing {
            while file.is_ready() {
                match file.step(id) {
                    Ok(command) => commands.extend(command),
                    Err(failure) => {
                        file.flowing = false;
                        commands.push(Command::Cancel { id, failure });
                    }
                }
            }
        }
        for (&id, stream) in &mut process.sending {
            while stream.tail.is_ready() {
                commands.extend(stream.tail.step());
            }
            if let Some((offset, most)) = stream.tail.wants() {
                process.spool_orders.push_back(SpoolOrder::Read(id, offset, most));
                process.read_wanted = true;
            }
        }
    }

    /// Programs write, as far as there is room and they may keep what is not accepted; those that were forgotten come again.
    pub(super) fn write_streams(&mut self, now: Nanos) {
        if self.process.as_mut().is_some_and(|process| std::mem::take(&mut process.read_wanted)) {
            let delay = self.delay();
            if let Some(process) = &mut self.process {
                let at = now + delay;
                process.spool_due = Some(process.spool_due.map_or(at, |due| due.min(at)));
            }
        }
        let mut orders = Vec::new();
        for (&id, program) in &mut self.programs {
            let Some(process) = &mut self.process else { return };
            let (Some(writer), Some(stream)) = (&mut program.writer, process.sending.get_mut(&id)) else { continue };
            if stream.said || writer.write_at.is_none_or(|at| at > now) {
                continue;
            }
            let (head, accepted) = (stream.tail.head(), program.told.accepted());
            assert!(accepted <= writer.position, "{id:?}: {accepted} accepted, {} written", writer.position);
            let left = program.size - writer.position;
            let window = PUMP_BYTES - (writer.position - accepted).min(PUMP_BYTES);
            // What is here already is passed over, so there is room for it.
            let room = head.saturating_sub(writer.position) + stream.tail.room();
            let take = left.min(writer.pace.bytes).min(window).min(room);
            let new = (writer.position + take).saturating_sub(head);
            if new > 0 {
                let data = Bytes::from(content(id, head, new as usize));
                stream.tail.push(data.clone(), TAIL_BYTES);
                orders.push(SpoolOrder::Append(id, data));
            }
            writer.position += take;
            program.held_back += u64::from(take == 0 && left > 0);
            writer.write_at = Some(now + writer.pace.interval.max(WRITE_AGAIN));
            if take == left {
                (stream.said, writer.write_at) = (true, None);
                orders.push(SpoolOrder::End(id));
            }
        }
        for order in orders {
            self.spool(now, order);
        }
    }

    /// Programs whose orders were forgotten give them again.
    pub(super) fn order_again(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        let late = |program: &Program| program.order_at.is_some_and(|at| at <= now);
        let ids: Vec<_> = self.programs.iter().filter(|(_, program)| late(program)).map(|(id, _)| *id).collect();
        for id in ids {
            self.order(now, id, commands);
        }
    }

    pub(super) fn next_write(&self) -> Option<Nanos> {
        let write = |program: &Program| program.writer.as_ref().and_then(|writer| writer.write_at);
        self.programs
            .values()
            .filter_map(|program| [write(program), program.order_at].into_iter().flatten().min())
            .min()
    }

    pub(super) fn spool_news(&mut self, now: Nanos, id: TransferId, news: News, commands: &mut Vec<Command>) {
        let (Some(program), Some(process)) = (self.programs.get_mut(&id), &mut self.process) else { return };
        let Some(stream) = process.sending.get_mut(&id) else { return };
        match news {
            News::Spooled { appended, synced, room } => {
                stream.tail.spooled(appended, synced, room, TAIL_BYTES);
                program.told.accept(id, stream.accepted());
            }
            News::Back(offset, data) => {
                assert!(data == content(id, offset, data.len()), "{id:?}: other bytes are read back at {offset}");
                stream.tail.read_back(offset, data);
            }
            News::Ended(size, digest) => {
                assert_eq!(size, program.size, "{id:?}");
                // Its receiver hears of it when the book has it.
                let Some(own) = process.own.get_mut(&id) else { return };
                if let Source::Stream { end, .. } = &mut own.source {
                    *end = Some((size, digest));
                }
                let own = own.clone();
                self.note(now, Change::Own(own), Then::Synced(id, 0));
            }
            News::Lost(reason) => {
                commands.push(Command::Cancel { id, failure: Failure::new(FailCode::Storage, reason) });
            }
        }
    }

    /// The book has a new order; or, said of one that it has already, its end.
    pub(super) fn own_booked(&mut self, id: TransferId) {
        let (Some(process), Some(program)) = (&mut self.process, self.programs.get_mut(&id)) else { return };
        let Some(stream) = process.sending.get_mut(&id) else { return };
        if !std::mem::replace(&mut stream.booked, true) {
            program.told.accept(id, stream.accepted());
        } else if let Some(Source::Stream { end, .. }) = process.own.get(&id).map(|own| &own.source) {
            stream.tail.end(*end);
        }
    }
}
