//! What the emulator sustains, by its own report: numbered UDP datagrams at a pace through a link that is a little faster.
//!
//! The sender keeps its pace with the clock, in bursts of a millisecond; the emulator's `late` is the figure.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::child::{self, Emulator};
use super::report::Report;
use crate::bed::Side;
use crate::context::Machine;
use crate::middle::{LEFT, Middle, RIGHT};

/// Rates and one-way delays that are tried: (Mbit/s at layer 2, ms, payload bytes).
const CASES: [(u64, u64, usize); 5] =
    [(10, 325, 1472), (50, 325, 1472), (250, 325, 1472), (1000, 100, 1472), (50, 325, 64)];
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// Of the rate, so that the queue stays short.
const LOAD_PERCENT: u64 = 95;
const PORT: u16 = 7000;

/// One line for each case; `seconds` long each.
///
/// # Errors
/// No root; the emulator does not start or ends early.
pub fn run(seconds: u64) -> Result<String> {
    let m = Machine::look();
    let mut text = format!(
        "{}, {} CPUs, Linux {}, {} build, load {:.1} at the start; emulator under SCHED_FIFO, sender on the same machine, veth\n\n",
        m.cpu, m.cpus, m.kernel, m.build, m.load_at_start
    );
    text += "| link, one way | frame | offered | out | queue full | not seen | late p50 | p99 | p99.9 | max |\n|---|---|---|---|---|---|---|---|---|---|\n";
    for (mbps, delay_ms, payload) in CASES {
        let report = one(mbps, delay_ms, payload, Duration::from_secs(seconds))?;
        let (d, unseen) = (&report.left_to_right, report.left.rx_dropped);
        let dropped = d.dropped.queue.frames;
        text += &format!(
            "| {mbps} Mbit/s, {delay_ms} ms | {} B | {:.0}/s | {:.0}/s | {dropped} | {unseen} | {} µs | {} µs | {} µs | {} µs |\n",
            payload + HEADERS,
            d.input.frames as f64 / seconds as f64,
            (d.output.frames + d.under_way_frames) as f64 / seconds as f64,
            d.late.p50_us,
            d.late.p99_us,
            d.late.p999_us,
            d.late.max_us,
        );
    }
    Ok(text)
}

fn one(mbps: u64, delay_ms: u64, payload: usize, duration: Duration) -> Result<Report> {
    let middle = Middle::new()?;
    middle.quiet()?;
    let folder = tempfile::tempdir()?;
    let profile = folder.path().join("profile.toml");
    let text =
        format!("version = \"1.0\"\nname = \"sustain\"\n[both]\nrate = \"{mbps} Mbit/s\"\ndelay = \"{delay_ms} ms\"\n");
    std::fs::write(&profile, text)?;
    let emulator = Emulator::start(&child::Options {
        program: std::env::current_exe()?,
        namespace: Some(middle.emulator()),
        profile,
        left: LEFT.into(),
        right: RIGHT.into(),
        core: None,
        realtime: true,
        json: PathBuf::from(folder.path()).join("report.json"),
    })?;
    let socket = |side| middle.inside(side, move || Ok(UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, PORT))?));
    // Nobody reads at the far end: what its kernel drops is not this measurement's, and an ICMP answer would be.
    let (from, _to) = (socket(Side::A)?, socket(Side::B)?);
    let address = (middle.address(Side::B), PORT);
    let frames_per_s = mbps * 1_000_000 * LOAD_PERCENT / 100 / (8 * (payload + HEADERS) as u64);
    let bytes = vec![0x5a; payload];
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < duration {
        let wanted = (began.elapsed().as_nanos() * u128::from(frames_per_s) / 1_000_000_000) as u64;
        while sent < wanted {
            from.send_to(&bytes, address).context("sending")?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    emulator.stop()
}
