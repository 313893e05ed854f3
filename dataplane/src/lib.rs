//! The daemon: workers that run the engine on real links, and the gateways beside them.
#![forbid(unsafe_code)]

mod adapter;
pub mod attach;
pub mod broker;
mod crossing;
pub mod daemon;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
pub mod ipc;
pub mod ipc_codec;
pub mod netlink;
pub mod plan;
mod ring;
mod status;
pub mod supervisor;
mod worker;
