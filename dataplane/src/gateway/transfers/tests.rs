use super::super::replies::Answers;
use super::*;

const ID: TransferId = TransferId(7);

fn meta() -> TransferMeta {
    TransferMeta { name: "f".into(), size: Some(10), declared: None, priority: 3, attributes: vec![] }
}

fn told(answers: &Answers) -> Vec<TransferStatus> {
    let told = std::iter::from_fn(|| answers.try_next());
    told.map(|response| match response.body {
        Answer::Transfer(status) => *status,
        other => panic!("unexpected {other:?}"),
    })
    .collect()
}

#[test]
fn watchers_hear_at_once_then_of_changes_and_of_the_end_exactly_once() {
    let mut book = Transfers::new();
    let (replies, answers) = Replies::new();
    assert!(book.watch(ID, 1, &replies).is_err());
    book.peer_state("b", true);
    book.started(ID, "b", &meta(), true);
    book.tell_turns();
    book.watch(ID, 1, &replies).unwrap();
    assert_eq!(told(&answers).len(), 1);
    book.tell_progress();
    assert!(told(&answers).is_empty());
    for offset in 1..5 {
        book.confirmed(ID, offset);
    }
    book.peer_state("b", false);
    book.tell_progress();
    let news = told(&answers);
    assert!(news.len() == 1 && news[0].confirmed == 4 && news[0].stalled);
    // Progress that is told with a turn is not told again.
    book.confirmed(ID, 5);
    book.waiting(ID, true);
    book.tell_turns();
    book.tell_progress();
    let news = told(&answers);
    assert!(news.len() == 1 && news[0].confirmed == 5 && news[0].state == TransferState::NoReader);
    book.confirmed(ID, 6);
    book.ended(ID, Ok([9; 32]));
    let last = told(&answers);
    assert_eq!((last.len(), last[0].ended.clone(), last[0].confirmed), (1, Some(Ok([9; 32])), 10));
    book.tell_turns();
    book.tell_progress();
    assert!(told(&answers).is_empty());
    // Who asks late is told at once.
    book.watch(ID, 2, &replies).unwrap();
    assert_eq!(told(&answers).len(), 1);
    // How long it took does not change any more.
    assert_eq!(book.list(), last);
    assert_eq!(book.take_left(), [ID]);
}

#[test]
fn who_is_forgotten_hears_nothing_more_and_others_do() {
    let mut book = Transfers::new();
    let ((replies, answers), (other, others)) = (Replies::new(), Replies::new());
    book.started(ID, "b", &meta(), false);
    for (tag, replies) in [(1, &replies), (2, &replies), (1, &other)] {
        book.watch(ID, tag, replies).unwrap();
    }
    book.forget(1, &replies);
    told(&answers);
    told(&others);
    book.tell_turns();
    assert_eq!((told(&answers).len(), told(&others).len()), (1, 1));
    book.ended(ID, Err(Failure::new(crate::ipc::FailCode::Cancelled, "no")));
    assert_eq!((told(&answers).len(), told(&others).len()), (1, 1));
    assert!(book.watches.is_empty());
}

#[test]
fn progress_waits_for_a_conversation_that_reads_slowly_and_ends_do_not() {
    let mut book = Transfers::new();
    let (replies, answers) = Replies::new();
    book.started(ID, "b", &meta(), true);
    book.tell_turns();
    book.watch(ID, 1, &replies).unwrap();
    while !replies.is_busy() {
        reply(&replies, 2, Answer::Done);
    }
    book.confirmed(ID, 4);
    book.tell_progress();
    book.tell_progress();
    let all = std::iter::from_fn(|| answers.try_next()).filter(|response| response.tag == 1).count();
    assert_eq!(all, 1, "only what was told when it began to watch");
    book.tell_progress();
    assert_eq!(told(&answers)[0].confirmed, 4);
    while !replies.is_busy() {
        reply(&replies, 2, Answer::Done);
    }
    book.ended(ID, Err(Failure::new(crate::ipc::FailCode::Cancelled, "no")));
    assert!(std::iter::from_fn(|| answers.try_next()).any(|response| response.tag == 1));
}

#[test]
fn a_writer_hears_at_once_of_much_that_is_accepted_and_of_little_with_the_progress() {
    let mut book = Transfers::new();
    let (replies, answers) = Replies::new();
    book.started(ID, "b", &meta(), true);
    book.tell_turns();
    book.watch(ID, 1, &replies).unwrap();
    told(&answers);
    let heard = |book: &mut Transfers, accepted| {
        book.accepted(ID, accepted);
        book.tell_turns();
        told(&answers).iter().map(|status| status.accepted).collect::<Vec<_>>()
    };
    assert!(heard(&mut book, ACCEPTED_STEP - 1).is_empty());
    assert_eq!(heard(&mut book, ACCEPTED_STEP + 5), [ACCEPTED_STEP + 5]);
    assert!(heard(&mut book, 2 * ACCEPTED_STEP + 4).is_empty());
    book.tell_progress();
    assert_eq!(told(&answers).len(), 1);
    // From what it was told last.
    assert!(heard(&mut book, 3 * ACCEPTED_STEP).is_empty());
    book.accepted(ID, 3 * ACCEPTED_STEP + 4);
    while !replies.is_busy() {
        reply(&replies, 2, Answer::Done);
    }
    book.tell_turns();
    assert!(std::iter::from_fn(|| answers.try_next()).all(|response| response.tag == 2));
    book.tell_progress();
    assert_eq!(told(&answers)[0].accepted, 3 * ACCEPTED_STEP + 4);
}

#[test]
fn pages_join_without_a_gap_and_stay_below_what_a_message_may_have() {
    let mut book = Transfers::new();
    for id in (0..50).rev() {
        book.started(TransferId(id), "b", &meta(), true);
    }
    for id in (0..50).step_by(3) {
        book.ended(TransferId(id), Ok([0; 32]));
    }
    let walk = |book: &Transfers, ended, limit| {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (list, more) = book.page(ended, after, limit);
            after = list.last().map(|status| (status.ended.is_some(), status.id)).or(after);
            seen.extend(list.iter().map(|status| (status.ended.is_some(), status.id)));
            if !more {
                return seen;
            }
        }
    };
    let mut all: Vec<_> = (0..50).map(|id| (id % 3 == 0, id)).collect();
    all.sort_unstable();
    for limit in [1, 7, 33, 34, 50, 10_000] {
        assert_eq!(walk(&book, true, limit), all, "{limit}");
        let running: Vec<_> = all.iter().filter(|(ended, _)| !ended).copied().collect();
        assert_eq!(walk(&book, false, limit), running, "{limit}");
    }
    let heavy = TransferMeta { attributes: vec![("k".repeat(1024), "v".repeat(1024)); 64], ..meta() };
    for id in 100..200 {
        book.started(TransferId(id), "b", &heavy, true);
    }
    let (list, more) = book.page(true, None, 10_000);
    let bytes = postcard::to_stdvec(&Answer::Transfers { list, more }).unwrap().len();
    assert!(more && bytes < crate::ipc::MAX_IPC_BYTES as usize, "{bytes}");
    let bytes = postcard::to_stdvec(&book.list()).unwrap().len();
    assert!(bytes < crate::ipc::MAX_IPC_BYTES as usize / 2, "{bytes}");
    assert_eq!(walk(&book, true, 10_000).len(), 150);
}

#[test]
fn a_status_shows_what_runs_before_what_waits_and_no_more_than_a_hundred() {
    let mut book = Transfers::new();
    for id in 0..300 {
        book.started(TransferId(id), "b", &meta(), true);
        if id < 250 {
            book.state(TransferId(id), TransferState::Pending { position: 1 });
        }
    }
    let shown: Vec<_> = book.list().iter().map(|status| status.id).collect();
    assert_eq!(shown[..50], (250..300).collect::<Vec<_>>());
    assert_eq!(shown[50..], (0..50).collect::<Vec<_>>());
    for id in 0..300 {
        book.ended(TransferId(id), Ok([0; 32]));
    }
    assert_eq!(book.list().iter().map(|status| status.id).collect::<Vec<_>>(), (200..300).collect::<Vec<_>>());
}
