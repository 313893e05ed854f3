//! The same three nodes over loopback sockets: no namespaces, no AF_XDP, no privileges.

mod common;

use std::fs;
use std::process::Command;

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, Job, LinkPlan, Rate, Status, again_as_nobody};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn sockets_carry_files_commands_and_traces() {
    let line = Line::sockets(&LinkPlan { rate: Rate::Bps(200_000_000), ..LinkPlan::default() });
    for node in [A, RELAY, B] {
        for link in line.status(node).links() {
            assert_eq!(Status::rung(link).0, "socket");
        }
    }
    let file = line.file("image.raw", 16_000_000);
    let mut send = line.send(&file);
    let client = |client: Command, name: &str| {
        let mut job = Job::start(&client, line.topology.folder(), name).unwrap();
        job.wait(Deadline::after(PATIENCE)).unwrap();
        job.json_lines()
    };
    let acknowledged = client(line.program.c2(line.config(A), line.name(B), 20, 10, "antenna stow"), "c2");
    assert_eq!(acknowledged[0]["count"], 20);
    let mut trace = line.program.command(&["trace", line.name(B), "--json", "--config"]);
    trace.arg(line.config(A));
    let hops = client(trace, "trace");
    assert_eq!([&hops[0]["node"], &hops[1]["node"]], [line.name(RELAY), line.name(B)]);
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));
    line.stop();
}

/// Sends one message of `length` bytes from station-a to station-b: exit code, and what was said.
fn c2(line: &Line, length: usize) -> (Option<i32>, String) {
    let done = line.program.c2(line.config(A), line.name(B), 1, 10, &"x".repeat(length)).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.code(), said)
}

#[test]
fn messages_of_every_length_are_written_once_also_when_the_receiver_is_killed() {
    let mut line = Line::sockets(&LinkPlan { rate: Rate::Bps(200_000_000), ..LinkPlan::default() });
    // Nothing, one byte, around what a datagram carries, the largest.
    let lengths = [0, 1, 1350, 1400, 1401, 1410, 1420, 1430, 1440, 1450, 1460, 1500, 20_000, 65_535, 65_536];
    for length in lengths {
        let (code, said) = c2(&line, length);
        assert_eq!(code, Some(0), "{length} bytes: {said}");
    }
    let (code, said) = c2(&line, 65_537);
    assert!(code == Some(1) && said.contains("65537 bytes") && said.contains("65536"), "{said}");

    let mut expected = lengths.to_vec();
    for length in [100, 30_000] {
        let victim = line.nodes[B].process("dataplane").unwrap();
        victim.signal(Signal::KILL);
        // Said while nobody is there, or while it comes back.
        let (code, said) = c2(&line, length);
        assert_eq!(code, Some(0), "{length} bytes: {said}");
        expected.push(length);
        let another = || Ok(line.nodes[B].process("dataplane").filter(|process| *process != victim));
        Deadline::after(PATIENCE).wait("another dataplane", another).unwrap();
        line.connected();
    }
    // Acknowledged is written, so nothing has to be waited for.
    let log = fs::read_to_string(line.topology.stations[B].inbox.join("messages.jsonl")).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let written: Vec<_> = entries.iter().map(|entry| entry["bytes"].as_u64().unwrap() as usize).collect();
    assert_eq!(written, expected);
    line.stop();
}

#[test]
fn an_unprivileged_user_can_run_all_of_it() {
    again_as_nobody("sockets_carry_files_commands_and_traces");
}
