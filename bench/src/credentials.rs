//! A realm of two nodes in memory: TLS as the engine does it, without files.

use std::sync::Arc;

use anyhow::Result;
use florelay_engine::config::PeerCrypto;
use florelay_engine::transport::tls::{Credentials, peer_crypto};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// SPIFFE IDs of the two sides.
pub const SPIFFE_IDS: [&str; 2] = ["spiffe://bench.rete/node/a", "spiffe://bench.rete/node/b"];

/// Crypto of side A (which expects B) and of side B (which expects A): mutual TLS 1.3 with exact SPIFFE match.
///
/// # Errors
/// What the crypto library refused.
pub fn both_sides() -> Result<[PeerCrypto; 2]> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut roots = RootCertStore::empty();
    roots.add(ca.self_signed(&ca_key)?.der().clone())?;
    let (roots, issuer) = (Arc::new(roots), Issuer::new(ca, ca_key));

    let side = |own: &str, other: &str| -> Result<PeerCrypto> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(own.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer)?;
        let credentials = Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            roots: roots.clone(),
        };
        Ok(peer_crypto(&credentials, other)?)
    };
    let [a, b] = SPIFFE_IDS;
    Ok([side(a, b)?, side(b, a)?])
}
