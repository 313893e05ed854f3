//! Offers whose id names another transfer here. Each engine keeps the ids of its own peers apart; the gateway has all
//! engines' transfers in one book, by id alone. So an offer of an id that is in the book, or on its way into it, is
//! refused, and what its engine says of it afterwards concerns nobody.

use std::collections::HashSet;

use florelay_engine::api::{FailCode, Failure, TransferId};
use florelay_engine::config::PeerId;
use florelay_engine::{Command, Event};
use uuid::Uuid;

use super::Gateway;
use crate::ring::ToWorker;

/// Refused offers of which an engine has not said the end yet: worker and id. An engine answers each refusal with the end
/// and then forgets it, so there are never more than engines have transfers (`transfers_per_peer` for each peer).
#[derive(Debug, Default)]
pub(super) struct Strangers(HashSet<(usize, TransferId)>);

impl Gateway {
    /// Whether an event is a stranger's. One that makes itself known by it is refused.
    pub(super) fn is_strangers(&mut self, worker: usize, event: &Event) -> bool {
        let Some(id) = event.transfer() else { return false };
        if self.strangers.0.contains(&(worker, id)) {
            if matches!(event, Event::TransferEnded { .. } | Event::TransferShelved { .. }) {
                self.strangers.0.remove(&(worker, id));
            }
            return true;
        }
        let Event::Offered { peer, .. } = event else { return false };
        // Offered again while the opener still has it: the same one, whose sender was restarted.
        let opening = self.opening.get(&id).is_some_and(|opening| (opening.worker, opening.peer) != (worker, *peer));
        if !opening && !self.transfers.is_running(id) {
            return false;
        }
        let name = self.plan.peers.get(usize::from(peer.0)).map_or("?", |peer| &peer.name);
        tracing::warn!(transfer = %Uuid::from_u128(id.0), peer = name, "offer refused: a transfer with this id is running");
        self.strangers.0.insert((worker, id));
        let failure = Failure::new(FailCode::Refused, "a transfer with this id is running there already");
        self.tell_worker(worker, ToWorker::Engine(Command::Cancel { id, failure }));
        true
    }

    /// Why this id cannot be given to a new transfer while an offer with it is looked at.
    pub(super) fn check_not_offered(&self, id: TransferId) -> Result<(), String> {
        let Some(opening) = self.opening.get(&id) else { return Ok(()) };
        let PeerId(peer) = opening.peer;
        let from = self.plan.peers.get(usize::from(peer)).map_or("?", |peer| &peer.name);
        Err(format!("transfer {} is being offered by {from}; give another id", Uuid::from_u128(id.0)))
    }
}

#[cfg(test)]
mod tests;
