//! What needs no node: conversions of orders and pages, connections that are turned away, and who gets in by TLS.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::connection::{Connection, Door};
use super::counters::Counters;
use super::requests::{self, Writing};
use super::{TlsPlan, proto, tls};
use crate::pki::{self, certificate};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn order() -> proto::Order {
    proto::Order { to: "station-b".into(), name: "telemetry".into(), priority: 127, ..proto::Order::default() }
}

#[test]
fn an_order_says_which_field_is_wrong() {
    let good = requests::order(Some(order()), || 7).unwrap();
    assert_eq!((good.id, good.priority, good.to.as_str()), (7, 127, "station-b"));
    let long = "x".repeat(1025);
    let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
    for (spoilt, field) in [
        (proto::Order { to: "Station B".into(), ..order() }, "order.to"),
        (proto::Order { to: String::new(), ..order() }, "order.to"),
        (proto::Order { id: "7".into(), ..order() }, "order.id"),
        (proto::Order { name: "a/b".into(), ..order() }, "order.name"),
        (proto::Order { name: "\u{1b}[2J".into(), ..order() }, "order.name"),
        (proto::Order { priority: 128, ..order() }, "order.priority"),
        (proto::Order { attributes: [(long, String::new())].into(), ..order() }, "order.attributes"),
        (proto::Order { attributes: many, ..order() }, "order.attributes"),
    ] {
        assert_eq!(requests::order(Some(spoilt), || 7).unwrap_err().field, field);
    }
    let open = |linger_ns| proto::WriteRequest {
        message: Some(proto::write_request::Message::Open(proto::WriteOpen {
            order: Some(order()),
            declared_bytes: None,
            linger_ns,
        })),
    };
    assert!(matches!(requests::writing(open(5), || 7), Ok(Writing::Open { .. })));
    assert_eq!(requests::writing(open(u64::MAX), || 7).unwrap_err().field, "open.linger_ns");
}

#[test]
fn a_page_token_goes_on_where_the_page_ended() {
    let request = |ended, token: &str| proto::ListTransfersRequest { ended, page_size: 0, page_token: token.into() };
    let token = requests::page_token(true, 9);
    let body = requests::list(&request(true, &token)).unwrap();
    let expected = florelay_dataplane::ipc::RequestBody::Transfers { ended: true, after: Some((true, 9)), limit: 100 };
    assert_eq!(body, expected);
    for (ended, token) in [(false, token.as_str()), (true, "x"), (true, "r."), (true, "e.9")] {
        assert_eq!(requests::list(&request(ended, token)).unwrap_err().field, "page_token", "{token}");
    }
}

struct Entrance {
    door: Door,
    connections: mpsc::Receiver<io::Result<Connection>>,
    counters: Arc<Counters>,
}

impl Entrance {
    fn new(places: usize) -> Self {
        let (sender, connections) = mpsc::channel(16);
        let counters = Arc::new(Counters::default());
        let places = Arc::new(Semaphore::new(places));
        Self { door: Door { places, counters: counters.clone(), connections: sender }, connections, counters }
    }

    fn knock(&self, tls: Option<TlsAcceptor>) -> DuplexStream {
        let (ours, theirs) = duplex(64 << 10);
        self.door.enter(theirs, tls, "a test".into());
        ours
    }

    fn count(&self, name: &str) -> u64 {
        self.counters.by_name()[name]
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http2_is_turned_away_and_counted() {
    let mut entrance = Entrance::new(1);
    for (bytes, counter) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], "refused_not_http2"), (b"PRI", "refused_late")] {
        let mut client = entrance.knock(None);
        client.write_all(bytes).await.unwrap();
        // To the end of its time, which is virtual.
        assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        assert_eq!(entrance.count(counter), 1, "{counter}");
    }
    // The place of each of them is free again; this one keeps it.
    let mut client = entrance.knock(None);
    client.write_all(&[PREFACE, b"more"].concat()).await.unwrap();
    let mut connection = entrance.connections.recv().await.unwrap().unwrap();
    let mut heard = vec![0; PREFACE.len() + 4];
    connection.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, [PREFACE, b"more"].concat(), "the preface is read twice");
    assert_eq!(entrance.knock(None).read(&mut [0]).await.unwrap(), 0);
    assert_eq!((entrance.count("refused_too_many"), entrance.count("connections")), (1, 1));
}

fn client_config(pki: &Path, node: Option<&str>) -> Arc<ClientConfig> {
    let read = |name: &str| std::fs::read(pki.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate::chain(&read("ca.crt")).unwrap().remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match node {
        None => builder.with_no_client_auth(),
        Some(node) => {
            let chain = certificate::chain(&read(&format!("{node}.crt"))).unwrap();
            let key = certificate::private_key(&read(&format!("{node}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn only_an_allowed_identity_gets_in() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&dir, &other] {
        pki::init("demo.rete", dir.path(), 10, false).unwrap();
        for node in ["station-a", "operator-1", "station-b"] {
            pki::issue(node, None, dir.path(), dir.path(), 5, false).unwrap();
        }
    }
    // Trusts the node, but has its certificate from somebody else.
    for file in ["operator-1.crt", "operator-1.key"] {
        std::fs::copy(other.path().join(file), dir.path().join(file.replace("operator-1", "impostor"))).unwrap();
    }
    let file = |name: &str| dir.path().join(name);
    let plan = TlsPlan {
        certificate: file("station-a.crt"),
        key: file("station-a.key"),
        client_ca: file("ca.crt"),
        allow: vec!["spiffe://demo.rete/node/operator-1".into()],
    };
    let acceptor = TlsAcceptor::from(tls::server_config(&plan).unwrap());
    let mut entrance = Entrance::new(8);
    for (node, counter) in [
        (Some("operator-1"), "connections"),
        (Some("station-b"), "refused_identity"),
        (Some("impostor"), "refused_certificate"),
        (None, "refused_certificate"),
    ] {
        let before = entrance.count(counter);
        let socket = entrance.knock(Some(acceptor.clone()));
        let name = ServerName::try_from("station-a.demo.rete").unwrap();
        let connector = TlsConnector::from(client_config(dir.path(), node));
        // In TLS 1.3 a client is done before the server has looked at its certificate.
        let mut client = connector.connect(name, socket).await.unwrap();
        let said = client.write_all(PREFACE).await.and(client.flush().await);
        if counter == "connections" {
            said.unwrap();
            assert!(entrance.connections.recv().await.unwrap().is_ok());
        } else {
            assert!(client.read(&mut [0]).await.is_err(), "{node:?} got in");
        }
        assert_eq!(entrance.count(counter), before + 1, "{node:?}: {:?}", entrance.counters.by_name());
    }
    let mut plain = entrance.knock(Some(acceptor));
    plain.write_all(PREFACE).await.unwrap();
    let _ = plain.read_to_end(&mut Vec::new()).await;
    assert_eq!(entrance.count("refused_handshake"), 1);
}
