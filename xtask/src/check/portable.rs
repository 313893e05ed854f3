//! The core stays portable: `wire` and `engine` compile for Windows and macOS. Only the type check is done,
//! so no linker or SDK is needed; but the engine's TLS provider compiles C, which takes a C compiler for the target.

use anyhow::Result;

use crate::cmd;
use crate::context::{Context, find_program};
use crate::report::Report;

/// Target and the C compiler that the `cc` crate looks for.
const TARGETS: [(&str, &str); 4] = [
    ("x86_64-pc-windows-gnu", "x86_64-w64-mingw32-gcc"),
    ("x86_64-pc-windows-msvc", "clang-cl"),
    ("x86_64-apple-darwin", "x86_64-apple-darwin-cc"),
    ("aarch64-apple-darwin", "aarch64-apple-darwin-cc"),
];

pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    for (target, compiler) in TARGETS {
        let library = context.sysroot()?.join("lib/rustlib").join(target).join("lib");
        if !library.is_dir() {
            let add = format!("target not installed (rustup target add {target})");
            report.skip(&format!("wire and engine for {target}"), &add);
            continue;
        }
        report.step(&format!("wire for {target}"), || check(context, "florelay-wire", target));
        let named = std::env::var_os(format!("CC_{}", target.replace('-', "_"))).is_some();
        let name = format!("engine for {target}");
        if named || find_program(compiler).is_some() {
            report.step(&name, || check(context, "florelay-engine", target));
        } else {
            report.skip(&name, &format!("its TLS provider compiles C and there is no {compiler}"));
        }
    }
    Ok(())
}

fn check(context: &Context, package: &str, target: &str) -> Result<()> {
    cmd::run(&mut context.cargo(&["check", "--package", package, "--lib", "--target", target]))
}
