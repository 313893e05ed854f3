//! Trace: which nodes a path goes through, one TTL at a time.

use super::{Reader, WIRE_VERSION, Writer, start};
use crate::ParseError;

/// Longest node name in a trace reply, bytes: a DNS label.
pub const MAX_NAME_BYTES: usize = 63;

/// Sent with a small TTL on LSE 0; the node where it expires, or the path's end, replies along the backward label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRequest {
    /// Chosen by the asker, returned in the reply.
    pub token: u64,
    /// The asker's clock, nanoseconds, returned in the reply.
    pub sent_ns: u64,
    /// The TTL that the asker sent it with, hops.
    pub hop: u8,
}

impl TraceRequest {
    /// Length of a body of our version.
    pub const LEN: usize = 18;

    /// Reads a body.
    ///
    /// # Errors
    /// `TooShort`, `TrailingBytes`, `WireVersion`.
    #[inline(always)]
    pub fn parse(message: &[u8]) -> Result<TraceRequest, ParseError> {
        let (_, known) = start(message, Self::LEN)?;
        let mut fields = Reader(known);
        let hop = fields.u8()?;
        Ok(TraceRequest { hop, token: fields.u64()?, sent_ns: fields.u64()? })
    }

    /// Writes a body of our version; its length, or `None` (buffer untouched) if the buffer is shorter than
    /// [`LEN`](Self::LEN).
    #[inline(always)]
    #[must_use]
    pub fn write(&self, buf: &mut [u8]) -> Option<usize> {
        let mut out = Writer(buf.get_mut(..Self::LEN)?);
        out.u8(WIRE_VERSION)?;
        out.u8(self.hop)?;
        out.u64(self.token)?;
        out.u64(self.sent_ns)?;
        Some(Self::LEN)
    }
}

/// What the replying node is on the traced path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// The TTL ended here.
    Transit = 1,
    /// The path ends here.
    Egress = 2,
}

/// Answer to a [`TraceRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceReply<'a> {
    /// From the request.
    pub token: u64,
    /// From the request: the asker's clock, nanoseconds.
    pub sent_ns: u64,
    /// From the request, hops.
    pub hop: u8,
    /// What the replying node is.
    pub role: Role,
    /// Its name: printable ASCII without spaces, at most [`MAX_NAME_BYTES`].
    pub name: &'a str,
}

impl<'a> TraceReply<'a> {
    /// Length of a body of our version with an empty name.
    pub const MIN_LEN: usize = 20;
    /// Length of the longest body of our version: a buffer of this size always suffices.
    pub const LEN: usize = Self::MIN_LEN + MAX_NAME_BYTES;

    /// Reads a body; the name is borrowed from it.
    ///
    /// # Errors
    /// `TooShort`, `TrailingBytes`, `WireVersion`, `FieldRange` (unknown role, a name too long or not printable: it ends
    /// on an operator's terminal).
    pub fn parse(message: &'a [u8]) -> Result<TraceReply<'a>, ParseError> {
        let name_len = usize::from(*message.get(3).ok_or(ParseError::TooShort)?);
        let (_, known) = start(message, Self::MIN_LEN + name_len)?;
        let mut fields = Reader(known);
        let hop = fields.u8()?;
        let role = match fields.u8()? {
            1 => Role::Transit,
            2 => Role::Egress,
            _ => return Err(ParseError::FieldRange),
        };
        fields.u8()?;
        let token = fields.u64()?;
        let sent_ns = fields.u64()?;
        let name = printable(fields.0.get(..name_len).ok_or(ParseError::TooShort)?).ok_or(ParseError::FieldRange)?;
        Ok(TraceReply { token, sent_ns, hop, role, name })
    }

    /// Writes a body of our version; its length, or `None` (buffer untouched) if the buffer is shorter than that
    /// or the name is not one that [`parse`](Self::parse) would accept.
    #[must_use]
    pub fn write(&self, buf: &mut [u8]) -> Option<usize> {
        let name = printable(self.name.as_bytes())?.as_bytes();
        let len = Self::MIN_LEN + name.len();
        let mut out = Writer(buf.get_mut(..len)?);
        out.u8(WIRE_VERSION)?;
        out.u8(self.hop)?;
        out.u8(self.role as u8)?;
        out.u8(name.len() as u8)?;
        out.u64(self.token)?;
        out.u64(self.sent_ns)?;
        out.put(name)?;
        Some(len)
    }
}

/// A node name that may be shown as it is: at most 63 bytes of visible ASCII.
fn printable(name: &[u8]) -> Option<&str> {
    if name.len() > MAX_NAME_BYTES || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    core::str::from_utf8(name).ok()
}
