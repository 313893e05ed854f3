//! The link emulator on the real kernel: what it reports is what the stations saw. Needs root.
//!
//! ```text
//!   station A ── veth ── left · florelay-bench emulate · right ── veth ── station B
//! ```
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use florelay_bench::bed::Side;
use florelay_bench::emulate::child::{Emulator, Options};
use florelay_bench::emulate::report::{DirectionReport, Report};
use florelay_bench::middle::{LEFT, Middle, RIGHT, STATION};

/// Nothing has come for so long: nothing more will. Far longer than any delay here.
const QUIET: Duration = Duration::from_secs(1);
const PORT: u16 = 7000;
/// Ethernet, IPv4 and UDP headers.
const HEADERS: u64 = 14 + 20 + 8;
const PAYLOAD: usize = 500;

/// Without root: a visible SKIPPED, or a failure where CI=true.
fn can_run(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: needs root, and CI=true forbids skipping");
    // Not eprintln!, which the test harness hides when the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs root (namespaces, XDP, AF_XDP)");
    false
}

fn start(middle: &Middle, profile: &Path, folder: &Path) -> Emulator {
    let options = Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_florelay-bench")),
        namespace: Some(middle.emulator()),
        profile: profile.into(),
        left: LEFT.into(),
        right: RIGHT.into(),
        core: None,
        realtime: false,
        json: folder.join("report.json"),
    };
    Emulator::start(&options).unwrap()
}

/// A UDP socket at a station, in its namespace.
fn socket(middle: &Middle, side: Side, address: IpAddr) -> UdpSocket {
    let bound = middle.inside(side, || Ok(UdpSocket::bind((address, PORT))?)).unwrap();
    bound.set_read_timeout(Some(QUIET)).unwrap();
    bound
}

fn v4(middle: &Middle, side: Side) -> SocketAddr {
    (middle.address(side), PORT).into()
}

/// Frames that a station's interface has sent and received, by the kernel's count.
fn frames(middle: &Middle, side: Side) -> (u64, u64) {
    let read = || -> Result<String> { Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?) };
    let text = middle.inside(side, read).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{STATION}:"))).unwrap();
    let columns: Vec<u64> = line.split_whitespace().map(|column| column.parse().unwrap()).collect();
    (columns[9], columns[1])
}

/// How often each number came, and in which order; checks that none came before its time.
struct Received {
    order: Vec<u32>,
    copies: HashMap<u32, u32>,
}

fn receive(at: &UdpSocket, epoch: Instant, least: Duration) -> Received {
    let (mut order, mut copies) = (Vec::new(), HashMap::new());
    let mut buffer = [0; 2048];
    while let Ok(len) = at.recv(&mut buffer) {
        assert_eq!(len, PAYLOAD);
        let number = u32::from_le_bytes(*buffer.first_chunk().unwrap());
        let sent = Duration::from_nanos(u64::from_le_bytes(*buffer[4..].first_chunk().unwrap()));
        let took = epoch.elapsed() - sent;
        assert!(took >= least, "{number} took {took:?}");
        *copies.entry(number).or_insert(0) += 1;
        order.push(number);
    }
    Received { order, copies }
}

fn send(from: &UdpSocket, to: SocketAddr, epoch: Instant, count: u32) {
    let mut payload = [0x5a; PAYLOAD];
    for number in 0..count {
        payload[..4].copy_from_slice(&number.to_le_bytes());
        payload[4..12].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
        from.send_to(&payload, to).unwrap();
        if number % 10 == 9 {
            // The pace: 17 Mbit/s where nothing else runs, and above the link's rate also where much does.
            std::thread::sleep(Duration::from_micros(2500));
        }
    }
}

fn check(report: &DirectionReport, sent: u64, received: &Received) {
    assert!(report.conserved(), "{report:?}");
    assert_eq!((report.input.frames, report.input.bytes), (sent, sent * (PAYLOAD as u64 + HEADERS)), "{report:?}");
    assert_eq!(report.output.frames, received.order.len() as u64, "{report:?}");
    let dropped: u64 = report.dropped.causes().iter().map(|(_, count)| count.frames).sum();
    assert_eq!(sent - dropped, received.copies.len() as u64, "{report:?}");
    let twice = received.copies.values().filter(|copies| **copies == 2).count() as u64;
    assert_eq!(report.duplicated.frames, twice, "{report:?}");
    assert_eq!((report.under_way_frames, report.dropped.memory.frames), (0, 0), "{report:?}");
}

fn assert_whole(report: &Report) {
    assert_eq!((&report.failed, report.left.rx_dropped, report.right.rx_dropped), (&None, 0, 0), "{report}");
    assert_eq!((report.left.tx_refused, report.right.tx_refused), (0, 0), "{report}");
}

#[test]
fn what_is_reported_is_what_the_stations_saw() {
    if !can_run("emulate") {
        return;
    }
    const COUNT: u32 = 4000;
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile.toml");
    std::fs::write(
        &profile,
        r#"version = "1.0"
name = "test"
seed = 5

[left-to-right]
rate = "5 Mbit/s"
queue = "50 kB"
delay = "30 ms"
jitter = "2 ms"
loss = { p = "2 %", q = "40 %" }
duplicate = "3 %"
corrupt = "1 %"
damaged = "drop"
outages = [{ from = "600 ms", to = "700 ms" }]

[right-to-left]
delay = "10 ms"
loss = "5 %"
reorder = { share = "5 %", by = "5 ms" }
"#,
    )
    .unwrap();
    let middle = Middle::new().unwrap();
    middle.quiet().unwrap();
    let [a, b] = [Side::A, Side::B].map(|side| socket(&middle, side, middle.address(side).into()));
    // What a station said before the emulator was there is not in the report.
    let before = [Side::A, Side::B].map(|side| frames(&middle, side));
    let emulator = start(&middle, &profile, folder.path());
    let epoch = Instant::now();
    let (at_a, at_b) = std::thread::scope(|scope| {
        let at_b = scope.spawn(|| receive(&b, epoch, Duration::from_millis(30)));
        let at_a = scope.spawn(|| receive(&a, epoch, Duration::from_millis(10)));
        scope.spawn(|| send(&b, v4(&middle, Side::A), epoch, COUNT));
        send(&a, v4(&middle, Side::B), epoch, COUNT);
        (at_a.join().unwrap(), at_b.join().unwrap())
    });
    let report = emulator.stop().unwrap();
    assert_whole(&report);
    check(&report.left_to_right, COUNT.into(), &at_b);
    check(&report.right_to_left, COUNT.into(), &at_a);
    let [since_a, since_b] = [Side::A, Side::B].map(|side| {
        let (sent, received) = frames(&middle, side);
        (sent - before[side as usize].0, received - before[side as usize].1)
    });
    assert_eq!(since_a, (report.left_to_right.input.frames, report.right_to_left.output.frames));
    assert_eq!(since_b, (report.right_to_left.input.frames, report.left_to_right.output.frames));

    let dropped = &report.left_to_right.dropped;
    for (cause, count) in dropped.causes() {
        assert_eq!(count.frames > 0, cause != "memory", "{cause}: {report}");
    }
    assert!(at_b.order.is_sorted(), "jitter alone does not reorder");
    assert!(report.left_to_right.queue_high_bytes > 49_000 && report.right_to_left.queue_high_bytes == 0, "{report}");
    let overtaken = at_a.order.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(overtaken > 0 && report.right_to_left.reordered_frames > 100, "{overtaken} {report}");
}

#[test]
fn neighbours_find_each_other_through_it_over_both_families() {
    if !can_run("emulate, ARP and ND") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let middle = Middle::new().unwrap();
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/18-label-hops.toml");
    let emulator = start(&middle, &profile, folder.path());
    let epoch = Instant::now();
    for addresses in [["10.79.0.1", "10.79.0.2"], ["fd79::1", "fd79::2"]] {
        let [from, to] = addresses.map(|address| address.parse::<IpAddr>().unwrap());
        let (a, b) = (socket(&middle, Side::A, from), socket(&middle, Side::B, to));
        b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut payload = [0; PAYLOAD];
        a.send_to(&payload, (to, PORT)).unwrap();
        let (len, source) = b.recv_from(&mut payload).unwrap();
        assert_eq!((len, source), (PAYLOAD, (from, PORT).into()));
        drop((a, b));
    }
    assert!(epoch.elapsed() >= Duration::from_millis(4), "a question, an answer and a datagram take three delays");
    let report = emulator.stop().unwrap();
    assert_whole(&report);
    // ARP and ND both ways, and two datagrams.
    assert!(report.left_to_right.output.frames >= 4 && report.right_to_left.output.frames >= 2, "{report}");
    assert!(report.left_to_right.conserved() && report.right_to_left.conserved());
    assert_eq!(report.left_to_right.delay.min_us / 1000, 1, "{report}");
}

#[test]
fn what_cannot_be_emulated_is_refused_with_the_reason() {
    let program = env!("CARGO_BIN_EXE_florelay-bench");
    let run = |profile: &Path, left: &str| {
        let mut command = std::process::Command::new(program);
        command.args(["emulate", "--left", left, "--right", left, "--profile"]).arg(profile);
        let output = command.output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("bad.toml");
    std::fs::write(&profile, "version = \"1.0\"\nname = \"bad\"\n[both]\nloss = \"2\"\n").unwrap();
    let said = run(&profile, "lo");
    assert!(said.contains("bad.toml:4:8: both.loss: \"2\" has no unit") && said.contains("hint:"), "{said}");
    if can_run("emulate, refusals") {
        std::fs::write(&profile, "version = \"1.0\"\nname = \"good\"\n[both]\n").unwrap();
        let said = run(&profile, "nowhere0");
        assert!(said.contains("nowhere0"), "{said}");
    }
}
