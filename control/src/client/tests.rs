//! The client against a stand-in: the test plays control process and dataplane, and speaks `ipc` with it.

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
        Talk(stream)
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

struct Talk(IpcStream);

impl Talk {
    /// That nobody wants certain answers any more may come between.
    fn next(&self) -> (u64, RequestBody, Option<OwnedFd>) {
        loop {
            let (request, fd) = self.0.receive::<Request>().unwrap().expect("the client closed the connection");
            if !matches!(request.body, RequestBody::Forget { .. }) {
                return (request.tag, request.body, fd);
            }
        }
    }

    /// Nobody wants more answers under this tag.
    fn forgotten(&self, tag: u64) {
        let (request, _) = self.0.receive::<Request>().unwrap().expect("the client closed the connection");
        assert_eq!(request.body, RequestBody::Forget { of: tag });
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
        self.0.send(&Response { tag, body }, None).unwrap();
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

fn send_stream() -> RequestBody {
    RequestBody::SendStream { order: order(), declared: None, linger_ns: 5_000_000_000 }
}

fn open(node: &Node) -> Result<StreamWriter, ClientError> {
    StreamWriter::open(node, order(), None, Duration::from_secs(5))
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

#[test]
fn a_writer_keeps_what_is_not_accepted_and_no_more() {
    let stand_in = StandIn::new();
    let whole = bytes(0..(WINDOW_BYTES as u32 / 4 + 50_000));
    let most = WINDOW_BYTES as usize;
    stand_in.play(
        |node| {
            let mut writer = open(&node).unwrap();
            writer.write_all(&whole).unwrap();
            let running = writer.finish().unwrap();
            assert_eq!(running.status().confirmed, whole.len() as u64);
            assert_eq!(running.wait().unwrap().ended, Some(Ok([3; 32])));
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&send_stream());
            let mut pipe = pipe.unwrap();
            talk.tell(tag, |_| {});
            assert!(read(&mut pipe, most) == whole[..most]);
            // The window is full, and the pipe empty: there is nothing to read, and its writer is there.
            rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK).unwrap();
            assert_eq!(pipe.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::empty()).unwrap();
            // A dataplane that has accepted nothing: what the receiver has counts.
            talk.tell(tag, |status| status.confirmed = 150_000);
            let rest = read(&mut pipe, 150_000);
            assert!(rest == whole[most..most + 150_000]);
            talk.tell(tag, |status| status.accepted = 300_000);
            assert!(read(&mut pipe, whole.len() - most - 150_000) == whole[most + 150_000..]);
            let size = whole.len() as u64;
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size });
            talk.answer(end, Answer::Done);
            assert_eq!(pipe.read(&mut [0]).unwrap(), 0, "closed after the end was heard");
            talk.tell(tag, |status| status.confirmed = size);
            talk.tell(tag, |status| (status.confirmed, status.ended) = (size, Some(Ok([3; 32]))));
        },
    );
}

#[test]
fn a_writer_goes_on_with_its_pipe_when_only_the_control_process_has_gone() {
    let stand_in = StandIn::new();
    stand_in.play(
        |node| {
            let mut writer = open(&node).unwrap();
            writer.write_all(b"before").unwrap();
            let mut watcher = writer.watch();
            while watcher.next_change().unwrap().confirmed < 6 {}
            writer.write_all(b"after").unwrap();
            writer.finish().unwrap();
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&send_stream());
            let mut pipe = pipe.unwrap();
            talk.tell(tag, |_| {});
            assert_eq!(read(&mut pipe, 6), b"before");
            drop(talk);
            let talk = stand_in.accept();
            let (tag, _) = talk.expect(&RequestBody::Watch { id: ID });
            // It does not know its dataplane yet.
            talk.unavailable(tag);
            let (tag, _) = talk.expect(&RequestBody::Watch { id: ID });
            talk.tell(tag, |status| status.confirmed = 6);
            assert_eq!(read(&mut pipe, 5), b"after");
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size: 11 });
            drop((end, talk));
            // The answer was lost: said again.
            let talk = stand_in.accept();
            let (tag, _) = talk.expect(&RequestBody::Watch { id: ID });
            talk.tell(tag, |status| status.confirmed = 11);
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size: 11 });
            talk.answer(end, Answer::Done);
        },
    );
}

#[test]
fn a_writer_resumes_at_the_byte_that_the_dataplane_wants() {
    let stand_in = StandIn::new();
    let whole = bytes(0..1000);
    let resume = RequestBody::ResumeStream { id: ID };
    let status = stand_in.play(
        |node| {
            let mut writer = open(&node).unwrap();
            writer.write_all(&whole).unwrap();
            writer.finish().unwrap().wait().unwrap()
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&send_stream());
            talk.tell(tag, |status| status.accepted = 0);
            let mut pipe = pipe.unwrap();
            assert!(read(&mut pipe, 2000) == whole[..2000]);
            talk.tell(tag, |status| status.accepted = 800);
            // The dataplane dies: its pipe first, then control says so.
            drop(pipe);
            talk.unavailable(tag);
            let (tag, _) = loop {
                // The end may have been said before the pipe broke.
                let (tag, body, pipe) = talk.next();
                match body {
                    RequestBody::EndStream { .. } => talk.unavailable(tag),
                    body => {
                        assert_eq!(body, resume);
                        break (tag, pipe);
                    }
                }
            };
            talk.unavailable(tag);
            let (tag, pipe) = talk.expect(&resume);
            talk.tell(tag, |status| status.accepted = 1200);
            let mut pipe = pipe.unwrap();
            assert!(read(&mut pipe, 2800) == whole[1200..]);
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size: 4000 });
            talk.answer(end, Answer::Done);
            assert_eq!(pipe.read(&mut [0]).unwrap(), 0);
            // Once more, with all in its hands and not accepted; control is new, too.
            drop((pipe, talk));
            let talk = stand_in.accept();
            let (tag, _) = talk.expect(&RequestBody::Watch { id: ID });
            talk.tell(tag, |status| (status.accepted, status.state) = (3000, TransferState::NoWriter));
            let (tag, pipe) = talk.expect(&resume);
            talk.tell(tag, |status| status.accepted = 3000);
            let mut pipe = pipe.unwrap();
            assert!(read(&mut pipe, 1000) == whole[3000..]);
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size: 4000 });
            talk.answer(end, Answer::Done);
            talk.tell(tag, |status| (status.accepted, status.ended) = (4000, Some(Ok([4; 32]))));
        },
    );
    assert_eq!((status.accepted, status.ended), (4000, Some(Ok([4; 32]))));
}

#[test]
fn a_writer_says_why_it_cannot_go_on() {
    let stand_in = StandIn::new();
    let play = |stand_in: &StandIn, act: &dyn Fn(&Talk, u64, File)| {
        let talk = stand_in.accept();
        let (tag, pipe) = talk.expect(&send_stream());
        talk.tell(tag, |_| {});
        act(&talk, tag, pipe.unwrap());
        while talk.0.receive::<Request>().is_ok_and(|request| request.is_some()) {}
    };
    let write = |node: Node| {
        let mut writer = open(&node).unwrap();
        // The end may be heard of by either.
        writer.write_all(b"0123456789").and_then(|()| writer.finish()).map(drop).unwrap_err()
    };
    let error = stand_in.play(write, |stand_in| {
        play(stand_in, &|talk, tag, _pipe| {
            let failure = Failure::new(FailCode::Timeout, "too late");
            talk.tell(tag, |status| status.ended = Some(Err(failure)));
        });
    });
    assert!(matches!(&error, ClientError::Ended(failure) if failure.code == FailCode::Timeout), "{error:?}");
    // What is accepted is not here any more: another dataplane cannot have it again.
    let error = stand_in.play(write, |stand_in| {
        play(stand_in, &|talk, tag, mut pipe| {
            read(&mut pipe, 10);
            talk.tell(tag, |status| status.accepted = 10);
            drop(pipe);
            talk.unavailable(tag);
            loop {
                let (tag, body, _) = talk.next();
                if matches!(body, RequestBody::ResumeStream { .. }) {
                    return talk.tell(tag, |status| status.accepted = 9);
                }
                talk.unavailable(tag);
            }
        });
    });
    assert!(error.to_string().contains("go on with byte 9 of the stream; 10 to 10 are here"), "{error}");
    // Refused at once.
    let error = stand_in.play(
        |node| open(&node).map(drop).unwrap_err(),
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, _) = talk.expect(&send_stream());
            talk.answer(tag, Answer::Refused { refusal: Refusal::Duplicate, reason: "twice".into() });
        },
    );
    assert!(matches!(error, ClientError::Refused { refusal: Refusal::Duplicate, .. }), "{error:?}");
    // Nobody comes back.
    let impatient = Node::with_patience(stand_in.node().socket(), Duration::ZERO);
    let error = stand_in.play(
        |_| write(impatient),
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, _pipe) = talk.expect(&send_stream());
            talk.tell(tag, |_| {});
            std::fs::remove_file(stand_in.folder.path().join("control.sock")).unwrap();
        },
    );
    // The pipe may be noticed first.
    assert!(
        matches!(error, ClientError::Unreachable { .. } | ClientError::Lost(_) | ClientError::Failed(_)),
        "{error:?}"
    );
}

#[test]
fn a_writer_that_goes_without_an_end_says_none() {
    let stand_in = StandIn::new();
    stand_in.play(
        |node| {
            let (mut writer, at) = StreamWriter::resume(&node, ID).unwrap();
            assert_eq!(at, 500);
            writer.write_all(b"abc").unwrap();
            let mut watcher = writer.watch();
            while watcher.next_change().unwrap().accepted < 503 {}
            drop(writer);
            assert_eq!(watcher.next_change(), None);
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&RequestBody::ResumeStream { id: ID });
            talk.tell(tag, |status| status.accepted = 500);
            let mut pipe = pipe.unwrap();
            assert_eq!(read(&mut pipe, 3), b"abc");
            talk.tell(tag, |status| status.accepted = 503);
            assert_eq!(pipe.read(&mut [0]).unwrap(), 0);
            talk.forgotten(tag);
        },
    );
}

fn read_all(reader: &mut StreamReader) -> Result<Vec<u8>, ClientError> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(all),
            count => all.extend(&piece[..count]),
        }
    }
}

fn listen(resume: Option<(u128, u64)>) -> RequestBody {
    RequestBody::Listen { name: Some("telemetry".into()), from: None, resume }
}

fn wanted() -> Wanted {
    Wanted { name: Some("telemetry".into()), ..Wanted::default() }
}

#[test]
fn a_reader_reads_to_the_end_that_is_said_and_takes_it() {
    let stand_in = StandIn::new();
    let (read, ended) = stand_in.play(
        |node| {
            let mut reader = StreamReader::open(&node, wanted()).unwrap();
            let read = read_all(&mut reader).unwrap();
            (read, reader.take().unwrap().ended)
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&listen(None));
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            pipe.write_all(b"hello").unwrap();
            talk.tell(tag, |status| status.size = Some(5));
            let (take, _) = talk.expect(&RequestBody::TakeStream { id: ID, digest: digest(b"hello") });
            talk.answer(take, Answer::Done);
            talk.tell(tag, |status| (status.size, status.ended) = (Some(5), Some(Ok([5; 32]))));
        },
    );
    assert_eq!((read.as_slice(), ended), (&b"hello"[..], Some(Ok([5; 32]))));

    let error = stand_in.play(
        |node| read_all(&mut StreamReader::open(&node, wanted()).unwrap()).unwrap_err(),
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&listen(None));
            talk.tell(tag, |_| {});
            pipe.unwrap().write_all(b"half").unwrap();
            let (watch, _) = loop {
                let (tag, body, _) = talk.next();
                if body == (RequestBody::Watch { id: ID }) {
                    break (tag, body);
                }
            };
            let failure = Failure::new(FailCode::SenderClosed, "gone");
            talk.tell(watch, |status| status.ended = Some(Err(failure)));
        },
    );
    assert!(matches!(&error, ClientError::Ended(failure) if failure.code == FailCode::SenderClosed), "{error:?}");
}

#[test]
fn a_reader_goes_on_after_control_and_dataplane_were_killed() {
    let stand_in = StandIn::new();
    let whole = bytes(0..3000);
    let (read, ended) = stand_in.play(
        |node| {
            let mut reader = StreamReader::open(&node, wanted()).unwrap();
            let read = read_all(&mut reader).unwrap();
            (read, reader.take().unwrap().ended)
        },
        |stand_in| {
            let watch = RequestBody::Watch { id: ID };
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&listen(None));
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            pipe.write_all(&whole[..1000]).unwrap();
            // Control alone: the pipe stays.
            drop(talk);
            let talk = stand_in.accept();
            talk.unavailable(talk.expect(&watch).0);
            let (tag, _) = talk.expect(&watch);
            talk.tell(tag, |_| {});
            pipe.write_all(&whole[1000..2000]).unwrap();
            // The dataplane, with bytes in its pipe. The next one does not know the stream yet.
            talk.unavailable(tag);
            pipe.write_all(&whole[2000..3000]).unwrap();
            talk.answer(talk.expect(&watch).0, unknown());
            drop(pipe);
            let (tag, pipe) = talk.listener(3000, |status| talk.answer(status, unknown()));
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            pipe.write_all(&whole[3000..4000]).unwrap();
            // And again; this one has it, and it waits for its reader.
            drop(pipe);
            let waits = |status: &mut TransferStatus| status.state = TransferState::NoReader;
            let (tag, pipe) = talk.listener(4000, |tag| talk.tell(tag, waits));
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            pipe.write_all(&whole[4000..]).unwrap();
            let size = Some(whole.len() as u64);
            talk.tell(tag, |status| status.size = size);
            // It dies before it has heard that all was taken: said to the next one, once that knows of the end.
            let (take, _) = talk.expect(&RequestBody::TakeStream { id: ID, digest: digest(&whole) });
            talk.unavailable(take);
            talk.unavailable(tag);
            drop(pipe);
            let (tag, pipe) = talk.listener(12_000, |status| talk.answer(status, unknown()));
            talk.tell(tag, |_| {});
            talk.tell(tag, |status| status.size = size);
            let (take, _) = talk.expect(&RequestBody::TakeStream { id: ID, digest: digest(&whole) });
            talk.answer(take, Answer::Done);
            talk.tell(tag, |status| (status.size, status.ended) = (size, Some(Ok([6; 32]))));
            drop(pipe);
        },
    );
    assert!(read == whole);
    assert_eq!(ended, Some(Ok([6; 32])));
}
