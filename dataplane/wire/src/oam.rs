//! Bodies of the associated channels: liveness, alarm, trace request and reply.
//!
//! Each begins with the wire version of its sender. A body of our version or an older one has exactly its length; a body of
//! a newer version may be longer, and what is unknown of it is ignored, so that versions N and N−1 interoperate. New fields
//! are therefore only ever appended (in liveness: between the known fields and the tag, which is always last).
//!
//! | offset | liveness (68) | alarm (15) | trace request (18) | trace reply (20 + name) |
//! |---|---|---|---|---|
//! | 0 | version u8 | version u8 | version u8 | version u8 |
//! | 1 | min_version u8 | kind u8 | hop u8 | hop u8 |
//! | 2 | state u8 | reason u8 | token u64 | role u8 |
//! | 3 | detect_mult u8 | sequence u32 | | name_len u8 |
//! | 4 | my_interval_us u32 | | | token u64 |
//! | 7 | | node u64 | | |
//! | 8 | boot_id u64 | | | |
//! | 10 | | | sent_ns u64 | |
//! | 12 | | | | sent_ns u64 |
//! | 16 | your_boot_id u64 | | | |
//! | 20 | | | | name |
//! | 24 | sequence u32 | | | |
//! | 28 | sent_ns u64 | | | |
//! | 36 | echo_ns u64 | | | |
//! | 44 | echo_hold_ns u64 | | | |
//! | last 16 | tag | | | |
//!
//! Liveness authenticates itself (the engine computes the tag); alarms and traces travel along a path and are advice only:
//! nobody may lose data by believing a forged one.

use crate::ParseError;

/// The version written in all bodies.
pub const WIRE_VERSION: u8 = 1;

/// The oldest version accepted in bodies.
pub const MIN_WIRE_VERSION: u8 = 1;

/// Length of the liveness tag: BLAKE3, keyed, cut to 128 bits.
pub const TAG_BYTES: usize = 16;

/// Longest node name in a trace reply, bytes: a DNS label.
pub const MAX_NAME_BYTES: usize = 63;

/// Liveness state of the sender's side of the link (RFC 5880 section 4.1, `Sta`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Held down by the operator.
    AdminDown = 0,
    /// Hears nothing valid.
    Down = 1,
    /// Hears the peer, and does not know yet whether the peer hears it.
    Init = 2,
    /// Both directions work.
    Up = 3,
}

impl State {
    /// From the field.
    ///
    /// # Errors
    /// [`ParseError::FieldRange`] above 3.
    #[inline(always)]
    pub const fn from_u8(state: u8) -> Result<State, ParseError> {
        match state {
            0 => Ok(State::AdminDown),
            1 => Ok(State::Down),
            2 => Ok(State::Init),
            3 => Ok(State::Up),
            _ => Err(ParseError::FieldRange),
        }
    }
}

/// A liveness frame: keep-alive, version hello and clock echo in one (semantics of RFC 5880, not its format).
///
/// RTT at the receiver = now − `echo_ns` − `echo_hold_ns`, if `echo_ns` is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// Newest wire version the sender speaks.
    pub version: u8,
    /// Oldest wire version the sender speaks.
    pub min_version: u8,
    /// State of the sender's side.
    pub state: State,
    /// Intervals without a frame after which the receiver shall call the link down; not 0.
    pub detect_mult: u8,
    /// The sender's interval between frames, microseconds.
    pub my_interval_us: u32,
    /// Drawn at random at each start of the sender; not 0.
    pub boot_id: u64,
    /// The boot id last heard from the receiver; 0 = none.
    pub your_boot_id: u64,
    /// Counts the sender's liveness frames since boot; a receiver takes only rising ones, against replay.
    pub sequence: u32,
    /// The sender's monotonic clock, nanoseconds.
    pub sent_ns: u64,
    /// `sent_ns` of the last frame heard from the receiver; 0 = none.
    pub echo_ns: u64,
    /// Time between hearing that frame and sending this one, nanoseconds.
    pub echo_hold_ns: u64,
    /// Tag over [`authenticated_bytes`](Self::authenticated_bytes).
    pub tag: [u8; TAG_BYTES],
}

impl Liveness {
    /// Length of a body of our version.
    pub const LEN: usize = Self::FIELDS + TAG_BYTES;
    const FIELDS: usize = 52;

    /// Reads a body. The tag is not verified here: do that first on [`authenticated_bytes`](Self::authenticated_bytes).
    ///
    /// # Errors
    /// `TooShort`, `TrailingBytes`, `WireVersion` (no version in common), `FieldRange` (unknown state, zero `detect_mult`
    /// or zero `boot_id`, as RFC 5880 section 6.8.6 discards them).
    #[inline(always)]
    pub fn parse(message: &[u8]) -> Result<Liveness, ParseError> {
        let (head, tag) = message
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(ParseError::TooShort)?;
        let (version, known) = start(head, Self::FIELDS)?;
        let mut fields = Reader(known);
        let min_version = fields.u8()?;
        if min_version == 0 || min_version > version {
            return Err(ParseError::FieldRange);
        }
        if min_version > WIRE_VERSION {
            return Err(ParseError::WireVersion);
        }
        let state = State::from_u8(fields.u8()?)?;
        let detect_mult = fields.u8()?;
        let my_interval_us = fields.u32()?;
        let boot_id = fields.u64()?;
        if detect_mult == 0 || boot_id == 0 {
            return Err(ParseError::FieldRange);
        }
        Ok(Liveness {
            version,
            min_version,
            state,
            detect_mult,
            my_interval_us,
            boot_id,
            your_boot_id: fields.u64()?,
            sequence: fields.u32()?,
            sent_ns: fields.u64()?,
            echo_ns: fields.u64()?,
            echo_hold_ns: fields.u64()?,
            tag: *tag,
        })
    }

    /// Writes a body; its length, or `None` (buffer untouched) if the buffer is shorter than [`LEN`](Self::LEN).
    ///
    /// To send: write with any tag, compute the tag over [`authenticated_bytes`](Self::authenticated_bytes) of what was
    /// written, then [`set_tag`](Self::set_tag).
    #[inline(always)]
    #[must_use]
    pub fn write(&self, buf: &mut [u8]) -> Option<usize> {
        let mut out = Writer(buf.get_mut(..Self::LEN)?);
        out.u8(self.version)?;
        out.u8(self.min_version)?;
        out.u8(self.state as u8)?;
        out.u8(self.detect_mult)?;
        out.u32(self.my_interval_us)?;
        out.u64(self.boot_id)?;
        out.u64(self.your_boot_id)?;
        out.u32(self.sequence)?;
        out.u64(self.sent_ns)?;
        out.u64(self.echo_ns)?;
        out.u64(self.echo_hold_ns)?;
        out.put(&self.tag)?;
        Some(Self::LEN)
    }

    /// What the tag covers: the whole message but its last [`TAG_BYTES`]; `None` if it is shorter than them.
    /// Includes what a newer version appended, so it works on received bytes only, not on parsed values.
    #[inline(always)]
    pub fn authenticated_bytes(message: &[u8]) -> Option<&[u8]> {
        let (head, _) = message.split_last_chunk::<TAG_BYTES>()?;
        Some(head)
    }

    /// Puts the tag into a written message; `None` if the message is shorter than a tag.
    #[inline(always)]
    #[must_use]
    pub fn set_tag(message: &mut [u8], tag: [u8; TAG_BYTES]) -> Option<()> {
        let (_, last) = message.split_last_chunk_mut::<TAG_BYTES>()?;
        *last = tag;
        Some(())
    }
}

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
        Ok(Alarm {
            version,
            kind,
            reason,
            sequence: fields.u32()?,
            node: fields.u64()?,
        })
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
        Ok(TraceRequest {
            hop,
            token: fields.u64()?,
            sent_ns: fields.u64()?,
        })
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
        let name = printable(fields.0.get(..name_len).ok_or(ParseError::TooShort)?)
            .ok_or(ParseError::FieldRange)?;
        Ok(TraceReply {
            token,
            sent_ns,
            hop,
            role,
            name,
        })
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

/// The version, and the bytes after it that our version knows, of a body whose length in our version is `len`.
#[inline(always)]
fn start(message: &[u8], len: usize) -> Result<(u8, &[u8]), ParseError> {
    let (version, rest) = message.split_first().ok_or(ParseError::TooShort)?;
    if *version < MIN_WIRE_VERSION {
        return Err(ParseError::WireVersion);
    }
    if message.len() < len {
        return Err(ParseError::TooShort);
    }
    if message.len() > len && *version <= WIRE_VERSION {
        return Err(ParseError::TrailingBytes);
    }
    Ok((*version, rest))
}

/// Takes big-endian fields off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(ParseError::TooShort)?;
        self.0 = rest;
        Ok(*field)
    }

    #[inline(always)]
    fn u8(&mut self) -> Result<u8, ParseError> {
        self.take().map(u8::from_be_bytes)
    }

    #[inline(always)]
    fn u32(&mut self) -> Result<u32, ParseError> {
        self.take().map(u32::from_be_bytes)
    }

    #[inline(always)]
    fn u64(&mut self) -> Result<u64, ParseError> {
        self.take().map(u64::from_be_bytes)
    }
}

/// Puts big-endian fields at the front of what is left.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    #[inline(always)]
    fn put(&mut self, field: &[u8]) -> Option<()> {
        let (front, rest) = core::mem::take(&mut self.0).split_at_mut_checked(field.len())?;
        front.copy_from_slice(field);
        self.0 = rest;
        Some(())
    }

    #[inline(always)]
    fn u8(&mut self, value: u8) -> Option<()> {
        self.put(&value.to_be_bytes())
    }

    #[inline(always)]
    fn u32(&mut self, value: u32) -> Option<()> {
        self.put(&value.to_be_bytes())
    }

    #[inline(always)]
    fn u64(&mut self, value: u64) -> Option<()> {
        self.put(&value.to_be_bytes())
    }
}
