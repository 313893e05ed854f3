//! A good configuration, and every way to spoil it that the format speaks of: the error must name the right line and key.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use florelay_dataplane::plan::{AdapterPlan, PollMode, Rung};
use proptest::prelude::*;

use super::*;
use crate::pki;

const GOOD: &str = r#"version = "1.0"

[node]
name = "station-b"
realm = "demo.rete"
certificate = "pki/station-b.crt"
key = "pki/station-b.key"
trust = "pki/ca.crt"
inbox = "inbox"
state-dir = "state"
workers = [{ core = 0, poll = "adaptive" }, { core = 1, poll = "busy" }]

[[link]]
name = "to-a"
adapter = "xdp"
interface = "eth1"
highest-rung = "driver-copy"
fallback = true
local = "10.0.0.1:6635"
remote = "10.0.0.2:6635"
mtu = 1500
rate = "10 Mbit/s"
burst = "15 kB"
overhead = 4
control-share = 40
delay = "325 ms"
congestion = "contracted"
liveness = { interval = "200 ms", detect = 5, key-file = "link.key" }
worker = 1
up = false

[[link]]
name = "to-c"
adapter = "udp"
local = "[fd00::1]:6636"
remote = "[fd00::2]:6636"
mtu = 1400
rate = "uncapped"
liveness = { key-file = "link.key" }

[[peer]]
name = "station-a"
link = "to-a"
out-label = 100
in-label = 200
role = "originator"
rtt = "700 ms"
path-rate = "5 Mbit/s"
path-mtu = 1480
weight = 3

[[peer]]
name = "station-c"
link = "to-c"
out-label = 0x64
in-label = 200

[[transit]]
a = { link = "to-a", in-label = 101, out-label = 201 }
b = { link = "to-c", in-label = 202, out-label = 102 }
weight = 7
"#;

fn text_only(text: &str) -> Result<NodePlan, Refusal> {
    compile(Path::new("/etc/florelay/b.toml"), text, Checks::TextOnly)
}

#[test]
fn a_good_configuration_becomes_its_plan() {
    let plan = text_only(GOOD).unwrap();
    assert_eq!((plan.snapshot, plan.node.as_str(), plan.realm.as_str()), (1, "station-b", "demo.rete"));
    assert_eq!(plan.key, PathBuf::from("/etc/florelay/pki/station-b.key"));
    assert_eq!(plan.workers[1].poll, PollMode::Busy);
    let a = &plan.links[0];
    let xdp = AdapterPlan::Xdp { interface: "eth1".into(), highest_rung: Rung::DriverCopy, fallback: true };
    assert_eq!((&a.adapter, a.worker, a.mtu, a.extra_overhead), (&xdp, 1, 1500, 4));
    assert_eq!((a.rate_bps, a.burst_bytes, a.control_percent), (Some(10_000_000), 15_000, 40));
    assert_eq!((a.delay_ns, a.contracted, a.admin_up), (325_000_000, true, false));
    assert_eq!((a.liveness_interval_ns, a.detect_multiplier), (200_000_000, 5));
    let c = &plan.links[1];
    assert_eq!((&c.adapter, c.worker, c.rate_bps, c.contracted, c.admin_up), (&AdapterPlan::Udp, 0, None, false, true));
    assert_eq!((c.burst_bytes, c.control_percent, c.delay_ns), (14_180, 50, 0));
    assert_eq!((c.liveness_interval_ns, c.detect_multiplier), (100_000_000, 3));
    let [pa, pc] = &plan.peers[..] else { panic!() };
    assert_eq!((pa.spiffe_id.as_str(), pa.link, pa.out_label, pa.in_label), ("spiffe://demo.rete/node/station-a", 0, 100, 200));
    assert_eq!((pa.originator, pa.quic_mtu, pa.initial_rtt_ns, pa.path_rate_bps, pa.weight), (true, 1440, 700_000_000, Some(5_000_000), 3));
    // By default the lower name dials, the link's values hold, and the first RTT is that of RFC 9002.
    assert_eq!((pc.originator, pc.quic_mtu, pc.initial_rtt_ns, pc.path_rate_bps, pc.weight), (true, 1340, 333_000_000, None, 1));
    let t = &plan.transits[0];
    assert_eq!((t.a.link, t.a.in_label, t.b.link, t.b.out_label, t.weight), (0, 101, 1, 102, 7));
}

#[test]
fn defaults_follow_from_the_rest() {
    let acceptor = text_only(&GOOD.replace("role = \"originator\"\n", "")).unwrap();
    assert!(!acceptor.peers[0].originator, "station-a sorts before station-b and dials");
    let plan = text_only(&GOOD.replace("rtt = \"700 ms\"\npath-rate = \"5 Mbit/s\"\npath-mtu = 1480\n", "")).unwrap();
    let peer = &plan.peers[0];
    assert_eq!((peer.quic_mtu, peer.initial_rtt_ns, peer.path_rate_bps), (1460, 650_000_000, Some(10_000_000)));
    let plan = text_only(&GOOD.replace("workers = [{ core = 0, poll = \"adaptive\" }, { core = 1, poll = \"busy\" }]\n", "").replace("worker = 1\n", "")).unwrap();
    assert_eq!(plan.workers.len(), 1);
    assert_eq!(plan.workers[0].core, None);
    let plan = text_only(&GOOD.replace("rate = \"uncapped\"", "rate = \"1 Gbit/s\"")).unwrap();
    assert_eq!(plan.links[1].burst_bytes, 125_000, "one millisecond");
}

/// (what to replace, with what, key, part of message or hint). The error is at the line where the replacement begins,
/// less its leading line ends.
const SPOILT: &[(&str, &str, &str, &str)] = &[
    ("version = \"1.0\"", "version = \"2.0\"", "version", "another format"),
    ("version = \"1.0\"", "version = \"1.9\"", "version", "newer"),
    ("version = \"1.0\"", "version = \"1\"", "version", "not a version"),
    ("version = \"1.0\"", "version = 1.0", "version", "a float where a string"),
    ("version = \"1.0\"", "verzion = \"1.0\"", "verzion", "did you mean \"version\"?"),
    ("name = \"station-b\"", "name = \"Station B\"", "node.name", "'S' is not allowed"),
    ("realm = \"demo.rete\"", "realm = \"demo..rete\"", "node.realm", "1 to 63"),
    ("inbox = \"inbox\"", "inbx = \"inbox\"", "node.inbx", "did you mean \"inbox\"?"),
    ("inbox = \"inbox\"", "inbox = \"\"", "node.inbox", "not a path"),
    ("state-dir = \"state\"", "color = 1\nstate-dir = \"state\"", "node.color", "unknown key"),
    ("{ core = 0, poll = \"adaptive\" }", "{ core = 1 }", "node.workers[1].core", "has a worker already"),
    ("poll = \"adaptive\"", "poll = \"adaptiv\"", "node.workers[0].poll", "did you mean \"adaptive\"?"),
    ("{ core = 1, poll = \"busy\" }", "{ poll = \"busy\" }", "node.workers[1].poll", "keeps its core"),
    ("workers = [{ core = 0, poll = \"adaptive\" }, { core = 1, poll = \"busy\" }]", "workers = []", "node.workers", "no worker"),
    ("name = \"to-a\"", "name = \"to a\"", "link[to a].name", "not allowed"),
    ("name = \"to-c\"", "name = \"to-a\"", "link[to-a].name", "defined already, in line 14"),
    ("adapter = \"xdp\"", "adapter = \"xpd\"", "link[to-a].adapter", "did you mean \"xdp\"?"),
    ("adapter = \"udp\"", "adapter = \"udp\"\nfallback = true", "link[to-c].fallback", "only a link with"),
    ("interface = \"eth1\"", "interface = \"a-name-too-long1\"", "link[to-a].interface", "1 to 15"),
    ("highest-rung = \"driver-copy\"", "highest-rung = \"fast\"", "link[to-a].highest-rung", "zero-copy, driver-copy"),
    ("fallback = true", "fallback = \"yes\"", "link[to-a].fallback", "true or false"),
    ("local = \"10.0.0.1:6635\"", "local = \"10.0.0.1\"", "link[to-a].local", "has no port"),
    ("local = \"10.0.0.1:6635\"", "local = \"0.0.0.0:1\"", "link[to-a].local", "definite"),
    ("local = \"10.0.0.1:6635\"", "lokal = \"10.0.0.1:6635\"", "link[to-a].lokal", "did you mean \"local\"?"),
    ("remote = \"10.0.0.2:6635\"", "remote = \"[fd00::9]:6635\"", "link[to-a].remote", "remote is IPv6, local is IPv4"),
    ("remote = \"10.0.0.2:6635\"", "remote = \"10.0.0.1:6635\"", "link[to-a].remote", "the same"),
    ("remote = \"10.0.0.2:6635\"", "remote = \"224.0.0.1:6635\"", "link[to-a].remote", "group"),
    ("mtu = 1400", "mtu = 1259", "link[to-c].mtu", "leaves 1199 bytes for a QUIC packet; QUIC needs 1200 (IPv6 takes 40"),
    ("mtu = 1500", "mtu = 1239", "link[to-a].mtu", "at least 1240; 1500 leaves 1460"),
    ("mtu = 1500", "mtu = 70000", "link[to-a].mtu", "1 to 65535"),
    ("mtu = 1500", "mtu = \"1500\"", "link[to-a].mtu", "a string where an integer"),
    ("rate = \"10 Mbit/s\"", "rate = \"10 Mbits\"", "link[to-a].rate", "unknown unit \"Mbits\""),
    ("rate = \"10 Mbit/s\"", "rate = 10000000", "link[to-a].rate", "quantity with a unit"),
    ("rate = \"10 Mbit/s\"", "rate = \"0 bit/s\"", "link[to-a].rate", "up = false"),
    ("rate = \"uncapped\"", "rate = \"uncapped\"\ncongestion = \"contracted\"", "link[to-c].congestion", "needs a rate"),
    ("burst = \"15 kB\"", "burst = \"1521 B\"", "link[to-a].burst", "a burst of 1521 bytes is less than one frame of this link, 1522 bytes"),
    ("burst = \"15 kB\"", "burst = \"5 GB\"", "link[to-a].burst", "too many"),
    ("control-share = 40", "control-share = 0", "link[to-a].control-share", "1 to 100"),
    ("delay = \"325 ms\"", "delay = \"2 h\"", "link[to-a].delay", "out of range"),
    ("congestion = \"contracted\"", "congestion = \"cubic\"", "link[to-a].congestion", "contracted, shared"),
    ("interval = \"200 ms\"", "interval = \"1 us\"", "link[to-a].liveness.interval", "1 ms to 1 min"),
    ("detect = 5", "detect = 1", "link[to-a].liveness.detect", "2 to 255"),
    ("detect = 5", "detekt = 5", "link[to-a].liveness.detekt", "did you mean \"detect\"?"),
    ("worker = 1", "worker = 2", "link[to-a].worker", "worker 2 does not exist"),
    ("local = \"[fd00::1]:6636\"", "local = \"10.0.0.1:6635\"", "link[to-c].local", "already, in line 19"),
    ("name = \"station-a\"", "name = \"station-b\"", "peer[station-b].name", "this node itself"),
    ("name = \"station-c\"", "name = \"station-a\"", "peer[station-a].name", "defined already, in line 42"),
    ("link = \"to-c\"\nout", "link = \"to-d\"\nout", "peer[station-c].link", "there is no link \"to-d\""),
    ("link = \"to-a\"\nout", "link = \"too-a\"\nout", "peer[station-a].link", "did you mean \"to-a\"?"),
    ("out-label = 100\n", "out-label = 15\n", "peer[station-a].out-label", "16 to 1048575"),
    ("out-label = 100\n", "out-label = 1048576\n", "peer[station-a].out-label", "16 to 1048575"),
    ("role = \"originator\"", "role = \"caller\"", "peer[station-a].role", "originator, acceptor"),
    ("rtt = \"700 ms\"", "rtt = \"fast\"", "peer[station-a].rtt", "does not begin with a number"),
    ("path-mtu = 1480", "path-mtu = 1501", "peer[station-a].path-mtu", "larger than that of its first link, 1500"),
    ("path-mtu = 1480", "path-mtu = 1239", "peer[station-a].path-mtu", "the path's MTU 1239 leaves 1199"),
    ("path-rate = \"5 Mbit/s\"", "path-rate = \"0 bit/s\"", "peer[station-a].path-rate", "carries nothing"),
    ("weight = 3", "weight = 1001", "peer[station-a].weight", "1 to 1000"),
    ("in-label = 101", "in-label = 200", "transit[0].a.in-label", "in-label 200 is used on link \"to-a\" already, in line 45"),
    ("out-label = 102", "out-label = 100", "transit[0].b.out-label", "is used on link \"to-c\" already"),
    ("b = { link = \"to-c\"", "b = { link = \"to-e\"", "transit[0].b.link", "there is no link"),
    ("weight = 7", "wait = 7", "transit[0].wait", "unknown key"),
    ("[[transit]]", "[[tranzit]]", "tranzit", "did you mean \"transit\"?"),
    ("mtu = 1500", "mtu = 1500\nmtu = 1400", "mtu", "not TOML"),
    ("mtu = 1500", "mtu = ", "mtu", "not TOML"),
];

#[test]
fn every_error_names_line_key_and_hint() {
    for (from, to, key, part) in SPOILT {
        let at = GOOD.find(from).unwrap_or_else(|| panic!("{from} is not in the good text"));
        let text = format!("{}{to}{}", &GOOD[..at], &GOOD[at + from.len()..]);
        let refusal = text_only(&text).expect_err(to);
        // An added line comes last in the replacement.
        let added = to.matches('\n').count() - from.matches('\n').count();
        let added = if key.ends_with("color") { 0 } else { added };
        let line = GOOD[..at].matches('\n').count() + 1 + added;
        let found = refusal.0.iter().find(|d| d.key == *key).unwrap_or_else(|| panic!("{to}: {refusal}"));
        assert_eq!(found.line, line, "{to}: {refusal}");
        assert!(found.column > 0 && !found.hint.is_empty(), "{to}: {refusal}");
        let said = format!("{} {}", found.message, found.hint);
        assert!(said.contains(part), "{to}: {refusal}");
        if !part.contains("not TOML") && !key.starts_with("tranzit") {
            assert!(refusal.0.len() <= 3, "one mistake, few errors: {refusal}");
        }
    }
}

#[test]
fn missing_keys_are_reported_at_their_table() {
    for (line_text, key, line) in [
        ("name = \"station-b\"\n", "node.name", 3),
        ("trust = \"pki/ca.crt\"\n", "node.trust", 3),
        ("adapter = \"xdp\"\n", "link[to-a].adapter", 13),
        ("interface = \"eth1\"\n", "link[to-a].interface", 13),
        ("mtu = 1400\n", "link[to-c].mtu", 32),
        ("liveness = { key-file = \"link.key\" }\n", "link[to-c].liveness", 32),
        ("rate = \"uncapped\"\n", "link[to-c].rate", 32),
        ("b = { link = \"to-c\", in-label = 202, out-label = 102 }\n", "transit[0].b", 58),
    ] {
        let before = GOOD.replacen(line_text, "", 1);
        let refusal = text_only(&before).expect_err(key);
        let found = refusal.0.iter().find(|d| d.key == key).unwrap_or_else(|| panic!("{key}: {refusal}"));
        assert_eq!(found.line, line, "{refusal}");
        assert!(found.message.contains("is missing") && found.hint.starts_with("add: "), "{refusal}");
    }
    let refusal = text_only("version = \"1.0\"\n").unwrap_err();
    assert_eq!(refusal.0[0].key, "node");
}

#[test]
fn several_errors_come_at_once_in_file_order() {
    let text = GOOD
        .replace("realm = \"demo.rete\"", "realm = \"\"")
        .replace("mtu = 1400", "mtu = 100")
        .replace("weight = 3", "wieght = 3")
        .replace("rate = \"10 Mbit/s\"", "rate = \"1\"");
    let refusal = text_only(&text).unwrap_err();
    let keys: Vec<_> = refusal.0.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, ["node.realm", "link[to-a].rate", "link[to-c].mtu", "peer[station-a].wieght"]);
    assert!(refusal.to_string().ends_with("configuration refused: 4 errors"));
    assert!(refusal.to_string().starts_with("/etc/florelay/b.toml:5:9: node.realm: "), "{refusal}");
}

/// A realm with node station-b and its configuration in a directory.
fn station() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    pki::init("demo.rete", &pki, pki::CA_DAYS, false).unwrap();
    pki::issue("station-b", None, &pki, &pki, pki::NODE_DAYS, false).unwrap();
    pki::link_key(&dir.path().join("link.key"), false).unwrap();
    let path = dir.path().join("b.toml");
    fs::write(&path, GOOD).unwrap();
    (dir, path)
}

fn sole(path: &Path) -> Diagnostic {
    let refusal = load(path).unwrap_err();
    assert_eq!(refusal.0.len(), 1, "{refusal}");
    refusal.0[0].clone()
}

#[test]
fn files_are_checked() {
    let (dir, path) = station();
    let plan = load(&path).unwrap();
    assert_ne!(plan.links[0].liveness_key, [0; 32]);
    assert_eq!(plan.links[0].liveness_key, plan.links[1].liveness_key);
    assert_eq!(control_socket(&path).unwrap(), dir.path().join("state/control.sock"));

    let pki = dir.path().join("pki");
    let key = pki.join("station-b.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let d = sole(&path);
    assert_eq!((d.line, d.key.as_str()), (7, "node.key"));
    assert!(d.message.contains("mode 0640") && d.hint.starts_with("chmod 600 "), "{d}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    fs::copy(pki.join("ca.key"), &key).unwrap();
    let d = sole(&path);
    assert!(d.key == "node.key" && d.message.contains("does not belong"), "{d}");

    pki::issue("station-x", None, &pki, &pki, 1, false).unwrap();
    fs::write(&path, GOOD.replace("pki/station-b.", "pki/station-x.")).unwrap();
    let d = sole(&path);
    assert_eq!((d.line, d.key.as_str()), (6, "node.certificate"));
    assert!(d.message.contains("for spiffe://demo.rete/node/station-x, not for spiffe://demo.rete/node/station-b"), "{d}");

    fs::write(&path, GOOD.replace("pki/ca.crt", "pki/none.crt")).unwrap();
    let refusal = load(&path).unwrap_err();
    let d = refusal.0.iter().find(|d| d.key == "node.trust").unwrap();
    assert!(d.line == 8 && d.message.contains("No such file"), "{d}");
}

#[test]
fn link_keys_are_checked() {
    let (dir, path) = station();
    let key = dir.path().join("link.key");
    fs::write(&key, "abc").unwrap();
    let refusal = load(&path).unwrap_err();
    let keys: Vec<_> = refusal.0.iter().map(|d| (d.line, d.key.as_str())).collect();
    assert_eq!(keys, [(28, "link[to-a].liveness.key-file"), (39, "link[to-c].liveness.key-file")]);
    assert!(refusal.0[0].hint.contains("pki link-key"), "{refusal}");
    let d = load(&dir.path().join("none.toml")).unwrap_err();
    assert!(d.0[0].line == 0 && d.0[0].hint.contains("--config"), "{d}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Mutated text is accepted or refused with reasons, never a panic. (Only parts of GOOD that are ASCII are cut.)
    #[test]
    fn mutations_never_panic(
        cuts in proptest::collection::vec((0..GOOD.len(), 0_usize..40, "[ -~\n\u{e4}]{0,12}"), 1..6),
    ) {
        let mut text = GOOD.to_owned();
        for (at, length, insert) in cuts {
            let mut range = [at.min(text.len()), (at + length).min(text.len())];
            for end in &mut range {
                while !text.is_char_boundary(*end) {
                    *end -= 1;
                }
            }
            text.replace_range(range[0]..range[1], &insert);
        }
        if let Err(refusal) = text_only(&text) {
            prop_assert!(!refusal.0.is_empty());
            let lines = text.matches('\n').count() + 1;
            for d in &refusal.0 {
                prop_assert!((1..=lines).contains(&d.line) && d.column > 0, "{}", d);
                prop_assert!(!d.message.is_empty() && !d.hint.is_empty(), "{}", d);
            }
        }
    }

    /// Values of every type in every place.
    #[test]
    fn exchanged_values_never_panic(line in 0_usize..60, value in prop::sample::select(vec![
        "1", "-1", "1e400", "nan", "true", "\"\"", "\"\\u0000\"", "[]", "[[]]", "{}", "{ a = 1 }", "1979-05-27",
        "0xffffffffffffffffffffff", "\"999999999999999999999999 GB\"", "\"[::%9]:1\"", "'''x'''",
    ])) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        if let Some(at) = lines.get(line).and_then(|l| l.find(" = ")) {
            lines[line].truncate(at + 3);
            lines[line].push_str(value);
        }
        let _ = text_only(&lines.join("\n"));
    }
}
