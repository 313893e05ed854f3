//! Our engine in memory: two of them, joined by handing frames over, one transfer from A to B without end.
//!
//! Charged to a side is everything that a worker does for it between the rings: frames in, timers, commands, events,
//! frames out. Not in it: adapters, rings to gateways, files, hashing. The bytes of the file are ready in memory, so
//! against [`quic_memory`](crate::quic_memory) the difference is labels, egress, oam, relay and stripes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use florelay_engine::api::{Kept, PeerState, TransferId, TransferMeta};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::port::FrameBuf as _;
use florelay_engine::{Command, Event, Nanos};

use crate::DATA_PACKET_MIN_BYTES;
use crate::clock::{PacketCost, Shares};
use crate::credentials;
use crate::instructions::{Moved, Side, charge};
use crate::payload::Payload;
use crate::rig::{HeapFrame, Node, hand_over, pair};

/// Not measured: the handshake, the slow start, cold caches.
const WARM_UP_BYTES: u64 = 16 << 20;
/// No progress for this long is a failure.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of each piece that are compared: enough to see that the right ones came, little enough not to fill the cache.
const COMPARED_BYTES: usize = 16;

const LINK: LinkId = LinkId(0);
const PEER: PeerId = PeerId(0);
const ID: TransferId = TransferId(1);

/// Moves a file for `duration` under a cap (bit/s at layer 2; `None` = uncapped) and says what a packet costs.
///
/// # Errors
/// The nodes do not connect, or nothing moves any more.
pub fn run(rate_bps: Option<u64>, duration: Duration) -> Result<PacketCost> {
    let mut stream = Transfer::start(rate_bps)?;
    stream.until_received(WARM_UP_BYTES)?;
    stream.restart_count();
    let began = Instant::now();
    while began.elapsed() < duration {
        stream.round()?;
    }
    Ok(stream.cost())
}

/// Two connected nodes and a transfer between them.
pub struct Transfer {
    a: Node,
    b: Node,
    epoch: Instant,
    payload: Payload,
    supplied: u64,
    received: u64,
    received_before: u64,
    packets: u64,
    answers: u64,
    /// Instead of real time: the time, and how far each round moves it.
    virtual_time: Option<(Nanos, Duration)>,
    counting: bool,
    shares: Shares,
    connected: bool,
    last_progress: Instant,
}

impl Transfer {
    /// Connects, and begins the transfer.
    ///
    /// # Errors
    /// The nodes do not connect.
    pub fn start(rate_bps: Option<u64>) -> Result<Self> {
        Self::begin(rate_bps, None)
    }

    /// The same, with a clock that is moved by `step` a round, whatever time it takes.
    ///
    /// # Errors
    /// The nodes do not connect.
    pub fn start_virtual(rate_bps: Option<u64>, step: Duration) -> Result<Self> {
        Self::begin(rate_bps, Some((Nanos::ZERO, step)))
    }

    fn begin(rate_bps: Option<u64>, virtual_time: Option<(Nanos, Duration)>) -> Result<Self> {
        let [a, b] = pair(rate_bps, &credentials::both_sides()?)?;
        let mut made = Self {
            a,
            b,
            epoch: Instant::now(),
            payload: Payload::default(),
            supplied: 0,
            received: 0,
            received_before: 0,
            packets: 0,
            answers: 0,
            virtual_time,
            counting: false,
            shares: Shares::wall_only(),
            connected: false,
            last_progress: Instant::now(),
        };
        while !made.connected {
            made.round()?;
        }
        let name = "bench.bin".to_owned();
        let meta = TransferMeta { name, size: None, declared: None, priority: 0, attributes: Vec::new() };
        let now = made.now(Instant::now());
        made.a.engine.handle_command(now, Command::Send { peer: PEER, id: ID, meta, kept: Kept::default() });
        Ok(made)
    }

    /// One burst of A, what B makes of it, and B's answers. Rounds in which nothing moved are charged to nobody.
    ///
    /// # Errors
    /// The transfer ended, bytes are wrong, or nothing moves any more.
    pub fn round(&mut self) -> Result<()> {
        let start = Instant::now();
        let now = self.now(start);
        let counting = self.counting;
        charge(counting, Side::Sender, || {
            self.a.timers(now);
            self.a.engine.transmit(now, LINK, &mut self.a.port);
        });
        let is_data = |frame: &HeapFrame| frame.bytes().len() >= DATA_PACKET_MIN_BYTES;
        let packets = self.a.port.out.iter().filter(|(_, frame, _)| is_data(frame)).count();
        let at_b = Instant::now();
        let mut moved = charge(counting, Side::Receiver, || {
            let moved = hand_over(now, &mut self.a.port, &mut self.b, LINK);
            self.b.timers(now);
            self.events_of_b(now)?;
            self.b.engine.transmit(now, LINK, &mut self.b.port);
            anyhow::Ok(moved)
        })?;
        self.answers += self.b.port.out.len() as u64;
        let at_a = Instant::now();
        moved += charge(counting, Side::Sender, || {
            let moved = hand_over(now, &mut self.b.port, &mut self.a, LINK);
            self.events_of_a(now)?;
            anyhow::Ok(moved)
        })?;
        let end = Instant::now();
        if moved > 0 {
            self.packets += packets as u64;
            self.shares.sender += (at_b - start) + (end - at_a);
            self.shares.receiver += at_a - at_b;
        }
        ensure!(end - self.last_progress < PATIENCE, "stuck after {} bytes", self.received);
        Ok(())
    }

    /// Rounds until B has this many bytes of the file.
    ///
    /// # Errors
    /// As [`round`](Self::round).
    pub fn until_received(&mut self, bytes: u64) -> Result<()> {
        while self.received < bytes {
            self.round()?;
        }
        Ok(())
    }

    /// Data packets sent since the start or [`restart_count`](Self::restart_count).
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes of the file that B has.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Forget what was charged so far.
    pub fn restart_count(&mut self) {
        self.shares = if self.virtual_time.is_some() { Shares::wall_only() } else { Shares::start() };
        self.packets = 0;
        self.answers = 0;
        self.received_before = self.received;
    }

    /// What a packet has cost since [`restart_count`](Self::restart_count).
    #[must_use]
    pub fn cost(&self) -> PacketCost {
        self.shares.per_packet(self.packets, self.received - self.received_before)
    }

    /// From now on, each side works inside its fence.
    pub fn count_instructions(&mut self) {
        self.counting = true;
    }

    /// What moved since [`restart_count`](Self::restart_count).
    #[must_use]
    pub fn moved(&self) -> Moved {
        Moved { packets: self.packets, answers: self.answers, bytes: self.received - self.received_before }
    }

    fn now(&mut self, at: Instant) -> Nanos {
        if let Some((now, step)) = &mut self.virtual_time {
            *now += *step;
            return *now;
        }
        Nanos::ZERO + at.saturating_duration_since(self.epoch)
    }

    fn events_of_a(&mut self, now: Nanos) -> Result<()> {
        while let Some(event) = self.a.engine.poll_event() {
            match event {
                Event::Peer { state, .. } => self.connected = state == PeerState::Connected,
                Event::SupplyFrom { offset, .. } => self.supplied = offset,
                Event::SupplyUpTo { limit, .. } => {
                    while self.supplied < limit {
                        let data = self.payload.piece(self.supplied, limit);
                        let (offset, len) = (self.supplied, data.len() as u64);
                        self.a.engine.handle_command(now, Command::Supply { id: ID, offset, data });
                        self.supplied += len;
                    }
                }
                Event::TransferEnded { result, .. } => bail!("the transfer ended at A: {result:?}"),
                _ => {}
            }
        }
        Ok(())
    }

    fn events_of_b(&mut self, now: Nanos) -> Result<()> {
        let before = self.received;
        while let Some(event) = self.b.engine.poll_event() {
            match event {
                Event::Offered { id, .. } => self.b.engine.handle_command(now, Command::Accept { id, offset: 0 }),
                Event::Data { offset, data, .. } => {
                    ensure!(offset == self.received, "bytes of {offset} instead of {}", self.received);
                    let expected = self.payload.piece(offset, offset + COMPARED_BYTES.min(data.len()) as u64);
                    ensure!(data.starts_with(&expected), "wrong bytes at {offset}");
                    self.received += data.len() as u64;
                    self.last_progress = Instant::now();
                }
                Event::TransferEnded { result, .. } => bail!("the transfer ended at B: {result:?}"),
                _ => {}
            }
        }
        // As the gateway does: one confirmation for what a burst has brought.
        if self.received > before {
            self.b.engine.handle_command(now, Command::Written { id: ID, offset: self.received });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_moves_uncapped_and_contracted() {
        for rate in [None, Some(10_000_000_000)] {
            let mut transfer = Transfer::start(rate).unwrap();
            transfer.until_received(4 << 20).unwrap();
            let cost = transfer.cost();
            assert!(cost.packets > 2000, "{cost:?}");
        }
    }
}
