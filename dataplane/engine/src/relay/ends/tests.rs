use std::collections::VecDeque;

use super::*;
use crate::api::{Kept, TransferMeta};
use crate::config::{Limits, PeerId};
use crate::session::Session;

const PEER: PeerId = PeerId(3);
const ID: TransferId = TransferId(7);

fn meta() -> TransferMeta {
    TransferMeta { name: "f".into(), size: Some(9), declared: None, priority: 0, attributes: Vec::new() }
}

fn enough() -> Failure {
    Failure::new(FailCode::Cancelled, "enough")
}

struct Bed {
    relay: Relay,
    conn: BulkConn,
    events: VecDeque<Event>,
}

impl Bed {
    fn new() -> Self {
        let relay = Relay::new(PEER, 1, Limits::default());
        Self { relay, conn: BulkConn::default(), events: VecDeque::new() }
    }

    /// A session with a peer of this version begins; what it is told of ends.
    fn connected(&mut self, version: u16) -> Vec<TransferId> {
        self.relay.disconnected();
        self.conn = BulkConn { session: Session::greeted(version), ..BulkConn::default() };
        self.relay.connected(&mut self.conn, &mut self.events);
        self.told()
    }

    fn offered(&mut self) -> Vec<TransferId> {
        self.relay.offered(&mut self.conn, ID, meta(), &mut self.events);
        self.told()
    }

    fn told(&mut self) -> Vec<TransferId> {
        let mut said = Session::default();
        said.deliver(&self.conn.session.take_outbox());
        let fail = |message: &Message| matches!(message, Message::Fail { .. } | Message::Cancel { .. });
        let messages = std::iter::from_fn(|| said.next().unwrap());
        messages.filter(fail).filter_map(|message| message.transfer()).collect()
    }

    /// Whether the peer has heard of the end, by the last events.
    fn heard(&mut self) -> bool {
        self.events.drain(..).any(|event| matches!(event, Event::Heard { peer: PEER, id: ID, .. }))
    }
}

#[test]
fn an_own_end_is_said_at_each_session_until_it_was_heard_of() {
    let mut bed = Bed::new();
    bed.relay.gave_up(None, ID, true, enough());
    assert_eq!((bed.connected(3), bed.connected(3), bed.heard()), (vec![ID], vec![ID], false));
    bed.relay.heard(ID, &mut bed.events);
    assert!(bed.heard());
    assert_eq!(bed.connected(3), []);
    // An older peer does not say so.
    bed.relay.gave_up(None, ID, true, enough());
    assert_eq!((bed.connected(2), bed.heard(), bed.connected(2)), (vec![ID], true, vec![]));
}

#[test]
fn the_end_before_does_not_end_what_is_sent_with_its_id_again() {
    let mut bed = Bed::new();
    bed.relay.gave_up(None, ID, true, enough());
    bed.relay.send(false, ID, meta(), Kept::default(), &mut bed.events);
    // The peer still has what was given up: it ends before the new one is offered.
    assert_eq!((bed.connected(3), bed.heard()), (vec![ID], false));
    assert_eq!((bed.connected(3), bed.heard()), (vec![], true));
    assert!(bed.relay.knows(ID));
}

#[test]
fn an_offer_of_what_ended_here_is_answered_with_its_end_until_its_sender_has_heard() {
    let mut bed = Bed::new();
    bed.relay.gave_up(None, ID, false, enough());
    for _ in 0..2 {
        assert_eq!((bed.connected(3), bed.offered(), bed.heard()), (vec![], vec![ID], false));
    }
    bed.relay.heard(ID, &mut bed.events);
    assert!(bed.heard());
    assert_eq!((bed.connected(3), bed.offered()), (vec![], vec![]));
    assert!(matches!(bed.events.pop_front(), Some(Event::Offered { id: ID, .. })));
    // One that is not offered any more is known, too; and so is one that is offered after it was told.
    for offers in [0, 2] {
        let mut bed = Bed::new();
        bed.relay.gave_up(None, ID, false, enough());
        bed.connected(3);
        for _ in 0..offers {
            bed.offered();
        }
        if offers == 0 {
            bed.relay.ends_not_offered(&mut bed.events);
        }
        assert!(bed.heard(), "{offers}");
    }
}
