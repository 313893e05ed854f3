//! Runs inside the guest: does the shape of `dataplane/xsk` hold on real drivers? One worker, one UMEM shared over two NICs of two queues
//! each, zero-copy; frames forwarded in place both ways; next hops from rtnetlink. See `topology.rs` for the drawing and
//! `vm-tests/README.md` for how it is started.

#![forbid(unsafe_code)]

mod checks;
mod forward;
mod next_hop;
mod topology;
mod traffic;

use std::fs;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use florelay_dataplane::attach::{Attachment, Mode, OBJECT};
use florelay_wire::maps::{SteerKey, SteerValue};
use florelay_xsk::BindMode;

use crate::checks::Checks;
use crate::forward::Worker;
use crate::next_hop::NextHop;
use crate::topology::{LINKS, PORT, QUEUES};
use crate::traffic::Macs;

/// Frames in each direction.
const FRAMES: u32 = 4000;

/// How long a link may take to run again after a reset, and a neighbour to answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut checks = Checks::default();
    if let Err(why) = run(&mut checks) {
        checks.fail("spike-owner", format!("{why:#}"));
    }
    if checks.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(checks: &mut Checks) -> Result<()> {
    // The kernel's own sockets on the steered ports: they keep others off and carry the probe that provokes resolution.
    let held = [hold(0)?, hold(1)?];
    let mut attachments = [attach(checks, 0)?, attach(checks, 1)?];

    let mut worker = Worker::new()?;
    open_all(checks, &mut worker, &mut attachments)?;
    checks.check("copy-mode-cannot-share", worker.copy_mode_refused(), "a copy socket was let into a zero-copy UMEM");
    wait_running(checks, "after-bind")?;

    let hops = [resolve(checks, 0, &held[0])?, resolve(checks, 1, &held[1])?];
    worker.set_next_hop(0, hops[0])?;
    worker.set_next_hop(1, hops[1])?;

    both_ways(checks, &mut worker, hops, "")?;
    report(checks, &mut worker, &attachments)?;

    // Everything closed and opened again at once: the UMEM survives its sockets.
    let start = Instant::now();
    let modes = worker.reopen()?;
    checks.figure("reopen-all-ms", start.elapsed().as_millis());
    checks.check("reopen-zero-copy", modes.iter().all(|mode| *mode == BindMode::ZeroCopy), format!("{modes:?}"));
    register(&mut worker, &mut attachments)?;
    wait_running(checks, "after-reopen")?;
    both_ways(checks, &mut worker, hops, "-reopened")?;
    conservation(checks, &worker, "conservation-reopened");

    drop(worker);
    for attachment in attachments {
        attachment.detach()?;
    }
    Ok(())
}

fn hold(link: usize) -> Result<UdpSocket> {
    let local = SocketAddrV4::new(LINKS[link].local, PORT);
    let socket = UdpSocket::bind(local).with_context(|| format!("cannot hold {local}"))?;
    Ok(socket)
}

fn attach(checks: &mut Checks, link: usize) -> Result<Attachment> {
    let link = &LINKS[link];
    let start = Instant::now();
    let mut attachment = Attachment::attach(link.interface, "spike", Mode::Native, OBJECT)?;
    let key = SteerKey { vlan: 0, port: PORT, address: link.local.into() };
    attachment.set_steering(&[(key, SteerValue { link: 0, flags: 0 })])?;
    checks.check(&format!("attach-{}", link.interface), true, "");
    checks.figure(&format!("attach-{}-ms", link.interface), start.elapsed().as_millis());
    Ok(attachment)
}

fn open_all(checks: &mut Checks, worker: &mut Worker, attachments: &mut [Attachment; 2]) -> Result<()> {
    for (link, attachment) in attachments.iter_mut().enumerate() {
        for queue in 0..QUEUES {
            let start = Instant::now();
            let socket = worker.open(link)?;
            let mode = socket.bound_mode()?;
            let name = format!("{}-q{queue}", LINKS[link].interface);
            checks.figure(&format!("bind-{name}"), format!("{mode} in {} ms", start.elapsed().as_millis()));
            checks.check(&format!("zero-copy-{name}"), mode == BindMode::ZeroCopy, format!("the kernel says {mode}"));
            attachment.register_socket(queue, socket.fd())?;
        }
    }
    Ok(())
}

fn register(worker: &mut Worker, attachments: &mut [Attachment; 2]) -> Result<()> {
    for socket in worker.parts().1 {
        let (interface, queue) = (socket.options().interface.clone(), socket.options().queue);
        for attachment in attachments.iter_mut().filter(|attachment| attachment.interface() == interface) {
            attachment.register_socket(queue, socket.fd())?;
        }
    }
    Ok(())
}

/// Attaching XDP and binding zero-copy reset igb: what is sent before the link runs again vanishes.
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

fn resolve(checks: &mut Checks, link: usize, held: &UdpSocket) -> Result<NextHop> {
    let peer = LINKS[link].peer;
    let start = Instant::now();
    // An empty datagram is no link frame; the neighbour's kernel drops it after its own ARP.
    let probe = || held.send_to(&[], SocketAddr::from((peer, PORT))).map(|_| ());
    let hop = next_hop::resolve(peer, PATIENCE, probe)?;
    let name = format!("next-hop-{}", LINKS[link].interface);
    let pair = u8::try_from(link)?;
    // The MACs that the harness gave the NICs (qemu.rs): the kernel's answer must be these.
    let expected = |side| [0x52, 0x54, 0x00, 0xf1, pair, side];
    let right = hop.own.0 == expected(0) && hop.peer.0 == expected(1);
    checks.check(&name, right, format!("{hop:?}"));
    checks.figure(&format!("{name}-ms"), start.elapsed().as_millis());
    Ok(hop)
}

/// Traffic left to right, then right to left.
fn both_ways(checks: &mut Checks, worker: &mut Worker, hops: [NextHop; 2], suffix: &str) -> Result<()> {
    for (from, to) in [(0, 1), (1, 0)] {
        let name = format!("{}-to-{}{suffix}", LINKS[from].interface, LINKS[to].interface);
        let macs = Macs { node: hops[to].own, peer: hops[to].peer };
        let start = Instant::now();
        let mut worked = Ok(());
        let received = traffic::run(&LINKS[from], &LINKS[to], macs, FRAMES, |stop| worked = worker.run(stop))?;
        checks.value(&format!("worker-{name}"), worked);
        let seconds = start.elapsed().as_secs_f64();
        checks.figure(&format!("forward-{name}"), format!("{} of {FRAMES} frames in {seconds:.1} s", received.good));
        checks.check(&format!("all-frames-{name}"), received.good == FRAMES, format!("{} of {FRAMES}", received.good));
        checks.check(&format!("no-frame-twice-{name}"), received.twice == 0, received.twice);
        checks.check(&format!("every-frame-right-{name}"), received.wrong.is_empty(), received.wrong.join("; "));
        conservation(checks, worker, &format!("conservation-{name}"));
    }
    Ok(())
}

fn conservation(checks: &mut Checks, worker: &Worker, name: &str) {
    let (running, counted) = worker.accounts();
    let sum = counted.free + counted.fill + counted.held + counted.tx + counted.quarantined + counted.leaked;
    let whole = running == counted && sum == counted.total && counted.held == 0 && counted.tx == 0 && counted.leaked == 0;
    checks.check(name, whole, format!("running {running:?}, counted {counted:?}"));
}

fn report(checks: &mut Checks, worker: &mut Worker, attachments: &[Attachment; 2]) -> Result<()> {
    let counts = worker.counts;
    for (link, by_queue) in LINKS.iter().zip(counts.received) {
        checks.figure(&format!("received-{}", link.interface), format!("{by_queue:?}"));
        let spread = by_queue.iter().all(|frames| *frames > 0);
        checks.check(&format!("both-queues-{}", link.interface), spread, format!("{by_queue:?}"));
    }
    let received: u64 = counts.received.iter().flatten().sum();
    let forwarded: u64 = counts.forwarded.iter().sum();
    checks.check("in-place", counts.moved == 0 && forwarded > 0, format!("{counts:?}"));
    checks.check("nothing-lost-inside", received == forwarded + counts.refused && counts.overrun == 0, format!("{counts:?}"));

    let (umem, sockets) = worker.parts();
    let counters = umem.counters();
    // The UMEM takes a completion only for a chunk that is on that very socket's TX ring, and that chunk came from the other NIC.
    checks.check("kernel-names-our-frames", counters == florelay_xsk::UmemCounters::default(), format!("{counters:?}"));
    for socket in sockets {
        let name = format!("{}-q{}", socket.options().interface, socket.options().queue);
        let said = socket.statistics()?;
        let clean = said.rx_dropped + said.rx_invalid_descs + said.tx_invalid_descs + said.rx_ring_full == 0;
        checks.check(&format!("kernel-drops-nothing-{name}"), clean, format!("{said:?}"));
        let kicks = socket.tx().kicks();
        checks.figure(
            &format!("syscalls-{name}"),
            format!("{} frames sent, {} kicks ({} busy), {} wakes", socket.tx().counters().frames, kicks.calls, kicks.busy, socket.fill().wakes()),
        );
    }
    for attachment in attachments {
        checks.figure(&format!("outcomes-{}", attachment.interface()), format!("{:?}", attachment.counters()?));
    }
    Ok(())
}
