//! The scenarios of the project's table, each as a network under virtual time with the figures that it must reach.
//!
//! ```text
//!   run(number, seeds) ─► one network per seed ─► Row ── merged over seeds: the worst of each figure, commands pooled
//!        └── bed ── two nodes and one link as the table describes it; clean, far, geo … ── what happens on it
//! ```
//!
//! `cargo test -p florelay-sim --test suite` holds every figure against its bar; the example `scenarios` prints the
//! table. Ideal goodput is cap × (1 − loss) × 1427/1514, the share of the payload in a full frame over IPv4.

mod bed;
mod caps;
mod fade;
mod far;
mod gap;
mod geo;
mod hops;
mod idle;
mod leo;
mod outage;
mod slow;

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

/// How much of a scenario's load is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// What the table says.
    Whole,
    /// Large transfers cut, so that many seeds fit an ordinary test run; the bars are the same.
    Cut,
}

impl Size {
    /// `whole` bytes, or at most `cut` of them.
    fn bytes(self, whole: u64, cut: u64) -> u64 {
        match self {
            Self::Whole => whole,
            Self::Cut => whole.min(cut),
        }
    }
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Shown only.
    None,
}

/// One measured figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What.
    pub name: &'static str,
    /// Unit, as printed.
    pub unit: &'static str,
    /// The worst over all seeds, or their median where that is what the bar is for.
    pub value: f64,
    /// One value per seed, where the median counts.
    each: Vec<f64>,
    /// Its bar.
    pub bar: Bar,
}

impl Figure {
    /// Whether the bar is reached.
    #[must_use]
    pub fn met(&self) -> bool {
        match self.bar {
            Bar::AtLeast(bar) => self.value >= bar,
            Bar::AtMost(bar) => self.value <= bar,
            Bar::None => true,
        }
    }

    fn worse(&self, other: &Self) -> bool {
        match self.bar {
            Bar::AtLeast(_) => self.value < other.value,
            Bar::AtMost(_) | Bar::None => self.value > other.value,
        }
    }
}

/// What a scenario has shown.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Its number in the table.
    pub number: u8,
    /// Its name in the table.
    pub name: &'static str,
    /// Figures, in the order in which they are printed.
    pub figures: Vec<Figure>,
    /// One-way latency of every command that arrived.
    pub latencies: Vec<Duration>,
    /// Bar for the 99th percentile of `latencies` in milliseconds.
    latency_bar: Option<f64>,
}

impl Row {
    fn new(number: u8, name: &'static str) -> Self {
        Self { number, name, ..Self::default() }
    }

    fn at_least(&mut self, name: &'static str, unit: &'static str, value: f64, bar: f64) {
        self.figures.push(Figure { name, unit, value, each: Vec::new(), bar: Bar::AtLeast(bar) });
    }

    /// As `at_least`, for the median of all seeds; the worst is shown beside it. For short loads on links that lose in
    /// bursts, where one burst at the very end costs two round trips.
    fn at_least_in_median(&mut self, names: [&'static str; 2], unit: &'static str, value: f64, bar: f64) {
        self.figures.push(Figure { name: names[0], unit, value, each: vec![value], bar: Bar::AtLeast(bar) });
        self.figures.push(Figure { name: names[1], unit, value, each: Vec::new(), bar: Bar::AtLeast(0.0) });
    }

    fn at_most(&mut self, name: &'static str, unit: &'static str, value: f64, bar: f64) {
        self.figures.push(Figure { name, unit, value, each: Vec::new(), bar: Bar::AtMost(bar) });
    }

    fn shown(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.figures.push(Figure { name, unit, value, each: Vec::new(), bar: Bar::None });
    }

    /// One-way latencies of commands, and the bar of their 99th percentile over all seeds together.
    fn commands(&mut self, latencies: impl Iterator<Item = Duration>, p99_ms: f64) {
        self.latencies.extend(latencies);
        self.latency_bar = Some(p99_ms);
    }

    fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.figures.iter_mut().zip(other.figures) {
            if !mine.each.is_empty() {
                mine.each.extend(theirs.each);
            } else if theirs.worse(mine) {
                *mine = theirs;
            }
        }
        self.latencies.extend(other.latencies);
    }

    fn finish(mut self) -> Self {
        self.latencies.sort_unstable();
        for figure in self.figures.iter_mut().filter(|figure| !figure.each.is_empty()) {
            figure.each.sort_by(f64::total_cmp);
            figure.value = figure.each[figure.each.len() / 2];
        }
        if let Some(bar) = self.latency_bar {
            let [p50, p99] = [0.5, 0.99].map(|share| percentile_ms(&self.latencies, share));
            self.shown("command p50 one way", "ms", p50);
            self.at_most("command p99 one way", "ms", p99, bar);
            self.shown("command max one way", "ms", percentile_ms(&self.latencies, 1.0));
        }
        self
    }

    /// Figures that miss their bars, for people; empty = all is well.
    #[must_use]
    pub fn misses(&self) -> String {
        let mut text = String::new();
        for figure in self.figures.iter().filter(|figure| !figure.met()) {
            let _ = writeln!(text, "{} {}: {} is {figure}", self.number, self.name, figure.name);
        }
        text
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.value.abs() < 10.0 { 3 } else { 1 };
        write!(f, "{:.digits$} {}", self.value, self.unit)?;
        match self.bar {
            Bar::AtLeast(bar) => write!(f, " (≥ {bar})"),
            Bar::AtMost(bar) => write!(f, " (≤ {bar})"),
            Bar::None => Ok(()),
        }
    }
}

/// Latency at `share` of a sorted list, in milliseconds; infinite if nothing arrived.
fn percentile_ms(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(f64::INFINITY, |at| at.as_secs_f64() * 1e3)
}

/// Jain's index of fairness (Jain, Chiu, Hawe 1984): 1 = all equal.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

type Run = fn(Size, u64) -> Row;

/// Scenario numbers with how they are run.
const SCENARIOS: [(u8, Run); 15] = [
    (1, slow::blos_clean),
    (2, slow::los),
    (3, slow::degraded_blos),
    (4, geo::small),
    (5, geo::large),
    (6, geo::large_lossy),
    (7, geo::congested_return),
    (8, fade::rain),
    (9, far::burst_loss),
    (10, leo::hand_over),
    (11, outage::dark),
    (15, idle::heartbeat_then_burst),
    (16, caps::proof),
    (17, gap::stress),
    (18, hops::labels),
];

/// Numbers of the scenarios that are here.
pub fn numbers() -> impl Iterator<Item = u8> {
    SCENARIOS.iter().map(|(number, _)| *number)
}

/// Run a scenario with each seed; `None` if there is none of this number.
#[must_use]
pub fn run(number: u8, size: Size, seeds: Range<u64>) -> Option<Row> {
    let (_, run) = SCENARIOS.iter().find(|(of, _)| *of == number)?;
    let rows = seeds.map(|seed| run(size, seed));
    rows.reduce(|mut all, row| {
        all.merge(row);
        all
    })
    .map(Row::finish)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_all_seeds_counts() {
        let row = |goodput, delay_ms| {
            let mut row = Row::new(1, "x");
            row.at_least("goodput", "", goodput, 0.9);
            row.commands([Duration::from_millis(delay_ms)].into_iter(), 20.0);
            row
        };
        let mut merged = row(0.95, 10);
        merged.merge(row(0.91, 15));
        merged.merge(row(0.93, 12));
        let fine = merged.clone().finish();
        assert_eq!(fine.misses(), "");
        assert_eq!(fine.figures[0].value, 0.91);
        merged.merge(row(0.5, 30));
        let misses = merged.finish().misses();
        assert!(misses.contains("goodput") && misses.contains("p99"), "{misses}");
    }

    #[test]
    fn fairness() {
        assert_eq!(jain(&[2.0, 2.0, 2.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0]), 0.5);
    }
}
