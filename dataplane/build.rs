//! Builds the eBPF program (`../ebpf`) into `OUT_DIR`, where `attach::OBJECT` picks it up.
//!
//! A nested cargo does it, because the program needs another target, `build-std` and flags of its own. Its target folder is
//! inside `OUT_DIR`, so that repeated builds are incremental and two profiles or work trees never disturb each other.
//!
//! Where bpf-linker or the standard library's source is missing, the object is empty and loading it says so at run time;
//! with `FLORELAY_REQUIRE_EBPF=1` it is an error here. A program that does not compile is always an error.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const OBJECT: &str = "florelay-ebpf";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let ebpf = manifest.join("../ebpf");
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", ebpf.join(path).display());
    }
    println!("cargo:rerun-if-changed={}", manifest.join("wire/src").display());
    println!("cargo:rerun-if-changed={}", manifest.join("wire/Cargo.toml").display());
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=FLORELAY_REQUIRE_EBPF");

    let object = out.join(OBJECT);
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        write_empty(&object);
        return;
    }
    match find_tools() {
        Ok(linker_folder) => {
            let built = build(&ebpf, &out, linker_folder.as_deref());
            fs::copy(&built, &object).expect("copy the eBPF object into OUT_DIR");
        }
        Err(missing) if env::var("FLORELAY_REQUIRE_EBPF").as_deref() == Ok("1") => {
            println!(
                "cargo::error={missing}: run `cargo xtask setup` (FLORELAY_REQUIRE_EBPF=1 forbids a build without the eBPF program)"
            );
            std::process::exit(1);
        }
        Err(missing) => {
            println!(
                "cargo:warning=building without the eBPF program: {missing}; run `cargo xtask setup` and build again"
            );
            write_empty(&object);
        }
    }
}

fn write_empty(object: &Path) {
    fs::write(object, []).expect("write an empty eBPF object into OUT_DIR");
}

/// The folder of bpf-linker that PATH lacks (`None` = it is on PATH), or what is missing.
fn find_tools() -> Result<Option<PathBuf>, String> {
    let sysroot = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("rustc does not run: {error}"))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !source.exists() {
        // A path that does not exist makes cargo run this script again, until it does.
        println!("cargo:rerun-if-changed={}", source.display());
        return Err("the standard library's source is not installed".to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join("bpf-linker").is_file()) {
        return Ok(None);
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .ok_or("bpf-linker is not on PATH, and neither XDG_CACHE_HOME nor HOME is set")?;
    let folder = cache.join("florelay/tools/bin");
    let linker = folder.join("bpf-linker");
    if linker.is_file() {
        return Ok(Some(folder));
    }
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rerun-if-env-changed=XDG_CACHE_HOME");
    println!("cargo:rerun-if-changed={}", linker.display());
    Err(format!("bpf-linker is neither on PATH nor in {}", folder.display()))
}

/// Runs the nested cargo and returns the object that it made.
fn build(ebpf: &Path, out: &Path, linker_folder: Option<&Path>) -> PathBuf {
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN").expect("cargo sets it");
    let target = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let target_dir = out.join("ebpf-target");

    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    for (name, _) in env::vars_os() {
        if belongs_to_outer_build(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    let mut path = env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = linker_folder {
        let mut joined = OsString::from(folder);
        joined.push(":");
        joined.push(&path);
        path = joined;
    }
    // Flags as rustc wants them, separated by 0x1f: kernel types of this architecture, and BTF from debug information.
    let flags = ["--cfg", &format!("bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f");
    cargo
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--bin", OBJECT])
        .args(["--target", target])
        .arg("--manifest-path")
        .arg(ebpf.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("PATH", path)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // The working folder decides which .cargo/config.toml is read: the workspace's, as everywhere else.
        .current_dir(ebpf);
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the eBPF program in {} does not build (messages above)", ebpf.display());
    target_dir.join(target).join("release").join(OBJECT)
}

/// Variables that the outer cargo (or clippy) set for its own build and that would change the nested one. What says where
/// registries, caches and the network are, and the job server, stays.
fn belongs_to_outer_build(name: &str) -> bool {
    const KEPT: [&str; 7] =
        ["CARGO_HOME", "CARGO_NET", "CARGO_HTTP", "CARGO_REGISTR", "CARGO_SOURCE", "CARGO_TERM", "CARGO_MAKEFLAGS"];
    let rust = [
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "CLIPPY_ARGS",
    ];
    if rust.contains(&name) {
        return true;
    }
    let outer = name.starts_with("CARGO_") || name.starts_with("DEP_");
    outer && !KEPT.iter().any(|kept| name.starts_with(kept))
}
