//! Rows, their context, and how they are printed. A row that was not measured says why.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bound::Bound;
use crate::context::Machine;

/// What kind of number a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Frames per second at the receiver.
    FramesPerSecond,
    /// Nanoseconds per packet.
    NanosecondsPerPacket,
    /// Goodput: stream or file bytes, bit/s.
    BitsPerSecond,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::FramesPerSecond => format!("{:.3} Mpps", value / 1e6),
            Self::NanosecondsPerPacket => format!("{value:.0} ns/packet"),
            Self::BitsPerSecond => format!("{:.3} Gbit/s", value / 1e9),
        }
    }
}

/// One measurement of a row.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// In the row's unit.
    pub value: f64,
    /// Load average over one minute right after it.
    pub load: f64,
    /// What else was seen, by name with its unit.
    pub details: Vec<(&'static str, f64)>,
}

impl Sample {
    /// What else was seen under this name.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<f64> {
        self.details.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Short name, stable over versions.
    pub key: &'static str,
    /// For people.
    pub what: String,
    /// Of all its values.
    pub unit: Unit,
    /// Packet or frame size, with what it counts.
    pub packet: String,
    /// Driver and how it was really bound; `none` where no wire is.
    pub driver: String,
    /// Cores used.
    pub cores: &'static str,
    /// One a round.
    pub samples: Vec<Sample>,
    /// Why there are none, or fewer than rounds.
    pub failure: Option<String>,
}

impl Row {
    /// Median of its samples; `None` if it was not measured.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        median(self.samples.iter().map(|sample| sample.value))
    }

    fn result(&self) -> String {
        let Some(value) = self.median() else { return "not measured".to_owned() };
        let (min, max) = range(self.samples.iter().map(|sample| sample.value));
        format!("{} ({} .. {})", self.unit.show(value), self.unit.show(min), self.unit.show(max))
    }

    fn load(&self) -> String {
        median(self.samples.iter().map(|sample| sample.load))
            .map_or_else(|| "-".to_owned(), |load| format!("{load:.1}"))
    }
}

/// A quotient of two figures, taken within each round: what disturbs a round disturbs both.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// What is divided by what.
    pub what: String,
    /// One for each round in which both were measured; empty: not measured.
    pub rounds: Vec<f64>,
    /// What its median has to reach.
    pub bar: Option<f64>,
}

impl Ratio {
    /// `of` / `to`, round by round.
    #[must_use]
    pub fn new(what: &str, of: &[Option<f64>], to: &[Option<f64>]) -> Self {
        let quotient = |(of, to): (&Option<f64>, &Option<f64>)| Some((*of)? / (*to).filter(|to| *to > 0.0)?);
        Self { what: what.to_owned(), rounds: of.iter().zip(to).filter_map(quotient).collect(), bar: None }
    }

    /// With something to reach.
    #[must_use]
    pub fn with_bar(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    fn show(&self) -> String {
        let Some(value) = median(self.rounds.iter().copied()) else { return "not measured".to_owned() };
        let (min, max) = range(self.rounds.iter().copied());
        let bar = self.bar.map_or_else(String::new, |bar| {
            format!("; bar {bar:.2}: {}", if value >= bar { "met" } else { "not met" })
        });
        format!("{value:.3} ({min:.3} .. {max:.3}){bar}")
    }
}

/// All of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Rounds asked for.
    pub rounds: u32,
    /// The figures.
    pub rows: Vec<Row>,
    /// The bound of each round in which its parts were measured.
    pub bounds: Vec<Bound>,
    /// The same from CPU times: what cores that nobody else wants would allow.
    pub bounds_on_idle_cores: Vec<Bound>,
    /// What follows from them.
    pub ratios: Vec<Ratio>,
}

impl Report {
    /// As Markdown tables.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let m = &self.machine;
        let machine = if m.virtual_machine { "virtual machine" } else { "bare metal" };
        let vaes = if m.vaes { "with VAES" } else { "without VAES" };
        writeln!(
            out,
            "CPU {} {vaes}, {} CPUs, {machine}; kernel {}; {} build; nice {}; load average at the start {:.1}",
            m.cpu, m.cpus, m.kernel, m.build, m.nice, m.load_at_start
        )?;
        writeln!(out, "{} rounds, interleaved; median (least .. most)\n", self.rounds)?;
        writeln!(out, "| what | result | packet | driver, mode | cores | load |\n|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let (what, result, load) = (&row.what, row.result(), row.load());
            writeln!(out, "| {what} | {result} | {} | {} | {} | {load} |", row.packet, row.driver, row.cores)?;
        }
        for (name, bounds) in
            [("bound", &self.bounds), ("the same from CPU times, as if on idle cores", &self.bounds_on_idle_cores)]
        {
            let of = |part: fn(&Bound) -> f64| median(bounds.iter().map(part));
            let parts = (of(|b| b.goodput_bps), of(|b| b.sender_ns), of(|b| b.wire_ns), of(|b| b.receiver_ns));
            let (Some(goodput), Some(sender), Some(wire), Some(receiver)) = parts else { continue };
            let (least, most) = range(bounds.iter().map(|bound| bound.goodput_bps / 1e9));
            writeln!(
                out,
                "\n{name}: {:.3} Gbit/s ({least:.3} .. {most:.3}); sender's core {sender:.0} ns a packet, {wire:.0} of it wire; receiver's {receiver:.0} ns",
                goodput / 1e9,
            )?;
        }
        writeln!(out, "\n| ratio | value |\n|---|---|")?;
        for ratio in &self.ratios {
            writeln!(out, "| {} | {} |", ratio.what, ratio.show())?;
        }
        for row in self.rows.iter().filter(|row| row.failure.is_some()) {
            writeln!(out, "\n{}: {}", row.key, row.failure.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// The least and the most.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(least, most), value| (least.min(value), most.max(value)))
}

/// The middle value, or the mean of the two middle ones.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get((values.len().max(1) - 1) / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64], failure: Option<&str>) -> Row {
        let sample = |value: &f64| Sample { value: *value, load: 1.0, details: vec![("x", value * 2.0)] };
        Row {
            key: "k",
            what: "w".to_owned(),
            unit: Unit::BitsPerSecond,
            packet: "1500 MTU".to_owned(),
            driver: "veth".to_owned(),
            cores: "1 a side",
            samples: values.iter().map(sample).collect(),
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(row(&[3.0, 1.0, 2.0], None).median(), Some(2.0));
        assert_eq!(row(&[4.0, 1.0, 2.0, 3.0], None).median(), Some(2.5));
        assert_eq!(row(&[4.0], None).samples[0].detail("x"), Some(8.0));
        assert_eq!(row(&[], None).median(), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was half as fast in the second round; the ratio does not see it.
        let ratio = Ratio::new("r", &[Some(4.0), Some(2.0), None], &[Some(8.0), Some(4.0), Some(8.0)]);
        assert_eq!(ratio.rounds, [0.5, 0.5]);
        assert_eq!(ratio.show(), "0.500 (0.500 .. 0.500)");
        assert_eq!(ratio.clone().with_bar(0.5).show(), "0.500 (0.500 .. 0.500); bar 0.50: met");
        assert_eq!(ratio.with_bar(0.75).show(), "0.500 (0.500 .. 0.500); bar 0.75: not met");
        assert_eq!(Ratio::new("r", &[None], &[Some(1.0)]).with_bar(0.9).show(), "not measured");
    }

    #[test]
    fn what_was_not_measured_is_never_a_number() {
        let rows = vec![row(&[5e9], None), row(&[], Some("no program"))];
        let ratio = Ratio::new("k / none", &[rows[0].median()], &[rows[1].median()]);
        let report = Report {
            machine: Machine::look(),
            rounds: 1,
            rows,
            bounds: Vec::new(),
            bounds_on_idle_cores: Vec::new(),
            ratios: vec![ratio],
        };
        let table = report.table();
        assert!(table.contains("5.000 Gbit/s") && table.contains("k: no program"), "{table}");
        assert_eq!(table.matches("not measured").count(), 2, "{table}");
    }
}
