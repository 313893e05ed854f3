//! One stripe on its way out.

use quinn_proto::{Connection, StreamId, WriteError};

use super::STRIPE_HEADER_BYTES;
use crate::api::TransferId;
use crate::transport::STRIPE_BYTES;

/// A stripe that is being written.
#[derive(Debug, Clone, Copy)]
pub(super) struct StripeOut {
    pub(super) stream: StreamId,
    header: [u8; STRIPE_HEADER_BYTES],
    /// Bytes of the header that QUIC has taken: flow control may shut in its middle.
    pub(super) header_written: usize,
    /// Bytes until it is long enough. It ends with the packet that reaches its length.
    pub(super) left: u64,
}

impl StripeOut {
    pub(super) fn new(stream: StreamId, id: TransferId, offset: u64) -> Self {
        let mut header = [0; STRIPE_HEADER_BYTES];
        header[..16].copy_from_slice(&id.0.to_be_bytes());
        header[16..].copy_from_slice(&offset.to_be_bytes());
        Self { stream, header, header_written: 0, left: STRIPE_BYTES }
    }

    /// Write the rest of the header. Returns how much that was.
    pub(super) fn write_header(&mut self, quic: &mut Connection) -> Result<usize, WriteError> {
        let rest = &self.header[self.header_written..];
        if rest.is_empty() {
            return Ok(0);
        }
        let written = quic.send_stream(self.stream).write(rest)?;
        self.header_written += written;
        Ok(written)
    }

    /// Bytes that a packet of this stripe can take beyond `packet_payload`, which allows for the longest stream id of four
    /// bytes (RFC 9000 section 16). It is shorter until a connection has opened very many stripes.
    pub(super) fn spare_bytes(&self) -> usize {
        match self.stream.index() {
            0..16 => 3,
            16..4096 => 2,
            _ => 0,
        }
    }
}
