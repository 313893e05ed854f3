//! OAM bodies; the first byte of the input chooses which.
//!
//! Invariant: any bytes are refused, or what was parsed is written and parsed again to the same value; a body of our own
//! version or an older one is written to the same bytes; and whatever is written is no longer than the constant that says so.

use florelay_wire::oam::{Alarm, Liveness, TAG_BYTES, TraceReply, TraceRequest, WIRE_VERSION};

/// One input.
pub fn run(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else {
        return;
    };
    match choice % 4 {
        0 => {
            let Ok(value) = Liveness::parse(bytes) else {
                return;
            };
            let mut buf = [0; Liveness::LEN];
            let len = value.write(&mut buf).expect("what was parsed can be written");
            let of_version_1 = value.version == 1;
            assert_eq!(len, if of_version_1 { Liveness::LEN_1 } else { Liveness::LEN });
            assert_eq!(value.extension.is_none(), of_version_1);
            assert_eq!(Liveness::parse(&buf[..len]), Ok(value));
            same_bytes(bytes, &buf[..len]);
            let covered = Liveness::authenticated_bytes(bytes).expect("it was parsed");
            assert_eq!(covered.len() + TAG_BYTES, bytes.len());
            assert_eq!(value.tag, bytes[covered.len()..]);
        }
        1 => {
            let Ok(value) = Alarm::parse(bytes) else {
                return;
            };
            let mut buf = [0; Alarm::LEN];
            assert_eq!(value.write(&mut buf), Some(Alarm::LEN));
            assert_eq!(Alarm::parse(&buf), Ok(value));
            same_bytes(bytes, &buf);
        }
        2 => {
            let Ok(value) = TraceRequest::parse(bytes) else {
                return;
            };
            let mut buf = [0; TraceRequest::LEN];
            assert_eq!(value.write(&mut buf), Some(TraceRequest::LEN));
            assert_eq!(TraceRequest::parse(&buf), Ok(value));
            same_bytes(bytes, &buf);
        }
        _ => {
            let Ok(value) = TraceReply::parse(bytes) else {
                return;
            };
            let mut buf = [0; TraceReply::LEN];
            let len = value.write(&mut buf).expect("the longest reply fits");
            assert_eq!(TraceReply::parse(&buf[..len]), Ok(value));
            same_bytes(bytes, &buf[..len]);
        }
    }
}

/// Behind the version, which traces write as ours; of the other bodies it is a part of the value.
fn same_bytes(read: &[u8], written: &[u8]) {
    if read[0] <= WIRE_VERSION {
        assert_eq!(read[1..], written[1..]);
    }
}
