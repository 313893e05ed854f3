//! What the emulator did, for machines (JSON) and for people.

use std::fmt::{self, Write as _};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the profile.
    pub profile: String,
    /// What it stands for.
    pub about: String,
    /// Seed of its random numbers.
    pub seed: u64,
    /// The left interface.
    pub left: SideReport,
    /// The right interface.
    pub right: SideReport,
    /// From ready to stop, ns.
    pub elapsed_ns: u64,
    /// Why it ended before it was told to.
    pub failed: Option<String>,
    /// What came from the left.
    pub left_to_right: DirectionReport,
    /// What came from the right.
    pub right_to_left: DirectionReport,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideReport {
    /// Its name.
    pub interface: String,
    /// `driver copy` or `generic`.
    pub mode: String,
    /// Frames that the kernel dropped before the emulator saw them: no buffer, ring full.
    pub rx_dropped: u64,
    /// Frames that could not be sent: too short, or for want of memory.
    pub tx_refused: u64,
}

impl SideReport {
    pub(super) fn with_name(self, interface: &str) -> Self {
        Self { interface: interface.to_owned(), ..self }
    }
}

/// Frames, and their bytes at layer 2 without FCS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: u32) {
        self.frames += 1;
        self.bytes += u64::from(bytes);
    }
}

/// Frames that did not come through, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Did not fit the queue.
    pub queue: Count,
    /// In an outage.
    pub dark: Count,
    /// At random.
    pub lost: Count,
    /// Damaged (with `damaged = "drop"`).
    pub corrupt: Count,
    /// The emulator held as many frames as it may.
    pub memory: Count,
}

impl Dropped {
    /// All causes with their names.
    #[must_use]
    pub fn causes(&self) -> [(&'static str, Count); 5] {
        [
            ("queue", self.queue),
            ("dark", self.dark),
            ("lost", self.lost),
            ("corrupt", self.corrupt),
            ("memory", self.memory),
        ]
    }
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectionReport {
    /// The model, in words.
    pub link: String,
    /// Seen.
    #[serde(rename = "in")]
    pub input: Count,
    /// Handed to the other interface; copies counted.
    #[serde(rename = "out")]
    pub output: Count,
    /// Of `in`.
    pub dropped: Dropped,
    /// Copies that were added, as far as they have been due.
    pub duplicated: Count,
    /// Whose bits were flipped and that went on.
    pub corrupted_frames: u64,
    /// Made late on purpose.
    pub reordered_frames: u64,
    /// In the queue or the medium at the end.
    pub under_way_frames: u64,
    /// Most bytes that waited in the queue at once.
    pub queue_high_bytes: u64,
    /// Most frames in queue and medium at once.
    pub held_high_frames: u64,
    /// From seen to handed over: queue, serialisation, delay, jitter, and `late`.
    pub delay: Delays,
    /// From due to handed over: what the emulator itself adds.
    pub late: Delays,
}

impl DirectionReport {
    /// No frame appears or vanishes uncounted.
    #[must_use]
    pub fn conserved(&self) -> bool {
        let dropped: u64 = self.dropped.causes().iter().map(|(_, count)| count.frames).sum();
        self.input.frames + self.duplicated.frames == self.output.frames + dropped + self.under_way_frames
    }
}

/// A distribution of times in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delays {
    /// Shortest.
    pub min_us: u64,
    /// Median.
    pub p50_us: u64,
    /// 99 of 100 are not longer.
    pub p99_us: u64,
    /// 999 of 1000 are not longer.
    pub p999_us: u64,
    /// Longest.
    pub max_us: u64,
    /// Frames by time: (up to this many µs, frames), doubling; empty ones are left out.
    pub histogram: Vec<(u64, u64)>,
}

impl Delays {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |percent| histogram.value_at_percentile(percent);
        let steps = histogram.iter_log(1, 2.0);
        let rows = steps.map(|step| (step.value_iterated_to(), step.count_since_last_iteration()));
        Self {
            min_us: histogram.min(),
            p50_us: at(50.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            max_us: histogram.max(),
            histogram: rows.filter(|(_, frames)| *frames > 0).collect(),
        }
    }
}

/// A few lines a direction.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}), seed {}, {:.1} s", self.profile, self.about, self.seed, self.elapsed_ns as f64 / 1e9)?;
        for (from, to, direction) in
            [(&self.left, &self.right, &self.left_to_right), (&self.right, &self.left, &self.right_to_left)]
        {
            let d = direction;
            writeln!(f, "{} → {}: {}", from.interface, to.interface, d.link)?;
            let mut dropped = String::new();
            for (cause, count) in d.dropped.causes().iter().filter(|(_, count)| count.frames > 0) {
                write!(dropped, ", {cause} {}", count.frames)?;
            }
            writeln!(
                f,
                "  in {} out {} frames, {} duplicated, {} corrupted, {} reordered, {} under way; dropped: {}",
                d.input.frames,
                d.output.frames,
                d.duplicated.frames,
                d.corrupted_frames,
                d.reordered_frames,
                d.under_way_frames,
                if dropped.is_empty() { "none" } else { &dropped[2..] },
            )?;
            writeln!(
                f,
                "  delay p50 {} p99 {} max {} µs; late p50 {} p99 {} max {} µs; queue at most {} B",
                d.delay.p50_us,
                d.delay.p99_us,
                d.delay.max_us,
                d.late.p50_us,
                d.late.p99_us,
                d.late.max_us,
                d.queue_high_bytes,
            )?;
            for (what, side, count) in
                [("before the emulator saw them", from, from.rx_dropped), ("on sending", to, to.tx_refused)]
            {
                if count > 0 {
                    writeln!(f, "  {}: {count} frames lost {what}", side.interface)?;
                }
            }
        }
        if let Some(failed) = &self.failed {
            writeln!(f, "ended early: {failed}")?;
        }
        Ok(())
    }
}
