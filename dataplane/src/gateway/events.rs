//! Who wants to hear of everything that happens at the node, and what of it they have not heard: links and peers.
//!
//! A new subscriber is told the present first, in one go, as soon as the workers have said how links and peers do. From then on
//! a change is told once. What a link's adapter and engine say at once (it is up, it is down) is told at once; what shows in
//! measurements (it is degraded) with the workers' next report, which is asked for each second while somebody listens.

use std::collections::HashMap;

use florelay_engine::api::{LinkState, PeerState};

use super::{Gateway, Replies};
use crate::ipc::{Answer, LinkStatus, NodeEvent, PeerStatus, Response};

/// A state and its reason.
type Condition = (String, Option<String>);

/// Who is told.
#[derive(Default)]
pub(super) struct Subscribers {
    /// They wait to hear the present.
    joining: Vec<(u64, Replies)>,
    joined: Vec<(u64, Replies)>,
    links: HashMap<String, Condition>,
    peers: HashMap<String, Condition>,
}

impl Subscribers {
    pub(super) fn are_there(&self) -> bool {
        !self.joined.is_empty()
    }

    /// One of them reads slowly.
    pub(super) fn are_busy(&self) -> bool {
        self.joined.iter().any(|(_, replies)| replies.is_busy())
    }

    pub(super) fn say(&mut self, event: &NodeEvent) {
        self.joined
            .retain(|(tag, replies)| replies.send(Response { tag: *tag, body: Answer::Event(event.clone()) }).is_ok());
    }

    pub(super) fn forget(&mut self, tag: u64, replies: &Replies) {
        for list in [&mut self.joining, &mut self.joined] {
            list.retain(|(other, whose)| (*other, whose.number()) != (tag, replies.number()));
        }
    }

    fn link(&mut self, link: &str, state: &str, reason: Option<&str>) {
        if is_new(&mut self.links, link, state, reason) {
            let (link, state, reason) = (link.to_owned(), state.to_owned(), reason.map(str::to_owned));
            self.say(&NodeEvent::Link { link, state, reason });
        }
    }

    fn peer(&mut self, peer: &str, state: &str, reason: Option<&str>) {
        if is_new(&mut self.peers, peer, state, reason) {
            let (peer, state, reason) = (peer.to_owned(), state.to_owned(), reason.map(str::to_owned));
            self.say(&NodeEvent::Peer { peer, state, reason });
        }
    }
}

/// Whether this is not what was known; it is now.
fn is_new(known: &mut HashMap<String, Condition>, name: &str, state: &str, reason: Option<&str>) -> bool {
    let condition = (state.to_owned(), reason.map(str::to_owned));
    if known.get(name) == Some(&condition) {
        return false;
    }
    known.insert(name.to_owned(), condition);
    true
}

impl Gateway {
    /// A client wants to hear of everything.
    pub(super) fn subscribe(&mut self, tag: u64, replies: &Replies) {
        self.transfers.subscribers.joining.push((tag, replies.clone()));
        self.ask_for_reports();
    }

    /// Somebody is to hear of what only the workers' reports show.
    pub(super) fn has_subscribers(&self) -> bool {
        let subscribers = &self.transfers.subscribers;
        !subscribers.joining.is_empty() || subscribers.are_there()
    }

    pub(super) fn link_changed(&mut self, link: &str, state: &LinkState) {
        let subscribers = &mut self.transfers.subscribers;
        match state {
            LinkState::Connecting => subscribers.link(link, "connecting", None),
            LinkState::Up => subscribers.link(link, "normal", None),
            LinkState::Down(reason) => subscribers.link(link, "failed", Some(reason)),
        }
    }

    pub(super) fn peer_changed(&mut self, peer: &str, state: &PeerState) {
        let subscribers = &mut self.transfers.subscribers;
        match state {
            PeerState::Connecting => subscribers.peer(peer, "connecting", None),
            PeerState::Connected => subscribers.peer(peer, "connected", None),
            PeerState::Dark(reason) => subscribers.peer(peer, "dark", Some(reason)),
            PeerState::Lost(reason) => subscribers.peer(peer, "lost", Some(reason)),
        }
    }

    /// The workers have reported: what is new in it is told, and to new subscribers everything.
    pub(super) fn conditions(&mut self, links: &[LinkStatus], peers: &[PeerStatus]) {
        let subscribers = &mut self.transfers.subscribers;
        for link in links {
            subscribers.link(&link.name, &link.state, link.reason.as_deref());
        }
        for peer in peers {
            subscribers.peer(&peer.name, &peer.state, peer.reason.as_deref());
        }
        if subscribers.joining.is_empty() {
            return;
        }
        // What waits to be told is in the present.
        self.transfers.tell_turns();
        let joining = std::mem::take(&mut self.transfers.subscribers.joining);
        let mut present = Vec::new();
        present.extend(links.iter().map(|link| NodeEvent::Link {
            link: link.name.clone(),
            state: link.state.clone(),
            reason: link.reason.clone(),
        }));
        present.extend(peers.iter().map(|peer| NodeEvent::Peer {
            peer: peer.name.clone(),
            state: peer.state.clone(),
            reason: peer.reason.clone(),
        }));
        present.extend(self.all_transfers().into_iter().map(|status| NodeEvent::Transfer(Box::new(status))));
        present.extend(self.all_queues().into_iter().map(NodeEvent::Queue));
        present.push(NodeEvent::Present);
        for event in present {
            for (tag, replies) in &joining {
                super::reply(replies, *tag, Answer::Event(event.clone()));
            }
        }
        self.transfers.subscribers.joined.extend(joining);
    }
}

#[cfg(test)]
mod tests;
