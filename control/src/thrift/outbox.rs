//! The order in which one client hears what happens; no sockets, no clock.
//!
//! Old clients rely on it:
//! - the first event of a connection is a `stream_started`;
//! - a client that only receives hears nothing but progress between `stream_started` and the end of its stream;
//! - of each stream, `stream_started` comes first and `stream_done` or `stream_failed` last, and once.
//!
//! What may not be said yet (`link_status_update`, `queue_status_update`) is kept, its newest value only, and said when it may.

use std::collections::{BTreeSet, VecDeque};

use super::types::{Event, LinkState, Queue, StreamInfo};

/// Events that may wait; a client that lets more come reads nothing any more.
pub(super) const MAX_EVENTS: usize = 20_000;

/// Events of one callback connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    events: VecDeque<Event>,
    /// A `stream_started` was said.
    begun: bool,
    /// Own streams, running or pending.
    sending: BTreeSet<u128>,
    /// Incoming streams that were announced here.
    receiving: BTreeSet<u128>,
    /// It has, or had, an own stream.
    sends: bool,
    link: Option<LinkState>,
    queue: Option<Queue>,
    /// The newest that was said.
    said: Option<LinkState>,
}

impl Outbox {
    /// For a client that comes again while these streams of it are under way.
    pub(super) fn new(sending: BTreeSet<u128>, receiving: BTreeSet<u128>, link: LinkState) -> Self {
        Self { sends: !sending.is_empty(), sending, receiving, said: Some(link), ..Self::default() }
    }

    /// It has ordered a stream.
    pub(super) fn ordered(&mut self, id: u128) {
        self.sending.insert(id);
        self.sends = true;
    }

    /// An order was refused.
    pub(super) fn refused(&mut self, id: u128) {
        self.sending.remove(&id);
        self.release();
    }

    pub(super) fn started(&mut self, id: u128, outgoing: bool, info: StreamInfo, port: u16) {
        if !outgoing {
            self.receiving.insert(id);
        }
        self.begun = true;
        self.events.push_back(Event::Started { uuid: text(id), info, port });
        self.release();
    }

    pub(super) fn progress(&mut self, id: u128, bytes: i64, size: Option<i64>) {
        let progress = Event::Progress { uuid: text(id), bytes, size };
        let older = |event: &&mut Event| matches!((&**event, &progress), (Event::Progress { uuid: a, .. }, Event::Progress { uuid: b, .. }) if a == b);
        match self.events.iter_mut().rev().find(older) {
            Some(older) => *older = progress,
            None => self.events.push_back(progress),
        }
    }

    /// The one end of a stream: `Event::Done` or `Event::Failed`.
    pub(super) fn ended(&mut self, id: u128, end: Event) {
        self.events.push_back(end);
        self.sending.remove(&id);
        self.receiving.remove(&id);
        self.release();
    }

    pub(super) fn link(&mut self, state: LinkState) {
        self.link = Some(state);
        self.release();
    }

    pub(super) fn queue(&mut self, queue: Queue) {
        if self.sends {
            self.queue = Some(queue);
            self.release();
        }
    }

    /// The next one to say.
    pub(super) fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Too much waits.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() > MAX_EVENTS
    }

    fn release(&mut self) {
        if !self.begun || (!self.receiving.is_empty() && self.sending.is_empty()) {
            return;
        }
        if let Some(queue) = self.queue.take() {
            match self.events.back_mut() {
                Some(Event::Queue(older)) => *older = queue,
                _ => self.events.push_back(Event::Queue(queue)),
            }
        }
        if let Some(state) = self.link.take().filter(|state| self.said != Some(*state)) {
            self.said = Some(state);
            self.events.push_back(Event::Link(state));
        }
    }
}

/// A UUID as clients know it.
pub(super) fn text(id: u128) -> String {
    uuid::Uuid::from_u128(id).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(active_count: i32) -> Queue {
        Queue { active_count, max_concurrent: 1, max_pending: 100, pending: Vec::new() }
    }

    fn done(id: u128) -> Event {
        Event::Done { uuid: text(id), bytes: 1, wire: 1 }
    }

    fn started(id: u128, port: u16) -> Event {
        Event::Started { uuid: text(id), info: StreamInfo::default(), port }
    }

    fn all(outbox: &mut Outbox) -> Vec<Event> {
        std::iter::from_fn(|| outbox.next()).collect()
    }

    #[test]
    fn the_first_event_is_a_start_and_what_was_kept_comes_behind_it() {
        let mut outbox = Outbox::default();
        outbox.link(LinkState::Failed);
        outbox.link(LinkState::Normal);
        outbox.ordered(1);
        outbox.queue(queue(0));
        outbox.queue(queue(1));
        assert_eq!(all(&mut outbox), []);
        outbox.started(1, true, StreamInfo::default(), 7);
        assert_eq!(all(&mut outbox), [started(1, 7), Event::Queue(queue(1)), Event::Link(LinkState::Normal)]);
    }

    #[test]
    fn a_receiver_hears_only_progress_until_the_end() {
        let mut outbox = Outbox::default();
        outbox.started(1, false, StreamInfo::default(), 7);
        outbox.link(LinkState::Failed);
        outbox.queue(queue(3));
        outbox.progress(1, 5, None);
        outbox.progress(1, 9, None);
        outbox.link(LinkState::Normal);
        let progress = Event::Progress { uuid: text(1), bytes: 9, size: None };
        assert_eq!(all(&mut outbox), [started(1, 7), progress], "of two that wait, the newer");
        outbox.ended(1, done(1));
        assert_eq!(all(&mut outbox), [done(1), Event::Link(LinkState::Normal)], "queues are for those who send");
    }

    #[test]
    fn a_client_that_also_sends_hears_of_links_and_queues() {
        let mut outbox = Outbox::default();
        outbox.started(1, false, StreamInfo::default(), 7);
        outbox.ordered(2);
        outbox.queue(queue(1));
        outbox.link(LinkState::Degraded);
        assert_eq!(all(&mut outbox)[1..], [Event::Queue(queue(1)), Event::Link(LinkState::Degraded)]);
        // The own one has ended: it only receives again.
        outbox.ended(2, done(2));
        outbox.link(LinkState::Failed);
        assert_eq!(all(&mut outbox), [done(2)]);
    }

    #[test]
    fn a_state_that_was_said_is_not_repeated() {
        let mut outbox = Outbox::new(BTreeSet::new(), BTreeSet::new(), LinkState::Normal);
        outbox.started(1, true, StreamInfo::default(), 7);
        outbox.link(LinkState::Normal);
        assert_eq!(all(&mut outbox), [started(1, 7)]);
    }
}
