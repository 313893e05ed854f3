//! Clients against the service of two nodes that have no network between them.

mod client;
mod station;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use florelay_dataplane::ipc::FailCode;

use self::client::{Caller, PATIENCE, Service, Value, read, write};
use self::station::{Line, Station};
use super::agent::Agent;
use super::clients::MAX_CLIENTS;
use super::server::MAX_CONNECTIONS;
use super::types::LinkState;
use super::{ThriftPlan, server, watch};

const DONE: &str = "stream_done";
const FAILED: &str = "stream_failed";

/// A node with the service.
struct Served {
    station: Station,
    at: SocketAddr,
}

impl Served {
    fn pair(max_concurrent: u32, plan: &ThriftPlan) -> [Self; 2] {
        let [a, b] = Line::pair(max_concurrent, 100);
        [Self::start(a, "b", plan), Self::start(b, "a", plan)]
    }

    fn start(station: Station, peer: &str, plan: &ThriftPlan) -> Self {
        let plan = ThriftPlan { peers: vec![(peer.into(), "link".into())], ..plan.clone() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let agent = Agent::new(plan, Arc::new(station.clone()));
        let watching = agent.clone();
        std::thread::spawn(move || watch::watch(&watching));
        // It has heard how things are.
        while agent.lock().link != Some(LinkState::Normal) {
            std::thread::yield_now();
        }
        std::thread::spawn(move || server::serve(&listener, &agent));
        Self { station, at }
    }

    fn client(&self) -> (Caller, Service) {
        let (mut caller, service) = (Caller::connect(self.at, true), Service::start());
        assert_eq!(caller.set_callback(&service.endpoint), "");
        (caller, service)
    }
}

fn plan() -> ThriftPlan {
    ThriftPlan { test_hooks: true, ..ThriftPlan::default() }
}

fn number(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Number(n)) => *n,
        other => panic!("{other:?}"),
    }
}

fn code(fields: &client::Fields) -> (i64, String) {
    match (&fields[&2], &fields[&3]) {
        (Value::Number(code), Value::Text(reason)) => (*code, reason.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn streams_of_all_sizes_arrive_and_are_reported_in_order() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut caller, sender), (_, receiver)) = (a.client(), b.client());
    for (id, size) in (1..).zip([0, 1, 512, 1024, 9000, 3 << 20]) {
        let data: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let declared = i64::from(size);
        assert_eq!(caller.stream_start(id, Some(declared), 0), Ok((0, None)), "running, and no position");
        let port = sender.started(id);
        let from = {
            let (name, fields) = receiver.next();
            assert_eq!(name, "stream_started");
            let Some(Value::Struct(info)) = fields.get(&2) else { panic!("{fields:?}") };
            assert_eq!(info.get(&1), Some(&Value::Number(declared)));
            assert_eq!(info[&2], Value::Map([("filename".to_owned(), "x".to_owned())].into()));
            SocketAddr::from(([127, 0, 0, 1], u16::try_from(number(fields.get(&3))).unwrap()))
        };
        let reading = std::thread::spawn(move || read(from));
        write(port, &data);
        assert!(reading.join().unwrap() == data, "{size} bytes");
        let done = loop {
            let (name, fields) = receiver.next();
            if name == DONE {
                break fields;
            }
            assert_eq!(name, "stream_progress", "and nothing else");
        };
        assert_eq!((number(done.get(&2)), number(done.get(&3))), (declared, declared));
        assert_eq!(number(sender.until(DONE, Some(id)).get(&2)), declared);
    }
}

#[test]
fn the_first_event_is_the_start_and_the_queue_follows() {
    let [a, _b] = Served::pair(1, &plan());
    let (mut caller, service) = a.client();
    for (id, (priority, answer)) in
        (1..).zip([(5, (0, None)), (10, (1, Some(1))), (30, (1, Some(2))), (20, (1, Some(3)))])
    {
        assert_eq!(caller.stream_start(id, Some(4096), priority), Ok(answer), "the position is the depth");
    }
    assert_eq!(service.next().0, "stream_started");
    let pending = [3, 4, 2].map(|id: u128| uuid::Uuid::from_u128(id).to_string()).to_vec();
    loop {
        let (name, fields) = service.next();
        assert_eq!(name, "queue_status_update");
        let Value::Struct(queue) = &fields[&1] else { panic!("{fields:?}") };
        assert_eq!([1, 2, 3].map(|id| number(queue.get(&id))), [1, 1, 100]);
        if queue[&4] == Value::List(pending.clone()) {
            break;
        }
    }
    // Two at once: the one of the highest priority begins.
    assert_eq!(caller.call("set_max_concurrent", |o| super::wire::write_i32(o, 1, 2)), Ok(None));
    assert_eq!(service.until("stream_started", None)[&1], Value::Text(pending[0].clone()));
}

#[test]
fn priorities_attributes_and_names_reach_the_node() {
    let [a, _b] = Served::pair(0, &plan());
    let (mut caller, _service) = a.client();
    caller.stream_start(7, None, 127).unwrap();
    let order = a.station.order(7);
    assert_eq!((order.priority, order.name.as_str(), order.to.as_str()), (127, super::STREAM_NAME, "b"));
    assert_eq!(order.attributes, [("filename".to_owned(), "x".to_owned())]);
}

#[test]
fn what_is_wrong_is_refused_by_an_exception() {
    let [a, _b] = Served::pair(0, &ThriftPlan::default());
    let mut stranger = Caller::connect(a.at, true);
    assert!(stranger.stream_start(1, None, 0).unwrap_err().1.contains("set_callback"));
    let (mut caller, _service) = a.client();
    caller.stream_start(1, None, 0).unwrap();
    assert!(caller.stream_start(1, None, 0).unwrap_err().1.contains("in use"));
    assert!(caller.stream_start(2, Some(-1), 0).unwrap_err().1.contains("size_bytes"));
    assert!(caller.stream_start(2, None, -1).unwrap_err().1.contains("priority"));
    let nonsense = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    for (name, text) in [nonsense("stream_start", "x"), nonsense("no_such_call", "")] {
        assert!(caller.call(&name, |o| super::wire::write_string(o, 1, &text)).is_err());
    }
    // Hooks are off.
    for (name, kind) in
        [("link_enable", ::thrift::protocol::TType::Bool), ("set_max_concurrent", ::thrift::protocol::TType::I32)]
    {
        let (unknown, reason) = caller
            .call(name, |o| {
                super::wire::write_field(o, 1, kind, |o| {
                    if name == "link_enable" { o.write_bool(true) } else { o.write_i32(1) }
                })
            })
            .unwrap_err();
        assert_eq!(unknown, 1, "{reason}");
    }
    assert_eq!(caller.plain("get_version"), Some(Value::Text("2026-Mar-05".into())), "and goes on");
}

#[test]
fn both_kinds_of_message_headers_are_read_and_answered_alike() {
    let [a, _b] = Served::pair(0, &plan());
    for strict in [true, false] {
        let mut caller = Caller::connect(a.at, strict);
        assert_eq!(caller.plain("get_version"), Some(Value::Text("2026-Mar-05".into())));
        assert_eq!(caller.plain("get_link_state"), Some(Value::Number(1)));
    }
}

#[test]
fn a_probe_of_a_port_costs_nothing() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut caller, sender), (_, receiver)) = (a.client(), b.client());
    for (id, declared) in [(1, Some(5)), (2, None)] {
        caller.stream_start(id, declared, 0).unwrap();
        let port = sender.started(id);
        drop(TcpStream::connect(port).unwrap());
        // One that stands open, too.
        let silent = TcpStream::connect(port).unwrap();
        let from = receiver.started(id);
        drop(TcpStream::connect(from).unwrap());
        write(port, b"hello");
        let mut got = Vec::new();
        // A probe may be in the listener's queue before this one.
        while got.is_empty() {
            got = read(from);
        }
        assert_eq!(got, b"hello");
        assert_eq!(number(receiver.until(DONE, Some(id)).get(&2)), 5);
        assert_eq!(number(sender.until(DONE, Some(id)).get(&2)), 5);
        drop(silent);
    }
}

#[test]
fn a_stream_without_a_size_and_without_a_byte_is_empty() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut caller, sender), (_, receiver)) = (a.client(), b.client());
    caller.stream_start(1, None, 0).unwrap();
    write(sender.started(1), b"");
    assert_eq!(read(receiver.started(1)), b"");
    assert_eq!(number(sender.until(DONE, Some(1)).get(&2)), 0);
}

#[test]
fn a_reader_that_breaks_early_may_come_again() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut caller, sender), (_, receiver)) = (a.client(), b.client());
    caller.stream_start(1, None, 0).unwrap();
    let mut writing = TcpStream::connect(sender.started(1)).unwrap();
    writing.write_all(b"first ").unwrap();
    let from = receiver.started(1);
    let mut broken = TcpStream::connect(from).unwrap();
    broken.read_exact(&mut [0; 3]).unwrap();
    // Unread bytes: a reset.
    drop(broken);
    writing.write_all(b"second").unwrap();
    drop(writing);
    let mut got = Vec::new();
    while got.is_empty() {
        got = read(from);
    }
    assert_eq!(got, b"first second");
    receiver.until(DONE, Some(1));
}

#[test]
fn who_never_connects_is_not_waited_for() {
    // One end is impatient: which of two gives up first would be luck.
    let [a, b] = Line::pair(0, 100);
    let impatient = ThriftPlan { connect_timeout: Duration::from_millis(200), ..plan() };
    let (a, b) = (Served::start(a, "b", &impatient), Served::start(b, "a", &plan()));
    let ((mut caller, service), (mut other, far)) = (a.client(), b.client());
    caller.stream_start(1, None, 0).unwrap();
    let failed = service.until(FAILED, Some(1));
    assert_eq!(code(&failed).0, 0, "SenderClosed: {failed:?}");
    assert!(code(&failed).1.contains("nobody has connected"));
    far.until(FAILED, Some(1));
    // The reader, too.
    other.stream_start(2, None, 0).unwrap();
    write(far.started(2), b"x");
    assert_eq!(code(&service.until(FAILED, Some(2))).0, 3, "Timeout");
    far.until(FAILED, Some(2));
}

#[test]
fn an_end_that_was_missed_is_asked_for() {
    let [a, _b] = Served::pair(0, &plan());
    let (mut caller, service) = a.client();
    caller.stream_start(1, None, 0).unwrap();
    service.started(1);
    a.station.silence();
    a.station.fail(1, FailCode::LinkFailed, "given up");
    assert_eq!(code(&service.until(FAILED, Some(1))), (1, "given up".to_owned()));
    assert_eq!(caller.plain("get_link_state"), Some(Value::Number(1)), "it is heard again");
}

#[test]
fn more_than_was_declared_fails_and_so_does_less() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut caller, sender), (_, receiver)) = (a.client(), b.client());
    for (id, data) in [(1, &b"toolong"[..]), (2, b"abc")] {
        caller.stream_start(id, Some(4), 0).unwrap();
        let (port, from) = (sender.started(id), receiver.started(id));
        let mut socket = TcpStream::connect(from).unwrap();
        let reading = std::thread::spawn(move || socket.read_to_end(&mut Vec::new()));
        write(port, data);
        let (kind, reason) = code(&sender.until(FAILED, Some(id)));
        assert!(kind == 99 && reason.contains("declared"), "{reason}");
        receiver.until(FAILED, Some(id));
        assert!(reading.join().unwrap().is_err(), "what is cut off does not look like an end");
    }
}

#[test]
fn a_start_in_an_outage_is_answered_and_the_rest_follows() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut caller, sender), (_, receiver)) = (a.client(), b.client());
    a.station.dark(true);
    assert_eq!(caller.stream_start(1, Some(5), 0).unwrap().0, 0);
    write(sender.started(1), b"hello");
    let from = receiver.started(1);
    let reading = std::thread::spawn(move || read(from));
    while caller.plain("get_link_state") != Some(Value::Number(3)) {
        std::thread::yield_now();
    }
    let failed = sender.until("link_status_update", None);
    assert_eq!(failed[&1], Value::Number(3));
    a.station.dark(false);
    assert_eq!(reading.join().unwrap(), b"hello");
    sender.until(DONE, Some(1));
    // The receiver heard nothing of the link in between.
    assert_eq!(receiver.next().0, DONE);
}

#[test]
fn each_client_hears_of_its_own_streams_and_the_newest_receives() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut first, of_first), (mut second, of_second)) = (a.client(), a.client());
    let (_, older) = b.client();
    let (_, newer) = b.client();
    first.stream_start(1, Some(0), 0).unwrap();
    second.stream_start(2, Some(0), 0).unwrap();
    // A connection without a callback of its own: the newest of this machine.
    Caller::connect(a.at, true).stream_start(3, Some(0), 0).unwrap();
    for (service, id) in [(&of_first, 1), (&of_second, 2), (&of_second, 3)] {
        write(service.started(id), b"");
    }
    for id in [1, 2, 3] {
        assert_eq!(read(newer.started(id)), b"");
    }
    of_first.until(DONE, Some(1));
    of_second.until(DONE, Some(2));
    of_second.until(DONE, Some(3));
    assert!(older.is_quiet());
}

#[test]
fn a_stream_waits_for_somebody_to_be_there() {
    let [a, b] = Served::pair(0, &plan());
    let (mut caller, sender) = a.client();
    caller.stream_start(1, Some(2), 0).unwrap();
    write(sender.started(1), b"ab");
    let (_, receiver) = b.client();
    assert_eq!(read(receiver.started(1)), b"ab");
    sender.until(DONE, Some(1));
}

#[test]
fn a_client_that_registers_again_keeps_its_streams() {
    let [a, b] = Served::pair(0, &plan());
    let ((mut caller, sender), (_, receiver)) = (a.client(), b.client());
    caller.stream_start(1, Some(2), 0).unwrap();
    let port = sender.started(1);
    // The same endpoint, by another connection.
    let mut again = Caller::connect(a.at, true);
    assert_eq!(again.set_callback(&sender.endpoint), "");
    write(port, b"ab");
    assert_eq!(read(receiver.started(1)), b"ab");
    sender.until(DONE, Some(1));
}

#[test]
fn callbacks_that_cannot_be_reached_are_refused_with_the_reason() {
    let [a, _b] = Served::pair(0, &plan());
    let mut caller = Caller::connect(a.at, true);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(caller.set_callback(&free.to_string()).contains("cannot connect"));
    assert!(caller.set_callback("nowhere").contains("HOST:PORT"));
}

#[test]
fn clients_are_pinged_and_those_who_are_gone_make_room() {
    let [a, b] = Served::pair(0, &ThriftPlan { ping: Duration::from_millis(20), ..plan() });
    let (_kept, service) = a.client();
    for _ in 0..3 {
        assert_eq!(service.next().0, "ping");
    }
    drop(b);
    for _ in 0..2 * MAX_CLIENTS {
        let mut caller = Caller::connect(a.at, true);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        assert_eq!(caller.set_callback(&endpoint), "");
        drop(listener);
    }
}

#[test]
fn garbage_half_open_and_too_many_connections_disturb_nobody() {
    let [a, _b] = Served::pair(0, &plan());
    let (mut caller, _service) = a.client();
    let open: Vec<_> = (0..2 * MAX_CONNECTIONS).map(|_| TcpStream::connect(a.at).unwrap()).collect();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff], &[0, 0, 0, 3, b'x']]
    {
        let mut socket = TcpStream::connect(a.at).unwrap();
        // It may be closed at once.
        let _ = socket.write_all(garbage);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // Closed, whether in order or with bytes unread.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    assert_eq!(caller.plain("get_version"), Some(Value::Text("2026-Mar-05".into())), "who has called before stays");
    let (mut late, _) = a.client();
    assert!(late.stream_start(9, None, 0).is_ok());
    drop(open);
}

#[test]
fn test_hooks_do_what_they_say() {
    let [a, _b] = Served::pair(3, &plan());
    let mut caller = Caller::connect(a.at, true);
    let link_enable = |caller: &mut Caller, up| {
        caller.call("link_enable", |o| {
            super::wire::write_field(o, 1, ::thrift::protocol::TType::Bool, |o| o.write_bool(up))
        })
    };
    assert_eq!(link_enable(&mut caller, false), Ok(None));
    assert_eq!(link_enable(&mut caller, true), Ok(None));
    assert_eq!(a.station.admin(), [("link".to_owned(), false), ("link".to_owned(), true)]);
    let chunk = |caller: &mut Caller, n| caller.call("set_chunk_size_bytes", |o| super::wire::write_i32(o, 1, n));
    assert_eq!(chunk(&mut caller, 1024), Ok(None));
    assert!(chunk(&mut caller, 65_536).is_err());
}
