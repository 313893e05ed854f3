use std::fs::File;
use std::io::Read as _;

use super::super::Input;
use super::super::pipes::pair;
use super::super::testing::Bed;
use super::*;
use crate::ipc::{RequestBody, TransferState};

/// What the senders of these streams were told that they may be ahead.
fn credits(told: &[Command]) -> Vec<(TransferId, u64)> {
    let credit = |command: &Command| match *command {
        Command::Credit { id, bytes } => Some((id, u64::from(bytes))),
        _ => None,
    };
    told.iter().filter_map(credit).collect()
}

#[test]
fn what_senders_may_be_ahead_of_many_readers_stays_within_the_nodes_limit_and_comes_back() {
    let mut bed = Bed::new();
    let (mut given, mut pipes) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let meta = TransferMeta { name: "f".into(), size: None, declared: None, priority: 0, attributes: vec![] };
        bed.says(0, Event::Offered { peer: PeerId(0), id: TransferId(number), meta });
        let (reader, writer) = pair().unwrap();
        bed.ask_with(RequestBody::Listen { name: None, from: None, resume: None, reader: None, linger_ns: 0 }, writer);
        pipes.push(reader);
        given.extend(credits(&bed.told(0)));
    }
    assert_eq!(given.len(), 200);
    assert_eq!((given[0].1, given[199].1), (CREDIT_BYTES.1, CREDIT_BYTES.0));
    let most = SpoolPlan::default().node_bytes + 200 * CREDIT_BYTES.0;
    assert!(given.iter().map(|(_, bytes)| bytes).sum::<u64>() <= most);
    let mut last = 0;
    for number in 0..199 {
        let result = Err(Failure::new(FailCode::Cancelled, "over"));
        let told = bed.says(0, Event::TransferEnded { id: TransferId(number), result, wire_bytes: 0 });
        last = credits(&told)
            .into_iter()
            .filter(|(id, _)| *id == TransferId(199))
            .map(|(_, bytes)| bytes)
            .fold(last, u64::max);
    }
    assert_eq!(last, CREDIT_BYTES.1, "alone it has all");
}

const ID: TransferId = TransferId(7);
const HOUR: Duration = Duration::from_secs(3600);

fn offered(bed: &mut Bed) {
    let meta = TransferMeta { name: "f".into(), size: None, declared: None, priority: 0, attributes: vec![] };
    bed.says(0, Event::Offered { peer: PeerId(0), id: ID, meta });
}

/// A program reads; its pipe, and the first answer.
fn listen(bed: &mut Bed, resume: Option<u64>, reader: Option<u64>, linger: Duration) -> (File, Option<Answer>) {
    let (from, writer) = pair().unwrap();
    let name = resume.is_none().then(|| "f".to_owned());
    let resume = resume.map(|has| (ID.0, has));
    let linger_ns = linger.as_nanos() as u64;
    let answer = bed.ask_with(RequestBody::Listen { name, from: None, resume, reader, linger_ns }, writer);
    (from.into(), answer)
}

/// So many bytes come, and the pipe takes them.
fn arrive(bed: &mut Bed, range: std::ops::Range<u64>) -> Vec<Command> {
    let mut told = data(bed, range.clone());
    told.extend(news(bed));
    told
}

fn data(bed: &mut Bed, range: std::ops::Range<u64>) -> Vec<Command> {
    let data = range.clone().map(|at| at as u8).collect::<Vec<_>>().into();
    bed.says(0, Event::Data { id: ID, offset: range.start, data })
}

/// What the worker is told because of the next news of a pipe.
fn news(bed: &mut Bed) -> Vec<Command> {
    let input = bed.gateway.inputs.recv().unwrap();
    assert!(matches!(input, Input::Pipe(..)));
    bed.gateway.input(input);
    bed.told(0)
}

fn read_up_to(bed: &mut Bed, id: TransferId, reader: u64, offset: u64) -> Vec<Command> {
    assert_eq!(bed.ask(RequestBody::ReadUpTo { id: id.0, reader, offset }), None);
    bed.told(0)
}

fn is_written(told: &[Command], to: u64) -> bool {
    matches!(*told, [Command::Written { id: ID, offset }] if offset == to)
}

#[test]
fn what_a_reader_says_is_confirmed_and_neither_what_its_pipe_took_nor_a_wrong_word() {
    let mut bed = Bed::new();
    offered(&mut bed);
    let (_pipe, _) = listen(&mut bed, None, Some(5), Duration::ZERO);
    bed.told(0);
    assert!(arrive(&mut bed, 0..1000).is_empty(), "it is in the pipe");
    assert!(is_written(&read_up_to(&mut bed, ID, 5, 600), 600));
    for (id, reader, offset) in
        [(ID, 6, 700), (ID, 5, 500), (ID, 5, 600), (ID, 5, 1001), (ID, 5, u64::MAX), (TransferId(8), 5, 700)]
    {
        assert!(read_up_to(&mut bed, id, reader, offset).is_empty(), "{reader} {offset}");
    }
    let status = bed.gateway.transfers.running(ID).unwrap();
    assert_eq!((status.confirmed, status.spooled), (600, 400));
    // It may be quicker than the news of its pipe.
    assert!(data(&mut bed, 1000..1100).is_empty());
    assert!(is_written(&read_up_to(&mut bed, ID, 5, 1100), 1000));
    assert!(is_written(&news(&mut bed), 1100));
    // One that says nothing has what its pipe took.
    let mut bed = Bed::new();
    offered(&mut bed);
    let (_pipe, _) = listen(&mut bed, None, None, HOUR);
    bed.told(0);
    assert!(is_written(&arrive(&mut bed, 0..1000), 1000));
    assert!(read_up_to(&mut bed, ID, 0, 1000).is_empty());
}

#[test]
fn a_reader_that_comes_back_reads_all_that_it_had_not_called_its_own() {
    let mut bed = Bed::new();
    offered(&mut bed);
    let (pipe, _) = listen(&mut bed, None, Some(1), HOUR);
    bed.told(0);
    arrive(&mut bed, 0..1000);
    assert!(is_written(&read_up_to(&mut bed, ID, 1, 300), 300));
    drop(pipe);
    assert!(news(&mut bed).is_empty(), "it is not given up");
    assert_eq!(bed.gateway.transfers.running(ID).unwrap().state, TransferState::NoReader);
    assert!(data(&mut bed, 1000..1500).is_empty());
    assert!(read_up_to(&mut bed, ID, 1, 400).is_empty(), "who has gone says nothing");
    // Another one is not given the rest of a stream; nobody gets what is not there any more, or what was never written.
    let (_other, answer) = listen(&mut bed, None, Some(2), HOUR);
    assert_eq!(answer, None);
    for has in [299, 1001] {
        let (_pipe, answer) = listen(&mut bed, Some(has), Some(2), HOUR);
        let Some(Answer::Failed(reason)) = answer else { panic!("{answer:?}") };
        assert!(reason.contains("from bytes 300 to 1000"), "{reason}");
    }
    let (mut pipe, answer) = listen(&mut bed, Some(700), Some(3), HOUR);
    assert!(matches!(answer, Some(Answer::Transfer(status)) if status.state == TransferState::Running));
    assert!(is_written(&bed.told(0), 700));
    let mut rest = [0; 800];
    pipe.read_exact(&mut rest).unwrap();
    assert!(rest.iter().enumerate().all(|(at, byte)| *byte == (700 + at) as u8));
    assert!(read_up_to(&mut bed, ID, 3, 1500).is_empty());
    assert!(is_written(&bed.told_next(0), 1500));
    // This one does not come back.
    drop(pipe);
    assert!(news(&mut bed).is_empty());
    let now = std::time::Instant::now();
    bed.gateway.miss_readers(now);
    assert!(bed.told(0).is_empty());
    bed.gateway.miss_readers(now + 2 * HOUR);
    let told = bed.told(0);
    let [Command::Cancel { id: ID, failure }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(failure.code, FailCode::ReaderClosed);
    assert!(failure.reason.contains("after 1500 bytes, and has not come back"), "{failure}");
    bed.gateway.miss_readers(now + 2 * HOUR);
    assert!(bed.told(0).is_empty(), "once is enough");
}

#[test]
fn a_reader_that_may_not_come_back_ends_its_stream() {
    for (reader, linger) in [(Some(1), Duration::ZERO), (None, HOUR)] {
        let mut bed = Bed::new();
        offered(&mut bed);
        let (pipe, _) = listen(&mut bed, None, reader, linger);
        bed.told(0);
        drop(pipe);
        let told = news(&mut bed);
        assert!(matches!(&told[..], [Command::Cancel { id: ID, failure }] if failure.code == FailCode::ReaderClosed));
    }
}

/// Inputs of the gateway are taken until this is so.
fn until(bed: &mut Bed, what: impl Fn(&Bed) -> bool) {
    while !what(bed) {
        bed.hear();
    }
}

#[test]
fn what_no_receiver_confirms_is_on_the_disk_two_looks_later_and_at_the_end_at_once() {
    for ended in [false, true] {
        let id = TransferId(7);
        let mut bed = Bed::new();
        let (reader, writer) = pair().unwrap();
        let order = crate::ipc::TransferOrder::new("a", id.0, "f", 0);
        bed.ask_with(RequestBody::SendStream { order, declared: None, linger_ns: 0 }, reader);
        rustix::io::write(&writer, &[1; 5000]).unwrap();
        let accepted = |bed: &Bed| bed.gateway.transfers.running(id).map(|status| (status.spooled, status.accepted));
        until(&mut bed, |bed| accepted(bed) == Some((5000, 0)));
        if ended {
            bed.ask(RequestBody::EndStream { id: id.0, size: 5000 });
            drop(writer);
        } else {
            bed.gateway.look_at_receivers();
            bed.gateway.look_at_receivers();
        }
        until(&mut bed, |bed| accepted(bed) == Some((5000, 5000)));
        let counters: std::collections::BTreeMap<_, _> = bed.gateway.streams.counters().collect();
        // With headers.
        assert!((5000..10_000).contains(&counters["spool_disk_bytes"]), "{counters:?}");
        assert_eq!((counters["spool_memory_bytes"], counters["spool_full_streams"]), (5000, 0));
    }
}

#[test]
fn a_stream_that_was_taken_is_answered_so_after_a_kill_and_nobody_has_to_read_it_again() {
    let meta = TransferMeta { name: "f".into(), size: None, declared: None, priority: 0, attributes: vec![] };
    let offers = |bed: &mut Bed, meta: &TransferMeta| {
        bed.says(0, Event::Offered { peer: PeerId(0), id: ID, meta: meta.clone() })
    };
    let mut bed = Bed::new();
    offered(&mut bed);
    let (_pipe, _) = listen(&mut bed, None, None, HOUR);
    bed.says(0, Event::Data { id: ID, offset: 0, data: vec![7; 100].into() });
    let digest = *blake3::hash(&[7; 100]).as_bytes();
    bed.says(0, Event::DataEnd { id: ID, size: 100, digest });
    assert_eq!(bed.ask(RequestBody::TakeStream { id: ID.0, digest }), Some(Answer::Done));
    assert!(bed.told(0).iter().all(|command| !matches!(command, Command::Complete { .. })), "not in the book yet");
    // Killed before its sender, or anybody, has heard.
    let mut bed = bed.restarted();
    for other in [TransferMeta { name: "g".into(), ..meta.clone() }, TransferMeta { declared: Some(9), ..meta.clone() }]
    {
        assert!(!bed.gateway.was_taken(PeerId(0), ID, &other), "another one");
    }
    assert!(!bed.gateway.was_taken(PeerId(1), ID, &meta), "another one's");
    assert!(matches!(offers(&mut bed, &meta)[..], [Command::Complete { id: ID, result: Ok(()) }]));
    bed.says(0, Event::TransferEnded { id: ID, result: Ok(()), wire_bytes: 0 });
    assert!(bed.running(ID).is_none());
}
