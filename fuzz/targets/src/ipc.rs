//! Messages between control, dataplane and supervisor, and the stream that carries them.
//!
//! Invariants: any body is refused or, written again, read as the same value; a stream of frames, however it is cut short
//! or goes on with something else, gives exactly the whole messages in front and then one end; nothing waits or grows
//! with a length that was only claimed.

use std::fmt::Debug;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use florelay_dataplane::fuzzing::is_broker_request;
use florelay_dataplane::ipc::{
    Answer, ClockStatus, DirectionStatus, FailCode, Failure, FrameAccount, Hello, IPC_VERSION, LinkStatus,
    MeasuredStatus, PeerStatus, Request, RequestBody, Response, RttStatus, Status, TransferKind, TransferOrder,
    TransferStatus, WindowStatus, WorkerStatus,
};
use florelay_dataplane::ipc_codec::{IpcStream, decode, encode};
use florelay_dataplane::plan::Rung;
use florelay_dataplane::supervisor::Setup;

/// One input: the first byte chooses between a body and a stream, and the type.
pub fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 8 {
        0 => body::<Request>(bytes),
        1 => body::<Response>(bytes),
        2 => body::<Hello>(bytes),
        3 => drop(is_broker_request(bytes)),
        4 => drop(decode::<Setup>(bytes)),
        5 => stream::<Response>(bytes),
        _ => stream::<Request>(bytes),
    }
}

trait Message: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug {}
impl<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug> Message for T {}

fn body<T: Message>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        let frame = encode(&value).expect("what was read can be written");
        assert_eq!(decode::<T>(&frame[4..]).expect("what was written can be read"), value);
    }
}

fn stream<T: Message>(bytes: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    // Far below the socket's buffer, so writing does not wait for the reader.
    let sent = &bytes[..bytes.len().min(32 << 10)];
    theirs.write_all(sent).expect("it fits");
    theirs.shutdown(Shutdown::Write).expect("our socket");
    let ours = IpcStream::new(ours).expect("socket options");
    let mut rest = sent;
    while let Ok(Some((value, descriptor))) = ours.receive::<T>() {
        assert!(descriptor.is_none());
        let (length, after) = rest.split_first_chunk::<4>().expect("a message has a length");
        let (body, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        assert_eq!(decode::<T>(body).expect("the same bytes"), value);
        rest = after;
    }
    // Where it stopped there is no whole message.
    if let Some((length, after)) = rest.split_first_chunk::<4>() {
        let whole = usize::try_from(u32::from_le_bytes(*length)).ok().and_then(|length| after.get(..length));
        assert!(whole.is_none_or(|body| decode::<T>(body).is_err()));
    }
}

pub(crate) fn requests() -> Vec<RequestBody> {
    let attributes = vec![("k".to_owned(), "v".to_owned())];
    let to = || "station-b".to_owned();
    vec![
        RequestBody::Status,
        RequestBody::SendFile {
            order: TransferOrder { attributes, ..TransferOrder::new(to(), 7, "x.raw", 80) },
            path: Some("/data/x.raw".to_owned()),
        },
        RequestBody::SendStream { order: TransferOrder::new(to(), 8, "s", 3), declared: Some(5), linger_ns: 1 },
        RequestBody::Transfers { ended: true, after: Some((true, 7)), limit: 10 },
        RequestBody::Events,
        RequestBody::Watch { id: 7 },
        RequestBody::Cancel { id: u128::MAX },
        RequestBody::Message { to: to(), payload: vec![1, 2, 3] },
        RequestBody::SetRate { link: to(), rate_bps: Some(9600), burst_bytes: None },
        RequestBody::SetAdmin { link: to(), up: false },
        RequestBody::Trace { to: to() },
        RequestBody::Listen { name: None, from: Some(to()), resume: Some((8, 4)), reader: Some(3), linger_ns: 1 },
        RequestBody::ReadUpTo { id: 8, reader: 3, offset: 5 },
    ]
}

pub(crate) fn answers() -> Vec<Answer> {
    let transfer = TransferStatus {
        id: 7,
        peer: "station-b".to_owned(),
        name: "x.raw".to_owned(),
        outgoing: true,
        priority: 80,
        kind: TransferKind::Stream,
        size: Some(1 << 30),
        confirmed: 9,
        spooled: 3,
        age_ns: 1,
        stalled: false,
        ended: Some(Err(Failure::new(FailCode::Storage, "no space"))),
        ..TransferStatus::default()
    };
    let counters = vec![("tx_frames".to_owned(), 1)];
    let status = Status {
        node: "station-a".to_owned(),
        snapshot: 1,
        uptime_ns: 5,
        capabilities: "none".to_owned(),
        links: vec![LinkStatus {
            name: "to-relay".to_owned(),
            state: "normal".to_owned(),
            reason: None,
            state_age_ns: 6,
            state_changes: 2,
            rung: Rung::Generic,
            rung_reasons: vec![(Rung::ZeroCopy, "no".to_owned())],
            queues: vec![0, 1],
            rate_bps: None,
            burst_bytes: 15_000,
            measured: measured(),
            contacts: None,
            impairments: Some("delay 100ms".to_owned()),
            counters: counters.clone(),
        }],
        peers: vec![PeerStatus {
            name: "station-b".to_owned(),
            state: "dark".to_owned(),
            reason: Some("link down".to_owned()),
            rtt_ns: None,
            counters: counters.clone(),
        }],
        workers: vec![WorkerStatus { index: 0, core: Some(1), frames: FrameAccount::default(), counters }],
        transfers: vec![transfer.clone()],
        transfers_running: 1,
        note: None,
    };
    vec![
        Answer::Failed("no such peer".to_owned()),
        Answer::Unavailable("it has not been started yet".to_owned()),
        Answer::Done,
        Answer::Status(Box::new(status)),
        Answer::Transfer(Box::new(TransferStatus { ended: None, ..transfer.clone() })),
        Answer::Transfer(Box::new(transfer)),
        Answer::Message { rtt_ns: 1 },
        Answer::Hop { hop: 1, node: Some("relay".to_owned()), rtt_ns: 5, last: false },
        Answer::Hop { hop: 2, node: None, rtt_ns: 0, last: true },
    ]
}

fn measured() -> MeasuredStatus {
    let short =
        WindowStatus { expected: 9, lost: 1, reordered: 2, loss_ppm: Some(111_111), reorder_ppm: Some(250_000) };
    let direction = DirectionStatus { short, long: WindowStatus::default() };
    MeasuredStatus {
        rtt: Some(RttStatus { smoothed_ns: 3, min_ns: 2, latest_ns: 4 }),
        jitter_ns: Some(1),
        from_neighbour: direction,
        to_neighbour: Some(direction),
        clock: Ok(ClockStatus { error_ns: -3, bound_ns: 20, to_neighbour_ns: 10, from_neighbour_ns: 11 }),
    }
}

/// A message of each kind as a body, and all of a direction as a stream, whole and cut.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let requests: Vec<_> = (1..).zip(requests()).map(|(tag, body)| framed(&Request { tag, body })).collect();
    let answers: Vec<_> = (1..).zip(answers()).map(|(tag, body)| framed(&Response { tag, body })).collect();
    let hello = framed(&Hello { version: IPC_VERSION, build: "1.0.0".to_owned() });
    let chosen = |choice: u8, bytes: &[u8]| [&[choice], bytes].concat();
    let mut seeds: Vec<Vec<u8>> = requests.iter().map(|frame| chosen(0, &frame[4..])).collect();
    seeds.extend(answers.iter().map(|frame| chosen(1, &frame[4..])));
    seeds.extend([chosen(2, &hello[4..]), chosen(3, &[2, 1, b'e', 0]), chosen(3, &[0, 1, b'e', 1])]);
    let (requests, answers) = (requests.concat(), answers.concat());
    seeds.extend([chosen(5, &answers), chosen(6, &requests), chosen(6, &requests[..requests.len() - 3])]);
    seeds
}

fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
    encode(message).expect("a small message")
}
