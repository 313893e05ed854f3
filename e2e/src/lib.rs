//! Whole florelay nodes on real kernel parts: what the demo shows and the end-to-end tests measure.
//!
//! ```text
//!  namespace …-a                namespace …-relay                namespace …-b
//! ┌────────────────┐         ┌─────────────────────┐          ┌────────────────┐
//! │ station-a   w0 ├─ veth ──┤ w1     relay     w2 ├── veth ──┤ w3   station-b │
//! │ 10.77.1.1:6635 │         │ .1.2:6635 .2.1:6636 │          │ 10.77.2.2:6636 │
//! └────────────────┘         └─────────────────────┘          └────────────────┘
//!   push 100, expect 101      100⇄200, 201⇄101                  push 201, expect 200
//! ```
//!
//! The harness runs the `florelay` program as an operator would: configuration files, the command line, signals.
//! It knows nothing of its insides, so it also tests what a release ships.
//!
//! Ownership: a [`Topology`] owns namespaces, wires and one temporary folder; a [`Node`] owns one process tree.
//! Each cleans up when dropped, also while a panic unwinds. What a SIGKILL leaves behind carries the process id in
//! its name and is swept by the next run ([`Namespace::sweep_stale`]).
//!
//! Limits: Linux only; namespaces need root. Without root a topology runs over loopback sockets.
#![forbid(unsafe_code)]

mod config;
mod counters;
mod deadline;
mod job;
mod namespace;
mod nobody;
mod node;
mod process;
mod program;
mod python;
mod root;
mod topology;
mod veth;

pub use config::{Adapter, LinkPlan, Rate};
pub use counters::{Counters, SAMPLE_ERROR, Sample, Sampler, busiest_window_bps, mean_rate_bps, worst_excess_bytes};
pub use deadline::{Deadline, interrupt_flag, interrupted};
pub use job::Job;
pub use namespace::Namespace;
pub use nobody::again_as_nobody;
pub use node::{Node, Status};
pub use process::{Process, machine_cpu_time, start_time, tree};
pub use program::Program;
pub use python::{PYTHON_PACKAGES, PYTHON_RECORD, Python};
pub use root::root_or_skip;
pub use topology::{Options, Station, Topology};
pub use veth::{End, VethPair};
