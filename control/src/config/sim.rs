//! `sim` of a link: the sockets of a `sim` link, and what happens to frames on the way.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use florelay_dataplane::plan::SimPlan;
use florelay_impair::CorruptMode;

use super::diagnostic::Source;
use super::link::Kind;
use super::read::{Field, Table, integer, string};
use super::{files, impair};

/// In a plan, in the place of addresses that a `sim` link does not have.
pub(super) const NO_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// Longest path of a unix socket: `sun_path` less its final zero, unix(7).
const MAX_PATH_BYTES: usize = 107;

const EXAMPLE: &str = "{ socket = \"link/a\", peer = \"link/b\", delay = \"100 ms\" }";

/// Reads the table, if the link has one; says so if it is there and should not, or the other way round.
pub(super) fn read(source: &mut Source<'_>, link: &mut Table<'_>, kind: Option<Kind>) -> Option<SimPlan> {
    let Some(value) = link.get("sim") else {
        if kind == Some(Kind::Sim) {
            link.missing(source, "sim", EXAMPLE);
        }
        return None;
    };
    if let Some(Kind::Xdp | Kind::Udp) = kind {
        let hint = "remove it, or write: adapter = \"sim\"";
        source.error(&value.span(), link.key("sim"), "only a link with adapter = \"sim\" has this", hint);
        return None;
    }
    let mut t = link.table(source, "sim")?;
    let socket = t.required(source, "socket", "\"link/a\"", string);
    let peer = t.required(source, "peer", "\"link/b\"", string);
    let seed = t.optional(source, "seed", integer(0..=i64::MAX as u64)).map_or(0, |f| f.value);
    let model = impair::read(source, &mut t, CorruptMode::ChecksumDrops);
    t.close(source);
    let socket = path(source, socket?);
    let peer = path(source, peer?);
    if socket.value == peer.value {
        let message = format!("this end and the neighbour have the same socket, {}", socket.value.display());
        peer.error(source, message, "peer is what the neighbour calls socket, and the other way round");
    }
    Some(SimPlan { socket: socket.value, peer: peer.value, model, seed })
}

/// `local` and `remote`, which a `sim` link does not have; what the rest of the configuration gets in their place.
pub(super) fn no_addresses(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
) -> (Option<Field<SocketAddr>>, Option<Field<SocketAddr>>) {
    for name in ["local", "remote"] {
        if let Some(value) = t.get(name) {
            let hint = "remove it; sim.socket and sim.peer say where the link is";
            source.error(&value.span(), t.key(name), "a link with adapter = \"sim\" has no addresses", hint);
        }
    }
    let none = Field { value: NO_ADDRESS, span: t.span.clone(), key: t.key("adapter") };
    (Some(none.clone()), Some(none))
}

fn path(source: &mut Source<'_>, field: Field<String>) -> Field<PathBuf> {
    let field = field.map(PathBuf::from);
    let path = files::resolve(source, &field.value);
    let len = path.as_os_str().len();
    if field.value.as_os_str().is_empty() || field.value.file_name().is_none() {
        field.error(source, "not a path of a socket", "for example \"link/a\"; a folder that is missing is made");
    } else if len > MAX_PATH_BYTES {
        let message = format!("{} has {len} bytes; a socket's path has at most {MAX_PATH_BYTES}", path.display());
        field.error(source, message, "choose a folder nearer to the root, for example under /tmp or /run");
    }
    Field { value: path, ..field }
}
