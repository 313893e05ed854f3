use super::*;
use bytes::Bytes;

const ID: TransferId = TransferId(5);
const SIZE: u64 = 100_000;

fn peer() -> PeerId {
    PeerId(0)
}

/// Supply everything of file `ID` to a fresh gateway pair; what arrives may be changed by `meddle`.
fn transfer(meddle: impl Fn(usize, Event) -> Vec<Event>) -> (Gateway, Gateway) {
    let (mut near, mut far) = (Gateway::default(), Gateway::default());
    let Command::Send { meta, .. } = near.send_file(peer(), ID, SIZE, 3) else { panic!("no offer") };
    let mut out = Vec::new();
    far.handle(Nanos(1), Event::Offered { peer: peer(), id: ID, meta }, &mut out);
    assert!(matches!(out[..], [Command::Accept { offset: 0, .. }]));
    out.clear();
    near.handle(Nanos(2), Event::SupplyFrom { id: ID, offset: 0 }, &mut out);
    near.handle(Nanos(2), Event::SupplyUpTo { id: ID, limit: 70_000 }, &mut out);
    near.handle(Nanos(3), Event::SupplyUpTo { id: ID, limit: 200_000 }, &mut out);
    let mut answers = Vec::new();
    for (i, command) in out.into_iter().enumerate() {
        let event = match command {
            Command::Supply { id, offset, data } => Event::Data { id, offset, data },
            Command::SupplyEnd { id, size, digest } => Event::DataEnd { id, size, digest },
            other => panic!("{other:?}"),
        };
        for event in meddle(i, event) {
            far.handle(Nanos(4), event, &mut answers);
        }
    }
    assert!(answers.is_empty(), "nothing is written at once");
    far.handle_timeout(far.next_timeout().expect("writes"), &mut answers);
    let written = |c: &Command| matches!(c, Command::Written { .. });
    assert_eq!(answers.iter().filter(|c| written(c)).count(), 3);
    far.handle_timeout(far.next_timeout().unwrap_or(Nanos(4)), &mut answers);
    let Some(Command::Complete { id, result }) = answers.pop() else { panic!("{answers:?}") };
    far.handle(Nanos(5), Event::TransferEnded { id, result, wire_bytes: 0 }, &mut answers);
    near.handle(Nanos(6), Event::TransferEnded { id, result: Ok(()), wire_bytes: 0 }, &mut answers);
    (near, far)
}

#[test]
fn a_file_goes_through_whole() {
    let (near, far) = transfer(|_, event| vec![event]);
    assert!(near.files_done() && far.files_done());
    assert_eq!(far.sinks[&ID].written_bytes(), SIZE);
    assert_eq!(far.sinks[&ID].received_between(Nanos(4), Nanos(5)), SIZE);
}

#[test]
#[should_panic(expected = "out of order")]
fn a_piece_that_comes_twice_is_seen() {
    transfer(|i, event| if i == 1 { vec![event.clone(), event] } else { vec![event] });
}

#[test]
#[should_panic(expected = "out of order")]
fn a_piece_that_is_missing_is_seen() {
    transfer(|i, event| if i == 1 { vec![] } else { vec![event] });
}

#[test]
#[should_panic(expected = "wrong bytes")]
fn a_changed_byte_is_seen() {
    transfer(|_, event| match event {
        Event::Data { id, offset, data } => {
            let mut data = data.to_vec();
            data[10] ^= 1;
            vec![Event::Data { id, offset, data: Bytes::from(data) }]
        }
        other => vec![other],
    });
}

#[test]
fn a_wrong_digest_fails_the_file() {
    let (_, far) = transfer(|_, event| match event {
        Event::DataEnd { id, size, .. } => vec![Event::DataEnd { id, size, digest: [0; 32] }],
        other => vec![other],
    });
    assert!(!far.files_done());
}

#[test]
#[should_panic(expected = "delivered twice")]
fn a_message_that_comes_twice_is_seen() {
    let (mut near, mut far, mut out) = (Gateway::default(), Gateway::default(), Vec::new());
    near.send_messages(peer(), Nanos(10), Duration::from_nanos(5), 20, 2);
    assert_eq!(near.next_timeout(), Some(Nanos(10)));
    near.handle_timeout(Nanos(15), &mut out);
    assert_eq!((out.len(), near.next_timeout()), (2, None));
    for command in out.clone() {
        let Command::Message { id, payload, .. } = command else { panic!("{command:?}") };
        far.handle(Nanos(30), Event::Message { peer: peer(), id, payload }, &mut Vec::new());
    }
    assert_eq!(far.inbox.percentile(0.99), Some(Duration::from_nanos(15)));
    let Command::Message { id, payload, .. } = out.remove(0) else { panic!("no message") };
    far.handle(Nanos(31), Event::Message { peer: peer(), id, payload }, &mut out);
}
