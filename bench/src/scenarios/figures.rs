//! Rows of the table: figures against their bars, whether the emulator kept its time, and the curves behind them.

use std::fmt::Write as _;

use serde::Serialize;

use super::client::Heard;
use crate::context::Machine;
use crate::emulate::report::Report as Emulation;

/// Bytes of a file in a full frame of 1514 bytes over IPv4, as the table counts.
const PAYLOAD_SHARE: f64 = 1427.0 / 1514.0;
/// An emulator that hands over 999 of 1000 frames within this kept its time …
const LATE_P999_US: u64 = 5_000;
/// … if none was later than this: on the fastest link a window of the pace, on the slowest a tenth of a frame.
const LATE_MAX_US: u64 = 25_000;

/// Ideal goodput in bit/s.
pub(super) fn ideal_bps(cap_bps: u64, loss: f64) -> f64 {
    cap_bps as f64 * (1.0 - loss) * PAYLOAD_SHARE
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bar {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Shown only.
    None,
}

/// One measured figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What.
    pub name: String,
    /// As printed.
    pub unit: &'static str,
    /// Measured.
    pub value: f64,
    /// Its bar.
    pub bar: Bar,
    /// Whether the bar is reached; `None` if there is none.
    pub met: Option<bool>,
}

/// Points of a curve; what the axes are, its place in [`Row`] says.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Curve(pub Vec<(f64, f64)>);

/// One hop's emulator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    /// Which hop.
    pub hop: usize,
    /// Name of the profile.
    pub profile: String,
    /// From due to handed over, µs: the worse of both directions.
    pub late_p50_us: u64,
    /// See `late_p50_us`.
    pub late_p99_us: u64,
    /// See `late_p50_us`.
    pub late_p999_us: u64,
    /// See `late_p50_us`.
    pub late_max_us: u64,
    /// Frames that the kernel dropped before the emulator saw them, or that found no memory.
    pub not_seen: u64,
    /// Frames that did not fit the modem's queue.
    pub queue_full: u64,
    /// Why the link was not what the profile says, if it was not.
    pub fault: Option<String>,
}

impl Kept {
    /// From an emulator's report.
    pub(super) fn of(hop: usize, report: &Emulation) -> Self {
        let both = [&report.left_to_right, &report.right_to_left];
        let worse = |of: fn(&crate::emulate::report::Delays) -> u64| both.map(|d| of(&d.late)).into_iter().max();
        let memory: u64 = both.iter().map(|d| d.dropped.memory.frames).sum();
        let mut kept = Self {
            hop,
            profile: report.profile.clone(),
            late_p50_us: worse(|late| late.p50_us).unwrap_or(0),
            late_p99_us: worse(|late| late.p99_us).unwrap_or(0),
            late_p999_us: worse(|late| late.p999_us).unwrap_or(0),
            late_max_us: worse(|late| late.max_us).unwrap_or(0),
            not_seen: memory + [&report.left, &report.right].map(|s| s.rx_dropped + s.tx_refused).iter().sum::<u64>(),
            queue_full: both.iter().map(|d| d.dropped.queue.frames).sum(),
            fault: report.failed.clone(),
        };
        if kept.fault.is_none() && kept.not_seen > 0 {
            kept.fault = Some(format!("{} frames lost by the emulator itself", kept.not_seen));
        } else if kept.fault.is_none() && (kept.late_p999_us > LATE_P999_US || kept.late_max_us > LATE_MAX_US) {
            let [p999, max] = [kept.late_p999_us, kept.late_max_us].map(|us| us as f64 / 1e3);
            kept.fault = Some(format!("emulator late: p99.9 {p999:.1} ms, max {max:.1} ms"));
        }
        kept
    }
}

/// A distribution of commands' latencies.
#[derive(Debug, Clone, Serialize)]
pub struct Latencies {
    /// What else was on the link.
    pub name: String,
    /// One way, ms, sorted.
    pub sorted_ms: Vec<f64>,
}

/// Rate of a link against its cap.
#[derive(Debug, Clone, Serialize)]
pub struct SentRate {
    /// Cap, bit/s.
    pub cap_bps: u64,
    /// CBS, bytes.
    pub burst_bytes: u64,
    /// Rate in bit/s over the last 100 ms, over seconds.
    pub curve: Curve,
}

/// One scenario.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    /// Its number in the table, or its name where it has none.
    pub key: &'static str,
    /// Link and load, as run.
    pub what: String,
    /// Measured.
    pub figures: Vec<Figure>,
    /// Of every hop, in every part of the run.
    pub emulators: Vec<Kept>,
    /// What a reader has to know.
    pub notes: Vec<String>,
    /// Why there is no more.
    pub failure: Option<String>,
    /// How long it took, s.
    pub seconds: f64,
    /// Load average over a minute at its end.
    pub load: f64,
    /// Goodput in bit/s over seconds, by name.
    pub goodput: Vec<(String, Curve)>,
    /// Commands.
    pub latencies: Vec<Latencies>,
    /// Sent rates.
    pub rates: Vec<SentRate>,
}

impl Row {
    pub(super) fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self { key, what: what.into(), ..Self::default() }
    }

    pub(super) fn at_least(&mut self, name: impl Into<String>, unit: &'static str, value: f64, bar: f64) {
        self.push(name.into(), unit, value, Bar::AtLeast(bar), Some(value >= bar));
    }

    pub(super) fn at_most(&mut self, name: impl Into<String>, unit: &'static str, value: f64, bar: f64) {
        self.push(name.into(), unit, value, Bar::AtMost(bar), Some(value <= bar));
    }

    pub(super) fn shown(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.push(name.into(), unit, value, Bar::None, None);
    }

    fn push(&mut self, name: String, unit: &'static str, value: f64, bar: Bar, met: Option<bool>) {
        self.figures.push(Figure { name, unit, value, bar, met });
    }

    /// p50, p99 and max one way, and how many of `said` were lost or came twice.
    pub(super) fn commands(&mut self, name: &str, said: usize, heard: &[Heard], p99_bar_ms: Option<f64>) {
        let mut sorted_ms: Vec<f64> = heard.iter().map(|heard| heard.latency_ms).collect();
        sorted_ms.sort_by(f64::total_cmp);
        let mut numbers: Vec<usize> = heard.iter().map(|heard| heard.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        self.shown(format!("commands one way, {name}: p50 of {}", heard.len()), "ms", percentile(&sorted_ms, 0.5));
        let few = if heard.len() < 100 { ", which of so few is the longest" } else { "" };
        let (p99, at) = (percentile(&sorted_ms, 0.99), format!("commands one way, {name}: p99{few}"));
        match p99_bar_ms {
            Some(bar) => self.at_most(at, "ms", p99, bar),
            None => self.shown(at, "ms", p99),
        }
        self.shown(format!("commands one way, {name}: max"), "ms", percentile(&sorted_ms, 1.0));
        self.at_most(format!("commands lost, {name}"), "", said as f64 - numbers.len() as f64, 0.0);
        self.at_most(format!("commands twice, {name}"), "", (heard.len() - numbers.len()) as f64, 0.0);
        self.latencies.push(Latencies { name: name.to_owned(), sorted_ms });
    }

    /// Goodput over time from a curve of bytes over seconds.
    pub(super) fn goodput_curve(&mut self, name: impl Into<String>, bytes: &Curve, window_s: f64) {
        self.goodput.push((name.into(), bytes.rate(window_s)));
    }

    /// `met`, `missed`, `no bar`; marked where the emulator was not true to its profile.
    fn verdict(&self, figure: &Figure) -> String {
        let mut text = match figure.met {
            Some(true) => "met".to_owned(),
            Some(false) => "**missed**".to_owned(),
            None => "—".to_owned(),
        };
        if self.emulators.iter().any(|kept| kept.fault.is_some()) {
            text += " (emulator late)";
        }
        text
    }
}

impl Curve {
    /// Difference quotient of a curve of bytes, in bit/s, over windows of at least `window_s`.
    #[must_use]
    pub fn rate(&self, window_s: f64) -> Self {
        let mut from = 0;
        let mut rates = Vec::new();
        for &(at, bytes) in &self.0 {
            while from + 1 < self.0.len() && self.0[from + 1].0 <= at - window_s {
                from += 1;
            }
            let (began, before) = self.0[from];
            if at - began >= window_s * 0.9 {
                rates.push((at, (bytes - before) * 8.0 / (at - began)));
            }
        }
        Self(rates)
    }

    /// The last value, 0 if there is none.
    #[must_use]
    pub fn last(&self) -> f64 {
        self.0.last().map_or(0.0, |point| point.1)
    }
}

/// The value at `share` of a sorted list; NaN if it is empty.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Jain's index of fairness (Jain, Chiu, Hawe 1984): 1 = all equal.
pub(super) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Seconds since 1970 UTC at the start.
    pub began_unix_s: u64,
    /// Whether the long loads were run.
    pub long: bool,
    /// Scenarios in order.
    pub rows: Vec<Row>,
}

/// Scenarios marked ● that this cannot run yet.
const WAITING: [(&str, &str); 1] = [("19", "SOCKS5: waits for the gateway")];

impl Report {
    /// The table, with its context above and what is to be known below.
    #[must_use]
    pub fn table(&self) -> String {
        let m = &self.machine;
        let mut text = format!(
            "{}, {} CPUs{}, Linux {}, {} build, load {:.1} at the start; stations and emulators on the same machine, veth, \
             AF_XDP driver copy, emulators under SCHED_FIFO\n\n| # | figure | measured (bar) | verdict |\n|---|---|---|---|\n",
            m.cpu,
            m.cpus,
            if m.virtual_machine { " (virtual machine)" } else { "" },
            m.kernel,
            m.build,
            m.load_at_start,
        );
        for row in &self.rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| **{}** | **{}** | load {:.1} | |", row.key, row.what, row.load);
            for figure in &row.figures {
                let _ = writeln!(text, "| {} | {} | {figure} | {} |", row.key, figure.name, row.verdict(figure));
            }
            if let Some(failure) = &row.failure {
                let _ = writeln!(text, "| {} | not measured | | {} |", row.key, failure.replace('\n', " "));
            }
        }
        for (key, why) in WAITING {
            let _ = writeln!(text, "| {key} | {why} | not measured | |");
        }
        text.push('\n');
        for row in &self.rows {
            for note in &row.notes {
                let _ = writeln!(text, "- {}: {note}", row.key);
            }
            for kept in &row.emulators {
                let _ = write!(
                    text,
                    "- {}: emulator of hop {} ({}) late p50 {} p99 {} p99.9 {} max {} µs",
                    row.key,
                    kept.hop,
                    kept.profile,
                    kept.late_p50_us,
                    kept.late_p99_us,
                    kept.late_p999_us,
                    kept.late_max_us
                );
                if kept.queue_full > 0 {
                    let _ = write!(text, "; {} frames did not fit its queue", kept.queue_full);
                }
                match &kept.fault {
                    Some(fault) => drop(writeln!(text, " — **{fault}**")),
                    None => text.push('\n'),
                }
            }
        }
        text
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = match self.value {
            value if value == value.round() => 0,
            value if value.abs() < 10.0 => 3,
            _ => 1,
        };
        write!(f, "{:.digits$} {}", self.value, self.unit)?;
        match self.bar {
            Bar::AtLeast(bar) => write!(f, " (≥ {bar})"),
            Bar::AtMost(bar) => write!(f, " (≤ {bar})"),
            Bar::None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_of_bytes_becomes_one_of_rates() {
        let bytes = Curve((0..=20).map(|n| (f64::from(n) * 0.1, f64::from(n) * 1000.0)).collect());
        let rates = bytes.rate(0.5);
        assert!(rates.0.iter().all(|(_, bps)| (bps - 80_000.0).abs() < 1.0), "{rates:?}");
        assert!((rates.0[0].0 - 0.5).abs() < 1e-6, "{rates:?}");
    }

    #[test]
    fn commands_that_are_missing_or_come_twice_miss_the_bar() {
        let heard = |number, latency_ms| Heard { number, latency_ms };
        let mut row = Row::new("1", "x");
        row.commands("idle", 4, &[heard(0, 5.0), heard(1, 6.0), heard(1, 700.0)], Some(620.0));
        let missed: Vec<_> = row.figures.iter().filter(|f| f.met == Some(false)).map(|f| f.value).collect();
        assert_eq!(missed, [700.0, 2.0, 1.0]);
    }

    #[test]
    fn fairness() {
        assert_eq!(jain(&[2.0, 2.0, 2.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0]), 0.5);
    }
}
