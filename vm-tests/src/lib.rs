//! Tests on real kernels: what the development kernel cannot show, a virtual machine can.
//!
//! ```text
//!  pins ──► apt ──► cache ──► kernel (vmlinux, modules) ─┐
//!                     └─────► qemu (program, firmware) ──┤
//!  suite (table of tests) ──► image (newc initramfs) ────┼──► runner ──► report
//!                     guest programs, busybox, ip ───────┘      │
//!                                                       console │ lines
//!                                                            verdict
//! ```
//!
//! Owns: the cache folder (`$XDG_CACHE_HOME` or `$HOME/.cache`, then `florelay/vm`), one QEMU process at a time, and
//! nothing else on the host: no interface, no namespace, no root.
//!
//! Invariants
//! - Nothing fetched is used before its SHA-256 equals the pin or, for QEMU's libraries, apt has checked its signature.
//! - A guest that panics, hangs, ends early or says nothing is a failure; only the marker *and* the exit code make a pass.
//! - No QEMU outlives the harness.
//!
//! Limits: x86-64 hosts with Debian's apt; software emulation unless KVM really exists, so rates mean nothing here.

#![forbid(unsafe_code)]

pub mod apt;
pub mod cache;
pub mod console;
pub mod cpio;
pub mod image;
pub mod kernel;
pub mod modules;
pub mod pins;
pub mod qemu;
pub mod report;
pub mod runner;
pub mod suite;
pub mod tool;
