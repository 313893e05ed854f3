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
