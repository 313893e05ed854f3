//! Everything that reads what comes from outside, as functions that a fuzzer calls: one module per target, each with the
//! invariant it checks at its top, and seeds made by code.
//!
//! ```text
//!   fuzz/fuzz_targets/NAME.rs ── libFuzzer, with coverage: cargo xtask fuzz ──┐
//!                                                                             ├──► targets::NAME::run(bytes)
//!   the tests here ── seeds and a few thousand seeded mutations of them ──────┘
//! ```
//!
//! A broken invariant panics: that is how a fuzzer and a test see it. An input that once broke something is kept as a
//! seed, or as a test beside the code that was mended.
#![forbid(unsafe_code)]

mod bed;
pub mod command_line;
pub mod config;
pub mod control;
pub mod engine;
pub mod gro;
pub mod grpc;
mod input;
pub mod ipc;
pub mod link;
pub mod mutate;
pub mod netlink;
pub mod oam;
pub mod outer;
pub mod peer;
pub mod pki;
mod seeds;
pub mod session;
pub mod spool;
#[cfg(test)]
mod tests;
pub mod thrift;
pub mod units;
pub mod xsk;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the module, and of the binary in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Takes one input; panics if the invariant does not hold.
    pub run: fn(&[u8]),
    /// Inputs that reach far, to begin from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Mutations that the ordinary tests try: thousands where one takes microseconds, fewer where it runs a network.
    pub mutants: usize,
}

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "command_line", run: command_line::run, seeds: command_line::seeds, mutants: 3000 },
    Target { name: "config", run: config::run, seeds: config::seeds, mutants: 3000 },
    Target { name: "control", run: control::run, seeds: control::seeds, mutants: 5000 },
    Target { name: "engine", run: engine::run, seeds: engine::seeds, mutants: 1500 },
    Target { name: "gro", run: gro::run, seeds: gro::seeds, mutants: 10_000 },
    Target { name: "grpc", run: grpc::run, seeds: grpc::seeds, mutants: 20_000 },
    Target { name: "ipc", run: ipc::run, seeds: ipc::seeds, mutants: 5000 },
    Target { name: "link", run: link::run, seeds: seeds::links, mutants: 20_000 },
    Target { name: "netlink", run: netlink::run, seeds: netlink::seeds, mutants: 5000 },
    Target { name: "oam", run: oam::run, seeds: seeds::oam, mutants: 20_000 },
    Target { name: "outer", run: outer::run, seeds: seeds::outer, mutants: 20_000 },
    Target { name: "peer", run: peer::run, seeds: peer::seeds, mutants: 2000 },
    Target { name: "pki", run: pki::run, seeds: pki::seeds, mutants: 3000 },
    Target { name: "session", run: session::run, seeds: session::seeds, mutants: 10_000 },
    Target { name: "spool", run: spool::run, seeds: spool::seeds, mutants: 1000 },
    Target { name: "thrift", run: thrift::run, seeds: thrift::seeds, mutants: 10_000 },
    Target { name: "units", run: units::run, seeds: units::seeds, mutants: 20_000 },
    Target { name: "xsk", run: xsk::run, seeds: xsk::seeds, mutants: 10_000 },
];
