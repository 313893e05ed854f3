//! Liveness: keep-alive, version hello, clock echo and report of one link in one frame.
//!
//! The body authenticates itself: the tag is the last 16 bytes, whatever a newer version puts before it. This module knows
//! where the tag is; the engine computes and compares it.

use super::{Reader, WIRE_VERSION, Writer, start};
use crate::ParseError;

/// Length of the liveness tag: BLAKE3, keyed, cut to 128 bits.
pub const TAG_BYTES: usize = 16;

/// The version that brought [`Extension`].
const EXTENDED_SINCE: u8 = 2;

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

/// What version 2 appended: the sender's wall clock, and what it knows of the direction towards it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extension {
    /// The sender's wall clock when it wrote the frame, nanoseconds since 1970; 0 = it is not set.
    pub wall_ns: u64,
    /// Numbered frames of the receiver that ought to have reached the sender, modulo 2^32.
    pub expected: u32,
    /// Those of them that did not, modulo 2^32; falls when one comes late.
    pub lost: u32,
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
    /// Version 2 and later; a body of version 1 has none.
    pub extension: Option<Extension>,
    /// Tag over [`authenticated_bytes`](Self::authenticated_bytes).
    pub tag: [u8; TAG_BYTES],
}

impl Liveness {
    /// Length of a body of our version.
    pub const LEN: usize = Self::FIELDS + TAG_BYTES;
    /// Length of a body of version 1, without [`Extension`].
    pub const LEN_1: usize = Self::FIELDS_1 + TAG_BYTES;
    const FIELDS: usize = 68;
    const FIELDS_1: usize = 52;

    /// Reads a body. The tag is not verified here: do that first on [`authenticated_bytes`](Self::authenticated_bytes).
    ///
    /// # Errors
    /// `TooShort`, `TrailingBytes`, `WireVersion` (no version in common), `FieldRange` (unknown state, zero `detect_mult`
    /// or zero `boot_id`, as RFC 5880 section 6.8.6 discards them).
    #[inline(always)]
    pub fn parse(message: &[u8]) -> Result<Liveness, ParseError> {
        let (head, tag) = message.split_last_chunk::<TAG_BYTES>().ok_or(ParseError::TooShort)?;
        let extended = head.first().is_none_or(|version| *version >= EXTENDED_SINCE);
        let (version, known) = start(head, if extended { Self::FIELDS } else { Self::FIELDS_1 })?;
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
            extension: if extended {
                Some(Extension { wall_ns: fields.u64()?, expected: fields.u32()?, lost: fields.u32()? })
            } else {
                None
            },
            tag: *tag,
        })
    }

    /// Writes a body, of [`LEN_1`](Self::LEN_1) bytes without an extension; its length, or `None` (buffer untouched) if the
    /// buffer is shorter than that, or if version and extension do not belong together.
    ///
    /// To send: write with any tag, compute the tag over [`authenticated_bytes`](Self::authenticated_bytes) of what was
    /// written, then [`set_tag`](Self::set_tag).
    #[inline(always)]
    #[must_use]
    pub fn write(&self, buf: &mut [u8]) -> Option<usize> {
        if self.extension.is_some() != (self.version >= EXTENDED_SINCE) {
            return None;
        }
        let len = if self.extension.is_some() { Self::LEN } else { Self::LEN_1 };
        let mut out = Writer(buf.get_mut(..len)?);
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
        if let Some(extension) = &self.extension {
            out.u64(extension.wall_ns)?;
            out.u32(extension.expected)?;
            out.u32(extension.lost)?;
        }
        out.put(&self.tag)?;
        Some(len)
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
