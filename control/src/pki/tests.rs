//! Issue, then read back and verify with another library.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use super::certificate::{CertificateError, chain, check, check_key, private_key};
use super::*;

fn realm(dir: &Path) -> Pair {
    init("demo.rete", dir, CA_DAYS, false).unwrap()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn issued_chain_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let ca = realm(dir.path());
    let node = issue("station-a", None, dir.path(), dir.path(), NODE_DAYS, false).unwrap();
    assert_eq!(node.spiffe_id, "spiffe://demo.rete/node/station-a");
    for key in [&ca.key, &node.key] {
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let certificates = chain(&read(&node.certificate)).unwrap();
    let trust = chain(&read(&ca.certificate)).unwrap();
    let now = SystemTime::now();
    check(&certificates, &trust, &node.spiffe_id, now).unwrap();
    check_key(&certificates, &private_key(&read(&node.key)).unwrap()).unwrap();

    let (_, leaf) = x509_parser::parse_x509_certificate(&certificates[0]).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(names.contains(&x509_parser::prelude::GeneralName::DNSName("station-a.demo.rete")), "{names:?}");

    let other = check(&certificates, &trust, "spiffe://demo.rete/node/station-b", now).unwrap_err();
    assert!(matches!(other, CertificateError::Identity { .. }), "{other}");
    let later = now + Duration::from_secs(91 * 86_400);
    assert!(matches!(check(&certificates, &trust, &node.spiffe_id, later), Err(CertificateError::Expired(_))));
    let earlier = now - Duration::from_secs(3600);
    assert!(matches!(check(&certificates, &trust, &node.spiffe_id, earlier), Err(CertificateError::NotYetValid(_))));
    let ca_key = private_key(&read(&ca.key)).unwrap();
    assert_eq!(check_key(&certificates, &ca_key), Err(CertificateError::KeyMismatch));
    // A node's certificate vouches for nobody.
    assert!(matches!(check(&certificates, &certificates, &node.spiffe_id, now), Err(CertificateError::Trust(_))));
}

#[test]
fn another_ca_of_the_same_name_is_not_trusted() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    realm(one.path());
    let impostor = realm(two.path());
    let node = issue("station-a", Some("demo.rete"), one.path(), one.path(), 1, false).unwrap();
    let trust = chain(&read(&impostor.certificate)).unwrap();
    let result = check(&chain(&read(&node.certificate)).unwrap(), &trust, &node.spiffe_id, SystemTime::now());
    assert!(matches!(result, Err(CertificateError::Untrusted { .. })), "{result:?}");
}

#[test]
fn nothing_is_overwritten_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let ca = realm(dir.path());
    let before = read(&ca.key);
    assert!(matches!(init("demo.rete", dir.path(), CA_DAYS, false), Err(PkiError::Exists(_))));
    assert_eq!(read(&ca.key), before);
    // One of the two in the way is enough.
    fs::remove_file(&ca.key).unwrap();
    assert!(matches!(init("demo.rete", dir.path(), CA_DAYS, false), Err(PkiError::Exists(_))));
    assert!(!ca.key.exists());
    init("demo.rete", dir.path(), CA_DAYS, true).unwrap();
    assert_ne!(read(&ca.key), before);

    let key = dir.path().join("link.key");
    link_key(&key, false).unwrap();
    let first = read(&key);
    assert!(matches!(link_key(&key, false), Err(PkiError::Exists(_))));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    link_key(&key, true).unwrap();
    assert_ne!(read(&key), first);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let text = String::from_utf8(read(&key)).unwrap();
    assert!(crate::hex::decode32(text.trim()).is_some());
}

#[test]
fn wrong_requests_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(init("Demo", dir.path(), 1, false), Err(PkiError::Name(_))));
    assert!(matches!(init("demo.rete", dir.path(), 0, false), Err(PkiError::Days(0))));
    assert!(matches!(issue("a", None, dir.path(), dir.path(), 1, false), Err(PkiError::File(..))));
    init("demo.rete", dir.path(), 10, false).unwrap();
    assert!(matches!(issue("a/b", None, dir.path(), dir.path(), 1, false), Err(PkiError::Name(_))));
    let outlives = issue("a", None, dir.path(), dir.path(), 11, false).unwrap_err();
    assert!(matches!(outlives, PkiError::OutlivesCa { .. }), "{outlives}");
    let foreign = issue("a", Some("other.rete"), dir.path(), dir.path(), 1, false).unwrap_err();
    assert!(foreign.to_string().contains("demo.rete"), "{foreign}");
    let other = tempfile::tempdir().unwrap();
    realm(other.path());
    fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    let mixed = issue("a", None, dir.path(), dir.path(), 1, false).unwrap_err();
    assert!(mixed.to_string().contains("does not belong"), "{mixed}");
    assert!(!dir.path().join("a.crt").exists() && !dir.path().join("a.key").exists());
}
