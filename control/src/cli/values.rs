//! Values on the command line.

use std::time::Duration;

use uuid::Uuid;

use crate::config::hdtn::Mapping;
use crate::config::{contact, names, units};

/// A rate on the command line. (A plain `Option` would mean an optional argument to clap.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    match units::rate(text) {
        Ok(Some(0)) => Err("to stop a link use: florelay link down NAME".to_owned()),
        Ok(rate) => Ok(Rate(rate)),
        Err(e) => Err(format!("it {e}; write for example \"10 Mbit/s\" or uncapped")),
    }
}

pub(super) fn burst(text: &str) -> Result<u32, String> {
    let bytes = units::bytes(text).map_err(|e| format!("it {e}; write for example \"15 kB\""))?;
    u32::try_from(bytes).map_err(|_| "at most 4 GB".to_owned())
}

pub(super) fn mapping(text: &str) -> Result<Mapping, String> {
    let wrong = || "write for example 1:10=to-relay".to_owned();
    let (nodes, link) = text.split_once('=').ok_or_else(wrong)?;
    let (source, dest) = nodes.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| text.parse().map_err(|_| wrong());
    Ok(Mapping { source: number(source)?, dest: number(dest)?, link: node_name(link)? })
}

pub(super) fn epoch(text: &str) -> Result<u64, String> {
    if text == "now" {
        return Ok(florelay_dataplane::wall::now_unix_ns());
    }
    contact::parse_time(text).map_err(|(message, hint)| format!("{message}; {hint}, or now"))
}

pub(super) fn uuid(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| "write a UUID, for example 6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|e| format!("it {e}; write for example \"500 ms\" or 1s"))
}

pub(super) fn node_name(text: &str) -> Result<String, String> {
    names::check_node(text).map(|()| text.to_owned())
}

/// As the engine's `TransferMeta` wants it: no directory, at most 255 bytes, nothing that moves a terminal's cursor.
pub(super) fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.contains(['/', '\0']) || text == "." || text == ".." {
        return Err("a file name without a directory, 1 to 255 bytes".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("a file name without control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// What the inbox of a receiver takes, beyond that.
pub(super) fn inbox_name(text: &str) -> Result<String, String> {
    let name = file_name(text)?;
    if name.starts_with('.') {
        return Err("a name without a leading dot: the receiver's inbox takes no hidden files".to_owned());
    }
    Ok(name)
}

/// A time, or how long from now; nanoseconds since 1970 UTC.
pub(super) fn deadline(text: &str) -> Result<u64, String> {
    if let Ok(span) = units::duration(text) {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        return Ok(florelay_dataplane::wall::now_unix_ns().saturating_add(span));
    }
    contact::parse_time(text)
        .map_err(|_| "write how long, for example 2h or \"90 s\", or when: 2026-11-21T12:00:00Z".to_owned())
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    // Programs that know it say it without a unit.
    text.parse().or_else(|_| units::bytes(text)).map_err(|e| format!("it {e}; write for example 4096 or \"15 MB\""))
}

/// Within the limits of `TransferOrder`.
pub(super) fn attribute(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write for example pass=4711")?;
    match () {
        () if key.is_empty() => Err("write for example pass=4711".to_owned()),
        () if key.len() > 1024 || value.len() > 1024 => Err("at most 1024 bytes on each side".to_owned()),
        () if key == super::send::PATH_ATTRIBUTE => {
            Err(format!("`{key}` is said by send -r itself; take another name"))
        }
        () => Ok((key.to_owned(), value.to_owned())),
    }
}
