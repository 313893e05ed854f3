//! 14: the link is dark, and a program writes as fast as it can until the spool is full.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use florelay_e2e::Deadline;

use super::client::{Commander, Pace, Sending, heard};
use super::config::Hop;
use super::figures::Row;
use super::kills::{listen, said, stream};
use super::line::{self, Line, node_counter};
use super::progress::Progress;
use super::stage::Stage;
use super::{Bench, MB, outage, same};
use crate::node_config::Store;

const DARK_FOR: Duration = Duration::from_secs(30);
/// `stream-disk-spool` and `disk-spool` of both nodes.
const DISK_BYTES: u64 = 16 << 20;
/// More than any place on the way takes: the disk, `stream-spool`, the command's window, pipes.
const STREAM_BYTES: u64 = 60 * MB;
/// What the way takes beside the disk: 16 MiB of the command's that are not accepted, and pipes.
const BESIDE_BYTES: u64 = (16 << 20) + (2 << 20);
/// A program that has written nothing for so long is held back.
const HELD_FOR: Duration = Duration::from_secs(3);
const COMMANDS: usize = 20;
const PHASE: &str = "full";

pub(super) fn held_back(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let mut stage = Stage::new(&bench.emulator, vec![Some(outage::profile(325, Some(DARK_FOR)))])?;
    let ready = stage.emulate()?;
    let (down, up) = (ready + outage::DARK_AT, ready + outage::DARK_AT + DARK_FOR);
    let store = Store { disk_spool: Some(format!("{DISK_BYTES} B")), ..Store::default() };
    let hops = [Hop::capped(10_000_000, 2_000_000, 325)];
    let mut line = Line::start_with(&bench.program, &stage, &hops, &[1], &store)?;
    line.connected()?;
    ensure!(Instant::now() < down, "the nodes took too long to start");
    let processes = || [0, 1].map(|index| line.node(index).process("dataplane").map(|process| process.pid));
    let before = processes();
    let source = Sending::write(stage.folder(), &line.inbox(1), 0, STREAM_BYTES)?;
    let whole = stage.folder().join("stream.received");
    let mut listener = listen(&bench.program, &line, &whole)?;
    let wait = |until: Instant| line::pause(until.saturating_duration_since(Instant::now()), progress, "spool full");
    wait(down + Duration::from_secs(1))?;

    let mut writer = stream(&bench.program, &line, Stdio::piped())?;
    let mut pipe = writer.stdin.take().context("its input is a pipe")?;
    let bytes = std::fs::read(&source.from)?;
    let written = AtomicU64::new(0);
    let (said_commands, held, full, disk) = std::thread::scope(|scope| {
        let program = scope.spawn(|| {
            for piece in bytes.chunks(64 << 10) {
                pipe.write_all(piece)?;
                written.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            drop(pipe);
            anyhow::Ok(())
        });
        let watched = || {
            let (mut held, mut since) = (0, Instant::now());
            while since.elapsed() < HELD_FOR || held == 0 {
                ensure!(Instant::now() < up, "the program was not held back before the link came back");
                let now = written.load(Ordering::Relaxed);
                if now > held {
                    (held, since) = (now, Instant::now());
                }
                wait(Instant::now() + Duration::from_millis(50))?;
            }
            let status = line.client(0)?.status()?;
            let (full, disk) = (node_counter(&status, "spool_full_streams"), node_counter(&status, "spool_disk_bytes"));
            let pace = Pace { at_most: COMMANDS, ..Pace::each(Duration::from_millis(100)) };
            let commander = Commander::begin(line.home(0), line.name(1), PHASE, pace)?;
            wait(up)?;
            let said_commands = commander.finish_all(Deadline::after(Duration::from_secs(60)))?;
            anyhow::Ok((said_commands, held, full, disk))
        };
        let seen = watched();
        if seen.is_err() {
            // So that the program does not wait for ever. It may have ended.
            let _ = writer.kill();
        }
        let ended = program.join().map_err(|_| anyhow!("the program panicked"))?;
        let seen = seen?;
        ended?;
        anyhow::Ok(seen)
    })?;
    for (what, child) in [("stream", &mut writer), ("listen", &mut listener)] {
        let status = child.wait()?;
        ensure!(status.success(), "{what} ended with {status}: {}", said(stage.folder(), what));
    }
    row.at_least("written until the program was held back", "MB", held as f64 / 1e6, DISK_BYTES as f64 / 1e6);
    let most = (DISK_BYTES + BESIDE_BYTES) as f64 / 1e6;
    row.at_most("the same", "MB", held as f64 / 1e6, most);
    row.at_most("on the disk then", "MB", disk as f64 / 1e6, DISK_BYTES as f64 / 1e6);
    row.at_least("streams that the status calls held back", "", full as f64, 1.0);
    let lost = said_commands.abs_diff(heard(&line.inbox(1), PHASE)?.len()) as f64;
    row.at_most(format!("of {said_commands} commands said meanwhile, lost or twice"), "", lost, 0.0);
    row.at_most("processes that were started again", "", f64::from(u8::from(processes() != before)), 0.0);
    let received = Sending { whole, ..source };
    row.at_most("streams that differ", "", f64::from(u8::from(!same(&received)?)), 0.0);
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(())
}
