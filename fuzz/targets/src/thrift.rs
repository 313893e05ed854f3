//! What a client of the Thrift API sends: calls one after the other, and what should be the answer to a ping.
//!
//! Invariants: reading comes to an end; what is read is within the limits, whatever lengths were claimed; each call has one
//! answer, with the kind of header that it had itself.

use florelay::thrift::fuzzing::{Call, calls, pong, samples};

/// Longest string and most attributes that can come out of a message of 256 KiB.
const MAX_STRING_BYTES: usize = 64 << 10;
const MAX_ATTRIBUTES: usize = 4096;

/// One input: the bytes of a connection, either way.
pub fn run(bytes: &[u8]) {
    let read = calls(bytes);
    // The shortest call is an empty name with nothing in it.
    assert!(read.len() <= bytes.len() / 10, "more calls than bytes");
    for (call, strict, answer) in read {
        assert_eq!(answer.first().map(|byte| byte & 0x80 != 0), Some(strict), "an answer of another kind");
        match call {
            Ok(Call::StreamStart { uuid, info, .. }) => {
                assert!(info.attrs.len() <= MAX_ATTRIBUTES);
                let texts = info.attrs.iter().flat_map(|(key, value)| [key, value]);
                assert!(texts.chain([&uuid]).all(|text| text.len() <= MAX_STRING_BYTES));
            }
            Ok(Call::SetCallback(endpoint)) => assert!(endpoint.len() <= MAX_STRING_BYTES),
            Ok(_) | Err(_) => {}
        }
    }
    let _ = pong(bytes, 1);
}

/// Every call with both kinds of header, several behind each other, and an answer to a ping.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    samples()
}
