//! Reading certificates: the SPIFFE identity, the validity, the chain up to a CA of the realm, the key that belongs
//! to it. The dataplane's TLS verifies again on every connection; this is to refuse early and in words.

use std::time::SystemTime;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

/// Why a certificate or key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM, not X.509.
    #[error("{0}")]
    Unreadable(String),
    /// The validity has not begun.
    #[error("the certificate is not valid before {0}; is the clock right?")]
    NotYetValid(String),
    /// The validity has ended.
    #[error("the certificate expired on {0}")]
    Expired(String),
    /// The SAN is not exactly the expected SPIFFE URI.
    #[error("the certificate is for {found}, not for {expected}")]
    Identity {
        /// The URIs that it carries.
        found: String,
        /// The one it should carry.
        expected: String,
    },
    /// No path to a trusted CA.
    #[error("the certificate is signed by \"{issuer}\", which is not in the trust file")]
    Untrusted {
        /// Issuer of the last certificate of the chain.
        issuer: String,
    },
    /// Nothing in the trust file can vouch for anybody.
    #[error("trust file: {0}")]
    Trust(String),
    /// Another pair's key.
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
}

/// All certificates of a PEM text, at least one.
///
/// # Errors
/// [`CertificateError::Unreadable`].
pub fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| CertificateError::Unreadable(format!("not a PEM certificate: {e}")))?;
    if certificates.is_empty() {
        return Err(CertificateError::Unreadable("no certificate in it".to_owned()));
    }
    for der in &certificates {
        parse(der)?;
    }
    Ok(certificates)
}

/// The private key of a PEM text: PKCS#8, SEC1 or PKCS#1.
///
/// # Errors
/// [`CertificateError::Unreadable`].
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| {
        CertificateError::Unreadable(match e {
            rustls_pki_types::pem::Error::NoItemsFound => "no private key in it".to_owned(),
            other => format!("not a PEM private key: {other}"),
        })
    })
}

/// Checks the first certificate of `chain`: carries exactly `expected` as its only URI, is valid `now`, and is signed,
/// directly or through the rest of `chain`, by one of `trust`.
///
/// # Errors
/// The first check that fails.
pub fn check(
    chain: &[CertificateDer<'_>],
    trust: &[CertificateDer<'_>],
    expected: &str,
    now: SystemTime,
) -> Result<(), CertificateError> {
    let leaf = parse(chain.first().ok_or_else(|| CertificateError::Unreadable("no certificate in it".to_owned()))?)?;
    let found = uris(&leaf)?;
    if found != [expected] {
        let found = if found.is_empty() { "nobody (no URI in it)".to_owned() } else { found.join(", ") };
        return Err(CertificateError::Identity { found, expected: expected.to_owned() });
    }
    valid(&leaf, now)?;
    let anchors: Vec<_> = trust.iter().map(parse).collect::<Result<_, _>>()?;
    if !anchors.iter().any(|a| a.is_ca()) {
        return Err(CertificateError::Trust("none of its certificates is a CA's".to_owned()));
    }
    let mut signed = leaf;
    for next in chain.iter().skip(1).map(Some).chain([None]) {
        if let Some(anchor) = anchors.iter().find(|a| signs(a, &signed)) {
            return valid(anchor, now).map_err(|e| CertificateError::Trust(format!("its CA: {e}")));
        }
        let Some(issuer) = next.map(parse).transpose()?.filter(|c| signs(c, &signed)) else {
            break;
        };
        valid(&issuer, now)?;
        signed = issuer;
    }
    Err(CertificateError::Untrusted { issuer: signed.issuer().to_string() })
}

/// Checks that `key` is the private half of the first certificate's key.
///
/// # Errors
/// [`CertificateError::KeyMismatch`], or the key is of no kind that TLS uses.
pub fn check_key(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> Result<(), CertificateError> {
    let signing = rustls::crypto::ring::sign::any_supported_type(key)
        .map_err(|e| CertificateError::Unreadable(format!("key not usable: {e}")))?;
    let leaf = chain.first().ok_or_else(|| CertificateError::Unreadable("no certificate in it".to_owned()))?;
    match signing.public_key() {
        Some(public) if public.as_ref() == parse(leaf)?.public_key().raw => Ok(()),
        _ => Err(CertificateError::KeyMismatch),
    }
}

/// The URIs in the SAN of a certificate.
///
/// # Errors
/// When the certificate cannot be parsed.
pub fn uris_of(der: &CertificateDer<'_>) -> Result<Vec<String>, CertificateError> {
    Ok(uris(&parse(der)?)?.into_iter().map(str::to_owned).collect())
}

fn parse<'d>(der: &'d CertificateDer<'_>) -> Result<X509Certificate<'d>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(CertificateError::Unreadable("bytes after the certificate".to_owned())),
        Err(e) => Err(CertificateError::Unreadable(format!("not an X.509 certificate: {e}"))),
    }
}

fn uris<'c>(certificate: &'c X509Certificate<'_>) -> Result<Vec<&'c str>, CertificateError> {
    let san = certificate
        .subject_alternative_name()
        .map_err(|e| CertificateError::Unreadable(format!("its alternative names cannot be read: {e}")))?;
    let names = san.into_iter().flat_map(|s| s.value.general_names.iter());
    Ok(names.filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None }).collect())
}

fn valid(certificate: &X509Certificate<'_>, now: SystemTime) -> Result<(), CertificateError> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let now = i64::try_from(seconds).ok().and_then(|s| ASN1Time::from_timestamp(s).ok());
    let now = now.ok_or_else(|| CertificateError::Unreadable("the clock is out of range".to_owned()))?;
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotYetValid(validity.not_before.to_string()));
    }
    if now > validity.not_after {
        return Err(CertificateError::Expired(validity.not_after.to_string()));
    }
    Ok(())
}

/// `issuer` is a CA, is who `signed` says signed it, and really did.
fn signs(issuer: &X509Certificate<'_>, signed: &X509Certificate<'_>) -> bool {
    issuer.is_ca() && issuer.subject() == signed.issuer() && signed.verify_signature(Some(issuer.public_key())).is_ok()
}
