//! Keys and certificates of a realm: a CA, one certificate per node, and link keys.
//!
//! ```text
//! init       ca.key (0600)  ca.crt   SPIFFE URI spiffe://REALM            on the machine that issues, nowhere else
//! issue      NODE.key (0600) NODE.crt  SPIFFE URI spiffe://REALM/node/NODE  to the node, with ca.crt
//!                                      and the DNS name NODE.REALM, for TLS clients that know no other
//! link-key   32 random bytes in hexadecimal (0600)                          to both ends of one link
//! ```
//!
//! Nothing is overwritten unless told so; a key is never readable by anybody but its owner, not even for an instant.
//! Keys are ECDSA P-256; certificates follow the SPIFFE X.509-SVID profile.

pub mod certificate;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::config::names;

/// Default validity of a CA, days.
pub const CA_DAYS: u32 = 3650;
/// Default validity of a node's certificate, days.
pub const NODE_DAYS: u32 = 90;
/// Longest validity, days: beyond, dates leave the four-digit years soon.
pub const MAX_DAYS: u32 = 36_500;
/// Certificates begin this much in the past, for nodes whose clock is behind.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name cannot be one.
    #[error("{0}")]
    Name(String),
    /// The file is there already.
    #[error("{path} exists; --force replaces it (what relies on the old one then fails)", path = .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    File(PathBuf, #[source] io::Error),
    /// The CA's files are not a CA's.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Ca(PathBuf, String),
    /// Validity out of range.
    #[error("validity of {0} days: 1 to {MAX_DAYS} are possible")]
    Days(u32),
    /// A certificate would outlive its CA.
    #[error("the certificate would be valid until {wanted}, its CA only until {ca}; use fewer days or renew the CA")]
    OutlivesCa {
        /// End of the certificate.
        wanted: OffsetDateTime,
        /// End of the CA.
        ca: OffsetDateTime,
    },
    /// The crypto library refused.
    #[error("cannot make the certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// Files that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM certificate.
    pub certificate: PathBuf,
    /// PEM private key, mode 0600.
    pub key: PathBuf,
    /// The SPIFFE URI in the certificate.
    pub spiffe_id: String,
}

/// Makes a realm's CA in `dir`: `ca.key` and `ca.crt`.
///
/// # Errors
/// [`PkiError`]; nothing is written if a file is in the way.
pub fn init(realm: &str, dir: &Path, days: u32, force: bool) -> Result<Pair, PkiError> {
    names::check_realm(realm).map_err(PkiError::Name)?;
    let spiffe_id = format!("spiffe://{realm}");
    let mut params = params(&format!("{realm} CA"), &spiffe_id, days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = Pair { certificate: dir.join("ca.crt"), key: dir.join("ca.key"), spiffe_id };
    refuse_existing(&pair, force)?;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    store(&pair, &certificate.pem(), &key)?;
    Ok(pair)
}

/// Issues a node's certificate with the CA in `ca_dir`, into `out`: `NODE.key` and `NODE.crt`.
///
/// # Errors
/// [`PkiError`]; nothing is written if a file is in the way. `realm`, if given, must be the CA's.
pub fn issue(
    node: &str,
    realm: Option<&str>,
    ca_dir: &Path,
    out: &Path,
    days: u32,
    force: bool,
) -> Result<Pair, PkiError> {
    names::check_node(node).map_err(PkiError::Name)?;
    let (ca_path, key_path) = (ca_dir.join("ca.crt"), ca_dir.join("ca.key"));
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| PkiError::File(path.to_owned(), e));
    let (ca_pem, key_pem) = (read(&ca_path)?, read(&key_path)?);
    let bad_ca = |e: String| PkiError::Ca(ca_path.clone(), e);
    let ca = certificate::chain(ca_pem.as_bytes()).map_err(|e| bad_ca(e.to_string()))?;
    let ca = ca.first().ok_or_else(|| bad_ca("no certificate in it".to_owned()))?;
    let ca_realm = realm_of(ca).map_err(bad_ca)?;
    if let Some(realm) = realm
        && realm != ca_realm
    {
        return Err(bad_ca(format!("this is the CA of realm \"{ca_realm}\", not of \"{realm}\"")));
    }
    let ca_key = KeyPair::from_pem(&key_pem).map_err(|e| PkiError::Ca(key_path.clone(), e.to_string()))?;
    let key_der =
        certificate::private_key(key_pem.as_bytes()).map_err(|e| PkiError::Ca(key_path.clone(), e.to_string()))?;
    certificate::check_key(std::slice::from_ref(ca), &key_der).map_err(|e| PkiError::Ca(key_path, e.to_string()))?;

    let spiffe_id = names::spiffe_id(&ca_realm, node);
    let mut params = params(node, &spiffe_id, days)?;
    let ca_end = end_of(ca).map_err(|e| PkiError::Ca(ca_path.clone(), e))?;
    if params.not_after > ca_end {
        return Err(PkiError::OutlivesCa { wanted: params.not_after, ca: ca_end });
    }
    // Node and peers go by the URI alone; clients of the gRPC API check a DNS name (RFC 9525).
    let dns = format!("{node}.{ca_realm}");
    if dns.len() <= names::MAX_REALM_BYTES {
        params.subject_alt_names.push(SanType::DnsName(dns.try_into().map_err(PkiError::Crypto)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let pair = Pair { certificate: out.join(format!("{node}.crt")), key: out.join(format!("{node}.key")), spiffe_id };
    refuse_existing(&pair, force)?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    store(&pair, &certificate.pem(), &key)?;
    Ok(pair)
}

/// Makes a link's liveness key: 32 random bytes in hexadecimal.
///
/// # Errors
/// [`PkiError`].
pub fn link_key(path: &Path, force: bool) -> Result<(), PkiError> {
    if !force && path.exists() {
        return Err(PkiError::Exists(path.to_owned()));
    }
    let mut key = [0_u8; 32];
    let mut filled = 0;
    while filled < key.len() {
        match rustix::rand::getrandom(&mut key[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(PkiError::File(path.to_owned(), e.into())),
        }
    }
    write(path, format!("{}\n", crate::hex::encode(&key)).as_bytes(), 0o600)
}

fn params(common_name: &str, spiffe_id: &str, days: u32) -> Result<CertificateParams, PkiError> {
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(PkiError::Days(days));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().map_err(PkiError::Crypto)?)];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(i64::from(days));
    Ok(params)
}

fn realm_of(ca: &rustls_pki_types::CertificateDer<'_>) -> Result<String, String> {
    let uris = certificate::uris_of(ca).map_err(|e| e.to_string())?;
    match uris.as_slice() {
        [uri] => uri.strip_prefix("spiffe://").filter(|r| names::check_realm(r).is_ok()).map(str::to_owned),
        _ => None,
    }
    .ok_or_else(|| "not a CA made by `florelay pki init`: it does not name a realm".to_owned())
}

fn end_of(ca: &rustls_pki_types::CertificateDer<'_>) -> Result<OffsetDateTime, String> {
    use x509_parser::prelude::FromDer as _;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(ca).map_err(|e| e.to_string())?;
    OffsetDateTime::from_unix_timestamp(parsed.validity().not_after.timestamp()).map_err(|e| e.to_string())
}

fn refuse_existing(pair: &Pair, force: bool) -> Result<(), PkiError> {
    match [&pair.key, &pair.certificate].into_iter().find(|p| p.exists()) {
        Some(path) if !force => Err(PkiError::Exists(path.clone())),
        _ => Ok(()),
    }
}

fn store(pair: &Pair, certificate_pem: &str, key: &KeyPair) -> Result<(), PkiError> {
    write(&pair.key, key.serialize_pem().as_bytes(), 0o600)?;
    write(&pair.certificate, certificate_pem.as_bytes(), 0o644)
}

/// Writes a new file of that mode beside the target and renames it over: no reader sees half of it, and an existing
/// file's wider mode is not inherited.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let fail = |e| PkiError::File(path.to_owned(), e);
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let result = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if result.is_err() {
        // Ours alone, by its name; it may not exist.
        let _ = fs::remove_file(&beside);
    }
    result.map_err(fail)
}
