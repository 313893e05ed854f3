//! What the gateway tells workers: into their rings, and what does not fit waits.

use florelay_engine::Command;
use florelay_engine::api::TransferId;
use florelay_engine::config::{LinkId, PeerId};

use super::{Gateway, peer_index, peer_worker};
use crate::ring::ToWorker;

impl Gateway {
    pub(super) fn tell_link(&mut self, link: LinkId, command: Command) {
        let worker = self.plan.links[usize::from(link.0)].worker;
        self.tell_worker(worker, ToWorker::Engine(command));
    }

    pub(super) fn tell_peer(&mut self, peer: PeerId, command: Command) {
        let worker = peer_worker(&self.plan, peer);
        self.tell_worker(worker, ToWorker::Engine(command));
    }

    pub(super) fn tell_transfer(&mut self, id: TransferId, command: Command) {
        if let Some(peer) = self.transfers.peer_of(id).and_then(|name| peer_index(&self.plan, name)) {
            self.tell_peer(peer, command);
        }
    }

    /// Past the bytes of files that wait for room in the worker's ring.
    pub(super) fn tell_urgently(&mut self, worker: usize, command: Command) {
        self.urgent[worker].push_back(ToWorker::Engine(command));
        self.flush(worker);
    }

    pub(super) fn tell_worker(&mut self, worker: usize, message: ToWorker) {
        self.backlog[worker].push_back(message);
        self.flush(worker);
    }

    /// Move what waits into the worker's ring. Says whether something moved.
    pub(super) fn flush(&mut self, worker: usize) -> bool {
        let rings = &self.workers[worker];
        let mut moved = false;
        for (backlog, ring) in [(&mut self.urgent[worker], &rings.urgent), (&mut self.backlog[worker], &rings.commands)]
        {
            while let Some(message) = backlog.pop_front() {
                if let Err(message) = ring.push(message) {
                    backlog.push_front(message);
                    break;
                }
                moved = true;
            }
        }
        if moved {
            rings.doorbell.ring();
        }
        moved
    }
}
