//! What the processes of a running node hold, as the kernel says it: nothing, and frames move over AF_XDP all the same. And
//! what becomes of a node whose supervisor lacks something.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, End, LinkPlan, Process, Status, VethPair, root_or_skip};

/// SECCOMP_MODE_FILTER, linux/seccomp.h.
const FILTER: u64 = 2;
/// What the operator's page names for the supervisor.
const ENOUGH: &str = "--bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon,+setpcap,+ipc_lock,+net_bind_service";

/// /proc/PID/task/TID/status of every thread: the sets of capabilities, `NoNewPrivs` and `Seccomp`.
fn threads(process: Process) -> Vec<BTreeMap<String, u64>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).unwrap().flatten();
    let of = |text: String| {
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        let wanted = lines.filter(|(key, _)| key.starts_with("Cap") || ["NoNewPrivs", "Seccomp"].contains(key));
        wanted.map(|(key, value)| (key.to_owned(), u64::from_str_radix(value, 16).unwrap())).collect()
    };
    // A thread may end between the two looks.
    tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).map(of).collect()
}

/// No thread of the node's dataplane or control holds a capability, or can come by one.
fn assert_nothing_held(line: &Line, node: usize) {
    let threads = threads(line.nodes[node].process("dataplane").unwrap());
    // Workers, gateway, finisher, netlink, signals, …
    assert!(threads.len() >= 6, "{} threads", threads.len());
    for thread in threads {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(thread[set], 0, "{}: {thread:x?}", line.name(node));
        }
        assert_eq!((thread["NoNewPrivs"], thread["Seccomp"]), (1, FILTER), "{}: {thread:x?}", line.name(node));
    }
    for thread in threads_of_control(line, node) {
        assert!(thread.iter().all(|(key, value)| !key.starts_with("Cap") || *value == 0), "control: {thread:x?}");
    }
}

fn threads_of_control(line: &Line, node: usize) -> Vec<BTreeMap<String, u64>> {
    let threads = threads(line.nodes[node].process("control").unwrap());
    assert!(!threads.is_empty());
    threads
}

/// Starts station-a by `under`, with a socket as its last resort, and the others as they are.
fn line_with(under: &[&str]) -> Line {
    changed_line(under, "fallback = false", "fallback = true")
}

/// The same with another change in station-a's configuration.
fn changed_line(under: &[&str], from: &str, to: &str) -> Line {
    let mut line = Line::prepare(true, &LinkPlan::default());
    let config = fs::read_to_string(line.config(A)).unwrap();
    assert!(config.contains(from), "{config}");
    fs::write(line.config(A), config.replace(from, to)).unwrap();
    line.nodes.push(line.topology.start_under(A, under).unwrap());
    for node in [RELAY, B] {
        line.nodes.push(line.topology.start(node).unwrap());
    }
    line.connected();
    line
}

fn rung(line: &Line, node: usize) -> (String, Vec<(String, String)>) {
    Status::rung(&line.status(node).links()[0])
}

fn transfer(line: &Line) {
    let file = line.file("image.raw", 4_000_000);
    let mut send = line.send(&file);
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));
}

#[test]
fn the_dataplane_moves_frames_without_any_capability() {
    if !root_or_skip("the_dataplane_moves_frames_without_any_capability") {
        return;
    }
    let mut line = Line::af_xdp(&LinkPlan::default());
    for node in [A, RELAY, B] {
        assert_eq!(rung(&line, node).0, "driver-copy");
        assert_nothing_held(&line, node);
        assert_eq!(line.status(node).json()["capabilities"], "none");
    }
    transfer(&line);

    // Sockets that are opened anew come from the supervisor, too, as does the program.
    let [a, relay] = [A, RELAY].map(|node| line.topology.stations[node].namespace.as_ref().unwrap());
    assert!(a.ip().args(["link", "delete", "w0"]).status().unwrap().success());
    let end = |namespace, interface, address| End { namespace, interface, address };
    let ends = [end(a, "w0", Ipv4Addr::new(10, 77, 1, 1)), end(relay, "w1", Ipv4Addr::new(10, 77, 1, 2))];
    VethPair::connect(ends, 1, 1500).unwrap();
    for node in [A, RELAY] {
        let recycled = |status: &Status| status.worker_counter(0, "xdp_recycled") > 0;
        line.until(node, "sockets opened anew", |status| recycled(status) && status.is_connected());
        assert_eq!(rung(&line, node).0, "driver-copy");
    }
    line.connected();
    transfer(&line);
    for node in [A, RELAY, B] {
        assert_nothing_held(&line, node);
    }
    line.assert_no_frame_leaked();
    line.stop();
}

#[test]
fn a_worker_polls_busily_without_a_capability_of_its_own() {
    if !root_or_skip("a_worker_polls_busily_without_a_capability_of_its_own") {
        return;
    }
    let line = changed_line(&[], "poll = \"adaptive\"", "poll = \"busy\"");
    assert_nothing_held(&line, A);
    transfer(&line);
    let log = fs::read_to_string(&line.topology.stations[A].log).unwrap();
    assert!(!log.contains("no busy polling"), "{log}");
    line.stop();
}

#[test]
fn the_capabilities_that_the_operators_page_names_are_enough() {
    if !root_or_skip("the_capabilities_that_the_operators_page_names_are_enough") {
        return;
    }
    let under = ["setpriv", ENOUGH, "--"];
    let mut line = line_with(&under);
    assert_eq!(rung(&line, A).0, "driver-copy", "{:?}", rung(&line, A));
    assert_nothing_held(&line, A);
    transfer(&line);
    // Also to take over what a killed predecessor has left, and its ports as soon as they are free.
    line.nodes.remove(A).kill9().unwrap();
    line.nodes.insert(A, line.topology.start_under(A, &under).unwrap());
    line.connected();
    assert_eq!(rung(&line, A).0, "driver-copy", "{:?}", rung(&line, A));
    transfer(&line);
    line.stop();
}

#[test]
fn a_limit_on_memory_is_the_supervisors_matter() {
    if !root_or_skip("a_limit_on_memory_is_the_supervisors_matter") {
        return;
    }
    let little = ["prlimit", "--memlock=65536:65536", "setpriv"];
    let line = line_with(&[&little[..], &["--bounding-set=-sys_resource", "--"]].concat());
    assert_eq!(rung(&line, A).0, "driver-copy", "{:?}", rung(&line, A));
    assert_nothing_held(&line, A);
    transfer(&line);
    line.stop();

    let line = line_with(&[&little[..], &["--bounding-set=-sys_resource,-ipc_lock", "--"]].concat());
    let (rung, reasons) = rung(&line, A);
    assert_eq!(rung, "socket");
    assert!(reasons.iter().any(|(_, reason)| reason.contains("RLIMIT_MEMLOCK")), "{reasons:?}");
    transfer(&line);
    line.stop();
}

#[test]
fn without_net_raw_the_link_stands_on_a_socket_and_says_why() {
    if !root_or_skip("without_net_raw_the_link_stands_on_a_socket_and_says_why") {
        return;
    }
    let line = line_with(&["setpriv", "--bounding-set=-net_raw", "--"]);
    let (rung, reasons) = rung(&line, A);
    assert_eq!(rung, "socket");
    let why = |rung| &reasons.iter().find(|(higher, _)| higher == rung).unwrap().1;
    for rung in ["driver-copy", "generic"] {
        assert!(why(rung).contains("CAP_NET_RAW") && why(rung).contains("not permitted"), "{reasons:?}");
    }
    transfer(&line);
    line.stop();
}

#[test]
fn a_node_without_any_right_stands_on_sockets() {
    if !root_or_skip("a_node_without_any_right_stands_on_sockets") {
        return;
    }
    // Still root by number, so that it may read its keys and write its state; without a single capability.
    let line = line_with(&["setpriv", "--bounding-set=-all", "--"]);
    let (rung, reasons) = rung(&line, A);
    assert_eq!((rung.as_str(), reasons.len()), ("socket", 3), "{reasons:?}");
    assert_eq!(line.status(A).json()["capabilities"], "none");
    transfer(&line);
    line.stop();
}
