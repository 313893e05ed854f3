//! The session stream: length-framed messages, the hello among them.
//!
//! Invariants: any bytes become messages and perhaps one error, the same however the stream is cut into pieces; each
//! message, framed again, is read as itself alone.

use florelay_engine::api::TransferId;
use florelay_engine::fuzzing::{KINDS, Read, message, session};

use crate::input::Input;

/// One input: how it is cut, then the stream.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let pieces = [usize::from(input.byte()), usize::from(input.byte())];
    let stream = input.rest();
    let whole = session(stream, &[]);
    assert_eq!(session(stream, &pieces), whole);
    for framed in &whole.messages {
        assert_eq!(session(framed, &[]), Read { messages: vec![framed.clone()], error: None });
    }
}

/// One message of each kind, and all of them behind each other.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let messages: Vec<_> = (0..KINDS).map(|kind| message(kind, TransferId(5), 0x0001_0101, "station-b")).collect();
    let all = messages.concat();
    messages.into_iter().chain([all]).map(|stream| [vec![3, 200], stream].concat()).collect()
}
