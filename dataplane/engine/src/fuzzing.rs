//! Ways in for the fuzz targets (`fuzz/targets`): parsers that have no other public caller, and a peer that says what it
//! likes. Not an interface; nothing else may use it.

use quinn_proto::Connection;

use crate::Engine;
use crate::api::TransferId;
use crate::config::PeerId;
use crate::port::FrameBuf;
use crate::session::{Message, OfferedMeta, Session};
use crate::transport::Lane;

/// What a session made of a stream of bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Each message it took, framed again.
    pub messages: Vec<Vec<u8>>,
    /// Why it stopped.
    pub error: Option<String>,
}

/// Give a session the bytes in pieces of these lengths, over and over; all at once if there are none.
#[must_use]
pub fn session(bytes: &[u8], pieces: &[usize]) -> Read {
    let mut session = Session::default();
    let mut read = Read { messages: Vec::new(), error: None };
    let mut rest = bytes;
    let mut pieces = pieces.iter().copied().cycle();
    while !rest.is_empty() && read.error.is_none() {
        let take = pieces.next().unwrap_or(rest.len()).clamp(1, rest.len());
        session.deliver(&rest[..take]);
        rest = &rest[take..];
        loop {
            match session.next() {
                Ok(Some(message)) => read.messages.push(framed(&message)),
                Ok(None) => break,
                Err(error) => {
                    read.error = Some(error.to_string());
                    break;
                }
            }
        }
    }
    read
}

/// Kinds of session messages that [`message`] writes: each by its number, then a plain offer of a stream.
pub const KINDS: u8 = 14;

/// A session message as it travels; `kind` chooses which.
#[must_use]
pub fn message(kind: u8, id: TransferId, number: u64, text: &str) -> Vec<u8> {
    let id = id.0;
    framed(&match kind % KINDS {
        0 => {
            let [version, min_version, class, ..] = number.to_le_bytes();
            Message::Hello { version: version.into(), min_version: min_version.into(), class, node: text.to_owned() }
        }
        1 => {
            let attributes = vec![(text.to_owned(), text.to_owned()); usize::from(number as u8)];
            let meta = OfferedMeta { name: text.to_owned(), size: Some(number), priority: number as u8, attributes };
            Message::Offer { id, meta }
        }
        2 => Message::Accept { id, offset: number },
        3 => Message::Finish { id, size: number, digest: [number as u8; 32] },
        4 => Message::Confirm { id, offset: number },
        5 => Message::Done { id },
        6 => Message::Cancel { id, reason: text.to_owned() },
        7 => Message::OffersEnd { boot: number },
        8 => Message::Received { ids: (0..u64::from(number as u8)).map(|step| number.wrapping_add(step)).collect() },
        9 => Message::Credit { id, limit: number },
        10 => Message::Fail { id, code: number as u8, reason: text.to_owned() },
        12 => Message::Heard { id },
        stream => {
            let meta =
                OfferedMeta { name: text.to_owned(), size: None, priority: number as u8, attributes: Vec::new() };
            if stream == 11 { Message::OfferStream { id, meta, declared: number } } else { Message::Offer { id, meta } }
        }
    })
}

fn framed(message: &Message) -> Vec<u8> {
    let mut session = Session::default();
    session.push(message);
    session.take_outbox()
}

impl<F: FrameBuf> Engine<F> {
    /// Lets `act` do what it likes with the present connection to a peer, as a hostile program with this node's keys
    /// would. `false` if there is no such connection.
    #[doc(hidden)]
    pub fn with_connection(&mut self, peer: PeerId, bulk: bool, act: impl FnOnce(&mut Connection)) -> bool {
        let lane = if bulk { Lane::Bulk } else { Lane::Control };
        let Some(handle) = self.transport_mut().current(peer, lane) else { return false };
        let Some(conn) = self.transport_mut().conn(handle) else { return false };
        act(&mut conn.quic);
        self.touched(peer, handle, lane);
        true
    }

    /// From now on this node says no hello on its connections, as a program that has its keys and speaks only QUIC.
    #[doc(hidden)]
    pub fn mute(&mut self, mute: bool) {
        self.set_mute(mute);
    }
}
