//! PEM files of certificates and keys, and the peer's certificate as TLS hands it over.
//!
//! Invariants: any bytes are refused in words, or are certificates whose identities can be read; a certificate never
//! passes for somebody whom it does not name; the engine and the checks before it agree on whom a certificate names.

use std::time::{Duration, SystemTime};

use florelay::pki::certificate::{chain, check, check_key, private_key, uris_of};
use florelay_engine::transport::tls::spiffe_id;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, SerialNumber, date_time_ymd};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

const NODE: &str = "spiffe://demo.rete/node/station-a";

/// Within the validity of [`seeds`].
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// One input: the first byte chooses whether the rest is PEM or one DER certificate.
pub fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    if choice % 4 == 0 {
        named(&CertificateDer::from(bytes.to_vec()));
        return;
    }
    if let Ok(certificates) = chain(bytes) {
        certificates.iter().for_each(named);
        for expected in [NODE, "spiffe://demo.rete/node/station-b"] {
            if check(&certificates, &certificates, expected, now()).is_ok() {
                assert_eq!(uris_of(&certificates[0]).as_deref(), Ok(&[expected.to_owned()][..]));
            }
        }
        if let Ok(key) = private_key(bytes) {
            let _ = check_key(&certificates, &key);
        }
    }
    let _ = private_key(bytes);
}

fn named(certificate: &CertificateDer<'_>) {
    if let Ok(name) = spiffe_id(certificate)
        && let Ok(uris) = uris_of(certificate)
    {
        assert_eq!(uris, [name]);
    }
}

/// A key made of a constant, of no worth to anybody.
fn key(fill: u8) -> KeyPair {
    // PKCS#8 of an Ed25519 seed (RFC 8410 section 7), without the public key
    let front = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let der = [&front[..], &[fill; 32]].concat();
    KeyPair::try_from(&PrivateKeyDer::Pkcs8(der.into())).expect("a valid key")
}

fn params(uri: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    params
}

/// A CA with a node's certificate and key, as PEM together and as DER alone. The same bytes each time.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let (ca_key, node_key) = (key(1), key(2));
    let mut ca = params("spiffe://demo.rete", 1);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = ca.self_signed(&ca_key).expect("a valid certificate");
    let issuer = Issuer::from_params(&ca, &ca_key);
    let node = params(NODE, 2).signed_by(&node_key, &issuer).expect("a valid certificate");
    let pem = [node.pem(), root.pem(), node_key.serialize_pem()].concat();
    vec![
        [&[1], pem.as_bytes()].concat(),
        [&[1], node_key.serialize_pem().as_bytes()].concat(),
        [&[0], node.der().as_ref()].concat(),
        [&[0], root.der().as_ref()].concat(),
        b"\x01-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
    ]
}
