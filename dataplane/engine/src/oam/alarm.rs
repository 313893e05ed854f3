//! Alarms: a node that loses or regains a link tells the far ends of the paths over it (RFC 6427 shape).
//!
//! ```text
//!        A ────────── a │ this node │ b ──────── ✕ ──────── B
//!          ◄── alarm ──                  link b is dark:
//!          LSE 0 = a.out_label, LSE 1 = a.in_label, TC 7
//! ```
//!
//! Where `a` and `b` belong to different workers, the owner of `a` says it: the state of `b` comes to it from the owner of
//! `b` (`node::across`), and it looks after the repetitions itself.
//!
//! Alarms pass other transit nodes as ordinary path frames. An edge is said [`ALARM_EDGE_REPEATS`] times quickly, then
//! Down is repeated every [`ALARM_INTERVAL`] while it lasts. The far end forgets a Down that is not repeated for
//! [`ALARM_HOLD`]; so neither a lost Down nor a lost Up lasts.
//!
//! Invariants
//! - At a node, one path and direction hears of one link only, and the sequence rises with every edge: an older alarm is
//!   recognised whatever the order of arrival.
//! - A link counts as dark until it is first up, so that a path with a far hop that never came up is dark too.
//!
//! Limits: a link with very many rows repeats as fast as the driver takes the frames; a round may take longer than the interval.

use std::time::Duration;

use florelay_wire::ach::{AchHeader, ChannelType};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_channel};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::oam::{Alarm, AlarmKind, WIRE_VERSION, alarm_reason};

use crate::config::{LinkId, TransitConfig, TransitEnd};
use crate::fib::PATH_TTL;
use crate::time::Nanos;

/// Length of an alarm frame from LSE 0 on.
pub const ALARM_FRAME_BYTES: usize = PATH_HEADER_BYTES + Alarm::LEN;
/// Time between repetitions while a link is dark.
pub const ALARM_INTERVAL: Duration = Duration::from_secs(1);
/// How often an edge is said before the slow repetition.
pub const ALARM_EDGE_REPEATS: u8 = 3;
/// Time between these.
pub const ALARM_EDGE_SPACING: Duration = Duration::from_millis(100);
/// A Down that is not repeated for this long is over: 3.5 × the interval, as RFC 6427 section 2.1.1 holds defects.
pub const ALARM_HOLD: Duration = Duration::from_millis(3500);

/// Nodes on one path whose alarms are remembered; the one unheard for longest makes room.
const NODES_PER_PATH: usize = 16;

/// Identity of a node in alarms: a hash of its name and boot id, so that a restarted node, whose sequence starts anew,
/// is not taken for its former self.
#[must_use]
pub fn alarm_node_id(name: &str, boot_id: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&boot_id.to_be_bytes());
    hasher.update(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// Where to say that a link is dark: the other end of one row over it.
#[derive(Debug, Clone, Copy)]
struct Target {
    link: LinkId,
    forward: Label,
    backward: Label,
}

#[derive(Debug, Clone)]
struct LinkAlarm {
    targets: Vec<Target>,
    up: bool,
    reason: u8,
    sequence: u32,
    /// Quick repetitions left, the current one included.
    repeats: u8,
    /// When the next round is due; `MAX` = nothing to say.
    due: Nanos,
    /// Next target of the round under way.
    cursor: usize,
}

/// The alarms that a transit node sends.
#[derive(Debug, Clone)]
pub struct Alarms {
    node: u64,
    sequence: u32,
    links: Vec<LinkAlarm>,
}

impl Alarms {
    /// All links dark, nothing said yet. `node` from [`alarm_node_id`]; alarms leave by links that are `owned`.
    #[must_use]
    pub fn new(node: u64, transits: &[TransitConfig], owned: impl Fn(LinkId) -> bool) -> Self {
        let mut alarms = Self { node, sequence: 1, links: Vec::new() };
        for TransitConfig { a, b, .. } in transits {
            for (dark, target) in [(a, b), (b, a)] {
                if dark.link != target.link && owned(target.link) {
                    alarms.add(dark.link, *target);
                }
            }
        }
        alarms
    }

    /// A link went down, or is down for another reason (one of [`alarm_reason`]).
    pub fn link_down(&mut self, now: Nanos, link: LinkId, reason: u8) {
        self.edge(now, link, false, reason);
    }

    /// A link came up. Paths over it that are dark on their other link are told so at once.
    pub fn link_up(&mut self, now: Nanos, link: LinkId) {
        self.edge(now, link, true, alarm_reason::NONE);
        for other in &mut self.links {
            if !other.up && other.targets.iter().any(|target| target.link == link) {
                other.start(now);
            }
        }
    }

    /// Writes the next alarm that is due, a complete link payload, and says on which link it leaves. To be called until it
    /// returns `None`. `buf` should have [`ALARM_FRAME_BYTES`]; a shorter one loses the alarm until it is repeated.
    pub fn poll_transmit(&mut self, now: Nanos, buf: &mut [u8]) -> Option<(LinkId, usize)> {
        for at in 0..self.links.len() {
            while let Some(target) = self.links[at].next_target(now) {
                if !self.links.get(usize::from(target.link.0)).is_some_and(|l| l.up) {
                    continue;
                }
                let len = write_alarm(buf, target, &self.links[at], self.node)?;
                return Some((target.link, len));
            }
        }
        None
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next; `MAX` = not before the next edge.
    #[must_use]
    pub fn next_timeout(&self) -> Nanos {
        self.links.iter().map(|link| link.due).min().unwrap_or(Nanos::MAX)
    }

    fn add(&mut self, dark: LinkId, target: TransitEnd) {
        let wanted = usize::from(dark.0.max(target.link.0)) + 1;
        if self.links.len() < wanted {
            self.links.resize_with(wanted, || LinkAlarm {
                targets: Vec::new(),
                up: false,
                reason: alarm_reason::LIVENESS,
                sequence: 1,
                repeats: 0,
                due: Nanos::MAX,
                cursor: 0,
            });
        }
        self.links[usize::from(dark.0)].targets.push(Target {
            link: target.link,
            forward: target.out_label,
            backward: target.in_label,
        });
    }

    fn edge(&mut self, now: Nanos, link: LinkId, up: bool, reason: u8) {
        let Some(state) = self.links.get_mut(usize::from(link.0)) else {
            return;
        };
        if state.up == up && state.reason == reason {
            return;
        }
        self.sequence = self.sequence.wrapping_add(1);
        state.up = up;
        state.reason = reason;
        state.sequence = self.sequence;
        state.start(now);
    }
}

impl LinkAlarm {
    fn start(&mut self, now: Nanos) {
        self.repeats = ALARM_EDGE_REPEATS;
        self.due = now;
        self.cursor = 0;
    }

    /// The next target of a round that is due; ends the round after the last.
    fn next_target(&mut self, now: Nanos) -> Option<Target> {
        if now < self.due {
            return None;
        }
        if let Some(target) = self.targets.get(self.cursor) {
            self.cursor += 1;
            return Some(*target);
        }
        self.cursor = 0;
        self.repeats = self.repeats.saturating_sub(1);
        self.due = if self.targets.is_empty() {
            Nanos::MAX
        } else if self.repeats > 0 {
            now + ALARM_EDGE_SPACING
        } else if self.up {
            Nanos::MAX
        } else {
            now + ALARM_INTERVAL
        };
        None
    }
}

fn write_alarm(buf: &mut [u8], target: Target, link: &LinkAlarm, node: u64) -> Option<usize> {
    let lse = |label| Lse { label, tc: Tc::OAM, bottom: false, ttl: PATH_TTL };
    let ach = AchHeader { channel: ChannelType::Alarm };
    let header = write_path_channel(buf, lse(target.forward), lse(target.backward), ach)?;
    let alarm = Alarm {
        version: WIRE_VERSION,
        kind: if link.up { AlarmKind::Up } else { AlarmKind::Down },
        reason: link.reason,
        sequence: link.sequence,
        node,
    };
    Some(header + alarm.write(buf.get_mut(header..)?)?)
}

/// What alarms say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// No alarm stands.
    Clear,
    /// At least one node has lost its next link.
    Dark {
        /// Which node: its [`alarm_node_id`].
        node: u64,
        /// Why, one of [`alarm_reason`].
        reason: u8,
    },
}

#[derive(Debug, Clone, Copy)]
struct Said {
    node: u64,
    sequence: u32,
    /// Reason of a Down; `None` = Up.
    down: Option<u8>,
    heard: Nanos,
}

/// The alarms that an end of a path has heard.
#[derive(Debug, Clone)]
pub struct PathAlarm {
    said: [Option<Said>; NODES_PER_PATH],
}

impl Default for PathAlarm {
    fn default() -> Self {
        Self::new()
    }
}

impl PathAlarm {
    /// No alarm heard.
    #[must_use]
    pub fn new() -> Self {
        Self { said: [None; NODES_PER_PATH] }
    }

    /// An alarm arrived; the new state if it changed.
    pub fn handle(&mut self, now: Nanos, alarm: &Alarm) -> Option<PathState> {
        let before = self.state();
        let down = (alarm.kind == AlarmKind::Down).then_some(alarm.reason);
        let at = self.slot(alarm.node);
        let entry = &mut self.said[at];
        match entry {
            Some(said) if said.node == alarm.node => {
                // Serial number arithmetic (RFC 1982).
                let newer = alarm.sequence.wrapping_sub(said.sequence) as i32;
                if newer < 0 || (newer == 0 && down.is_some() != said.down.is_some()) {
                    return None;
                }
                *said = Said { node: alarm.node, sequence: alarm.sequence, down, heard: now };
            }
            _ => {
                *entry = Some(Said { node: alarm.node, sequence: alarm.sequence, down, heard: now });
            }
        }
        self.changed(before)
    }

    /// Forgets what was not repeated in time; the new state if it changed.
    pub fn expire(&mut self, now: Nanos) -> Option<PathState> {
        let before = self.state();
        for entry in &mut self.said {
            *entry = entry.filter(|said| now < said.heard + ALARM_HOLD);
        }
        self.changed(before)
    }

    /// When to call [`expire`](Self::expire) next; `MAX` = nothing stands.
    #[must_use]
    pub fn next_timeout(&self) -> Nanos {
        self.said.iter().flatten().map(|said| said.heard + ALARM_HOLD).min().unwrap_or(Nanos::MAX)
    }

    /// What stands now.
    #[must_use]
    pub fn state(&self) -> PathState {
        self.said
            .iter()
            .flatten()
            .find_map(|said| Some(PathState::Dark { node: said.node, reason: said.down? }))
            .unwrap_or(PathState::Clear)
    }

    /// The entry of a node, else a free one, else the one unheard for longest.
    fn slot(&self, node: u64) -> usize {
        let rank = |entry: &Option<Said>| match entry {
            Some(said) if said.node == node => (0, Nanos::ZERO),
            None => (1, Nanos::ZERO),
            Some(said) => (2, said.heard),
        };
        (0..NODES_PER_PATH).min_by_key(|at| rank(&self.said[*at])).unwrap_or(0)
    }

    fn changed(&self, before: PathState) -> Option<PathState> {
        let after = self.state();
        (before != after).then_some(after)
    }
}

#[cfg(test)]
#[path = "alarm_tests.rs"]
mod tests;
