//! One direction of a simulated link: a bottleneck with a queue, then a medium with delay and faults.
//!
//! ```text
//!   offer ─► queue (bounded) ─► serialiser (rate, rate steps) ─► medium: outage, loss, corruption,
//!                                                                duplication, delay, jitter, reorder ─► arrivals
//! ```
//!
//! The fate of a packet is decided when it is offered, from the seed alone. Every packet draws the same number of
//! random values whatever its fate, so that changing one probability leaves the other faults where they were.
//!
//! Invariant: offered + duplicated = delivered + in flight + every kind of drop ([`LinkCounters::conserved`]).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How a link loses packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Each packet alone, with this probability.
    Bernoulli(f64),
    /// In bursts (Gilbert 1960, Elliott 1963): a chain of two states that moves before each packet.
    GilbertElliott {
        /// From good to bad, per packet.
        to_bad: f64,
        /// From bad to good, per packet.
        to_good: f64,
        /// Probability of loss in the good state.
        in_good: f64,
        /// Probability of loss in the bad state.
        in_bad: f64,
    },
}

/// What happens to a packet whose bits were flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorruptMode {
    /// The UDP checksum finds out: the packet is dropped before the engine sees it.
    ChecksumDrops,
    /// It is delivered as it is, to try the engine's own defences.
    Deliver,
}

/// Behaviour of one direction of a link. The default is perfect: no limit, no delay, no fault.
#[derive(Debug, Clone)]
pub struct LinkModel {
    /// Bits per second at layer 2; `None` = no bottleneck.
    pub rate_bps: Option<u64>,
    /// From this time on, this rate; ascending times.
    pub rate_steps: Vec<(Nanos, Option<u64>)>,
    /// Bytes at layer 2 that may wait or be in the serialiser; what does not fit is dropped at the tail.
    pub queue_bytes: u64,
    /// One-way delay, after serialisation.
    pub delay: Duration,
    /// Uniform additional delay up to this; by itself it never reorders.
    pub jitter: Duration,
    /// Random loss.
    pub loss: Loss,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that bits of a packet flip.
    pub corrupt: f64,
    /// What then happens.
    pub corrupt_mode: CorruptMode,
    /// Probability that a packet is late by `reorder_delay`, so that later ones overtake it.
    pub reorder: f64,
    /// How late.
    pub reorder_delay: Duration,
    /// Intervals `[start, end)` in which the medium is dark: what enters it or should leave it then is lost.
    pub outages: Vec<(Nanos, Nanos)>,
}

impl Default for LinkModel {
    fn default() -> Self {
        Self {
            rate_bps: None,
            rate_steps: Vec::new(),
            queue_bytes: u64::MAX,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::Bernoulli(0.0),
            duplicate: 0.0,
            corrupt: 0.0,
            corrupt_mode: CorruptMode::ChecksumDrops,
            reorder: 0.0,
            reorder_delay: Duration::ZERO,
            outages: Vec::new(),
        }
    }
}

impl LinkModel {
    /// A perfect link with a delay.
    #[must_use]
    pub fn with_delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// The same with a bottleneck of this rate and a queue of this many bytes.
    #[must_use]
    pub fn rate(self, rate_bps: u64, queue_bytes: u64) -> Self {
        Self { rate_bps: Some(rate_bps), queue_bytes, ..self }
    }

    /// The same with independent loss.
    #[must_use]
    pub fn loss(self, probability: f64) -> Self {
        Self { loss: Loss::Bernoulli(probability), ..self }
    }

    /// The same with one more outage.
    #[must_use]
    pub fn outage(mut self, start: Nanos, end: Nanos) -> Self {
        self.outages.push((start, end));
        self
    }

    fn is_dark(&self, at: Nanos) -> bool {
        self.outages.iter().any(|&(start, end)| start <= at && at < end)
    }

    /// When `bits` that start at `start` are out.
    fn serialised(&self, start: Nanos, bits: u64) -> Nanos {
        // In bits × 10^9, so that no step between two rates rounds.
        let mut left = u128::from(bits) * NANOS_PER_SECOND;
        let mut at = start;
        let mut rate = self.rate_bps;
        for &(change, next) in &self.rate_steps {
            if change > at {
                let Some(bps) = rate else { return at };
                let done = u128::from(bps) * u128::from(change.0 - at.0);
                if done >= left {
                    break;
                }
                left -= done;
                at = change;
            }
            rate = next;
        }
        match rate {
            None => at,
            // A link at rate zero sends never; the packet stays in the queue for good.
            Some(0) => Nanos::MAX,
            Some(bps) => Nanos(at.0.saturating_add(u64::try_from(left.div_ceil(bps.into())).unwrap_or(u64::MAX))),
        }
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A link payload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// From LSE 0 on.
    pub bytes: Bytes,
    /// Outer ECN.
    pub ecn: Ecn,
    /// Length at layer 2 in bytes, every header and the configured overhead included.
    pub l2_bytes: u32,
}

/// What became of the packets offered to one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Given to the link.
    pub offered: u64,
    /// Copies that the medium added.
    pub duplicated: u64,
    /// Handed to the far end.
    pub delivered: u64,
    /// On their way.
    pub in_flight: u64,
    /// Of `offered`: did not fit into the queue.
    pub queue_dropped: u64,
    /// Of `offered`: lost at random.
    pub lost: u64,
    /// Of `offered`: lost in an outage.
    pub dark: u64,
    /// Of `offered`: damaged and dropped by the checksum.
    pub corrupt_dropped: u64,
    /// Damaged and on their way or delivered all the same; not a drop.
    pub corrupt_delivered: u64,
    /// Made late on purpose; not a drop.
    pub reordered: u64,
}

impl LinkCounters {
    /// No packet appears or vanishes uncounted.
    #[must_use]
    pub fn conserved(&self) -> bool {
        let drops = self.queue_dropped + self.lost + self.dark + self.corrupt_dropped;
        self.offered + self.duplicated == self.delivered + self.in_flight + drops
    }
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    model: LinkModel,
    rng: SmallRng,
    /// Packets in the queue or serialiser: when each is out, and its size.
    queue: VecDeque<(Nanos, u32)>,
    queued_bytes: u64,
    busy_until: Nanos,
    /// Arrival of the last packet that was not late on purpose.
    last_arrival: Nanos,
    in_bad_state: bool,
    counters: LinkCounters,
}

impl Link {
    /// A link that behaves as `model` says, with its own random numbers.
    #[must_use]
    pub fn new(model: LinkModel, seed: u64) -> Self {
        Self {
            model,
            rng: SmallRng::seed_from_u64(seed),
            queue: VecDeque::new(),
            queued_bytes: 0,
            busy_until: Nanos::ZERO,
            last_arrival: Nanos::ZERO,
            in_bad_state: false,
            counters: LinkCounters::default(),
        }
    }

    /// Put a packet on the link; what arrives, and when, goes to `arrive` (not at all, once, or twice).
    /// The caller reports each arrival with [`Link::arrived`].
    pub fn offer(&mut self, now: Nanos, mut packet: Packet, mut arrive: impl FnMut(Nanos, Packet)) {
        self.counters.offered += 1;
        let fate = self.draw();

        while let Some(&(out, bytes)) = self.queue.front()
            && out <= now
        {
            self.queued_bytes -= u64::from(bytes);
            self.queue.pop_front();
        }
        if self.queued_bytes + u64::from(packet.l2_bytes) > self.model.queue_bytes {
            self.counters.queue_dropped += 1;
            return;
        }
        let out = self.model.serialised(self.busy_until.max(now), u64::from(packet.l2_bytes) * 8);
        self.busy_until = out;
        if out > now {
            self.queue.push_back((out, packet.l2_bytes));
            self.queued_bytes += u64::from(packet.l2_bytes);
        }

        let mut arrival = out + self.model.delay + fate.jitter;
        if fate.late {
            arrival += self.model.reorder_delay;
            self.counters.reordered += 1;
        } else {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        if self.model.is_dark(out) || self.model.is_dark(arrival) {
            self.counters.dark += 1;
            return;
        }
        if fate.lost {
            self.counters.lost += 1;
            return;
        }
        if let Some(seed) = fate.corrupted {
            if self.model.corrupt_mode == CorruptMode::ChecksumDrops {
                self.counters.corrupt_dropped += 1;
                return;
            }
            packet.bytes = flip_bits(&packet.bytes, seed);
            self.counters.corrupt_delivered += 1;
        }
        if fate.twice {
            self.counters.duplicated += 1;
            self.counters.in_flight += 1;
            arrive(arrival, packet.clone());
        }
        self.counters.in_flight += 1;
        arrive(arrival, packet);
    }

    /// One packet has reached the far end.
    pub fn arrived(&mut self) {
        self.counters.in_flight -= 1;
        self.counters.delivered += 1;
    }

    /// Behave differently from now on; packets on their way keep their fate.
    pub fn set_model(&mut self, model: LinkModel) {
        self.model = model;
    }

    /// How it behaves.
    #[must_use]
    pub fn model(&self) -> &LinkModel {
        &self.model
    }

    /// What became of the packets.
    #[must_use]
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    fn draw(&mut self) -> Fate {
        let change: f64 = self.rng.random();
        let loss: f64 = self.rng.random();
        let twice: f64 = self.rng.random();
        let corrupt: f64 = self.rng.random();
        let late: f64 = self.rng.random();
        let jitter: f64 = self.rng.random();
        let bits: u64 = self.rng.random();
        let lost = match self.model.loss {
            Loss::Bernoulli(p) => loss < p,
            Loss::GilbertElliott { to_bad, to_good, in_good, in_bad } => {
                if change < if self.in_bad_state { to_good } else { to_bad } {
                    self.in_bad_state = !self.in_bad_state;
                }
                loss < if self.in_bad_state { in_bad } else { in_good }
            }
        };
        Fate {
            lost,
            twice: twice < self.model.duplicate,
            corrupted: (corrupt < self.model.corrupt).then_some(bits),
            late: late < self.model.reorder,
            jitter: self.model.jitter.mul_f64(jitter),
        }
    }
}

struct Fate {
    lost: bool,
    twice: bool,
    corrupted: Option<u64>,
    late: bool,
    jitter: Duration,
}

/// One to eight flipped bits anywhere.
fn flip_bits(bytes: &Bytes, seed: u64) -> Bytes {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut damaged = bytes.to_vec();
    if !damaged.is_empty() {
        for _ in 0..rng.random_range(1..=8) {
            let bit = rng.random_range(0..damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
    }
    damaged.into()
}

#[cfg(test)]
mod tests;
