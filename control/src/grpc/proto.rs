//! What the API's messages are, made from `proto/florelay/v1/florelay.proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "made by prost and tonic; the .proto is documented"
)]

tonic::include_proto!("florelay.v1");

/// The .proto, compiled, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/florelay.v1.descriptors"));
