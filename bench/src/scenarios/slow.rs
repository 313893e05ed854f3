//! 1 to 3: links on which one frame takes a tenth of a second.

use std::time::{Duration, Instant};

use anyhow::Result;
use florelay_e2e::Deadline;

use super::client::{Commander, Pace, Sending, heard};
use super::config::Hop;
use super::figures::{Row, ideal_bps, jain};
use super::line::{self, Line};
use super::plain::{self, Windows};
use super::progress::Progress;
use super::stage::Stage;
use super::{Bench, same};

const SECOND: Duration = Duration::from_secs(1);
const COMMAND_BYTES: usize = 256;
const LIMIT: Duration = Duration::from_secs(3600);
const ACKNOWLEDGED: Duration = Duration::from_secs(60);
/// What the link itself carries in 1 and 3, whatever the cap.
const LINK_BPS: u64 = 100_000;
/// Curves of goodput are over so many seconds.
const WINDOW_S: f64 = 2.0;

struct Load {
    profile: &'static str,
    hop: Hop,
    /// Share of frames that do not arrive intact.
    loss: f64,
    file: u64,
    goodput_bar: f64,
    p99_bar_ms: f64,
    idle: Duration,
    plain: Option<Duration>,
}

pub(super) fn blos_clean(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let load = Load {
        profile: include_str!("../../profiles/01-blos-clean.toml"),
        hop: Hop::capped(100_000, 100_000, 375),
        loss: 0.0,
        file: bench.either(1_000_000, 1_000_000),
        goodput_bar: 0.92,
        p99_bar_ms: 620.0,
        idle: bench.either(10, 60) * SECOND,
        plain: Some(bench.either(20, 90) * SECOND),
    };
    file_and_commands(bench, progress, row, &load)
}

pub(super) fn degraded_blos(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let load = Load {
        profile: include_str!("../../profiles/03-degraded-blos.toml"),
        hop: Hop::capped(80_000, 80_000, 375),
        loss: 0.06,
        file: bench.either(500_000, 1_000_000),
        goodput_bar: 0.85,
        p99_bar_ms: 700.0,
        idle: bench.either(0, 60) * SECOND,
        plain: Some(bench.either(20, 90) * SECOND),
    };
    file_and_commands(bench, progress, row, &load)
}

/// A file, and a command of 256 bytes each second until it is through.
fn file_and_commands(bench: &Bench, progress: &Progress, row: &mut Row, load: &Load) -> Result<()> {
    let mut stage = Stage::new(&bench.emulator, vec![Some(load.profile.to_owned())])?;
    stage.emulate()?;
    let mut line = Line::start(&bench.program, &stage, &[load.hop], &[1])?;
    line.connected()?;
    if !load.idle.is_zero() {
        idle_commands(&line, progress, row, load.idle, SECOND / 2)?;
    }

    let file = Sending::write(stage.folder(), &line.inbox(1), 0, load.file)?;
    let began = Instant::now();
    line.client(0)?.send_file(line.name(1), file.id, &file.from)?;
    let commander = Commander::begin(line.home(0), line.name(1), "saturated", Pace::each(SECOND))?;
    let files = [file];
    let arrivals = line::watch(&files, began, LIMIT, progress)?;
    let in_time = heard(&line.inbox(1), "saturated")?.len() * COMMAND_BYTES;
    let said = commander.finish(Deadline::after(ACKNOWLEDGED))?;
    let cap_bps = load.hop.rates[0].unwrap_or(0);
    let goodput_bps = (load.file + in_time as u64) as f64 * 8.0 / arrivals.seconds;
    let ideal = ideal_bps(cap_bps, load.loss);
    row.at_least("goodput of file and commands", "of ideal", goodput_bps / ideal, load.goodput_bar);
    row.commands("saturated", said, &heard(&line.inbox(1), "saturated")?, Some(load.p99_bar_ms));
    row.at_most("files that differ", "", f64::from(u8::from(!same(&files[0])?)), 0.0);
    row.goodput_curve("florelay", &arrivals.curves[0], WINDOW_S);
    line.stop()?;
    row.emulators.extend(stage.still()?);

    if let Some(limit) = load.plain {
        stage.emulate()?;
        let plain = plain::run(&stage, Windows::Default, load.file, limit)?;
        let ideal = ideal_bps(LINK_BPS, load.loss);
        row.shown("plain quinn, defaults: goodput", "of the link's ideal", plain.goodput_bps() / ideal);
        row.shown("plain quinn, defaults: packets lost", "%", plain.lost * 100.0);
        row.goodput_curve("plain quinn", &plain.curve, WINDOW_S);
        row.emulators.extend(stage.still()?);
        row.notes.push(format!(
            "plain quinn has no cap: the link's own 100 kbit/s carried it; stopped after {:.0} s; it carried no commands. \
             Its default windows are above 2 × BDP",
            plain.seconds
        ));
    }
    Ok(())
}

pub(super) fn los(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let hop = Hop::capped(500_000, 500_000, 125);
    let mut stage = Stage::new(&bench.emulator, vec![Some(include_str!("../../profiles/02-los.toml").to_owned())])?;
    stage.emulate()?;
    let mut line = Line::start(&bench.program, &stage, &[hop], &[1])?;
    line.connected()?;
    idle_commands(&line, progress, row, bench.either(10, 60) * SECOND, SECOND / 5)?;

    // transfers that outlast the file
    let bytes = bench.either(750_000, 10_000_000);
    let size = |number| if number == 0 { bytes } else { 2 * bytes };
    let make = |number| Sending::write(stage.folder(), &line.inbox(1), number, size(number));
    let files = (0..5).map(make).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let mut client = line.client(0)?;
    for file in &files {
        client.send_file(line.name(1), file.id, &file.from)?;
    }
    let commander = Commander::begin(line.home(0), line.name(1), "saturated", Pace::each(SECOND))?;
    let arrivals = line::watch_until(&files, began, LIMIT, progress, |files| files[0].done())?;
    let shares: Vec<f64> = arrivals.curves.iter().map(super::figures::Curve::last).collect();
    let in_time = heard(&line.inbox(1), "saturated")?.len() * COMMAND_BYTES;
    let said = commander.finish(Deadline::after(ACKNOWLEDGED))?;
    let goodput_bps = (shares.iter().sum::<f64>() + in_time as f64) * 8.0 / arrivals.seconds;
    row.at_least("goodput of all", "of ideal", goodput_bps / ideal_bps(500_000, 0.0), 0.95);
    row.at_least("Jain's index of 5 transfers", "", jain(&shares), 0.99);
    row.commands("saturated", said, &heard(&line.inbox(1), "saturated")?, Some(190.0));
    for (number, curve) in arrivals.curves.iter().enumerate() {
        row.goodput_curve(format!("transfer {}", number + 1), curve, WINDOW_S);
    }
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(())
}

/// Commands at an interval on an otherwise idle link.
pub(super) fn idle_commands(
    line: &Line,
    progress: &Progress,
    row: &mut Row,
    time: Duration,
    interval: Duration,
) -> Result<()> {
    let commander = Commander::begin(line.home(0), line.name(1), "idle", Pace::each(interval))?;
    line::pause(time, progress, "commands on the idle link")?;
    let said = commander.finish(Deadline::after(ACKNOWLEDGED))?;
    row.commands("idle", said, &heard(&line.inbox(1), "idle")?, None);
    Ok(())
}
