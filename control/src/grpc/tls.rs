//! TLS 1.3 of the API, with certificates at both ends: a client's chain leads to a CA of `client-ca`, and its only URI is one
//! of those that the operator has allowed. Session tickets are not sent: a resumed session would skip the second rule.

use std::fs;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::counters::Refused;
use super::plan::TlsPlan;
use crate::pki::certificate;

/// HTTP/2 over TLS (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";

/// Reads the files and makes a server's configuration of them.
///
/// # Errors
/// A file cannot be read or used; in words.
pub(super) fn server_config(plan: &TlsPlan) -> anyhow::Result<Arc<ServerConfig>> {
    let read = |path: &std::path::Path| fs::read(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()));
    let named = |path: &std::path::Path, e: &dyn std::fmt::Display| anyhow::anyhow!("{}: {e}", path.display());
    let chain = certificate::chain(&read(&plan.certificate)?).map_err(|e| named(&plan.certificate, &e))?;
    let key = certificate::private_key(&read(&plan.key)?).map_err(|e| named(&plan.key, &e))?;
    let mut roots = RootCertStore::empty();
    for ca in certificate::chain(&read(&plan.client_ca)?).map_err(|e| named(&plan.client_ca, &e))? {
        roots.add(ca).map_err(|e| named(&plan.client_ca, &e))?;
    }
    let provider = Arc::new(ring::default_provider());
    let chained = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let verifier = Arc::new(Allowed { chained, allow: plan.allow.clone() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Which refusal a failed handshake was.
pub(super) fn reason(error: &std::io::Error) -> Refused {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => Refused::Identity,
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => Refused::Certificate,
        _ => Refused::Handshake,
    }
}

/// Takes certificates of the CAs, and of those the ones with an allowed identity.
#[derive(Debug)]
struct Allowed {
    chained: Arc<dyn ClientCertVerifier>,
    allow: Vec<String>,
}

impl ClientCertVerifier for Allowed {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chained.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chained.verify_client_cert(end_entity, intermediates, now)?;
        let uris = certificate::uris_of(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        // Its only URI, as SPIFFE wants it (X.509-SVID section 2).
        if let [uri] = uris.as_slice()
            && self.allow.contains(uri)
        {
            return Ok(verified);
        }
        tracing::warn!("gRPC: {} may not use this API", crate::printable::printable(&uris.join(", ")));
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chained.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chained.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chained.supported_verify_schemes()
    }
}
