//! Runs inside the guest: does the shape of `dataplane/xsk` hold on real drivers? One worker, one UMEM shared over two NICs of two queues
//! each, zero-copy; frames forwarded in place both ways; next hops from rtnetlink; sockets recycled. See `topology.rs` for the drawing and
//! `vm-tests/README.md` for how it is started.

#![forbid(unsafe_code)]

mod checks;
mod forward;
mod next_hop;
mod topology;
mod traffic;

use std::fs;
use std::net::{SocketAddrV4, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use florelay_dataplane::attach::{Attachment, Mode, OBJECT};
use florelay_dataplane::netlink::NextHop;
use florelay_wire::maps::{SteerKey, SteerValue};
use florelay_xsk::BindMode;

use crate::checks::Checks;
use crate::forward::Worker;
use crate::next_hop::NextHops;
use crate::topology::{LINKS, MAX_QUEUES, PORT};
use crate::traffic::{Macs, Received};

/// Frames in each direction.
const FRAMES: u32 = 4000;

/// How long a link may take to run again after a reset, and a neighbour to answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut checks = Checks::default();
    let attempt = queues().and_then(|queues| run(&mut checks, queues));
    if let Err(why) = attempt {
        checks.fail("spike-owner", format!("{why:#}"));
    }
    if checks.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Queues of each NIC: the only argument.
fn queues() -> Result<usize> {
    let argument = std::env::args().nth(1).context("usage: spike-owner QUEUES")?;
    let queues = argument.parse().context("QUEUES is no number")?;
    if !(1..=MAX_QUEUES).contains(&queues) {
        bail!("{queues} queues; 1 to {MAX_QUEUES} are served here");
    }
    Ok(queues)
}

fn run(checks: &mut Checks, queues: usize) -> Result<()> {
    // The kernel's own sockets on the steered ports: they keep others off and carry the probe that provokes resolution.
    let held = [hold(0)?, hold(1)?];
    let mut worker = Worker::new()?;
    // The order of the daemon: attach, then bind. Binding fills first, because igb takes its buffers when it sets a ring up; on 6.18, with
    // an interrupt for each direction, nothing that user space can call makes it look at the fill ring again.
    let mut attachments = attach(checks, &mut worker)?;
    open_all(checks, &mut worker, queues)?;
    register(&mut worker, &mut attachments)?;
    checks.check("copy-mode-cannot-share", worker.copy_mode_refused(), "a copy socket was let into a zero-copy UMEM");
    wait_running(checks, "after-bind")?;

    let next_hops = NextHops::follow(held)?;
    let start = Instant::now();
    let hops = next_hops.both(PATIENCE)?;
    checks.figure("next-hops-ms", start.elapsed().as_millis());
    for (link, hop) in hops.iter().enumerate() {
        // The MACs that the harness gave the NICs (qemu.rs): the kernel's answer must be these.
        let expected = |side| [0x52, 0x54, 0x00, 0xf1, u8::try_from(link).unwrap_or(0xff), side];
        let right = (hop.src_mac.0, hop.dst_mac.0) == (expected(0), expected(1));
        checks.check(&format!("next-hop-{}", LINKS[link].interface), right, format!("{hop:?}"));
        worker.set_next_hop(link, hop)?;
    }

    both_ways(checks, &mut worker, &hops, "")?;
    report(checks, &mut worker, &attachments, queues)?;

    // Every socket closed and opened again while the program stays attached: what a watchdog does.
    let start = Instant::now();
    let modes = worker.reopen()?;
    checks.figure("reopen-all-ms", start.elapsed().as_millis());
    checks.check("reopen-zero-copy", modes.iter().all(|mode| *mode == BindMode::ZeroCopy), format!("{modes:?}"));
    register(&mut worker, &mut attachments)?;
    wait_running(checks, "after-reopen")?;
    let recycled = one_way(checks, &mut worker, &hops, (0, 1), "-recycled")?;
    verdict(checks, &worker, &recycled, "p0a-to-p1a-recycled");

    // The program replaced under bound sockets, which makes the driver set up its rings with the fill rings as they are.
    for attachment in attachments {
        attachment.detach()?;
    }
    let attachments = attach(checks, &mut worker)?;
    wait_running(checks, "after-attach-again")?;
    both_ways(checks, &mut worker, &hops, "-attached-again")?;

    drop(worker);
    for attachment in attachments {
        attachment.detach()?;
    }
    Ok(())
}

fn hold(link: usize) -> Result<UdpSocket> {
    let local = SocketAddrV4::new(LINKS[link].local, PORT);
    UdpSocket::bind(local).with_context(|| format!("cannot hold {local}"))
}

fn open_all(checks: &mut Checks, worker: &mut Worker, queues: usize) -> Result<()> {
    for (link, place) in LINKS.iter().enumerate() {
        for queue in 0..queues {
            let start = Instant::now();
            let mode = worker.open(link)?.bound_mode()?;
            let name = format!("{}-q{queue}", place.interface);
            checks.figure(&format!("bind-{name}"), format!("{mode} in {} ms", start.elapsed().as_millis()));
            checks.check(&format!("zero-copy-{name}"), mode == BindMode::ZeroCopy, format!("the kernel says {mode}"));
        }
    }
    Ok(())
}

/// Attaches the program to both interfaces and gives it the sockets.
fn attach(checks: &mut Checks, worker: &mut Worker) -> Result<Vec<Attachment>> {
    let mut attachments = Vec::new();
    for (number, link) in (0_u16..).zip(&LINKS) {
        let start = Instant::now();
        let mut attachment = Attachment::attach(link.interface, "spike", Mode::Native, OBJECT)?;
        let key = SteerKey { vlan: 0, port: PORT, address: link.local.into() };
        attachment.set_steering(&[(key, SteerValue { link: number, flags: 0 })])?;
        checks.figure(&format!("attach-{}-ms", link.interface), start.elapsed().as_millis());
        attachments.push(attachment);
    }
    register(worker, &mut attachments)?;
    Ok(attachments)
}

fn register(worker: &mut Worker, attachments: &mut [Attachment]) -> Result<()> {
    for socket in worker.parts().1 {
        let (interface, queue) = (socket.options().interface.clone(), socket.options().queue);
        for attachment in attachments.iter_mut().filter(|attachment| attachment.interface() == interface) {
            attachment.register_socket(queue, socket.fd())?;
        }
    }
    Ok(())
}

/// Attaching XDP resets igb: what is sent before the link runs again vanishes.
fn wait_running(checks: &Checks, when: &str) -> Result<()> {
    let start = Instant::now();
    for link in &LINKS {
        let path = format!("/sys/class/net/{}/operstate", link.interface);
        while fs::read_to_string(&path)?.trim() != "up" {
            if start.elapsed() > PATIENCE {
                bail!("{} does not run {when}", link.interface);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    checks.figure(&format!("running-{when}-ms"), start.elapsed().as_millis());
    Ok(())
}

/// Traffic left to right, then right to left.
fn both_ways(checks: &mut Checks, worker: &mut Worker, hops: &[NextHop; 2], suffix: &str) -> Result<()> {
    for way in [(0, 1), (1, 0)] {
        let received = one_way(checks, worker, hops, way, suffix)?;
        let name = format!("{}-to-{}{suffix}", LINKS[way.0].interface, LINKS[way.1].interface);
        verdict(checks, worker, &received, &name);
    }
    Ok(())
}

fn one_way(
    checks: &mut Checks,
    worker: &mut Worker,
    hops: &[NextHop; 2],
    (from, to): (usize, usize),
    suffix: &str,
) -> Result<Received> {
    let name = format!("{}-to-{}{suffix}", LINKS[from].interface, LINKS[to].interface);
    let macs = Macs { node: hops[to].src_mac, peer: hops[to].dst_mac };
    let start = Instant::now();
    let mut worked = Ok(());
    let received = traffic::run(&LINKS[from], &LINKS[to], macs, FRAMES, |stop| {
        worked = worker.run(stop);
    })?;
    worked?;
    let seconds = start.elapsed().as_secs_f64();
    checks.figure(&format!("forward-{name}"), format!("{} of {FRAMES} frames in {seconds:.1} s", received.good));
    Ok(received)
}

fn verdict(checks: &mut Checks, worker: &Worker, received: &Received, name: &str) {
    checks.check(&format!("all-frames-{name}"), received.good == FRAMES, format!("{} of {FRAMES}", received.good));
    checks.check(&format!("no-frame-twice-{name}"), received.twice == 0, received.twice);
    checks.check(&format!("every-frame-right-{name}"), received.wrong.is_empty(), received.wrong.join("; "));
    let (running, counted) = worker.accounts();
    let sum = counted.free + counted.fill + counted.held + counted.tx + counted.quarantined + counted.leaked;
    let at_rest = counted.held + counted.tx + counted.quarantined + counted.leaked == 0;
    let whole = running == counted && sum == counted.total && at_rest;
    checks.check(&format!("conservation-{name}"), whole, format!("running {running:?}, counted {counted:?}"));
}

fn report(checks: &mut Checks, worker: &mut Worker, attachments: &[Attachment], queues: usize) -> Result<()> {
    let counts = worker.counts;
    for (link, by_queue) in LINKS.iter().zip(counts.received) {
        checks.figure(&format!("received-{}", link.interface), format!("{by_queue:?}"));
        let spread = by_queue[..queues].iter().all(|frames| *frames > 0);
        checks.check(&format!("every-queue-{}", link.interface), spread, format!("{by_queue:?}"));
    }
    let received: u64 = counts.received.iter().flatten().sum();
    let forwarded: u64 = counts.forwarded.iter().sum();
    checks.check("in-place", counts.moved == 0 && forwarded == 2 * u64::from(FRAMES), format!("{counts:?}"));
    let whole = received == forwarded + counts.refused && counts.overrun == 0;
    checks.check("nothing-lost-inside", whole, format!("{counts:?}"));

    let (umem, sockets) = worker.parts();
    let counters = umem.counters();
    // The UMEM takes a completion only for a chunk that is on that very socket's TX ring, and that chunk came from the other NIC.
    let clean = counters == florelay_xsk::UmemCounters::default();
    checks.check("kernel-names-our-frames", clean, format!("{counters:?}"));
    for socket in sockets {
        let name = format!("{}-q{}", socket.options().interface, socket.options().queue);
        let said = socket.statistics()?;
        let clean = said.rx_dropped + said.rx_invalid_descs + said.tx_invalid_descs + said.rx_ring_full == 0;
        checks.check(&format!("kernel-drops-nothing-{name}"), clean, format!("{said:?}"));
        let (sent, kicks, wakes) = (socket.tx().counters().frames, socket.tx().kicks(), socket.fill().wakes());
        let figure = format!("{sent} frames sent, {} kicks ({} busy), {wakes} wakes", kicks.calls, kicks.busy);
        checks.figure(&format!("syscalls-{name}"), figure);
    }
    for attachment in attachments {
        checks.figure(&format!("outcomes-{}", attachment.interface()), format!("{:?}", attachment.counters()?));
    }
    Ok(())
}
