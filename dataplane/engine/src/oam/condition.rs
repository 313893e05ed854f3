//! What a link is like, in four words: connecting, normal, degraded, failed.
//!
//! Whether it is up is liveness's to say; here is whether a link that is up does well.
//!
//! ```text
//!             a figure is clearly beyond its threshold
//!    normal ─────────────────────────────────────────────► degraded
//!       ▲                                                     │
//!       └─────────────────────────────────────────────────────┘
//!         all figures clearly below their lower thresholds, without a break for the hold time
//! ```
//!
//! Figures: loss in either direction, growth of the round trip, jitter. Each has two thresholds, and loss, which is a share of a
//! few frames, has to be beyond them by more than chance: by two standard deviations to degrade a link, by four to make it
//! normal again. So a link whose true loss lies at the threshold is degraded once, and stays so.
//!
//! A pure function of `(now, figures, thresholds)`, asked once a second.

use std::fmt;
use std::time::Duration;

use super::measure::{Direction, Figures, PPM, Seen};
use crate::config::Thresholds;
use crate::time::Nanos;

/// Fewer lost frames than this prove nothing.
const LOST_MIN: u64 = 3;
/// Clean frames that prove a loss below `1 / n` where a window has fewer: `5 n`, by less than 1 % chance (e^-5).
const CLEAN_FACTOR: u128 = 5;
/// Default growth of the round trip: this, half of the usual one, and …
const GROWTH: Duration = Duration::from_millis(100);
/// … the time of this many full frames, behind which liveness may have to wait at both ends.
const GROWTH_FRAMES: u32 = 4;

/// What a link is like, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Not heard yet, since the start or since it was let go.
    Connecting,
    /// Up, and well.
    Normal,
    /// Up, but with loss, delay or jitter beyond a threshold.
    Degraded,
    /// Not usable.
    Failed,
}

impl Condition {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Condition::Connecting => "connecting",
            Condition::Normal => "normal",
            Condition::Degraded => "degraded",
            Condition::Failed => "failed",
        }
    }
}

/// What the defaults of [`Thresholds`] depend on.
#[derive(Debug, Clone, Copy)]
pub struct Usual {
    /// Round trip that the operator expects; zero if he says nothing.
    pub rtt: Duration,
    /// Time that the link takes for a full frame; zero if it has no rate.
    pub frame: Duration,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Loss on the way here, in millionths.
    LossFrom(u32),
    /// Loss on the way to the neighbour, in millionths.
    LossTo(u32),
    /// The round trip: now, and the usual one.
    Rtt(Duration, Duration),
    /// Jitter on the way here.
    Jitter(Duration),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: &Duration| d.as_micros() as f64 / 1000.0;
        match self {
            Trouble::LossFrom(ppm) => write!(f, "loss from the neighbour {:.1} %", f64::from(*ppm) / 1e4),
            Trouble::LossTo(ppm) => write!(f, "loss to the neighbour {:.1} %", f64::from(*ppm) / 1e4),
            Trouble::Rtt(now, usual) => write!(f, "round trip {:.1} ms instead of {:.1} ms", ms(now), ms(usual)),
            Trouble::Jitter(jitter) => write!(f, "jitter {:.1} ms", ms(jitter)),
        }
    }
}

/// One figure against its thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Clear,
    Between,
    Bad,
}

/// Is a link that is up normal or degraded?
#[derive(Debug, Clone, Copy, Default)]
pub struct Quality {
    degraded_since: Option<Nanos>,
    clear_since: Option<Nanos>,
}

impl Quality {
    /// Looks at the figures; `true` if the link is degraded.
    pub fn judge(&mut self, now: Nanos, figures: &Figures, thresholds: &Thresholds, usual: Usual) -> bool {
        let verdicts = verdicts(figures, thresholds, usual).map(|(verdict, _)| verdict);
        let Some(since) = self.degraded_since else {
            if verdicts.contains(&Verdict::Bad) {
                *self = Self { degraded_since: Some(now), clear_since: None };
            }
            return self.is_degraded();
        };
        if verdicts.iter().any(|verdict| *verdict != Verdict::Clear) {
            self.clear_since = None;
            return true;
        }
        let clear_since = *self.clear_since.get_or_insert(now);
        if now.since(clear_since.max(since)) >= thresholds.hold {
            *self = Self::default();
        }
        self.is_degraded()
    }

    /// By the last look.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.degraded_since.is_some()
    }

    /// Since when nothing has been wrong with a link that is still degraded.
    #[must_use]
    pub fn clear_since(&self) -> Option<Nanos> {
        self.clear_since
    }
}

/// What keeps a link from being normal, worst first of its kind; empty if nothing does.
#[must_use]
pub fn troubles(figures: &Figures, thresholds: &Thresholds, usual: Usual) -> Vec<Trouble> {
    let of = |(verdict, trouble): (Verdict, Option<Trouble>)| trouble.filter(|_| verdict != Verdict::Clear);
    verdicts(figures, thresholds, usual).into_iter().filter_map(of).collect()
}

fn verdicts(figures: &Figures, thresholds: &Thresholds, usual: Usual) -> [(Verdict, Option<Trouble>); 4] {
    let shown = |direction: &Direction| direction.short.loss_ppm().max(direction.long.loss_ppm()).unwrap_or(0);
    let receive = (loss(&figures.receive, thresholds), Some(Trouble::LossFrom(shown(&figures.receive))));
    let send = figures.send.map_or((Verdict::Clear, None), |direction| {
        (loss(&direction, thresholds), Some(Trouble::LossTo(shown(&direction))))
    });
    let base = figures.rtt.map_or(usual.rtt, |rtt| rtt.shortest.max(usual.rtt));
    let growth = thresholds.rtt_growth.unwrap_or(GROWTH + base / 2 + usual.frame * GROWTH_FRAMES);
    let rtt = figures.rtt.map_or((Verdict::Clear, None), |rtt| {
        let grown = rtt.smoothed.saturating_sub(base);
        let clear = thresholds.rtt_growth_clear.unwrap_or(growth / 2);
        (rise(grown, growth, clear), Some(Trouble::Rtt(rtt.smoothed, base)))
    });
    let jitter = figures.jitter.map_or((Verdict::Clear, None), |jitter| {
        let bad = thresholds.jitter.unwrap_or(growth / 2);
        let clear = thresholds.jitter_clear.unwrap_or(bad / 2);
        (rise(jitter, bad, clear), Some(Trouble::Jitter(jitter)))
    });
    [receive, send, rtt, jitter]
}

fn rise(value: Duration, bad: Duration, clear: Duration) -> Verdict {
    if value >= bad.max(Duration::from_nanos(1)) {
        Verdict::Bad
    } else if value <= clear {
        Verdict::Clear
    } else {
        Verdict::Between
    }
}

fn loss(direction: &Direction, thresholds: &Thresholds) -> Verdict {
    let (bad, clear) = (thresholds.loss_ppm, thresholds.loss_clear_ppm);
    if beyond(direction.short, bad) || beyond(direction.long, bad) {
        Verdict::Bad
    } else if below(direction, bad, clear) {
        Verdict::Clear
    } else {
        Verdict::Between
    }
}

/// More was lost than a loss of `ppm` explains: by two standard deviations of a Poisson count.
fn beyond(seen: Seen, ppm: u32) -> bool {
    let allowed = millionths(seen.expected, ppm);
    seen.lost >= LOST_MIN && scaled(seen.lost) >= allowed + 2 * (allowed * u128::from(PPM)).isqrt()
}

/// The loss is at most `clear`, and below `bad` by four standard deviations. Where the long window has too few frames to
/// show that, enough frames in a row that were not lost do.
fn below(direction: &Direction, bad: u32, clear: u32) -> bool {
    let long = direction.long;
    let few = millionths(long.expected, bad) < CLEAN_FACTOR * scaled(1);
    if few {
        return long.expected == 0 || millionths(direction.clean, bad) >= CLEAN_FACTOR * scaled(1);
    }
    let at_most = scaled(long.lost) + 4 * (scaled(long.lost) * u128::from(PPM)).isqrt() + scaled(LOST_MIN + 1);
    scaled(long.lost) <= millionths(long.expected, clear) && at_most <= millionths(long.expected, bad)
}

fn scaled(frames: u64) -> u128 {
    u128::from(frames) * u128::from(PPM)
}

fn millionths(frames: u64, ppm: u32) -> u128 {
    u128::from(frames) * u128::from(ppm)
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
