//! What is to be known of an answer without looking into it.

use super::{Answer, NodeEvent, QueueStatus, TransferStatus};

impl Answer {
    /// About the bytes that it takes, encoded or in memory: for limits.
    #[must_use]
    pub fn about_bytes(&self) -> usize {
        let queue = |queue: &QueueStatus| 64 + queue.pending.len() * size_of::<u128>();
        let transfers = |list: &[TransferStatus]| list.iter().map(TransferStatus::about_bytes).sum::<usize>();
        64 + match self {
            Self::Transfer(status) | Self::Event(NodeEvent::Transfer(status)) => status.about_bytes(),
            Self::Transfers { list, .. } => transfers(list),
            Self::Status(status) => {
                transfers(&status.transfers) + 2048 * (status.links.len() + status.peers.len() + status.workers.len())
            }
            Self::Queues(queues) => queues.iter().map(queue).sum(),
            Self::Event(NodeEvent::Queue(status)) => queue(status),
            Self::Contacts(links) => links.iter().map(|link| 64 + 64 * link.plan.len()).sum(),
            Self::Failed(reason) | Self::Unavailable(reason) | Self::Refused { reason, .. } => reason.len(),
            Self::Event(_) | Self::Done | Self::Message { .. } | Self::Hop { .. } => 64,
        }
    }

    /// No more answers to the same request follow.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self {
            Self::Transfer(transfer) => transfer.ended.is_some(),
            Self::Hop { last, .. } => *last,
            Self::Event(_) => false,
            Self::Failed(_)
            | Self::Unavailable(_)
            | Self::Done
            | Self::Status(_)
            | Self::Message { .. }
            | Self::Refused { .. }
            | Self::Transfers { .. }
            | Self::Queues(_)
            | Self::Contacts(_) => true,
        }
    }
}
