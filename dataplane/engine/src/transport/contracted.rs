//! Congestion control for a path whose rate is contracted: the window is two bandwidth-delay products of the
//! plan, so that a long link fills without tuning, and loss does not collapse it. The cap itself is kept by the link's
//! token bucket, which pulls packets from the connection.
//!
//! A contract can be wrong: a hop beyond our own link is slower, or divided. Two things say so, and bound the window:
//!
//! ```text
//!   CE (RFC 3168), and a queue stands ─► half way down to what arrives × round trip
//!                  and none stands ────► no growth; again and again: × 0.85 (RFC 8511)
//!   rounds stand above the least one ──► what arrives × round trip, then look:
//!     while the window is in use           fallen: it was our queue, and it is gone; grow slowly from here
//!                                          not fallen: the way is longer (a hand-over); this round trip is the least one
//! ```
//!
//! "What arrives" is measured while the queue stands, so it is the bottleneck's share that is ours: the reaction shortens
//! the queue and leaves the bottleneck busy, whatever the distance. CE leaves half of it, because what arrives is less
//! than our share while packets are lost on the way or held back for others: a queue that ran dry would be theirs. The bound grows by 1/64, 2/64, 3/64 … a round trip,
//! quickly enough for a bottleneck that gets faster, and not while rounds are long.
//!
//! Limits: a queue that others fill cannot be told from a longer way, and is taken for one. ADR 0023 has the reasons.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

use super::plan::{PathPlan, Signal};
use super::rounds::{Round, Rounds, Unbroken};
use crate::config::PathMemory;

/// Floor of the window: enough for a handshake flight and for loss probes on the slowest links.
const MIN_WINDOW_PACKETS: u64 = 16;
/// Floor where the path has said that this is too much.
const MIN_BOUND_PACKETS: u64 = 4;
/// The window in bandwidth-delay products (DESIGN section 5).
const WINDOW_BDP: u64 = 2;
/// Delayed acknowledgements hold the window open this much longer than the path's round trip.
const ACK_SLACK: Duration = Duration::from_millis(30);
/// A round trip is long from this above the least one …
const MIN_QUEUE: Duration = Duration::from_millis(25);
/// … or from this part of it.
const QUEUE_RTT_PART: u32 = 8;
/// A queue is one that stands for this many rounds in a row.
const QUEUE_ROUNDS: u32 = 3;
/// Where the way turned out to be longer, the next suspicion takes twice as long, up to this.
const MAX_QUEUE_ROUNDS: u32 = 48;
/// The second round after the window was bounded has only packets that were sent within the bound.
const TEST_ROUNDS: u32 = 2;
/// The whole rate of the plan, but for what OAM, commands and rounding take of it.
const WHOLE_RATE_PERMILLE: u64 = 975;
/// Ethernet, IPv4, UDP, two label stack entries and the control word, around a QUIC packet.
const FRAME_OVERHEAD_BYTES: u64 = 54;
/// Rounds whose rates are kept: one that was short of something says little of the bottleneck, the best of them does.
const RATE_ROUNDS: usize = 8;
/// A reaction to a queue believes these only: the bottleneck may have become slower.
const QUEUE_RATE_ROUNDS: usize = 2;
/// The n-th round without a queue lets the bound grow by n of this part.
const GROWTH_PART: u64 = 64;
/// The window is in use from these eighths of it, or of the plan's bandwidth-delay product.
const LOADED_EIGHTHS: u64 = 7;
/// Marked while the least round trip of a round is no more than this part above the path's: a burst, not a queue.
const MARKED_RTT_PART: u32 = 16;
/// CE that goes on for so many rounds is not about our queue alone …
const PATIENT_MARKS: u32 = 8;
/// … and takes this from the window each time: RFC 8511 section 3.
const ECN_BETA_PERCENT: u64 = 85;

/// A path is remembered as narrower than the plan from below so many eighths of it.
const NARROW_EIGHTHS: u64 = 7;

/// A contracted path whose cap the operator lifts is given the window of this rate: nothing but its own rings bounds it
/// then, and loss does not shrink a contracted window.
const UNCAPPED_RATE_BPS: u64 = 1_000_000_000;

/// Bytes in flight for `rate_bps` at `rtt`.
pub(crate) fn window_bytes(rate_bps: u64, rtt: Duration, mtu: u16) -> u64 {
    let window = bdp(rate_bps, rtt.saturating_add(ACK_SLACK)).saturating_mul(WINDOW_BDP);
    window.max(MIN_WINDOW_PACKETS * u64::from(mtu))
}

pub(super) fn bdp(rate_bps: u64, rtt: Duration) -> u64 {
    let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
    u64::try_from(u128::from(rate_bps) * u128::from(nanos) / 8_000_000_000).unwrap_or(u64::MAX)
}

/// Makes `Contracted` controllers that follow one rate plan.
#[derive(Debug)]
pub(crate) struct ContractedConfig {
    /// Rate and round trip, changed by the engine when they are planned otherwise.
    pub(crate) plan: PathPlan,
    /// Before the first measurement.
    pub(crate) initial_rtt: Duration,
    /// The peer acknowledges at least each so many packets at once.
    pub(crate) ack_packets: u64,
    /// What a round trip varies by without any queue that could be ours: acknowledgements that wait, frames that are
    /// being sent.
    pub(crate) slack: Duration,
    /// What the path was found to carry when it was used last, if that was less than planned.
    pub(crate) start_rate_bps: Option<u64>,
    /// Whether what the connection measures is remembered: that of the bulk lane.
    pub(crate) remembers: bool,
}

impl ControllerFactory for ContractedConfig {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mut controller = Contracted {
            planned: (self.plan.rate_bps(), self.plan.rtt()),
            unbroken: Unbroken::new(self.plan.interruptions()),
            smoothed: Duration::ZERO,
            start_rate: self.start_rate_bps,
            narrow: self.start_rate_bps,
            mtu: current_mtu,
            window: 0,
            rounds: Rounds::default(),
            least: None,
            rates: [0; RATE_ROUNDS],
            round_rtt: Duration::ZERO,
            bound: None,
            clean: 0,
            standing: 0,
            patience: QUEUE_ROUNDS,
            test: None,
            bounded_at: None,
            since_ecn: None,
            marks: 0,
            config: self,
        };
        controller.update();
        Box::new(controller)
    }
}

/// The window was bounded to see whether the round trip falls.
#[derive(Debug, Clone, Copy)]
struct Test {
    rounds_left: u32,
    /// The longest round trip of what was sent before …
    rtt: Duration,
    /// … and the bound.
    bound: Option<u64>,
}

#[derive(Debug, Clone)]
struct Contracted {
    config: Arc<ContractedConfig>,
    /// What `config.plan` said last.
    planned: (Option<u64>, Option<Duration>),
    unbroken: Unbroken,
    /// quinn-proto's smoothed round trip.
    smoothed: Duration,
    /// The window is that of this rate until the path has been measured for a round.
    start_rate: Option<u64>,
    /// The path carries so much, while the window is bounded: less than planned.
    narrow: Option<u64>,
    mtu: u16,
    window: u64,
    rounds: Rounds,
    /// Least round trip of the way as it is.
    least: Option<Duration>,
    /// What arrived per second in the last rounds, in bits, newest first; 0 = the round was not loaded.
    rates: [u64; RATE_ROUNDS],
    /// Least round trip of the last round.
    round_rtt: Duration,
    /// The window is no larger than this; `None` = the plan's.
    bound: Option<u64>,
    /// Rounds without a queue in which the bound was in use.
    clean: u64,
    /// Loaded rounds in a row that were long.
    standing: u32,
    /// So many make a queue.
    patience: u32,
    test: Option<Test>,
    /// Packets sent until then were sent within an earlier window.
    bounded_at: Option<Instant>,
    /// Rounds since CE last bounded the window …
    since_ecn: Option<u32>,
    /// … and how often it had before that without a pause.
    marks: u32,
}

impl Contracted {
    fn rate_bps(&self) -> u64 {
        self.planned.0.unwrap_or(UNCAPPED_RATE_BPS)
    }

    /// The way's round trip without queues.
    fn rtt(&self) -> Duration {
        // The least one measured may be that of an earlier contact, over a shorter way.
        self.least.unwrap_or(self.config.initial_rtt).max(self.planned.1.unwrap_or_default())
    }

    /// From here on a round trip is long.
    fn long(&self) -> Duration {
        let rtt = self.rtt();
        rtt + MIN_QUEUE.max(rtt / QUEUE_RTT_PART) + self.config.slack
    }

    fn update(&mut self) {
        let planned = (self.config.plan.rate_bps(), self.config.plan.rtt());
        if planned != self.planned {
            // What bounded the window under the old plan says nothing under the new one.
            self.planned = planned;
            (self.bound, self.test, self.standing, self.rates) = (None, None, 0, [0; RATE_ROUNDS]);
            (self.start_rate, self.narrow) = (None, None);
        }
        let window = window_bytes(self.rate_bps(), self.rtt(), self.mtu);
        if let Some(rate) = self.start_rate {
            self.bound = Some(self.room_for(rate).max(MIN_BOUND_PACKETS * u64::from(self.mtu)));
        }
        if self.bound.is_some_and(|bound| bound >= window) {
            self.bound = None;
        }
        self.window = self.bound.unwrap_or(window);
    }

    /// What arrived in so many rounds × the round trip.
    fn arriving(&self, rounds: usize) -> u64 {
        self.room_for(self.rate(rounds))
    }

    /// A bottleneck's rate × the round trip: enough to keep it busy, and next to nothing to queue in it. The round trip is
    /// that of a full packet, and what is acknowledged together must be in flight beside it.
    fn room_for(&self, rate: u64) -> u64 {
        let packet = u64::from(self.mtu).saturating_mul(8_000_000_000) / rate.max(1);
        let wait = Duration::from_nanos(packet.saturating_mul(self.config.ack_packets)).min(ACK_SLACK);
        bdp(rate, self.rtt().saturating_add(wait).saturating_add(Duration::from_nanos(packet)))
    }

    /// What arrives per second, in bits: the best of so many rounds.
    fn rate(&self, rounds: usize) -> u64 {
        self.rates.iter().take(rounds).copied().max().unwrap_or(0)
    }

    /// Where so much arrives, no hop beyond is narrower than the link: what waits there is a burst of the link's own bucket,
    /// which stands in a modem of the same rate until the link is idle.
    fn whole_rate_bps(&self) -> u64 {
        let mtu = u128::from(self.mtu);
        let bits = u128::from(self.rate_bps()) * u128::from(WHOLE_RATE_PERMILLE) * mtu;
        u64::try_from(bits / 1000 / (mtu + u128::from(FRAME_OVERHEAD_BYTES))).unwrap_or(u64::MAX)
    }

    /// Two loaded rounds are a measurement, one may be the beginning of a burst.
    fn is_measured(&self) -> bool {
        self.rates.iter().take(QUEUE_RATE_ROUNDS).all(|rate| *rate > 0)
    }

    fn set_bound(&mut self, now: Instant, bytes: u64) {
        self.bound = Some(bytes.max(MIN_BOUND_PACKETS * u64::from(self.mtu)).min(self.window));
        self.bounded_at = Some(now);
        (self.clean, self.standing) = (0, 0);
    }

    fn round_over(&mut self, now: Instant, round: &Round) {
        self.start_rate = None;
        self.since_ecn = self.since_ecn.map(|rounds| rounds.saturating_add(1));
        self.round_rtt = round.rtt;
        let in_use = self.window.min(bdp(self.rate_bps(), self.rtt()));
        let loaded = round.in_flight >= in_use / 8 * LOADED_EIGHTHS;
        // Nothing is sent into the last packet of a window: one of a few packets is in use without ever being loaded.
        let in_use = loaded || round.in_flight.saturating_add(self.mtu.into()) >= in_use / 8 * LOADED_EIGHTHS;
        self.rates.rotate_right(1);
        self.rates[0] = if loaded { round.rate_bps } else { 0 };
        let (rtt, long) = (self.rtt(), self.long());
        let narrow = self.rate(QUEUE_RATE_ROUNDS) < self.whole_rate_bps();
        match &mut self.test {
            Some(test) if test.rounds_left > 1 => test.rounds_left -= 1,
            Some(test) => {
                let test = *test;
                self.test = None;
                self.judge(test, round.rtt);
            }
            None if loaded && round.rtt > long && narrow => {
                // A packet that waited for many round trips says that the queue has stood for as long.
                let stood = round.rtt.as_nanos() / rtt.as_nanos().max(1);
                self.standing = self.standing.saturating_add(u32::try_from(stood).unwrap_or(u32::MAX).max(1));
                if self.standing >= self.patience && self.is_measured() {
                    let test = Test { rounds_left: TEST_ROUNDS, rtt: round.rtt, bound: self.bound };
                    self.set_bound(now, self.arriving(QUEUE_RATE_ROUNDS));
                    self.test = Some(test);
                }
            }
            None => {
                self.standing = 0;
                // Half of what would be a queue stands: that is enough.
                let short = round.rtt <= rtt + (long - rtt) / 2;
                if let Some(bound) = self.bound.as_mut().filter(|_| in_use && short) {
                    self.clean += 1;
                    let more = (*bound / GROWTH_PART).saturating_mul(self.clean).max(self.mtu.into());
                    *bound = bound.saturating_add(more);
                }
            }
        }
    }

    /// What the round has shown is known to the connections that come after this one.
    fn remember(&mut self) {
        let narrow = self.rate_bps() / 8 * NARROW_EIGHTHS;
        self.narrow = match (self.bound, self.rate(RATE_ROUNDS)) {
            (None, _) => None,
            // Nothing to send for a while: as it was.
            (Some(_), 0) => self.narrow,
            (Some(_), rate) => Some(rate).filter(|rate| *rate < narrow),
        };
        // While the window is tried, it is not decided what the round trip is.
        if let Some(least_rtt) = self.least.filter(|_| self.config.remembers && self.test.is_none()) {
            self.config.plan.measured().set(&PathMemory {
                least_rtt,
                smoothed_rtt: self.smoothed.max(least_rtt),
                rate_bps: self.narrow,
                planned_rate_bps: self.planned.0,
                planned_rtt: self.planned.1,
            });
        }
    }

    /// The window was bounded; did it help?
    fn judge(&mut self, test: Test, rtt: Duration) {
        let excess = test.rtt.saturating_sub(self.rtt());
        if rtt <= self.long() || rtt + excess / 2 <= test.rtt {
            self.patience = QUEUE_ROUNDS;
            self.config.plan.signal(Signal::Queue);
            return;
        }
        self.least = Some(rtt);
        self.bound = test.bound;
        self.patience = (self.patience * 2).min(MAX_QUEUE_ROUNDS);
        self.config.plan.signal(Signal::LongerWay);
    }

    /// Packets under way were marked CE.
    fn marked(&mut self, now: Instant, sent: Instant) {
        if self.bounded_at.is_some_and(|at| sent <= at) {
            return;
        }
        let in_flight = self.rounds.in_flight().min(self.window);
        self.marks = match self.since_ecn {
            Some(rounds) if rounds <= TEST_ROUNDS => self.marks + 1,
            _ => 0,
        };
        let least = if self.is_measured() { 0 } else { in_flight / 2 };
        let rtt = self.rtt();
        let standing = self.round_rtt.min(self.rounds.rtt()) > rtt + rtt / MARKED_RTT_PART;
        let bound = match self.marks {
            // Half of the queue may stay: it keeps the bottleneck busy, and the share that is ours, while what arrives varies.
            // Where it is still too long, half of that goes, and so on.
            _ if standing => {
                let arriving = self.arriving(RATE_ROUNDS);
                (arriving + in_flight.saturating_sub(arriving) / 2).max(least)
            }
            // There is no queue, and marks go on: somebody means it.
            PATIENT_MARKS.. => {
                self.marks = 0;
                in_flight / 100 * ECN_BETA_PERCENT
            }
            // Nor is anything known of the rate: too little was sent.
            _ if !self.is_measured() => return,
            // A burst of ours: no more than this.
            _ => in_flight.max(bdp(self.rate(RATE_ROUNDS), rtt)),
        };
        self.set_bound(now, bound);
        self.test = None;
        self.since_ecn = Some(0);
        self.config.plan.signal(Signal::Ecn);
    }
}

impl Controller for Contracted {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, estimator: &RttEstimator) {
        if !self.unbroken.is_so(self.config.plan.interruptions(), now, sent, &mut self.rounds) {
            return;
        }
        self.rounds.acked(now, sent, bytes);
        self.smoothed = estimator.get();
        let rtt = now.saturating_duration_since(sent);
        self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
        // A queue that grew until the window was bounded was at its longest then, not when it was found.
        if let Some(test) = self.test.as_mut().filter(|_| self.bounded_at.is_some_and(|at| sent <= at)) {
            test.rtt = test.rtt.max(rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        if let Some(round) = self.rounds.end_acks(now, in_flight) {
            self.round_over(now, &round);
            self.update();
            self.remember();
            return;
        }
        self.update();
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, _: bool, lost_bytes: u64) {
        // quinn-proto says CE as a congestion event that lost nothing.
        if lost_bytes == 0 {
            self.marked(now, sent);
            self.update();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.update();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
