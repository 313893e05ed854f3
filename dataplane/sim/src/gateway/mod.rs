//! The gateways of one simulated node: files out, files in, messages both ways; and the log of what the engine said.
//!
//! The content of a file and of a message follows from its id, so a receiver knows every byte that must come and
//! checks each as it comes. What the engine promises is asserted here, on the spot: bytes in order and exactly once,
//! limits that only grow, confirmations that never go back, one end per transfer, one delivery per message.

mod file;
mod message;
mod stream;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::{
    Command, DatagramClass, DatagramRefusal, Event, FailCode, Failure, Kept, LinkState, PeerState, TransferId,
    TransferMeta,
};
use florelay_engine::config::{LinkId, PathMemory, PeerId};
use florelay_engine::time::Nanos;

use crate::disk::DiskGateway;

pub use file::content;
pub use file::{FileSink, FileSource};
pub use message::{MessageInbox, MessageSender};
pub use stream::{Pace, StreamSink, StreamSource};

/// A datagram that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// From whom.
    pub peer: PeerId,
    /// Which application's.
    pub port: u16,
    /// How it came.
    pub class: DatagramClass,
    /// Its bytes.
    pub payload: Bytes,
}

/// All gateways of one node.
#[derive(Debug, Default)]
pub struct Gateway {
    /// Disks; then files, and the streams that are sent, are theirs and not `sources`', `sinks`' and `streams_out`'s.
    pub disk: Option<Box<DiskGateway>>,
    /// Files sent from here.
    pub sources: BTreeMap<TransferId, FileSource>,
    /// Files received here.
    pub sinks: BTreeMap<TransferId, FileSink>,
    /// Streams sent from here.
    pub streams_out: BTreeMap<TransferId, StreamSource>,
    /// Streams received here.
    pub streams_in: BTreeMap<TransferId, StreamSink>,
    /// How fast the readers of streams read.
    pub reading: Pace,
    /// Message flows sent from here.
    pub senders: Vec<MessageSender>,
    /// Datagrams received here.
    pub datagrams: Vec<(Nanos, Datagram)>,
    /// Own datagrams that were refused, and why.
    pub refused: Vec<DatagramRefusal>,
    /// Messages received here.
    pub inbox: MessageInbox,
    /// From a piece's arrival to its being written, and from the last piece to the end of the sync.
    pub write_delay: Duration,
    /// From a piece's being written to its being synced, of files that come and of streams that go.
    pub sync_delay: Duration,
    /// Writers of streams declare their size, and so many bytes more (or fewer) than they write.
    pub declare: Option<i64>,
    /// Received messages are not written while this holds.
    pub hold_messages: bool,
    /// States of links, as the engine told them.
    pub links: Vec<(Nanos, LinkId, LinkState)>,
    /// States of peers, as the engine told them.
    pub peers: Vec<(Nanos, PeerId, PeerState)>,
    /// What the engine has measured of paths, as it would be kept on a disk.
    pub paths: BTreeMap<PeerId, PathMemory>,
    /// Answers to traces: hop and node name.
    pub hops: Vec<(u8, Option<String>)>,
}

impl Gateway {
    /// Begin to send a file of `size` bytes whose content follows from `id`.
    pub fn send_file(&mut self, peer: PeerId, id: TransferId, size: u64, priority: u8) -> Command {
        let source = FileSource::new(id, size);
        assert!(self.sources.insert(id, source).is_none(), "{id:?} is sent twice");
        Command::Send { peer, id, meta: file_meta(id, size, priority), kept: Kept::default() }
    }

    /// Begin a stream of `size` bytes in all, which an application writes at this pace and only it knows.
    pub fn send_stream(&mut self, now: Nanos, peer: PeerId, id: TransferId, size: u64, pace: Pace) -> Command {
        let source = StreamSource::new(id, size, pace, self.sync_delay, now);
        assert!(self.streams_out.insert(id, source).is_none(), "{id:?} is sent twice");
        let meta = stream_meta(id, self.declared(size));
        Command::Send { peer, id, meta, kept: Kept::default() }
    }

    fn declared(&self, size: u64) -> Option<u64> {
        self.declare.map(|beyond| size.saturating_add_signed(beyond))
    }

    /// Begin a flow of `count` messages of `payload_bytes` (at least 16) to `peer`, the first at `start`.
    pub fn send_messages(
        &mut self,
        peer: PeerId,
        start: Nanos,
        interval: Duration,
        payload_bytes: usize,
        count: u64,
    ) -> usize {
        let index = self.senders.len();
        self.senders.push(MessageSender::new(index, peer, start, interval, payload_bytes, count));
        index
    }

    /// The engine said something; answers go to `commands`.
    pub fn handle(&mut self, now: Nanos, event: Event, commands: &mut Vec<Command>) {
        if let Some(disk) = &mut self.disk {
            if disk.handle(now, &event, commands) {
                return;
            }
            if let Event::Offered { id, .. } = &event {
                // Its reader heard that its sender had forgotten it; this is another one.
                let failed = |sink: &StreamSink| matches!(sink.result(), Some(Err(_)));
                if self.streams_in.get(id).is_some_and(failed) {
                    self.streams_in.remove(id);
                }
            }
        }
        if let Some(source) = event_of(&event).and_then(|id| self.streams_out.get_mut(&id)) {
            return source.handle(now, &event, commands);
        }
        match event {
            Event::SupplyFrom { id, offset } => self.source(id).supply_from(offset),
            Event::SupplyUpTo { id, limit } => self.source(id).supply_up_to(limit, commands),
            Event::Confirmed { id, offset } => self.source(id).confirmed(now, offset),
            Event::TransferEnded { id, result, wire_bytes } => {
                if let Some(source) = self.sources.get_mut(&id) {
                    source.ended(now, result, wire_bytes);
                } else if let Some(sink) = self.sinks.get_mut(&id) {
                    sink.ended(now, result);
                } else if let Some(sink) = self.streams_in.get_mut(&id) {
                    sink.ended(now, result);
                } else {
                    panic!("the end of an unknown transfer {id:?} at {now:?}: {result:?}");
                }
            }
            Event::Offered { id, meta: TransferMeta { size: None, .. }, .. } => {
                let pace = self.reading;
                self.streams_in.entry(id).or_insert_with(|| StreamSink::new(id, pace)).offered(commands);
            }
            Event::Offered { id, meta, .. } => {
                let (write, sync) = (self.write_delay, self.sync_delay);
                let sink = self.sinks.entry(id).or_insert_with(|| FileSink::new(id, write, sync));
                sink.offered(&meta, commands);
            }
            Event::Data { id, offset, data } => match self.streams_in.get_mut(&id) {
                Some(stream) => stream.data(now, offset, &data),
                None => self.sink(id).data(now, offset, &data),
            },
            Event::DataEnd { id, size, digest } => match self.streams_in.get_mut(&id) {
                Some(stream) => stream.data_end(size, digest),
                None => self.sink(id).data_end(now, size, digest),
            },
            Event::TransferShelved { id } => match self.streams_in.get_mut(&id) {
                Some(stream) => {
                    stream.ended(now, Err(Failure::new(FailCode::Forgotten, "its sender was restarted")));
                }
                None => self.sink(id).shelved(now),
            },
            Event::Message { peer, id, payload } => {
                self.inbox.received(now, peer, id, &payload);
                if !self.hold_messages {
                    commands.push(Command::MessageWritten { peer, id });
                }
            }
            Event::Datagram { peer, port, class, payload } => {
                self.datagrams.push((now, Datagram { peer, port, class, payload }));
            }
            Event::DatagramRefused { reason, .. } => self.refused.push(reason),
            Event::MessageAcked { id, rtt } => self.sender(id).acked(id, rtt),
            Event::MessageFailed { id, reason } => self.sender(id).failed(id, reason),
            Event::Link { link, state } => self.links.push((now, link, state)),
            Event::Peer { peer, state } => self.peers.push((now, peer, state)),
            Event::TraceHop { hop, node, .. } => self.hops.push((hop, node)),
            Event::GivenUp { .. } | Event::Heard { .. } => {}
            Event::Path { peer, memory } => drop(self.paths.insert(peer, memory)),
        }
    }

    /// Timers that are due by `now`.
    pub fn handle_timeout(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        for sink in self.sinks.values_mut() {
            sink.handle_timeout(now, commands);
        }
        for source in self.streams_out.values_mut() {
            source.handle_timeout(now, commands);
        }
        for sink in self.streams_in.values_mut() {
            sink.handle_timeout(now, commands);
        }
        for sender in &mut self.senders {
            sender.handle_timeout(now, commands);
        }
        if let Some(disk) = &mut self.disk {
            disk.handle_timeout(now, commands);
        }
    }

    /// When it wants to be called again.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Nanos> {
        let sinks = self.sinks.values().filter_map(FileSink::next_timeout);
        let streams = self.streams_out.values().filter_map(StreamSource::next_timeout);
        let streams = streams.chain(self.streams_in.values().filter_map(StreamSink::next_timeout));
        let streams = streams.chain(self.disk.as_ref().and_then(|disk| disk.next_timeout()));
        sinks.chain(streams).chain(self.senders.iter().filter_map(MessageSender::next_timeout)).min()
    }

    /// The node was restarted: what was not yet synced is gone, and transfers that are not through are offered anew.
    pub fn restarted(&mut self, now: Nanos, commands: &mut Vec<Command>, peer_of: impl Fn(TransferId) -> PeerId) {
        self.sinks.values_mut().for_each(FileSink::restarted);
        // The reader is a process of its own and has what it has read.
        self.streams_in.values_mut().for_each(StreamSink::restarted);
        for (&id, source) in self.sources.iter_mut().filter(|(_, source)| source.result().is_none()) {
            let (kept, meta) = (source.restarted(), file_meta(id, source.size(), 0));
            commands.push(Command::Send { peer: peer_of(id), id, meta, kept });
        }
        for (&id, source) in self.streams_out.iter_mut().filter(|(_, source)| source.result().is_none()) {
            let declared = self.declare.map(|beyond| source.size().saturating_add_signed(beyond));
            let (kept, meta) = (source.restarted(now), stream_meta(id, declared));
            commands.push(Command::Send { peer: peer_of(id), id, meta, kept });
        }
        if let Some(disk) = &mut self.disk {
            disk.restart(now, commands);
        }
    }

    /// Write the received messages that were held; from now on they are written at once.
    pub fn release_messages(&mut self, commands: &mut Vec<Command>) {
        if std::mem::take(&mut self.hold_messages) {
            commands.extend(self.inbox.ids().map(|(peer, id)| Command::MessageWritten { peer, id }));
        }
    }

    /// Is every file and stream sent or received here through, and well?
    #[must_use]
    pub fn files_done(&self) -> bool {
        let sources = self.sources.values().map(FileSource::result);
        let sources = sources.chain(self.streams_out.values().map(StreamSource::result));
        let sources = sources.chain(self.streams_in.values().map(StreamSink::result));
        sources.chain(self.sinks.values().map(FileSink::result)).all(|result| result == Some(&Ok(())))
    }

    fn source(&mut self, id: TransferId) -> &mut FileSource {
        self.sources.get_mut(&id).unwrap_or_else(|| panic!("{id:?} is not sent from here"))
    }

    fn sink(&mut self, id: TransferId) -> &mut FileSink {
        self.sinks.get_mut(&id).unwrap_or_else(|| panic!("{id:?} was not offered here"))
    }

    fn sender(&mut self, id: u64) -> &mut MessageSender {
        let found = self.senders.get_mut(message::sender_of(id));
        found.unwrap_or_else(|| panic!("message {id:x} was not sent from here"))
    }
}

pub(crate) fn file_meta(id: TransferId, size: u64, priority: u8) -> TransferMeta {
    let name = format!("{:x}.bin", id.0);
    TransferMeta { name, size: Some(size), declared: None, priority, attributes: Vec::new() }
}

pub(crate) fn stream_meta(id: TransferId, declared: Option<u64>) -> TransferMeta {
    let name = format!("{:x}.stream", id.0);
    TransferMeta { name, size: None, declared, priority: 0, attributes: Vec::new() }
}

/// The transfer that an event of a sender's is about.
fn event_of(event: &Event) -> Option<TransferId> {
    match *event {
        Event::SupplyFrom { id, .. }
        | Event::SupplyUpTo { id, .. }
        | Event::Confirmed { id, .. }
        | Event::TransferEnded { id, .. } => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
