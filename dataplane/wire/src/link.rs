//! A whole link payload, that is what lies inside UDP: label stack, then control word or associated channel, then the rest.
//!
//! Two shapes exist, and nothing else is accepted:
//!
//! | stack | then | scope |
//! |---|---|---|
//! | LSE 0 (S=0), LSE 1 (S=1), both labels ≥ 16 | control word or associated channel | a path |
//! | one LSE: label 13 (GAL), S=1, TTL 1 | associated channel | this link |
//!
//! The parser does not look at the TTL of path frames: whether a frame has expired is the FIB's verdict (a trace needs the
//! expired ones). The writers set the S bits themselves.

use crate::ParseError;
use crate::ach::{ACH_NIBBLE, AchHeader};
use crate::cw::ControlWord;
use crate::mpls::{LSE_BYTES, Label, Lse, Tc};

/// Two label stack entries and a control word (or associated channel header).
pub const PATH_HEADER_BYTES: usize = 12;

/// One label stack entry and an associated channel header.
pub const LINK_OAM_HEADER_BYTES: usize = 8;

/// TTL of link-scope OAM: it never leaves the link.
pub const LINK_OAM_TTL: u8 = 1;

/// A parsed link payload; borrows what follows the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkFrame<'a> {
    /// LSE 0: the label by which the receiver knows this path, or GAL.
    pub forward: Lse,
    /// LSE 1: the label by which the receiver reaches the sender. `None` exactly for link-scope OAM.
    pub backward: Option<Lse>,
    /// What follows the stack.
    pub body: Body<'a>,
}

/// What follows the label stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// A control word and a payload.
    Payload {
        /// The control word.
        cw: ControlWord,
        /// All bytes after it; may be empty.
        payload: &'a [u8],
    },
    /// An associated channel.
    Channel {
        /// Its header.
        ach: AchHeader,
        /// All bytes after it: one of the bodies in [`oam`](crate::oam).
        message: &'a [u8],
    },
}

/// Parses a whole link payload.
///
/// # Errors
/// The first thing that is wrong, front to back: `TooShort`, `StackDepth`, `ReservedLabel`, `LinkTtl`, `BadNibble`,
/// `UnknownPayload`, `ChannelHeader`, `UnknownChannel`.
#[inline(always)]
pub fn parse(bytes: &[u8]) -> Result<LinkFrame<'_>, ParseError> {
    LinkFrame::parse(bytes)
}

impl<'a> LinkFrame<'a> {
    /// Same as [`parse`].
    ///
    /// # Errors
    /// See [`parse`].
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<LinkFrame<'a>, ParseError> {
        let (forward, rest) = split_lse(bytes)?;
        if forward.bottom {
            return parse_link_oam(forward, rest);
        }
        if forward.label.is_reserved() {
            return Err(ParseError::ReservedLabel);
        }
        let (backward, rest) = split_lse(rest)?;
        if !backward.bottom {
            return Err(ParseError::StackDepth);
        }
        if backward.label.is_reserved() {
            return Err(ParseError::ReservedLabel);
        }
        let (word, rest) = rest.split_first_chunk().ok_or(ParseError::TooShort)?;
        let body = if word[0] >> 4 == ACH_NIBBLE {
            Body::Channel {
                ach: AchHeader::from_bytes(*word)?,
                message: rest,
            }
        } else {
            Body::Payload {
                cw: ControlWord::from_bytes(*word)?,
                payload: rest,
            }
        };
        Ok(LinkFrame {
            forward,
            backward: Some(backward),
            body,
        })
    }
}

#[inline(always)]
fn split_lse(bytes: &[u8]) -> Result<(Lse, &[u8]), ParseError> {
    let (lse, rest) = bytes
        .split_first_chunk::<LSE_BYTES>()
        .ok_or(ParseError::TooShort)?;
    Ok((Lse::from_bytes(*lse), rest))
}

#[inline(always)]
fn parse_link_oam(forward: Lse, rest: &[u8]) -> Result<LinkFrame<'_>, ParseError> {
    if forward.label != Label::GAL {
        return Err(if forward.label.is_reserved() {
            ParseError::ReservedLabel
        } else {
            ParseError::StackDepth
        });
    }
    if forward.ttl != LINK_OAM_TTL {
        return Err(ParseError::LinkTtl);
    }
    let (word, message) = rest.split_first_chunk().ok_or(ParseError::TooShort)?;
    let ach = AchHeader::from_bytes(*word)?;
    Ok(LinkFrame {
        forward,
        backward: None,
        body: Body::Channel { ach, message },
    })
}

/// Writes the header of a path frame with a payload; its length, or `None` (nothing written) if the buffer is too small.
/// The S bits of both entries are set as the shape demands.
#[inline(always)]
#[must_use]
pub fn write_path_header(
    buf: &mut [u8],
    forward: Lse,
    backward: Lse,
    cw: ControlWord,
) -> Option<usize> {
    write_path(buf, forward, backward, cw.to_bytes())
}

/// Writes the header of a path frame with an associated channel; its length, or `None` (nothing written) if the buffer is
/// too small. The S bits of both entries are set as the shape demands.
#[inline(always)]
#[must_use]
pub fn write_path_channel(
    buf: &mut [u8],
    forward: Lse,
    backward: Lse,
    ach: AchHeader,
) -> Option<usize> {
    write_path(buf, forward, backward, ach.to_bytes())
}

/// Writes the header of link-scope OAM; its length, or `None` (nothing written) if the buffer is too small.
#[inline(always)]
#[must_use]
pub fn write_link_channel(buf: &mut [u8], tc: Tc, ach: AchHeader) -> Option<usize> {
    let header = buf.first_chunk_mut::<LINK_OAM_HEADER_BYTES>()?;
    let lse = Lse {
        label: Label::GAL,
        tc,
        bottom: true,
        ttl: LINK_OAM_TTL,
    };
    let [a, b, c, d] = lse.to_bytes();
    let [e, f, g, h] = ach.to_bytes();
    *header = [a, b, c, d, e, f, g, h];
    Some(LINK_OAM_HEADER_BYTES)
}

#[inline(always)]
fn write_path(buf: &mut [u8], forward: Lse, backward: Lse, word: [u8; 4]) -> Option<usize> {
    let header = buf.first_chunk_mut::<PATH_HEADER_BYTES>()?;
    let [a, b, c, d] = Lse {
        bottom: false,
        ..forward
    }
    .to_bytes();
    let [e, f, g, h] = Lse {
        bottom: true,
        ..backward
    }
    .to_bytes();
    let [i, j, k, l] = word;
    *header = [a, b, c, d, e, f, g, h, i, j, k, l];
    Some(PATH_HEADER_BYTES)
}
