//! Alarm: a node tells the ends of a path that a link of it was lost or regained.

use super::{Reader, Writer, start};
use crate::ParseError;

/// What an alarm says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AlarmKind {
    /// A link of this path was lost: stop the connection's clock.
    Down = 1,
    /// It is back: go on.
    Up = 2,
}

/// Reason codes of an alarm. A receiver shows an unknown code as its number.
pub mod alarm_reason {
    /// Nothing in particular; also the reason of every `Up`.
    pub const NONE: u8 = 0;
    /// Liveness timed out.
    pub const LIVENESS: u8 = 1;
    /// The operator took the link down.
    pub const ADMIN: u8 = 2;
    /// The interface lost its carrier, or the next hop is not resolved.
    pub const CARRIER: u8 = 3;
    /// The neighbour says that it does not hear us.
    pub const REMOTE: u8 = 4;
    /// Outside a contact of the contact plan.
    pub const CONTACT: u8 = 5;
}

/// A node that lost or regained a link says so along the backward labels of the paths over it (RFC 6427 shape).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// Version of the sender.
    pub version: u8,
    /// Lost or regained.
    pub kind: AlarmKind,
    /// Rises with each change at that node; an older one is ignored.
    pub sequence: u32,
    /// Which node says so: a hash of its name.
    pub node: u64,
    /// Why, one of [`alarm_reason`].
    pub reason: u8,
}

impl Alarm {
    /// Length of a body of our version.
    pub const LEN: usize = 15;

    /// Reads a body.
    ///
    /// # Errors
    /// `TooShort`, `TrailingBytes`, `WireVersion`, `FieldRange` (unknown kind).
    #[inline(always)]
    pub fn parse(message: &[u8]) -> Result<Alarm, ParseError> {
        let (version, known) = start(message, Self::LEN)?;
        let mut fields = Reader(known);
        let kind = match fields.u8()? {
            1 => AlarmKind::Down,
            2 => AlarmKind::Up,
            _ => return Err(ParseError::FieldRange),
        };
        let reason = fields.u8()?;
        Ok(Alarm { version, kind, reason, sequence: fields.u32()?, node: fields.u64()? })
    }

    /// Writes a body; its length, or `None` (buffer untouched) if the buffer is shorter than [`LEN`](Self::LEN).
    #[inline(always)]
    #[must_use]
    pub fn write(&self, buf: &mut [u8]) -> Option<usize> {
        let mut out = Writer(buf.get_mut(..Self::LEN)?);
        out.u8(self.version)?;
        out.u8(self.kind as u8)?;
        out.u8(self.reason)?;
        out.u32(self.sequence)?;
        out.u64(self.node)?;
        Some(Self::LEN)
    }
}
