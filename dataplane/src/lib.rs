//! The daemon: workers that run the engine on real links, and the gateways beside them.
#![forbid(unsafe_code)]

pub mod attach;
pub mod ipc;
pub mod ipc_codec;
pub mod netlink;
pub mod plan;
