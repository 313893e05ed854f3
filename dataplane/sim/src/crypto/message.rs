//! Handshake messages: kind (1 byte), body length (3 bytes, as in TLS), then fields of a 2-byte length and bytes.

use quinn_proto::TransportError;

use super::{alert, failure};

/// Longest message taken in; longer than any that is sent, far below quinn-proto's buffer for handshake bytes.
const MAX_BODY_BYTES: usize = 16 << 10;
const HEADER_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ClientHello = 1,
    ServerHello = 2,
    ServerFlight = 3,
    ClientFlight = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::ClientHello, Self::ServerHello, Self::ServerFlight, Self::ClientFlight]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A message in the bytes that hold it.
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    pub(super) body: &'a [u8],
    /// With its header, for the transcript.
    pub(super) whole: &'a [u8],
}

/// The next complete message of `rest`, or `None` until more bytes come.
pub(super) fn take_message<'a>(rest: &mut &'a [u8]) -> Result<Option<Message<'a>>, TransportError> {
    let Some((&[kind, high, middle, low], after)) = rest.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let kind = Kind::from_byte(kind).ok_or_else(|| failure(alert::DECODE_ERROR, "unknown handshake message"))?;
    let len = u32::from_be_bytes([0, high, middle, low]) as usize;
    if len > MAX_BODY_BYTES {
        return Err(failure(alert::DECODE_ERROR, "handshake message too long"));
    }
    let Some((body, behind)) = after.split_at_checked(len) else {
        return Ok(None);
    };
    let whole = &rest[..HEADER_BYTES + len];
    *rest = behind;
    Ok(Some(Message { kind, body, whole }))
}

/// Append a message. Fields are names, parameters and fillers of our own, all far shorter than 64 KiB.
pub(super) fn write_message(kind: Kind, fields: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = fields.iter().map(|field| 2 + field.len()).sum();
    out.extend_from_slice(&(((kind as u32) << 24) | len as u32).to_be_bytes());
    for field in fields {
        out.extend_from_slice(&(field.len() as u16).to_be_bytes());
        out.extend_from_slice(field);
    }
}

/// The fields of a body, one after the other.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], TransportError> {
        let cut = || failure(alert::DECODE_ERROR, "handshake message cut short");
        let (len, rest) = self.0.split_first_chunk::<2>().ok_or_else(cut)?;
        let (field, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into()).ok_or_else(cut)?;
        self.0 = rest;
        Ok(field)
    }

    pub(super) fn text(&mut self) -> Result<String, TransportError> {
        let bytes = self.bytes()?.to_vec();
        String::from_utf8(bytes).map_err(|_| failure(alert::DECODE_ERROR, "a name is not UTF-8"))
    }

    pub(super) fn end(self) -> Result<(), TransportError> {
        if self.0.is_empty() { Ok(()) } else { Err(failure(alert::DECODE_ERROR, "bytes after the last field")) }
    }
}
