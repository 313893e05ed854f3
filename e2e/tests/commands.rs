//! The verbs of the command line against running nodes: what they answer, and how they refuse.

mod common;

use std::process::{Command, Output};

use common::{A, B, Line, RELAY};
use florelay_e2e::{LinkPlan, Program, Rate, root_or_skip};
use serde_json::Value;

/// Refused or failed; nobody there (`florelay --help`).
const FAILED: i32 = 1;
const UNAVAILABLE: i32 = 69;
/// A file that was named cannot be read (sysexits.h).
const NO_INPUT: i32 = 66;

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

fn verb(program: &Program, arguments: &[&str], config: &std::path::Path) -> Command {
    let mut command = program.command(arguments);
    command.arg("--config").arg(config);
    command
}

#[test]
fn verbs_answer_and_refuse_with_reasons() {
    if !root_or_skip("verbs_answer_and_refuse_with_reasons") {
        return;
    }
    let line = Line::af_xdp(&LinkPlan { rate: Rate::Bps(100_000_000), ..LinkPlan::default() });
    let config = line.config(A).to_path_buf();
    let at_a = |arguments: &[&str]| run(&mut verb(&line.program, arguments, &config));

    // trace: hop 1 is the relay, hop 2 the peer, with round trips.
    let (code, out, err) = at_a(&["trace", line.name(B), "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let hops: Vec<Value> = out.lines().map(|hop| serde_json::from_str(hop).unwrap()).collect();
    let shown: Vec<_> = hops.iter().map(|hop| (hop["hop"].as_u64(), hop["node"].as_str(), &hop["last"])).collect();
    let (yes, no) = (Value::Bool(true), Value::Bool(false));
    assert_eq!(shown, [(Some(1), Some(line.name(RELAY)), &no), (Some(2), Some(line.name(B)), &yes)]);
    assert!(hops.iter().all(|hop| hop["rtt_ns"].as_u64().is_some_and(|rtt| rtt > 0)), "{out}");

    // c2: every message is acknowledged.
    let (code, out, err) = at_a(&["c2", "--to", line.name(B), "--count", "5", "--json", "antenna stow"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["count"], 5);

    // link set: takes effect, and shows.
    let (code, _, err) = at_a(&["link", "set", "to-relay", "--rate", "2 Mbit/s"]);
    assert_eq!(code, Some(0), "{err}");
    line.until(A, "the rate to show", |status| status.links()[0]["rate_bps"] == 2_000_000);

    // Names that nobody has: what was asked for is in the error, the exit code says "refused".
    let unknown: [&[&str]; 6] = [
        &["trace", "nobody"],
        &["c2", "--to", "nobody", "stow"],
        &["link", "set", "no-such-link", "--rate", "1 Mbit/s"],
        &["link", "down", "no-such-link"],
        &["link", "up", "no-such-link"],
        &["watch", "6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11"],
    ];
    for arguments in unknown {
        let name = arguments.iter().find(|word| ["nobody", "no-such-link"].contains(word) || word.len() == 36).unwrap();
        let (code, _, err) = at_a(arguments);
        assert_eq!(code, Some(FAILED), "{arguments:?}: {err}");
        assert!(err.contains(name), "{arguments:?}: {err}");
    }
    let missing = line.topology.folder().join("missing.raw");
    let (code, _, err) = run(&mut line.program.send(&config, line.name(B), &missing));
    assert_eq!(code, Some(NO_INPUT), "{err}");
    assert!(err.contains("missing.raw") && err.contains("No such file"), "{err}");
    let file = line.file("small.raw", 1000);
    let (code, _, err) = run(&mut line.program.send(&config, "nobody", &file));
    assert_eq!(code, Some(FAILED), "{err}");
    assert!(err.contains("nobody"), "{err}");

    // Nobody there.
    line.stop_then(|line| {
        let (code, _, err) = run(&mut verb(&line.program, &["status"], line.config(A)));
        assert_eq!(code, Some(UNAVAILABLE), "{err}");
        assert!(err.contains("florelay up"), "{err}");
    });
}
