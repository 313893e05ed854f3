//! How well links do: once a second each link that is up is looked at, and what it is like is kept for people.
//!
//! A change is counted, and logged unless there were many lately. Nothing else in the node acts on it: clocks of connections,
//! alarms and dialling follow from up and down alone.

use std::sync::Arc;
use std::time::Duration;

use florelay_wire::oam::Extension;

use super::{Engine, LinkRuntime};
use crate::api::LinkState;
use crate::config::LinkId;
use crate::oam::{Condition, Exchange, Figures, Measure, Quality, Totals, Usual, troubles};
use crate::port::FrameBuf;
use crate::time::Nanos;

/// How often a link is looked at; the windows have a bucket for each look.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Changes of one link that are logged within [`LOG_PERIOD`]; more are counted.
const LOGGED: u32 = 6;
/// See [`LOGGED`].
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// What a link is like.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionReport {
    /// Which link.
    pub link: LinkId,
    /// In a word.
    pub condition: Condition,
    /// Why, if it is degraded or failed.
    pub reason: Option<String>,
    /// For how long.
    pub since: Duration,
    /// Changes since the start.
    pub changes: u64,
    /// What was measured. Of a link that is not up: while it last was.
    pub figures: Figures,
}

/// What is kept of a link's condition.
pub(super) struct LinkCondition {
    measure: Measure,
    quality: Quality,
    condition: Condition,
    since: Nanos,
    changes: u64,
    next_look: Nanos,
    log: LogLimit,
}

impl LinkCondition {
    pub(super) fn new(now: Nanos) -> Self {
        Self {
            measure: Measure::new(now),
            quality: Quality::default(),
            condition: Condition::Connecting,
            since: now,
            changes: 0,
            next_look: now,
            log: LogLimit::new(now),
        }
    }

    /// A liveness message was accepted.
    pub(super) fn heard(&mut self, now: Nanos, exchange: &Exchange, restarted: bool, wall_at_zero_ns: Option<u64>) {
        if restarted {
            self.measure.neighbour_restarted();
        }
        self.measure.heard(now, exchange, wall_at_zero_ns);
    }

    /// The link's configured way is another one.
    pub(super) fn way_changed(&mut self) {
        self.measure.way_changed();
    }
}

impl<F: FrameBuf> LinkRuntime<F> {
    /// When the link is to be looked at; `None` while it is not up.
    pub(super) fn next_look(&self) -> Option<Nanos> {
        (self.state == LinkState::Up).then_some(self.condition.next_look)
    }

    /// What liveness says beside.
    pub(super) fn extension(&self, now: Nanos, wall_at_zero_ns: Option<u64>) -> Extension {
        Measure::extension(now, wall_at_zero_ns, self.totals())
    }

    fn totals(&self) -> Totals {
        Totals::new(&self.sequence, self.liveness.numbers())
    }

    fn usual(&self) -> Usual {
        let bits = (u64::from(self.config.mtu_payload) + u64::from(self.config.overhead_bytes)) * 8;
        let frame_ns = self.rate.rate_bps.map_or(0, |rate| bits * 1_000_000_000 / rate.max(1));
        Usual { rtt: self.delay * 2, frame: Duration::from_nanos(frame_ns) }
    }

    /// What keeps it from being normal.
    fn reason(&self, now: Nanos) -> Option<String> {
        match (&self.state, self.condition.condition) {
            (LinkState::Down(reason), _) => Some(reason.to_string()),
            (_, Condition::Degraded) => {
                let found = troubles(&self.condition.measure.figures(now), &self.config.thresholds, self.usual());
                let words: Vec<_> = found.iter().map(ToString::to_string).collect();
                Some(if words.is_empty() { "nothing any more, if it stays so".to_owned() } else { words.join(", ") })
            }
            _ => None,
        }
    }
}

impl<F: FrameBuf> Engine<F> {
    /// How well each link does.
    #[must_use]
    pub fn conditions(&self, now: Nanos) -> Vec<ConditionReport> {
        let report = |link: &LinkRuntime<F>| ConditionReport {
            link: link.config.id,
            condition: link.condition.condition,
            reason: link.reason(now),
            since: now.since(link.condition.since),
            changes: link.condition.changes,
            figures: link.condition.measure.figures(now),
        };
        self.links.iter().map(report).collect()
    }

    /// A link that is up, once a second.
    pub(super) fn look(&mut self, now: Nanos, index: usize) {
        let link = &mut self.links[index];
        let (totals, usual) = (link.totals(), link.usual());
        let condition = &mut link.condition;
        condition.next_look = now + LOOK_INTERVAL;
        condition.measure.look(now, totals);
        let figures = condition.measure.figures(now);
        condition.quality.judge(now, &figures, &link.config.thresholds, usual);
        self.note_condition(now, index);
    }

    /// Whatever a link's condition follows from may have changed.
    pub(super) fn note_condition(&mut self, now: Nanos, index: usize) {
        let link = &mut self.links[index];
        let is_up = link.state == LinkState::Up;
        let was_up = matches!(link.condition.condition, Condition::Normal | Condition::Degraded);
        if is_up && !was_up {
            let totals = link.totals();
            link.condition.measure.came_up(now, totals);
            link.condition.quality = Quality::default();
            link.condition.next_look = now + LOOK_INTERVAL;
        }
        let condition = match &link.state {
            LinkState::Connecting => Condition::Connecting,
            LinkState::Down(_) => Condition::Failed,
            LinkState::Up if link.condition.quality.is_degraded() => Condition::Degraded,
            LinkState::Up => Condition::Normal,
        };
        if condition == link.condition.condition {
            return;
        }
        link.condition.condition = condition;
        link.condition.since = now;
        link.condition.changes += 1;
        if let Some(left_out) = link.condition.log.admit(now) {
            let (name, reason) = (&link.config.name, link.reason(now).map(Arc::<str>::from));
            tracing::info!(link = %name, state = condition.name(), reason = reason.as_deref(), left_out, "link state");
        }
    }

    /// The wall clock was set, or has turned out not to be.
    pub(super) fn set_wall_clock(&mut self, at_zero_ns: Option<u64>) {
        if self.wall_at_zero_ns == at_zero_ns {
            return;
        }
        self.wall_at_zero_ns = at_zero_ns;
        for link in &mut self.links {
            link.condition.measure.clock_set();
        }
    }
}

/// Lets a few lines through in each period, and says how many it did not.
#[derive(Debug, Clone)]
struct LogLimit {
    period: Nanos,
    logged: u32,
    left_out: u64,
}

impl LogLimit {
    fn new(now: Nanos) -> Self {
        Self { period: now, logged: 0, left_out: 0 }
    }

    /// May a line be written now? How many were not, since the last one.
    fn admit(&mut self, now: Nanos) -> Option<u64> {
        if now.since(self.period) >= LOG_PERIOD {
            (self.period, self.logged) = (now, 0);
        }
        if self.logged >= LOGGED {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_flaps_does_not_fill_the_log() {
        let mut limit = LogLimit::new(Nanos::ZERO);
        let second = |n: u64| Nanos(n * 1_000_000_000);
        let lines: Vec<_> = (0..600).filter_map(|n| limit.admit(second(n / 2))).collect();
        // Five minutes, two changes a second.
        assert_eq!(lines.len(), 5 * LOGGED as usize);
        assert_eq!((lines[0], lines[1], lines[LOGGED as usize]), (0, 0, 120 - u64::from(LOGGED)));
    }
}
