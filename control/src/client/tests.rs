//! The client against a stand-in: the test plays control process and dataplane, and speaks `ipc` with it.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use florelay_dataplane::ipc::{
    Answer, FailCode, Failure, Refusal, Request, RequestBody, Response, TransferKind, TransferOrder, TransferState,
    TransferStatus,
};
use florelay_dataplane::ipc_codec::IpcStream;

use super::*;

mod reader;
mod writer;

const ID: u128 = 7;

/// Control process and dataplane in one.
struct StandIn {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl StandIn {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("control.sock")).unwrap();
        Self { folder, listener }
    }

    fn node(&self) -> Node {
        Node::new(self.folder.path().join("control.sock"))
    }

    fn accept(&self) -> Talk {
        let stream = IpcStream::new(self.listener.accept().unwrap().0).unwrap();
        stream.greet().unwrap();
        Talk { stream, reader: Cell::default(), said: RefCell::default() }
    }

    /// What the client does runs beside what the test plays.
    fn play<T: Send>(&self, client: impl FnOnce(Node) -> T + Send, play: impl FnOnce(&Self)) -> T {
        let node = self.node();
        thread::scope(|scope| {
            let client = scope.spawn(|| client(node));
            play(self);
            client.join().unwrap()
        })
    }
}

struct Talk {
    stream: IpcStream,
    /// The number of the last reader, and what was said with it since somebody looked.
    reader: Cell<Option<u64>>,
    said: RefCell<Vec<u64>>,
}

impl Talk {
    fn receive(&self) -> (Request, Option<OwnedFd>) {
        let (mut request, fd) = self.stream.receive::<Request>().unwrap().expect("the client closed the connection");
        match &mut request.body {
            RequestBody::Listen { reader, .. } => self.reader.set(reader.take()),
            RequestBody::ReadUpTo { id: ID, reader, offset } => {
                assert!(self.reader.get().is_none_or(|number| number == *reader));
                self.said.borrow_mut().push(*offset);
            }
            _ => {}
        }
        (request, fd)
    }

    /// That nobody wants certain answers any more may come between, and what a reader has.
    fn next(&self) -> (u64, RequestBody, Option<OwnedFd>) {
        loop {
            let (request, fd) = self.receive();
            if !matches!(request.body, RequestBody::Forget { .. } | RequestBody::ReadUpTo { .. }) {
                return (request.tag, request.body, fd);
            }
        }
    }

    /// Waits until a reader says that it has so much. It says no more, and nothing twice.
    fn until_said(&self, offset: u64) {
        while !self.said.borrow().contains(&offset) {
            let (request, _) = self.receive();
            assert!(matches!(request.body, RequestBody::Forget { .. } | RequestBody::ReadUpTo { .. }), "{request:?}");
            assert!(self.said.borrow().iter().all(|said| *said <= offset), "{:?}", self.said);
        }
        let said = self.said.take();
        assert!(said.is_sorted_by(|a, b| a < b) && said.last() == Some(&offset), "{said:?}");
    }

    /// Nobody wants more answers under this tag.
    fn forgotten(&self, tag: u64) {
        assert_eq!(self.receive().0.body, RequestBody::Forget { of: tag });
    }

    /// The next one, which must be this one.
    fn expect(&self, wanted: &RequestBody) -> (u64, Option<File>) {
        let (tag, body, fd) = self.next();
        assert_eq!(body, *wanted);
        (tag, fd.map(File::from))
    }

    /// The reader of the stream, who has so much of it. Before that it may ask what became of the stream, more than once.
    fn listener(&self, read: u64, watched: impl Fn(u64)) -> (u64, Option<File>) {
        loop {
            let (tag, body, pipe) = self.next();
            if body == (RequestBody::Watch { id: ID }) {
                watched(tag);
                continue;
            }
            assert_eq!(body, listen(Some((ID, read))));
            return (tag, pipe.map(File::from));
        }
    }

    fn answer(&self, tag: u64, body: Answer) {
        self.stream.send(&Response { tag, body }, None).unwrap();
    }

    fn tell(&self, tag: u64, change: impl FnOnce(&mut TransferStatus)) {
        let mut status =
            TransferStatus { id: ID, outgoing: true, kind: TransferKind::Stream, ..TransferStatus::default() };
        change(&mut status);
        self.answer(tag, Answer::Transfer(Box::new(status)));
    }

    fn unavailable(&self, tag: u64) {
        self.answer(tag, Answer::Unavailable("the dataplane has stopped".into()));
    }
}

fn unknown() -> Answer {
    Answer::Failed("no transfer is known".into())
}

fn read(pipe: &mut File, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    pipe.read_exact(&mut bytes).unwrap();
    bytes
}

fn order() -> TransferOrder {
    TransferOrder::new("b", ID, "telemetry", 3)
}

fn listen(resume: Option<(u128, u64)>) -> RequestBody {
    RequestBody::Listen { name: Some("telemetry".into()), from: None, resume, reader: None, linger_ns: 0 }
}

/// Bytes that tell where they are.
fn bytes(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(u32::to_le_bytes).collect()
}

fn digest(of: &[u8]) -> [u8; 32] {
    *blake3::hash(of).as_bytes()
}

#[test]
fn answers_find_who_asked_and_a_node_is_found_again() {
    let stand_in = StandIn::new();
    let node = stand_in.node();
    let cancel = |id| RequestBody::Cancel { id };
    thread::scope(|scope| {
        let asked: Vec<_> = (1..=3).map(|id| (id, node.clone())).collect();
        let asked = asked.into_iter().map(|(id, node)| scope.spawn(move || node.ask(cancel(id))));
        let asked: Vec<_> = asked.collect();
        let talk = stand_in.accept();
        let mut requests: Vec<_> = (0..3).map(|_| talk.next()).collect();
        requests.sort_by_key(|(tag, ..)| std::cmp::Reverse(*tag));
        for (tag, body, _) in requests {
            let RequestBody::Cancel { id } = body else { panic!("{body:?}") };
            talk.answer(
                tag,
                match id {
                    1 => Answer::Done,
                    2 => Answer::Failed("no".into()),
                    _ => Answer::Refused { refusal: Refusal::QueueFull, reason: "full".into() },
                },
            );
        }
        let answers: Vec<_> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
        assert!(matches!(answers[0], Ok(Answer::Done)), "{answers:?}");
        assert!(matches!(&answers[1], Err(ClientError::Failed(reason)) if reason == "no"), "{answers:?}");
        assert!(matches!(answers[2], Err(ClientError::Refused { refusal: Refusal::QueueFull, .. })), "{answers:?}");

        // It goes in the middle of a question, and is found again by the next one.
        let asked = scope.spawn(|| node.ask(cancel(4)));
        talk.expect(&cancel(4));
        drop(talk);
        assert!(matches!(asked.join().unwrap(), Err(ClientError::Lost(_))));
        let asked = scope.spawn(|| node.ask(cancel(5)));
        let talk = stand_in.accept();
        talk.answer(talk.expect(&cancel(5)).0, Answer::Done);
        assert!(matches!(asked.join().unwrap(), Ok(Answer::Done)));
    });
    let nobody = Node::new(stand_in.folder.path().join("nowhere.sock"));
    assert!(matches!(nobody.ask(cancel(1)), Err(ClientError::Unreachable { denied: false, .. })));
}

#[test]
fn a_subscription_hears_all_but_stale_progress_and_says_when_nobody_listens() {
    let stand_in = StandIn::new();
    let watch = RequestBody::Watch { id: ID };
    stand_in.play(
        |node| {
            let answers = node.subscribe(RequestBody::Watch { id: ID }, None).unwrap();
            // Another request's answer comes after these: they have all arrived, and nobody has read them.
            node.ask(RequestBody::Status).unwrap_err();
            let told: Vec<_> = (0..3)
                .map(|_| match answers.recv().unwrap() {
                    Answer::Transfer(status) => (status.confirmed, status.ended.is_some()),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(told, [(2, false), (4, false), (4, true)], "a change of state is no stale progress");
            assert!(matches!(answers.recv(), Err(ClientError::Unexpected(_))), "it has ended");
            drop(answers);
            let answers = node.subscribe(RequestBody::Events, None).unwrap();
            assert!(matches!(answers.recv_timeout(Duration::ZERO), Err(ClientError::Timeout)));
            drop(answers);
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, _) = talk.expect(&watch);
            let (other, _) = talk.expect(&RequestBody::Status);
            for confirmed in 0..3 {
                talk.tell(tag, |status| status.confirmed = confirmed);
            }
            for confirmed in 3..5 {
                talk.tell(tag, |status| (status.confirmed, status.state) = (confirmed, TransferState::Paused));
            }
            talk.tell(tag, |status| (status.confirmed, status.ended) = (4, Some(Ok([1; 32]))));
            talk.answer(other, Answer::Failed("later".into()));
            let (tag, _) = talk.expect(&RequestBody::Events);
            talk.forgotten(tag);
        },
    );
}
