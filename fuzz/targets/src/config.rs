//! The operator's TOML: any text, and what runs with it if it is accepted.
//!
//! Invariants: any text is a plan, or errors that each have the file, a line of it, a column, words and a hint, and that
//! a terminal can be given: no control characters but line ends. What is accepted is a plan that the daemon takes, whose
//! engines start and run for a while: caps and MTUs kept, every frame accounted for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use florelay::config::{Checks, compile};
use florelay_dataplane::fuzzing::engine_configs;
use florelay_dataplane::plan::NodePlan;
use florelay_engine::config::PeerCrypto;
use florelay_engine::time::Nanos;
use florelay_sim::crypto::{Identity, SimClientConfig, SimServerConfig};

use crate::bed::Node;

/// One input: the text.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let path = Path::new("/etc/florelay/fuzz.toml");
    match compile(path, &text, Checks::TextOnly) {
        Ok(plan) => start(&plan),
        Err(refusal) => {
            assert!(!refusal.0.is_empty());
            let lines = text.matches('\n').count() + 1;
            for error in &refusal.0 {
                assert_eq!(error.file, path);
                assert!((1..=lines).contains(&error.line) && error.column > 0, "{error}");
                assert!(!error.message.is_empty() && !error.hint.is_empty(), "{error}");
            }
            let shown = refusal.to_string();
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
    }
}

/// Most links that are started: the text can name thousands.
const MAX_LINKS: usize = 8;

fn start(plan: &NodePlan) {
    let identity = Identity::new("spiffe://realm/node/a", "spiffe://realm/node/b");
    let crypto =
        PeerCrypto { client: Arc::new(SimClientConfig(identity.clone())), server: Arc::new(SimServerConfig(identity)) };
    // What the text cannot say, the daemon may still refuse, by name: links of one interface on two workers.
    let configs = match engine_configs(plan, &crypto) {
        Ok(configs) => configs,
        Err(reason) => {
            assert!(reason.contains("worker"), "{reason}");
            return;
        }
    };
    for config in configs.iter().filter(|config| config.links.len() <= MAX_LINKS) {
        let mut node = Node::start(config, 8, Nanos(1)).unwrap_or_else(|error| panic!("{error}"));
        let mut now = Nanos(1);
        for _ in 0..20 {
            let mut out = Vec::new();
            node.turn(now, &mut out);
            let due = node.engine.next_timeout(now).unwrap_or(Nanos::MAX);
            now = due.max(now + Duration::from_micros(10)).min(now + Duration::from_secs(100));
        }
    }
}

/// Everything that a configuration can say, and how other programs save text.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let node = "version = \"1.0\"\n\n[node]\nname = \"station-b\"\nrealm = \"demo.rete\"\n\
        certificate = \"b.crt\"\nkey = \"b.key\"\ntrust = \"ca.crt\"\ninbox = \"inbox\"\nstate-dir = \"state\"\n";
    let link = "\n[[link]]\nname = \"to-a\"\nadapter = \"xdp\"\ninterface = \"eth1\"\nhighest-rung = \"driver-copy\"\n\
        fallback = true\nlocal = \"10.0.0.1:6635\"\nremote = \"10.0.0.2:6635\"\nmtu = 1500\nrate = \"10 Mbit/s\"\n\
        burst = \"15 kB\"\noverhead = 4\ncontrol-share = 40\ndelay = \"325 ms\"\ncongestion = \"contracted\"\n\
        liveness = { interval = \"200 ms\", detect = 5, key-file = \"link.key\" }\nworker = 0\nup = true\n";
    let other = "\n[[link]]\nname = \"to-c\"\nadapter = \"udp\"\nlocal = \"[fd00::1]:6636\"\n\
        remote = \"[fd00::2]:6636\"\nmtu = 1400\nrate = \"uncapped\"\nliveness = { key-file = \"link.key\" }\n";
    let peer = "\n[[peer]]\nname = \"station-a\"\nlink = \"to-a\"\nout-label = 100\nin-label = 200\n\
        role = \"originator\"\nrtt = \"700 ms\"\npath-rate = \"5 Mbit/s\"\npath-mtu = 1480\nweight = 3\n";
    let transit = "\n[[transit]]\na = { link = \"to-a\", in-label = 101, out-label = 201 }\n\
        b = { link = \"to-c\", in-label = 202, out-label = 102 }\nweight = 7\n";
    let workers = "workers = [{ core = 0, poll = \"adaptive\" }, { core = 1, poll = \"busy\" }]\n";
    let all = format!("{node}{workers}{link}{other}{peer}{transit}");
    let texts = [
        format!("{node}{link}{peer}"),
        all.replace('\n', "\r\n"),
        format!("\u{feff}{all}"),
        all.replace("10 Mbit/s", "18446744073709551615 bit/s").replace("325 ms", "1 h"),
        all.replace("to-a", "\\u001b[31m"),
        format!("{node}{node}"),
        "[[[[[[[[".to_owned(),
        all,
    ];
    texts.map(String::into_bytes).into()
}
