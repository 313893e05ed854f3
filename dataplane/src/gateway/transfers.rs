//! What is known of transfers for people: running ones, the last that ended, and who watches them.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use florelay_engine::api::{TransferId, TransferMeta};
use uuid::Uuid;

use super::{Replies, nanos, reply};
use crate::ipc::{Answer, Failure, TransferKind, TransferState, TransferStatus};

/// Ended transfers that are still shown.
const MAX_ENDED: usize = 100;

struct Transfer {
    status: TransferStatus,
    started: Instant,
    watchers: Vec<(u64, Replies)>,
    /// `status` has changed since the watchers were told.
    news: bool,
}

/// The book of transfers.
pub(crate) struct Transfers {
    running: HashMap<TransferId, Transfer>,
    ended: VecDeque<TransferStatus>,
    /// Connected peers; transfers with others are stalled.
    connected: HashMap<String, bool>,
}

impl Transfers {
    pub(crate) fn new() -> Self {
        Self { running: HashMap::new(), ended: VecDeque::with_capacity(MAX_ENDED), connected: HashMap::new() }
    }

    pub(crate) fn started(&mut self, id: TransferId, peer: &str, meta: &TransferMeta, outgoing: bool) {
        let status = TransferStatus {
            id: id.0,
            peer: peer.to_owned(),
            name: meta.name.clone(),
            outgoing,
            priority: meta.priority,
            attributes: meta.attributes.clone(),
            kind: if meta.size.is_some() { TransferKind::File } else { TransferKind::Stream },
            size: meta.size,
            stalled: !self.connected.get(peer).copied().unwrap_or(false),
            ..TransferStatus::default()
        };
        self.running.insert(id, Transfer { status, started: Instant::now(), watchers: Vec::new(), news: true });
    }

    pub(crate) fn is_running(&self, id: TransferId) -> bool {
        self.running.contains_key(&id)
    }

    /// What runs under this id.
    pub(crate) fn running(&self, id: TransferId) -> Option<&TransferStatus> {
        self.running.get(&id).map(|transfer| &transfer.status)
    }

    pub(crate) fn peer_of(&self, id: TransferId) -> Option<&str> {
        self.running.get(&id).map(|transfer| transfer.status.peer.as_str())
    }

    /// Tell this client of the transfer until it ends; at once if it has ended already.
    pub(crate) fn watch(&mut self, id: TransferId, tag: u64, replies: &Replies) -> Result<(), String> {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.watchers.push((tag, replies.clone()));
            transfer.news = true;
            return Ok(());
        }
        let ended = self.ended.iter().rev().find(|status| status.id == id.0);
        let status = ended.ok_or_else(|| format!("no transfer {} is known", Uuid::from_u128(id.0)))?;
        reply(replies, tag, Answer::Transfer(Box::new(status.clone())));
        Ok(())
    }

    pub(crate) fn confirmed(&mut self, id: TransferId, offset: u64) {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.status.confirmed = offset;
            transfer.news = true;
        }
    }

    /// Bytes of a stream that this node keeps.
    pub(crate) fn spooled(&mut self, id: TransferId, bytes: u64) {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.status.spooled = bytes;
            transfer.news = true;
        }
    }

    /// A stream has ended at this size.
    pub(crate) fn size(&mut self, id: TransferId, size: u64) {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.status.size = Some(size);
            transfer.news = true;
        }
    }

    /// An offered stream has no reader.
    pub(crate) fn waiting(&mut self, id: TransferId, waiting: bool) {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.status.state = if waiting { TransferState::NoReader } else { TransferState::Running };
            transfer.news = true;
        }
    }

    /// A peer's connections came or went.
    pub(crate) fn peer_state(&mut self, peer: &str, connected: bool) {
        self.connected.insert(peer.to_owned(), connected);
        for transfer in self.running.values_mut().filter(|transfer| transfer.status.peer == peer) {
            transfer.status.stalled = !connected;
            transfer.news = true;
        }
    }

    pub(crate) fn ended(&mut self, id: TransferId, result: Result<[u8; 32], Failure>) {
        let Some(mut transfer) = self.running.remove(&id) else { return };
        let status = &mut transfer.status;
        if let (Ok(_), Some(size)) = (&result, status.size) {
            status.confirmed = size;
        }
        status.stalled = false;
        status.age_ns = nanos(transfer.started.elapsed());
        match &result {
            Ok(_) => tracing::info!(transfer = %Uuid::from_u128(id.0), name = status.name, "transfer done"),
            Err(Failure { reason, .. }) => {
                tracing::warn!(transfer = %Uuid::from_u128(id.0), name = status.name, reason, "transfer ended");
            }
        }
        status.ended = Some(result);
        for (tag, replies) in &transfer.watchers {
            reply(replies, *tag, Answer::Transfer(Box::new(transfer.status.clone())));
        }
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(transfer.status);
    }

    /// Tell watchers what is new.
    pub(crate) fn report_progress(&mut self) {
        for transfer in self.running.values_mut().filter(|transfer| transfer.news) {
            transfer.news = false;
            transfer.status.age_ns = nanos(transfer.started.elapsed());
            let status = &transfer.status;
            transfer.watchers.retain(|(tag, replies)| {
                replies
                    .send(crate::ipc::Response { tag: *tag, body: Answer::Transfer(Box::new(status.clone())) })
                    .is_ok()
            });
        }
    }

    /// Running transfers, oldest first, then those that ended.
    pub(crate) fn list(&self) -> Vec<TransferStatus> {
        let mut running: Vec<_> = self.running.values().collect();
        running.sort_by_key(|transfer| transfer.started);
        let running = running.into_iter().map(|transfer| {
            let mut status = transfer.status.clone();
            status.age_ns = nanos(transfer.started.elapsed());
            status
        });
        running.chain(self.ended.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const ID: TransferId = TransferId(7);

    fn meta() -> TransferMeta {
        TransferMeta { name: "f".into(), size: Some(10), declared: None, priority: 3, attributes: vec![] }
    }

    fn told(receiver: &std::sync::mpsc::Receiver<crate::ipc::Response>) -> Vec<TransferStatus> {
        receiver
            .try_iter()
            .map(|response| match response.body {
                Answer::Transfer(status) => *status,
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    #[test]
    fn watchers_hear_of_changes_and_of_the_end_exactly_once() {
        let mut book = Transfers::new();
        let (sender, receiver) = channel();
        assert!(book.watch(ID, 1, &sender).is_err());
        book.peer_state("b", true);
        book.started(ID, "b", &meta(), true);
        book.watch(ID, 1, &sender).unwrap();
        book.report_progress();
        book.report_progress();
        assert_eq!(told(&receiver).len(), 1);
        book.confirmed(ID, 4);
        book.peer_state("b", false);
        book.report_progress();
        let news = told(&receiver);
        assert!(news.len() == 1 && news[0].confirmed == 4 && news[0].stalled);
        book.ended(ID, Ok([9; 32]));
        let last = told(&receiver);
        assert_eq!((last.len(), last[0].ended.clone(), last[0].confirmed), (1, Some(Ok([9; 32])), 10));
        book.report_progress();
        assert!(told(&receiver).is_empty());
        // Who asks late is told at once.
        book.watch(ID, 2, &sender).unwrap();
        assert_eq!(told(&receiver).len(), 1);
        // How long it took does not change any more.
        assert_eq!(book.list(), last);
        assert_eq!(book.list().len(), 1);
    }
}
