use super::*;
use crate::config::{Limits, PeerId};
use crate::session::Session;

const ID: TransferId = TransferId(1);

fn flowing(size: Option<u64>, offset: u64) -> Relay {
    let mut relay = Relay::new(PeerId(0), 1, Limits::default());
    let mut events = VecDeque::new();
    let meta = TransferMeta { name: "f".into(), size, declared: None, priority: 0, attributes: Vec::new() };
    relay.send(false, ID, meta, Kept::default(), &mut events);
    relay.accepted(ID, offset, &mut events);
    relay
}

#[test]
fn bytes_supplied_twice_go_once_and_nothing_stalls() {
    let mut relay = flowing(Some(1000), 100);
    // An answer to the question of the connection before, which happens to begin where this one does.
    relay.supply(ID, 100, Bytes::from_static(&[1; 10])).unwrap();
    // The gateway hears of the new question and begins again, in larger pieces.
    relay.supply(ID, 100, Bytes::from_static(&[1; 50])).unwrap();
    relay.supply(ID, 150, Bytes::from_static(&[1; 50])).unwrap();
    // A gap, and bytes that are all here.
    relay.supply(ID, 201, Bytes::from_static(&[2; 50])).unwrap();
    relay.supply(ID, 120, Bytes::from_static(&[2; 50])).unwrap();
    let transfer = &relay.outgoing[&ID];
    assert_eq!(transfer.supplied, 200);
    assert_eq!(transfer.supply.iter().map(Bytes::len).collect::<Vec<_>>(), [10, 40, 50]);
}

#[test]
fn an_offset_at_the_end_of_numbers_is_no_panic() {
    let relay = flowing(None, u64::MAX - 1);
    assert_eq!(relay.outgoing[&ID].limit, u64::MAX);
}

#[test]
fn an_offer_of_an_own_transfers_id_is_refused() {
    let mut relay = flowing(Some(1000), 0);
    let mut events = VecDeque::new();
    let meta = relay.outgoing[&ID].meta.clone();
    relay.offered(&mut BulkConn::default(), ID, meta.clone(), &mut events);
    assert!(events.is_empty() && relay.incoming.is_empty(), "{events:?}");
    relay.offered(&mut BulkConn::default(), TransferId(2), meta, &mut events);
    assert_eq!(events.len(), 1);
}

#[test]
fn a_stream_needs_session_version_2_at_both_ends() {
    for (version, carried) in [(1, false), (2, true)] {
        let mut relay = flowing(None, 0);
        let mut conn = BulkConn { session: Session::greeted(version), ..BulkConn::default() };
        let mut events = VecDeque::new();
        let meta = relay.outgoing[&ID].meta.clone();
        relay.offered(&mut conn, TransferId(2), meta, &mut events);
        assert_eq!(relay.incoming.len(), usize::from(carried));
        relay.connected(&mut conn);
        relay.push_offers(&mut conn, &mut events);
        assert_eq!(relay.outgoing.len(), usize::from(carried));
        match events.make_contiguous() {
            [Event::Offered { .. }] if carried => {}
            [Event::TransferEnded { id: ID, result: Err(failure), .. }] if !carried => {
                assert_eq!(failure.reason, NO_STREAMS)
            }
            other => panic!("version {version}: {other:?}"),
        }
    }
}
