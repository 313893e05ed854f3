//! The machinery in a few seconds: whether figures come out, not which.

use std::time::{Duration, Instant};

use anyhow::Result;
use florelay_e2e::Deadline;

use super::client::{Commander, Pace, Sending, heard};
use super::config::Hop;
use super::figures::{Curve, Row, SentRate};
use super::line::{self, Line};
use super::plain::{self, Windows};
use super::progress::Progress;
use super::stage::{Stage, TO_RIGHT};
use super::{Bench, same};

const RATE_BPS: u64 = 4_000_000;
const FILE_BYTES: u64 = 500_000;
const LIMIT: Duration = Duration::from_secs(60);
const PROFILE: &str = r#"version = "1.0"
name = "smoke"
seed = 1
[both]
rate = "4 Mbit/s"
delay = "20 ms"
"#;

pub(super) fn machinery(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let mut stage = Stage::new(&bench.emulator, vec![Some(PROFILE.to_owned())])?;
    stage.emulate()?;
    let mut line = Line::start(&bench.program, &stage, &[Hop::capped(RATE_BPS, RATE_BPS, 20)], &[1])?;
    line.connected()?;
    let file = Sending::write(stage.folder(), &line.inbox(1), 0, FILE_BYTES)?;
    let sampler = florelay_e2e::Sampler::start((stage.station(0), TO_RIGHT), stage.first_ear())?;
    let began = Instant::now();
    line.client(0)?.send_file(line.name(1), file.id, &file.from)?;
    let pace = Pace { at_most: 5, ..Pace::each(Duration::from_millis(100)) };
    let commander = Commander::begin(line.home(0), line.name(1), "saturated", pace)?;
    let files = [file];
    let arrivals = line::watch(&files, began, LIMIT, progress)?;
    let said = commander.finish_all(Deadline::after(LIMIT))?;
    let samples = sampler.finish()?;
    row.shown("goodput", "Mbit/s", FILE_BYTES as f64 * 8.0 / arrivals.seconds / 1e6);
    row.commands("saturated", said, &heard(&line.inbox(1), "saturated")?, None);
    row.at_most("files that differ", "", f64::from(u8::from(!same(&files[0])?)), 0.0);
    row.goodput_curve("florelay", &arrivals.curves[0], 0.2);
    let bytes = Curve(samples.iter().map(|sample| (sample.at.as_secs_f64(), sample.bytes as f64)).collect());
    row.rates.push(SentRate {
        cap_bps: RATE_BPS,
        burst_bytes: super::config::burst_bytes(RATE_BPS),
        curve: bytes.rate(0.1),
    });
    line.stop()?;
    row.emulators.extend(stage.still()?);
    stage.emulate()?;
    let plain = plain::run(&stage, Windows::TwiceBdp(RATE_BPS / 8 / 25), FILE_BYTES / 2, LIMIT)?;
    row.shown("plain quinn: goodput", "Mbit/s", plain.goodput_bps() / 1e6);
    row.goodput_curve("plain quinn", &plain.curve, 0.2);
    row.emulators.extend(stage.still()?);
    Ok(())
}
