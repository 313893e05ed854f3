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
        relay.connected(&mut conn, &mut VecDeque::new());
        relay.push_offers(&mut conn, &mut events);
        assert_eq!(relay.outgoing.len(), usize::from(carried));
        match events.make_contiguous() {
            [Event::Offered { .. }] if carried => {}
            [Event::TransferEnded { id: ID, result: Err(failure), .. }] if !carried => {
                assert_eq!(failure.reason, NO_STREAMS);
            }
            other => panic!("version {version}: {other:?}"),
        }
    }
}

#[test]
fn after_a_restart_the_receivers_first_place_is_believed_unless_it_was_confirmed_already() {
    let kept = Kept { confirmed: 1000, head: 5000 };
    let meta = |declared| TransferMeta { name: "s".into(), size: None, declared, priority: 0, attributes: Vec::new() };
    let lost = |result| matches!(result, Err(Failure { code: FailCode::LostPlace, .. }));
    for (declared, offset, right) in [
        (None, 999, false),
        (None, 1000, true),
        (None, 5001, true),
        (Some(6000), 6000, true),
        (Some(6000), 6001, false),
    ] {
        let mut relay = Relay::new(PeerId(0), 2, Limits::default());
        let mut events = VecDeque::new();
        relay.send(false, ID, meta(declared), kept, &mut events);
        assert_eq!(lost(relay.check_place(ID, offset)), !right, "{declared:?}, {offset}");
        if !right {
            continue;
        }
        relay.accepted(ID, offset, &mut events);
        assert_eq!(events[0], Event::SupplyFrom { id: ID, offset });
        // From now on it is known what was sent.
        relay.disconnected();
        assert!(lost(relay.check_place(ID, offset.max(5000) + 1)) && !lost(relay.check_place(ID, offset)));
    }
}

#[test]
fn a_writer_that_ends_before_what_the_receiver_has_ends_the_transfer() {
    let mut relay = flowing(None, 800);
    let code = |result: Result<(), Failure>| result.map_err(|failure| failure.code);
    assert_eq!(code(relay.supply_end(ID, 799, [0; 32])), Err(FailCode::LostPlace));
    assert_eq!(code(relay.supply_end(ID, 801, [0; 32])), Ok(()), "an answer to an older question");
    assert_eq!(relay.outgoing[&ID].end, None);
    assert_eq!(code(relay.supply_end(ID, 800, [0; 32])), Ok(()));
    assert!(relay.outgoing[&ID].end.is_some());
}

#[test]
fn a_size_that_was_announced_is_kept_whatever_the_receiver_has_asked_for() {
    for (size, declared) in [(Some(1000), None), (None, Some(1000))] {
        for asked in [false, true] {
            let mut relay = Relay::new(PeerId(0), 1, Limits::default());
            let mut events = VecDeque::new();
            let meta = TransferMeta { name: "f".into(), size, declared, priority: 0, attributes: Vec::new() };
            relay.send(false, ID, meta, Kept::default(), &mut events);
            if asked {
                relay.accepted(ID, 0, &mut events);
            }
            let code = |result: Result<(), Failure>| result.map_err(|failure| failure.code);
            assert_eq!(code(relay.supply(ID, 990, Bytes::from_static(&[0; 11]))), Err(FailCode::Size));
            assert_eq!(code(relay.supply(ID, u64::MAX, Bytes::from_static(&[0; 11]))), Err(FailCode::Size));
            assert_eq!(code(relay.supply(ID, 0, Bytes::from_static(&[0; 11]))), Ok(()));
            assert_eq!(code(relay.supply_end(ID, 999, [0; 32])), Err(FailCode::Size));
            assert_eq!(code(relay.supply_end(ID, 1000, [0; 32])), Ok(()));
        }
    }
}

#[test]
fn many_transfers_together_are_supplied_little_of_each() {
    let mut relay = Relay::new(PeerId(0), 1, Limits::default());
    let meta = TransferMeta { name: "f".into(), size: Some(1 << 30), declared: None, priority: 0, attributes: vec![] };
    let mut events = VecDeque::new();
    for id in 0..2_000 {
        relay.send(false, TransferId(id), meta.clone(), Kept::default(), &mut events);
        relay.accepted(TransferId(id), 0, &mut events);
    }
    let limits = events.iter().filter_map(|event| match event {
        Event::SupplyUpTo { limit, .. } => Some(*limit),
        _ => None,
    });
    // Two pieces of each, whatever their number.
    assert_eq!((limits.clone().count(), limits.clone().min(), limits.sum()), (2_000, Some(128 << 10), 250_u64 << 20));
    for (writing, bytes) in [(1, 1 << 20), (100, (64 << 20) / 100), (2_000, 128 << 10)] {
        for id in 0..writing {
            let _ = relay.supply(TransferId(id), 0, Bytes::from_static(&[1; 10]));
        }
        assert_eq!(relay.supply_bytes(), bytes, "{writing} write");
    }
}
