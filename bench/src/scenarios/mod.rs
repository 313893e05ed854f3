//! The project's scenarios marked ● in real time: whole nodes, their programs as an operator runs them, over the link
//! emulator; a plain quinn sender beside them.
//!
//! ```text
//!   run ─► Scenario ─► Stage (namespaces, emulators) ─► Line (nodes) ─► what arrives, when ─► Row ─► table, JSON, SVG
//!                            └───────────────────────► plain quinn over the same stage, afterwards
//! ```
//!
//! Every figure comes from outside of the nodes where that is possible: files as they grow in the receiver's inbox, stamps in
//! the commands and in the receiver's log, the kernel's counters of the interfaces. Only `sent again`, lost connections,
//! reordering and reasons of drops are the nodes' own.
//!
//! Limits
//! - Everything runs on one machine: on a busy one the nodes are late too. Each row has the machine's load and how late the
//!   emulators were; a row whose emulator did not keep its time is marked.
//! - veth: AF_XDP in driver copy mode.
//! - Caps above what the machine's cores carry are not reached, and the row says so.

mod caps;
mod client;
mod config;
pub mod figures;
mod geo;
mod hops;
mod kills;
mod line;
mod outage;
mod plain;
mod plots;
mod progress;
mod slow;
mod smoke;
mod spool_full;
mod stage;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use florelay_e2e::{Program, interrupted};

use self::client::Sending;
use self::figures::{Report, Row};
use self::progress::Progress;
use crate::context::{Machine, load};

const MB: u64 = 1_000_000;
const GB: u64 = 1000 * MB;
/// The table as JSON, as Markdown, and its plots.
pub const RESULTS: &str = "results.json";
/// See [`RESULTS`].
pub const TABLE: &str = "results.md";

/// What to run, and with what.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rows by their keys; none = all.
    pub only: Vec<String>,
    /// Loads as in the table, and outages of a minute.
    pub long: bool,
    /// The `florelay` program.
    pub florelay: PathBuf,
    /// The `florelay-bench` program, which is the emulator.
    pub emulator: PathBuf,
    /// Results go here.
    pub folder: PathBuf,
}

/// What scenarios need.
struct Bench {
    program: Program,
    emulator: PathBuf,
    long: bool,
}

impl Bench {
    /// The ordinary load, or the long one.
    fn either<T>(&self, short: T, long: T) -> T {
        if self.long { long } else { short }
    }
}

struct Scenario {
    key: &'static str,
    what: &'static str,
    /// How long it takes, and with `long`; s.
    takes_s: [u64; 2],
    run: fn(&Bench, &Progress, &mut Row) -> Result<()>,
}

const SCENARIOS: [Scenario; 11] = [
    Scenario {
        key: "1",
        what: "BLOS-clean: 100 kb/s, 750 ms; 1 MB file, a command of 256 B each second",
        takes_s: [135, 260],
        run: slow::blos_clean,
    },
    Scenario {
        key: "2",
        what: "LOS: 500 kb/s, 240 ms + 0 to 20 ms; a file and 4 equal transfers, a command each second",
        takes_s: [85, 960],
        run: slow::los,
    },
    Scenario {
        key: "3",
        what: "degraded-BLOS: 100 kb/s capped to 80, 750 ms, 5 % loss, 1 % corrupt, 3 % twice; as 1",
        takes_s: [95, 300],
        run: slow::degraded_blos,
    },
    Scenario {
        key: "4",
        what: "GEO small: 10/2 Mb/s, 650 ms; commands idle and saturated",
        takes_s: [35, 620],
        run: geo::small,
    },
    Scenario {
        key: "5",
        what: "GEO large: 250/3 Mb/s, 650 ms; 100 MB from cold, again after 10 s",
        takes_s: [60, 110],
        run: geo::large,
    },
    Scenario {
        key: "10",
        what: "LEO hand-over: 100/20 Mb/s, 40 to 60 ms, 1 % loss, dark 120 to 500 ms each 15 s; commands idle and saturated",
        takes_s: [45, 170],
        run: geo::hand_over,
    },
    Scenario {
        key: "11",
        what: "outage: as 4, dark, also beyond a relay; 20 MB, 20 commands said in the dark",
        takes_s: [85, 300],
        run: outage::dark,
    },
    Scenario {
        key: "12",
        what: "power cut: as 4, kill -9 of the dataplane of either end in turn each 7 s; a file and a stream",
        takes_s: [60, 1200],
        run: kills::in_turn,
    },
    Scenario {
        key: "14",
        what: "spool full: as 4, dark for 30 s; a program writes as fast as it can, 20 commands said in the dark",
        takes_s: [100, 100],
        run: spool_full::held_back,
    },
    Scenario { key: "16", what: "cap proof: 5 % loss, 3 peers that want more", takes_s: [125, 300], run: caps::proof },
    Scenario {
        key: "18",
        what: "label hops: 3 hops of 50 Mb/s; a file, commands of 64 to 1500 B, wrong frames",
        takes_s: [15, 35],
        run: hops::switched,
    },
];

/// The row that has no number in the table.
const LOSSY: Scenario =
    Scenario { key: "lossy", what: "10 Mb/s, 600 ms, 1 % loss both ways", takes_s: [70, 320], run: geo::lossy };

/// A short run of the machinery, for its own test: only if asked for.
const SMOKE: Scenario =
    Scenario { key: "smoke", what: "the machinery: 4 Mb/s, 40 ms", takes_s: [6, 6], run: smoke::machinery };

/// Runs, and writes results after each row, so that an interrupted run has what it measured.
///
/// # Errors
/// No root, an unknown key, a folder that cannot be written. What fails later is in its row.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces, XDP and AF_XDP need root");
    let mut chosen: Vec<Scenario> = SCENARIOS.into_iter().chain([LOSSY]).collect();
    if !options.only.is_empty() {
        chosen.push(SMOKE);
        for key in &options.only {
            let known = || chosen.iter().map(|scenario| scenario.key).collect::<Vec<_>>().join(", ");
            ensure!(
                chosen.iter().any(|scenario| scenario.key == key),
                "no scenario `{key}` in real time; there are {}",
                known()
            );
        }
        chosen.retain(|scenario| options.only.iter().any(|key| scenario.key == key));
    }
    std::fs::create_dir_all(&options.folder).with_context(|| options.folder.display().to_string())?;
    let program = Program::at(&options.florelay)?;
    let bench = Bench { program, emulator: options.emulator.clone(), long: options.long };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut report =
        Report { machine: Machine::look(), began_unix_s: since.as_secs(), long: options.long, rows: Vec::new() };
    let all: u64 = chosen.iter().map(|scenario| bench.either(scenario.takes_s[0], scenario.takes_s[1])).sum();
    eprintln!("{} scenarios in real time, about {} min", chosen.len(), all.div_ceil(60));
    for (number, scenario) in chosen.iter().enumerate() {
        let row = one(&bench, scenario, (number + 1, chosen.len()));
        report.rows.push(row);
        write(&report, &options.folder)?;
        if interrupted() {
            break;
        }
    }
    Ok(report)
}

fn one(bench: &Bench, scenario: &Scenario, (number, count): (usize, usize)) -> Row {
    let title = format!("[{number}/{count}] {} {}", scenario.key, scenario.what);
    let expected = Duration::from_secs(bench.either(scenario.takes_s[0], scenario.takes_s[1]));
    let progress = Progress::begin(title, expected);
    let began = Instant::now();
    let mut row = Row::new(scenario.key, scenario.what);
    if let Err(error) = (scenario.run)(bench, &progress, &mut row) {
        row.failure = Some(format!("{error:#}"));
    }
    row.seconds = began.elapsed().as_secs_f64();
    row.load = load();
    let missed = row.figures.iter().filter(|figure| figure.met == Some(false)).count();
    progress.end(&match (&row.failure, missed) {
        (Some(failure), _) => format!("failed: {failure};"),
        (None, 0) => "done".to_owned(),
        (None, missed) => format!("done, {missed} bars missed,"),
    });
    row
}

fn write(report: &Report, folder: &Path) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    put(RESULTS, serde_json::to_string_pretty(report)?)?;
    put(TABLE, report.table())?;
    let Some(row) = report.rows.last() else { return Ok(()) };
    plots::of(row)?.into_iter().try_for_each(|(name, svg)| put(&name, svg))
}

/// Whether a file arrived as it was sent, byte for byte.
fn same(file: &Sending) -> Result<bool> {
    let hash = |path: &Path| -> Result<blake3::Hash> {
        let opened = File::open(path).with_context(|| path.display().to_string())?;
        Ok(blake3::Hasher::new().update_reader(opened)?.finalize())
    };
    Ok(hash(&file.from)? == hash(&file.whole)?)
}
