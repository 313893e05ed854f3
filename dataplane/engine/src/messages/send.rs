//! Own messages on their way to a peer.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::{Connection, Dir, StreamId, VarInt, WriteError};

use super::{MAX_WAITING, MAX_WAITING_BYTES, Messages, STREAM_HEADER_BYTES};
use crate::api::{Event, MAX_MESSAGE_BYTES};
use crate::time::Nanos;

/// A message that is not acknowledged.
pub(super) struct Waiting {
    pub(super) payload: Bytes,
    pub(super) since: Nanos,
    /// The reliable copy's stream on this connection, and bytes of it written (header included).
    pub(super) copy: Option<(StreamId, usize)>,
}

impl Waiting {
    fn is_copied(&self) -> bool {
        self.copy.is_some_and(|(_, written)| written == STREAM_HEADER_BYTES + self.payload.len())
    }
}

impl Messages {
    pub(crate) fn send(&mut self, now: Nanos, id: u64, payload: Bytes, events: &mut VecDeque<Event>) {
        let refusal = if payload.len() > MAX_MESSAGE_BYTES {
            Some(format!("the message has {} bytes, the limit is {MAX_MESSAGE_BYTES}", payload.len()))
        } else if self.waiting.contains_key(&id) {
            Some(format!("message {id} is on its way already"))
        } else if self.waiting.len() >= MAX_WAITING || self.waiting_bytes + payload.len() > MAX_WAITING_BYTES {
            Some(format!(
                "{} messages of {} bytes wait for this peer, which is the limit",
                self.waiting.len(),
                self.waiting_bytes
            ))
        } else {
            None
        };
        if let Some(reason) = refusal {
            events.push_back(Event::MessageFailed { id, reason });
            return;
        }
        self.waiting_bytes += payload.len();
        self.waiting.insert(id, Waiting { payload, since: now, copy: None });
        self.datagrams.push_back(id);
    }

    pub(super) fn acknowledged(&mut self, now: Nanos, quic: &mut Connection, id: u64, events: &mut VecDeque<Event>) {
        let Some(waiting) = self.forget(id) else { return };
        if let Some((stream, _)) = waiting.copy.filter(|_| !waiting.is_copied()) {
            // Nobody needs the rest of the copy.
            let _ = quic.send_stream(stream).reset(VarInt::from_u32(0));
        }
        events.push_back(Event::MessageAcked { id, rtt: now.since(waiting.since) });
    }

    /// The peer stops reading the copy: no acknowledgement may be hoped for.
    pub(super) fn refused(&mut self, id: u64, events: &mut VecDeque<Event>) {
        if self.forget(id).is_some() {
            let reason = "the peer refuses the message's reliable copy".to_owned();
            events.push_back(Event::MessageFailed { id, reason });
        }
    }

    fn forget(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.waiting_bytes -= waiting.payload.len();
        Some(waiting)
    }
}

pub(super) enum Copied {
    Part,
    Whole(StreamId),
    /// Flow control or the limit of streams; an event will tell.
    Blocked,
    /// The peer does not want it.
    Refused,
}

pub(super) fn write_copy(id: u64, waiting: &mut Waiting, quic: &mut Connection, limit: usize) -> Copied {
    let (stream, before) = match waiting.copy {
        Some(copy) => copy,
        None => match quic.streams().open(Dir::Uni) {
            Some(stream) => (stream, 0),
            None => return Copied::Blocked,
        },
    };
    let mut written = before;
    let result = write_part(id, &waiting.payload, &mut written, quic, stream, limit);
    waiting.copy = Some((stream, written));
    if let Err(WriteError::Stopped(_) | WriteError::ClosedStream) = result {
        // A stopped stream counts against the peer's limit of streams until it is reset.
        let _ = quic.send_stream(stream).reset(VarInt::from_u32(0));
        waiting.copy = None;
        return Copied::Refused;
    }
    if waiting.is_copied() {
        let _ = quic.send_stream(stream).finish();
        Copied::Whole(stream)
    } else if written > before {
        Copied::Part
    } else {
        Copied::Blocked
    }
}

fn write_part(
    id: u64,
    payload: &Bytes,
    written: &mut usize,
    quic: &mut Connection,
    stream: StreamId,
    limit: usize,
) -> Result<(), WriteError> {
    let before = *written;
    let mut send = quic.send_stream(stream);
    if *written < STREAM_HEADER_BYTES {
        *written += send.write(&id.to_be_bytes()[*written..])?;
    }
    let room = limit - (*written - before);
    if let Some(from) = written.checked_sub(STREAM_HEADER_BYTES)
        && from < payload.len()
        && room > 0
    {
        let mut piece = [payload.slice(from..payload.len().min(from + room))];
        *written += send.write_chunks(&mut piece)?.bytes;
    }
    Ok(())
}
