//! What goes wrong, as gRPC status codes.
//!
//! The dataplane refuses most requests in words alone. Which code that is depends on whether it knows what the request names:
//! see [`Subject`].

use florelay_dataplane::ipc::{Answer, Failure, Refusal, RequestBody};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

use super::ask::ask;
use super::requests::Invalid;
use crate::client::{ClientError, Node};

/// Why a transfer was refused, as a word.
pub const REFUSAL_KEY: &str = "florelay-refusal";
/// Why a transfer has failed, as a word.
pub const FAIL_CODE_KEY: &str = "florelay-fail-code";

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// What a request was about, so that a refusal can say whether it is there.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// A transfer; one that is there was asked for what its state does not allow.
    Transfer(u128),
    /// A link; one that is there does not take these values.
    Link(String),
    /// A peer; this code if it is there.
    Peer(String, Code),
    /// Nothing that could be missing.
    Node,
}

/// The status of an error.
pub(super) fn status(error: ClientError) -> Status {
    match error {
        ClientError::Unreachable { .. } | ClientError::Lost(_) | ClientError::Unavailable(_) => {
            Status::unavailable(error.to_string())
        }
        ClientError::Failed(reason) => Status::failed_precondition(reason),
        ClientError::Refused { refusal, reason } => refused(refusal, reason),
        ClientError::Ended(failure) => failed(&failure),
        ClientError::Timeout => Status::deadline_exceeded(error.to_string()),
        ClientError::Interrupted => Status::cancelled(error.to_string()),
        ClientError::Unexpected(_) | ClientError::System(_) => Status::internal(error.to_string()),
    }
}

fn refused(refusal: Refusal, reason: String) -> Status {
    let (code, word) = match refusal {
        Refusal::QueueFull => (Code::ResourceExhausted, "queue-full"),
        Refusal::Duplicate => (Code::AlreadyExists, "duplicate"),
        Refusal::NoSuchPeer => (Code::NotFound, "no-such-peer"),
        Refusal::Invalid => (Code::InvalidArgument, "invalid"),
        Refusal::Limit => (Code::ResourceExhausted, "limit"),
    };
    Status::with_metadata(code, reason, word_of(REFUSAL_KEY, word))
}

/// A transfer that a call went on with has failed.
pub(super) fn failed(failure: &Failure) -> Status {
    let metadata = word_of(FAIL_CODE_KEY, failure.code.name());
    Status::with_metadata(Code::FailedPrecondition, failure.reason.clone(), metadata)
}

fn word_of(key: &'static str, word: &'static str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert(key, AsciiMetadataValue::from_static(word));
    metadata
}

/// The status of a refusal of a request about `subject`.
pub(super) async fn about(node: &Node, subject: Subject, error: ClientError) -> Status {
    let reason = match (error, &subject) {
        (ClientError::Failed(reason), _) => reason,
        // Of an order that names nothing but a transfer.
        (ClientError::Refused { refusal: Refusal::Invalid, reason }, Subject::Transfer(_)) => reason,
        (error, _) => return status(error),
    };
    let (there, code) = match subject {
        Subject::Transfer(id) => (knows_transfer(node, id).await, Code::FailedPrecondition),
        Subject::Link(name) => {
            (in_status(node, |s| s.links.iter().any(|l| l.name == name)).await, Code::InvalidArgument)
        }
        Subject::Peer(name, code) => (in_status(node, |s| s.peers.iter().any(|p| p.name == name)).await, code),
        Subject::Node => (true, Code::FailedPrecondition),
    };
    Status::new(if there { code } else { Code::NotFound }, reason)
}

async fn knows_transfer(node: &Node, id: u128) -> bool {
    match super::ask::subscribe(node, RequestBody::Watch { id }).await {
        Ok(mut answers) => !matches!(answers.next().await, Some(Err(ClientError::Failed(_)))),
        Err(_) => true,
    }
}

async fn in_status(node: &Node, look: impl Fn(&florelay_dataplane::ipc::Status) -> bool) -> bool {
    match ask(node, RequestBody::Status).await {
        Ok(Answer::Status(status)) => look(&status),
        // It cannot be told: then it is not said to be missing.
        _ => true,
    }
}
