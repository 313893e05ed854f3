//! The node itself, by its control socket.

use std::thread;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{Answer, NodeEvent, RequestBody, TransferOrder, TransferStatus};

use super::relay::{Events, Reader, Relay, RelayError, Writer};
use crate::client::{Answers, ClientError, Node, StreamReader, StreamWriter, Wanted};

/// How long an order waits for a dataplane that is being started.
const START_TIME: Duration = Duration::from_secs(2);
/// Between two attempts of it.
const AGAIN: Duration = Duration::from_millis(20);

impl Relay for Node {
    fn ask(&self, body: RequestBody) -> Result<Answer, RelayError> {
        Ok(Self::ask(self, body)?)
    }

    fn open(
        &self,
        order: TransferOrder,
        declared: Option<u64>,
    ) -> Result<(Box<dyn Writer>, TransferStatus), RelayError> {
        let began = Instant::now();
        loop {
            // No linger: if this process goes away, so do the clients' connections.
            match StreamWriter::open(self, order.clone(), declared, Duration::ZERO) {
                Ok(writer) => {
                    let status = writer.status();
                    return Ok((Box::new(writer), status));
                }
                // Nothing was ordered: there was nobody to take it.
                Err(ClientError::Unavailable(_)) if began.elapsed() < START_TIME => thread::sleep(AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read(&self, id: u128) -> Result<Box<dyn Reader>, RelayError> {
        let wanted = Wanted { id: Some(id), ..Wanted::default() };
        Ok(Box::new(StreamReader::open(self, wanted)?))
    }

    fn status(&self, id: u128) -> Result<TransferStatus, RelayError> {
        match self.subscribe(RequestBody::Watch { id }, None)?.recv()? {
            Answer::Transfer(status) => Ok(*status),
            other => Err(RelayError::Failed(format!("unexpected answer: {other:?}"))),
        }
    }

    fn events(&self) -> Result<Box<dyn Events>, RelayError> {
        Ok(Box::new(self.subscribe(RequestBody::Events, None)?))
    }
}

impl Writer for StreamWriter {
    fn write_all(&mut self, data: &[u8]) -> Result<(), RelayError> {
        Ok(Self::write_all(self, data)?)
    }

    fn finish(self: Box<Self>) -> Result<TransferStatus, RelayError> {
        Ok((*self).finish()?.wait()?)
    }
}

impl Reader for StreamReader {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, RelayError> {
        Ok(Self::read(self, buf)?)
    }

    fn take(self: Box<Self>) -> Result<TransferStatus, RelayError> {
        Ok((*self).take()?)
    }
}

impl Events for Answers {
    fn next(&mut self, wait: Duration) -> Result<Option<NodeEvent>, RelayError> {
        match self.recv_timeout(wait) {
            Ok(Answer::Event(event)) => Ok(Some(event)),
            Ok(other) => Err(RelayError::Failed(format!("unexpected answer: {other:?}"))),
            Err(ClientError::Timeout) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<ClientError> for RelayError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { refusal, reason } => Self::Refused { refusal, reason },
            error if error.may_pass() => Self::Unavailable(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}
