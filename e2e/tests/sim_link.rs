//! Two nodes on one machine over an impaired link, with the `sim` adapter: no namespaces, no AF_XDP, no privileges.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use florelay_e2e::{Deadline, Job, Node, Program, Status, again_as_nobody};

const PATIENCE: Duration = Duration::from_secs(120);
const FILE_BYTES: usize = 1_000_000;

/// A node's configuration, as somebody would write it who wants to try a link.
fn config(folder: &Path, own: &str, other: &str, labels: (u32, u32)) -> PathBuf {
    let path = folder.join(format!("{own}.toml"));
    let (out, back) = labels;
    let text = format!(
        r#"version = "1.0"
[node]
name = "{own}"
realm = "demo.rete"
certificate = "pki/{own}.crt"
key = "pki/{own}.key"
trust = "pki/ca.crt"
inbox = "{own}/inbox"
state-dir = "{own}/state"

[[link]]
name = "space"
adapter = "sim"
mtu = 1500
rate = "10 Mbit/s"
delay = "100 ms"
liveness = {{ key-file = "link.key" }}
sim = {{ socket = "link/{own}", peer = "link/{other}", delay = "100 ms", loss = "2 %" }}

[[peer]]
name = "{other}"
link = "space"
out-label = {out}
in-label = {back}
"#
    );
    fs::write(&path, text).unwrap();
    path
}

/// The link's counter at a node.
fn counter(status: &Status, name: &str) -> u64 {
    status.link_counter("space", name).unwrap_or_else(|| panic!("no {name} in {}", status.json()))
}

#[test]
fn files_and_commands_cross_an_impaired_link() {
    let program = Program::for_tests().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    program.pki_init("demo.rete", &at("pki")).unwrap();
    program.link_key(&at("link.key")).unwrap();
    for own in ["ground", "craft"] {
        program.pki_issue(own, &at("pki")).unwrap();
        for part in ["inbox", "state"] {
            fs::create_dir_all(at(own).join(part)).unwrap();
        }
    }
    let configs =
        [config(folder.path(), "ground", "craft", (100, 101)), config(folder.path(), "craft", "ground", (101, 100))];
    let mut nodes = Vec::new();
    for (config, name) in configs.iter().zip(["ground", "craft"]) {
        program.check(config).unwrap();
        nodes.push(Node::start(name, &program, None, config, &at(name).join("log"), &[]).unwrap());
    }
    for node in &mut nodes {
        let status = node.wait_connected(Deadline::after(PATIENCE)).unwrap();
        let link = &status.links()[0];
        assert_eq!((link["rung"].as_str(), link["impairments"].as_str()), (Some("sim"), Some("delay 100ms, loss 2 %")));
        let rtt = link["rtt_ns"].as_u64().unwrap();
        assert!(rtt >= 200_000_000, "a round trip of {rtt} ns");
    }

    let bytes: Vec<u8> = (0..FILE_BYTES).map(|i| (i * i / 255) as u8).collect();
    fs::write(at("image.raw"), &bytes).unwrap();
    let send = program.send(&configs[0], "craft", &at("image.raw"));
    let mut send = Job::start(&send, folder.path(), "send").unwrap();
    let mut commands =
        Job::start(&program.c2(&configs[1], "ground", 10, 50, "antenna stow"), folder.path(), "c2").unwrap();
    commands.wait(Deadline::after(PATIENCE)).unwrap();
    let acknowledged = &commands.json_lines()[0];
    assert_eq!(acknowledged["count"], 10);
    assert!(acknowledged["min_ns"].as_u64().unwrap() >= 200_000_000, "{acknowledged}");
    send.wait(Deadline::after(PATIENCE)).unwrap();
    assert!(fs::read(at("craft/inbox/image.raw")).unwrap() == bytes, "what arrived is not what was sent");

    for config in &configs {
        let status = program.status(config).unwrap();
        let names = ["sim_offered", "sim_delivered", "sim_lost", "sim_held"];
        let [offered, delivered, lost, held] = names.map(|name| counter(&status, name));
        assert_eq!(offered, delivered + lost + held, "{}", status.json());
        assert_eq!(counter(&status, "tx_frames"), offered, "every frame of the scheduler is on the link");
        let sent = if config == &configs[0] { FILE_BYTES as u64 / 1460 } else { 10 };
        assert!(offered > sent && lost > 0 && lost < offered / 10, "{}", status.json());
        assert_eq!(counter(&status, "adapter_tx_dropped"), 0);
    }
    for node in nodes {
        node.stop().unwrap();
    }
    // Nobody wants memory of AF_XDP here, so that it could not be had is no news.
    for name in ["ground", "craft"] {
        let log = fs::read_to_string(at(name).join("log")).unwrap();
        assert!(!log.contains("locked memory"), "{log}");
    }
    assert_eq!(fs::read_dir(at("link")).unwrap().count(), 0, "sockets are left");
}

#[test]
fn an_unprivileged_user_can_try_it() {
    again_as_nobody("files_and_commands_cross_an_impaired_link");
}
