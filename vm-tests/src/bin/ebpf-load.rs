//! Runs inside the guest: loads the eBPF program, which this kernel's verifier judges, attaches it in the driver to each interface
//! named, reads its counters, detaches it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use florelay_dataplane::attach::{AttachError, Attachment, Mode, OBJECT};

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for interface in std::env::args().skip(1) {
        match visit(&interface) {
            Ok(()) => println!("ok ebpf-{interface}"),
            Err(why) => {
                // The verifier's log runs over thousands of lines; what matters is at its end.
                let why = why.to_string();
                let end: Vec<_> = why.lines().rev().take(6).collect();
                let end: Vec<_> = end.into_iter().rev().collect();
                println!("FAIL ebpf-{interface}: {}", end.join(" | "));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn visit(interface: &str) -> Result<(), AttachError> {
    let attachment = Attachment::attach(interface, "boot", Mode::Native, OBJECT)?;
    attachment.counters()?;
    attachment.detach()
}
