//! What florelay costs and moves, beside the bounds that nature and the kernel set.
//!
//! ```text
//!   cargo bench -p florelay-bench          criterion: parts alone (`benches/micro`)
//!   florelay-bench veth                    one veth hop, everything in one run:
//!
//!     blast           AF_XDP frames, no QUIC          ─┐
//!     quic_memory     bare quinn-proto, no wire       ─┴─ bound ── what both together allow
//!     engine_memory   our engine, no wire                   │
//!     quinn_sockets   quinn over UDP sockets                ├─ ratios
//!     end_to_end      two nodes, a file                      │
//!     bare            two nodes' transport alone             │
//!     streams         two nodes, a stream, spooled      ─────┘
//!
//!   florelay-bench instructions            quic_memory and engine_memory under valgrind: instructions a packet
//!   florelay-bench emulate                 a link between two interfaces, as a profile says (`profiles`)
//!   florelay-bench scenarios               the scenarios marked ● in real time over it, beside a plain quinn sender
//! ```
//!
//! Owner of namespaces, interfaces and pinned objects is [`bed::Bed`]; dropping it removes them. Every figure is a
//! [`report::Row`] with its context; there is no way to print one without.
//!
//! Invariants
//! - Rounds are interleaved (A B C A B C): what disturbs the machine disturbs all of them, and ratios are taken within a run.
//! - What could not be measured is a row that says so, and why. Nothing is estimated.
//!
//! Limits: veth is copy mode only, so no figure of this crate says anything about zero-copy.
#![forbid(unsafe_code)]

pub mod bare;
pub mod bed;
pub mod blast;
pub mod bound;
pub mod clock;
pub mod context;
pub mod credentials;
pub mod emulate;
pub mod end_to_end;
pub mod engine_memory;
pub mod instructions;
pub mod middle;
pub mod node_config;
pub mod payload;
pub mod quic_memory;
pub mod quinn_sockets;
pub mod report;
pub mod rig;
pub mod scenarios;
pub mod streams;
pub mod veth;

/// QUIC packet in bytes: what Ethernet 1500 leaves after IPv4, UDP, two label stack entries and the control word.
pub const QUIC_PACKET_BYTES: u16 = 1500 - 20 - 8 - 12;
/// Frame at layer 2 without FCS that carries such a packet.
pub const FULL_FRAME_BYTES: usize = 1514;
/// QUIC packets longer than this carry stream data; acknowledgements and their like are shorter.
pub const DATA_PACKET_MIN_BYTES: usize = 200;
/// Shortest frame that is blasted.
pub const SHORT_FRAME_BYTES: usize = 64;
