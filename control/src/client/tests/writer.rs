//! The writing end, while what it writes to goes away.

use super::*;

fn send_stream() -> RequestBody {
    RequestBody::SendStream { order: order(), declared: None, linger_ns: 5_000_000_000 }
}

fn open(node: &Node) -> Result<StreamWriter, ClientError> {
    StreamWriter::open(node, order(), None, Duration::from_secs(5))
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
            talk.tell(tag, |status| status.accepted = 150_000);
            let rest = read(&mut pipe, 150_000);
            assert!(rest == whole[most..most + 150_000]);
            talk.tell(tag, |status| status.accepted = 300_000);
            assert!(read(&mut pipe, whole.len() - most - 150_000) == whole[most + 150_000..]);
            let size = whole.len() as u64;
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size });
            talk.answer(end, Answer::Done);
            assert_eq!(pipe.read(&mut [0]).unwrap(), 0, "closed after the end was heard");
            talk.tell(tag, |status| (status.accepted, status.confirmed) = (size, size));
            talk.tell(tag, |status| (status.confirmed, status.ended) = (size, Some(Ok([3; 32]))));
        },
    );
}

#[test]
fn a_writer_keeps_what_only_the_receiver_has() {
    let stand_in = StandIn::new();
    let whole = bytes(0..1000);
    let resume = RequestBody::ResumeStream { id: ID };
    stand_in.play(
        |node| {
            let mut writer = open(&node).unwrap();
            let mut watcher = writer.watch();
            writer.write_all(&whole[..3000]).unwrap();
            while watcher.next_change().unwrap().confirmed < 3000 {}
            assert_eq!(writer.accepted(), 500);
            writer.write_all(&whole[3000..]).unwrap();
            assert!(writer.finish().unwrap().wait().unwrap().ended.unwrap().is_ok());
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&send_stream());
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            assert!(read(&mut pipe, 3000) == whole[..3000]);
            // The link is quicker than the disk; then the dataplane is killed, and has what its disk had.
            talk.tell(tag, |status| (status.accepted, status.confirmed) = (500, 3000));
            assert!(read(&mut pipe, 1000) == whole[3000..]);
            drop(pipe);
            talk.unavailable(tag);
            let (tag, pipe) = loop {
                // The end may have been said before the pipe broke.
                let (tag, body, pipe) = talk.next();
                if body == resume {
                    break (tag, pipe.map(File::from));
                }
                talk.unavailable(tag);
            };
            talk.tell(tag, |status| status.accepted = 500);
            let mut pipe = pipe.unwrap();
            assert!(read(&mut pipe, 3500) == whole[500..]);
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size: 4000 });
            talk.answer(end, Answer::Done);
            talk.tell(tag, |status| (status.accepted, status.ended) = (4000, Some(Ok([4; 32]))));
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
            talk.tell(tag, |status| (status.accepted, status.confirmed) = (6, 6));
            assert_eq!(read(&mut pipe, 5), b"after");
            let (end, _) = talk.expect(&RequestBody::EndStream { id: ID, size: 11 });
            drop((end, talk));
            // The answer was lost: said again.
            let talk = stand_in.accept();
            let (tag, _) = talk.expect(&RequestBody::Watch { id: ID });
            talk.tell(tag, |status| (status.accepted, status.confirmed) = (11, 11));
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
        while talk.stream.receive::<Request>().is_ok_and(|request| request.is_some()) {}
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
