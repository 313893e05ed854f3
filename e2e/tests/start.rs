//! Starting a node on a machine that its configuration does not fit: at the first start it says precisely what is wrong and
//! ends, with nothing left behind; a dataplane that cannot start later is tried again. On loopback sockets, as anybody.

mod common;

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{A, Line, SOON};
use florelay_e2e::{Deadline, Job, LinkPlan, root_or_skip};
use rustix::process::Signal;

/// EX_CONFIG, sysexits.h.
const EX_CONFIG: i32 = 78;

/// Station-a's first link's address, out of its configuration.
fn local(line: &Line) -> String {
    let config = fs::read_to_string(line.config(A)).unwrap();
    let local = config.lines().find_map(|line| line.strip_prefix("local = ")).unwrap();
    local.trim_matches('"').to_owned()
}

fn change(line: &Line, from: &str, to: &str) {
    let config = fs::read_to_string(line.config(A)).unwrap();
    assert!(config.contains(from), "{config}");
    fs::write(line.config(A), config.replace(from, to)).unwrap();
    line.program.check(line.config(A)).unwrap();
}

/// The last that `florelay up` says before it ends, with no socket of its children left.
fn refused(line: &Line) -> String {
    let mut up = line.program.command(&["up", "--config"]);
    up.arg(line.config(A));
    let mut up = Job::start(&up, line.topology.folder(), "up").unwrap();
    let ended = up.wait_status(Deadline::after(SOON)).unwrap_or_else(|error| panic!("{error:#}: {}", up.said()));
    assert_eq!(ended.code(), Some(EX_CONFIG), "{}", up.said());
    line.assert_nothing_left();
    let said = up.said();
    assert!(!said.contains("started again") && !said.contains("ExitStatus"), "{said}");
    said.lines().last().unwrap().to_owned()
}

#[test]
fn a_port_that_is_taken_ends_the_first_start() {
    let line = Line::prepare(false, &LinkPlan::default());
    let local = local(&line);
    let taken = UdpSocket::bind(&local).unwrap();
    let said = refused(&line);
    assert!(said.contains(&format!("link to-relay: cannot bind {local}")) && said.contains("ss -ulpn"), "{said}");
    drop(taken);
    // Its own is free again.
    UdpSocket::bind(&local).unwrap();
}

#[test]
fn an_address_that_is_not_there_ends_the_first_start() {
    let line = Line::prepare(false, &LinkPlan::default());
    let local = local(&line);
    // TEST-NET-1, RFC 5737.
    change(&line, &format!("\"{local}\""), "\"192.0.2.77:6635\"");
    let said = refused(&line);
    assert!(said.contains("cannot bind 192.0.2.77:6635") && said.contains("no interface"), "{said}");
}

#[test]
fn a_core_that_does_not_exist_ends_the_first_start() {
    let line = Line::prepare(false, &LinkPlan::default());
    let config = fs::read_to_string(line.config(A)).unwrap();
    let workers = config.lines().find(|line| line.starts_with("workers = ")).unwrap();
    change(&line, workers, "workers = [{ core = 4095, poll = \"adaptive\" }]");
    let said = refused(&line);
    assert!(said.contains("worker 0 cannot be pinned to core 4095"), "{said}");
    UdpSocket::bind(local(&line)).unwrap();
}

#[test]
fn without_a_rung_and_without_fallback_the_first_start_ends() {
    if !root_or_skip("without_a_rung_and_without_fallback_the_first_start_ends") {
        return;
    }
    let line = Line::prepare(true, &LinkPlan::default());
    let mut node = line.topology.start_under(A, &["setpriv", "--bounding-set=-net_raw", "--"]).unwrap();
    let refused = format!("{:#}", node.wait_connected(Deadline::after(SOON)).unwrap_err());
    assert!(refused.contains("exit status: 78") && refused.contains("CAP_NET_RAW"), "{refused}");
    line.assert_nothing_left();
}

#[test]
fn a_port_that_is_taken_later_is_waited_for() {
    let line = Line::prepare(false, &LinkPlan::default());
    let local = local(&line);
    let node = line.topology.start(A).unwrap();
    let says = |what: &str, times: usize| {
        let log = &line.topology.stations[A].log;
        let look = || Ok((fs::read_to_string(log)?.matches(what).count() >= times).then_some(()));
        let waited = Deadline::after(SOON).wait(what, look);
        waited.unwrap_or_else(|error| panic!("{error:#}:\n{}", fs::read_to_string(log).unwrap()));
    };
    says("supervisor: running", 1);
    let taken = Deadline::after(SOON).wait("the port", || {
        // The next dataplane may be quicker; then that one goes, too.
        if let Some(dataplane) = node.process("dataplane") {
            dataplane.signal(Signal::KILL);
        }
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            if let Ok(taken) = UdpSocket::bind(&local) {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    });
    let taken = taken.unwrap();
    says("the dataplane cannot start; it is tried again", 2);
    says("signal: 9 (SIGKILL)", 1);
    assert!(node.processes()[0].runs(), "the supervisor has given up");
    let ran = fs::read_to_string(&line.topology.stations[A].log).unwrap().matches("supervisor: running").count();
    drop(taken);
    says("supervisor: running", ran + 1);
    node.stop().unwrap();
    line.assert_nothing_left();
}
