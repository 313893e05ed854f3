//! The caps that the network checks follow what the nodes are told.

use florelay_engine::api::Command;
use florelay_engine::contact::Contacts;

use super::{Net, NodeId};
use crate::node::Node;

impl<N: Node> Net<N> {
    /// A node is about to carry out this command.
    pub(super) fn follow_rates(&mut self, id: NodeId, command: &Command) {
        match command {
            Command::SetRate { link, rate } => self.slot(id).port.set_rate(*link, *rate),
            Command::SetContacts { link, contacts: Contacts::Planned(plan) } => {
                let now = self.now;
                // Each contact's rule holds from its start on; asked for now, so that it is there before the node wakes.
                for contact in plan.contacts().iter().filter(|contact| contact.end > now) {
                    let (link, rate) = (*link, contact.rate);
                    self.at(contact.start, move |net| net.slot(id).port.set_rate(link, rate));
                }
            }
            _ => {}
        }
    }
}
