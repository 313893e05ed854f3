//! The rings between a worker and its gateway, and how one wakes the other. (Between workers: `crossing`.)
//!
//! Both directions are bounded crossbeam queues of owned values. A full event ring holds nothing up but itself: the
//! engine keeps the rest, and its credits bound how much that can be. A full command ring is the gateway's to wait for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use crossbeam::queue::ArrayQueue;
use florelay_engine::{Command, Event};
use rustix::event::{EventfdFlags, eventfd};

use crate::netlink::NextHop;
use crate::worker::WorkerReport;

/// Commands in flight to one worker.
pub(crate) const COMMAND_RING: usize = 1024;
/// Events in flight from one worker.
pub(crate) const EVENT_RING: usize = 4096;

/// What a gateway says to a worker.
pub(crate) enum ToWorker {
    /// For its engine.
    Engine(Command),
    /// A link's next hop changed; indexed as in the plan.
    NextHop(u16, Result<NextHop, Arc<str>>),
    /// Send a `Report`.
    Report,
    /// Finish.
    Stop,
}

/// What a worker says to the gateway.
pub(crate) enum FromWorker {
    /// From its engine.
    Event(Event),
    /// The state of everything.
    Report(Box<WorkerReport>),
}

/// Both rings of one worker.
pub(crate) struct Rings {
    pub(crate) commands: ArrayQueue<ToWorker>,
    /// Command messages, taken before `commands`: they do not wait behind the bytes of files.
    pub(crate) urgent: ArrayQueue<ToWorker>,
    pub(crate) events: ArrayQueue<FromWorker>,
    pub(crate) doorbell: Doorbell,
}

impl Rings {
    pub(crate) fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            commands: ArrayQueue::new(COMMAND_RING),
            urgent: ArrayQueue::new(COMMAND_RING),
            events: ArrayQueue::new(EVENT_RING),
            doorbell: Doorbell::new()?,
        }))
    }
}

/// Wakes a worker that sleeps in `poll`: an eventfd that is rung only when the worker said it sleeps.
pub(crate) struct Doorbell {
    fd: OwnedFd,
    sleeping: AtomicBool,
}

impl Doorbell {
    pub(crate) fn new() -> std::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { fd, sleeping: AtomicBool::new(false) })
    }

    /// By the gateway or another worker, after it has put something into a ring. Returns whether that took a syscall.
    pub(crate) fn ring(&self) -> bool {
        // Sequentially consistent on both sides: either the worker sees the command, or we see it asleep.
        let asleep = self.sleeping.swap(false, Ordering::SeqCst);
        if asleep {
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
        asleep
    }

    /// By the worker before it looks into the ring a last time and sleeps.
    pub(crate) fn about_to_sleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
    }

    /// By the worker when it is awake; `readable` = `poll` found the descriptor rung. Returns whether that took a
    /// syscall. Only what `poll` saw is read: a ringer may have said so and not yet written, and is seen next time.
    pub(crate) fn awake(&self, readable: bool) -> bool {
        self.sleeping.store(false, Ordering::SeqCst);
        if readable {
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
        readable
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Wakes the gateway thread; unparking a thread that runs costs no syscall.
#[derive(Clone)]
pub(crate) struct GatewayBell {
    thread: Thread,
    parked: Arc<AtomicBool>,
}

impl GatewayBell {
    pub(crate) fn of_this_thread() -> Self {
        Self { thread: std::thread::current(), parked: Arc::new(AtomicBool::new(false)) }
    }

    /// Returns whether the thread had to be woken (one futex call).
    pub(crate) fn ring(&self) -> bool {
        let parked = self.parked.swap(false, Ordering::SeqCst);
        if parked {
            self.thread.unpark();
        }
        parked
    }

    /// By the gateway thread itself, before its last look.
    pub(crate) fn about_to_park(&self) {
        self.parked.store(true, Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        self.parked.store(false, Ordering::SeqCst);
    }
}
