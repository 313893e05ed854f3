//! Liveness of one link: RFC 5880 asynchronous mode in its semantics, simplified, with a MAC.
//!
//! ```text
//!                 first valid frame                  silent for detect time
//!   Connecting ───────────────────────► Up ───────────────────────────────► Down(Timeout) ──valid frame──► Up
//!       ▲                               │ neighbour does not hear us  ────► Down(NotHeard) ──it does─────► Up
//!       │ release                       │ neighbour is held down      ────► Down(PeerHeld) ──it is not───► Up
//!       └───────── Down(held here) ◄────┴ hold(reason)
//! ```
//!
//! Frames are sent at the interval while the link is up or held, and at a quarter of it while it is looked for: nothing else
//! uses the link then, and half an interval is a good part of the way back up. While the link carries other frames these are
//! heard as well, and liveness comes as seldom as each (multiplier − 2)th interval.
//!
//! What protects it: a keyed BLAKE3 tag; a rising sequence per boot; a frame with our own boot id is a loop; a neighbour
//! that comes with a new boot id is believed only when it echoes *our* boot id (one round trip), and never with a boot id that
//! it has left, so that frames recorded earlier cannot fake a restart.
//!
//! Limits: `heard` trusts frames that are not authenticated, so it counts only after an authenticated one, and only
//! against silence. A 32-bit sequence lasts 13 years at 100 ms.

mod neighbour;
mod pace;

use std::time::Duration;

use florelay_wire::ParseError;
use florelay_wire::ach::{AchHeader, ChannelType};
use florelay_wire::link::{LINK_OAM_HEADER_BYTES, write_link_channel};
use florelay_wire::mpls::Tc;
use florelay_wire::oam::{self as body, MIN_WIRE_VERSION, State, TAG_BYTES, WIRE_VERSION};

use self::neighbour::{Boots, Neighbour};
use self::pace::Pace;
use super::link_state::{DownReason, Exchange, LinkChange, LivenessError, LivenessEvent, LivenessState};
use super::tag::{same_tag, tag_of};
use crate::config::LinkConfig;
use crate::fib::{SequenceMonitor, WINDOW_FRAMES};
use crate::time::{Nanos, nanos};

/// Length of a liveness frame from LSE 0 on.
pub const LIVENESS_FRAME_BYTES: usize = LINK_OAM_HEADER_BYTES + body::Liveness::LEN;

/// Liveness of one link.
#[derive(Clone)]
pub struct Liveness {
    key: [u8; 32],
    boot_id: u64,
    pace: Pace,
    delay: Duration,
    state: LivenessState,
    held: Option<DownReason>,
    sequence: u32,
    last_heard: Nanos,
    neighbour: Option<Neighbour>,
    boots: Boots,
    /// The neighbour's liveness sequence, whose gaps are frames lost on the way here like those of the control word.
    numbers: SequenceMonitor,
}

impl Liveness {
    /// Starts in `Connecting`, or held by the operator if the link is not `admin_up`; the first frame is due at once.
    /// `boot_id` must differ at each start of the process and not be 0 (0 is taken as 1); `seed` decides the jitter.
    #[must_use]
    pub fn new(link: &LinkConfig, boot_id: u64, seed: u64, now: Nanos) -> Self {
        let mut liveness = Self {
            key: link.liveness_key,
            boot_id: boot_id.max(1),
            pace: Pace::new(link, seed, now),
            delay: link.delay,
            state: LivenessState::Connecting,
            held: None,
            sequence: 0,
            last_heard: now,
            neighbour: None,
            boots: Boots::default(),
            numbers: SequenceMonitor::new(),
        };
        if !link.admin_up {
            liveness.hold(now, DownReason::Admin);
        }
        liveness
    }

    /// Writes the next frame, a complete link-scope payload, if one is due; its length. `extension` is what this end says
    /// beside. `buf` should have [`LIVENESS_FRAME_BYTES`]; if it is shorter the frame is skipped.
    pub fn poll_transmit(&mut self, now: Nanos, extension: body::Extension, buf: &mut [u8]) -> Option<usize> {
        if now < self.pace.next() {
            return None;
        }
        let looked_for = self.held.is_none() && self.state != LivenessState::Up;
        self.pace.leaves(now, looked_for);
        self.sequence = self.sequence.saturating_add(1);

        let neighbour = self.neighbour;
        // A candidate has another clock.
        let echoed = neighbour.filter(|_| self.boots.candidate.is_none());
        let message = body::Liveness {
            version: WIRE_VERSION,
            min_version: MIN_WIRE_VERSION,
            state: self.wire_state(),
            detect_mult: self.pace.detect_mult(),
            my_interval_us: u32::try_from(self.pace.interval_ns() / 1000).unwrap_or(u32::MAX),
            boot_id: self.boot_id,
            // A candidate is answered with its own boot id, so that it can prove itself.
            your_boot_id: self.boots.candidate.map(|c| c.boot_id).or(neighbour.map(|n| n.boot_id)).unwrap_or(0),
            sequence: self.sequence,
            sent_ns: now.0.max(1),
            echo_ns: echoed.map_or(0, |n| n.sent_ns),
            echo_hold_ns: echoed.map_or(0, |n| nanos(now.since(n.heard_at))),
            extension: Some(extension),
            tag: [0; TAG_BYTES],
        };
        let header = write_link_channel(buf, Tc::OAM, AchHeader { channel: ChannelType::Liveness })?;
        let written = buf.get_mut(header..LIVENESS_FRAME_BYTES)?;
        message.write(written)?;
        let tag = tag_of(&self.key, body::Liveness::authenticated_bytes(written)?);
        body::Liveness::set_tag(written, tag)?;
        Some(header + written.len())
    }

    /// Frames that the neighbour hears as well as liveness left at `now`.
    pub fn sent(&mut self, now: Nanos) {
        if self.state == LivenessState::Up {
            self.pace.others_left(now);
        }
    }

    /// Takes a received message (what follows the associated channel header).
    ///
    /// # Errors
    /// See [`LivenessError`]; a refused message changes nothing.
    pub fn handle(&mut self, now: Nanos, message: &[u8]) -> Result<LivenessEvent, LivenessError> {
        let covered = body::Liveness::authenticated_bytes(message).ok_or(ParseError::TooShort)?;
        let tag = message.last_chunk::<TAG_BYTES>().ok_or(ParseError::TooShort)?;
        if !same_tag(&tag_of(&self.key, covered), tag) {
            return Err(LivenessError::Tag);
        }
        let message = body::Liveness::parse(message)?;
        if message.boot_id == self.boot_id {
            return Err(LivenessError::Reflected);
        }
        let mut event = LivenessEvent::default();
        let to_us = message.your_boot_id == self.boot_id;
        let known = match self.neighbour {
            Some(known) if known.boot_id == message.boot_id => {
                if message.sequence <= known.sequence {
                    // Late perhaps, and then not lost. Older than that it is not worth believing.
                    if known.sequence - message.sequence < u32::from(WINDOW_FRAMES) {
                        self.numbers.observe(message.sequence as u16);
                    }
                    return Err(LivenessError::Replay);
                }
                Some(known)
            }
            Some(known) => {
                if self.boots.admit(&message)? {
                    self.pace.hurry(now);
                }
                if !to_us {
                    return Ok(event);
                }
                self.boots.retire(known.boot_id);
                self.numbers.restart();
                event.peer_restarted = true;
                None
            }
            None => None,
        };
        // Whoever was a candidate is the neighbour now, or the neighbour lives and the candidate has to show itself again.
        self.boots.candidate = None;

        let speaks_up = matches!(message.state, State::Init | State::Up);
        let hears_us = if speaks_up && !to_us && message.your_boot_id != 0 {
            // It answers another boot id (a candidate, or our former self): says nothing about us.
            known.is_some_and(|k| k.hears_us)
        } else {
            speaks_up && to_us
        };
        let neighbour = Neighbour {
            boot_id: message.boot_id,
            sequence: message.sequence,
            sent_ns: message.sent_ns,
            heard_at: now,
            interval_ns: u64::from(message.my_interval_us) * 1000,
            detect_mult: message.detect_mult,
            version: message.version.min(WIRE_VERSION),
            hears_us,
            heard_us_once: hears_us || known.is_some_and(|k| k.heard_us_once),
            held: message.state == State::AdminDown,
            deaf_since: known.filter(|k| !k.hears_us && !hears_us).map_or(now, |k| k.deaf_since),
        };
        if known.is_none_or(|k| k.hears_us != hears_us) {
            // It waits to learn what we know of it: tell it now.
            self.pace.hurry(now);
        }
        self.neighbour = Some(neighbour);
        self.last_heard = now;
        event.change = self.judge(now, neighbour);
        // After the judgement: what was lost while the link was down is not lost by a link that is up.
        self.numbers.observe(message.sequence as u16);
        event.exchange = Some(Exchange {
            echo: (to_us && message.echo_ns != 0).then_some((message.echo_ns, message.echo_hold_ns)),
            sent_ns: message.sent_ns,
            follows: known.is_some_and(|k| k.sent_ns != 0),
            extension: message.extension,
        });
        Ok(event)
    }

    /// Any other valid frame of a known label arrived on the link: as good as a liveness frame against silence.
    pub fn heard(&mut self, now: Nanos) -> Option<LinkChange> {
        let neighbour = self.neighbour.filter(|n| !n.held)?;
        self.last_heard = self.last_heard.max(now);
        match self.state {
            LivenessState::Connecting | LivenessState::Down(DownReason::Timeout) => {
                self.neighbour = Some(Neighbour { heard_us_once: false, deaf_since: now, ..neighbour });
                self.enter(now, LivenessState::Up)
            }
            LivenessState::Up | LivenessState::Down(_) => None,
        }
    }

    /// Silence and deafness, when [`next_timeout`](Self::next_timeout) has passed.
    pub fn check(&mut self, now: Nanos) -> Option<LinkChange> {
        if self.state != LivenessState::Up {
            return None;
        }
        if now >= self.silence_deadline() {
            return self.enter(now, LivenessState::Down(DownReason::Timeout));
        }
        if self.deaf_deadline().is_some_and(|at| now >= at) {
            return self.enter(now, LivenessState::Down(DownReason::NotHeard));
        }
        None
    }

    /// Holds the link down here (operator, carrier, contact plan) until [`release`](Self::release). One reason at a time:
    /// a second call replaces the first.
    pub fn hold(&mut self, now: Nanos, reason: DownReason) -> Option<LinkChange> {
        self.held = Some(reason);
        self.enter(now, LivenessState::Down(reason))
    }

    /// Ends a hold: the link is `Connecting` and comes up with the next valid frame.
    pub fn release(&mut self, now: Nanos) {
        if self.held.take().is_some() {
            self.state = LivenessState::Connecting;
            self.pace.hurry(now);
            if let Some(neighbour) = &mut self.neighbour {
                neighbour.heard_us_once = false;
                // Not echoed: over a long hold the two clocks drift apart by more than a round trip.
                neighbour.sent_ns = 0;
            }
        }
    }

    /// The one-way delay is another one from now on.
    pub fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// The link's rate changed: keeps liveness below 1 % of it. A longer interval is announced at the old pace first.
    pub fn set_rate(&mut self, now: Nanos, rate_bps: Option<u64>) {
        self.pace.set_rate(now, rate_bps);
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) and [`check`](Self::check) next.
    #[must_use]
    pub fn next_timeout(&self) -> Nanos {
        self.pace.next().min(self.next_check())
    }

    /// When to call [`check`](Self::check) next, for whoever cannot send now.
    #[must_use]
    pub fn next_check(&self) -> Nanos {
        if self.state != LivenessState::Up {
            return Nanos::MAX;
        }
        self.silence_deadline().min(self.deaf_deadline().unwrap_or(Nanos::MAX))
    }

    /// State of the link.
    #[must_use]
    pub fn state(&self) -> LivenessState {
        self.state
    }

    /// The neighbour's liveness frames by their numbers.
    #[must_use]
    pub fn numbers(&self) -> &SequenceMonitor {
        &self.numbers
    }

    /// Interval between own frames, before jitter.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.pace.interval_ns())
    }

    /// Silence after which the link is called down: the neighbour's multiplier × the slower of the two intervals
    /// (RFC 5880 section 6.8.4).
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        let (interval, mult) = self.neighbour.map_or((self.pace.interval_ns(), self.pace.detect_mult()), |n| {
            (n.interval_ns.max(self.pace.configured_ns()), n.detect_mult)
        });
        Duration::from_nanos(interval.saturating_mul(u64::from(mult)))
    }

    /// Boot id of the neighbour, once heard.
    #[must_use]
    pub fn peer_boot_id(&self) -> Option<u64> {
        self.neighbour.map(|n| n.boot_id)
    }

    /// Wire version that both ends speak, once heard.
    #[must_use]
    pub fn wire_version(&self) -> Option<u8> {
        self.neighbour.map(|n| n.version)
    }

    /// The state after a valid message of the neighbour.
    fn judge(&mut self, now: Nanos, neighbour: Neighbour) -> Option<LinkChange> {
        if self.held.is_some() {
            return None;
        }
        let next = match self.state {
            _ if neighbour.held => LivenessState::Down(DownReason::PeerHeld),
            LivenessState::Connecting | LivenessState::Down(DownReason::Timeout | DownReason::PeerHeld) => {
                // Whether it hears us will be known a round trip from now.
                if let Some(n) = &mut self.neighbour {
                    n.heard_us_once = neighbour.hears_us;
                    n.deaf_since = now;
                }
                LivenessState::Up
            }
            LivenessState::Up if !neighbour.hears_us && neighbour.heard_us_once => {
                LivenessState::Down(DownReason::NotHeard)
            }
            LivenessState::Down(DownReason::NotHeard) if neighbour.hears_us => LivenessState::Up,
            unchanged => unchanged,
        };
        self.enter(now, next)
    }

    fn enter(&mut self, now: Nanos, next: LivenessState) -> Option<LinkChange> {
        if next == self.state {
            return None;
        }
        self.state = next;
        self.pace.hurry(now);
        match next {
            LivenessState::Connecting => None,
            LivenessState::Up => {
                self.numbers.resume();
                Some(LinkChange::Up)
            }
            LivenessState::Down(reason) => Some(LinkChange::Down(reason)),
        }
    }

    fn silence_deadline(&self) -> Nanos {
        self.last_heard + self.detection_time()
    }

    /// Until when a neighbour that has never heard us since the link came up may go on like that: a round trip and its
    /// own detection time.
    fn deaf_deadline(&self) -> Option<Nanos> {
        let neighbour = self.neighbour.filter(|n| !n.hears_us)?;
        let intervals = self.pace.interval_ns().max(neighbour.interval_ns);
        let intervals = intervals.saturating_mul(u64::from(self.pace.detect_mult()));
        Some(neighbour.deaf_since + self.delay * 2 + Duration::from_nanos(intervals))
    }

    /// State field of own frames (RFC 5880 section 4.1).
    fn wire_state(&self) -> State {
        match (self.state, self.neighbour) {
            (LivenessState::Down(DownReason::Admin | DownReason::Contact), _) => State::AdminDown,
            (LivenessState::Connecting | LivenessState::Down(DownReason::Timeout | DownReason::Carrier), _)
            | (_, None) => State::Down,
            (_, Some(neighbour)) if neighbour.hears_us => State::Up,
            (_, Some(_)) => State::Init,
        }
    }
}

#[cfg(test)]
mod tests;
