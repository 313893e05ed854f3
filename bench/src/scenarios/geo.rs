//! 4, 5, 10 and the lossy link of 10 Mb/s: links of some megabits, far away.

use std::time::{Duration, Instant};

use anyhow::Result;
use florelay_e2e::Deadline;

use super::client::{Commander, Pace, Sending, heard};
use super::config::Hop;
use super::figures::{Row, ideal_bps};
use super::line::{self, Arrivals, Line};
use super::plain::{self, Windows};
use super::progress::Progress;
use super::slow::idle_commands;
use super::stage::Stage;
use super::{Bench, MB, same};

const LIMIT: Duration = Duration::from_secs(1200);
const ACKNOWLEDGED: Duration = Duration::from_secs(60);
const WINDOW_S: f64 = 0.5;
const SECOND: Duration = Duration::from_secs(1);

/// 10 Mbit/s, 600 ms, 1 % loss, both ways; a queue of rate × round trip.
const LOSSY: &str = r#"version = "1.0"
name = "lossy-10"
about = "10 Mbit/s, RTT 600 ms, 1 % loss both ways; queues of rate × RTT"
seed = 21

[both]
rate = "10 Mbit/s"
queue = "750 kB"
delay = "300 ms"
loss = "1 %"
"#;

/// A stage of one hop with connected nodes.
fn connected(bench: &Bench, profile: &str, hop: Hop) -> Result<(Stage, Line)> {
    let mut stage = Stage::new(&bench.emulator, vec![Some(profile.to_owned())])?;
    stage.emulate()?;
    let mut line = Line::start(&bench.program, &stage, &[hop], &[1])?;
    line.connected()?;
    Ok((stage, line))
}

/// A file from one station to the other, which begins now.
fn send(
    stage: &Stage,
    line: &Line,
    (from, to): (usize, usize),
    number: usize,
    size: u64,
    progress: &Progress,
) -> Result<Arrivals> {
    let file = Sending::write(stage.folder(), &line.inbox(to), number, size)?;
    let mut client = line.client(from)?;
    let began = Instant::now();
    client.send_file(line.name(to), file.id, &file.from)?;
    let arrivals = line::watch(std::slice::from_ref(&file), began, LIMIT, progress)?;
    anyhow::ensure!(same(&file)?, "the file that arrived is not the one that was sent");
    Ok(arrivals)
}

/// The same size by plain quinn, with its defaults and with larger windows.
fn plain(
    stage: &mut Stage,
    row: &mut Row,
    size: u64,
    limit: Duration,
    (bps, rtt): (u64, Duration),
    ideal: f64,
) -> Result<()> {
    let bdp = (bps as f64 / 8.0 * rtt.as_secs_f64()) as u64;
    for (name, windows) in [("defaults", Windows::Default), ("windows 2 × BDP", Windows::TwiceBdp(bdp))] {
        stage.emulate()?;
        let plain = plain::run(stage, windows, size, limit)?;
        let goodput = plain.goodput_bps();
        row.shown(format!("plain quinn, {name}: goodput"), "Mbit/s", goodput / 1e6);
        row.shown(format!("plain quinn, {name}: goodput"), "of ideal", goodput / ideal);
        row.shown(format!("plain quinn, {name}: packets lost"), "%", plain.lost * 100.0);
        row.goodput_curve(format!("plain quinn, {name}"), &plain.curve, WINDOW_S);
        row.emulators.extend(stage.still()?);
    }
    row.notes.push(format!(
        "plain quinn: the same file for at most {} s, without commands and without a cap",
        limit.as_secs()
    ));
    Ok(())
}

pub(super) fn small(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let hop = Hop::capped(10_000_000, 2_000_000, 325);
    let (mut stage, line) = connected(bench, include_str!("../../profiles/04-geo-small.toml"), hop)?;
    idle_commands(&line, progress, row, bench.either(10, 60) * SECOND, SECOND / 5)?;
    let size = bench.either(15, 100) * MB;
    let commander = Commander::begin(line.home(0), line.name(1), "saturated", Pace::each(SECOND / 10))?;
    let arrivals = send(&stage, &line, (0, 1), 0, size, progress)?;
    let said = commander.finish(Deadline::after(ACKNOWLEDGED))?;
    row.commands("saturated", said, &heard(&line.inbox(1), "saturated")?, None);
    row.goodput_curve("florelay, down", &arrivals.curves[0], WINDOW_S);
    if bench.long {
        row.at_most("100 MB down", "s", arrivals.seconds, 89.0);
        let up = send(&stage, &line, (1, 0), 1, size, progress)?;
        row.at_most("100 MB up", "s", up.seconds, 440.0);
        row.goodput_curve("florelay, up", &up.curves[0], WINDOW_S);
    } else {
        let goodput = size as f64 * 8.0 / arrivals.seconds / ideal_bps(10_000_000, 0.0);
        row.shown("goodput of 15 MB down", "of ideal", goodput);
        row.notes
            .push("15 MB instead of 100 MB each way: offer and acceptance weigh more; --long has the whole".to_owned());
    }
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(())
}

pub(super) fn large(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let hop = Hop::capped(250_000_000, 3_000_000, 325);
    let profile = include_str!("../../profiles/05-geo-large.toml").to_owned();
    let mut stage = Stage::new(&bench.emulator, vec![Some(profile)])?;
    stage.emulate()?;
    let mut line = Line::start(&bench.program, &stage, &[hop], &[1])?;
    // Both programs run; links and connections are not up yet.
    line.client(0)?;
    line.client(1)?;
    let size = 100 * MB;
    let cold = send(&stage, &line, (0, 1), 0, size, progress)?;
    line.connected()?;
    row.at_most("100 MB from cold", "s", cold.seconds, 8.0);
    line::pause(10 * SECOND, progress, "pause of 10 s")?;
    let again = send(&stage, &line, (0, 1), 1, size, progress)?;
    row.at_most("100 MB again after 10 s", "s", again.seconds, 5.5);
    row.goodput_curve("florelay, from cold", &cold.curves[0], WINDOW_S);
    row.goodput_curve("florelay, again", &again.curves[0], WINDOW_S);
    line.stop()?;
    row.emulators.extend(stage.still()?);
    let link = (250_000_000, Duration::from_millis(650));
    plain(&mut stage, row, size, bench.either(12, 60) * SECOND, link, ideal_bps(link.0, 0.0))
}

pub(super) fn lossy(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let (mut stage, line) = connected(bench, LOSSY, Hop::capped(10_000_000, 10_000_000, 300))?;
    let size = bench.either(25, 100) * MB;
    let arrivals = send(&stage, &line, (0, 1), 0, size, progress)?;
    let ideal = ideal_bps(10_000_000, 0.01);
    row.at_least("goodput", "of ideal", size as f64 * 8.0 / arrivals.seconds / ideal, 0.85);
    row.goodput_curve("florelay", &arrivals.curves[0], WINDOW_S);
    line.stop()?;
    row.emulators.extend(stage.still()?);
    let link = (10_000_000, Duration::from_millis(600));
    plain(&mut stage, row, size, bench.either(15, 100) * SECOND, link, ideal)
}

pub(super) fn hand_over(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let hop = Hop::capped(100_000_000, 20_000_000, 25);
    let (mut stage, line) = connected(bench, include_str!("../../profiles/10-leo-handover.toml"), hop)?;
    // the first hand-over falls into it
    idle_commands(&line, progress, row, bench.either(14, 60) * SECOND, SECOND / 10)?;
    let size = bench.either(200, 1000) * MB;
    let commander = Commander::begin(line.home(0), line.name(1), "saturated", Pace::each(SECOND / 10))?;
    let arrivals = send(&stage, &line, (0, 1), 0, size, progress)?;
    let said = commander.finish(Deadline::after(ACKNOWLEDGED))?;
    let goodput = size as f64 * 8.0 / arrivals.seconds / ideal_bps(100_000_000, 0.01);
    row.at_least("goodput", "of ideal", goodput, 0.8);
    // the longest blackout, the longest way, and 200 ms to see that the link is back
    row.commands("saturated", said, &heard(&line.inbox(1), "saturated")?, Some(730.0));
    row.goodput_curve("florelay", &arrivals.curves[0], WINDOW_S);
    let status = line.client(0)?.status()?;
    row.at_most("connections lost", "", line::peer_counter(&status.peers[0], "connections_lost") as f64, 0.0);
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(())
}
