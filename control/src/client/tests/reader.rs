//! The reading end, while what it reads from goes away.

use super::*;

fn read_all(reader: &mut StreamReader) -> Result<Vec<u8>, ClientError> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(all),
            count => all.extend(&piece[..count]),
        }
    }
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

#[test]
fn what_was_read_is_said_when_more_is_asked_for_and_the_rest_at_the_end() {
    let stand_in = StandIn::new();
    let marker = RequestBody::Cancel { id: 1 };
    stand_in.play(
        |node| {
            let mut reader = StreamReader::open(&node, wanted()).unwrap();
            let mut piece = vec![0; 1000];
            assert_eq!(reader.read(&mut piece).unwrap(), 1000);
            node.ask(marker.clone()).unwrap();
            assert_eq!(read_all(&mut reader).unwrap().len(), 4000);
            reader.take().unwrap();
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&listen(None));
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            pipe.write_all(&[1; 1000]).unwrap();
            let (asked, _) = talk.expect(&marker);
            assert!(talk.said.borrow().is_empty(), "its program may still be busy with it");
            talk.answer(asked, Answer::Done);
            talk.until_said(1000);
            // A trickle is said while nothing more comes.
            pipe.write_all(&[2; 3000]).unwrap();
            talk.until_said(4000);
            // Control alone goes: what was said last may have gone with it.
            drop(talk);
            let talk = stand_in.accept();
            let (tag, _) = talk.expect(&RequestBody::Watch { id: ID });
            talk.tell(tag, |_| {});
            talk.until_said(4000);
            pipe.write_all(&[3; 1000]).unwrap();
            talk.tell(tag, |status| status.size = Some(5000));
            talk.until_said(5000);
            let (_, take, _) = talk.next();
            assert!(matches!(take, RequestBody::TakeStream { .. }), "{take:?}");
            talk.tell(tag, |status| (status.size, status.ended) = (Some(5000), Some(Ok([5; 32]))));
        },
    );
}

#[test]
fn a_quick_stream_is_said_in_steps_and_a_slow_program_needs_not_be_idle() {
    const STEP: usize = 256 << 10;
    let stand_in = StandIn::new();
    stand_in.play(
        |node| {
            let mut reader = StreamReader::open(&node, wanted()).unwrap();
            read_all(&mut reader).unwrap();
            reader.take().unwrap();
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&listen(None));
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            pipe.write_all(&vec![1; 10 * STEP]).unwrap();
            let size = Some(10 * STEP as u64);
            talk.tell(tag, |status| status.size = size);
            let (_, take, _) = talk.next();
            assert!(matches!(take, RequestBody::TakeStream { .. }), "{take:?}");
            talk.tell(tag, |status| (status.size, status.ended) = (size, Some(Ok([5; 32]))));
            let said = talk.said.take();
            assert_eq!(said.last().copied(), size);
            // Each step, at least, is said; a step may be longer by what was read at once.
            let before = std::iter::once(&0).chain(&said);
            assert!(said.iter().zip(before).all(|(to, from)| to - from < (STEP + (1 << 16)) as u64), "{said:?}");
        },
    );
}

#[test]
fn what_is_processed_by_hand_comes_again_after_a_restart_and_is_read_once() {
    let stand_in = StandIn::new();
    let (whole, marker) = (bytes(0..3000), RequestBody::Cancel { id: 1 });
    let (say, said) = std::sync::mpsc::channel::<u64>();
    let read = stand_in.play(
        |node| {
            let mut reader = StreamReader::open(&node, wanted()).unwrap();
            let processed = reader.by_hand();
            thread::spawn(move || said.iter().for_each(|offset| processed.up_to(offset)));
            let mut piece = [0; 10];
            let soon = std::time::Instant::now() + Duration::from_millis(1);
            assert_eq!(reader.read_until(&mut piece, Some(soon)).unwrap(), None, "nothing has come");
            node.ask(marker.clone()).unwrap();
            let read = read_all(&mut reader).unwrap();
            reader.take().unwrap();
            read
        },
        |stand_in| {
            let talk = stand_in.accept();
            let (tag, pipe) = talk.expect(&listen(None));
            talk.tell(tag, |_| {});
            talk.answer(talk.expect(&marker).0, Answer::Done);
            let mut pipe = pipe.unwrap();
            pipe.write_all(&whole[..4000]).unwrap();
            // Another thread says it, while the reader waits for more.
            say.send(1000).unwrap();
            talk.until_said(1000);
            say.send(500).unwrap();
            say.send(1500).unwrap();
            talk.until_said(1500);
            // The dataplane goes, and what was read and not processed comes again.
            talk.unavailable(tag);
            drop(pipe);
            let (tag, pipe) = talk.listener(1500, |status| talk.answer(status, unknown()));
            talk.tell(tag, |_| {});
            let mut pipe = pipe.unwrap();
            pipe.write_all(&whole[1500..2000]).unwrap();
            pipe.write_all(&whole[2000..]).unwrap();
            say.send(2000).unwrap();
            talk.until_said(2000);
            let size = Some(whole.len() as u64);
            talk.tell(tag, |status| status.size = size);
            let (take, _) = talk.expect(&RequestBody::TakeStream { id: ID, digest: digest(&whole) });
            talk.answer(take, Answer::Done);
            talk.tell(tag, |status| (status.size, status.ended) = (size, Some(Ok([5; 32]))));
        },
    );
    assert!(read == whole);
}
