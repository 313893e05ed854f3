//! The book of transfers: running ones, those that ended lately, and who is told of them.
//!
//! What has changed is on a list, so that what is told costs by changes and not by transfers. Two kinds of changes: a *turn*
//! (a new transfer, another state) is told when the gateway is through with what it is at ([`Transfers::tell_turns`]),
//! *progress* each 100 ms ([`Transfers::tell_progress`]), and later to a conversation that reads slowly. What a stream's writer
//! waits for, room to go on, its watchers hear as soon as it is worth it. The end is told at once, and after it nothing.

mod ended;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Instant;

use florelay_engine::api::{TransferId, TransferMeta};
use uuid::Uuid;

use self::ended::Ended;
use super::events::Subscribers;
use super::{Replies, nanos, reply};
use crate::ipc::{Answer, Failure, NodeEvent, TransferKind, TransferState, TransferStatus};

/// Running and ended transfers of which a status of the node speaks, each.
const MAX_SHOWN: usize = 100;
/// Bytes of transfers in one answer, about: below what a message may have.
const MAX_ANSWER_BYTES: usize = 2 << 20;

/// A stream's writer keeps what is not accepted, 16 MiB at most (`StreamWriter`), and stands still then: each eighth of that is
/// told without waiting for the others' turn.
const ACCEPTED_STEP: u64 = 2 << 20;

/// What waits to be told of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    Nothing,
    Progress,
    Turn,
}

struct Transfer {
    status: TransferStatus,
    started: Instant,
    watchers: Vec<(u64, Replies)>,
    news: News,
    /// Subscribers know of it.
    announced: bool,
    /// What was accepted when its watchers were told last.
    told_accepted: u64,
}

impl Transfer {
    fn status_now(&self) -> TransferStatus {
        let ended = self.status.ended.is_some();
        let age_ns = if ended { self.status.age_ns } else { nanos(self.started.elapsed()) };
        TransferStatus { age_ns, ..self.status.clone() }
    }

    /// Who has gone does not watch any more.
    fn tell_watchers(&mut self, status: &TransferStatus, watches: &mut HashMap<(u64, u64), TransferId>) {
        self.told_accepted = status.accepted;
        self.watchers.retain(|(tag, replies)| {
            let body = Answer::Transfer(Box::new(status.clone()));
            let told = replies.send(crate::ipc::Response { tag: *tag, body }).is_ok();
            if !told {
                watches.remove(&(replies.number(), *tag));
            }
            told
        });
    }
}

/// The book of transfers.
pub(crate) struct Transfers {
    running: BTreeMap<TransferId, Transfer>,
    ended: Ended,
    /// Those with progress to tell, each once, and some of which it has been told since.
    progressed: Vec<TransferId>,
    /// The same of turns.
    turned: Vec<TransferId>,
    /// Own streams of which much was accepted since their watchers were told.
    accepted: Vec<TransferId>,
    /// Own transfers that have ended and still have a place in a queue.
    left: Vec<TransferId>,
    /// All that have ended and are not in the book as such.
    unbooked: Vec<TransferStatus>,
    /// Which transfer a request watches, by conversation and tag.
    watches: HashMap<(u64, u64), TransferId>,
    pub(super) subscribers: Subscribers,
    /// Connected peers; transfers with others are stalled.
    connected: HashMap<String, bool>,
}

impl Transfers {
    pub(crate) fn new() -> Self {
        Self {
            running: BTreeMap::new(),
            ended: Ended::default(),
            progressed: Vec::new(),
            turned: Vec::new(),
            accepted: Vec::new(),
            left: Vec::new(),
            unbooked: Vec::new(),
            watches: HashMap::new(),
            subscribers: Subscribers::default(),
            connected: HashMap::new(),
        }
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
            declared: meta.declared,
            stalled: !self.connected.get(peer).copied().unwrap_or(false),
            ..TransferStatus::default()
        };
        let transfer = Transfer {
            status,
            started: Instant::now(),
            watchers: Vec::new(),
            news: News::Nothing,
            announced: false,
            told_accepted: 0,
        };
        self.running.insert(id, transfer);
        self.change(id, News::Turn, |_| {});
    }

    pub(crate) fn is_running(&self, id: TransferId) -> bool {
        self.running.contains_key(&id)
    }

    /// What runs under this id.
    pub(crate) fn running(&self, id: TransferId) -> Option<&TransferStatus> {
        self.running.get(&id).map(|transfer| &transfer.status)
    }

    /// What ended under this id, if it is still known.
    pub(crate) fn known_end(&self, id: TransferId) -> Option<&TransferStatus> {
        self.ended.get(id)
    }

    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn peer_of(&self, id: TransferId) -> Option<&str> {
        self.running.get(&id).map(|transfer| transfer.status.peer.as_str())
    }

    /// Tell this client of the transfer, now and until it ends; only the end if it has ended already.
    pub(crate) fn watch(&mut self, id: TransferId, tag: u64, replies: &Replies) -> Result<(), String> {
        let status = if let Some(transfer) = self.running.get_mut(&id) {
            transfer.watchers.push((tag, replies.clone()));
            self.watches.insert((replies.number(), tag), id);
            transfer.status_now()
        } else {
            let ended = self.ended.get(id);
            ended.ok_or_else(|| format!("no transfer {} is known", Uuid::from_u128(id.0)))?.clone()
        };
        reply(replies, tag, Answer::Transfer(Box::new(status)));
        Ok(())
    }

    /// Nobody waits for more answers to this request.
    pub(crate) fn forget(&mut self, tag: u64, replies: &Replies) {
        let watched = self.watches.remove(&(replies.number(), tag));
        if let Some(transfer) = watched.and_then(|id| self.running.get_mut(&id)) {
            transfer.watchers.retain(|(other, whose)| (*other, whose.number()) != (tag, replies.number()));
        }
        self.subscribers.forget(tag, replies);
    }

    fn change(&mut self, id: TransferId, news: News, change: impl FnOnce(&mut TransferStatus)) {
        let Some(transfer) = self.running.get_mut(&id) else { return };
        change(&mut transfer.status);
        if transfer.news < news {
            transfer.news = news;
            match news {
                News::Turn => self.turned.push(id),
                _ => self.progressed.push(id),
            }
        }
    }

    pub(crate) fn confirmed(&mut self, id: TransferId, offset: u64) {
        self.change(id, News::Progress, |status| status.confirmed = offset);
    }

    /// Bytes of a stream that this node keeps.
    pub(crate) fn spooled(&mut self, id: TransferId, bytes: u64) {
        self.change(id, News::Progress, |status| status.spooled = bytes);
    }

    /// Bytes of an own stream that will not be lost.
    pub(crate) fn accepted(&mut self, id: TransferId, offset: u64) {
        self.change(id, News::Progress, |status| status.accepted = offset);
        if let Some(transfer) = self.running.get_mut(&id)
            && offset >= transfer.told_accepted.saturating_add(ACCEPTED_STEP)
        {
            transfer.told_accepted = offset;
            self.accepted.push(id);
        }
    }

    /// A stream has ended at this size: its reader learns from it how far to read.
    pub(crate) fn size(&mut self, id: TransferId, size: u64) {
        self.change(id, News::Turn, |status| status.size = Some(size));
    }

    pub(crate) fn state(&mut self, id: TransferId, state: TransferState) {
        self.change(id, News::Turn, |status| status.state = state);
    }

    /// Its place among those that wait.
    pub(crate) fn position(&mut self, id: TransferId, position: u32) {
        let state = TransferState::Pending { position };
        if self.running(id).is_some_and(|status| status.state != state) {
            self.change(id, News::Progress, |status| status.state = state);
        }
    }

    pub(crate) fn priority(&mut self, id: TransferId, priority: u8) {
        self.change(id, News::Turn, |status| status.priority = priority);
    }

    /// An offered stream has no reader.
    pub(crate) fn waiting(&mut self, id: TransferId, waiting: bool) {
        self.state(id, if waiting { TransferState::NoReader } else { TransferState::Running });
    }

    pub(crate) fn deadline(&mut self, id: TransferId, deadline_unix_ns: Option<u64>) {
        self.change(id, News::Turn, |status| status.deadline_unix_ns = deadline_unix_ns);
    }

    /// What was sent of it, in all.
    pub(crate) fn wire_bytes(&mut self, id: TransferId, bytes: u64) {
        self.change(id, News::Progress, |status| status.wire_bytes = bytes);
    }

    /// A received file is in the inbox.
    pub(crate) fn arrived(&mut self, id: TransferId, path: &Path) {
        self.change(id, News::Progress, |status| status.path = Some(path.display().to_string()));
    }

    /// A peer's connections came or went.
    pub(crate) fn peer_state(&mut self, peer: &str, connected: bool) {
        if self.connected.insert(peer.to_owned(), connected) == Some(connected) {
            return;
        }
        let of_peer = |transfer: &Transfer| transfer.status.peer == peer && transfer.status.stalled == connected;
        let ids = self.running.iter().filter(|(_, transfer)| of_peer(transfer)).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            self.change(id, News::Progress, |status| status.stalled = !connected);
        }
    }

    pub(crate) fn ended(&mut self, id: TransferId, result: Result<[u8; 32], Failure>) {
        let Some(mut transfer) = self.running.remove(&id) else { return };
        if !transfer.announced {
            self.subscribers.say(&NodeEvent::Transfer(Box::new(transfer.status_now())));
        }
        let age_ns = nanos(transfer.started.elapsed());
        let status = &mut transfer.status;
        if let (Ok(_), Some(size)) = (&result, status.size) {
            status.confirmed = size;
        }
        status.stalled = false;
        status.state = TransferState::Running;
        status.age_ns = age_ns;
        match &result {
            Ok(_) => tracing::info!(transfer = %Uuid::from_u128(id.0), name = status.name, "transfer done"),
            Err(Failure { reason, .. }) => {
                tracing::warn!(transfer = %Uuid::from_u128(id.0), name = status.name, reason, "transfer ended");
            }
        }
        if result.is_err() {
            status.path = None;
        }
        status.ended = Some(result);
        for (tag, replies) in &transfer.watchers {
            self.watches.remove(&(replies.number(), *tag));
            reply(replies, *tag, Answer::Transfer(Box::new(transfer.status.clone())));
        }
        self.subscribers.say(&NodeEvent::Transfer(Box::new(transfer.status.clone())));
        if transfer.status.outgoing {
            self.left.push(id);
        }
        self.unbooked.push(transfer.status.clone());
        self.ended.insert(transfer.status);
    }

    /// What was said last of this id does not count: its first end is the one to remember.
    pub(crate) fn ended_before(&mut self, status: TransferStatus) {
        self.unbooked.push(status.clone());
        self.ended.insert(status);
    }

    /// What ended before this start, the oldest first.
    pub(crate) fn recall(&mut self, ended: impl Iterator<Item = TransferStatus>) {
        ended.for_each(|status| self.ended.insert(status));
    }

    /// Transfers that have ended since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<TransferStatus> {
        std::mem::take(&mut self.unbooked)
    }

    /// Own transfers that have ended since the last call.
    pub(crate) fn take_left(&mut self) -> Vec<TransferId> {
        std::mem::take(&mut self.left)
    }

    /// Tell of new transfers and other states, and the writers of streams of what they wait for.
    pub(crate) fn tell_turns(&mut self) {
        for id in std::mem::take(&mut self.turned) {
            self.tell(id);
        }
        for id in std::mem::take(&mut self.accepted) {
            // Whoever reads slowly hears of it with the progress.
            if let Some(transfer) = self.running.get_mut(&id)
                && !transfer.watchers.iter().any(|(_, replies)| replies.is_busy())
            {
                let status = transfer.status_now();
                transfer.tell_watchers(&status, &mut self.watches);
            }
        }
    }

    /// Tell what is new; what a conversation that reads slowly would have to keep, later.
    pub(crate) fn tell_progress(&mut self) {
        let subscribers_busy = self.subscribers.are_busy();
        let mut later = Vec::new();
        for id in std::mem::take(&mut self.progressed) {
            let Some(transfer) = self.running.get(&id).filter(|transfer| transfer.news != News::Nothing) else {
                continue;
            };
            if subscribers_busy || transfer.watchers.iter().any(|(_, replies)| replies.is_busy()) {
                later.push(id);
            } else {
                self.tell(id);
            }
        }
        self.progressed = later;
    }

    fn tell(&mut self, id: TransferId) {
        let Some(transfer) = self.running.get_mut(&id).filter(|transfer| transfer.news != News::Nothing) else {
            return;
        };
        transfer.news = News::Nothing;
        transfer.announced = true;
        if transfer.watchers.is_empty() && !self.subscribers.are_there() {
            return;
        }
        let status = transfer.status_now();
        transfer.tell_watchers(&status, &mut self.watches);
        self.subscribers.say(&NodeEvent::Transfer(Box::new(status)));
    }

    /// For a status of the node: of the running ones those under way before those that wait, the oldest first; then the last
    /// that ended.
    pub(crate) fn list(&self) -> Vec<TransferStatus> {
        let mut running: Vec<_> = self.running.values().collect();
        let rank = |transfer: &&Transfer| {
            (matches!(transfer.status.state, TransferState::Pending { .. }), transfer.started, transfer.status.id)
        };
        if running.len() > MAX_SHOWN {
            running.select_nth_unstable_by_key(MAX_SHOWN, rank);
            running.truncate(MAX_SHOWN);
        }
        running.sort_by_key(rank);
        let mut room = MAX_ANSWER_BYTES / 2;
        let mut fits = |status: &TransferStatus| {
            room = room.saturating_sub(status.about_bytes());
            room > 0
        };
        let mut list: Vec<_> =
            running.into_iter().map(Transfer::status_now).take_while(|status| fits(status)).collect();
        let mut ended: Vec<_> = self.ended.newest().take(MAX_SHOWN).take_while(|status| fits(status)).collect();
        ended.reverse();
        list.extend(ended.into_iter().cloned());
        list
    }

    /// Those behind `after`, in the order of their ids, running ones before ended ones; and whether there are more.
    pub(crate) fn page(&self, ended: bool, after: Option<(bool, u128)>, limit: usize) -> (Vec<TransferStatus>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = |of_ended: bool| match after {
            Some((true, _)) if !of_ended => None,
            Some((kind, id)) if kind == of_ended => Some((Excluded(TransferId(id)), Unbounded)),
            _ => Some((Unbounded, Unbounded)),
        };
        let running = behind(false).into_iter().flat_map(|range| self.running.range(range));
        let running = running.map(|(_, transfer)| transfer.status_now());
        let over = behind(true).filter(|_| ended).into_iter().flat_map(|range| self.ended.range(range)).cloned();
        let (mut list, mut room) = (Vec::new(), MAX_ANSWER_BYTES);
        for status in running.chain(over) {
            // One fits always, so that whoever asks gets on.
            if list.len() == limit || (status.about_bytes() > room && !list.is_empty()) {
                return (list, true);
            }
            room = room.saturating_sub(status.about_bytes());
            list.push(status);
        }
        (list, false)
    }

    /// All that run.
    pub(crate) fn all(&self) -> impl Iterator<Item = TransferStatus> {
        self.running.values().map(Transfer::status_now)
    }
}

#[cfg(test)]
mod tests;
