use super::*;
use crate::config::PeerId;
use crate::session::Session;

const BURST: Duration = Duration::from_micros(10);

fn meta() -> TransferMeta {
    TransferMeta { name: "f".into(), size: Some(1 << 40), declared: None, priority: 0, attributes: Vec::new() }
}

/// Transfers that are under way on a session.
fn receiving(transfers: u128) -> (Relay, BulkConn) {
    let mut relay = Relay::new(PeerId(0), 1, Limits::default());
    let mut conn = BulkConn { session: Session::greeted(2), ..BulkConn::default() };
    let mut events = VecDeque::new();
    for id in (0..transfers).map(TransferId) {
        relay.offered(&mut conn, id, meta(), &mut events);
        relay.accept(Some(&mut conn), id, 0);
    }
    assert_eq!(events.len() as u128, transfers);
    conn.session.take_outbox();
    (relay, conn)
}

fn write(relay: &mut Relay, conn: &mut BulkConn, now: Nanos, id: u128, bytes: u64) {
    let transfer = relay.incoming.get_mut(&TransferId(id)).unwrap();
    transfer.durable += bytes;
    relay.confirm_durable(now, conn, TransferId(id));
}

#[test]
fn a_burst_looks_at_what_is_due_however_many_transfers_there_are() {
    let looked_at = |transfers: u128| {
        let (mut relay, mut conn) = receiving(transfers);
        let mut now = Nanos(1);
        for id in 0..transfers {
            write(&mut relay, &mut conn, now, id, 100);
            now += Duration::from_nanos(1);
        }
        for _ in 0..1000 {
            now += BURST;
            assert!(relay.next_timeout().is_some_and(|at| at > now));
            relay.handle_timeout(now, &mut conn);
        }
        assert!(conn.session.take_outbox().is_empty(), "not due yet");
        relay.due.looked_at.get()
    };
    assert_eq!(looked_at(10_000), looked_at(1));
}

#[test]
fn each_transfer_is_confirmed_at_its_time_and_once() {
    let (mut relay, mut conn) = receiving(3);
    let at = |ms| Nanos(0) + Duration::from_millis(ms);
    for (ms, id, bytes) in [(10, 0, 100), (20, 1, 100), (30, 2, 100), (40, 0, CONFIRM_STEP_BYTES), (50, 0, 7)] {
        write(&mut relay, &mut conn, at(ms), id, bytes);
    }
    let confirmed = |conn: &mut BulkConn| {
        let mut said = Session::default();
        said.deliver(&conn.session.take_outbox());
        let mut confirmed = Vec::new();
        while let Some(message) = said.next().unwrap() {
            let Message::Confirm { id, offset } = message else { panic!("{message:?}") };
            confirmed.push((id, offset));
        }
        confirmed
    };
    assert_eq!(confirmed(&mut conn), [(0, 100 + CONFIRM_STEP_BYTES)], "a whole step at once");
    // The first entry is of what has gone with the step.
    let mut times = Vec::new();
    while let Some(at) = relay.next_timeout() {
        relay.handle_timeout(at, &mut conn);
        times.push((at, confirmed(&mut conn)));
    }
    let last = (0, 107 + CONFIRM_STEP_BYTES);
    assert_eq!(times, [(at(210), vec![]), (at(220), vec![(1, 100)]), (at(230), vec![(2, 100)]), (at(250), vec![last])]);
    // Nothing of an older connection is left.
    write(&mut relay, &mut conn, at(300), 1, 1);
    relay.disconnected();
    assert_eq!(relay.next_timeout(), None);
}

#[test]
fn an_end_at_another_size_than_announced_is_refused_before_it_is_believed() {
    let mut relay = Relay::new(PeerId(0), 1, Limits::default());
    let mut conn = BulkConn { session: Session::greeted(3), ..BulkConn::default() };
    let mut events = VecDeque::new();
    let id = TransferId(7);
    relay.offered(&mut conn, id, TransferMeta { size: None, declared: Some(500), ..meta() }, &mut events);
    let transfer = relay.incoming.get_mut(&id).unwrap();
    for size in [0, 499, 501, u64::MAX] {
        assert!(matches!(transfer.finish(size, [0; 32]), Err(Failure { code: FailCode::Size, .. })), "{size}");
        assert_eq!(transfer.end, None);
    }
    assert_eq!(transfer.finish(500, [1; 32]), Ok(()));
}

#[test]
fn a_file_is_confirmed_by_what_is_synced_and_a_stream_by_what_is_written() {
    for (size, confirmed) in [(Some(1 << 40), 0), (None, 300)] {
        let (mut relay, mut conn) = receiving(0);
        let (id, mut events) = (TransferId(3), VecDeque::new());
        relay.offered(&mut conn, id, TransferMeta { size, ..meta() }, &mut events);
        relay.accept(None, id, 0);
        relay.incoming.get_mut(&id).unwrap().delivered = 500;
        relay.written(Nanos(1), None, id, 300, &mut events);
        assert_eq!(relay.incoming[&id].durable, confirmed);
        relay.synced(Nanos(2), None, id, 501, &mut events);
        assert_eq!(relay.incoming[&id].durable, confirmed, "beyond what was handed over");
        relay.synced(Nanos(2), None, id, 400, &mut events);
        let file = (400, 400);
        let transfer = &relay.incoming[&id];
        assert_eq!((transfer.durable, transfer.written), if size.is_some() { file } else { (300, 300) });
    }
}

#[test]
fn an_id_that_its_sender_has_given_to_something_else_is_refused_and_what_is_here_is_kept() {
    let (mut relay, mut conn) = receiving(1);
    let mut events = VecDeque::new();
    relay.disconnected();
    for other in [TransferMeta { name: "g".into(), ..meta() }, TransferMeta { size: Some(7), ..meta() }] {
        relay.offered(&mut conn, TransferId(0), other, &mut events);
        assert!(events.is_empty() && !relay.incoming[&TransferId(0)].offered);
        assert!(!conn.session.take_outbox().is_empty(), "its sender is told");
    }
    relay.offered(&mut conn, TransferId(0), meta(), &mut events);
    assert!(events.is_empty() && relay.incoming[&TransferId(0)].offered);
}

#[test]
fn the_sender_of_a_stream_may_be_as_far_ahead_as_the_gateway_says_and_no_further_than_is_configured() {
    let mut relay = Relay::new(PeerId(0), 1, Limits::default());
    let mut conn = BulkConn { session: Session::greeted(3), ..BulkConn::default() };
    let mut events = VecDeque::new();
    let id = TransferId(7);
    relay.offered(&mut conn, id, TransferMeta { size: None, ..meta() }, &mut events);
    relay.set_credit(id, 300_000);
    relay.accept(Some(&mut conn), id, 1000);
    let credit = |conn: &mut BulkConn| {
        let mut said = Session::default();
        said.deliver(&conn.session.take_outbox());
        let mut credits = std::iter::from_fn(|| said.next().unwrap()).filter_map(|message| match message {
            Message::Credit { limit, .. } => Some(limit),
            _ => None,
        });
        credits.next()
    };
    assert_eq!(credit(&mut conn), Some(301_000));
    relay.set_credit(id, u32::MAX);
    let most = u64::from(Limits::default().stream_credit_bytes);
    let transfer = relay.incoming.get_mut(&id).unwrap();
    transfer.push_confirm(&mut conn, id, 1000);
    assert_eq!(credit(&mut conn), Some(1000 + most));
}
