//! What the engine does with the adapters: take frames, give them back, send them, hand them to another worker.

use florelay_engine::config::LinkId;
use florelay_engine::port::{Crossing, Ecn};
use florelay_engine::{FrameBuf, Port};
use florelay_xsk::Frame;

use super::Ports;
use crate::crossing::Freight;
use crate::worker::frame::{UmemFrame, WorkerFrame};

impl Ports {
    /// Make it a frame of this UMEM, by a copy if need be.
    fn adopt(&mut self, at: usize, pool: u8, frame: WorkerFrame) -> Option<Frame> {
        match frame {
            WorkerFrame::Umem(own) if own.pool == pool => Some(own.frame),
            other => {
                self.links[at].counters.crossed_copies += 1;
                let copy = self.pools.umems[usize::from(pool)].alloc().map(|frame| {
                    let mut copy = WorkerFrame::Umem(UmemFrame { pool, frame });
                    let fits = other.bytes().len() <= copy.capacity();
                    if fits {
                        copy.set_len(other.bytes().len());
                        copy.bytes_mut().copy_from_slice(other.bytes());
                    }
                    (copy, fits)
                });
                self.free(other);
                match copy {
                    Some((WorkerFrame::Umem(copy), true)) => Some(copy.frame),
                    Some((copy, _)) => {
                        self.free(copy);
                        None
                    }
                    None => None,
                }
            }
        }
    }

    /// Put a frame into the ring to the worker that owns the link. `false`: it is full, and the frame is gone.
    pub(super) fn hand_over(&mut self, link: LinkId, freight: Freight, frame: WorkerFrame, ecn: Ecn) -> bool {
        let (went, back) = self.across.hand_over(link, freight, frame, ecn);
        self.free(back);
        went
    }
}

impl Port for Ports {
    type Frame = WorkerFrame;

    fn alloc(&mut self, link: LinkId) -> Option<WorkerFrame> {
        let at = self.at(link)?;
        match self.links[at].lane {
            Some(lane) => {
                let pool = self.groups[lane.group].pool;
                let frame = self.pools.umems[usize::from(pool)].alloc()?;
                Some(WorkerFrame::Umem(UmemFrame { pool, frame }))
            }
            None => self.heap.alloc().map(WorkerFrame::Heap),
        }
    }

    fn free(&mut self, frame: WorkerFrame) {
        match frame {
            WorkerFrame::Umem(UmemFrame { pool, frame }) => self.pools.umems[usize::from(pool)].free(frame),
            WorkerFrame::Heap(frame) => self.heap.free(frame),
        }
    }

    fn spare_frames(&self) -> usize {
        self.spare
    }

    fn in_flight_bytes(&self, link: LinkId) -> u64 {
        let Some(at) = self.at(link) else { return 0 };
        match self.links[at].lane {
            Some(lane) => self.groups[lane.group].in_flight(lane.lane),
            None => self.links[at].socket.pending_bytes() as u64,
        }
    }

    fn tx_room(&self, link: LinkId) -> usize {
        self.at(link).map_or(0, |at| self.links[at].room)
    }

    fn send(&mut self, link: LinkId, frame: WorkerFrame, ecn: Ecn) {
        let Some(at) = self.at(link) else {
            self.free(frame);
            return;
        };
        let sent = match self.links[at].lane {
            Some(lane) => {
                let pool = self.groups[lane.group].pool;
                let frame = self.adopt(at, pool, frame);
                let umem = &mut self.pools.umems[usize::from(pool)];
                frame.is_some_and(|frame| self.groups[lane.group].send(umem, lane.lane, frame, ecn))
            }
            None => {
                let sent = self.links[at].socket.send(frame.bytes(), ecn);
                self.free(frame);
                sent
            }
        };
        let port = &mut self.links[at];
        port.room = port.room.saturating_sub(1);
        if !sent {
            port.counters.tx_dropped += 1;
            port.room = port.room.min(port.socket.room());
        }
    }

    fn contact(&mut self, link: LinkId, open: bool) {
        self.at(link).into_iter().for_each(|at| self.links[at].socket.set_open(open));
    }

    fn cross(&mut self, crossing: Crossing, frame: WorkerFrame, ecn: Ecn) -> bool {
        self.hand_over(crossing.link, Freight::Transit(crossing), frame, ecn)
    }
}
