//! `[grpc]`: the gRPC API.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::diagnostic::Source;
use super::files::{self, Checks};
use super::names;
use super::read::{Field, Table, Wrong, boolean, integer, string};
use crate::grpc::{Address, DEFAULT_CONNECTIONS, DEFAULT_PORT, DEFAULT_STREAMS, GrpcPlan, TlsPlan};

/// Most listeners, and most names in `allow`.
const MOST: usize = 64;
/// What `connections` and `streams` may be.
const LIMIT: std::ops::RangeInclusive<u64> = 1..=1024;
/// `sun_path` of unix(7) less its end, and less what the name is longer while the socket is made.
const MAX_SOCKET_BYTES: usize = 107 - 12;
const UNIX: &str = "unix:";

/// Reads the table.
pub(super) fn read(
    source: &mut Source<'_>,
    mut table: Table<'_>,
    realm: Option<&str>,
    checks: Checks,
) -> Option<GrpcPlan> {
    let t = &mut table;
    let listen = t.optional(source, "listen", addresses);
    let allow_paths = t.optional(source, "allow-paths", boolean).is_some_and(|f| f.value);
    let connections = limit(source, t, "connections", DEFAULT_CONNECTIONS);
    let streams = limit(source, t, "streams", DEFAULT_STREAMS);
    let has_tls = t.get("tls").is_some();
    let tls = t.table(source, "tls").and_then(|t| tls(source, t, realm, checks));
    table.close(source);
    let listen = match listen {
        None => vec![Address::Tcp((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into())],
        Some(listen) => listen_at(source, &listen, has_tls),
    };
    Some(GrpcPlan { listen, tls: if has_tls { Some(tls?) } else { None }, allow_paths, connections, streams })
}

fn limit(source: &mut Source<'_>, t: &mut Table<'_>, name: &'static str, default: u32) -> u32 {
    let given = t.optional(source, name, integer(LIMIT));
    given.and_then(|f| u32::try_from(f.value).ok()).unwrap_or(default)
}

/// One or more.
fn addresses(value: &DeValue<'_>) -> Result<Vec<Address>, Wrong> {
    let texts = strings(value)?;
    if texts.is_empty() || texts.len() > MOST {
        return Err(("there is nowhere to listen, or too much".to_owned(), format!("1 to {MOST} addresses")));
    }
    texts.iter().map(|text| address(text)).collect()
}

fn strings(value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    match value {
        DeValue::Array(list) => list.iter().map(|item| string(item.get_ref())).collect(),
        one => Ok(vec![string(one)?]),
    }
}

fn address(text: &str) -> Result<Address, Wrong> {
    if let Some(path) = text.strip_prefix(UNIX) {
        if path.is_empty() || path.contains('\0') {
            return Err((format!("\"{text}\" names no socket"), "for example \"unix:state/grpc.sock\"".to_owned()));
        }
        return Ok(Address::Unix(path.into()));
    }
    text.parse().map(Address::Tcp).map_err(|_| {
        let hint = "for example \"127.0.0.1:50051\", \"[::1]:50051\" or \"unix:state/grpc.sock\"";
        (format!("\"{text}\" is not an address with a port"), hint.to_owned())
    })
}

/// Paths resolved; what may not be listened at refused.
fn listen_at(source: &mut Source<'_>, listen: &Field<Vec<Address>>, has_tls: bool) -> Vec<Address> {
    let mut all: Vec<Address> = Vec::new();
    for address in &listen.value {
        let address = match address {
            Address::Tcp(at) => {
                if !at.ip().is_loopback() && !has_tls {
                    let message = format!("{at} can be reached by others, and there is no [grpc.tls]");
                    listen.error(source, message, "give certificate, key, client-ca and allow there, or use 127.0.0.1");
                }
                Address::Tcp(*at)
            }
            Address::Unix(path) => {
                let path = files::resolve(source, path);
                passable(source, listen, &path);
                if path.as_os_str().len() > MAX_SOCKET_BYTES {
                    let message = format!("{} is too long for a socket", path.display());
                    listen.error(source, message, format!("at most {MAX_SOCKET_BYTES} bytes"));
                }
                Address::Unix(path)
            }
        };
        if all.contains(&address) {
            listen.error(source, format!("{address} is there twice"), "listen once");
        }
        all.push(address);
    }
    all
}

fn tls(source: &mut Source<'_>, mut table: Table<'_>, realm: Option<&str>, checks: Checks) -> Option<TlsPlan> {
    let t = &mut table;
    let certificate = path(source, t, "certificate", "\"pki/station-a.crt\"");
    let key = path(source, t, "key", "\"pki/station-a.key\"");
    let client_ca = path(source, t, "client-ca", "\"pki/ca.crt\"");
    let allow = t.required(source, "allow", "[\"operator-1\"]", strings);
    table.close(source);
    if let (Checks::Full, Some(certificate), Some(key), Some(client_ca)) = (checks, &certificate, &key, &client_ca) {
        files::server(source, certificate, key, client_ca);
    }
    let allow = allow.map(|allow| identities(source, &allow, realm));
    let mut resolved = |f: Option<Field<PathBuf>>| {
        f.map(|f| {
            let path = files::resolve(source, &f.value);
            passable(source, &f, &path);
            path
        })
    };
    let (certificate, key, client_ca) = (resolved(certificate), resolved(key), resolved(client_ca));
    Some(TlsPlan { certificate: certificate?, key: key?, client_ca: client_ca?, allow: allow? })
}

fn path(source: &mut Source<'_>, t: &mut Table<'_>, name: &'static str, example: &str) -> Option<Field<PathBuf>> {
    t.required(source, name, example, |v| {
        let text = string(v)?;
        if text.is_empty() || text.contains('\0') {
            return Err(("this is not a path".to_owned(), "a path, relative to the configuration file".to_owned()));
        }
        Ok(Path::new(&text).to_owned())
    })
}

/// The control process is told its services in JSON, which is UTF-8.
fn passable<T>(source: &mut Source<'_>, field: &Field<T>, path: &Path) {
    if path.to_str().is_none() {
        let message = format!("{} is not UTF-8, and cannot be handed to the control process", path.display());
        field.error(source, message, "move it, or the configuration file, to another folder");
    }
}

/// Names of this realm, or whole SPIFFE URIs.
fn identities(source: &mut Source<'_>, allow: &Field<Vec<String>>, realm: Option<&str>) -> Vec<String> {
    if allow.value.is_empty() || allow.value.len() > MOST {
        allow.error(source, "nobody may come, or too many", format!("1 to {MOST} names"));
    }
    let mut all = Vec::new();
    for name in &allow.value {
        if name.strip_prefix("spiffe://").is_some_and(|rest| !rest.is_empty() && rest.is_ascii()) {
            all.push(name.clone());
        } else if let Err(reason) = names::check_node(name) {
            let hint = "a name as in `florelay pki issue --node NAME`, or a whole SPIFFE URI";
            allow.error(source, format!("\"{name}\": {reason}"), hint);
        } else if let Some(realm) = realm {
            all.push(names::spiffe_id(realm, name));
        }
    }
    all
}
