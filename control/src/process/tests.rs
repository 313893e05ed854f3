//! The control process over real sockets. The far end, [`StandIn`], stands in for the dataplane: a test plays it and
//! speaks `ipc` with control, but sends no packet anywhere.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{
    Answer, Failure, NodeEvent, Request, RequestBody, Response, Status, TransferOrder, TransferStatus,
};
use florelay_dataplane::ipc_codec::IpcStream;
use proptest::prelude::*;

use super::broker::{Broker, ClientId, Generation, Input, Output, Timing};
use super::server::{Dataplane, ListenError, listen, serve};

/// Nothing happens by time, however slow the machine: the copy is renewed at connection only.
const TIMING: Timing = Timing { status_timeout: Duration::from_secs(3600), status_interval: Duration::from_secs(3600) };

fn status(snapshot: u64) -> Box<Status> {
    Box::new(Status {
        node: "station-a".into(),
        snapshot,
        uptime_ns: 1,
        links: vec![],
        peers: vec![],
        workers: vec![],
        transfers: vec![],
        transfers_running: 0,
        capabilities: "none".into(),
        note: None,
    })
}

fn transfer(id: u128, confirmed: u64, ended: Option<Result<[u8; 32], Failure>>) -> Answer {
    Answer::Transfer(Box::new(TransferStatus {
        id,
        peer: "station-b".into(),
        name: "f".into(),
        outgoing: true,
        priority: 0,
        kind: florelay_dataplane::ipc::TransferKind::File,
        spooled: 0,
        size: Some(5),
        confirmed,
        age_ns: 1,
        stalled: false,
        ended,
        ..TransferStatus::default()
    }))
}

fn send_file(id: u128) -> RequestBody {
    RequestBody::SendFile { order: TransferOrder::new("station-b", id, "f", 0), path: None }
}

/// Plays the dataplane.
struct StandIn(IpcStream);

impl StandIn {
    /// Greets, and answers control's first question for the status, after which control is known to use this one.
    fn new(stream: UnixStream, snapshot: u64) -> Self {
        let stream = IpcStream::new(stream).unwrap();
        stream.greet().unwrap();
        let stand_in = Self(stream);
        let (tag, body, _) = stand_in.next();
        assert_eq!(body, RequestBody::Status);
        stand_in.answer(tag, Answer::Status(status(snapshot)));
        stand_in
    }

    fn next(&self) -> (u64, RequestBody, Option<OwnedFd>) {
        let (request, fd) = self.0.receive::<Request>().unwrap().expect("control closed the connection");
        (request.tag, request.body, fd)
    }

    fn answer(&self, tag: u64, body: Answer) {
        self.0.send(&Response { tag, body }, None).unwrap();
    }
}

struct Client(IpcStream);

impl Client {
    fn ask(&self, tag: u64, body: RequestBody) {
        self.0.send(&Request { tag, body }, None).unwrap();
    }

    fn answer(&self) -> (u64, Answer) {
        let (response, _) = self.0.receive::<Response>().unwrap().expect("control closed the connection");
        (response.tag, response.body)
    }
}

struct Control {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    dataplane: UnixListener,
}

impl Control {
    fn start() -> Self {
        Self::with(TIMING)
    }

    fn with(timing: Timing) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = (dir.path().join("state/control.sock"), dir.path().join("dataplane.sock"));
        let dataplane = UnixListener::bind(&path).unwrap();
        let listener = listen(&socket).unwrap();
        // Ends with the test process, as the control process ends with its own.
        thread::spawn(move || serve(listener, Dataplane::Path(path), timing));
        Self { _dir: dir, socket, dataplane }
    }

    fn stand_in(&self, snapshot: u64) -> StandIn {
        StandIn::new(self.dataplane.accept().unwrap().0, snapshot)
    }

    fn client(&self) -> Client {
        let stream = IpcStream::new(UnixStream::connect(&self.socket).unwrap()).unwrap();
        stream.greet().unwrap();
        Client(stream)
    }
}

fn file_with(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn a_file_descriptor_reaches_the_dataplane_and_progress_comes_back() {
    let control = Control::start();
    let (dataplane, client) = (control.stand_in(1), control.client());
    let file = file_with("hello");
    client.0.send(&Request { tag: 77, body: send_file(5) }, Some(file.as_fd())).unwrap();
    let (tag, body, fd) = dataplane.next();
    assert_eq!(body, send_file(5));
    let mut text = String::new();
    File::from(fd.expect("a descriptor")).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    for (confirmed, ended) in [(0, None), (3, None), (5, Some(Ok([7; 32])))] {
        dataplane.answer(tag, transfer(5, confirmed, ended.clone()));
        assert_eq!(client.answer(), (77, transfer(5, confirmed, ended)));
    }
    // It has ended: an answer under the old tag is nobody's, and the connection goes on.
    dataplane.answer(tag, transfer(5, 5, None));
    client.ask(78, RequestBody::Cancel { id: 5 });
    let (tag, body, fd) = dataplane.next();
    assert!(fd.is_none() && body == RequestBody::Cancel { id: 5 });
    dataplane.answer(tag, Answer::Done);
    assert_eq!(client.answer(), (78, Answer::Done));
}

#[test]
fn two_clients_with_the_same_tags_are_kept_apart() {
    let control = Control::start();
    let dataplane = control.stand_in(1);
    let (one, two) = (control.client(), control.client());
    one.ask(1, RequestBody::Watch { id: 1 });
    let (tag_one, ..) = dataplane.next();
    two.ask(1, RequestBody::Watch { id: 2 });
    let (tag_two, ..) = dataplane.next();
    assert_ne!(tag_one, tag_two);
    dataplane.answer(tag_two, transfer(2, 2, None));
    dataplane.answer(tag_one, transfer(1, 1, None));
    assert_eq!(one.answer(), (1, transfer(1, 1, None)));
    assert_eq!(two.answer(), (1, transfer(2, 2, None)));
    // One leaves; the other's answers still come.
    drop(one);
    let forgotten = RequestBody::Forget { of: tag_one };
    assert_eq!(dataplane.next().1, forgotten, "the dataplane need not tell it any more");
    dataplane.answer(tag_one, transfer(1, 2, None));
    dataplane.answer(tag_two, transfer(2, 3, None));
    assert_eq!(two.answer(), (1, transfer(2, 3, None)));
    // It has heard enough. Of what nobody has asked for there is nothing to forget.
    for of in [1, 1, 99] {
        two.ask(2, RequestBody::Forget { of });
    }
    // What a reader has is passed on, and nobody waits for an answer.
    let word = RequestBody::ReadUpTo { id: 2, reader: 5, offset: 7 };
    two.ask(4, word.clone());
    two.ask(3, RequestBody::Cancel { id: 2 });
    assert_eq!(dataplane.next().1, RequestBody::Forget { of: tag_two });
    assert_eq!(dataplane.next().1, word);
    assert_eq!(dataplane.next().1, RequestBody::Cancel { id: 2 });
}

#[test]
fn status_comes_from_the_copy_when_the_dataplane_is_gone_and_anew_when_it_returns() {
    let control = Control::start();
    let client = control.client();
    client.ask(1, RequestBody::Status);
    assert!(matches!(client.answer(), (1, Answer::Unavailable(why)) if why.contains("no earlier status")));

    let dataplane = control.stand_in(1);
    client.ask(2, RequestBody::Status);
    let (tag, ..) = dataplane.next();
    dataplane.answer(tag, Answer::Status(status(2)));
    assert_eq!(client.answer(), (2, Answer::Status(status(2))));

    // Gone in the middle of a request: the request fails, later ones too, status is the copy.
    client.ask(4, RequestBody::Watch { id: 9 });
    let _ = dataplane.next();
    drop(dataplane);
    assert!(matches!(client.answer(), (4, Answer::Unavailable(why)) if why.contains("has stopped")));
    client.ask(5, RequestBody::Cancel { id: 9 });
    assert!(matches!(client.answer(), (5, Answer::Unavailable(why)) if why.contains("not connected")));
    client.ask(6, RequestBody::Status);
    let (6, Answer::Status(kept)) = client.answer() else { panic!() };
    assert!(kept.snapshot == 2 && kept.note.unwrap().contains("not connected"));

    // Back: as if nothing had been, for the same client.
    let dataplane = control.stand_in(7);
    client.ask(7, RequestBody::Status);
    let (tag, ..) = dataplane.next();
    dataplane.answer(tag, Answer::Status(status(8)));
    assert_eq!(client.answer(), (7, Answer::Status(status(8))));
}

#[test]
fn status_comes_from_the_copy_when_the_dataplane_is_silent() {
    let control = Control::with(Timing { status_timeout: Duration::ZERO, ..TIMING });
    let (dataplane, client) = (control.stand_in(1), control.client());
    // The first status was sent before this answer on the same stream, so control has it.
    client.ask(1, RequestBody::Cancel { id: 1 });
    let (tag, ..) = dataplane.next();
    dataplane.answer(tag, Answer::Done);
    assert_eq!(client.answer(), (1, Answer::Done));
    client.ask(2, RequestBody::Status);
    let (2, Answer::Status(kept)) = client.answer() else { panic!() };
    assert!(kept.snapshot == 1 && kept.note.unwrap().contains("has not answered"));
}

#[test]
fn a_silent_dataplane_is_not_asked_again_and_again() {
    let start = Instant::now();
    let timing = Timing { status_timeout: Duration::from_secs(1), status_interval: Duration::from_secs(2) };
    let mut broker = Broker::new(start, timing);
    assert_eq!(broker.handle(start, Input::DataplaneUp(Generation(1))).len(), 1);
    for seconds in 1..60 {
        assert!(broker.poll(start + Duration::from_secs(seconds)).is_empty());
    }
    // Once it has answered, it is asked at the next turn.
    let later = start + Duration::from_secs(60);
    let first = Response { tag: 1, body: Answer::Status(status(1)) };
    assert!(broker.handle(later, Input::Answer(Generation(1), first)).is_empty());
    let outputs = broker.poll(later + timing.status_interval);
    assert!(matches!(&outputs[..], [Output::ToDataplane(r, None)] if r.body == RequestBody::Status), "{outputs:?}");
}

#[test]
fn the_dataplane_hears_what_nobody_waits_for_any_more() {
    let control = Control::start();
    let (dataplane, one, two) = (control.stand_in(1), control.client(), control.client());
    let asked = |client: &Client, tag, body: RequestBody| {
        client.ask(tag, body.clone());
        let (ours, got, _) = dataplane.next();
        assert_eq!(got, body);
        ours
    };
    let events = asked(&one, 1, RequestBody::Events);
    let watch = asked(&one, 2, RequestBody::Watch { id: 1 });
    let other = asked(&two, 2, RequestBody::Watch { id: 1 });
    // By the client's own tag, translated.
    one.ask(3, RequestBody::Forget { of: 2 });
    assert_eq!(dataplane.next().1, RequestBody::Forget { of: watch });
    dataplane.answer(watch, transfer(1, 1, None));
    dataplane.answer(events, Answer::Event(NodeEvent::Present));
    assert_eq!(one.answer(), (1, Answer::Event(NodeEvent::Present)));
    drop(one);
    assert_eq!(dataplane.next().1, RequestBody::Forget { of: events });
    dataplane.answer(other, transfer(1, 2, None));
    assert_eq!(two.answer(), (2, transfer(1, 2, None)));
}

#[test]
fn a_client_may_have_thirty_thousand_requests_under_way_and_no_more_than_is_said() {
    let now = Instant::now();
    let mut broker = Broker::new(now, TIMING);
    broker.handle(now, Input::DataplaneUp(Generation(1)));
    let mut ask = |client, tag| {
        let request = Request { tag, body: RequestBody::Watch { id: u128::from(tag) } };
        broker.handle(now, Input::Request(ClientId(client), request, None))
    };
    for tag in 0..32_768 {
        assert!(matches!(ask(1, tag)[..], [Output::ToDataplane(..)]));
    }
    assert!(matches!(&ask(1, 40_000)[..], [Output::ToClient(_, Response { tag: 40_000, body: Answer::Failed(_) })]));
    assert!(matches!(ask(2, 1)[..], [Output::ToDataplane(..)]));
    // Each answer makes room for one more.
    let ended = Response { tag: 2, body: transfer(0, 5, Some(Ok([0; 32]))) };
    assert_eq!(broker.handle(now, Input::Answer(Generation(1), ended)).len(), 1);
    let request = Request { tag: 1, body: RequestBody::Queues };
    assert!(matches!(broker.handle(now, Input::Request(ClientId(1), request, None))[..], [Output::ToDataplane(..)]));
    assert_eq!(broker.handle(now, Input::ClientGone(ClientId(1))).len(), 32_768);
    assert_eq!(broker.handle(now, Input::DataplaneDown(Generation(1), "test".into())).len(), 1);
}

#[test]
fn the_supervisor_passes_one_dataplane_after_the_other_and_ends_control() {
    let dir = tempfile::tempdir().unwrap();
    let listener = listen(&dir.path().join("control.sock")).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let control = thread::spawn(move || serve(listener, Dataplane::Passed(theirs), TIMING));
    let supervisor = IpcStream::new(ours).unwrap();
    let client = IpcStream::new(UnixStream::connect(dir.path().join("control.sock")).unwrap()).unwrap();
    client.greet().unwrap();
    let client = Client(client);
    let mut earlier = Vec::new();
    for snapshot in 1..=2 {
        let (near, far) = UnixStream::pair().unwrap();
        supervisor.send(&(), Some(far.as_fd())).unwrap();
        drop(far);
        let dataplane = StandIn::new(near, snapshot);
        client.ask(snapshot, RequestBody::Cancel { id: 1 });
        let (tag, ..) = dataplane.next();
        dataplane.answer(tag, Answer::Done);
        assert_eq!(client.answer(), (snapshot, Answer::Done));
        // The first one lingers: the second takes its place all the same.
        earlier.push(dataplane);
    }
    drop(supervisor);
    control.join().unwrap();
}

#[test]
fn the_socket_is_private_replaces_a_dead_one_and_never_a_live_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/control.sock");
    let first = listen(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(matches!(listen(&path), Err(ListenError::Taken(_))));
    drop(first);
    let _second = listen(&path).unwrap();
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    assert!(matches!(listen(&dir.path().join("x".repeat(120))), Err(ListenError::Io(..))));
}

#[test]
fn garbage_from_one_client_does_not_disturb_another() {
    let control = Control::start();
    let (dataplane, client) = (control.stand_in(1), control.client());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    runner
        .run(&(bytes, any::<bool>()), |(bytes, greeted)| {
            let mut raw = UnixStream::connect(&control.socket).unwrap();
            if greeted {
                // Garbage after a good beginning.
                IpcStream::new(raw.try_clone().unwrap()).unwrap().greet().unwrap();
            }
            // Control may close as soon as it has seen enough.
            let _ = raw.write_all(&bytes);
            let _ = raw.shutdown(std::net::Shutdown::Write);
            let _ = raw.read_to_end(&mut Vec::new());
            Ok(())
        })
        .unwrap();
    client.ask(1, RequestBody::SetAdmin { link: "l".into(), up: true });
    loop {
        let (tag, body, _) = dataplane.next();
        if matches!(body, RequestBody::SetAdmin { .. }) {
            dataplane.answer(tag, Answer::Done);
            break;
        }
    }
    assert_eq!(client.answer(), (1, Answer::Done));
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_holds_nobody_up() {
    let control = Control::start();
    let (dataplane, slow, quick) = (control.stand_in(1), control.client(), control.client());
    slow.ask(1, RequestBody::Watch { id: 1 });
    let (tag_slow, ..) = dataplane.next();
    quick.ask(1, RequestBody::Watch { id: 2 });
    let (tag_quick, ..) = dataplane.next();
    // More than a socket and a queue hold: 2000 × 64 KiB.
    let long = "x".repeat(64 << 10);
    let mut status = transfer(1, 0, None);
    if let Answer::Transfer(t) = &mut status {
        t.name = long;
    }
    for _ in 0..2000 {
        dataplane.answer(tag_slow, status.clone());
    }
    dataplane.answer(tag_quick, transfer(2, 1, None));
    assert_eq!(quick.answer(), (1, transfer(2, 1, None)));
    // The slow one finds what was queued, then the end, well before all 2000.
    let mut got = 0;
    while let Ok(Some(_)) = slow.0.receive::<Response>() {
        got += 1;
    }
    assert!(got < 2000, "{got}");
}

/// What a sequence of inputs may contain.
fn input() -> impl Strategy<Value = (u8, u64, u64)> {
    (0_u8..6, 0_u64..4, 0_u64..6)
}

proptest! {
    /// Whatever happens in whatever order: each request of a client that stays is answered at most once to its end, and
    /// after the dataplane has gone, exactly once.
    #[test]
    fn every_request_ends_once(steps in proptest::collection::vec(input(), 1..80)) {
        let start = Instant::now();
        let mut broker = Broker::new(start, TIMING);
        let mut open = std::collections::BTreeMap::<(u64, u64), bool>::new();
        let (mut next, mut generation) = (0, 0);
        let mut asked = Vec::new();
        let mut now = start;
        let steps = steps.into_iter().chain([(5, 0, 0)]);
        for (what, client, number) in steps {
            now += Duration::from_millis(7);
            let outputs = match what {
                0 | 1 => {
                    next += 1;
                    open.insert((client, next), false);
                    let body = if what == 0 { RequestBody::Status } else { RequestBody::Cancel { id: 1 } };
                    broker.handle(now, Input::Request(ClientId(client), Request { tag: next, body }, None))
                }
                2 => {
                    open.retain(|(c, _), done| *c != client || *done);
                    broker.handle(now, Input::ClientGone(ClientId(client)))
                }
                3 => {
                    generation += 1;
                    broker.handle(now, Input::DataplaneUp(Generation(generation)))
                }
                4 => {
                    let at = usize::try_from(number).unwrap();
                    let tag = asked.get(at).copied().unwrap_or(number);
                    broker.handle(now, Input::Answer(Generation(generation), Response { tag, body: Answer::Done }))
                }
                _ => broker.handle(now, Input::DataplaneDown(Generation(generation), "test".into())),
            };
            for output in outputs.into_iter().chain(broker.poll(now)) {
                match output {
                    Output::ToClient(client, response) => {
                        let done = open.get_mut(&(client.0, response.tag));
                        prop_assert!(done.is_some(), "an answer that nobody waits for");
                        let done = done.unwrap();
                        prop_assert!(!*done, "answered twice");
                        *done = true;
                    }
                    Output::ToDataplane(request, _) => asked.push(request.tag),
                }
            }
        }
        prop_assert!(open.values().all(|done| *done), "a request was forgotten");
    }
}
