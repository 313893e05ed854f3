//! What goes wrong between a program and a node.

use std::io;
use std::path::PathBuf;

use florelay_dataplane::ipc::{Answer, Failure, Refusal};

/// Why a request was not answered, or a stream does not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the control socket.
    #[error("no control process at {path}: {reason}", path = .socket.display())]
    Unreachable {
        /// The control socket.
        socket: PathBuf,
        /// For people.
        reason: String,
        /// The socket is there, and this user may not use it.
        denied: bool,
    },
    /// The connection to the control process ended before the answer: what was asked for may have been done or not.
    #[error("{0}")]
    Lost(String),
    /// There is no dataplane behind the control process, or it has gone before it answered.
    #[error("{0}")]
    Unavailable(String),
    /// The node refused.
    #[error("{0}")]
    Failed(String),
    /// The node refused a transfer.
    #[error("{reason}")]
    Refused {
        /// For programs.
        refusal: Refusal,
        /// For people.
        reason: String,
    },
    /// The stream has ended without success.
    #[error("{0}")]
    Ended(Failure),
    /// Another thread has ended the waiting.
    #[error("interrupted")]
    Interrupted,
    /// Nothing was heard in time.
    #[error("nothing was heard in time")]
    Timeout,
    /// The answer is none to this request.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// The system refuses a thread, a pipe, or something alike.
    #[error("{0}")]
    System(String),
}

impl ClientError {
    /// The node may come back, and the same request then be answered.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { denied, .. } => !denied,
            Self::Lost(_) | Self::Unavailable(_) => true,
            _ => false,
        }
    }

    pub(super) fn system(error: impl Into<io::Error>) -> Self {
        Self::System(error.into().to_string())
    }

    /// An answer that means no.
    pub(crate) fn of(answer: Answer) -> Result<Answer, Self> {
        match answer {
            Answer::Failed(reason) => Err(Self::Failed(reason)),
            Answer::Unavailable(reason) => Err(Self::Unavailable(reason)),
            Answer::Refused { refusal, reason } => Err(Self::Refused { refusal, reason }),
            answer => Ok(answer),
        }
    }
}
