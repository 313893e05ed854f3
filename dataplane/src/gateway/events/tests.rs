use florelay_engine::Event;
use florelay_engine::api::{FailCode, Failure, TransferId, TransferMeta};
use florelay_engine::config::{LinkId, PeerId};

use super::super::testing::Bed;
use super::*;
use crate::ipc::RequestBody;

const ID: TransferId = TransferId(7);

fn events(bed: &mut Bed) -> Vec<NodeEvent> {
    let event = |answer| match answer {
        Answer::Event(event) => Some(event),
        _ => None,
    };
    bed.answers().into_iter().filter_map(event).collect()
}

fn transfer(event: &NodeEvent) -> Option<(u128, bool)> {
    match event {
        NodeEvent::Transfer(status) => Some((status.id, status.ended.is_some())),
        _ => None,
    }
}

#[test]
fn the_present_comes_first_then_each_change_and_the_end_once() {
    let mut bed = Bed::new();
    bed.send("a", ID);
    assert_eq!(bed.ask(RequestBody::Events), None, "what links do is asked of the workers first");
    let of = bed.tag;
    bed.reported();
    let present = events(&mut bed);
    assert_eq!(present.last(), Some(&NodeEvent::Present));
    assert_eq!(present.iter().filter_map(transfer).collect::<Vec<_>>(), [(7, false)]);
    let queues: Vec<_> = present.iter().filter(|event| matches!(event, NodeEvent::Queue(_))).collect();
    assert!(matches!(queues[..], [NodeEvent::Queue(a), NodeEvent::Queue(b)] if a.active == 1 && b.active == 0));
    bed.says(0, Event::Peer { peer: PeerId(0), state: PeerState::Connected });
    bed.says(0, Event::Peer { peer: PeerId(0), state: PeerState::Connected });
    let down = || Event::Link { link: LinkId(1), state: LinkState::Down("cut".into()) };
    bed.says(1, down());
    bed.says(1, down());
    let news = events(&mut bed);
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(matches!(&news[0], NodeEvent::Peer { peer, state, .. } if peer == "a" && state == "connected"));
    assert!(matches!(&news[1], NodeEvent::Link { link, state, reason }
        if link == "line-1" && state == "failed" && reason.as_deref() == Some("cut")));
    // Progress is told by the clock, however often there is some.
    for offset in 1..4 {
        bed.says(0, Event::Confirmed { id: ID, offset });
    }
    assert!(events(&mut bed).is_empty());
    bed.gateway.transfers.tell_progress();
    let news = events(&mut bed);
    assert!(matches!(&news[..], [NodeEvent::Transfer(status)] if status.confirmed == 3 && !status.stalled), "{news:?}");
    for _ in 0..2 {
        bed.says(0, Event::TransferEnded { id: ID, result: Err(Failure::new(FailCode::Refused, "no")), wire_bytes: 0 });
    }
    bed.gateway.transfers.tell_progress();
    assert_eq!(events(&mut bed).iter().filter_map(transfer).collect::<Vec<_>>(), [(7, true)]);
    assert_eq!(bed.ask(RequestBody::Forget { of }), None);
    bed.says(1, Event::Link { link: LinkId(1), state: LinkState::Up });
    assert!(events(&mut bed).is_empty());
}

#[test]
fn what_begins_and_ends_in_one_go_is_told_as_both() {
    let mut bed = Bed::new();
    bed.ask(RequestBody::Events);
    bed.reported();
    events(&mut bed);
    let meta = TransferMeta { name: "f".into(), size: None, declared: None, priority: 0, attributes: vec![] };
    bed.gateway.transfers.started(ID, "a", &meta, false);
    bed.gateway.transfers.ended(ID, Ok([1; 32]));
    bed.gateway.settle();
    assert_eq!(events(&mut bed).iter().filter_map(transfer).collect::<Vec<_>>(), [(7, false), (7, true)]);
}
