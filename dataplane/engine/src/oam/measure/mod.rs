//! What is measured of one link: round trip and jitter, loss and reordering in both directions, the clock error.
//!
//! ```text
//!   path frames ──► control word's sequence ─┐
//!   liveness ─────► its own sequence ────────┴─► totals ─► windows, direction towards here
//!            ├────► echo ──────────────────────► round trip, jitter, clock error
//!            └────► the neighbour's totals ────► windows, direction away from here
//! ```
//!
//! Nothing here is done per packet: totals are counters that the receive path keeps anyway, and are looked at once a second.
//! Our own totals go out with our liveness, so each end knows both directions.

mod clock;
mod delay;
mod window;

use std::time::Duration;

use florelay_wire::oam::Extension;

pub use self::clock::{ClockError, ClockUnknown};
use self::clock::{ClockFilter, Stamps};
use self::delay::Delay;
pub use self::delay::RoundTrip;
pub(super) use self::window::PPM;
use self::window::{Delta, Windows};
pub use self::window::{LONG_SECONDS, SHORT_SECONDS, Seen};
use super::link_state::Exchange;
use crate::fib::SequenceMonitor;
use crate::time::Nanos;

/// Numbered frames of the direction towards here, since the start. They wrap, and may fall when frames come late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    expected: u64,
    lost: u64,
    reordered: u64,
}

impl Totals {
    #[cfg(test)]
    pub(super) fn of(expected: u64, lost: u64) -> Self {
        Self { expected, lost, reordered: 0 }
    }

    /// Of path frames and of liveness.
    #[must_use]
    pub fn new(path: &SequenceMonitor, liveness: &SequenceMonitor) -> Self {
        let ((expected, lost, reordered), other) = (path.tally(), liveness.tally());
        Self {
            expected: expected.wrapping_add(other.0),
            lost: lost.wrapping_add(other.1),
            reordered: reordered.wrapping_add(other.2),
        }
    }

    fn since(self, before: Self) -> Delta {
        let difference = |now: u64, before: u64| now.wrapping_sub(before) as i64;
        Delta {
            expected: difference(self.expected, before.expected),
            lost: difference(self.lost, before.lost),
            reordered: difference(self.reordered, before.reordered),
        }
    }
}

/// One direction over both windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Direction {
    /// The last [`SHORT_SECONDS`].
    pub short: Seen,
    /// The last [`LONG_SECONDS`].
    pub long: Seen,
    /// Frames since the last lost one.
    pub clean: u64,
}

/// What is known of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// The round trip, once measured.
    pub rtt: Option<RoundTrip>,
    /// Jitter of the direction towards here, once measured.
    pub jitter: Option<Duration>,
    /// From the neighbour to here.
    pub receive: Direction,
    /// From here to the neighbour, as the neighbour reports it; without reordering. `None`: it does not.
    pub send: Option<Direction>,
    /// The neighbour's clock against ours, and what depends on it.
    pub clock: Result<ClockError, ClockUnknown>,
}

/// Measures one link.
#[derive(Debug, Clone)]
pub struct Measure {
    delay: Delay,
    receive: Windows,
    send: Windows,
    clock: ClockFilter,
    /// As of the last look.
    totals: Totals,
    /// The neighbour's last report, `(expected, lost)`.
    reported: Option<(u32, u32)>,
    reports: bool,
}

impl Measure {
    /// Nothing measured.
    #[must_use]
    pub fn new(now: Nanos) -> Self {
        Self {
            delay: Delay::default(),
            receive: Windows::new(now),
            send: Windows::new(now),
            clock: ClockFilter::default(),
            totals: Totals::default(),
            reported: None,
            reports: false,
        }
    }

    /// A liveness message was accepted. `wall_at_zero_ns`: our wall clock at our monotonic zero, `None` = not set. The round
    /// trip, if the message has one.
    pub fn heard(&mut self, now: Nanos, exchange: &Exchange, wall_at_zero_ns: Option<u64>) -> Option<Duration> {
        self.delay.arrived(now, exchange.sent_ns, exchange.follows);
        let rtt = exchange.echo.and_then(|(sent_ns, held_ns)| {
            Some(Duration::from_nanos(now.0.checked_sub(sent_ns)?.checked_sub(held_ns)?))
        });
        if let Some(rtt) = rtt {
            self.delay.round_trip(rtt);
        }
        let Some(said) = exchange.extension else {
            self.reports = false;
            self.clock.not_said();
            return rtt;
        };
        self.reports = true;
        let before = self.reported.replace((said.expected, said.lost));
        if let Some((expected, lost)) = before {
            let difference = |now: u32, before: u32| i64::from(now.wrapping_sub(before) as i32);
            let delta = Delta {
                expected: difference(said.expected, expected),
                lost: difference(said.lost, lost),
                reordered: 0,
            };
            self.send.add(now, delta);
        }
        if let Some((sent_ns, held_ns)) = exchange.echo.filter(|_| rtt.is_some()) {
            self.clock.exchange(now, wall_at_zero_ns, Stamps { sent_ns, held_ns, wall_ns: said.wall_ns });
        }
        rtt
    }

    /// Once a second: what came since the last look goes into the windows.
    pub fn look(&mut self, now: Nanos, totals: Totals) {
        let delta = totals.since(std::mem::replace(&mut self.totals, totals));
        self.receive.add(now, delta);
    }

    /// The link came up: what was lost while it was down says nothing of how it is now.
    pub fn came_up(&mut self, now: Nanos, totals: Totals) {
        self.delay.restart();
        self.receive.clear(now);
        self.send.clear(now);
        self.totals = totals;
        self.reported = None;
    }

    /// The neighbour has a new boot id: its totals start anew, and its clock may be another.
    pub fn neighbour_restarted(&mut self) {
        self.reported = None;
        self.clock.forget();
    }

    /// The way is another one: its round trip is not the shortest of the old one.
    pub fn way_changed(&mut self) {
        self.delay.restart();
    }

    /// Our wall clock was set.
    pub fn clock_set(&mut self) {
        self.clock.forget();
    }

    /// What our next liveness says.
    #[must_use]
    pub fn extension(now: Nanos, wall_at_zero_ns: Option<u64>, totals: Totals) -> Extension {
        Extension {
            wall_ns: wall_at_zero_ns.map_or(0, |zero| zero.saturating_add(now.0)),
            expected: totals.expected as u32,
            lost: totals.lost as u32,
        }
    }

    /// What is known at `now`.
    #[must_use]
    pub fn figures(&self, now: Nanos) -> Figures {
        let direction = |windows: &Windows| Direction {
            short: windows.last(now, SHORT_SECONDS),
            long: windows.last(now, LONG_SECONDS),
            clean: windows.clean(),
        };
        Figures {
            rtt: self.delay.rtt(),
            jitter: self.delay.jitter(),
            receive: direction(&self.receive),
            send: self.reports.then(|| direction(&self.send)),
            clock: self.clock.error(now),
        }
    }
}
