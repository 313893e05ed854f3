//! Configurations of the two nodes of [`end_to_end`](crate::end_to_end), as an operator would write them.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::bed::{Bed, MTU, Side};

/// RFC 7510.
const PORT: u16 = 6635;
/// Realm of the run.
pub(crate) const REALM: &str = "bench.rete";
/// Name of the link's key file.
pub(crate) const LINK_KEY: &str = "a-b.link";

/// Where a node keeps what is under way.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// From the configuration's folder.
    pub(crate) state_dir: PathBuf,
    /// Value of `stream-disk-spool`; `None` = its default.
    pub(crate) disk_spool: Option<String>,
}

impl Default for Store {
    fn default() -> Self {
        Self { state_dir: "state".into(), disk_spool: None }
    }
}

/// The beginning of a configuration: a node of one worker, keys in `../pki`, the inbox beside the file. `placed` is
/// what its worker's table begins with, a core or nothing.
#[must_use]
pub(crate) fn node_table(name: &str, realm: &str, placed: &str, store: &Store) -> String {
    let mut out = format!(
        r#"version = "1.0"

[node]
name = "{name}"
realm = "{realm}"
certificate = "../pki/{name}.crt"
key = "../pki/{name}.key"
trust = "../pki/ca.crt"
inbox = "inbox"
state-dir = "{state_dir}"
workers = [{{ {placed}poll = "adaptive" }}]
"#,
        state_dir = store.state_dir.display(),
    );
    if let Some(bytes) = &store.disk_spool {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "stream-disk-spool = \"{bytes}\"\ndisk-spool = \"{bytes}\"");
    }
    out
}

/// The TOML of a side: one AF_XDP link, uncapped, and the other side as peer. Keys lie in `../pki`, inbox and state
/// beside the file. No fall-back to a socket, so that the figure is what it says.
#[must_use]
pub(crate) fn toml(bed: &Bed, side: Side, store: &Store) -> String {
    let other = if side == Side::A { Side::B } else { Side::A };
    let (name, peer) = (bed.node(side), bed.node(other));
    let (role, out_label, in_label) = match side {
        Side::A => ("originator", 100, 101),
        Side::B => ("acceptor", 101, 100),
    };
    format!(
        r#"{node}
[[link]]
name = "wire"
adapter = "xdp"
interface = "{interface}"
fallback = false
local = "{local}:{PORT}"
remote = "{remote}:{PORT}"
mtu = {MTU}
rate = "uncapped"
congestion = "shared"
liveness = {{ interval = "100 ms", detect = 3, key-file = "../pki/{LINK_KEY}" }}

[[peer]]
name = "{peer}"
link = "wire"
role = "{role}"
out-label = {out_label}
in-label = {in_label}
rtt = "1 ms"
"#,
        node = node_table(&name, REALM, &format!("core = {}, ", side.core()), store),
        interface = bed.interface(side),
        local = side.address(),
        remote = other.address(),
    )
}
