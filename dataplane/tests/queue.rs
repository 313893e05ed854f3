//! Queues between two whole nodes over loopback: what waits, what begins, what is held, ends or is given up, and ten thousand at
//! once.
#![forbid(unsafe_code)]

mod nodes;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::UdpSocket;

use florelay_dataplane::ipc::{
    Answer, FailCode, NodeEvent, Refusal, RequestBody, TransferOrder, TransferState, TransferStatus,
};
use florelay_dataplane::plan::{AdapterPlan, NodePlan, QueuePlan};

use nodes::{Node, Realm, assert_received, link};

fn plans(realm: &Realm, queue: QueuePlan, rate_bps: Option<u64>) -> (NodePlan, NodePlan) {
    let free = || UdpSocket::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("bound");
    let (a, b) = (free(), free());
    let mut plan_a = realm.plan("a", "a", "b", link(a, b, AdapterPlan::Udp, rate_bps));
    plan_a.peers[0].queue = queue;
    (plan_a, realm.plan("b", "b", "a", link(b, a, AdapterPlan::Udp, rate_bps)))
}

/// What happens at a node, from the present on.
struct Events(u64);

impl Events {
    fn of(node: &mut Node) -> Self {
        let events = Self(node.client.ask(RequestBody::Events, None));
        while events.next(node) != NodeEvent::Present {}
        events
    }

    fn next(&self, node: &mut Node) -> NodeEvent {
        match node.client.answer(self.0) {
            Answer::Event(event) => event,
            other => panic!("subscribed to events, got {other:?}"),
        }
    }

    /// The end of this transfer.
    fn end(&self, node: &mut Node, id: u128) -> TransferStatus {
        loop {
            if let NodeEvent::Transfer(status) = self.next(node)
                && status.id == id
                && status.ended.is_some()
            {
                return *status;
            }
        }
    }
}

fn code(status: &TransferStatus) -> Option<FailCode> {
    status.ended.clone()?.err().map(|failure| failure.code)
}

/// Order a file; the tag, and the first answer.
fn send(node: &mut Node, path: &std::path::Path, order: TransferOrder) -> (u64, Answer) {
    let file = File::open(path).expect("the file is there");
    let tag = node.client.ask(RequestBody::SendFile { order, path: None }, Some(&file));
    let answer = node.client.answer(tag);
    (tag, answer)
}

fn state(answer: &Answer) -> TransferState {
    match answer {
        Answer::Transfer(status) => status.state.clone(),
        other => panic!("{other:?}"),
    }
}

fn done(node: &mut Node, body: RequestBody) {
    let tag = node.client.ask(body, None);
    assert_eq!(node.client.answer(tag), Answer::Done);
}

/// Files of six priorities, ordered while the link is down, begin by priority and age; never more than `concurrent` at once.
fn in_order(concurrent: u32) {
    let realm = Realm::new();
    let queue = QueuePlan { max_concurrent: concurrent, max_pending: 6 - concurrent };
    let (mut plan_a, plan_b) = plans(&realm, queue, None);
    plan_a.links[0].admin_up = false;
    let inbox = plan_b.inbox.clone();
    let (mut a, b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let events = Events::of(&mut a);
    let priorities = [0, 0, 5, 64, 5, 127];
    let mut files = Vec::new();
    for (id, priority) in (1..).zip(priorities) {
        let (path, digest) = realm.file(&format!("file-{id}"), 200_000);
        let (_, answer) = send(&mut a, &path, TransferOrder::new("b", id, format!("file-{id}"), priority));
        let waits = matches!(state(&answer), TransferState::Pending { .. });
        assert_eq!(waits, id > u128::from(concurrent), "{answer:?}");
        if id == 5 && concurrent == 1 {
            // Behind 4 (64) and 3 (5), before 2 (0).
            assert_eq!(state(&answer), TransferState::Pending { position: 3 });
        }
        files.push((id, digest));
    }
    let (path, _) = realm.file("one too many", 1);
    let (_, answer) = send(&mut a, &path, TransferOrder::new("b", 7, "one too many", 127));
    assert!(matches!(&answer, Answer::Refused { refusal: Refusal::QueueFull, reason } if reason.contains("at most")));
    a.client.set_admin("line", true);
    let (mut began, mut running, mut over) = (Vec::new(), BTreeSet::new(), 0);
    while over < files.len() {
        match events.next(&mut a) {
            NodeEvent::Transfer(status) if status.ended.is_some() => {
                assert!(running.remove(&status.id), "{} ended twice, or without having begun", status.id);
                let (_, digest) = files.iter().find(|(id, _)| *id == status.id).expect("one of ours");
                assert_eq!(status.ended, Some(Ok(*digest)));
                over += 1;
            }
            NodeEvent::Transfer(status) if status.state == TransferState::Running && running.insert(status.id) => {
                began.push(status.id);
                assert!(running.len() <= concurrent as usize, "{running:?}");
            }
            NodeEvent::Queue(queue) => assert!(queue.active <= concurrent, "{queue:?}"),
            _ => {}
        }
    }
    let expected = if concurrent == 1 { [1, 6, 4, 3, 5, 2] } else { [1, 2, 6, 4, 3, 5] };
    assert_eq!(began, expected);
    for (id, digest) in files {
        assert_received(&inbox, &format!("file-{id}"), &digest);
    }
    a.stop();
    b.stop();
}

#[test]
fn ordered_during_an_outage_they_are_answered_at_once_and_begin_in_order_one_at_a_time() {
    in_order(1);
}

#[test]
fn ordered_during_an_outage_they_are_answered_at_once_and_begin_in_order_two_at_a_time() {
    in_order(2);
}

#[test]
fn a_paused_file_lets_another_pass_and_goes_on_where_it_was() {
    let realm = Realm::new();
    let queue = QueuePlan { max_concurrent: 1, max_pending: 10 };
    let (plan_a, plan_b) = plans(&realm, queue, Some(80_000_000));
    let inbox = plan_b.inbox.clone();
    let (mut a, b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let (large, digest) = realm.file("large", 20_000_000);
    let (small, digest_small) = realm.file("small", 100_000);
    let (one, _) = send(&mut a, &large, TransferOrder::new("b", 1, "large", 0));
    let (two, answer) = send(&mut a, &small, TransferOrder::new("b", 2, "small", 0));
    assert_eq!(state(&answer), TransferState::Pending { position: 1 });
    a.client.progress(one, |status| status.confirmed > 1_000_000 && status.ended.is_none());
    done(&mut a, RequestBody::Pause { id: 1 });
    assert_eq!(a.client.progress(two, |status| status.ended.is_some()).ended, Some(Ok(digest_small)));
    let paused = a.client.status_until("paused", |status| status.transfers.iter().any(|transfer| transfer.id == 1));
    let paused = paused.transfers.into_iter().find(|transfer| transfer.id == 1).expect("it is there");
    assert_eq!((paused.state, paused.ended), (TransferState::Paused, None));
    assert!(paused.confirmed < 20_000_000, "{}", paused.confirmed);
    done(&mut a, RequestBody::SetPriority { id: 1, priority: 100 });
    done(&mut a, RequestBody::Resume { id: 1 });
    let ended = a.client.progress(one, |status| status.ended.is_some());
    assert_eq!((ended.ended, ended.priority), (Some(Ok(digest)), 100));
    // What the receiver had was not sent again.
    assert!(ended.wire_bytes < 21_000_000, "{}", ended.wire_bytes);
    assert_received(&inbox, "large", &digest);
    a.stop();
    b.stop();
}

#[test]
fn a_deadline_and_a_cancel_at_the_receiver_end_it_at_both_ends_with_their_codes() {
    let realm = Realm::new();
    let (plan_a, plan_b) = plans(&realm, QueuePlan::default(), Some(4_000_000));
    let (mut a, mut b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    a.client.message("b", b"connected").expect("acknowledged");
    let (at_a, at_b) = (Events::of(&mut a), Events::of(&mut b));
    // Far more than the link carries in that time.
    let (path, _) = realm.file("late", 60_000_000);
    let deadline_unix_ns = Some(florelay_dataplane::wall::now_unix_ns() + 3_000_000_000);
    send(&mut a, &path, TransferOrder { deadline_unix_ns, ..TransferOrder::new("b", 1, "late", 0) });
    for ended in [at_a.end(&mut a, 1), at_b.end(&mut b, 1)] {
        assert_eq!(code(&ended), Some(FailCode::Timeout), "{ended:?}");
        assert!(ended.ended.is_some_and(|ended| ended.is_err_and(|failure| failure.reason.contains("deadline"))));
    }
    let (tag, _) = send(&mut a, &path, TransferOrder::new("b", 2, "late", 0));
    a.client.progress(tag, |status| status.confirmed > 0 && status.ended.is_none());
    done(&mut b, RequestBody::Cancel { id: 2 });
    for ended in [at_a.end(&mut a, 2), at_b.end(&mut b, 2)] {
        assert_eq!(code(&ended), Some(FailCode::Cancelled), "{ended:?}");
    }
    // The id was this file's, and is nothing else's.
    let other = send(&mut a, &path, TransferOrder::new("b", 2, "other", 0)).1;
    assert!(matches!(other, Answer::Refused { refusal: Refusal::Duplicate, .. }), "{other:?}");
    a.stop();
    b.stop();
}

#[test]
fn ten_thousand_files_at_once_all_arrive_and_a_large_one_among_them() {
    // Both nodes are in this process, and have each file open, too.
    let files = u128::from(nodes::allow_open_files().saturating_sub(1000) / 2).min(10_000);
    let large_id = files + 1;
    let realm = Realm::in_memory();
    let (plan_a, plan_b) = plans(&realm, QueuePlan::default(), None);
    let inbox = plan_b.inbox.clone();
    let (mut a, b) = (Node::start(plan_a, "unused"), Node::start(plan_b, "unused"));
    let events = Events::of(&mut a);
    let (small, digest_small) = realm.file("small", 100);
    let (large, digest) = realm.file("large", 64_000_000);
    let small = File::open(small).expect("the file is there");
    for id in 1..=files {
        let order = TransferOrder::new("b", id, format!("file-{id}"), 0);
        a.client.ask(RequestBody::SendFile { order, path: None }, Some(&small));
        if id == files / 2 {
            let large = File::open(&large).expect("the file is there");
            let order = TransferOrder::new("b", large_id, "large", 0);
            a.client.ask(RequestBody::SendFile { order, path: None }, Some(&large));
        }
    }
    let mut over = BTreeSet::new();
    while over.len() as u128 <= files {
        let NodeEvent::Transfer(status) = events.next(&mut a) else { continue };
        if let Some(ended) = status.ended {
            let expected = if status.id == large_id { digest } else { digest_small };
            assert_eq!(ended, Ok(expected), "{}", status.id);
            assert!(over.insert(status.id), "{} ended twice", status.id);
        }
    }
    assert_received(&inbox, "large", &digest);
    for id in [1, files / 2, files] {
        assert_received(&inbox, &format!("file-{id}"), &digest_small);
    }
    a.stop();
    b.stop();
}
