//! The daemon: workers that run the engine on real links, and the gateways beside them.
#![forbid(unsafe_code)]

mod adapter;
pub mod attach;
#[doc(hidden)]
pub mod bare;
pub mod broker;
pub mod contacts;
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
pub mod wall;
mod worker;
