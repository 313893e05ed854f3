//! What crosses between the workers of a node: frames in bounded rings, and the states of links on a board.
//!
//! ```text
//!   worker W                        ring W → V                          worker V
//!   UMEM frame ── copied ──┐   ┌─ full: Crossed ──────────────► engine ─┐
//!                      buffer ─┤                                         ├─ V's heap pool
//!   heap frame ─ exchanged ┘   └─ empty: buffers ◄──── exchanged ───────┘
//! ```
//!
//! Who owns what: a ring has as many buffers as places, made with it. A buffer is in `empty` or, with a frame, in `full`;
//! W takes an empty one to put a full one in, and V gives an empty one of its own pool for each full one that it takes
//! out. So nothing is allocated or freed while frames cross, and every pool has as many buffers as before.
//!
//! The copy: a frame of W's UMEM can be filled and freed by W alone (one owner per frame, and the kernel knows which UMEM
//! an address belongs to), so a frame that goes to V is copied once, about 1500 bytes. It is then an ordinary heap frame
//! of V's. A frame that W has in a heap buffer already is not copied: the buffers change places.
//!
//! Invariants
//! - One thread puts in and one takes out; frames keep their order.
//! - A full ring makes nobody wait: the frame is dropped and counted. Only received and transit frames cross.
//! - V is woken at the end of W's burst, at most once, and only if it has said that it will sleep.
//! - Link states are never lost: of each link the board holds the newest, written by its owner alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use florelay_engine::config::LinkId;
use florelay_engine::port::{Crossing, Ecn};
use florelay_engine::{FrameBuf, LinkNotice};

use crate::adapter::share::workers_on;
use crate::plan::NodePlan;
use crate::ring::Rings;
use crate::worker::frame::{HeapFrame, HeapPool, WorkerFrame};

/// Frames that a ring holds: sixteen bursts, or 12 ms of 1 Gbit/s in full frames. 9.4 MB of buffers.
pub(crate) const RING_FRAMES: usize = 1024;
/// Frames taken out of one ring in a burst: as many as are received from one queue.
const BATCH_FRAMES: usize = florelay_xsk::BATCH_FRAMES;

/// What a frame in a ring is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freight {
    /// It arrived on a queue of this worker for a link of the other: the other's ingress.
    Received(LinkId),
    /// It was looked up and relabelled, and leaves by a link of the other.
    Transit(Crossing),
}

/// A frame that came out of a ring.
pub(crate) struct Crossed {
    pub(crate) freight: Freight,
    pub(crate) frame: HeapFrame,
    pub(crate) ecn: Ecn,
}

struct Ring {
    full: ArrayQueue<Crossed>,
    empty: ArrayQueue<HeapFrame>,
    /// The receiver's doorbell.
    to: Arc<Rings>,
}

impl Ring {
    fn new(frames: usize, to: Arc<Rings>) -> Self {
        let ring = Self { full: ArrayQueue::new(frames), empty: ArrayQueue::new(frames), to };
        for _ in 0..frames {
            ring.give_back(HeapFrame::new());
        }
        ring
    }

    fn give_back(&self, buffer: HeapFrame) {
        // There is a place for each: one was taken before one is given.
        let given = self.empty.push(buffer);
        debug_assert!(given.is_ok());
    }
}

/// The newest state of every link of the node.
struct LinkBoard {
    /// Counts changes, so that a look that finds nothing reads one number.
    changes: AtomicU64,
    /// By link: `UNSAID`, `UP`, or `DOWN` + reason.
    states: Box<[AtomicU32]>,
}

const UNSAID: u32 = 0;
const UP: u32 = 1;
const DOWN: u32 = 2;

impl LinkBoard {
    fn new(links: usize) -> Self {
        Self { changes: AtomicU64::new(0), states: (0..links).map(|_| AtomicU32::new(UNSAID)).collect() }
    }

    fn write(&self, notice: LinkNotice) {
        if let Some(state) = self.states.get(usize::from(notice.link.0)) {
            state.store(notice.down.map_or(UP, |reason| DOWN + u32::from(reason)), Ordering::SeqCst);
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn read(&self, link: usize) -> u32 {
        self.states[link].load(Ordering::SeqCst)
    }
}

/// What a worker's ends have counted. Frames dropped because of a full ring are counted on the link, too, if they were transit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AcrossCounters {
    /// Frames handed over that had arrived here for a link of another worker.
    pub(crate) received_out: u64,
    /// Transit frames handed over.
    pub(crate) transit_out: u64,
    /// Of these, frames that were copied out of the UMEM.
    pub(crate) copied: u64,
    /// Frames taken from other workers.
    pub(crate) taken: u64,
    /// Received frames dropped: the ring was full.
    pub(crate) received_full: u64,
    /// Transit frames dropped: the ring was full.
    pub(crate) transit_full: u64,
}

/// One worker's ends of the rings, and its view of the board.
pub(crate) struct Across {
    out: Vec<(Arc<Ring>, bool)>,
    inward: Vec<Arc<Ring>>,
    /// By link: index in `out`; `usize::MAX` = its own, or nothing leads there.
    route: Vec<usize>,
    board: Arc<LinkBoard>,
    /// Changes of the board that were looked at.
    looked: u64,
    /// By link: what was passed on to the engine.
    known: Vec<u32>,
    /// By link: another worker's.
    foreign: Vec<bool>,
    pub(crate) counters: AcrossCounters,
}

/// Rings between all workers that share a transit row or an interface, in both directions, and the board; each worker's
/// ends, in order.
pub(crate) fn connect(plan: &NodePlan, rings: &[Arc<Rings>], frames: usize) -> Vec<Across> {
    let board = Arc::new(LinkBoard::new(plan.links.len()));
    let mut all: Vec<_> = (0..rings.len()).map(|worker| Across::new(plan, worker, board.clone())).collect();
    for from in 0..rings.len() {
        for to in (0..rings.len()).filter(|to| shares_frames(plan, from, *to)) {
            let ring = Arc::new(Ring::new(frames, rings[to].clone()));
            let sender = &mut all[from];
            for (link, route) in plan.links.iter().zip(&mut sender.route) {
                if link.worker == to {
                    *route = sender.out.len();
                }
            }
            sender.out.push((ring.clone(), false));
            all[to].inward.push(ring);
        }
    }
    all
}

fn shares_frames(plan: &NodePlan, one: usize, other: usize) -> bool {
    let worker = |link: u16| plan.links.get(usize::from(link)).map(|link| link.worker);
    let pair = [Some(one), Some(other)];
    let by_row = plan.transits.iter().any(|row| {
        let ends = [worker(row.a.link), worker(row.b.link)];
        ends == pair || ends == [pair[1], pair[0]]
    });
    let by_interface = || {
        (0..plan.links.len())
            .map(|link| workers_on(plan, link))
            .any(|workers| workers.contains(&one) && workers.contains(&other))
    };
    one != other && (by_row || by_interface())
}

impl Across {
    fn new(plan: &NodePlan, worker: usize, board: Arc<LinkBoard>) -> Self {
        Self {
            out: Vec::new(),
            inward: Vec::new(),
            route: vec![usize::MAX; plan.links.len()],
            board,
            looked: 0,
            known: vec![UNSAID; plan.links.len()],
            foreign: plan.links.iter().map(|link| link.worker != worker).collect(),
            counters: AcrossCounters::default(),
        }
    }

    /// Put a frame into the ring to the worker that owns `link`. Says whether it went, and gives back the frame or buffer
    /// that is this worker's again.
    pub(crate) fn hand_over(
        &mut self,
        link: LinkId,
        freight: Freight,
        frame: WorkerFrame,
        ecn: Ecn,
    ) -> (bool, WorkerFrame) {
        let route = self.route.get(usize::from(link.0)).copied().unwrap_or(usize::MAX);
        let Some((ring, rung)) = self.out.get_mut(route) else { return (false, frame) };
        let Some(mut buffer) = ring.empty.pop() else {
            match freight {
                Freight::Received(_) => self.counters.received_full += 1,
                Freight::Transit(_) => self.counters.transit_full += 1,
            }
            return (false, frame);
        };
        let (frame, back) = match frame {
            WorkerFrame::Heap(full) => (full, WorkerFrame::Heap(buffer)),
            umem @ WorkerFrame::Umem(_) => {
                // A UMEM frame has at most 4096 bytes, a buffer more.
                let fits = buffer.fill(umem.bytes());
                debug_assert!(fits);
                self.counters.copied += 1;
                (buffer, umem)
            }
        };
        let put = ring.full.push(Crossed { freight, frame, ecn });
        debug_assert!(put.is_ok(), "there are as many places as buffers");
        *rung = true;
        match freight {
            Freight::Received(_) => self.counters.received_out += 1,
            Freight::Transit(_) => self.counters.transit_out += 1,
        }
        (true, back)
    }

    /// Take up to a burst out of each ring; how many. What finds no buffer to exchange stays where it is.
    pub(crate) fn take(&mut self, heap: &mut HeapPool, into: &mut Vec<Crossed>) -> usize {
        let before = into.len();
        for ring in &self.inward {
            let waiting = ring.full.len().min(BATCH_FRAMES);
            for _ in 0..waiting {
                let Some(empty) = heap.alloc() else { break };
                let Some(crossed) = ring.full.pop() else {
                    heap.free(empty);
                    break;
                };
                ring.give_back(empty);
                into.push(crossed);
            }
        }
        let taken = into.len() - before;
        self.counters.taken += taken as u64;
        taken
    }

    /// Tell the other workers of an own link.
    pub(crate) fn say(&mut self, notice: LinkNotice) {
        self.board.write(notice);
        for (_, rung) in &mut self.out {
            *rung = true;
        }
    }

    /// What other workers have said of their links since the last look.
    pub(crate) fn hear(&mut self, mut each: impl FnMut(LinkNotice)) {
        // Read before the states: what changes meanwhile is looked at again.
        let changes = self.board.changes.load(Ordering::SeqCst);
        if changes == self.looked {
            return;
        }
        self.looked = changes;
        for (link, known) in self.known.iter_mut().enumerate().filter(|(link, _)| self.foreign[*link]) {
            let state = self.board.read(link);
            if std::mem::replace(known, state) != state {
                let down = state.checked_sub(DOWN).map(|reason| u8::try_from(reason).unwrap_or(u8::MAX));
                each(LinkNotice { link: LinkId(link as u16), down });
            }
        }
    }

    /// At the end of a burst: wake those for whom there is something. How many syscalls that took.
    pub(crate) fn ring_bells(&mut self) -> u64 {
        let mut syscalls = 0;
        for (ring, rung) in &mut self.out {
            if std::mem::take(rung) {
                syscalls += u64::from(ring.to.doorbell.ring());
            }
        }
        syscalls
    }

    /// Nothing to take and nothing to hear: the worker may sleep, once it has said so.
    pub(crate) fn is_quiet(&self) -> bool {
        self.inward.iter().all(|ring| ring.full.is_empty()) && self.board.changes.load(Ordering::SeqCst) == self.looked
    }

    /// Frames in the rings to this worker.
    pub(crate) fn waiting(&self) -> usize {
        self.inward.iter().map(|ring| ring.full.len()).sum()
    }

    /// There are other workers to share with.
    pub(crate) fn is_alone(&self) -> bool {
        self.out.is_empty() && self.inward.is_empty()
    }
}

#[cfg(test)]
mod tests;
