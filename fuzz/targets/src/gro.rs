//! GRO trains: what the kernel says of a receive buffer (bytes, stride), taken apart into datagrams.
//!
//! Invariants: whatever the two numbers are, the datagrams are the first bytes of the buffer, in order, each of the stride
//! but the last, none empty; nothing beyond the buffer is asked for.

use florelay_dataplane::fuzzing::segments;

use crate::input::Input;

/// One input.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let len = usize::try_from(input.number()).unwrap_or(usize::MAX);
    let stride = usize::try_from(input.number()).unwrap_or(usize::MAX);
    let buffer = input.rest();
    let taken: Vec<&[u8]> = segments(buffer, len, stride).collect();
    assert_eq!(taken.concat(), buffer[..len.min(buffer.len())]);
    if let Some((last, before)) = taken.split_last() {
        assert!(before.iter().all(|datagram| datagram.len() == stride.max(1)));
        assert!((1..=stride.max(1)).contains(&last.len()));
    }
}

/// A train, a single datagram, numbers that leave the buffer.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [[40, 16], [10, 10], [0, 0], [127, 1], [3, 127]].map(|numbers| [&numbers[..], &[7; 40]].concat()).into()
}
