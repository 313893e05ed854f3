//! What an operator changes of an own transfer: it is held, goes on, has another priority.

use florelay_engine::Command;
use florelay_engine::api::TransferId;
use florelay_engine::config::PeerId;
use uuid::Uuid;

use super::super::Gateway;
use super::super::queue::Place;
use crate::ipc::TransferState;

/// Highest priority.
const MAX_PRIORITY: u8 = 127;

impl Gateway {
    /// Send no more of it; its place is another's.
    pub(in super::super) fn pause(&mut self, id: TransferId) -> Result<(), String> {
        let (peer, begun) = self.own(id)?;
        let Some(queue) = self.orders.queue(peer) else { return Ok(()) };
        if queue.place(id) == Some(Place::Paused) {
            // It may wait for its file, and then for this.
            self.kept.held(id, true);
            return Ok(());
        }
        queue.pause(id);
        if begun {
            self.tell_peer(peer, Command::Hold { id, held: true });
        }
        self.kept.held(id, true);
        self.show_place(id);
        self.begin_next(peer);
        Ok(())
    }

    /// It waits for its turn again, at the place that it had by its order.
    pub(in super::super) fn resume(&mut self, id: TransferId) -> Result<(), String> {
        let (peer, _) = self.own(id)?;
        if let Some(TransferState::NoFile(reason)) = self.transfers.running(id).map(|status| &status.state) {
            return Err(format!("{reason}; send the same file again with its id"));
        }
        let Some(queue) = self.orders.queue(peer) else { return Ok(()) };
        if queue.place(id) == Some(Place::Paused) {
            queue.resume(id);
            self.kept.held(id, false);
            self.start(peer, id);
        }
        Ok(())
    }

    pub(in super::super) fn set_priority(&mut self, id: TransferId, priority: u8) -> Result<(), String> {
        let (peer, begun) = self.own(id)?;
        if priority > MAX_PRIORITY {
            return Err(format!("{priority} is no priority; they go from 0 to {MAX_PRIORITY}"));
        }
        if begun {
            self.tell_peer(peer, Command::SetPriority { id, priority });
        }
        if let Some(queue) = self.orders.queue(peer) {
            queue.set_priority(id, priority);
        }
        self.kept.priority(id, priority);
        self.transfers.priority(id, priority);
        self.show_place(id);
        Ok(())
    }

    /// Peer of an own transfer that has not ended, and whether its engine knows of it.
    fn own(&self, id: TransferId) -> Result<(PeerId, bool), String> {
        if let Some(own) = self.orders.own.get(&id) {
            return Ok((own.peer, own.begun));
        }
        let uuid = Uuid::from_u128(id.0);
        Err(match self.transfers.peer_of(id) {
            Some(peer) => format!("transfer {uuid} comes from {peer}, and only its sender can do that"),
            None => format!("no transfer {uuid} is running"),
        })
    }
}
