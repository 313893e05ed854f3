//! A good configuration, and every way to spoil it that the format speaks of: the error must name the right line and key.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use florelay_dataplane::plan::{AdapterPlan, CongestionPlan, PollMode, QueuePlan, Rung, Thresholds};
use proptest::prelude::*;

use super::*;
use crate::pki;

mod contacts;
mod grpc;
mod sim;
mod spoilt;
mod thrift;
use spoilt::SPOILT;

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
degraded = { loss = "5 %", loss-clear = "1 %", rtt-growth = "300 ms", jitter = "80 ms", jitter-clear = "50 ms", hold = "30 s" }
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
return-rate = "200 Mbit/s"
path-mtu = 1480
weight = 3
max-concurrent = 2
max-pending = 5000

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
fn a_shared_link_has_cubic_or_bbr() {
    for (word, congestion) in [("cubic", CongestionPlan::Cubic), ("bbr", CongestionPlan::Bbr)] {
        let shared = format!("congestion = \"shared\"\nshared = \"{word}\"");
        let plan = text_only(&GOOD.replace("congestion = \"contracted\"", &shared)).unwrap();
        assert_eq!(plan.links[0].congestion, congestion);
        let uncapped = format!("rate = \"uncapped\"\nshared = \"{word}\"");
        let plan = text_only(&GOOD.replace("rate = \"uncapped\"", &uncapped)).unwrap();
        assert_eq!(plan.links[1].congestion, congestion);
    }
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
    assert_eq!((a.delay_ns, a.congestion, a.admin_up), (325_000_000, CongestionPlan::Contracted, false));
    assert_eq!((a.liveness_interval_ns, a.detect_multiplier), (200_000_000, 5));
    let ms = |ms| Some(Duration::from_millis(ms));
    let degraded = Thresholds {
        loss_ppm: 50_000,
        loss_clear_ppm: 10_000,
        rtt_growth: ms(300),
        rtt_growth_clear: None,
        jitter: ms(80),
        jitter_clear: ms(50),
        hold: Duration::from_secs(30),
    };
    assert_eq!((a.degraded, plan.links[1].degraded), (degraded, Thresholds::default()));
    let c = &plan.links[1];
    assert_eq!((&c.adapter, c.worker, c.rate_bps, c.admin_up), (&AdapterPlan::Udp, 0, None, true));
    assert_eq!(c.congestion, CongestionPlan::Cubic);
    assert_eq!((c.burst_bytes, c.control_percent, c.delay_ns), (14_180, 50, 0));
    assert_eq!((c.liveness_interval_ns, c.detect_multiplier), (100_000_000, 3));
    let [pa, pc] = &plan.peers[..] else { panic!() };
    assert_eq!(
        (pa.spiffe_id.as_str(), pa.link, pa.out_label, pa.in_label),
        ("spiffe://demo.rete/node/station-a", 0, 100, 200)
    );
    assert_eq!(
        (pa.originator, pa.quic_mtu, pa.initial_rtt_ns, pa.path_rate_bps, pa.weight),
        (true, 1440, 700_000_000, Some(5_000_000), 3)
    );
    assert_eq!((pa.return_rate_bps, pc.return_rate_bps), (Some(200_000_000), None));
    // By default the lower name dials, the link's values hold, and the first RTT is that of RFC 9002.
    assert_eq!(
        (pc.originator, pc.quic_mtu, pc.initial_rtt_ns, pc.path_rate_bps, pc.weight),
        (true, 1340, 333_000_000, None, 1)
    );
    let queue = |max_concurrent, max_pending| QueuePlan { max_concurrent, max_pending };
    assert_eq!((pa.queue, pc.queue), (queue(2, 5000), queue(0, 100)));
    let t = &plan.transits[0];
    assert_eq!((t.a.link, t.a.in_label, t.b.link, t.b.out_label, t.weight), (0, 101, 1, 102, 7));
}

#[test]
fn no_disk_for_streams_is_nothing_with_or_without_a_unit() {
    for nothing in ["0", "\"0\"", "\"0 B\""] {
        let text = format!("state-dir = \"state\"\nstream-disk-spool = {nothing}\ndisk-spool = {nothing}");
        let plan = text_only(&GOOD.replace("state-dir = \"state\"", &text)).unwrap();
        assert_eq!((plan.spool.stream_disk_bytes, plan.spool.node_disk_bytes), (0, 0), "{nothing}");
    }
}

#[test]
fn defaults_follow_from_the_rest() {
    let acceptor = text_only(&GOOD.replace("role = \"originator\"\n", "")).unwrap();
    assert!(!acceptor.peers[0].originator, "station-a sorts before station-b and dials");
    let plan = text_only(
        &GOOD
            .replace("rtt = \"700 ms\"\npath-rate = \"5 Mbit/s\"\nreturn-rate = \"200 Mbit/s\"\npath-mtu = 1480\n", ""),
    )
    .unwrap();
    let peer = &plan.peers[0];
    assert_eq!((peer.quic_mtu, peer.initial_rtt_ns, peer.path_rate_bps), (1460, 650_000_000, Some(10_000_000)));
    assert_eq!(peer.return_rate_bps, Some(10_000_000));
    let plan = text_only(
        &GOOD
            .replace("workers = [{ core = 0, poll = \"adaptive\" }, { core = 1, poll = \"busy\" }]\n", "")
            .replace("worker = 1\n", ""),
    )
    .unwrap();
    assert_eq!(plan.workers.len(), 1);
    assert_eq!(plan.workers[0].core, None);
    let plan = text_only(&GOOD.replace("rate = \"uncapped\"", "rate = \"1 Gbit/s\"")).unwrap();
    assert_eq!(plan.links[1].burst_bytes, 500_000, "four milliseconds");
}

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
        ("mtu = 1400\n", "link[to-c].mtu", 33),
        ("liveness = { key-file = \"link.key\" }\n", "link[to-c].liveness", 33),
        ("rate = \"uncapped\"\n", "link[to-c].rate", 33),
        ("b = { link = \"to-c\", in-label = 202, out-label = 102 }\n", "transit[0].b", 62),
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
    assert!(
        d.message.contains("for spiffe://demo.rete/node/station-x, not for spiffe://demo.rete/node/station-b"),
        "{d}"
    );

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
    assert_eq!(keys, [(28, "link[to-a].liveness.key-file"), (40, "link[to-c].liveness.key-file")]);
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

/// The documentation's example is one that works.
#[test]
fn the_documented_example_is_accepted() {
    let page = include_str!("../../../docs/src/configuration.md");
    let mut blocks = page.split("```toml\n").skip(1);
    let example = blocks.next().and_then(|b| b.split("```").next()).unwrap();
    let plan = text_only(example).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((plan.links.len(), plan.peers.len()), (1, 1));
    let (out, back) = (plan.peers[0].out_label, plan.peers[0].in_label);
    let transit = blocks.next().and_then(|b| b.split("```").next()).unwrap();
    let relay = example.replace("to-relay", "to-a").split("[[peer]]").next().unwrap().to_owned();
    let link_b = relay[relay.find("[[link]]").unwrap()..].replace("to-a", "to-b").replace("10.0.0.1:", "10.0.1.1:");
    let plan = text_only(&format!("{relay}{link_b}{transit}")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((plan.links.len(), plan.transits.len()), (2, 1));
    // The relay is the station's neighbour, and both are in the README's picture.
    let row = &plan.transits[0];
    assert_eq!((row.a.in_label, row.a.out_label), (out, back));
    let picture = include_str!("../../../README.md");
    for part in [
        format!("forward label {out}, backward label {back}"),
        format!("swap {out} → {}", row.b.out_label),
        format!("pop {} → QUIC", row.b.out_label),
    ] {
        assert!(picture.contains(&part), "{part}");
    }
}
