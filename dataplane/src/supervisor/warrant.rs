//! What the plan entitles a dataplane to: its interfaces, their queues, its links' addresses, and AF_XDP sockets at a bounded
//! rate. Everything else is refused before a privilege is used.
//!
//! The dataplane parses what strangers send. One that is taken over can still ask; it gets no more than this.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::adapter::rungs;
use crate::plan::{AdapterPlan, NodePlan, PollMode};

/// AF_XDP sockets that may be asked for at once, for each interface: every rung on each of at most 16 queues
/// (`rungs::rx_queues`), and one more round.
const SOCKETS_AT_ONCE: u32 = 64;
/// One more after each of these, for each interface: a worker opens its sockets anew at most once a second.
const SOCKET_INTERVAL: Duration = Duration::from_millis(1000 / 16);

/// An interface that a link of the plan is on.
#[derive(Debug)]
struct Interface {
    name: String,
    /// A worker with links on it polls busily.
    busy: bool,
    /// A worker with links on it has its NAPI in threads.
    threaded: bool,
    /// Sockets that may be asked for now, and since when that is so.
    sockets: u32,
    counted: Instant,
}

/// See the module.
pub(super) struct Warrant {
    interfaces: Vec<Interface>,
    locals: Vec<SocketAddr>,
    /// Active queues of an interface, from 0: the kernel's answer.
    queues: fn(&str) -> Result<u32, String>,
}

impl Warrant {
    pub(super) fn new(plan: &NodePlan, now: Instant) -> Self {
        Self::with_queues(plan, now, rungs::rx_queues)
    }

    pub(super) fn with_queues(plan: &NodePlan, now: Instant, queues: fn(&str) -> Result<u32, String>) -> Self {
        let mut interfaces: Vec<Interface> = Vec::new();
        for link in &plan.links {
            let AdapterPlan::Xdp { interface, .. } = &link.adapter else { continue };
            let poll = plan.workers.get(link.worker).map(|worker| worker.poll);
            let (busy, threaded) = (poll == Some(PollMode::Busy), poll == Some(PollMode::ThreadedNapi));
            match interfaces.iter_mut().find(|known| known.name == *interface) {
                Some(known) => {
                    known.busy |= busy;
                    known.threaded |= threaded;
                }
                None => interfaces.push(Interface {
                    name: interface.clone(),
                    busy,
                    threaded,
                    sockets: SOCKETS_AT_ONCE,
                    counted: now,
                }),
            }
        }
        Self { interfaces, locals: plan.links.iter().map(|link| link.local).collect(), queues }
    }

    /// A link is on this interface.
    pub(super) fn interface(&self, name: &str) -> Result<(), String> {
        self.interfaces.iter().any(|known| known.name == name).then_some(()).ok_or_else(|| foreign(name))
    }

    /// … and it has this queue.
    pub(super) fn queue(&self, name: &str, queue: u32) -> Result<(), String> {
        self.interface(name)?;
        let queues = (self.queues)(name)?;
        if queue < queues {
            Ok(())
        } else {
            Err(format!("interface {name} has no queue {queue}, only {queues} from 0"))
        }
    }

    /// One more AF_XDP socket for it, polling busily or not.
    pub(super) fn socket(&mut self, name: &str, queue: u32, busy: bool, now: Instant) -> Result<(), String> {
        self.queue(name, queue)?;
        let interface = self.interfaces.iter_mut().find(|known| known.name == name).ok_or_else(|| foreign(name))?;
        if busy && !interface.busy {
            return Err(format!("no worker on {name} polls busily"));
        }
        let passed = now.saturating_duration_since(interface.counted).as_nanos() / SOCKET_INTERVAL.as_nanos();
        match u32::try_from(passed) {
            Ok(passed) if passed < SOCKETS_AT_ONCE => {
                interface.sockets = (interface.sockets + passed).min(SOCKETS_AT_ONCE);
                interface.counted += SOCKET_INTERVAL * passed;
            }
            _ => (interface.sockets, interface.counted) = (SOCKETS_AT_ONCE, now),
        }
        interface.sockets = interface
            .sockets
            .checked_sub(1)
            .ok_or_else(|| format!("too many AF_XDP sockets for {name} in a short time"))?;
        Ok(())
    }

    /// As much memory may be a UMEM.
    #[expect(clippy::unused_self, reason = "one place for what is allowed")]
    pub(super) fn memory(&self, bytes: u64) -> Result<usize, String> {
        let most = rungs::MAX_UMEM_BYTES;
        usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= most)
            .ok_or_else(|| format!("a UMEM has at most {most} bytes"))
    }

    /// Its NAPI may be moved to threads and back.
    pub(super) fn threads(&self, name: &str) -> Result<(), String> {
        self.interface(name)?;
        let threaded = self.interfaces.iter().any(|known| known.name == name && known.threaded);
        if threaded { Ok(()) } else { Err(format!("no worker on {name} asks for threaded NAPI")) }
    }

    /// A link has this address.
    pub(super) fn local(&self, address: SocketAddr) -> Result<(), String> {
        if self.locals.contains(&address) {
            Ok(())
        } else {
            Err(format!("no link of this node has the address {address}"))
        }
    }
}

fn foreign(name: &str) -> String {
    format!("no link of this node is on interface `{name}`")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{plan, two_queues};
    use super::*;

    #[test]
    fn only_what_the_plan_names() {
        let now = Instant::now();
        let mut warrant = Warrant::with_queues(&plan(PollMode::Adaptive), now, two_queues);
        assert_eq!(warrant.interface("eth1"), Ok(()));
        for foreign in ["eth0", "eth11", "", "eth1\0", "ETH1", "../eth1"] {
            assert!(warrant.interface(foreign).unwrap_err().contains("no link of this node"), "{foreign:?}");
            assert!(warrant.queue(foreign, 0).is_err() && warrant.threads(foreign).is_err(), "{foreign:?}");
            assert!(warrant.socket(foreign, 0, false, now).is_err(), "{foreign:?}");
        }
        assert_eq!(warrant.queue("eth1", 1), Ok(()));
        for queue in [2, u32::MAX] {
            assert!(warrant.queue("eth1", queue).unwrap_err().contains("only 2"));
            assert!(warrant.socket("eth1", queue, false, now).is_err());
        }
        assert_eq!(warrant.local("127.0.0.1:0".parse().unwrap()), Ok(()));
        assert!(warrant.local("127.0.0.1:53".parse().unwrap()).is_err());
    }

    #[test]
    fn busy_polling_and_napi_threads_only_where_a_worker_has_them() {
        let now = Instant::now();
        for (poll, busy, threads) in
            [(PollMode::Adaptive, false, false), (PollMode::Busy, true, false), (PollMode::ThreadedNapi, false, true)]
        {
            let mut warrant = Warrant::with_queues(&plan(poll), now, two_queues);
            assert_eq!(warrant.socket("eth1", 0, true, now).is_ok(), busy, "{poll:?}");
            assert_eq!(warrant.socket("eth1", 0, false, now), Ok(()));
            assert_eq!(warrant.threads("eth1").is_ok(), threads, "{poll:?}");
        }
    }

    #[test]
    fn sockets_run_out_and_come_back_with_time() {
        let mut now = Instant::now();
        let mut warrant = Warrant::with_queues(&plan(PollMode::Adaptive), now, two_queues);
        for _ in 0..SOCKETS_AT_ONCE {
            assert_eq!(warrant.socket("eth1", 0, false, now), Ok(()));
        }
        assert!(warrant.socket("eth1", 0, false, now).unwrap_err().contains("too many"));
        now += SOCKET_INTERVAL * 3;
        for _ in 0..3 {
            assert_eq!(warrant.socket("eth1", 1, false, now), Ok(()));
        }
        assert!(warrant.socket("eth1", 1, false, now).is_err());
        // A rest of any length saves up no more than the first.
        now += Duration::from_secs(1 << 40);
        let after_rest = (0..).take_while(|_| warrant.socket("eth1", 0, false, now).is_ok()).count();
        assert_eq!(after_rest, SOCKETS_AT_ONCE as usize);
    }
}
