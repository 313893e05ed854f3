//! Arguments as people write them, and the codes that scripts see.

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use florelay_dataplane::ipc::{
    ClockStatus, DirectionStatus, FrameAccount, LinkStatus, MeasuredStatus, PeerStatus, RttStatus, Status,
    TransferStatus, WindowStatus, WorkerStatus,
};
use florelay_dataplane::plan::Rung;

use super::args::{Cli, ControlArgs, LinkVerb, Rate, Verb};
use super::transfer_args::{SendArgs, TransferVerb};
use super::*;

fn parse(line: &str) -> Result<Verb, clap::Error> {
    Cli::try_parse_from(std::iter::once("florelay").chain(line.split(' '))).map(|c| c.verb)
}

fn words(words: &[&str]) -> Result<Verb, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"florelay").chain(words)).map(|c| c.verb)
}

#[test]
fn the_command_tree_is_consistent_and_every_verb_has_an_example() {
    let mut command = Cli::command();
    command.clone().debug_assert();
    command.build();
    fn leaves(command: &clap::Command, found: &mut usize) {
        for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
            if sub.has_subcommands() {
                leaves(sub, found);
            } else {
                let example = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(example.contains("florelay "), "{} has no example", sub.get_name());
                *found += 1;
            }
        }
    }
    let mut found = 0;
    leaves(&command, &mut found);
    assert_eq!(found, 25);
    assert!(command.render_long_help().to_string().contains("78   the configuration is refused"));
}

/// clap breaks long lines itself. A line that was broken by hand is broken twice on a narrow terminal, and an example that
/// is broken cannot be copied.
#[test]
fn help_fits_a_terminal_of_80_columns() {
    fn every<'c>(command: &'c clap::Command, found: &mut Vec<&'c clap::Command>) {
        found.push(command);
        command.get_subcommands().for_each(|sub| every(sub, found));
    }
    let command = Cli::command().max_term_width(80);
    let mut commands = Vec::new();
    every(&command, &mut commands);
    for command in commands {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines: Vec<_> = after.lines().collect();
        for (line, next) in lines.iter().zip(lines.iter().skip(1).chain([&""])) {
            let indented = line.starts_with("  ");
            assert!(!indented || line.chars().count() <= 80, "{}: too long: {line}", command.get_name());
            let broken = !indented && !line.is_empty() && !next.is_empty() && !next.starts_with("  ");
            assert!(!broken, "{}: broken by hand: {line}", command.get_name());
        }
    }
}

#[test]
fn contacts_are_said_by_file_map_and_epoch() {
    let import = ["contacts", "import", "plan.json", "--map", "1:10=up", "--epoch", "2026-11-21T12:34:56Z"];
    let Ok(Verb::Contacts(args::ContactsVerb::Import { maps, epoch, toml, .. })) = words(&import) else { panic!() };
    assert_eq!((maps[0].source, maps[0].dest, maps[0].link.as_str(), toml), (1, 10, "up", false));
    assert_eq!(epoch, Some(1_795_264_496_000_000_000));
    for wrong in [
        &["contacts", "import", "plan.json"][..],
        &["contacts", "import", "plan.json", "--map", "1-10=up"],
        &["contacts", "import", "plan.json", "--map", "1:10=up", "--epoch", "2026-11-21T12:34:56"],
        &["contacts", "import", "plan.json", "--map", "1:10=up", "--epoch", "0 ]"],
        &["contacts", "set", "up"],
        &["contacts", "set", "up", "passes.toml", "--always"],
    ] {
        assert!(words(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_cause_is_said_once() {
    let cause = std::io::Error::from_raw_os_error(2);
    let error = anyhow::Error::from(crate::pki::PkiError::File("ca.crt".into(), cause));
    assert_eq!(explain(&error), "ca.crt: No such file or directory (os error 2)");
    assert_eq!(explain(&error.context("issuing")), "issuing: ca.crt: No such file or directory (os error 2)");
}

#[test]
fn verbs_parse() {
    let Verb::Send(SendArgs { to, priority, id, json, target, .. }) = parse(
        "send f.raw --to station-b --priority 80 --id 6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11 --socket /run/x --json",
    )
    .unwrap() else {
        panic!()
    };
    assert_eq!((to.as_str(), priority, json), ("station-b", 80, true));
    assert_eq!(id.unwrap().as_u128() >> 96, 0x6b1f_3f5e);
    assert_eq!(target.socket.unwrap().to_str(), Some("/run/x"));
    let args = ["send", "-r", "photos", "f", "--to", "b", "--attribute", "a=b=c", "--deadline", "2h", "--detach"];
    let Verb::Send(args) = words(&args).unwrap() else { panic!() };
    assert_eq!((args.files.len(), args.recursive, args.detach), (2, true, true));
    assert_eq!(args.attributes, [("a".to_owned(), "b=c".to_owned())]);
    let now = florelay_dataplane::wall::now_unix_ns();
    assert!(args.deadline.unwrap() > now && args.deadline.unwrap() <= now + 7_200_000_000_000);
    let Verb::Send(args) = words(&["send", "f", "--to", "b", "--deadline", "2026-11-21T12:34:56Z"]).unwrap() else {
        panic!()
    };
    assert_eq!(args.deadline, Some(1_795_264_496_000_000_000));
    let Verb::Transfer(TransferVerb::Priority { priority, which }) = parse("transfer priority 80 6b1f 77a0").unwrap()
    else {
        panic!()
    };
    assert_eq!((priority, which.ids.len()), (80, 2));
    let Verb::Link(LinkVerb::Set { rate, burst, .. }) =
        words(&["link", "set", "to-relay", "--rate", "2.5 Mbit/s", "--burst", "15 kB"]).unwrap()
    else {
        panic!()
    };
    assert_eq!((rate, burst), (Rate(Some(2_500_000)), Some(15_000)));
    let Verb::Link(LinkVerb::Set { rate, burst, .. }) = parse("link set l --rate uncapped").unwrap() else { panic!() };
    assert_eq!((rate, burst), (Rate(None), None));
    let Verb::C2 { count, interval, message, .. } = parse("c2 --to b --count 3 --interval 20ms ping").unwrap() else {
        panic!()
    };
    assert_eq!((count, interval, message.as_str()), (3, Duration::from_millis(20), "ping"));
    assert!(matches!(
        parse("control --socket s --dataplane-stdin"),
        Ok(Verb::Control(ControlArgs { dataplane: None, .. }))
    ));
}

#[test]
fn wrong_arguments_are_refused_with_a_reason() {
    for (line, part) in [
        (&["send", "f"][..], "--to"),
        (&["send", "f", "--to", "B"], "not allowed in a name"),
        (&["send", "f", "--to", "b", "--priority", "128"], "0..=127"),
        (&["send", "f", "--to", "b", "--id", "7"], "write a UUID"),
        (&["send", "f", "--to", "b", "--name", "../f"], "without a directory"),
        (&["send", "f", "--to", "b", "--name", ".."], "without a directory"),
        (&["send", "f", "--to", "b", "--name", ".x"], "no hidden files"),
        (&["send", "f", "--to", "b", "--name", "a\nb"], "without control characters"),
        (&["send", "f", "--to", "b", "--name", &"x".repeat(256)], "1 to 255 bytes"),
        (&["link", "set", "l", "--rate", "10"], "has no unit"),
        (&["link", "set", "l", "--rate", "0 bit/s"], "link down"),
        (&["c2", "--to", "b", "--count", "0", "x"], "--count"),
        (&["c2", "--to", "b", "--interval", "1", "x"], "has no unit"),
        (&["watch", "not-a-uuid"], "not-a-uuid"),
        (&["send", "--to", "b"], "<FILE>"),
        (&["send", "f", "--to", "b", "--attribute", "k"], "pass=4711"),
        (&["send", "f", "--to", "b", "--attribute", "path=/etc"], "send -r itself"),
        (&["send", "f", "--to", "b", "--deadline", "tomorrow"], "how long"),
        (&["stream", "--to", "b", "--resume"], "--id"),
        (&["stream", "--to", "b", "--size", "big"], "15 MB"),
        (&["recv", "--count", "0"], "--count"),
        (&["transfer", "cancel"], "<UUID>"),
        (&["transfer", "pause", "xyz"], "the beginning of one"),
        (&["transfer", "priority", "128", "6b1f"], "0..=127"),
        (&["control", "--socket", "s"], "--dataplane"),
        (&["check"], "--config"),
    ] {
        let error = words(line).expect_err(&line.join(" "));
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(part), "{line:?}: {error}");
    }
}

#[test]
fn errors_have_their_codes() {
    let missing = std::path::Path::new("/nonexistent/florelay.toml");
    assert_eq!(code_of(&local::check(missing, false, false).unwrap_err()), EXIT_CONFIG);
    assert_eq!(code_of(&local::up(missing).unwrap_err()), EXIT_CONFIG);
    let target = args::Target { socket: Some("/nonexistent/control.sock".into()), config: missing.into() };
    let error = command::status(&target, false).unwrap_err();
    assert_eq!(code_of(&error), EXIT_UNAVAILABLE);
    assert!(error.to_string().contains("florelay up"), "{error}");
    assert_eq!(code_of(&Exit::failed("no")), EXIT_FAILED);
    assert_eq!(code_of(&anyhow::anyhow!("?")), EXIT_INTERNAL);
}

fn measured() -> MeasuredStatus {
    let window = |expected, lost, reordered, loss_ppm, reorder_ppm| WindowStatus {
        expected,
        lost,
        reordered,
        loss_ppm: Some(loss_ppm),
        reorder_ppm: Some(reorder_ppm),
    };
    let away = window(500, 31, 0, 62_000, 0);
    MeasuredStatus {
        rtt: Some(RttStatus { smoothed_ns: 650_000_000, min_ns: 640_000_000, latest_ns: 655_000_000 }),
        jitter_ns: Some(3_000_000),
        from_neighbour: DirectionStatus { short: window(100, 0, 1, 0, 10_000), long: window(1000, 1, 5, 1000, 5000) },
        to_neighbour: Some(DirectionStatus { short: away, long: away }),
        clock: Ok(ClockStatus {
            error_ns: -3_200_000,
            bound_ns: 20_000_000,
            to_neighbour_ns: 310_000_000,
            from_neighbour_ns: 330_000_000,
        }),
    }
}

fn example() -> Status {
    Status {
        node: "station-a".into(),
        snapshot: 3,
        uptime_ns: 90_000_000_000,
        links: vec![LinkStatus {
            name: "to-relay".into(),
            state: "degraded".into(),
            reason: Some("loss to the neighbour 6.2 %".into()),
            state_age_ns: 12_000_000_000,
            state_changes: 3,
            rung: Rung::DriverCopy,
            rung_reasons: vec![(Rung::ZeroCopy, "veth has no zero-copy".into())],
            impairments: None,
            queues: vec![0],
            rate_bps: Some(10_000_000),
            burst_bytes: 15_000,
            measured: measured(),
            contacts: None,
            counters: vec![("tx_bytes".into(), 1_500), ("rx_bytes".into(), 0), ("drop_ttl".into(), 4)],
        }],
        peers: vec![PeerStatus {
            name: "station-b".into(),
            state: "dark".into(),
            reason: Some("link to-relay is down".into()),
            rtt_ns: None,
            counters: vec![],
        }],
        workers: vec![WorkerStatus {
            index: 0,
            core: Some(1),
            frames: FrameAccount { total: 10, free: 9, leaked: 1, ..FrameAccount::default() },
            counters: vec![],
        }],
        transfers_running: 1,
        transfers: vec![TransferStatus {
            id: 1,
            peer: "station-b".into(),
            name: "a\x1b[2J.raw".into(),
            outgoing: true,
            priority: 9,
            kind: florelay_dataplane::ipc::TransferKind::File,
            spooled: 0,
            size: Some(200),
            confirmed: 50,
            age_ns: 1_000_000_000,
            stalled: true,
            ended: None,
            ..TransferStatus::default()
        }],
        capabilities: "0x2000".into(),
        note: Some("as of 3 s ago".into()),
    }
}

#[test]
fn status_for_people_says_why() {
    let text = report::status(&example(), None);
    for part in [
        "NOTE: as of 3 s ago",
        "up 1 min 30 s",
        "10 Mbit/s",
        "to-relay is degraded for 12 s (3 changes): loss to the neighbour 6.2 %",
        "650 ms",
        "to-relay round trip: shortest 640 ms, latest 655 ms, jitter 3 ms",
        "to-relay from the neighbour: lost 0.00 % / 0.10 %, out of order 1.00 % / 0.50 % of 100 / 1000 frames in 10 s / 60 s",
        "to-relay to the neighbour: lost 6.20 % / 6.20 % of 500 / 500 frames in 10 s / 60 s",
        "to-relay clock error between the ends: \u{2212}3.2 ms \u{b1} 20 ms",
        "to-relay one way: 310 ms to the neighbour, 330 ms from it, each \u{b1} 20 ms",
        "to-relay is not zero-copy: veth has no zero-copy",
        "to-relay drops: ttl 4",
        "dark (link to-relay is down)",
        "50 B of 200 B (25 %)",
        "STALLED",
        "1 frames of 10 are unaccounted for",
        "the dataplane has capabilities: 0x2000",
        "a?[2J.raw",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn status_says_how_long_a_transfer_took_and_cuts_its_name() {
    let mut status = example();
    status.transfers[0].name = "x".repeat(255);
    status.transfers[0].ended = Some(Ok([1; 32]));
    let text = report::status(&status, Some(120));
    assert!(text.contains("took 1 s  done") && text.contains("xxx…xxx"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert_eq!(report::status_json(&status)["transfers"][0]["name"], "x".repeat(255));
}

#[test]
fn status_for_machines_has_everything() {
    let value = report::status_json(&example());
    assert_eq!(value["links"][0]["counters"]["drop_ttl"], 4);
    assert_eq!(value["links"][0]["rung"], "driver-copy");
    let link = &value["links"][0];
    assert_eq!(
        (&link["state"], &link["state_age_ns"], &link["state_changes"]),
        (&"degraded".into(), &12_000_000_000_u64.into(), &3.into())
    );
    let measured = &link["measured"];
    assert_eq!((&link["rtt_ns"], &measured["rtt_min_ns"]), (&650_000_000.into(), &640_000_000.into()));
    assert_eq!(measured["from_neighbour"]["60s"]["loss_ppm"], 1000);
    assert_eq!(measured["to_neighbour"]["10s"]["lost"], 31);
    assert!(measured["to_neighbour"]["10s"].get("reordered").is_none(), "the neighbour does not say");
    assert_eq!(
        (&measured["clock"]["error_ns"], &measured["clock"]["bound_ns"]),
        (&(-3_200_000).into(), &20_000_000.into())
    );
    let mut unknown = example();
    unknown.links[0].measured.clock = Err("the clock of this node is not set".into());
    let value = report::status_json(&unknown);
    assert_eq!(
        value["links"][0]["measured"]["clock"],
        serde_json::json!({ "unknown": "the clock of this node is not set" })
    );
    let text = report::status(&unknown, None);
    assert!(text.contains("clock error between the ends: unknown, the clock of this node is not set"), "{text}");
    assert!(!text.contains("one way"), "one-way figures only beside the clock error:\n{text}");
    assert_eq!(value["transfers"][0]["id"], "00000000-0000-0000-0000-000000000001");
    assert_eq!(value["workers"][0]["frames"]["leaked"], 1);
    assert_eq!(value["note"], "as of 3 s ago");
    let mut done = example().transfers.remove(0);
    done.ended = Some(Ok([0xab; 32]));
    let line = report::transfer_json(&done);
    assert_eq!(line["blake3"], "ab".repeat(32));
    assert_eq!((&line["ended"], &line["error"]), (&serde_json::json!(true), &serde_json::Value::Null));
    assert!(report::transfer_done(&done, &[0xab; 32]).contains("50 B in 1 s, 400 bit/s"));
}

#[test]
fn latencies_are_summed_up() {
    let mut h = hdrhistogram::Histogram::new(3).unwrap();
    for ms in 1..=100_u64 {
        h.record(ms * 1_000_000).unwrap();
    }
    let value: serde_json::Value = serde_json::from_str(&report::latencies(&h, true)).unwrap();
    assert_eq!(value["count"], 100);
    let p50 = value["p50_ns"].as_f64().unwrap();
    assert!((49e6..52e6).contains(&p50), "{value}");
    assert!(report::latencies(&h, false).starts_with("100 acknowledged  min "));
}
