//! Link payloads.
//!
//! Invariant: any bytes are refused, or the writers make exactly the same bytes out of what was parsed.

use florelay_wire::link::{self, Body, PATH_HEADER_BYTES};
use florelay_wire::oam::{Alarm, Liveness, TraceReply, TraceRequest};

/// One input.
pub fn run(bytes: &[u8]) {
    let Ok(frame) = link::parse(bytes) else {
        return;
    };
    let mut header = [0; PATH_HEADER_BYTES];
    let (written, rest) = match (frame.backward, frame.body) {
        (Some(backward), Body::Payload { cw, payload }) => {
            (link::write_path_header(&mut header, frame.forward, backward, cw), payload)
        }
        (Some(backward), Body::Channel { ach, message }) => {
            (link::write_path_channel(&mut header, frame.forward, backward, ach), message)
        }
        (None, Body::Channel { ach, message }) => {
            (link::write_link_channel(&mut header, frame.forward.tc, ach), message)
        }
        (None, Body::Payload { .. }) => panic!("a payload without a path"),
    };
    let len = written.expect("the longest header fits");
    assert_eq!(header[..len], bytes[..len]);
    assert_eq!(rest, &bytes[len..]);
    if let Body::Channel { message, .. } = frame.body {
        let _ = Liveness::parse(message);
        let _ = Alarm::parse(message);
        let _ = TraceRequest::parse(message);
        let _ = TraceReply::parse(message);
    }
}
