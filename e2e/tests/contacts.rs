//! Two short contacts, some seconds apart, on the first of two loopback links: nothing is on the link outside of them, and
//! a file that is too large for the first one is through in the second.

mod common;

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, Job, LinkPlan, Rate, root_or_skip};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};

const RATE_BPS: u64 = 20_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Start and end of the contacts in seconds from now.
const CONTACTS: [(u64, u64); 2] = [(3, 6), (10, 18)];
/// A frame may be seen this late: the capturing thread waits for its core like everybody else.
const SEEN_LATE: Duration = Duration::from_millis(700);
/// ETH_P_IP of if_ether.h, in network order as packet(7) wants it.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
/// Port of the first link (RFC 7510).
const PORT: u16 = 6635;

fn unix_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Sees every frame of the first link of these nodes, with the time at which it was seen.
struct Capture {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<u64>>,
}

impl Capture {
    fn start() -> Self {
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(Protocol::from_raw(IPV4.try_into().unwrap())),
        )
        .unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_millis(50)),
        )
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        // The harness derives loopback addresses from the process id: frames of other runs are not ours.
        let [_, x, y, z] = (std::process::id() << 2).to_be_bytes();
        let thread = thread::spawn(move || {
            let (mut seen, mut head) = (Vec::new(), [0; 28]);
            while !flag.load(Ordering::Relaxed) {
                let Ok((length, _)) = rustix::net::recv(&socket, &mut head, RecvFlags::empty()) else { continue };
                let ours = |at: usize| head[at] == 127 && head[at + 1..at + 3] == [x, y] && head[at + 3] & !3 == z;
                let port = u16::from_be_bytes([head[22], head[23]]);
                if length == head.len() && head[9] == 17 && ours(12) && ours(16) && port == PORT {
                    seen.push(unix_ns());
                }
            }
            seen
        });
        Self { stop, thread }
    }

    fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn nothing_is_outside_two_contacts_and_the_transfer_ends_in_the_second() {
    if !root_or_skip("capturing frames") {
        return;
    }
    let extra = "require-synchronised-clock = false".into();
    let line = Line::sockets(&LinkPlan { rate: Rate::Bps(RATE_BPS), extra, ..LinkPlan::default() });
    let base = unix_ns();
    let times = CONTACTS.map(|(start, end)| (base + start * SECOND_NS, base + end * SECOND_NS));
    let plan = line.topology.folder().join("passes.toml");
    let text = times.map(|(start, end)| {
        format!("[[contact]]\nstart = {}\nend = {}\nrate = \"20 Mbit/s\"\n", rfc3339(start), rfc3339(end))
    });
    fs::write(&plan, text.concat()).unwrap();
    for (node, link) in [(A, "to-relay"), (RELAY, "to-a")] {
        let mut set = line.program.command(&["contacts", "set", link, plan.to_str().unwrap(), "--config"]);
        done(set.arg(line.config(node)));
    }
    // More than the first contact carries, less than both.
    let file = line.file("image.raw", RATE_BPS / 8 * 5);
    let mut send = line.send(&file);
    let capture = Capture::start();
    let began = unix_ns();
    assert!(began < times[0].0 - SECOND_NS, "this machine is too slow for the plan");

    let waiting = line.until(A, "the link to wait for its contact", |status| {
        let reason = status.links()[0]["reason"].as_str().unwrap_or_default().to_owned();
        reason == format!("outside contact; next at {}", rfc3339(times[0].0))
    });
    assert_eq!(waiting.links()[0]["contacts"]["next"]["start_unix_ns"], times[0].0);
    line.until(A, "the first contact", |status| status.links()[0]["contacts"]["present"].is_object());
    let gap = line.until(A, "the end of the first contact", |status| {
        let contacts = &status.links()[0]["contacts"];
        contacts["present"].is_null() && contacts["last"].is_object()
    });
    let used = &gap.links()[0]["contacts"]["last"];
    assert!(used["usage"]["percent"].as_u64().unwrap() >= 50, "{used}");
    let show = line.program.command(&["contacts", "show", "to-relay", "--json", "--config"]);
    let shown = done({ show }.arg(line.config(A)));
    assert!(shown.contains(&rfc3339(times[1].0)), "{shown}");

    line.arrive(&mut send, &file, Deadline::after(PATIENCE));
    let ended = unix_ns();
    assert!(times[1].0 < ended && ended < times[1].1, "the transfer did not end in the second contact");
    line.until(A, "the end of the second contact", |status| {
        status.links()[0]["reason"].as_str().is_some_and(|reason| reason.contains("no further"))
    });
    let in_vain = line.program.c2(line.config(A), line.name(B), 1, 0, "in vain");
    let in_vain = Job::start(&in_vain, line.topology.folder(), "c2").unwrap();
    thread::sleep(SEEN_LATE);
    let after = unix_ns();
    let seen = capture.finish();
    drop(in_vain);

    let late = u64::try_from(SEEN_LATE.as_nanos()).unwrap();
    let inside = |at: u64| times.iter().any(|&(start, end)| start <= at && at <= end + late);
    let outside: Vec<_> = seen.iter().filter(|at| **at > began && !inside(**at)).map(|at| at - base).collect();
    assert!(outside.is_empty(), "frames at {outside:?} ns after the plan was set, of {}", seen.len());
    assert!(after > times[1].1 && seen.len() > 1_000, "{} frames seen", seen.len());
    for (start, _) in times {
        let first = seen.iter().find(|at| **at >= start).unwrap() - start;
        assert!(first < late, "the first probe came {first} ns after the start");
    }
    line.stop();
}

/// Runs a client to its end; what it printed.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// As the program writes times, by an independent tool: date(1).
fn rfc3339(unix_ns: u64) -> String {
    let (seconds, nanos) = (unix_ns / SECOND_NS, unix_ns % SECOND_NS);
    let output =
        Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S"]).output().unwrap();
    format!("{}.{nanos:09}Z", String::from_utf8(output.stdout).unwrap().trim())
}
