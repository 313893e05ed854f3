//! 16: the cap of station 0, with 5 % loss and three peers that all want more; by the kernel's counters of the interface.
//!
//! ```text
//!   station 0 ══ cap ══ emulator, 5 % loss ══ station 1 ── wire ── station 2 ── wire ── station 3
//!      peers of station 0:                     1st              2nd              3rd
//! ```

use std::time::Duration;

use anyhow::Result;
use florelay_e2e::{Sample, Sampler, worst_excess_bytes};

use super::client::Sending;
use super::config::{Hop, burst_bytes};
use super::figures::{Curve, Row, SentRate};
use super::line::{self, Line};
use super::progress::Progress;
use super::stage::{Stage, TO_RIGHT};
use super::{Bench, GB};

const PEERS: usize = 3;
const WINDOW: Duration = Duration::from_millis(100);
/// More than any of these links carries in the time.
const FILE_BYTES: u64 = 4 * GB;
/// Over 10 s one frame is 1.5 % of 80 kb/s: slow links are looked at for longer.
const SLOW_BPS: u64 = 1_000_000;

pub(super) fn proof(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let rates = [
        (80_000, "80 kb/s"),
        (1_000_000, "1 Mb/s"),
        (10_000_000, "10 Mb/s"),
        (100_000_000, "100 Mb/s"),
        (1_000_000_000, "1 Gb/s"),
    ];
    for (rate_bps, name) in rates {
        let seconds = if rate_bps < SLOW_BPS { bench.either(30, 200) } else { 10 };
        let samples = saturate(bench, progress, row, rate_bps, seconds)?;
        let (burst, sent) = (burst_bytes(rate_bps), mean_bps(&samples));
        let error = (sent / rate_bps as f64 - 1.0) * 100.0;
        let mean = format!("{name}: mean of {seconds} s");
        if rate_bps == 1_000_000_000 && error < -1.0 {
            // What this machine carries, not what the cap does: below it nothing is wrong.
            row.shown(mean, "% from the cap", error);
            row.notes
                .push("1 Gb/s was not saturated: four nodes and the emulator share this machine's cores".to_owned());
        } else {
            row.at_least(mean, "% from the cap", error, -1.0);
        }
        // A burst may fall into the window that the one before had saved.
        let over = burst as f64 * 8.0 / (rate_bps as f64 * seconds as f64) * 100.0;
        row.at_most(format!("{name}: mean above the cap, of a burst's share"), "", (error / over).max(0.0), 1.0);
        let excess = worst_excess_bytes(&samples, WINDOW, rate_bps) as f64 / burst as f64;
        row.at_most(format!("{name}: worst 100 ms above cap × time"), "bursts", excess, 1.0);
        let bytes = Curve(samples.iter().map(|sample| (sample.at.as_secs_f64(), sample.bytes as f64)).collect());
        row.rates.push(SentRate { cap_bps: rate_bps, burst_bytes: burst, curve: bytes.rate(WINDOW.as_secs_f64()) });
    }
    Ok(())
}

fn saturate(bench: &Bench, progress: &Progress, row: &mut Row, rate_bps: u64, seconds: u64) -> Result<Vec<Sample>> {
    let profile = include_str!("../../profiles/16-cap-proof.toml").to_owned();
    let mut stage = Stage::new(&bench.emulator, vec![Some(profile), None, None])?;
    stage.emulate()?;
    let hops = [Hop::capped(rate_bps, rate_bps, 1), Hop::wire(), Hop::wire()];
    let mut line = Line::start(&bench.program, &stage, &hops, &[1, 2, 3])?;
    line.connected()?;
    let mut client = line.client(0)?;
    for peer in 1..=PEERS {
        let file = Sending::sparse(stage.folder(), &line.inbox(peer), peer, FILE_BYTES)?;
        client.send_file(line.name(peer), file.id, &file.from)?;
    }
    // Offer and acceptance of three transfers: half a second of a slow link, and as much again.
    line::pause(Duration::from_secs(3), progress, "beginning")?;
    let sampler = Sampler::start((stage.station(0), TO_RIGHT), stage.first_ear())?;
    line::pause(Duration::from_secs(seconds), progress, "saturated")?;
    let samples = sampler.finish()?;
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(samples)
}

fn mean_bps(samples: &[Sample]) -> f64 {
    match (samples.first(), samples.last()) {
        (Some(first), Some(last)) if last.at > first.at => {
            (last.bytes - first.bytes) as f64 * 8.0 / (last.at - first.at).as_secs_f64()
        }
        _ => 0.0,
    }
}
