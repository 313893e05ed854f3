//! One stripe on its way in.

use quinn_proto::{Connection, ReadError, StreamId};

use super::STRIPE_HEADER_BYTES;
use crate::api::TransferId;

/// A stripe that arrives.
#[derive(Debug, Default)]
pub(super) struct StripeIn {
    header: [u8; STRIPE_HEADER_BYTES],
    have: usize,
    pub(super) transfer: Option<TransferId>,
    /// Offset in the file of the next byte to read from the stream.
    pub(super) next: u64,
}

/// What is known of a stripe.
pub(super) enum Header {
    /// Whose it is.
    Whole(TransferId),
    /// The rest is still to come.
    Partial,
    /// It ended before that.
    Broken,
}

/// Read on in a stripe's header.
pub(super) fn read_header(stripe: &mut StripeIn, quic: &mut Connection, stream: StreamId) -> Header {
    while stripe.have < STRIPE_HEADER_BYTES {
        match read_chunk(quic, stream, STRIPE_HEADER_BYTES - stripe.have) {
            Read::Bytes(data) => {
                stripe.header[stripe.have..stripe.have + data.len()].copy_from_slice(&data);
                stripe.have += data.len();
            }
            Read::Blocked => return Header::Partial,
            Read::Ended => return Header::Broken,
        }
    }
    let [id @ .., _, _, _, _, _, _, _, _] = stripe.header;
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, offset @ ..] = stripe.header;
    let id = TransferId(u128::from_be_bytes(id));
    stripe.transfer = Some(id);
    stripe.next = u64::from_be_bytes(offset);
    Header::Whole(id)
}

enum Read {
    Bytes(bytes::Bytes),
    Blocked,
    Ended,
}

fn read_chunk(quic: &mut Connection, stream: StreamId, limit: usize) -> Read {
    let mut receiver = quic.recv_stream(stream);
    let Ok(mut chunks) = receiver.read(true) else { return Read::Ended };
    let read = match chunks.next(limit) {
        Ok(Some(chunk)) => Read::Bytes(chunk.bytes),
        Ok(None) | Err(ReadError::Reset(_)) => Read::Ended,
        Err(ReadError::Blocked) => Read::Blocked,
    };
    // Window updates leave with the next packet: the connection is polled after every event anyway.
    let _ = chunks.finalize();
    read
}
