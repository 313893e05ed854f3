//! What this API needs of the node: a border, so that its tests need no dataplane.

use std::time::Duration;

use florelay_dataplane::ipc::{Answer, NodeEvent, Refusal, RequestBody, TransferOrder, TransferStatus};

/// Why the node has not done something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// It does not take a transfer.
    #[error("{reason}")]
    Refused {
        /// For programs.
        refusal: Refusal,
        /// For people.
        reason: String,
    },
    /// It says no.
    #[error("{0}")]
    Failed(String),
    /// There is no dataplane at the moment, or it has gone before it answered.
    #[error("{0}")]
    Unavailable(String),
}

/// A node.
pub trait Relay: Send + Sync + 'static {
    /// Asks for something that has one answer.
    ///
    /// # Errors
    /// The node does not do it, or does not answer.
    fn ask(&self, body: RequestBody) -> Result<Answer, RelayError>;
    /// Begins a stream of this node, and says how it stands.
    ///
    /// # Errors
    /// The node refuses it, or does not answer.
    fn open(
        &self,
        order: TransferOrder,
        declared: Option<u64>,
    ) -> Result<(Box<dyn Writer>, TransferStatus), RelayError>;
    /// Becomes the reader of an offered stream; waits until it is.
    ///
    /// # Errors
    /// There is no such stream any more.
    fn read(&self, id: u128) -> Result<Box<dyn Reader>, RelayError>;
    /// How a transfer stands, also one that has ended.
    ///
    /// # Errors
    /// The node does not know it, or does not answer.
    fn status(&self, id: u128) -> Result<TransferStatus, RelayError>;
    /// Everything that happens from now on, the present first.
    ///
    /// # Errors
    /// The node does not answer.
    fn events(&self) -> Result<Box<dyn Events>, RelayError>;
}

/// A stream that is written. Dropped without [`Writer::finish`], it is given up.
pub trait Writer: Send {
    /// Writes; waits while the node has no room.
    ///
    /// # Errors
    /// The stream has ended otherwise.
    fn write_all(&mut self, data: &[u8]) -> Result<(), RelayError>;
    /// Says that this was all, and waits for the end of the transfer.
    ///
    /// # Errors
    /// It is not known how it ended.
    fn finish(self: Box<Self>) -> Result<TransferStatus, RelayError>;
}

/// A stream that is read. Dropped before [`Reader::take`], it is given up.
pub trait Reader: Send {
    /// Reads; 0 = the end.
    ///
    /// # Errors
    /// The stream has ended otherwise.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, RelayError>;
    /// Says that all of it was read, and waits for the end of the transfer.
    ///
    /// # Errors
    /// It is not known how it ended.
    fn take(self: Box<Self>) -> Result<TransferStatus, RelayError>;
}

/// What happens at the node.
pub trait Events: Send {
    /// The next one; `None` = nothing within this time.
    ///
    /// # Errors
    /// The node has gone; what happens from now on is not heard here.
    fn next(&mut self, wait: Duration) -> Result<Option<NodeEvent>, RelayError>;
}
