//! The files that a configuration names: they exist, may be read, and say what the configuration says.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::diagnostic::Source;
use super::names;
use super::read::Field;
use crate::pki::certificate::{self, CertificateError};

/// More than any certificate chain, key or trust store of one realm needs.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;

/// Whether the files that a configuration names are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// Everything, as `check` and `up` do it.
    Full,
    /// The text only; keys come out as zeros. For tools that must not need the keys, and for tests.
    TextOnly,
}

/// Who the node says it is, with the places where it says so.
#[derive(Debug)]
pub(super) struct Identity<'f> {
    pub(super) certificate: &'f Field<PathBuf>,
    pub(super) key: &'f Field<PathBuf>,
    pub(super) trust: &'f Field<PathBuf>,
    pub(super) realm: &'f str,
    pub(super) node: &'f str,
}

/// A path as the configuration means it: relative to the configuration file.
pub(super) fn resolve(source: &Source<'_>, path: &Path) -> PathBuf {
    let base = source.path().parent().unwrap_or(Path::new(""));
    let joined = base.join(path);
    // Absolute, because the daemon changes its directory; without asking the file system for links.
    std::path::absolute(&joined).unwrap_or(joined)
}

/// Checks certificate, key and trust against each other and against the node's name.
pub(super) fn identity(source: &mut Source<'_>, id: &Identity<'_>, now: SystemTime) {
    let chain = pem_file(source, id.certificate, certificate::chain);
    let trust = pem_file(source, id.trust, certificate::chain);
    let key = secret_file(source, id.key).and_then(|pem| {
        certificate::private_key(&pem).map_err(|e| id.key.error(source, e.to_string(), issue_hint(id))).ok()
    });
    if let (Some(chain), Some(trust)) = (&chain, &trust) {
        let expected = names::spiffe_id(id.realm, id.node);
        if let Err(e) = certificate::check(chain, trust, &expected, now) {
            let at = if matches!(e, CertificateError::Trust(_)) { id.trust } else { id.certificate };
            at.error(source, e.to_string(), issue_hint(id));
        }
    }
    if let (Some(chain), Some(key)) = (&chain, &key)
        && let Err(e) = certificate::check_key(chain, key)
    {
        id.key.error(source, e.to_string(), "certificate and key are made together; name the pair");
    }
}

/// Checks certificate and key of a TLS server against each other, and that its clients' CAs can be read.
pub(super) fn server(
    source: &mut Source<'_>,
    certificate: &Field<PathBuf>,
    key: &Field<PathBuf>,
    client_ca: &Field<PathBuf>,
) {
    const HINT: &str = "issue a pair with: florelay pki issue --node NAME";
    let chain = pem_file(source, certificate, certificate::chain);
    pem_file(source, client_ca, certificate::chain);
    let pair = secret_file(source, key)
        .and_then(|pem| certificate::private_key(&pem).map_err(|e| key.error(source, e.to_string(), HINT)).ok());
    if let (Some(chain), Some(pair)) = (&chain, &pair)
        && let Err(e) = certificate::check_key(chain, pair)
    {
        key.error(source, e.to_string(), HINT);
    }
}

/// Reads a liveness key: 64 hexadecimal digits.
pub(super) fn liveness_key(source: &mut Source<'_>, field: &Field<PathBuf>, checks: Checks) -> Option<[u8; 32]> {
    if checks == Checks::TextOnly {
        return Some([0; 32]);
    }
    let text = secret_file(source, field)?;
    let key = std::str::from_utf8(&text).ok().and_then(|t| crate::hex::decode32(t.trim()));
    if key.is_none() {
        let path = resolve(source, &field.value);
        let message = format!("{} is not a link key: 64 hexadecimal digits are expected", path.display());
        field.error(source, message, key_hint(&path));
    }
    key
}

fn pem_file<T>(
    source: &mut Source<'_>,
    field: &Field<PathBuf>,
    parse: impl FnOnce(&[u8]) -> Result<T, CertificateError>,
) -> Option<T> {
    let path = resolve(source, &field.value);
    match read_bounded(&path, MAX_FILE_BYTES) {
        Ok(pem) => match parse(&pem) {
            Ok(parsed) => return Some(parsed),
            Err(e) => field.error(source, format!("{}: {e}", path.display()), "a PEM file of certificates is expected"),
        },
        Err(e) => field.error(source, format!("cannot read {}: {e}", path.display()), path_hint(&e)),
    }
    None
}

/// Reads a file that only its owner may read.
fn secret_file(source: &mut Source<'_>, field: &Field<PathBuf>) -> Option<Vec<u8>> {
    let path = resolve(source, &field.value);
    match fs::metadata(&path).map(|m| m.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 != 0 => {
            let message = format!("{} is open to group or others (mode {mode:04o})", path.display());
            field.error(source, message, format!("chmod 600 {}", path.display()));
            return None;
        }
        Ok(_) => {}
        Err(e) => {
            field.error(source, format!("cannot read {}: {e}", path.display()), path_hint(&e));
            return None;
        }
    }
    match read_bounded(&path, MAX_FILE_BYTES) {
        Ok(bytes) => Some(bytes),
        Err(e) => {
            field.error(source, format!("cannot read {}: {e}", path.display()), path_hint(&e));
            None
        }
    }
}

/// A regular file of at most so many bytes.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let regular = |metadata: fs::Metadata| match metadata.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(io::Error::other("it is a directory")),
        _ => Err(io::Error::other("not a regular file")),
    };
    // Asked before it is opened: opening a FIFO waits for a writer, reading a device may never end. And after, because it
    // may have been exchanged meanwhile.
    regular(fs::metadata(path)?)?;
    let file = fs::File::open(path)?;
    regular(file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("larger than {} MiB", most >> 20)));
    }
    Ok(bytes)
}

fn issue_hint(id: &Identity<'_>) -> String {
    format!("issue one with: florelay pki issue --realm {} --node {} …", id.realm, id.node)
}

fn key_hint(path: &Path) -> String {
    format!("make one with: florelay pki link-key {}", path.display())
}

fn path_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::NotFound {
        "paths are relative to the configuration file; `florelay pki --help` says how these files are made"
    } else {
        "the user that runs florelay must be able to read it"
    }
}
