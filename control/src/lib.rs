//! Florelay's configuration, command line and control process.
//!
//! ```text
//! config   TOML ─► NodePlan, or reasons why not          pki      CA, certificates, link keys
//! cli      the verbs; clients of the control process     process  the control process: clients ◄─► dataplane
//! client   what programs ask a node with, and their ends of streams
//! services what control serves besides: grpc (florelay.v1), thrift (Quelay's API)
//! seam     where the supervisor and the dataplane are started
//! ```
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod config;
pub mod grpc;
pub mod hex;
pub mod logging;
pub mod pki;
mod printable;
pub mod process;
pub mod seam;
pub mod services;
pub mod thrift;
