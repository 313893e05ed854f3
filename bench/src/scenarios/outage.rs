//! 11: the link is dark for 5 s, with --long also for a minute; the near hop, and the one beyond a relay.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use florelay_dataplane::ipc::PeerStatus;
use florelay_e2e::{Deadline, Sample, Sampler};

use super::client::{Client, Commander, Pace, Sending, heard};
use super::config::Hop;
use super::figures::Row;
use super::line::{self, Line, peer_counter};
use super::progress::Progress;
use super::stage::Stage;
use super::{Bench, MB, same};

const RTT: Duration = Duration::from_millis(650);
/// Since the emulators are ready: nodes start, and some seconds of the file go.
pub(super) const DARK_AT: Duration = Duration::from_secs(14);
const COMMANDS: usize = 20;
/// Only bulk makes so many bytes at once: two frames may be probes that repeat what had arrived.
const THIRD_FRAME_BYTES: u64 = 2 * 1514 + 1400;
const LIMIT: Duration = Duration::from_secs(600);
const WINDOW_S: f64 = 0.5;

/// 4's link with this delay; dark for `dark`.
pub(super) fn profile(delay_ms: u128, dark: Option<Duration>) -> String {
    let outages = dark.map_or(String::new(), |dark| {
        let to = DARK_AT + dark;
        format!("outages = [{{ from = \"{} ms\", to = \"{} ms\" }}]\n", DARK_AT.as_millis(), to.as_millis())
    });
    let direction = |name, rate, queue| {
        format!("[{name}]\nrate = \"{rate} Mbit/s\"\nqueue = \"{queue} B\"\ndelay = \"{delay_ms} ms\"\n{outages}")
    };
    let (there, back) = (direction("left-to-right", 10, 812_500), direction("right-to-left", 2, 162_500));
    format!("version = \"1.0\"\nname = \"outage\"\nseed = 11\n{there}{back}")
}

pub(super) fn dark(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let times: &[u64] = if bench.long { &[5, 60] } else { &[5] };
    for dark in times.iter().copied().map(Duration::from_secs) {
        measure(bench, progress, row, dark, false)?;
        measure(bench, progress, row, dark, true)?;
    }
    row.notes.push("30 min dark: in simulation only".to_owned());
    Ok(())
}

fn measure(bench: &Bench, progress: &Progress, row: &mut Row, dark: Duration, beyond: bool) -> Result<()> {
    let one_way = RTT.as_millis() / 2;
    let (media, hops) = if beyond {
        let hop = Hop { delay: RTT / 4, ..Hop::capped(10_000_000, 2_000_000, 0) };
        (vec![Some(profile(one_way / 2, None)), Some(profile(one_way - one_way / 2, Some(dark)))], vec![hop; 2])
    } else {
        (vec![Some(profile(one_way, Some(dark)))], vec![Hop::capped(10_000_000, 2_000_000, 325)])
    };
    let far = hops.len();
    let name = format!("{} s dark{}", dark.as_secs(), if beyond { " beyond a relay" } else { "" });
    let mut stage = Stage::new(&bench.emulator, media)?;
    // The schedule of the last hop counts from about here: emulators start in order.
    let ready = stage.emulate()?;
    let (down, up) = (ready + DARK_AT, ready + DARK_AT + dark);
    let mut line = Line::start(&bench.program, &stage, &hops, &[far])?;
    line.connected()?;
    let began = Instant::now();
    let early = down.saturating_duration_since(began);
    ensure!(early > 4 * RTT, "the nodes took too long to start: {early:?} before the link goes dark");
    let file = Sending::write(stage.folder(), &line.inbox(far), 0, 20 * MB)?;
    let mut client = line.client(0)?;
    client.send_file(line.name(far), file.id, &file.from)?;
    let (from, to) = stage.last_ear();
    let sampler = Sampler::start(from, to)?;
    let sampling = Instant::now();

    let (files, over, mut grown) = ([file], AtomicBool::new(false), Vec::new());
    let phase = if beyond { "beyond" } else { "near" };
    let (arrivals, (said, before)) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            line::watch_until(&files, began, LIMIT, progress, |files| {
                let bytes = files[0].arrived();
                if bytes > seen {
                    seen = bytes;
                    grown.push(Instant::now());
                }
                files[0].done() || over.load(Ordering::Relaxed)
            })
        });
        let commanded = said_in_the_dark(&line, &mut client, (far, phase), (down, up), progress);
        if commanded.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        let arrivals = watcher.join().map_err(|_| anyhow!("the watcher panicked"))?;
        anyhow::Ok((arrivals?, commanded?))
    })?;
    let samples = sampler.finish()?;
    let after = client.status()?.peers.first().context("no peer")?.clone();

    let trips = |at: Instant| (at.saturating_duration_since(up)).as_secs_f64() / RTT.as_secs_f64();
    let seen = third_frame(&samples, up.saturating_duration_since(sampling)).map(|at| sampling + at);
    let seen = seen.context("nothing came after link-up")?;
    row.at_most(format!("{name}: first new bytes at the far node after link-up"), "round trips", trips(seen), 2.0);
    // What was under way when the link went dark had arrived long before.
    let first = grown.into_iter().find(|at| *at > up).map_or(f64::INFINITY, trips);
    row.at_most(format!("{name}: first new byte in order after link-up"), "round trips", first, 2.1);
    let more = |name| peer_counter(&after, name) as f64 - peer_counter(&before, name) as f64;
    let window = peer_counter(&before, "quic_cwnd_bytes").max(1) as f64;
    let again = more("quic_lost_bytes") / window;
    row.at_most(format!("{name}: sent again"), "of the window at link-down", again, 1.0);
    row.at_most(format!("{name}: connections lost"), "", more("connections_lost"), 0.0);
    let all = heard(&line.inbox(far), phase)?;
    let in_order = all.windows(2).all(|pair| pair[0].number < pair[1].number);
    let lost = said.abs_diff(all.len()) as f64;
    row.at_most(format!("{name}: of {said} commands said in the dark, lost or twice"), "", lost, 0.0);
    row.at_most(format!("{name}: files that differ"), "", f64::from(u8::from(!same(&files[0])?)), 0.0);
    if !in_order {
        row.notes.push(format!("{name}: commands arrived in another order than they were said"));
    }
    row.goodput_curve(name, &arrivals.curves[0], WINDOW_S);
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(())
}

/// Commands while the link is dark, until they are acknowledged: how many, and the sender's counters as it went dark.
fn said_in_the_dark(
    line: &Line,
    client: &mut Client,
    (far, phase): (usize, &'static str),
    (down, up): (Instant, Instant),
    progress: &Progress,
) -> Result<(usize, PeerStatus)> {
    let wait = |until: Instant| line::pause(until.saturating_duration_since(Instant::now()), progress, "outage");
    wait(down - Duration::from_millis(200))?;
    let before = client.status()?.peers.first().context("no peer")?.clone();
    wait(down + Duration::from_secs(1))?;
    let pace = Pace { at_most: COMMANDS, ..Pace::each(Duration::from_millis(150)) };
    let commander = Commander::begin(line.home(0), line.name(far), phase, pace)?;
    wait(up)?;
    Ok((commander.finish_all(Deadline::after(Duration::from_secs(60)))?, before))
}

/// When the third full frame since `up` had come.
fn third_frame(samples: &[Sample], up: Duration) -> Option<Duration> {
    let before = samples.iter().rev().find(|sample| sample.at <= up)?.bytes;
    Some(samples.iter().find(|sample| sample.at > up && sample.bytes >= before + THIRD_FRAME_BYTES)?.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_frame_is_found_behind_liveness() {
        let at = |ms, bytes| Sample { at: Duration::from_millis(ms), bytes };
        let samples = [at(0, 9000), at(10, 9000), at(20, 9200), at(30, 10_800), at(40, 12_300), at(50, 13_800)];
        assert_eq!(third_frame(&samples, Duration::from_millis(15)), Some(Duration::from_millis(50)));
        assert_eq!(third_frame(&samples[..5], Duration::from_millis(15)), None);
    }

    #[test]
    fn profiles_are_valid() {
        for dark in [None, Some(Duration::from_secs(5))] {
            let path = std::path::Path::new("outage.toml");
            florelay::config::profile::compile(path, &profile(325, dark)).unwrap();
        }
    }
}
