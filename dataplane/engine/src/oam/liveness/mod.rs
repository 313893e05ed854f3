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

use std::time::Duration;

use florelay_wire::ParseError;
use florelay_wire::ach::{AchHeader, ChannelType};
use florelay_wire::link::{LINK_OAM_HEADER_BYTES, write_link_channel};
use florelay_wire::mpls::Tc;
use florelay_wire::oam::{self as body, MIN_WIRE_VERSION, State, TAG_BYTES, WIRE_VERSION};

use crate::config::LinkConfig;
use crate::egress::MIN_FRAME_BYTES;
use crate::time::{Nanos, nanos};

use super::link_state::{DownReason, LinkChange, LivenessError, LivenessEvent, LivenessState};
use super::tag::{same_tag, tag_of};

/// Length of a liveness frame from LSE 0 on.
pub const LIVENESS_FRAME_BYTES: usize = LINK_OAM_HEADER_BYTES + body::Liveness::LEN;

/// Liveness takes at most 1/100 of the link's rate, while it looks for the link 4/100.
const RATE_SHARE: u64 = 100;
/// Frames leave after 75–100 % of the interval (RFC 5880 section 6.8.7), in percent.
const JITTER_MIN_PERCENT: u64 = 75;
/// While the link is looked for, frames leave this many times as often.
const PROBES_PER_INTERVAL: u64 = 4;
/// Shortest interval between frames.
const MIN_INTERVAL_NS: u64 = 1_000_000;
/// Boot ids that the neighbour has left and may not come back with.
const RETIRED_BOOTS: usize = 16;

/// What is known of the neighbour's present boot.
#[derive(Debug, Clone, Copy)]
struct Neighbour {
    boot_id: u64,
    sequence: u32,
    sent_ns: u64,
    heard_at: Nanos,
    interval_ns: u64,
    detect_mult: u8,
    version: u8,
    /// It hears us, by its last message.
    hears_us: bool,
    /// It has heard us since the link last came up.
    heard_us_once: bool,
    /// Its operator holds the link down, by its last message.
    held: bool,
    /// Since when it has not heard us.
    deaf_since: Nanos,
}

/// A boot id that has not yet shown that it hears our present boot.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    boot_id: u64,
    sequence: u32,
}

/// Liveness of one link.
#[derive(Clone)]
pub struct Liveness {
    key: [u8; 32],
    boot_id: u64,
    overhead_bytes: u64,
    configured_ns: u64,
    /// What is advertised.
    interval_ns: u64,
    /// What is kept until `announce` frames have told the neighbour of a longer interval.
    pace_ns: u64,
    announce: u8,
    detect_mult: u8,
    delay: Duration,
    state: LivenessState,
    held: Option<DownReason>,
    sequence: u32,
    next_transmit: Nanos,
    last_transmit: Nanos,
    last_heard: Nanos,
    neighbour: Option<Neighbour>,
    candidate: Option<Candidate>,
    retired: [u64; RETIRED_BOOTS],
    retired_next: usize,
    srtt: Option<Duration>,
    random: u64,
}

impl Liveness {
    /// Starts in `Connecting`, or held by the operator if the link is not `admin_up`; the first frame is due at once.
    /// `boot_id` must differ at each start of the process and not be 0 (0 is taken as 1); `seed` decides the jitter.
    #[must_use]
    pub fn new(link: &LinkConfig, boot_id: u64, seed: u64, now: Nanos) -> Self {
        let mut liveness = Self {
            key: link.liveness_key,
            boot_id: boot_id.max(1),
            overhead_bytes: u64::from(link.overhead_bytes),
            configured_ns: nanos(link.liveness_interval).max(MIN_INTERVAL_NS),
            interval_ns: 0,
            pace_ns: 0,
            announce: 0,
            detect_mult: link.detect_multiplier.max(2),
            delay: link.delay,
            state: LivenessState::Connecting,
            held: None,
            sequence: 0,
            next_transmit: now,
            last_transmit: now,
            last_heard: now,
            neighbour: None,
            candidate: None,
            retired: [0; RETIRED_BOOTS],
            retired_next: 0,
            srtt: None,
            random: seed,
        };
        liveness.interval_ns = liveness.interval_for(link.rate.rate_bps);
        liveness.pace_ns = liveness.interval_ns;
        if !link.admin_up {
            liveness.hold(now, DownReason::Admin);
        }
        liveness
    }

    /// Writes the next frame, a complete link-scope payload, if one is due; its length. `buf` should have
    /// [`LIVENESS_FRAME_BYTES`]; if it is shorter the frame is skipped.
    pub fn poll_transmit(&mut self, now: Nanos, buf: &mut [u8]) -> Option<usize> {
        if now < self.next_transmit {
            return None;
        }
        let jitter = JITTER_MIN_PERCENT + self.draw() % (101 - JITTER_MIN_PERCENT);
        if self.announce > 0 {
            self.announce -= 1;
        } else {
            self.pace_ns = self.interval_ns;
        }
        self.last_transmit = now;
        let looked_for = self.held.is_none() && self.state != LivenessState::Up;
        let pace_ns = if looked_for { self.pace_ns / PROBES_PER_INTERVAL } else { self.pace_ns };
        self.next_transmit = now + Duration::from_nanos((pace_ns / 100).saturating_mul(jitter).max(1));
        self.sequence = self.sequence.saturating_add(1);

        let neighbour = self.neighbour;
        // A candidate has another clock.
        let echoed = neighbour.filter(|_| self.candidate.is_none());
        let message = body::Liveness {
            version: WIRE_VERSION,
            min_version: MIN_WIRE_VERSION,
            state: self.wire_state(),
            detect_mult: self.detect_mult,
            my_interval_us: u32::try_from(self.interval_ns / 1000).unwrap_or(u32::MAX),
            boot_id: self.boot_id,
            // A candidate is answered with its own boot id, so that it can prove itself.
            your_boot_id: self.candidate.map(|c| c.boot_id).or(neighbour.map(|n| n.boot_id)).unwrap_or(0),
            sequence: self.sequence,
            sent_ns: now.0.max(1),
            echo_ns: echoed.map_or(0, |n| n.sent_ns),
            echo_hold_ns: echoed.map_or(0, |n| nanos(now.since(n.heard_at))),
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
        // A changed interval is announced at its own pace.
        if self.state != LivenessState::Up || self.announce > 0 || self.next_transmit <= now {
            return;
        }
        // Should the neighbour not accept those frames (a wrong label, an MTU that is too large), then liveness alone still
        // comes with two intervals of the detection time to spare.
        let pace = Duration::from_nanos(self.pace_ns / 100 * JITTER_MIN_PERCENT);
        let latest = self.last_transmit + pace * u32::from(self.detect_mult).saturating_sub(2).max(1);
        self.next_transmit = self.next_transmit.max((now + pace).min(latest));
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
                    return Err(LivenessError::Replay);
                }
                Some(known)
            }
            Some(known) => {
                self.admit_candidate(now, &message)?;
                if !to_us {
                    return Ok(event);
                }
                self.retire(known.boot_id);
                event.peer_restarted = true;
                None
            }
            None => None,
        };
        // Whoever was a candidate is the neighbour now, or the neighbour lives and the candidate has to show itself again.
        self.candidate = None;

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
            self.next_transmit = self.next_transmit.min(now);
        }
        self.neighbour = Some(neighbour);
        self.last_heard = now;
        if to_us && message.echo_ns != 0 {
            event.rtt = self.sample(now, message.echo_ns, message.echo_hold_ns);
        }
        event.change = self.judge(now, neighbour);
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
            self.next_transmit = self.next_transmit.min(now);
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
        let interval = self.interval_for(rate_bps);
        if interval == self.interval_ns {
            return;
        }
        self.announce = if interval > self.pace_ns { self.detect_mult } else { 0 };
        self.interval_ns = interval;
        self.next_transmit = self.next_transmit.min(now);
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) and [`check`](Self::check) next.
    #[must_use]
    pub fn next_timeout(&self) -> Nanos {
        if self.state != LivenessState::Up {
            return self.next_transmit;
        }
        let deaf = self.deaf_deadline().unwrap_or(Nanos::MAX);
        self.next_transmit.min(self.silence_deadline()).min(deaf)
    }

    /// State of the link.
    #[must_use]
    pub fn state(&self) -> LivenessState {
        self.state
    }

    /// Smoothed round-trip time (RFC 6298 weights), once measured.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Interval between own frames, before jitter.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval_ns)
    }

    /// Silence after which the link is called down: the neighbour's multiplier × the slower of the two intervals
    /// (RFC 5880 section 6.8.4).
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        let (interval, mult) = self
            .neighbour
            .map_or((self.interval_ns, self.detect_mult), |n| (n.interval_ns.max(self.configured_ns), n.detect_mult));
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

    /// A boot id that is new: remembers it, unless it is one of the past or repeats itself.
    fn admit_candidate(&mut self, now: Nanos, message: &body::Liveness) -> Result<(), LivenessError> {
        if self.retired.contains(&message.boot_id) {
            return Err(LivenessError::Replay);
        }
        match &mut self.candidate {
            Some(candidate) if candidate.boot_id == message.boot_id => {
                if message.sequence <= candidate.sequence {
                    return Err(LivenessError::Replay);
                }
                candidate.sequence = message.sequence;
            }
            other => {
                *other = Some(Candidate { boot_id: message.boot_id, sequence: message.sequence });
                self.next_transmit = self.next_transmit.min(now);
            }
        }
        Ok(())
    }

    fn retire(&mut self, boot_id: u64) {
        self.retired[self.retired_next] = boot_id;
        self.retired_next = (self.retired_next + 1) % RETIRED_BOOTS;
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
        self.next_transmit = self.next_transmit.min(now);
        match next {
            LivenessState::Connecting => None,
            LivenessState::Up => Some(LinkChange::Up),
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
        let intervals = self.interval_ns.max(neighbour.interval_ns).saturating_mul(u64::from(self.detect_mult));
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

    fn sample(&mut self, now: Nanos, echo_ns: u64, hold_ns: u64) -> Option<Duration> {
        let rtt = Duration::from_nanos(now.0.checked_sub(echo_ns)?.checked_sub(hold_ns)?);
        self.srtt = Some(self.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8));
        Some(rtt)
    }

    /// Configured interval, or longer so that frames at the shortest jitter take no more than their share of the rate.
    fn interval_for(&self, rate_bps: Option<u64>) -> u64 {
        let frame_bytes = (LIVENESS_FRAME_BYTES as u64 + self.overhead_bytes).max(u64::from(MIN_FRAME_BYTES));
        let floor = rate_bps.map_or(0, |rate| {
            let bit_ns = u128::from(frame_bytes * 8) * 1_000_000_000 * u128::from(RATE_SHARE) * 100;
            let interval = bit_ns.div_ceil(u128::from(rate.max(1)) * u128::from(JITTER_MIN_PERCENT));
            // What the wire can say: 32 bits of microseconds, a good hour.
            u64::try_from(interval).unwrap_or(u64::MAX).min(u64::from(u32::MAX) * 1000)
        });
        self.configured_ns.max(floor)
    }

    /// SplitMix64 (Steele, Lea & Flood 2014): jitter needs no more.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
