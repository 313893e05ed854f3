//! Follows what happens at the node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use florelay_dataplane::ipc::NodeEvent;

use super::agent::Agent;
use super::relay::{Events, RelayError};
use super::types::FailReason;

/// Between two attempts to hear the node again: from, doubled up to.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Nothing has to be done between events.
const QUIET: Duration = Duration::from_secs(3600);

/// Never ends.
pub(super) fn watch(agent: &Arc<Agent>) {
    let mut pause = AGAIN.0;
    loop {
        let lost = match agent.relay.events() {
            Ok(mut events) => {
                pause = AGAIN.0;
                follow(agent, events.as_mut())
            }
            Err(error) => error,
        };
        tracing::debug!("thrift: the node is not heard: {lost}");
        agent.deaf();
        // Somebody who comes back does not call.
        thread::sleep(pause);
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// Until the node goes.
pub(super) fn follow(agent: &Arc<Agent>, events: &mut dyn Events) -> RelayError {
    // Streams that are in the present; others have ended while nobody listened.
    let mut present = Some(BTreeSet::new());
    loop {
        match events.next(QUIET) {
            Ok(None) => {}
            Err(lost) => return lost,
            Ok(Some(NodeEvent::Transfer(status))) => {
                if let Some(present) = &mut present {
                    present.insert(status.id);
                }
                agent.changed(&status);
            }
            Ok(Some(NodeEvent::Link { link, state, .. })) => agent.link_is(link, state),
            Ok(Some(NodeEvent::Peer { peer, state, .. })) => agent.peer_is(peer, state),
            Ok(Some(NodeEvent::Queue(queue))) => agent.lock().queue(&queue),
            Ok(Some(NodeEvent::Present)) => {
                if let Some(present) = present.take() {
                    missed(agent, &present);
                }
            }
        }
    }
}

/// Asks for the ends that nobody heard.
fn missed(agent: &Arc<Agent>, present: &BTreeSet<u128>) {
    let under_way = {
        let mut state = agent.lock();
        state.offers_are(present);
        state.under_way()
    };
    for id in under_way.into_iter().filter(|id| !present.contains(id)) {
        match agent.relay.status(id) {
            Ok(status) => agent.changed(&status),
            // Gone again: the next present will tell.
            Err(RelayError::Unavailable(_)) => {}
            Err(error) => agent.failed(id, FailReason::Unknown, format!("the node does not know it any more: {error}")),
        }
    }
}
