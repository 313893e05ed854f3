//! TLS 1.3 for QUIC, mutual, with the peer's SPIFFE URI checked exactly (invariant 9).
//!
//! One pair of configurations per peer: the expected identity is part of the verifier, so a connection on the
//! path of `station-b` can only ever be `station-b`. No tickets are sent: a resumed session would skip the
//! verifier, and with it every revocation.

use std::fmt;
use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::PeerCrypto;

/// Our protocol and its major version (RFC 7301).
pub const ALPN: &[u8] = b"florelay/1";

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses them.
    #[error("the certificate or key cannot be used: {0}")]
    Rustls(#[from] Error),
    /// The verifier cannot be built from these roots.
    #[error("the trusted certificates cannot be used: {0}")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    /// AES-128-GCM is missing, which QUIC needs for its first packets (RFC 9001 section 5.2).
    #[error("the TLS provider lacks AES-128-GCM")]
    NoInitialSuite,
}

/// This node's certificate chain, key and trust.
#[derive(Debug)]
pub struct Credentials {
    /// DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// DER.
    pub key: PrivateKeyDer<'static>,
    /// The realm's CAs.
    pub roots: Arc<RootCertStore>,
}

/// Configurations for connections to and from the peer whose identity is `spiffe_id`.
///
/// # Errors
/// When key and certificate do not fit each other, or there is no trusted root.
pub fn peer_crypto(credentials: &Credentials, spiffe_id: &str) -> Result<PeerCrypto, TlsError> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier {
        spiffe_id: spiffe_id.into(),
        roots: credentials.roots.clone(),
        algorithms: provider.signature_verification_algorithms,
        client: WebPkiClientVerifier::builder_with_provider(credentials.roots.clone(), provider.clone()).build()?,
    });
    let versions = &[&rustls::version::TLS13];

    let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.enable_sni = false;
    client.resumption = Resumption::disabled();

    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;

    Ok(PeerCrypto {
        client: Arc::new(QuicClientConfig::try_from(client).map_err(|_| TlsError::NoInitialSuite)?),
        server: Arc::new(QuicServerConfig::try_from(server).map_err(|_| TlsError::NoInitialSuite)?),
    })
}

/// AES-128-GCM first: the cheapest per packet on any CPU with AES instructions.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    provider
}

/// Accepts exactly one identity, chained to the realm's roots.
#[derive(Debug)]
struct Verifier {
    spiffe_id: Box<str>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    client: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn check_identity(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let found = spiffe_id(certificate).ok();
        if found.as_deref() == Some(&*self.spiffe_id) {
            return Ok(());
        }
        let refused = WrongIdentity { expected: self.spiffe_id.clone(), found };
        tracing::warn!(%refused, "peer refused");
        Err(CertificateError::Other(OtherError(Arc::new(refused))).into())
    }
}

/// A certificate of the realm, but not the expected peer's.
#[derive(thiserror::Error)]
#[error(
    "the certificate is for {}, expected {expected}",
    found.as_deref().unwrap_or("nobody (it must carry exactly one URI)")
)]
struct WrongIdentity {
    expected: Box<str>,
    found: Option<String>,
}

/// rustls shows the errors of others by their `Debug`, and people are to read this one.
impl fmt::Debug for WrongIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The reason why a connection ended without what rustls wraps around an error of ours.
pub(crate) fn plain(reason: &str) -> String {
    const FRONT: &str = "invalid peer certificate: Other(OtherError(";
    match reason.split_once(FRONT) {
        Some((before, ours)) => format!("{before}{}", ours.strip_suffix("))").unwrap_or(ours)),
        None => reason.to_owned(),
    }
}

/// The certificate's SPIFFE ID: its only URI SAN (SPIFFE X.509-SVID section 2).
///
/// # Errors
/// When the certificate does not parse, or has no URI SAN or several.
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let san = parsed
        .subject_alternative_name()
        .map_err(|_| CertificateError::BadEncoding)?
        .ok_or(CertificateError::NotValidForName)?;
    let mut uris = san.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.to_owned()),
        _ => Err(CertificateError::NotValidForName.into()),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, self.algorithms.all)?;
        self.check_identity(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.client.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.client.verify_client_cert(end_entity, intermediates, now)?;
        self.check_identity(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_identity_is_said_without_wrapping() {
        let text = |found: Option<&str>| {
            let refused = WrongIdentity { expected: "spiffe://r/node/b".into(), found: found.map(str::to_owned) };
            let error = Error::from(CertificateError::Other(OtherError(Arc::new(refused))));
            plain(&format!("the cryptographic handshake failed: error 46: {error}"))
        };
        let front = "the cryptographic handshake failed: error 46: the certificate is for";
        assert_eq!(text(Some("spiffe://r/node/c")), format!("{front} spiffe://r/node/c, expected spiffe://r/node/b"));
        assert!(text(None).starts_with(&format!("{front} nobody (")), "{}", text(None));
        assert_eq!(plain("timed out"), "timed out");
    }
}
