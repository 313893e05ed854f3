//! 18: three hops, small and large frames, and frames with wrong labels.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use florelay_e2e::Deadline;
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::eth::{ETH_BYTES, MacAddr};
use florelay_wire::link::{PATH_HEADER_BYTES, write_path_header};
use florelay_wire::mpls::{Label, Lse, Tc};
use florelay_wire::outer::{NextHop, OuterTemplate};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

use super::client::{Commander, Pace, Sending, heard};
use super::config::{Hop, PORT, labels};
use super::figures::Row;
use super::line::{self, Line, link_counter};
use super::progress::Progress;
use super::stage::{Stage, TO_LEFT};
use super::{Bench, MB, same};

const FAR: usize = 3;
const RATE_BPS: u64 = 50_000_000;
/// Of each wrong kind.
const WRONG: u64 = 5;
const BODY_BYTES: usize = 60;
const COMMANDS: usize = 300;
const SIZES: [usize; 6] = [64, 200, 512, 900, 1200, 1500];

pub(super) fn switched(bench: &Bench, progress: &Progress, row: &mut Row) -> Result<()> {
    let profile = || Some(include_str!("../../profiles/18-label-hops.toml").to_owned());
    let mut stage = Stage::new(&bench.emulator, vec![profile(), profile(), profile()])?;
    stage.emulate()?;
    let hops = [Hop::capped(RATE_BPS, RATE_BPS, 1); FAR];
    let mut line = Line::start(&bench.program, &stage, &hops, &[FAR])?;
    line.connected()?;
    // Before both ends run, some frames come through the kernel's socket, out of order.
    let reordered_before = reordered(&stage, &line)?;
    let file = Sending::write(stage.folder(), &line.inbox(FAR), 0, bench.either(20, 100) * MB)?;
    let began = Instant::now();
    line.client(0)?.send_file(line.name(FAR), file.id, &file.from)?;
    let pace = Pace { interval: Duration::from_millis(10), sizes: SIZES.to_vec(), at_most: COMMANDS };
    let commander = Commander::begin(line.home(0), line.name(FAR), "sizes", pace)?;
    let before = line.client(1)?.status()?;
    inject(&stage)?;
    let files = [file];
    let arrivals = line::watch(&files, began, Duration::from_secs(600), progress)?;
    let said = commander.finish_all(Deadline::after(Duration::from_secs(60)))?;
    row.shown("goodput of the file", "Mbit/s", files[0].size as f64 * 8.0 / arrivals.seconds / 1e6);
    row.commands("64 to 1500 B", said, &heard(&line.inbox(FAR), "sizes")?, None);
    row.at_most("files that differ", "", f64::from(u8::from(!same(&files[0])?)), 0.0);
    row.at_most("frames out of order, all hops", "", (reordered(&stage, &line)? - reordered_before) as f64, 0.0);
    let after = line.client(1)?.status()?;
    let link = |status: &florelay_dataplane::ipc::Status| {
        status.links.iter().find(|link| link.name == TO_LEFT).cloned().context("station 1 has no such link")
    };
    let (before, after) = (link(&before)?, link(&after)?);
    let kinds = [("bad label", "unknown_label"), ("TTL", "ttl_expired"), ("backward label", "backward_mismatch")];
    for (name, reason) in kinds {
        let count = |link| link_counter(link, &format!("drop_{reason}"));
        let counted = (count(&after) - count(&before)) as f64;
        row.at_least(format!("{name}: {WRONG} frames counted as {reason}"), "", counted, WRONG as f64);
    }
    line.stop()?;
    row.emulators.extend(stage.still()?);
    Ok(())
}

/// Frames out of order on all links, by their sequence numbers.
fn reordered(stage: &Stage, line: &Line) -> Result<u64> {
    let of = |station| -> Result<u64> {
        let status = line.client(station)?.status()?;
        Ok(status.links.iter().map(|link| link_counter(link, "rx_reordered")).sum())
    };
    (0..stage.stations()).map(of).sum()
}

/// Whole IP packets from station 0's address to station 1: an unknown label, one whose time is up, a foreign backward label.
fn inject(stage: &Stage) -> Result<()> {
    let raw = || Ok(socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?);
    let socket = stage.station(0).enter(raw)?;
    let [src, dst] = [0, 1].map(|end| SocketAddr::from((stage.address(0, end), PORT)));
    // The kernel writes the Ethernet header itself.
    let hop = NextHop { src_mac: MacAddr([0; 6]), dst_mac: MacAddr([0; 6]), vlan: None, src, dst };
    let template = OuterTemplate::new(&hop).context("addresses of two families")?;
    let (forward, backward) = labels(0, 0);
    for (forward, backward, ttl) in [(999_999, backward, 64), (forward, backward, 1), (forward, 999_999, 64)] {
        let payload = frame(forward, backward, ttl).context("a frame that cannot be written")?;
        let mut header = vec![0; template.header_len()];
        template.write(&mut header, &payload, 0, 1).context("a header that cannot be written")?;
        for _ in 0..WRONG {
            sendto(&socket, &[&header[ETH_BYTES..], &payload].concat(), SendFlags::empty(), &dst)?;
        }
    }
    Ok(())
}

fn frame(forward: u32, backward: u32, ttl: u8) -> Option<Vec<u8>> {
    let lse = |label, bottom, ttl| Some(Lse { label: Label::new(label)?, tc: Tc::BULK, bottom, ttl });
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 7 };
    let mut frame = vec![0x40; PATH_HEADER_BYTES + BODY_BYTES];
    write_path_header(&mut frame, lse(forward, false, ttl)?, lse(backward, true, 255)?, cw)?;
    Some(frame)
}
