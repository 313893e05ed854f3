//! One direction of a link: what becomes of each frame, decided when it is offered.

use std::collections::VecDeque;
use std::time::Duration;

use florelay_engine::time::Nanos;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{CorruptMode, LinkModel, Loss};

/// Why a frame does not come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkDrop {
    /// It did not fit into the queue.
    Queue,
    /// The medium was dark when it entered or should have left.
    Dark,
    /// Lost at random.
    Lost,
    /// Damaged, and a checksum found out.
    Corrupt,
}

impl LinkDrop {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 4] = [Self::Queue, Self::Dark, Self::Lost, Self::Corrupt];

    /// Its name in counters and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Dark => "dark",
            Self::Lost => "lost",
            Self::Corrupt => "corrupt",
        }
    }
}

/// Which bits of a frame flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage(u64);

impl Damage {
    /// Flip one to eight bits anywhere.
    pub fn apply(self, bytes: &mut [u8]) {
        let mut rng = SmallRng::seed_from_u64(self.0);
        if bytes.is_empty() {
            return;
        }
        for _ in 0..rng.random_range(1..=8) {
            let bit = rng.random_range(0..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a frame whose fate nobody looks at is neither delivered nor dropped"]
pub enum Fate {
    /// It does not come through.
    Dropped(LinkDrop),
    /// It arrives.
    Carried {
        /// When.
        at: Nanos,
        /// How often: once or twice.
        copies: u8,
        /// What happens to its bits.
        damage: Option<Damage>,
    },
}

/// What became of the frames offered to one direction.
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
    /// Most bytes at layer 2 that were in queue and serialiser at once.
    pub queue_high_bytes: u64,
}

impl LinkCounters {
    /// No frame appears or vanishes uncounted.
    #[must_use]
    pub fn conserved(&self) -> bool {
        let drops = self.queue_dropped + self.lost + self.dark + self.corrupt_dropped;
        self.offered + self.duplicated == self.delivered + self.in_flight + drops
    }
}

/// One direction of a link, without the frames.
#[derive(Debug)]
pub struct Channel {
    model: LinkModel,
    rng: SmallRng,
    /// Frames in the queue or serialiser: when each is out, and its size.
    queue: VecDeque<(Nanos, u32)>,
    queued_bytes: u64,
    busy_until: Nanos,
    /// Arrival of the last frame that was not late on purpose.
    last_arrival: Nanos,
    in_bad_state: bool,
    counters: LinkCounters,
}

impl Channel {
    /// A channel that behaves as `model` says, with its own random numbers.
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

    /// Offer a frame of this many bytes at layer 2. The caller reports each of its arrivals with [`Channel::arrived`].
    /// `now` never goes back.
    pub fn offer(&mut self, now: Nanos, l2_bytes: u32) -> Fate {
        self.counters.offered += 1;
        let drawn = self.draw(now);

        while let Some(&(out, bytes)) = self.queue.front()
            && out <= now
        {
            self.queued_bytes -= u64::from(bytes);
            self.queue.pop_front();
        }
        if self.queued_bytes + u64::from(l2_bytes) > self.model.queue_bytes {
            self.counters.queue_dropped += 1;
            return Fate::Dropped(LinkDrop::Queue);
        }
        let out = self.model.serialised(self.busy_until.max(now), u64::from(l2_bytes) * 8);
        self.busy_until = out;
        if out > now {
            self.queue.push_back((out, l2_bytes));
            self.queued_bytes += u64::from(l2_bytes);
            self.counters.queue_high_bytes = self.counters.queue_high_bytes.max(self.queued_bytes);
        }

        let mut at = out + self.model.delay_at(out) + drawn.jitter;
        if drawn.late {
            at += self.model.reorder_delay;
            self.counters.reordered += 1;
        } else {
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        if self.model.is_dark(out) || self.model.is_dark(at) {
            self.counters.dark += 1;
            return Fate::Dropped(LinkDrop::Dark);
        }
        if drawn.lost {
            self.counters.lost += 1;
            return Fate::Dropped(LinkDrop::Lost);
        }
        if drawn.damage.is_some() {
            if self.model.corrupt_mode == CorruptMode::ChecksumDrops {
                self.counters.corrupt_dropped += 1;
                return Fate::Dropped(LinkDrop::Corrupt);
            }
            self.counters.corrupt_delivered += 1;
        }
        self.counters.duplicated += u64::from(drawn.twice);
        let copies = 1 + u8::from(drawn.twice);
        self.counters.in_flight += u64::from(copies);
        Fate::Carried { at, copies, damage: drawn.damage }
    }

    /// One copy of a frame has reached the far end.
    pub fn arrived(&mut self) {
        self.counters.in_flight -= 1;
        self.counters.delivered += 1;
    }

    /// Behave differently from now on; frames on their way keep their fate.
    pub fn set_model(&mut self, model: LinkModel) {
        self.model = model;
    }

    /// How it behaves.
    #[must_use]
    pub fn model(&self) -> &LinkModel {
        &self.model
    }

    /// What became of the frames.
    #[must_use]
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    fn draw(&mut self, now: Nanos) -> Drawn {
        let change: f64 = self.rng.random();
        let loss: f64 = self.rng.random();
        let twice: f64 = self.rng.random();
        let corrupt: f64 = self.rng.random();
        let late: f64 = self.rng.random();
        let jitter: f64 = self.rng.random();
        let bits: u64 = self.rng.random();
        let lost = match self.model.loss_at(now) {
            Loss::Bernoulli(p) => loss < p,
            Loss::GilbertElliott { to_bad, to_good, in_good, in_bad } => {
                if change < if self.in_bad_state { to_good } else { to_bad } {
                    self.in_bad_state = !self.in_bad_state;
                }
                loss < if self.in_bad_state { in_bad } else { in_good }
            }
        };
        Drawn {
            lost,
            twice: twice < self.model.duplicate,
            damage: (corrupt < self.model.corrupt).then_some(Damage(bits)),
            late: late < self.model.reorder,
            jitter: self.model.jitter.mul_f64(jitter),
        }
    }
}

/// A frame's random values, before anything else is known of it.
struct Drawn {
    lost: bool,
    twice: bool,
    damage: Option<Damage>,
    late: bool,
    jitter: Duration,
}

#[cfg(test)]
mod tests;
