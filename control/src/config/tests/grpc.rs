//! `[grpc]`: what it becomes, and what is refused.

use std::net::SocketAddr;

use super::*;
use crate::grpc::{Address, DEFAULT_CONNECTIONS, DEFAULT_STREAMS};

fn with(table: &str) -> Result<Compiled, Refusal> {
    compile_whole(Path::new("/etc/florelay/b.toml"), &format!("{GOOD}\n{table}"), Checks::TextOnly)
}

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse::<SocketAddr>().unwrap())
}

#[test]
fn it_is_served_where_it_says() {
    assert_eq!(with("").unwrap().services.grpc, None);
    let plain = with("[grpc]").unwrap().services.grpc.unwrap();
    assert_eq!((plain.listen, plain.tls, plain.allow_paths), (vec![tcp("127.0.0.1:50051")], None, false));
    assert_eq!((plain.connections, plain.streams), (DEFAULT_CONNECTIONS, DEFAULT_STREAMS));

    let whole = "[grpc]\nlisten = [\"unix:state/grpc.sock\", \"[::1]:7\", \"0.0.0.0:50051\"]\nallow-paths = true\n\
        connections = 3\nstreams = 5\n[grpc.tls]\ncertificate = \"pki/station-b.crt\"\nkey = \"pki/station-b.key\"\n\
        client-ca = \"pki/ca.crt\"\nallow = [\"operator-1\", \"spiffe://other.rete/user/x\"]";
    let services = with(whole).unwrap().services;
    let grpc = services.grpc.clone().unwrap();
    let unix = Address::Unix("/etc/florelay/state/grpc.sock".into());
    assert_eq!(grpc.listen, vec![unix, tcp("[::1]:7"), tcp("0.0.0.0:50051")]);
    assert_eq!((grpc.allow_paths, grpc.connections, grpc.streams), (true, 3, 5));
    let tls = grpc.tls.unwrap();
    assert_eq!(tls.key, PathBuf::from("/etc/florelay/pki/station-b.key"));
    assert_eq!(tls.allow, ["spiffe://demo.rete/node/operator-1", "spiffe://other.rete/user/x"]);
    // As the control process hears of it.
    assert_eq!(ServicesPlan::from_json(&services.to_json()), Ok(services));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let long = format!("listen = \"unix:/{}\"", "x".repeat(107));
    let tls = "certificate = \"c\"\nkey = \"k\"\nclient-ca = \"a\"\n";
    for (lines, key, part) in [
        ("listen = \"10.0.0.1:50051\"", "grpc.listen", "can be reached by others"),
        ("listen = \"0.0.0.0:50051\"", "grpc.listen", "[grpc.tls]"),
        ("listen = \"127.0.0.1\"", "grpc.listen", "not an address with a port"),
        ("listen = []", "grpc.listen", "nowhere to listen"),
        ("listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "grpc.listen", "twice"),
        ("listen = \"unix:\"", "grpc.listen", "names no socket"),
        (&long, "grpc.listen", "too long for a socket"),
        ("listn = \"127.0.0.1:1\"", "grpc.listn", "did you mean \"listen\"?"),
        ("connections = 0", "grpc.connections", "1 to 1024"),
        ("streams = 2000", "grpc.streams", "1 to 1024"),
        ("allow-paths = 1", "grpc.allow-paths", "true or false"),
        ("tls = true", "grpc.tls", "a boolean where a table"),
        (&format!("[grpc.tls]\n{tls}"), "grpc.tls.allow", "missing"),
        (&format!("[grpc.tls]\n{tls}allow = []"), "grpc.tls.allow", "nobody may come"),
        (&format!("[grpc.tls]\n{tls}allow = [\"Operator 1\"]"), "grpc.tls.allow", "'O' is not allowed"),
        (&format!("[grpc.tls]\n{tls}allow = [\"spiffe://\"]"), "grpc.tls.allow", "is not allowed"),
        ("[grpc.tls]\nkey = \"k\"\nclient-ca = \"a\"\nallow = [\"a\"]", "grpc.tls.certificate", "missing"),
    ] {
        let refusal = with(&format!("[grpc]\n{lines}")).expect_err(lines);
        let found = refusal.0.iter().find(|d| d.key == key).unwrap_or_else(|| panic!("{lines}: {refusal}"));
        let said = format!("{} {}", found.message, found.hint);
        assert!(said.contains(part) && !found.hint.is_empty(), "{lines}: {refusal}");
        assert!(refusal.0.len() <= 2, "one mistake, few errors: {refusal}");
    }
}

#[test]
fn its_files_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    fs::create_dir(&pki).unwrap();
    pki::init("demo.rete", &pki, 10, false).unwrap();
    for node in ["station-b", "other"] {
        pki::issue(node, None, &pki, &pki, 5, false).unwrap();
    }
    pki::link_key(&dir.path().join("link.key"), false).unwrap();
    let path = dir.path().join("b.toml");
    let load = |key: &str| {
        let tls = format!("certificate = \"pki/station-b.crt\"\nkey = \"{key}\"\nclient-ca = \"pki/ca.crt\"");
        fs::write(&path, format!("{GOOD}\n[grpc.tls]\n{tls}\nallow = [\"station-a\"]")).unwrap();
        load_whole(&path)
    };
    load("pki/station-b.key").unwrap();
    for (key, part) in [("pki/other.key", "does not belong"), ("pki/none.key", "cannot read")] {
        let refusal = load(key).unwrap_err();
        assert!(refusal.0.iter().any(|d| d.key == "grpc.tls.key" && d.message.contains(part)), "{refusal}");
    }
}
