//! Bodies of the associated channels: liveness, alarm, trace request and reply.
//!
//! Each begins with the wire version of its sender. A body of our version or an older one has exactly its length; a body of
//! a newer version may be longer, and what is unknown of it is ignored, so that versions N and N−1 interoperate. New fields
//! are therefore only ever appended (in liveness: between the known fields and the tag, which is always last), and each time
//! the version rises: a node of version 1 refuses a longer body of version 1, but not one of version 2.
//!
//! | offset | liveness (84; version 1: 68) | alarm (15) | trace request (18) | trace reply (20 + name) |
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
//! | 52 | wall_ns u64, from version 2 on | | | |
//! | 60 | expected u32, from version 2 on | | | |
//! | 64 | lost u32, from version 2 on | | | |
//! | last 16 | tag | | | |
//!
//! Liveness authenticates itself (the engine computes the tag); alarms and traces travel along a path and are advice only:
//! nobody may lose data by believing a forged one.

use crate::ParseError;

mod alarm;
mod liveness;
#[cfg(test)]
mod tests;
mod trace;

pub use alarm::{Alarm, AlarmKind, alarm_reason};
pub use liveness::{Extension, Liveness, State, TAG_BYTES};
pub use trace::{MAX_NAME_BYTES, Role, TraceReply, TraceRequest};

/// The version written in all bodies. 2 appended to liveness; the other bodies are as in 1.
pub const WIRE_VERSION: u8 = 2;

/// The oldest version accepted in bodies.
pub const MIN_WIRE_VERSION: u8 = 1;

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
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(ParseError::TooShort)?;
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
