//! What can go wrong with an attachment, for the person who reads it.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;

use super::Mode;

/// Why an interface was not attached, or an attachment did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// `build.rs` did not find its tools.
    #[error("this build has no eBPF program: run `cargo xtask setup` and build again")]
    NoProgram,
    /// No such interface in this network namespace.
    #[error("interface {interface} does not exist in this network namespace")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Somebody else's program runs there.
    #[error(
        "interface {interface} already runs the XDP program `{program}` (id {id}), which is not this node's: {owner}"
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// Name of the program.
        program: String,
        /// Its id.
        id: u32,
        /// Whose it is, or how to find out.
        owner: String,
    },
    /// A living process holds the same node and interface.
    #[error("another process holds {path}: this node already runs on that interface")]
    InUse {
        /// The locked folder.
        path: PathBuf,
    },
    /// bpffs is neither there nor can it be mounted.
    #[error("/sys/fs/bpf is not a bpffs and cannot be made one (`mount -t bpf bpf /sys/fs/bpf` as root): {source}")]
    Bpffs {
        /// What the kernel said.
        source: io::Error,
    },
    /// Something with a pin.
    #[error("pin {path}: {source}")]
    Pin {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program was not loaded: the verifier refused it, or a privilege is missing.
    #[error("the eBPF program cannot be loaded: {0}")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The driver or the kernel refused the program.
    #[error("interface {interface} does not take an XDP program in {mode:?} mode: {source}")]
    Refused {
        /// The interface.
        interface: String,
        /// The mode that was asked for.
        mode: Mode,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map operation failed.
    #[error("map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// rtnetlink did not answer.
    #[error("rtnetlink: {source}")]
    Netlink {
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is still there after it was detached.
    #[error("interface {interface} still runs XDP program {id} after it was detached")]
    StillThere {
        /// The interface.
        interface: String,
        /// The program.
        id: u32,
    },
}
