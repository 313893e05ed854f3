//! Command messages: senders at an interval, and an inbox that measures one-way latency. Virtual time is the same
//! everywhere, so the send time in the payload and the arrival time have one clock.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::Command;
use florelay_engine::config::PeerId;
use florelay_engine::time::Nanos;

/// Send time and id.
const HEADER_BYTES: usize = 16;

/// Message ids carry the sender's index above this bit.
const INDEX_SHIFT: u32 = 40;

/// Which sender of a node a message belongs to.
pub(super) fn sender_of(id: u64) -> usize {
    (id >> INDEX_SHIFT) as usize
}

fn payload(id: u64, sent: Nanos, len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&sent.0.to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend((HEADER_BYTES..len).map(|i| (id as u8).wrapping_add(i as u8)));
    bytes.into()
}

/// A flow of messages to one peer.
#[derive(Debug)]
pub struct MessageSender {
    index: usize,
    peer: PeerId,
    interval: Duration,
    payload_bytes: usize,
    next_at: Nanos,
    left: u64,
    sent: u64,
    outstanding: BTreeSet<u64>,
    round_trips: Vec<Duration>,
    failures: Vec<(u64, String)>,
}

impl MessageSender {
    pub(super) fn new(
        index: usize,
        peer: PeerId,
        start: Nanos,
        interval: Duration,
        payload_bytes: usize,
        count: u64,
    ) -> Self {
        assert!(payload_bytes >= HEADER_BYTES, "a message needs {HEADER_BYTES} bytes");
        Self {
            index,
            peer,
            interval,
            payload_bytes,
            next_at: start,
            left: count,
            sent: 0,
            outstanding: BTreeSet::new(),
            round_trips: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Nanos, commands: &mut Vec<Command>) {
        while self.left > 0 && self.next_at <= now {
            let id = ((self.index as u64) << INDEX_SHIFT) | self.sent;
            let payload = payload(id, now, self.payload_bytes);
            commands.push(Command::Message { peer: self.peer, id, payload });
            self.outstanding.insert(id);
            self.sent += 1;
            self.left -= 1;
            self.next_at += self.interval;
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Nanos> {
        (self.left > 0).then_some(self.next_at)
    }

    pub(super) fn acked(&mut self, id: u64, rtt: Duration) {
        assert!(self.outstanding.remove(&id), "message {id:x} acknowledged, but not outstanding");
        self.round_trips.push(rtt);
    }

    pub(super) fn failed(&mut self, id: u64, reason: String) {
        assert!(self.outstanding.remove(&id), "message {id:x} failed, but not outstanding");
        self.failures.push((id, reason));
    }

    /// Messages sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Everything is sent and answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.outstanding.is_empty()
    }

    /// Round trips of acknowledged messages.
    #[must_use]
    pub fn round_trips(&self) -> &[Duration] {
        &self.round_trips
    }

    /// Messages that could not be sent, and why.
    #[must_use]
    pub fn failures(&self) -> &[(u64, String)] {
        &self.failures
    }
}

/// What arrived at a node.
#[derive(Debug, Default)]
pub struct MessageInbox {
    seen: BTreeSet<(PeerId, u64)>,
    latencies: Vec<(Nanos, Duration)>,
}

impl MessageInbox {
    pub(super) fn received(&mut self, now: Nanos, peer: PeerId, id: u64, bytes: &[u8]) {
        assert!(self.seen.insert((peer, id)), "message {id:x} from {peer:?} delivered twice");
        let sent = bytes.first_chunk::<8>().map(|at| Nanos(u64::from_be_bytes(*at)));
        let sent = sent.unwrap_or_else(|| panic!("message {id:x} cut to {} bytes", bytes.len()));
        assert!(bytes == payload(id, sent, bytes.len()), "message {id:x}: other bytes than sent");
        self.latencies.push((now, now.since(sent)));
    }

    /// From whom, and which.
    pub(super) fn ids(&self) -> impl Iterator<Item = (PeerId, u64)> {
        self.seen.iter().copied()
    }

    /// Arrival and one-way latency of each message, from command to event, in order of arrival.
    #[must_use]
    pub fn latencies(&self) -> &[(Nanos, Duration)] {
        &self.latencies
    }

    /// The latency that this share of messages keeps; `None` without messages.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.latencies.iter().map(|(_, latency)| *latency).collect();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
    }
}
