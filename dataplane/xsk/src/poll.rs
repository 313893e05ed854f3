//! Waiting for work: the three poll modes, and the adaptive mode's decision as a pure state machine.
//!
//! | mode | who moves the packets | cost when idle |
//! |---|---|---|
//! | adaptive (default) | interrupts; the worker spins while busy and sleeps in `poll` when idle | none |
//! | busy | the worker's own system calls run the driver (SO_PREFER_BUSY_POLL) | one core |
//! | threaded NAPI | a kernel thread per NAPI instance, on another core | none, or one core if it busy-polls |
//!
//! The worker owns the loop and the clock; this module sets options and answers "spin or sleep until when".

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::error::Error;
use crate::sys;

/// SO_BUSY_POLL: how long one system call may poll the driver, in microseconds. 64 served copy mode best where tried;
/// the kernel's documentation suggests 50 to 100 (Documentation/networking/napi.rst).
pub const BUSY_POLL_US: i32 = 64;

/// SO_BUSY_POLL_BUDGET: frames per busy poll. Equal to the NAPI budget (NAPI_POLL_WEIGHT = 64, linux/netdevice.h).
pub const BUSY_POLL_BUDGET: i32 = 64;

/// Shortest time to spin without work before sleeping, in nanoseconds: about what a sleep and a wake-up cost.
pub const SPIN_MIN_NS: u64 = 10_000;

/// Longest time to spin without work before sleeping, in nanoseconds. 200 µs is the gap of 1500-byte frames at
/// 60 Mbit/s: links slower than that may cost a wake-up per frame, faster ones not.
pub const SPIN_MAX_NS: u64 = 200_000;

/// Longest sleep, in nanoseconds: housekeeping runs at least this often.
pub const SLEEP_MAX_NS: u64 = 100_000_000;

/// Make system calls on this socket run the driver.
///
/// `prefer` also sets SO_PREFER_BUSY_POLL, which keeps interrupts off while we poll. It stalls zero-copy TX on drivers
/// with a separate TX NAPI (virtio_net, and igb with two CPUs): watch with
/// [`CompletionWatchdog`](crate::CompletionWatchdog) and step down by [`prefer_busy_poll`] when it says so.
///
/// # Errors
///
/// [`Error::Sys`]: EPERM without CAP_NET_ADMIN, ENOPROTOOPT before kernel 5.11.
pub fn busy_poll(socket: impl AsFd, prefer: bool) -> Result<(), Error> {
    let fd = socket.as_fd();
    sys::set_socket_int(fd, libc::SO_BUSY_POLL, BUSY_POLL_US).map_err(Error::sys("setsockopt(SO_BUSY_POLL)"))?;
    sys::set_socket_int(fd, libc::SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
        .map_err(Error::sys("setsockopt(SO_BUSY_POLL_BUDGET)"))?;
    prefer_busy_poll(fd, prefer)
}

/// Switch SO_PREFER_BUSY_POLL alone: off is the step down from a stall.
///
/// # Errors
///
/// As [`busy_poll`].
pub fn prefer_busy_poll(socket: impl AsFd, on: bool) -> Result<(), Error> {
    sys::set_socket_int(socket.as_fd(), libc::SO_PREFER_BUSY_POLL, i32::from(on))
        .map_err(Error::sys("setsockopt(SO_PREFER_BUSY_POLL)"))
}

/// Threaded NAPI of an interface (/sys/class/net/IF/threaded, Documentation/ABI/testing/sysfs-class-net).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadedNapi {
    /// The kernel has no such file for this interface.
    Unsupported,
    /// NAPI runs in softirq.
    Off,
    /// NAPI runs in kernel threads.
    On,
    /// NAPI runs in kernel threads that poll all the time (kernel 6.19): no system call is needed to send.
    BusyPolling,
}

/// How NAPI runs on this interface.
#[must_use]
pub fn threaded_napi(interface: &str) -> ThreadedNapi {
    match fs::read_to_string(threaded_file(interface)).as_deref().map(str::trim) {
        Ok("0") => ThreadedNapi::Off,
        Ok("1") => ThreadedNapi::On,
        Ok("2") => ThreadedNapi::BusyPolling,
        _ => ThreadedNapi::Unsupported,
    }
}

/// Switch threaded NAPI for every NAPI instance of the interface. Affects the whole interface and outlives the process.
///
/// # Errors
///
/// [`Error::Sys`]: ENOENT (no such interface, or sysfs is of another namespace), EACCES, EOPNOTSUPP (no NAPI).
pub fn set_threaded_napi(interface: &str, on: bool) -> Result<(), Error> {
    let file = threaded_file(interface);
    fs::write(&file, if on { "1" } else { "0" }).map_err(Error::sys(format!("writing {}", file.display())))
}

fn threaded_file(interface: &str) -> PathBuf {
    // An interface name holds no slash (dev_valid_name, net/core/dev.c); one that does leads to a file that is not there.
    PathBuf::from("/sys/class/net").join(interface.replace('/', "!")).join("threaded")
}

/// What the worker should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Look again at once.
    Spin,
    /// Sleep in `poll` on the sockets and wake-up descriptors, at most until this time in nanoseconds.
    Sleep(u64),
}

/// Spin while busy, sleep when idle, and learn how long waiting in between pays.
///
/// The spin time doubles when work comes soon after falling asleep (the sleep was a mistake) and halves when a whole
/// spin brought nothing and neither did a long sleep. Within [`SPIN_MIN_NS`] and [`SPIN_MAX_NS`].
#[derive(Debug, Clone, Copy)]
pub struct AdaptivePoll {
    spin_ns: u64,
    idle_since_ns: Option<u64>,
    asleep_since_ns: Option<u64>,
}

impl Default for AdaptivePoll {
    fn default() -> Self {
        Self { spin_ns: SPIN_MIN_NS * 4, idle_since_ns: None, asleep_since_ns: None }
    }
}

impl AdaptivePoll {
    /// After a turn that moved `work` frames or commands: what next? `timer_ns` is when the engine or a tail flush
    /// wants to run, if it does.
    ///
    /// Before acting on [`Decision::Sleep`], arm the wake-ups (need-wakeup flags, the gateways' rings) and look once more.
    #[must_use]
    pub fn decide(&mut self, now_ns: u64, work: usize, timer_ns: Option<u64>) -> Decision {
        if work > 0 {
            if let Some(since) = self.asleep_since_ns.take() {
                let slept = now_ns.saturating_sub(since);
                self.spin_ns = if slept <= SPIN_MAX_NS { self.spin_ns * 2 } else { self.spin_ns / 2 }
                    .clamp(SPIN_MIN_NS, SPIN_MAX_NS);
            }
            self.idle_since_ns = None;
            return Decision::Spin;
        }
        let idle_since = *self.idle_since_ns.get_or_insert(now_ns);
        let spun = now_ns.saturating_sub(idle_since) >= self.spin_ns;
        let timer_is_near = timer_ns.is_some_and(|at| at <= now_ns.saturating_add(SPIN_MIN_NS));
        if !spun || timer_is_near {
            return Decision::Spin;
        }
        self.asleep_since_ns.get_or_insert(now_ns);
        let latest = now_ns.saturating_add(SLEEP_MAX_NS);
        Decision::Sleep(timer_ns.map_or(latest, |at| at.min(latest)))
    }

    /// How long the worker spins without work now, in nanoseconds.
    #[must_use]
    pub fn spin_ns(&self) -> u64 {
        self.spin_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Idle from `from` until it decides to sleep; returns when.
    fn fall_asleep(poll: &mut AdaptivePoll, from: u64) -> u64 {
        let mut now = from;
        while poll.decide(now, 0, None) == Decision::Spin {
            now += 1_000;
            assert!(now < from + 10 * SPIN_MAX_NS, "never sleeps");
        }
        now
    }

    #[test]
    fn spins_while_there_is_work_and_a_while_after() {
        let mut poll = AdaptivePoll::default();
        for now in 0..100 {
            assert_eq!(poll.decide(now, 1, None), Decision::Spin);
        }
        assert_eq!(poll.decide(100, 0, None), Decision::Spin);
        assert_eq!(poll.decide(99 + poll.spin_ns(), 0, None), Decision::Spin);
        let at = 100 + poll.spin_ns();
        assert_eq!(poll.decide(at, 0, None), Decision::Sleep(at + SLEEP_MAX_NS));
    }

    #[test]
    fn a_timer_bounds_the_sleep_and_a_near_one_prevents_it() {
        let mut poll = AdaptivePoll::default();
        let at = fall_asleep(&mut poll, 0);
        assert_eq!(poll.decide(at, 0, Some(at + 1_000_000)), Decision::Sleep(at + 1_000_000));
        assert_eq!(poll.decide(at, 0, Some(at + SPIN_MIN_NS)), Decision::Spin);
        assert_eq!(poll.decide(at, 0, Some(0)), Decision::Spin);
    }

    #[test]
    fn learns_to_spin_longer_when_work_follows_sleep_closely() {
        let mut poll = AdaptivePoll::default();
        let mut now = 0;
        for _ in 0..10 {
            now = fall_asleep(&mut poll, now) + SPIN_MAX_NS / 2;
            assert_eq!(poll.decide(now, 1, None), Decision::Spin);
        }
        assert_eq!(poll.spin_ns(), SPIN_MAX_NS);
    }

    #[test]
    fn learns_to_sleep_sooner_when_work_is_rare() {
        let mut poll = AdaptivePoll::default();
        let mut now = 0;
        for _ in 0..10 {
            now = fall_asleep(&mut poll, now) + SLEEP_MAX_NS;
            assert_eq!(poll.decide(now, 1, None), Decision::Spin);
        }
        assert_eq!(poll.spin_ns(), SPIN_MIN_NS);
    }

    #[test]
    fn an_interface_without_napi_threads_says_so() {
        assert_eq!(threaded_napi("no-such-if"), ThreadedNapi::Unsupported);
        assert!(set_threaded_napi("no-such-if", true).is_err());
    }
}
