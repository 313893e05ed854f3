//! Next hops of links, as the kernel knows them (design invariant 10): addresses below are followed, never guessed.
//!
//! | part | what it does |
//! |---|---|
//! | [`table`] | pure: updates in, next hop of a link or the reason for none out |
//! | `convert` | rtnetlink messages into updates |
//! | `socket` | one synchronous request and its answers |
//! | [`follow`] | the thread: subscribes, dumps, publishes changes, provokes resolution |
//!
//! ARP and neighbour discovery stay with the kernel: nothing here sends a frame. Where an entry is missing or stale, the
//! owner of the link's UDP socket is asked to send an empty datagram, and the kernel does the rest.

pub mod follow;
pub mod table;

mod convert;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod socket;

pub use follow::{Follower, Options};
pub use table::{LinkSpec, NextHop};
