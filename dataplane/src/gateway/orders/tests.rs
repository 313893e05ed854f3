use florelay_engine::Event;

use super::super::testing::Bed;
use super::*;
use crate::ipc::{Answer, Failure, RequestBody};
use crate::plan::QueuePlan;

fn id(number: u128) -> TransferId {
    TransferId(number)
}

fn bed(max_concurrent: u32, max_pending: u32) -> Bed {
    Bed::with(|plan| {
        for peer in &mut plan.peers {
            peer.queue = QueuePlan { max_concurrent, max_pending };
        }
    })
}

fn order(number: u128, priority: u8) -> TransferOrder {
    TransferOrder::new("a", number, "f", priority)
}

/// State in the first answer to an order, or why it was refused.
fn answered(answer: Option<Answer>) -> Result<TransferState, (Refusal, String)> {
    match answer {
        Some(Answer::Transfer(status)) => Ok(status.state),
        Some(Answer::Refused { refusal, reason }) => Err((refusal, reason)),
        other => panic!("{other:?}"),
    }
}

fn sent(bed: &mut Bed, number: u128, priority: u8) -> Result<TransferState, (Refusal, String)> {
    answered(bed.order(order(number, priority)))
}

/// Ids of what worker 0 was told to send.
fn begun(bed: &Bed) -> Vec<u128> {
    let told = bed.told(0).into_iter();
    told.filter_map(|command| match command {
        Command::Send { id, .. } => Some(id.0),
        _ => None,
    })
    .collect()
}

/// Its engine says the end; what begins instead.
fn ends(bed: &mut Bed, number: u128) -> Vec<u128> {
    ends_with(bed, number, FailCode::Refused)
}

fn ends_with(bed: &mut Bed, number: u128, code: FailCode) -> Vec<u128> {
    let result = Err(Failure::new(code, "over"));
    let told = bed.says(0, Event::TransferEnded { id: id(number), result, wire_bytes: 9 });
    told.into_iter()
        .filter_map(|command| match command {
            Command::Send { id, .. } => Some(id.0),
            _ => None,
        })
        .collect()
}

fn pending(position: u32) -> TransferState {
    TransferState::Pending { position }
}

fn state(bed: &Bed, number: u128) -> Option<TransferState> {
    bed.gateway.transfers.running(id(number)).map(|status| status.state.clone())
}

fn end_of(bed: &Bed, number: u128) -> Option<Failure> {
    bed.gateway.transfers.known_end(id(number)).and_then(|status| status.ended.clone()?.err())
}

#[test]
fn one_at_a_time_the_highest_priority_first_then_the_oldest() {
    let mut bed = bed(1, 100);
    assert_eq!(sent(&mut bed, 1, 0), Ok(TransferState::Running));
    assert_eq!(sent(&mut bed, 2, 5), Ok(pending(1)));
    assert_eq!(sent(&mut bed, 3, 5), Ok(pending(2)));
    assert_eq!(sent(&mut bed, 4, 64), Ok(pending(1)));
    assert_eq!(sent(&mut bed, 5, 0), Ok(pending(4)));
    assert_eq!(begun(&bed), [1]);
    for (ended, next) in [(1, 4), (4, 2), (2, 3), (3, 5)] {
        assert_eq!(ends(&mut bed, ended), [next]);
        assert_eq!(state(&bed, next), Some(TransferState::Running));
    }
    assert!(ends(&mut bed, 5).is_empty());
}

#[test]
fn a_full_queue_refuses_with_its_numbers_and_holds_up_no_other_peer() {
    let mut bed = bed(2, 3);
    for number in 1..=5 {
        sent(&mut bed, number, 0).unwrap();
    }
    let (refusal, reason) = sent(&mut bed, 6, 127).unwrap_err();
    assert_eq!(refusal, Refusal::QueueFull);
    assert!(reason.contains("2 transfers to a run (at most 2) and 3 wait (at most 3"), "{reason}");
    assert_eq!(answered(bed.order(TransferOrder::new("b", 6, "f", 0))), Ok(TransferState::Running));
    bed.ask(RequestBody::SetQueue { to: None, max_concurrent: None, max_pending: Some(4) });
    assert_eq!(sent(&mut bed, 7, 0), Ok(pending(4)));
    bed.ask(RequestBody::SetQueue { to: Some("a".into()), max_concurrent: Some(4), max_pending: None });
    assert_eq!(begun(&bed), [1, 2, 3, 4]);
    let Some(Answer::Queues(queues)) = bed.ask(RequestBody::Queues) else { panic!("no queues") };
    assert_eq!((queues[0].active, queues[0].max_concurrent, queues[0].max_pending), (4, 4, 4));
    assert_eq!((&queues[0].pending[..], queues[1].active), (&[5, 7][..], 1));
    let too_many = bed.ask(RequestBody::SetQueue { to: None, max_concurrent: None, max_pending: Some(u32::MAX) });
    assert!(matches!(too_many, Some(Answer::Failed(_))));
}

#[test]
fn what_cannot_be_carried_out_is_refused_at_once_and_takes_no_place() {
    let mut bed = bed(1, 1);
    let now = crate::wall::now_unix_ns();
    let wrong = [
        (TransferOrder::new("c", 1, "f", 0), Refusal::NoSuchPeer, "no peer `c`"),
        (order(1, 128), Refusal::Invalid, "priority"),
        (TransferOrder::new("a", 1, "a/b", 0), Refusal::Invalid, "directory"),
        (TransferOrder::new("a", 1, ".profile", 0), Refusal::Invalid, "hidden"),
        (TransferOrder { deadline_unix_ns: Some(now), ..order(1, 0) }, Refusal::Invalid, "passed already"),
    ];
    for (order, expected, word) in wrong {
        let (refusal, reason) = answered(bed.order(order)).unwrap_err();
        assert!(refusal == expected && reason.contains(word), "{refusal:?} {reason}");
    }
    assert_eq!(sent(&mut bed, 1, 0), Ok(TransferState::Running));
    assert_eq!(sent(&mut bed, 2, 0), Ok(pending(1)));
    // The same again only watches; something else under the id is refused, wherever the first stands.
    assert_eq!(sent(&mut bed, 2, 0), Ok(pending(1)));
    for number in [1, 2] {
        let other = TransferOrder::new("a", number, "g", 0);
        assert_eq!(answered(bed.order(other)).unwrap_err().0, Refusal::Duplicate);
    }
    ends(&mut bed, 1);
    let other = TransferOrder::new("a", 1, "g", 0);
    let (refusal, reason) = answered(bed.order(other)).unwrap_err();
    assert!(refusal == Refusal::Duplicate && reason.contains("was `f` to a"), "{reason}");
    assert_eq!(sent(&mut bed, 1, 0), Ok(pending(1)));
}

#[test]
fn a_paused_transfer_gives_its_place_away_and_queues_again_where_it_was() {
    let mut bed = bed(1, 100);
    for number in 1..=3 {
        sent(&mut bed, number, 0).unwrap();
    }
    assert_eq!(begun(&bed), [1]);
    assert_eq!(bed.ask(RequestBody::Pause { id: 1 }), Some(Answer::Done));
    assert_eq!(state(&bed, 1), Some(TransferState::Paused));
    let told = bed.told(0);
    assert!(
        matches!(told[..], [Command::Hold { id: TransferId(1), held: true }, Command::Send { id: TransferId(2), .. }]),
        "{told:?}"
    );
    assert_eq!(bed.ask(RequestBody::Pause { id: 1 }), Some(Answer::Done));
    assert_eq!(bed.ask(RequestBody::Resume { id: 1 }), Some(Answer::Done));
    assert_eq!(state(&bed, 1), Some(pending(1)));
    // One that waits can be held too, and is passed over.
    bed.ask(RequestBody::Pause { id: 3 });
    let result = Err(Failure::new(FailCode::Refused, "over"));
    let told = bed.says(0, Event::TransferEnded { id: id(2), result, wire_bytes: 9 });
    assert!(matches!(told[..], [Command::Hold { id: TransferId(1), held: false }]), "{told:?}");
    assert_eq!(state(&bed, 1), Some(TransferState::Running));
    assert!(ends(&mut bed, 1).is_empty());
    assert_eq!(state(&bed, 3), Some(TransferState::Paused));
    bed.ask(RequestBody::Resume { id: 3 });
    assert_eq!((state(&bed, 3), begun(&bed)), (Some(TransferState::Running), vec![3]));
    let answer = bed.ask(RequestBody::Pause { id: 99 });
    assert!(matches!(&answer, Some(Answer::Failed(reason)) if reason.contains("no transfer")), "{answer:?}");
}

#[test]
fn another_priority_is_another_place() {
    let mut bed = bed(1, 100);
    for number in 1..=4 {
        sent(&mut bed, number, 1).unwrap();
    }
    assert_eq!(bed.ask(RequestBody::SetPriority { id: 4, priority: 2 }), Some(Answer::Done));
    assert_eq!(state(&bed, 4), Some(pending(1)));
    assert_eq!(bed.ask(RequestBody::SetPriority { id: 2, priority: 0 }), Some(Answer::Done));
    begun(&bed);
    assert_eq!(bed.ask(RequestBody::SetPriority { id: 1, priority: 9 }), Some(Answer::Done));
    assert!(matches!(bed.told(0)[..], [Command::SetPriority { id: TransferId(1), priority: 9 }]));
    assert_eq!(bed.gateway.transfers.running(id(1)).map(|status| status.priority), Some(9));
    assert_eq!(ends(&mut bed, 1), [4]);
    assert_eq!((ends(&mut bed, 4), ends(&mut bed, 3)), (vec![3], vec![2]));
    assert!(matches!(bed.ask(RequestBody::SetPriority { id: 2, priority: 128 }), Some(Answer::Failed(_))));
}

#[test]
fn cancelled_it_ends_wherever_it_stands() {
    let mut bed = bed(1, 100);
    for number in 1..=4 {
        sent(&mut bed, number, 0).unwrap();
    }
    begun(&bed);
    bed.ask(RequestBody::Pause { id: 3 });
    for number in [2, 3] {
        assert_eq!(bed.ask(RequestBody::Cancel { id: number }), Some(Answer::Done));
        let failure = end_of(&bed, number).unwrap();
        assert_eq!(failure.code, FailCode::Cancelled);
        assert!(bed.told(0).is_empty(), "its engine never heard of it");
    }
    bed.ask(RequestBody::Cancel { id: 1 });
    let told = bed.told(0);
    assert!(matches!(&told[..], [Command::Cancel { failure, .. }] if failure.code == FailCode::Cancelled), "{told:?}");
    assert_eq!(state(&bed, 1), Some(TransferState::Running), "its engine says the end");
    assert_eq!(ends_with(&mut bed, 1, FailCode::Cancelled), [4]);
    assert_eq!(end_of(&bed, 1).unwrap().code, FailCode::Cancelled);
    // An incoming one likewise.
    let meta = TransferMeta { name: "f".into(), size: None, declared: None, priority: 0, attributes: vec![] };
    bed.says(0, Event::Offered { peer: PeerId(0), id: id(9), meta });
    assert_eq!(bed.ask(RequestBody::Cancel { id: 9 }), None, "its engine says the end, and the book is to have it");
    assert!(matches!(bed.told(0)[..], [Command::Cancel { id: TransferId(9), .. }]));
}

#[test]
fn a_deadline_is_followed_by_the_wall_clock_wherever_it_goes() {
    let mut bed = bed(1, 100);
    let now = crate::wall::now_unix_ns();
    let hour = 3_600_000_000_000;
    for number in 1..=3 {
        let deadline_unix_ns = Some(now + number as u64 * hour);
        bed.order(TransferOrder { deadline_unix_ns, ..order(number, 0) });
    }
    begun(&bed);
    bed.gateway.follow_deadlines(now + hour / 2);
    assert_eq!(bed.gateway.transfers.count(), 3);
    // The clock is set forward.
    bed.gateway.follow_deadlines(now + 2 * hour);
    bed.gateway.settle();
    assert_eq!(end_of(&bed, 2).unwrap().code, FailCode::Timeout);
    let told = bed.told(0);
    let [Command::Cancel { failure, .. }] = &told[..] else { panic!("{told:?}") };
    assert!(failure.code == FailCode::Timeout && failure.reason.contains("deadline"), "{failure}");
    // And back: the third has its time.
    bed.gateway.follow_deadlines(now);
    assert_eq!(ends_with(&mut bed, 1, FailCode::Timeout), [3]);
    ends(&mut bed, 3);
    bed.gateway.follow_deadlines(u64::MAX);
    assert!(bed.told(0).is_empty(), "it had ended before");
    assert!(bed.gateway.orders.deadlines.is_empty() && bed.gateway.orders.own.is_empty());
}

#[test]
fn queue_events_come_at_once_and_then_together() {
    let mut bed = bed(1, 10_000);
    bed.ask(RequestBody::Events);
    bed.reported();
    bed.answers();
    for number in 1..=2000 {
        sent(&mut bed, number, 0).unwrap();
    }
    let queues = |bed: &mut Bed| -> Vec<QueueStatus> {
        let queue = |answer| match answer {
            Answer::Event(NodeEvent::Queue(status)) => Some(status),
            _ => None,
        };
        bed.answers().into_iter().filter_map(queue).collect()
    };
    bed.gateway.tell_queues();
    let told = queues(&mut bed);
    let last = told.last().unwrap();
    assert_eq!((last.active, last.pending.len(), last.pending[0]), (1, PENDING_SHOWN, 2));
    ends(&mut bed, 1);
    bed.gateway.tell_queues();
    bed.gateway.transfers.tell_progress();
    assert_eq!(state(&bed, 3), Some(pending(1)));
    // The places of all are known to who asks for all.
    let all = bed.gateway.all_transfers();
    assert!(all.iter().skip(1).zip(1..).all(|(status, place)| status.state == pending(place)));
}

#[test]
fn an_id_that_arrived_with_other_bytes_is_not_done_again() {
    let mut bed = bed(0, 10);
    let path = bed.path().join("changing");
    // The receiver answers each order at once: it has the first one's file.
    let result = |bed: &mut Bed, content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        assert_eq!(answered(bed.order_file(order(1, 0), &path)), Ok(TransferState::Running));
        bed.says(0, Event::TransferEnded { id: id(1), result: Ok(()), wire_bytes: 9 });
        while bed.running(id(1)).is_some() {
            let input = bed.gateway.inputs.recv().unwrap();
            bed.gateway.input(input);
        }
        let mut ends = bed.answers().into_iter().filter_map(|answer| match answer {
            Answer::Transfer(status) => status.ended,
            _ => None,
        });
        ends.next_back().unwrap().map_err(|failure| failure.code)
    };
    let first = *blake3::hash(b"first").as_bytes();
    assert_eq!(result(&mut bed, b"first"), Ok(first));
    for _ in 0..2 {
        assert_eq!(result(&mut bed, b"other"), Err(FailCode::SourceChanged));
    }
    assert_eq!(result(&mut bed, b"first"), Ok(first));
}
