//! What comes from clients, for the fuzzer (`fuzz/targets/src/thrift.rs`).

use std::collections::BTreeMap;

use ::thrift::protocol::{TMessageIdentifier, TMessageType, TOutputProtocol, TType};

pub use super::calls::{Call, Exception, Reply};

use super::types::StreamInfo;
use super::{calls, events, wire};

/// Reads calls until something is wrong or nothing is left, and answers each with nothing; the calls, whether their headers had
/// a version, and the answers' bytes.
#[must_use]
pub fn calls(bytes: &[u8]) -> Vec<(Result<Call, Exception>, bool, Vec<u8>)> {
    let mut input = wire::input(bytes);
    let mut all = Vec::new();
    loop {
        wire::begin(&mut input);
        let Ok(question) = calls::read(&mut input) else { return all };
        let strict = wire::is_strict(&input);
        let answer = question.answer(&question.call.clone().map(|_| Reply::Void)).unwrap_or_default();
        all.push((question.call, strict, answer));
    }
}

/// Reads what should be the answer to a ping; `true` = it is.
#[must_use]
pub fn pong(bytes: &[u8], sequence: i32) -> bool {
    events::read_pong(&mut wire::input(bytes), sequence).is_ok()
}

/// What clients do send: every call with both kinds of header, all of them behind each other, and the answer to a ping.
#[must_use]
pub fn samples() -> Vec<Vec<u8>> {
    let info = StreamInfo {
        size_bytes: Some(9000),
        attrs: BTreeMap::from([("filename".to_owned(), "image.raw".to_owned()), (String::new(), String::new())]),
    };
    let mut samples = Vec::new();
    for strict in [true, false] {
        let call = |name: &str, kind, fields: &dyn Fn(&mut dyn TOutputProtocol) -> ::thrift::Result<()>| {
            let mut o = wire::output(strict);
            // Into memory: it does not fail.
            let _ = o.write_message_begin(&TMessageIdentifier::new(name, kind, 1));
            let _ = wire::write_struct(&mut o, "args", fields);
            o.transport
        };
        let plain = |name| call(name, TMessageType::Call, &|_| Ok(()));
        let number = |name| call(name, TMessageType::Call, &|o| wire::write_i32(o, 1, 2));
        let one = vec![
            plain("get_version"),
            call("stream_start", TMessageType::Call, &|o| {
                wire::write_string(o, 1, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")?;
                wire::write_field(o, 2, TType::Struct, |o| wire::write_info(o, &info))?;
                wire::write_field(o, 3, TType::I08, |o| o.write_i8(127))
            }),
            call("set_callback", TMessageType::Call, &|o| wire::write_string(o, 1, "127.0.0.1:9999")),
            plain("get_link_state"),
            plain("get_bandwidth_cap_mbps"),
            plain("get_bandwidth_cap_bps"),
            plain("get_conn_stats"),
            call("link_enable", TMessageType::OneWay, &|o| {
                wire::write_field(o, 1, TType::Bool, |o| o.write_bool(true))
            }),
            number("set_max_concurrent"),
            number("set_chunk_size_bytes"),
            plain("no_such_call"),
        ];
        samples.push(one.concat());
        samples.extend(one);
        samples.push(call("ping", TMessageType::Reply, &|_| Ok(())));
    }
    samples
}
