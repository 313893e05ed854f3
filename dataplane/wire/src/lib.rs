//! The headers on the link: one parser and one builder for the eBPF program, the workers, the fuzzers and the tools.
//!
//! ```text
//! Ethernet [802.1Q] · IPv4 | IPv6 · UDP                    outer   (eth, ip, udp, checksum)
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------+-----+-+---------------+
//! | forward label                         | TC  |0| TTL           |  LSE 0  (mpls, RFC 3032)
//! +---------------------------------------+-----+-+---------------+
//! | backward label                        | TC  |1| TTL (ignored) |  LSE 1
//! +-------+-------+---------------+-------+-----+-+---------------+
//! |0 0 0 0| type  | flags     |ECN| sequence                      |  control word (cw, RFC 4385 shape)
//! +-------+-------+---------------+-------------------------------+
//! | payload: QUIC packet | delay-line cell | FlorIO datagram      |
//!
//! or, on the same two label stack entries, an associated channel (ach, RFC 5586):
//! +-------+-------+---------------+-------------------------------+
//! |0 0 0 1|version| reserved 0    | channel type                  |
//! +-------+-------+---------------+-------------------------------+
//! | message: alarm, trace request, trace reply (oam)              |
//!
//! or, for this link alone:
//! +---------------------------------------+-----+-+---------------+
//! | 13 (GAL)                              | TC  |1| 1             |  the only LSE
//! +-------+-------+---------------+-------+-----+-+---------------+
//! |0 0 0 1|version| reserved 0    | channel type                  |
//! +-------+-------+---------------+-------------------------------+
//! | message: liveness (oam)                                       |
//! ```
//!
//! `link` reads and writes what lies inside UDP; `outer` reads and writes what lies outside; `maps` holds what the eBPF
//! program and user space say to each other through maps.
//!
//! Invariants
//! - No allocation, no recursion, no `unsafe`, no index that can panic in a parser: the same code passes the kernel's verifier.
//! - A parser borrows and returns values or a [`ParseError`], whose variants are the reasons a frame is dropped for.
//! - Parse, then write, gives the same bytes, except where a module says otherwise (bodies of a newer version).
//! - All multi-byte fields are big-endian.
//!
//! Limits: one VLAN tag, no IPv4 options, no fragments, no IPv6 extension headers, label stacks of exactly one or two entries.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod ach;
pub mod checksum;
pub mod cw;
mod error;
pub mod eth;
pub mod ip;
pub mod link;
pub mod maps;
pub mod mpls;
pub mod oam;
pub mod outer;
#[cfg(test)]
mod testing;
pub mod udp;

pub use error::ParseError;
