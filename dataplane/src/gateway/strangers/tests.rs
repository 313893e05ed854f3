use florelay_engine::api::{FailCode, Failure, TransferMeta};

use super::*;
use crate::gateway::testing::Bed;
use crate::ipc::{Answer, Refusal};

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
const ID: TransferId = TransferId(7);

fn offered(peer: PeerId, size: Option<u64>) -> Event {
    let meta = TransferMeta { name: "f".into(), size, declared: None, priority: 0, attributes: vec![] };
    Event::Offered { peer, id: ID, meta }
}

fn ended() -> Event {
    Event::TransferEnded { id: ID, result: Err(Failure::new(FailCode::Cancelled, "given up")), wire_bytes: 0 }
}

fn assert_refused(told: &[Command]) {
    let [Command::Cancel { id: ID, failure: Failure { reason, .. } }] = told else { panic!("{told:?}") };
    assert!(reason.contains("this id is running"), "{reason}");
}

#[test]
fn an_offer_of_an_id_that_runs_with_another_workers_peer_is_refused_and_ends_only_itself() {
    for size in [Some(5), None] {
        for while_opening in [true, false] {
            let mut bed = Bed::new();
            assert!(bed.says(0, offered(A, Some(5))).is_empty());
            if !while_opening {
                bed.opened();
                assert!(matches!(bed.told(0)[..], [Command::Accept { id: ID, offset: 0 }]));
            }
            assert_refused(&bed.says(1, offered(B, size)));
            bed.says(1, ended());
            if while_opening {
                bed.opened();
                assert!(matches!(bed.told(0)[..], [Command::Accept { id: ID, offset: 0 }]));
            }
            assert_eq!(bed.running(ID), Some(("a", false)));
            let data = Event::Data { id: ID, offset: 0, data: bytes::Bytes::from_static(b"12345") };
            let told = bed.says(0, data);
            assert!(matches!(told[..], [Command::Written { id: ID, offset: 5 }]));
            // Now the id is free, for the other peer too.
            bed.says(0, ended());
            assert_eq!(bed.running(ID), None);
            assert!(bed.says(1, offered(B, Some(5))).is_empty());
        }
    }
}

#[test]
fn an_offer_of_an_id_that_is_sent_to_another_peer_ends_only_itself() {
    let mut bed = Bed::new();
    assert!(matches!(bed.send("a", ID), Some(Answer::Transfer(_))));
    assert!(matches!(bed.told(0)[..], [Command::Send { peer: A, id: ID, .. }]));
    assert_refused(&bed.says(1, offered(B, Some(5))));
    // A restarted node is as strange as before.
    bed.says(1, Event::TransferShelved { id: ID });
    assert_eq!(bed.running(ID), Some(("a", true)));
    bed.says(0, ended());
    assert_eq!(bed.running(ID), None);
}

#[test]
fn an_own_transfer_and_an_offer_that_cross_each_end_once() {
    let mut bed = Bed::new();
    bed.send("a", ID);
    bed.told(0);
    // Its engine had said so before it heard of ours, which it then refuses.
    assert_refused(&bed.says(0, offered(A, Some(5))));
    bed.says(0, ended());
    assert_eq!(bed.running(ID), Some(("a", true)), "one of the two ends");
    bed.says(0, ended());
    assert_eq!(bed.running(ID), None);
}

#[test]
fn nothing_is_sent_under_an_id_that_is_being_offered() {
    let mut bed = Bed::new();
    bed.says(0, offered(A, Some(5)));
    let answer = bed.send("b", ID);
    assert!(
        matches!(&answer, Some(Answer::Refused { refusal: Refusal::Duplicate, reason }) if reason.contains("offered by a")),
        "{answer:?}"
    );
    bed.opened();
    assert_eq!((bed.running(ID), bed.told(1).len()), (Some(("a", false)), 0));
}
