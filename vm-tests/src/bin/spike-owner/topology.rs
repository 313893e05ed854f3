//! Who is who in the guest: names, addresses, labels. `guest/spike-owner.sh` makes the interfaces with the same names.
//!
//! ```text
//!   netns left          the node: one worker, one UMEM           netns right
//!   ┌───────┐ hub 0  ┌───────┐                 ┌───────┐ hub 1  ┌───────┐
//!   │  p0b  ├────────┤  p0a  │  RX ═══════► TX │  p1a  ├────────┤  p1b  │
//!   └───────┘        │ q0 q1 │  TX ◄═══════ RX │ q0 q1 │        └───────┘
//!  10.71.0.2         └───────┘                 └───────┘        10.71.1.2
//!                   10.71.0.1                 10.71.1.1
//! ```

use std::net::Ipv4Addr;

use florelay_wire::udp::MPLS_UDP_PORT;

/// One link of the node: its interface and the neighbour at the other end.
#[derive(Debug)]
pub(crate) struct Link {
    /// The node's interface.
    pub(crate) interface: &'static str,
    /// The node's address on it.
    pub(crate) local: Ipv4Addr,
    /// The neighbour's network namespace.
    pub(crate) namespace: &'static str,
    /// The neighbour's address.
    pub(crate) peer: Ipv4Addr,
    /// Label with which the neighbour reaches across the node: LSE 0 of what it sends, LSE 1 of what it gets.
    pub(crate) label_in: u32,
    /// Label with which the node reaches across the neighbour: LSE 0 of what it gets, LSE 1 of what it sends.
    pub(crate) label_out: u32,
}

/// The UDP port of every link.
pub(crate) const PORT: u16 = MPLS_UDP_PORT;

/// Most queues of each of the node's NICs that a worker here serves; igb makes one for each CPU, and the guest has two.
pub(crate) const MAX_QUEUES: usize = 2;

/// The links, left and right.
pub(crate) const LINKS: [Link; 2] = [
    Link {
        interface: "p0a",
        local: Ipv4Addr::new(10, 71, 0, 1),
        namespace: "left",
        peer: Ipv4Addr::new(10, 71, 0, 2),
        label_in: 100,
        label_out: 300,
    },
    Link {
        interface: "p1a",
        local: Ipv4Addr::new(10, 71, 1, 1),
        namespace: "right",
        peer: Ipv4Addr::new(10, 71, 1, 2),
        label_in: 400,
        label_out: 200,
    },
];
