//! Messages of the gRPC API: the first byte says which, the rest is its encoding.
//!
//! Invariant: any message is a request within the limits that the API states, which fits between control and dataplane, or
//! an error that names a field.

use florelay::grpc::proto;
use florelay::grpc::requests::{self, Invalid, MAX_CHUNK_BYTES, MAX_COMMAND_BYTES, MAX_LINGER, Writing};
use florelay_dataplane::ipc::{Request, RequestBody, TransferOrder};
use florelay_dataplane::ipc_codec;
use prost::Message;

/// One input.
pub fn run(bytes: &[u8]) {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 12 {
        0 => body(bytes, |m: proto::SendFileRequest| {
            let (order, path) = requests::send_file(m, || 1)?;
            assert!(path.starts_with('/') && !order.name.starts_with('.'));
            Ok(checked(order))
        }),
        1 => body(bytes, |m: proto::ListTransfersRequest| {
            let body = requests::list(&m)?;
            let RequestBody::Transfers { ended, after, limit } = &body else { panic!("{body:?}") };
            assert!((1..=1000).contains(limit));
            if let Some((behind, id)) = after {
                assert!(!behind || *ended);
                let again = proto::ListTransfersRequest { page_token: requests::page_token(*behind, *id), ..m };
                assert_eq!(requests::list(&again), Ok(body.clone()));
            }
            Ok(body)
        }),
        2 => body(bytes, |m: proto::SetPriorityRequest| {
            let body = requests::set_priority(&m)?;
            assert!(matches!(body, RequestBody::SetPriority { priority: 0..=127, .. }));
            Ok(body)
        }),
        3 => body(bytes, requests::set_queue),
        4 => body(bytes, |m: proto::WriteRequest| match requests::writing(m, || 1)? {
            Writing::Open { order, linger, .. } => {
                assert!(linger <= MAX_LINGER);
                Ok(checked(order))
            }
            Writing::Resume(id) => Ok(RequestBody::ResumeStream { id }),
        }),
        5 => body(bytes, |m: proto::ReadRequest| {
            let reading = requests::reading(m)?;
            assert!(reading.linger <= MAX_LINGER && (reading.offset == 0 || reading.id.is_some()));
            let resume = reading.id.map(|id| (id, reading.offset));
            Ok(RequestBody::Listen { name: reading.name, from: reading.from, resume, reader: None, linger_ns: 0 })
        }),
        6 => body(bytes, |m: proto::Chunk| {
            let at = m.offset_bytes;
            let data = requests::chunk(m.clone(), at)?;
            assert!(data.len() <= MAX_CHUNK_BYTES && at.checked_add(data.len() as u64).is_some());
            assert!(requests::chunk(m, at ^ 1).is_err(), "a gap");
            Ok(RequestBody::Status)
        }),
        7 => body(bytes, |m: proto::CommandRequest| {
            let body = requests::command(m)?;
            let RequestBody::Message { payload, .. } = &body else { panic!("{body:?}") };
            assert!((1..=MAX_COMMAND_BYTES).contains(&payload.len()));
            Ok(body)
        }),
        8 => body(bytes, requests::set_rate),
        9 => body(bytes, requests::set_admin),
        10 => body(bytes, requests::set_contacts),
        _ => body(bytes, requests::trace),
    }
}

fn checked(order: TransferOrder) -> RequestBody {
    assert!(order.priority <= 127 && (1..=255).contains(&order.name.len()) && !order.name.contains('/'));
    assert!(order.attributes.len() <= 64);
    assert!(order.attributes.iter().all(|(key, value)| key.len() <= 1024 && value.len() <= 1024));
    RequestBody::SendFile { order, path: None }
}

fn body<M: Message + Default>(bytes: &[u8], convert: impl FnOnce(M) -> Result<RequestBody, Invalid>) {
    let Ok(message) = M::decode(bytes) else { return };
    match convert(message) {
        Ok(body) => assert!(ipc_codec::encode(&Request { tag: 1, body }).is_ok()),
        Err(Invalid { field, reason }) => assert!(!field.is_empty() && !reason.is_empty()),
    }
}

/// A good message of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let id = "6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11".to_owned();
    let order = || proto::Order {
        to: "station-b".into(),
        id: "6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11".into(),
        name: "telemetry".into(),
        priority: 64,
        attributes: [("kind".to_owned(), "raw".to_owned())].into(),
        deadline_unix_ns: Some(1 << 60),
    };
    let contact = proto::Contact { start_unix_ns: 5, end_unix_ns: 9, rate_bps: Some(1000), delay_ns: Some(7) };
    let open = proto::WriteOpen { order: Some(order()), declared_bytes: Some(9), linger_ns: 1 << 30 };
    let read = proto::ReadOpen { id: id.clone(), name: "n".into(), from: "b".into(), offset_bytes: 3, linger_ns: 9 };
    let resume = proto::WriteResume { id: id.clone() };
    let write = |m| proto::WriteRequest { message: Some(m) };
    let token = requests::page_token(true, 7);
    let messages = [
        (0, proto::SendFileRequest { order: Some(order()), path: "/tmp/image.raw".into() }.encode_to_vec()),
        (1, proto::ListTransfersRequest { ended: true, page_size: 10, page_token: token }.encode_to_vec()),
        (2, proto::SetPriorityRequest { id: id.clone(), priority: 127 }.encode_to_vec()),
        (3, proto::SetQueueRequest { to: "b".into(), max_concurrent: Some(1), max_pending: Some(2) }.encode_to_vec()),
        (4, write(proto::write_request::Message::Open(open)).encode_to_vec()),
        (4, write(proto::write_request::Message::Resume(resume)).encode_to_vec()),
        (5, proto::ReadRequest { message: Some(proto::read_request::Message::Open(read)) }.encode_to_vec()),
        (6, proto::Chunk { offset_bytes: 4096, data: vec![7; 64].into() }.encode_to_vec()),
        (7, proto::CommandRequest { to: "b".into(), payload: b"stow".to_vec() }.encode_to_vec()),
        (8, proto::SetRateRequest { link: "l".into(), rate_bps: Some(1), burst_bytes: Some(1500) }.encode_to_vec()),
        (9, proto::SetAdminRequest { link: "l".into(), up: true }.encode_to_vec()),
        (
            10,
            proto::SetContactsRequest { link: "l".into(), plan: Some(proto::ContactList { contacts: vec![contact] }) }
                .encode_to_vec(),
        ),
        (11, proto::TraceRequest { to: "station-b".into() }.encode_to_vec()),
    ];
    messages.into_iter().map(|(which, bytes)| [vec![which], bytes].concat()).collect()
}
