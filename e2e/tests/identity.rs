//! A station with another name, or of another CA, never connects, and the status says why.

mod common;

use std::fs;

use common::{A, B, CONNECT_TIME, Line, RELAY};
use florelay_e2e::{Deadline, LinkPlan, Status, root_or_skip};

/// Refused attempts that have to be seen.
const ATTEMPTS: u64 = 2;

fn peer(status: &Status, counter: &str) -> u64 {
    status.peers()[0]["counters"][counter].as_u64().unwrap()
}

#[test]
fn a_station_of_another_name_or_ca_never_connects() {
    if !root_or_skip("a_station_of_another_name_or_ca_never_connects") {
        return;
    }
    let mut line = Line::prepare(true, &LinkPlan::default());
    let right = fs::read_to_string(line.config(B)).unwrap();
    let name = line.name(B).to_owned();
    let pki = line.topology.folder().join("pki");

    // Another name under the right CA: a consistent node, but not the one that station-a expects behind its label.
    line.program.pki_issue("impostor", &pki).unwrap();
    let other_name = right
        .replace(&format!("name = \"{name}\""), "name = \"impostor\"")
        .replace(&format!("../pki/{name}."), "../pki/impostor.");
    // The right name under another CA.
    let elsewhere = line.topology.folder().join("elsewhere");
    line.program.pki_init("demo.rete", &elsewhere).unwrap();
    line.program.pki_issue(&name, &elsewhere).unwrap();
    let other_ca = right
        .replace(&format!("../pki/{name}."), &format!("../elsewhere/{name}."))
        .replace("../pki/ca.crt", "../elsewhere/ca.crt");

    for node in [A, RELAY] {
        line.nodes.push(line.topology.start(node).unwrap());
    }
    for (what, config, part) in
        [("another name", other_name, "/node/impostor, expected "), ("another CA", other_ca, "certificate")]
    {
        assert_ne!(config, right);
        fs::write(line.config(B), config).unwrap();
        line.program.check(line.config(B)).unwrap();
        let before = line.until(A, "station-a to answer", |_| true);
        let wrong = line.topology.start(B).unwrap();
        let refused = line.until(A, "refused attempts", |status| {
            assert_ne!(status.peers()[0]["state"], "connected", "{what}");
            peer(status, "handshake_failures") >= peer(&before, "handshake_failures") + ATTEMPTS
        });
        println!("{what}: {}", refused.summary());
        assert_eq!(peer(&refused, "handshakes"), 0, "{what}: {}", refused.summary());
        let reason = refused.peers()[0]["reason"].as_str().unwrap_or_default();
        assert!(
            reason.contains("certificate") && reason.contains(part),
            "{what}: the reason says what is wrong: {}",
            refused.summary()
        );
        wrong.stop().unwrap();
    }

    // It was the identity alone: the right one connects at once.
    fs::write(line.config(B), right).unwrap();
    line.nodes.push(line.topology.start(B).unwrap());
    for node in &mut line.nodes {
        node.wait_connected(Deadline::after(CONNECT_TIME)).unwrap();
    }
    line.stop();
}
