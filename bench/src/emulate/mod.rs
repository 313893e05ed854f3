//! The link emulator: a process between two interfaces that does to every frame what a profile says.
//!
//! ```text
//!   station A ═ veth ═╗                                              ╔═ veth ═ station B
//!                   LEFT ─► AF_XDP ─► Direction (the model) ─► AF_XDP ─► RIGHT
//!                        ◄─ AF_XDP ◄─ Direction (the model) ◄─ AF_XDP ◄─
//! ```
//!
//! One thread. An XDP program on both interfaces diverts every frame, whatever its protocol (ARP, IPv6 ND, …), into AF_XDP
//! sockets; nothing goes around. A frame is copied out of the ring when it is seen, offered to the model of its direction
//! ([`florelay_impair`]), and copied into the other interface's ring when it is due. The thread sleeps in `poll` until a
//! frame comes or is due. The program goes away with the process, however it ends.
//!
//! Both interfaces are in the network namespace in which the process runs; their far ends are wherever the stations are.
//! Rates are bits at layer 2 without FCS. Schedules count from the moment at which the emulator says that it is ready.
//!
//! Memory is bounded by each direction's queue and rate × longest delay; without a rate by a number of frames
//! ([`direction::FRAMES_WITHOUT_RATE`]). Frames that find no memory are counted as such.
//!
//! Limits
//! - Copy mode: veth has no other, and the model's copy would undo zero-copy.
//! - Frames up to 3.8 KB: single-buffer XDP. A sender that hands segments to its interface (TSO) is stopped from it by the
//!   kernel when a driver-mode program comes to the far end of its veth.
//! - A frame of a kernel socket can cross a veth with an unfinished checksum: `ethtool -K IFACE tx off` at the stations.
//! - The kernel's own neighbour discovery on LEFT and RIGHT is not suppressed: `ip link set IFACE addrgenmode none`.
//! - When a frame is seen depends on when the kernel runs this process: on a machine without a free core delays grow by
//!   what it waits. The report's `late` says by how much.

pub mod child;
pub mod direction;
pub mod report;
mod side;
pub mod sustain;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use florelay::config::profile::Profile;
use florelay_impair::Nanos;
use florelay_xsk::Umem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::direction::Direction;
use self::report::Report;
use self::side::Side;

/// Frames taken from one interface in a turn.
const BURST_FRAMES: usize = 64;
/// Longest sleep, so that a signal that came just before it is not missed for long.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// A shorter wait is not worth a system call.
const SPIN_BELOW: Duration = Duration::from_micros(10);
/// Housekeeping of the UMEM.
const HOUSEKEEPING: Duration = Duration::from_millis(10);
/// Of this thread, so that `poll` returns when it was asked to (prctl(2), PR_SET_TIMERSLACK; 50 µs otherwise).
const TIMER_SLACK_NS: u64 = 1;
/// Asked of the scheduler; granted to root.
const NICE: i32 = -15;

/// What to emulate, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the link is like.
    pub profile: Profile,
    /// Interface of the left side.
    pub left: String,
    /// Interface of the right side.
    pub right: String,
    /// Core to stay on.
    pub core: Option<usize>,
}

/// Emulates until `stop` is set. `ready` is called once, when frames pass.
///
/// The report comes also when an interface fails meanwhile; it then says so.
///
/// # Errors
/// An interface is not there, or has no AF_XDP; no root.
pub fn run(options: &Options, stop: &Arc<AtomicBool>, ready: impl FnOnce(&str)) -> Result<Report> {
    if let Some(core) = options.core {
        crate::bed::pin(core)?;
    }
    // Both only help.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS));
    let _ = rustix::process::setpriority_process(None, NICE);

    let mut umem = Umem::new(side::umem_options()).context("memory for frames")?;
    let left = Side::open(&options.left, &mut umem)?;
    let right = Side::open(&options.right, &mut umem)?;
    ready(&format!("{} on {} and {} on {}", left.mode(), options.left, right.mode(), options.right));
    let profile = &options.profile;
    let mut emulator = Emulator {
        directions: [
            Direction::new(profile.left_to_right.clone(), profile.seed.wrapping_mul(2)),
            Direction::new(profile.right_to_left.clone(), profile.seed.wrapping_mul(2).wrapping_add(1)),
        ],
        sides: [left, right],
        umem,
        epoch: Instant::now(),
    };
    let failed = emulator.run(stop).err().map(|error| format!("{error:#}"));
    let elapsed = emulator.epoch.elapsed();
    let [left_to_right, right_to_left] = emulator.directions.each_ref().map(Direction::report);
    let Emulator { sides, mut umem, .. } = emulator;
    let [left, right] = sides.map(|side| side.close(&mut umem));
    Ok(Report {
        profile: profile.name.clone(),
        about: profile.about.clone(),
        seed: profile.seed,
        left: left.with_name(&options.left),
        right: right.with_name(&options.right),
        elapsed_ns: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
        failed,
        left_to_right,
        right_to_left,
    })
}

struct Emulator {
    /// Left, right.
    sides: [Side; 2],
    /// From the left, from the right.
    directions: [Direction; 2],
    umem: Umem,
    epoch: Instant,
}

impl Emulator {
    fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        let mut housekeeping = Nanos::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let work = self.turn()?;
            let now = self.now();
            if now >= housekeeping {
                housekeeping = now + HOUSEKEEPING;
                self.umem.housekeeping(now.0);
            }
            if !work {
                self.sleep(now)?;
            }
        }
        // What is due by now still goes; what is under way is reported as such.
        self.turn().map(drop)
    }

    fn now(&self) -> Nanos {
        Nanos::ZERO + self.epoch.elapsed()
    }

    /// Take what has come, send what is due. Says whether anything moved.
    fn turn(&mut self) -> Result<bool> {
        let mut work = false;
        let Self { sides, directions, umem, epoch } = self;
        let clock = || Nanos::ZERO + epoch.elapsed();
        for (side, direction) in sides.iter_mut().zip(directions.iter_mut()) {
            work |= side.receive(umem, BURST_FRAMES, clock, |now, frame| direction.offer(now, frame)) > 0;
        }
        let now = clock();
        let [left, right] = sides;
        for (side, direction) in [right, left].into_iter().zip(directions.iter_mut()) {
            let sent = direction.release(now, |frame| side.send(umem, frame));
            side.kick(now.0)?;
            work |= sent > 0;
        }
        Ok(work)
    }

    fn sleep(&mut self, now: Nanos) -> Result<()> {
        let due = self.directions.iter().filter_map(Direction::next_due).min();
        let wait = due.map_or(SLEEP_MAX, |due| (due - now).min(SLEEP_MAX));
        if wait < SPIN_BELOW {
            return Ok(());
        }
        let fds = self.sides.iter().flat_map(Side::fds);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let limit = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("poll"),
        }
    }
}
