//! rtnetlink datagrams, from the kernel's bytes to a next hop.
//!
//! Invariants: any datagram is updates and perhaps one error; whatever was learnt, a next hop has a VLAN id that a tag can
//! carry, and the absence of one has a reason.

use florelay_dataplane::fuzzing::netlink::{LINK, apply, datagrams};
use florelay_dataplane::netlink::LinkSpec;
use florelay_dataplane::netlink::table::Table;
use florelay_wire::eth::MAX_VLAN_ID;

/// One input: a datagram, taken before and after what a kernel really says.
pub fn run(bytes: &[u8]) {
    let mut table = Table::default();
    let _ = apply(&mut table, bytes);
    check(&table);
    let known = datagrams();
    apply(&mut table, &known[0]).expect("our own datagram");
    check(&table);
    let _ = apply(&mut table, bytes);
    check(&table);
}

fn check(table: &Table) {
    let (interface, local, remote) = LINK;
    match table.resolve(&LinkSpec { interface: interface.to_owned(), local, remote }).next_hop {
        Ok(hop) => assert!(hop.vlan.is_none_or(|id| (1..=MAX_VLAN_ID).contains(&id)), "{hop:?}"),
        Err(reason) => assert!(!reason.is_empty()),
    }
}

/// What a kernel says when a link appears, and when it goes.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    datagrams()
}
