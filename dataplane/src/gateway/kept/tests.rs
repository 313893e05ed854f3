use std::time::{Duration, Instant};

use florelay_engine::Command;

use super::*;
use crate::gateway::testing::Bed;
use crate::ipc::{Answer, RequestBody, TransferOrder};

const A: PeerId = PeerId(0);
const ID: TransferId = TransferId(7);
const OTHER: TransferId = TransferId(8);

fn state(bed: &Bed, id: TransferId) -> TransferState {
    bed.gateway.transfers.running(id).map(|status| status.state.clone()).unwrap()
}

/// A bed with one file under way that has a path.
fn with_file() -> (Bed, PathBuf) {
    let mut bed = Bed::new();
    let path = bed.path().join("image.tif");
    std::fs::write(&path, vec![7; 200_000]).unwrap();
    assert!(matches!(bed.order_file(TransferOrder::new("a", ID.0, "f", 3), &path), Some(Answer::Transfer(_))));
    assert!(matches!(bed.told(0)[..], [Command::Send { peer: A, id: ID, .. }]));
    (bed, path)
}

#[test]
fn files_go_on_after_a_restart_by_their_paths() {
    let (bed, _) = with_file();
    let mut bed = bed.restarted();
    let told = bed.told(0);
    let [Command::Send { id: ID, meta, kept, .. }, Command::Hold { held: true, .. }, Command::Hold { held: false, .. }] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((meta.size, meta.priority, *kept), (Some(200_000), 3, KeptOfEngine { confirmed: 0, head: 200_000 }));
    bed.says(0, Event::SupplyFrom { id: ID, offset: 131_072 });
    bed.says(0, Event::SupplyUpTo { id: ID, limit: 1 << 20 });
    while bed.gateway.supply() {}
    let told = bed.told(0);
    let [Command::Supply { offset: 131_072, .. }, .., Command::SupplyEnd { digest, .. }] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(*digest, *blake3::hash(&[7; 200_000]).as_bytes());
    bed.says(0, Event::TransferEnded { id: ID, result: Ok(()), wire_bytes: 9 });
    // Its end is known to the next start, and a repeated order is not taken for another.
    let mut bed = bed.restarted();
    assert!(bed.told(0).is_empty());
    let ended = bed.gateway.transfers.known_end(ID).unwrap();
    assert_eq!((ended.size, ended.ended.clone()), (Some(200_000), Some(Ok(*digest))));
    assert!(matches!(bed.order(TransferOrder::new("b", ID.0, "f", 3)), Some(Answer::Refused { .. })));
}

#[test]
fn a_file_that_is_not_found_waits_for_the_same_order() {
    let (bed, path) = with_file();
    std::fs::write(&path, vec![8; 200_000]).unwrap();
    let mut bed = bed.restarted();
    assert!(matches!(bed.told(0)[..], [Command::Send { .. }, Command::Hold { held: true, .. }]));
    let TransferState::NoFile(reason) = state(&bed, ID) else { panic!("{:?}", state(&bed, ID)) };
    assert!(reason.contains("image.tif") && reason.contains("changed"), "{reason}");
    let answer = bed.ask(RequestBody::Resume { id: ID.0 });
    assert!(matches!(answer, Some(Answer::Failed(reason)) if reason.contains("send the same file again")));
    // Gone altogether, at another start.
    std::fs::remove_file(&path).unwrap();
    let mut bed = bed.restarted();
    bed.told(0);
    let TransferState::NoFile(reason) = state(&bed, ID) else { panic!("{:?}", state(&bed, ID)) };
    assert!(reason.contains("cannot open"), "{reason}");
    let path = bed.path().join("again.tif");
    std::fs::write(&path, vec![7; 199_999]).unwrap();
    let order = TransferOrder::new("a", ID.0, "f", 3);
    assert!(matches!(bed.order_file(order.clone(), &path), Some(Answer::Refused { .. })), "another size");
    std::fs::write(&path, vec![7; 200_000]).unwrap();
    // Its receiver has said its place meanwhile.
    bed.says(0, Event::SupplyFrom { id: ID, offset: 65_536 });
    assert!(bed.says(0, Event::SupplyUpTo { id: ID, limit: 1 << 20 }).is_empty());
    assert!(matches!(bed.order_file(order, &path), Some(Answer::Transfer(_))));
    assert!(matches!(bed.told(0)[..], [Command::Hold { held: false, .. }]));
    while bed.gateway.supply() {}
    let told = bed.told(0);
    assert!(matches!(told[..], [Command::Supply { offset: 65_536, .. }, .., Command::SupplyEnd { .. }]), "{told:?}");
    assert_eq!(state(&bed, ID), TransferState::Running);
    // It is found there from now on.
    let bed = bed.restarted();
    assert_eq!((bed.told(0).len(), state(&bed, ID)), (3, TransferState::Running));
}

#[test]
fn what_an_operator_changed_outlives_a_restart() {
    let (mut bed, path) = with_file();
    bed.ask(RequestBody::Pause { id: ID.0 });
    bed.ask(RequestBody::SetPriority { id: ID.0, priority: 99 });
    let far = crate::wall::now_unix_ns() + 3_600_000_000_000;
    let order = TransferOrder { deadline_unix_ns: Some(far), ..TransferOrder::new("a", OTHER.0, "g", 0) };
    bed.order_file(order, &path);
    let mut bed = bed.restarted();
    let told = bed.told(0);
    let held = told.iter().filter(|command| matches!(command, Command::Hold { id: ID, .. })).count();
    assert_eq!((held, state(&bed, ID), state(&bed, OTHER)), (1, TransferState::Paused, TransferState::Running));
    assert_eq!(bed.gateway.transfers.running(ID).unwrap().priority, 99);
    assert_eq!(bed.gateway.transfers.running(OTHER).unwrap().deadline_unix_ns, Some(far));
    bed.ask(RequestBody::Resume { id: ID.0 });
    assert!(matches!(bed.told(0)[..], [Command::Hold { id: ID, held: false }]));
    bed.gateway.follow_deadlines(far);
    assert!(matches!(&bed.told(0)[..], [Command::Cancel { id: OTHER, failure }] if failure.code == FailCode::Timeout));
}

#[test]
fn a_received_file_is_confirmed_when_synced_and_goes_on_there_after_a_restart() {
    let meta = TransferMeta { name: "f".into(), size: Some(100), declared: None, priority: 0, attributes: vec![] };
    let offered = |bed: &mut Bed| {
        bed.says(0, Event::Offered { peer: A, id: ID, meta: meta.clone() });
        bed.opened();
        bed.told(0)
    };
    let data = |offset: u64, length: usize| Event::Data { id: ID, offset, data: vec![7; length].into() };
    let mut bed = Bed::new();
    assert!(matches!(offered(&mut bed)[..], [Command::Accept { offset: 0, .. }]));
    assert!(matches!(bed.says(0, data(0, 40))[..], [Command::Written { offset: 40, .. }]));
    bed.gateway.sync_files(Instant::now());
    bed.gateway.sync_files(Instant::now() + Duration::from_secs(2));
    assert!(matches!(bed.told_next(0)[..], [Command::Synced { offset: 40, .. }]));
    assert!(matches!(bed.says(0, data(40, 20))[..], [Command::Written { offset: 60, .. }]));
    // The kernel was not restarted: what was written is there, and is synced before it is accepted.
    let mut bed = bed.restarted();
    assert!(matches!(offered(&mut bed)[..], [Command::Accept { offset: 60, .. }]));
    bed.says(0, data(60, 40));
    let digest = *blake3::hash(&[7; 100]).as_bytes();
    bed.says(0, Event::DataEnd { id: ID, size: 100, digest });
    assert!(matches!(bed.told_next(0)[..], [Command::Complete { result: Ok(()), .. }]));
    // Its sender has not heard: it is answered, also by the next start.
    bed.says(0, Event::TransferEnded { id: ID, result: Ok(()), wire_bytes: 0 });
    let mut bed = bed.restarted();
    assert!(matches!(offered(&mut bed)[..], [Command::Complete { result: Ok(()), .. }]));
    assert_eq!(std::fs::read(bed.path().join("inbox/f")).unwrap(), [7; 100]);
}

fn meta(size: Option<u64>) -> TransferMeta {
    TransferMeta { name: "f".into(), size, declared: None, priority: 0, attributes: vec![] }
}

/// The operator cancels what runs under `ID`; the answer comes with its end in the book, and not before.
fn cancelled(bed: &mut Bed) {
    assert_eq!(bed.ask(RequestBody::Cancel { id: ID.0 }), None);
    let told = bed.told(0);
    let [Command::Cancel { id: ID, failure }] = &told[..] else { panic!("{told:?}") };
    bed.says(0, Event::GivenUp { id: ID });
    bed.says(0, Event::TransferEnded { id: ID, result: Err(failure.clone()), wire_bytes: 0 });
    bed.gateway.kept.close();
    let answers = bed.answers();
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Done).count(), 1, "{answers:?}");
}

#[test]
fn what_was_cancelled_at_either_end_is_said_after_a_restart_until_the_peer_has_heard() {
    for own in [true, false] {
        let mut bed = if own {
            with_file().0
        } else {
            let mut bed = Bed::new();
            bed.says(0, Event::Offered { peer: A, id: ID, meta: meta(Some(100)) });
            bed.opened();
            bed.told(0);
            bed
        };
        cancelled(&mut bed);
        for _ in 0..2 {
            bed = bed.restarted();
            let told = bed.told(0);
            assert!(
                matches!(&told[..], [Command::GaveUp { peer: A, id: ID, own: said, failure }]
                    if *said == own && failure.code == FailCode::Cancelled && failure.reason.contains("operator")),
                "{told:?}"
            );
            assert!(!bed.gateway.transfers.is_running(ID));
        }
        // Of another direction or peer it says nothing.
        bed.says(0, Event::Heard { peer: A, id: ID, own: !own });
        bed.says(1, Event::Heard { peer: PeerId(1), id: ID, own });
        bed = bed.restarted();
        assert_eq!(bed.told(0).len(), 1);
        bed.says(0, Event::Heard { peer: A, id: ID, own });
        assert!(bed.restarted().told(0).is_empty());
    }
}

#[test]
fn what_is_sent_again_after_it_was_cancelled_is_not_ended_by_that_after_a_restart() {
    let (mut bed, path) = with_file();
    cancelled(&mut bed);
    assert!(matches!(bed.order_file(TransferOrder::new("a", ID.0, "f", 3), &path), Some(Answer::Transfer(_))));
    let told = bed.restarted().told(0);
    assert!(matches!(told[..], [Command::Send { id: ID, .. }, Command::Hold { .. }, Command::Hold { .. }]), "{told:?}");
}

#[test]
fn a_peer_that_gives_up_hears_when_the_book_has_it() {
    let (mut bed, _) = with_file();
    let result = Err(Failure::new(FailCode::Storage, "full"));
    bed.says(0, Event::TransferEnded { id: ID, result, wire_bytes: 0 });
    assert!(matches!(bed.told_next(0)[..], [Command::EndKept { peer: A, id: ID }]));
    // It has said so itself; there is nothing to tell it.
    assert!(bed.restarted().told(0).is_empty());
}

#[test]
fn what_is_synced_of_a_file_outlives_a_disk_that_was_full_and_nothing_of_one_that_was_cancelled() {
    for (code, goes_on) in [(FailCode::Storage, 40), (FailCode::Cancelled, 0)] {
        let mut bed = Bed::new();
        let offered = |bed: &mut Bed| {
            bed.says(0, Event::Offered { peer: A, id: ID, meta: meta(Some(100)) });
            bed.opened();
            bed.told(0)
        };
        let data = |offset: u64, length: usize| Event::Data { id: ID, offset, data: vec![7; length].into() };
        offered(&mut bed);
        bed.says(0, data(0, 40));
        bed.gateway.sync_files(Instant::now());
        bed.gateway.sync_files(Instant::now() + Duration::from_secs(2));
        assert!(matches!(bed.told_next(0)[..], [Command::Synced { offset: 40, .. }]));
        bed.says(0, data(40, 20));
        bed.says(0, Event::GivenUp { id: ID });
        bed.says(0, Event::TransferEnded { id: ID, result: Err(Failure::new(code, "over")), wire_bytes: 0 });
        bed.says(0, Event::Heard { peer: A, id: ID, own: false });
        // Sent again, also to another start.
        for _ in 0..2 {
            let told = offered(&mut bed);
            assert!(matches!(told[..], [Command::Accept { offset, .. }] if offset == goes_on), "{code:?}: {told:?}");
            bed = bed.restarted();
        }
    }
}

#[test]
fn paused_while_its_file_is_missing_it_waits_when_that_is_back() {
    let (bed, path) = with_file();
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).unwrap();
    let mut bed = bed.restarted();
    bed.told(0);
    assert_eq!(bed.ask(RequestBody::Pause { id: ID.0 }), Some(Answer::Done));
    assert!(matches!(state(&bed, ID), TransferState::NoFile(_)), "what it waits for first");
    std::fs::rename(&away, &path).unwrap();
    assert!(matches!(bed.order_file(TransferOrder::new("a", ID.0, "f", 3), &path), Some(Answer::Transfer(_))));
    assert_eq!((state(&bed, ID), bed.told(0).len()), (TransferState::Paused, 0));
    bed.ask(RequestBody::Resume { id: ID.0 });
    assert!(matches!(bed.told(0)[..], [Command::Hold { held: false, .. }]));
}

#[test]
fn what_is_left_of_one_peers_file_is_not_taken_for_what_is_left_of_anothers() {
    let mut bed = Bed::new();
    let offered = |bed: &mut Bed, peer: u16| {
        let worker = usize::from(peer);
        bed.says(worker, Event::Offered { peer: PeerId(peer), id: ID, meta: meta(Some(100)) });
        bed.opened();
        bed.told(worker)
    };
    for (peer, length) in [(0, 40), (1, 60)] {
        let worker = usize::from(peer);
        assert!(matches!(offered(&mut bed, peer)[..], [Command::Accept { offset: 0, .. }]));
        bed.says(worker, Event::Data { id: ID, offset: 0, data: vec![peer as u8; length].into() });
        bed.gateway.sync_files(Instant::now());
        bed.gateway.sync_files(Instant::now() + Duration::from_secs(2));
        assert!(matches!(bed.told_next(worker)[..], [Command::Synced { .. }]));
        bed.says(worker, Event::TransferShelved { id: ID });
    }
    // The second's bytes lie where the first's did.
    let mut bed = bed.restarted();
    assert!(matches!(offered(&mut bed, 0)[..], [Command::Accept { offset: 0, .. }]));
}
