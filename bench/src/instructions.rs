//! Instructions per packet, counted by valgrind: a figure that a busy machine does not change.
//!
//! ```text
//!   florelay-bench instructions ── valgrind --tool=callgrind ──► florelay-bench row ROW
//!                                   collects inside one fence     warm-up, then PACKETS under a virtual clock
//! ```
//!
//! The rows are those of [`quic_memory`](crate::quic_memory) and [`engine_memory`](crate::engine_memory), with what they charge to
//! a side inside a *fence*: a function that is never inlined, at which callgrind switches its collection on and off. A
//! row runs once for each side.
//!
//! Limits
//! - An instruction is not a cycle: a copy of 1400 bytes is few instructions, a missed cache line is one.
//! - valgrind 3.19 offers no AVX-512 and no VAES, so sealing and copying take other paths here than on the machine
//!   itself; both rows take the same.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::credentials;
use crate::{engine_memory, quic_memory};

/// Time between two bursts of 64 packets: 6 Gbit/s.
pub const BURST_STEP: Duration = Duration::from_micros(128);
/// Not counted: the handshake, the slow start.
const WARM_UP_BYTES: u64 = 16 << 20;
/// Counted.
const COUNTED_BYTES: u64 = 32 << 20;

/// Which side's work is inside a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The end whose stream it is.
    Sender,
    /// The other one.
    Receiver,
}

impl Side {
    /// What the names of its fence match.
    fn fence(self) -> &'static str {
        match self {
            Self::Sender => "*instructions::fence_of_sender*",
            Self::Receiver => "*instructions::fence_of_receiver*",
        }
    }
}

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RowKind {
    /// Bare quinn-proto.
    Quinn,
    /// Two engines, uncapped.
    Engine,
}

impl RowKind {
    const ALL: [Self; 2] = [Self::Quinn, Self::Engine];

    fn name(self) -> &'static str {
        match self {
            Self::Quinn => "quinn",
            Self::Engine => "engine",
        }
    }
}

/// Runs `work`, inside the fence of its side if it is to be counted.
pub(crate) fn charge<R>(counted: bool, side: Side, work: impl FnOnce() -> R) -> R {
    match (counted, side) {
        (false, _) => work(),
        (true, Side::Sender) => fence_of_sender(work),
        (true, Side::Receiver) => fence_of_receiver(work),
    }
}

#[inline(never)]
fn fence_of_sender<R>(work: impl FnOnce() -> R) -> R {
    std::hint::black_box(work())
}

#[inline(never)]
fn fence_of_receiver<R>(work: impl FnOnce() -> R) -> R {
    std::hint::black_box(work())
}

/// What a run of a row moved inside the fences.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Moved {
    /// Data packets.
    pub packets: u64,
    /// Packets that the receiver answered with.
    pub answers: u64,
    /// Stream bytes.
    pub bytes: u64,
}

/// Runs a row once under the virtual clock; for the process that valgrind watches.
///
/// # Errors
/// Nothing moves.
pub fn run_row(kind: RowKind) -> Result<Moved> {
    match kind {
        RowKind::Quinn => {
            let mut pair = quic_memory::Pair::connect(&credentials::both_sides()?)?;
            pair.use_virtual_time(BURST_STEP);
            while pair.received() < WARM_UP_BYTES {
                pair.round()?;
            }
            pair.restart_count();
            pair.count_instructions();
            while pair.received() < WARM_UP_BYTES + COUNTED_BYTES {
                pair.round()?;
            }
            Ok(pair.moved())
        }
        RowKind::Engine => {
            let mut transfer = engine_memory::Transfer::start_virtual(None, BURST_STEP)?;
            transfer.until_received(WARM_UP_BYTES)?;
            transfer.restart_count();
            transfer.count_instructions();
            transfer.until_received(WARM_UP_BYTES + COUNTED_BYTES)?;
            Ok(transfer.moved())
        }
    }
}

/// One row and side.
#[derive(Debug, Clone, Serialize)]
pub struct Count {
    /// What ran.
    pub row: RowKind,
    /// Whose instructions.
    pub side: Side,
    /// Instructions per data packet, everything else that this side did included.
    pub per_packet: f64,
    /// Instructions per stream byte.
    pub per_byte: f64,
    /// Stream bytes of a data packet.
    pub stream_bytes: f64,
    /// Data packets for each packet of the receiver.
    pub packets_per_answer: f64,
}

/// All of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    /// What counted.
    pub valgrind: String,
    /// The figures.
    pub rows: Vec<Count>,
}

impl Counts {
    /// Instructions of the engine per byte over those of bare quinn-proto.
    #[must_use]
    pub fn ratio(&self, side: Side) -> Option<f64> {
        let of = |row| self.rows.iter().find(|count| count.row == row && count.side == side).map(|c| c.per_byte);
        Some(of(RowKind::Engine)? / of(RowKind::Quinn)?)
    }

    /// For people, as a Markdown table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{}; no AVX-512, no VAES; release build; in memory, no driver; 1460-byte QUIC packets; 1 core\n\n\
             | row | side | instructions a packet | stream bytes a packet | packets for each answer |\n|---|---|---|---|---|\n",
            self.valgrind
        );
        for count in &self.rows {
            let side = if count.side == Side::Sender { "sender" } else { "receiver" };
            out += &format!(
                "| {} | {side} | {:.0} | {:.1} | {:.1} |\n",
                count.row.name(),
                count.per_packet,
                count.stream_bytes,
                count.packets_per_answer
            );
        }
        for (side, name) in [(Side::Sender, "sender"), (Side::Receiver, "receiver")] {
            if let Some(ratio) = self.ratio(side) {
                out += &format!("\nengine / bare quinn-proto, instructions per byte at the {name}: {ratio:.3}\n");
            }
        }
        out
    }
}

/// Counts all rows. `keep` is a folder for callgrind's files, one a row and side, to be read with `callgrind_annotate`.
///
/// # Errors
/// valgrind is not installed, or a row fails.
pub fn run(keep: Option<&Path>) -> Result<Counts> {
    let version = Command::new("valgrind").arg("--version").output();
    let version = version.context("valgrind is needed: apt-get install valgrind")?;
    let temporary = tempfile::tempdir()?;
    let folder = keep.unwrap_or_else(|| temporary.path());
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut rows = Vec::new();
    for row in RowKind::ALL {
        for side in [Side::Sender, Side::Receiver] {
            rows.push(count(row, side, folder)?);
        }
    }
    Ok(Counts { valgrind: String::from_utf8_lossy(&version.stdout).trim().to_owned(), rows })
}

fn count(row: RowKind, side: Side, folder: &Path) -> Result<Count> {
    let side_name = if side == Side::Sender { "sender" } else { "receiver" };
    let file = folder.join(format!("{}-{side_name}.callgrind", row.name()));
    let mut out = OsString::from("--callgrind-out-file=");
    out.push(&file);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={}", side.fence()))
        .arg(out)
        .arg(std::env::current_exe()?)
        .args(["row", row.name()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "row {} under valgrind: {}", row.name(), output.status);
    let moved: Moved = serde_json::from_slice(&output.stdout).context("what the row says")?;
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let instructions = total(&text).with_context(|| format!("{}: no total", file.display()))? as f64;
    ensure!(instructions > 0.0, "nothing was counted inside {}", side.fence());
    Ok(Count {
        row,
        side,
        per_packet: instructions / moved.packets as f64,
        per_byte: instructions / moved.bytes as f64,
        stream_bytes: moved.bytes as f64 / moved.packets as f64,
        packets_per_answer: moved.packets as f64 / moved.answers as f64,
    })
}

/// The line `totals: N` or `summary: N` of callgrind's format.
fn total(text: &str) -> Option<u64> {
    let after = |name: &str| text.lines().rev().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    after("totals:").or_else(|| after("summary:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_callgrind_file_is_found() {
        assert_eq!(total("events: Ir\nfn=(1)\n1 200\n\ntotals: 12345\n"), Some(12345));
        assert_eq!(total("events: Ir\nsummary: 7\nfn=(1)\n"), Some(7));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn rows_move_full_packets_and_few_answers() {
        for row in RowKind::ALL {
            let moved = run_row(row).unwrap();
            // The warm-up ends inside a burst, whose rest is missing here.
            assert!(moved.packets > 20_000 && moved.bytes > COUNTED_BYTES / 10 * 9, "{moved:?}");
            assert!(moved.bytes > moved.packets * 1400, "{moved:?}");
            // One answer for each 31 packets is asked for.
            assert!(moved.answers * 10 < moved.packets, "{moved:?}");
        }
    }
}
