//! A `sim` link: a good one, and every way to spoil it.

use std::time::Duration;

use florelay_dataplane::plan::SimPlan;
use florelay_impair::{CorruptMode, LinkModel, Loss, Nanos};

use super::*;

const GOOD: &str = r#"version = "1.0"

[node]
name = "station-a"
realm = "demo.rete"
certificate = "pki/station-a.crt"
key = "pki/station-a.key"
trust = "pki/ca.crt"
inbox = "inbox"
state-dir = "state"

[[link]]
name = "to-b"
adapter = "sim"
mtu = 1500
rate = "10 Mbit/s"
liveness = { key-file = "link.key" }

[link.sim]
socket = "link/a"
peer = "link/b"
rate = "8 Mbit/s"
queue = "64 kB"
delay = "100 ms"
jitter = "5 ms"
loss = { p = "1 %", q = "16.7 %" }
duplicate = "3 %"
corrupt = "0.5 %"
damaged = "deliver"
reorder = { share = "1 %", by = "7 ms" }
period = "60 s"
steps = [{ at = "20 s", rate = "1 Mbit/s", loss = "2 %" }, { at = "40 s", delay = "20 ms" }]
outages = [{ from = "10 s", to = "15 s" }, { from = "50 s", to = "51 s" }]
seed = 7

[[peer]]
name = "station-b"
link = "to-b"
out-label = 100
in-label = 200
"#;

fn links(text: &str) -> Vec<SimPlan> {
    let plan = text_only(text).unwrap_or_else(|refusal| panic!("{refusal}"));
    assert_eq!(plan.peers[0].quic_mtu, 1460, "as over IPv4");
    let sims = plan.links.into_iter().filter_map(|link| match link.adapter {
        AdapterPlan::Sim(sim) => Some(*sim),
        _ => None,
    });
    sims.collect()
}

#[test]
fn a_good_one_becomes_its_plan() {
    let second = |s: u64| Nanos(s * 1_000_000_000);
    let model = LinkModel {
        rate_bps: Some(8_000_000),
        rate_steps: vec![(second(20), Some(1_000_000))],
        queue_bytes: 64_000,
        delay: Duration::from_millis(100),
        delay_steps: vec![(second(40), Duration::from_millis(20))],
        jitter: Duration::from_millis(5),
        loss: Loss::GilbertElliott { to_bad: 0.01, to_good: 0.167, in_good: 0.0, in_bad: 1.0 },
        loss_steps: vec![(second(20), Loss::Bernoulli(0.02))],
        duplicate: 0.03,
        corrupt: 0.005,
        corrupt_mode: CorruptMode::Deliver,
        reorder: 0.01,
        reorder_delay: Duration::from_millis(7),
        outages: vec![(second(10), second(15)), (second(50), second(51))],
        period: Duration::from_secs(60),
    };
    assert_eq!(model.check(), Ok(()));
    let [socket, peer] = ["/etc/florelay/link/a", "/etc/florelay/link/b"].map(PathBuf::from);
    assert_eq!(links(GOOD), [SimPlan { socket, peer, model, seed: 7 }]);
}

#[test]
fn little_is_enough() {
    let from = GOOD.find("rate = \"8").unwrap();
    let to = GOOD.find("\n[[peer]]").unwrap();
    let text = format!("{}{}", &GOOD[..from], &GOOD[to..]);
    let sims = links(&text);
    assert_eq!((&sims[0].model, sims[0].seed), (&LinkModel::default(), 0));
    let refusal = text_only(&text.replace("peer = \"link/b\"", "peer = \"link/b\"\nqueue = \"1 kB\"")).unwrap_err();
    assert!(
        refusal.0[0].key.ends_with("sim.queue") && refusal.0[0].message.contains("no queue without a rate"),
        "{refusal}"
    );
    // 200 ms at the highest rate of all steps.
    let text = text.replace(
        "peer = \"link/b\"",
        "peer = \"link/b\"\nrate = \"1 Mbit/s\"\nsteps = [{ at = \"1 s\", rate = \"8 Mbit/s\" }]",
    );
    assert_eq!(links(&text)[0].model.queue_bytes, 200_000);
}

#[test]
fn every_error_names_line_key_and_hint() {
    for (from, to, key, part) in [
        ("adapter = \"sim\"", "adapter = \"udp\"", "link[to-b].sim", "only a link with adapter = \"sim\""),
        ("mtu = 1500", "mtu = 1500\nlocal = \"10.0.0.1:1\"", "link[to-b].local", "has no addresses"),
        ("mtu = 1500", "mtu = 1239", "link[to-b].mtu", "at least 1240"),
        (
            "mtu = 1500",
            "mtu = 1500\ninterface = \"eth0\"",
            "link[to-b].interface",
            "only a link with adapter = \"xdp\"",
        ),
        ("[link.sim]", "[link.simm]", "link[to-b].simm", "did you mean \"sim\"?"),
        ("socket = \"link/a\"", "socket = \"link/b\"", "link[to-b].sim.peer", "the same socket"),
        ("socket = \"link/a\"", "socket = \"\"", "link[to-b].sim.socket", "not a path"),
        ("rate = \"8 Mbit/s\"", "rate = \"8 Mbits\"", "link[to-b].sim.rate", "unknown unit"),
        ("queue = \"64 kB\"", "queue = 64", "link[to-b].sim.queue", "a quantity with a unit"),
        ("delay = \"100 ms\"", "delay = \"2 h\"", "link[to-b].sim.delay", "out of range"),
        ("loss = { p = \"1 %\", q = \"16.7 %\" }", "loss = \"0.02\"", "link[to-b].sim.loss", "has no unit"),
        ("loss = { p = \"1 %\", q = \"16.7 %\" }", "loss = \"101 %\"", "link[to-b].sim.loss", "too large"),
        ("p = \"1 %\", q = \"16.7 %\"", "p = \"1 %\", q = \"0 %\"", "link[to-b].sim.loss.q", "never ends"),
        ("p = \"1 %\", q = \"16.7 %\"", "p = \"1 %\"", "link[to-b].sim.loss.q", "is missing"),
        (
            "p = \"1 %\", q = \"16.7 %\"",
            "p = \"1 %\", r = \"1 %\", q = \"5 %\"",
            "link[to-b].sim.loss.r",
            "unknown key",
        ),
        ("damaged = \"deliver\"", "damaged = \"pass\"", "link[to-b].sim.damaged", "drop, deliver"),
        (", by = \"7 ms\" }", " }", "link[to-b].sim.reorder.by", "is missing"),
        ("period = \"60 s\"", "period = \"30 s\"", "link[to-b].sim.steps[1].at", "beyond the period"),
        ("period = \"60 s\"", "period = \"1 us\"", "link[to-b].sim.period", "1 ms to"),
        ("at = \"40 s\"", "at = \"20 s\"", "link[to-b].sim.steps[1].at", "not later"),
        (", delay = \"20 ms\" }", " }", "link[to-b].sim.steps[1]", "changes nothing"),
        ("from = \"10 s\"", "from = \"15 s\"", "link[to-b].sim.outages[0].to", "not later"),
        ("from = \"50 s\"", "from = \"15 s\"", "link[to-b].sim.outages[1].from", "not later"),
        ("seed = 7", "seed = -1", "link[to-b].sim.seed", "out of range"),
    ] {
        let at = GOOD.find(from).unwrap_or_else(|| panic!("{from} is not in the good text"));
        let text = format!("{}{to}{}", &GOOD[..at], &GOOD[at + from.len()..]);
        let refusal = text_only(&text).expect_err(to);
        let found = refusal.0.iter().find(|d| d.key == key).unwrap_or_else(|| panic!("{to}: {refusal}"));
        let said = format!("{} {}", found.message, found.hint);
        assert!(
            said.contains(part) && found.line > 11 && found.column > 0 && !found.hint.is_empty(),
            "{to}: {refusal}"
        );
        assert!(refusal.0.len() <= 3, "one mistake, few errors: {refusal}");
    }
    let refusal = text_only(&GOOD.replace("[link.sim]", "[link.sim.sim]")).unwrap_err();
    assert!(refusal.0.iter().any(|d| d.key == "link[to-b].sim.socket" && d.line == 19), "{refusal}");
    let long = GOOD.replace("link/a", &"l".repeat(100));
    assert!(text_only(&long).unwrap_err().0[0].message.contains("at most 107"));
}

#[test]
fn two_links_without_addresses_do_not_collide() {
    let from = GOOD.find("[[link]]").unwrap();
    let to = GOOD.find("[[peer]]").unwrap();
    let second = GOOD[from..to].replace("to-b", "to-c").replace("link/", "other/");
    assert_eq!(links(&format!("{GOOD}\n{second}")).len(), 2);
}
