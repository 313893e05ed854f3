//! What a node keeps on disk of its transfers. No threads, no sockets, no clock: whoever calls decides when it may wait for a
//! disk, and tests decide what the disk does.
//!
//! ```text
//!   segments  the bytes of an open-ended stream that its receiver has not confirmed      STATE-DIR/spool/UUID/
//!   spooled   one stream's segments, with what waits for them
//!   tail      what of a sent stream is in memory, and what to read back
//!   partial   a file on its way in: written in order, verified, put into the inbox       INBOX/.UUID.part
//!   arriving  a partial file and its syncs
//!   outgoing  a file on its way out: read in place, hashed once
//!   book      which transfers there are, and how far they are                            STATE-DIR/transfers.redb
//!   hash      BLAKE3 that can be put down and taken up again
//!   storage   what all of them need of a file system: the real one, or a simulated one with faults
//! ```
//!
//! Invariant: what was said to be *synced* is there after a power cut, and right. What was not may be lost, but is never
//! wrong: each reader checks what it reads.
#![forbid(unsafe_code)]

pub mod arriving;
pub mod book;
pub mod hash;
pub mod memory;
pub mod outgoing;
pub mod partial;
pub mod segments;
pub mod spooled;
pub mod storage;
pub mod tail;
