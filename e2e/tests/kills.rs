//! kill -9 of every process in turn, idle and during a transfer: ordinary traffic of the interface goes on, the node comes
//! back at once, the transfer arrives.

mod common;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{A, B, Line, PATIENCE, RELAY, SOON};
use florelay_e2e::{Deadline, Job, LinkPlan, Namespace, Process, Rate, root_or_skip};
use rustix::process::Signal;

/// Between two pings, and how long one may take.
const PING_INTERVAL: Duration = Duration::from_millis(10);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
const RATE_BPS: u64 = 40_000_000;

/// Ordinary traffic on the wire between station-a and the relay: datagrams through the kernel, each answered.
struct Pings {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, u64)>>,
}

impl Pings {
    fn start(line: &Line) -> Self {
        let bind = |node: usize, address: &str| {
            let namespace: &Namespace = line.topology.stations[node].namespace.as_ref().unwrap();
            let socket = namespace.enter(|| Ok(UdpSocket::bind(address)?)).unwrap();
            socket.set_read_timeout(Some(PING_TIMEOUT)).unwrap();
            socket
        };
        let (here, there) = (bind(A, "10.77.1.1:9000"), bind(RELAY, "10.77.1.2:9000"));
        here.connect("10.77.1.2:9000").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let answering = Arc::clone(&stop);
        let answer = move || {
            let mut buffer = [0; 64];
            while !answering.load(Ordering::Relaxed) {
                if let Ok((length, from)) = there.recv_from(&mut buffer) {
                    there.send_to(&buffer[..length], from).unwrap();
                }
            }
            (0, 0)
        };
        let asking = Arc::clone(&stop);
        let ask = move || {
            let (mut asked, mut lost) = (0_u64, 0);
            let mut buffer = [0; 64];
            while !asking.load(Ordering::Relaxed) {
                asked += 1;
                here.send(&asked.to_be_bytes()).unwrap();
                loop {
                    match here.recv(&mut buffer) {
                        Ok(8) if buffer[..8] == asked.to_be_bytes() => break,
                        // A late answer to an earlier one.
                        Ok(_) => {}
                        Err(error) => {
                            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                            lost += 1;
                            break;
                        }
                    }
                }
                std::thread::sleep(PING_INTERVAL);
            }
            (asked, lost)
        };
        Self { stop, threads: vec![std::thread::spawn(answer), std::thread::spawn(ask)] }
    }

    /// How many were asked, and how many not answered.
    fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(|thread| thread.join().unwrap());
        counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// Kills one process of a node; which one it was.
fn kill9(line: &Line, node: usize, verb: &str) -> Process {
    let victim = line.nodes[node].process(verb).unwrap_or_else(|| panic!("{} has no {verb}", line.name(node)));
    victim.signal(Signal::KILL);
    Deadline::after(SOON).wait("it to be dead", || Ok((!victim.runs()).then_some(()))).unwrap();
    victim
}

/// Waits until the supervisor has another one running.
fn replaced(line: &Line, node: usize, verb: &str, victim: Process) {
    let what = format!("another {verb} process");
    let another = || Ok(line.nodes[node].process(verb).filter(|process| *process != victim));
    Deadline::after(SOON).wait(&what, another).unwrap();
}

/// SIGKILL to the supervisor, and `florelay up` again at once.
fn kill_supervisor_and_start_again(line: &mut Line, node: usize) {
    let before = line.nodes[node].processes();
    kill9(line, node, "up");
    let station = &line.topology.stations[node];
    let pins = PathBuf::from("/sys/fs/bpf/florelay").join(&station.name);
    assert!(pins.exists(), "what holds the program went with the supervisor");
    let shown = station.namespace.as_ref().unwrap().ip().args(["-d", "link"]).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("prog/xdp"), "the program went with the supervisor");
    let again = line.topology.start(node).unwrap();
    line.nodes[node] = again;
    // The killed supervisor's children go by themselves.
    let gone = || Ok((!before.iter().any(|process| process.runs())).then_some(()));
    Deadline::after(SOON).wait("its children to end", gone).unwrap();
}

#[test]
fn an_idle_node_survives_the_death_of_any_process() {
    if !root_or_skip("an_idle_node_survives_the_death_of_any_process") {
        return;
    }
    let mut line = Line::af_xdp(&LinkPlan { rate: Rate::Bps(RATE_BPS), ..LinkPlan::default() });
    let pings = Pings::start(&line);
    for verb in ["control", "dataplane"] {
        let victim = kill9(&line, RELAY, verb);
        replaced(&line, RELAY, verb, victim);
        line.connected();
    }
    kill_supervisor_and_start_again(&mut line, RELAY);
    line.connected();
    let (asked, lost) = pings.finish();
    println!("{asked} pings, {lost} not answered");
    assert!(asked > 50 && lost == 0, "{lost} of {asked} pings were not answered");
    // What was taken over also goes.
    line.stop();
}

#[test]
fn a_transfer_survives_the_death_of_any_process() {
    if !root_or_skip("a_transfer_survives_the_death_of_any_process") {
        return;
    }
    let mut line = Line::af_xdp(&LinkPlan { rate: Rate::Bps(RATE_BPS), ..LinkPlan::default() });
    let pings = Pings::start(&line);
    // Confirmed when synced, in steps of 4 MiB: a step for each of the deaths, and some to spare.
    let file = line.file("image.raw", 80_000_000);
    let mut send = line.send(&file);
    let mut step = 0;
    let mut flows = |line: &Line, send: &mut Job, what: &str| {
        println!("{what}: {}", send.last_json()["confirmed"]);
        step += 1_000_000;
        let so_far = send.last_json()["confirmed"].as_u64().unwrap_or(0);
        line.confirmed(send, so_far + 1_000_000, Deadline::after(PATIENCE));
    };
    flows(&line, &mut send, "start");

    for node in [RELAY, B] {
        for verb in ["control", "dataplane"] {
            let victim = kill9(&line, node, verb);
            replaced(&line, node, verb, victim);
            flows(&line, &mut send, &format!("{verb} of {}", line.name(node)));
        }
        kill_supervisor_and_start_again(&mut line, node);
        flows(&line, &mut send, &format!("supervisor of {}", line.name(node)));
    }

    // At the sender, whose node finds the file again by itself: the client only looks for it, and the transfer goes on.
    for verb in ["control", "dataplane"] {
        let victim = kill9(&line, A, verb);
        replaced(&line, A, verb, victim);
        flows(&line, &mut send, &format!("{verb} of the sender"));
    }
    kill_supervisor_and_start_again(&mut line, A);
    flows(&line, &mut send, "supervisor of the sender");
    assert!(send.said().contains("looking for"), "{}", send.said());
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));

    let (asked, lost) = pings.finish();
    println!("{asked} pings, {lost} not answered");
    assert!(lost == 0, "{lost} of {asked} pings were not answered");
    line.assert_no_frame_leaked();
    line.stop();
}
