//! Compiles `proto/florelay/v1/florelay.proto`: messages and servers, and its descriptors for reflection.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use prost::Message as _;

const PROTO: &str = "proto/florelay/v1/florelay.proto";

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| anyhow::anyhow!("cargo sets OUT_DIR"))?);
    std::fs::write(out.join("florelay.v1.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .btree_map(".")
        // Pieces of streams are not copied out of what HTTP/2 received.
        .bytes(".florelay.v1.Chunk")
        .compile_fds(descriptors)?;
    Ok(())
}
