//! bpf-linker, which turns rustc's LLVM bitcode into one eBPF object. It is built against the compiler's own
//! LLVM, so its version and the compiler's move together (rust-toolchain.toml).

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use super::{Done, State, Step};
use crate::cmd;
use crate::context::Context;

/// The newest release that works with LLVM 22, which Rust 1.95 contains; later ones want LLVM 23.
const VERSION: &str = "0.10.4";
const LLVM_FEATURE: &str = "rust-llvm-22";

pub(super) struct BpfLinker;

impl Step for BpfLinker {
    fn name(&self) -> &'static str {
        "bpf-linker"
    }

    fn why(&self) -> &'static str {
        "links the eBPF programs; built with the compiler's own LLVM, about three minutes once"
    }

    fn check(&self, context: &Context) -> Result<State> {
        let binary = context.tools_bin().join("bpf-linker");
        // Cargo's own record of the install root: no need to run the program to learn its version.
        let record = fs::read_to_string(context.cache.join("tools").join(".crates.toml")).unwrap_or_default();
        if binary.is_file() && record.contains(&format!("\"bpf-linker {VERSION} ")) {
            return Ok(State::Ready(format!("{VERSION} at {}", binary.display())));
        }
        Ok(State::Missing(format!("{VERSION} is not in {}", context.tools_bin().display())))
    }

    fn install(&self, context: &Context) -> Result<Done> {
        let mut cargo = context.cargo(&["install", "bpf-linker", "--version", VERSION]);
        cargo.args(["--no-default-features", "--features", LLVM_FEATURE, "--force", "--root"]);
        cargo.arg(context.cache.join("tools"));
        // Its build belongs neither into the project's target folder nor under the project's flags.
        cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        cmd::run(&mut cargo)?;

        let mut version = Command::new(context.tools_bin().join("bpf-linker"));
        let said = cmd::stdout(version.arg("--version"))?;
        ensure!(said.contains(VERSION), "bpf-linker says `{}`, not {VERSION}", said.trim());
        Ok(Done::Installed)
    }
}
