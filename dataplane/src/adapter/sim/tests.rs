use std::time::Duration;

use florelay_impair::{LinkModel, Loss};
use florelay_wire::cw::{ControlWord, PayloadType};
use florelay_wire::link::PATH_HEADER_BYTES;
use florelay_wire::mpls::{Label, Lse, Tc};

use super::*;

const MS: u64 = 1_000_000;

fn plans(folder: &Path, model: &LinkModel) -> [SimPlan; 2] {
    let [a, b] = ["a", "b"].map(|name| folder.join("link").join(name));
    let plan = |socket: &Path, peer: &Path| SimPlan {
        socket: socket.into(),
        peer: peer.into(),
        model: model.clone(),
        seed: 1,
    };
    [plan(&a, &b), plan(&b, &a)]
}

fn pair(model: &LinkModel) -> (tempfile::TempDir, SimLink, SimLink) {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = plans(folder.path(), model).map(|plan| SimLink::open(&plan, 42).unwrap());
    (folder, a, b)
}

fn received(link: &mut SimLink) -> Vec<(Vec<u8>, Ecn)> {
    let mut all = Vec::new();
    while link.receive(|payload, ecn| all.push((payload.to_vec(), ecn))) > 0 {}
    all
}

/// What a link counts, by name.
fn count(link: &SimLink, name: &str) -> u64 {
    link.counters().into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn frames_cross_when_their_time_has_come() {
    let (_folder, mut a, mut b) = pair(&LinkModel::with_delay(Duration::from_millis(100)));
    assert!(a.send(b"telemetry", Ecn::Ect0));
    assert_eq!((a.pending_bytes(), a.deadline_ns()), (9, None), "staged until the burst's time is known");
    a.flush(5 * MS);
    assert_eq!((a.pending_bytes(), a.deadline_ns()), (0, Some(105 * MS)));
    a.flush(105 * MS - 1);
    assert_eq!(received(&mut b), []);
    a.flush(105 * MS);
    assert_eq!(received(&mut b), [(b"telemetry".to_vec(), Ecn::NotEct)], "no control word to carry ECN");
    assert_eq!(a.deadline_ns(), None);
}

#[test]
fn the_control_word_carries_ecn_and_is_clean_afterwards() {
    let (_folder, mut a, mut b) = pair(&LinkModel::default());
    let label = Label::new(Label::FIRST_UNRESERVED).unwrap();
    let lse = |bottom| Lse { label, tc: Tc::BULK, bottom, ttl: 9 };
    let cw = ControlWord { payload: PayloadType::Quic, flags: 0x10, sequence: 7 };
    let mut frame = [0; PATH_HEADER_BYTES];
    link::write_path_header(&mut frame, lse(false), lse(true), cw).unwrap();
    let all = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];
    for ecn in all {
        assert!(a.send(&frame, ecn));
    }
    a.flush(0);
    assert_eq!(received(&mut b), all.map(|ecn| (frame.to_vec(), ecn)));
}

#[test]
fn every_frame_is_counted_once() {
    let model = LinkModel {
        loss: Loss::Bernoulli(0.2),
        duplicate: 0.1,
        corrupt: 0.05,
        ..LinkModel::with_delay(Duration::from_millis(3)).rate(100_000_000, 20_000)
    };
    let (_folder, mut a, mut b) = pair(&model);
    // Connected both ways, or the kernel lets only a few datagrams wait.
    b.flush(0);
    let (mut sent, mut came) = (0, 0);
    for turn in 0..200 {
        for _ in 0..20 {
            sent += u64::from(a.send(&[7; 1000], Ecn::NotEct));
        }
        a.flush(turn * MS);
        came += received(&mut b).len() as u64;
    }
    a.flush(10_000 * MS);
    came += received(&mut b).len() as u64;
    let names = ["sim_lost", "sim_queue_dropped", "sim_corrupt_dropped"];
    let [lost, queue, corrupt] = names.map(|name| count(&a, name));
    assert!(lost > 0 && queue > 0 && corrupt > 0, "{:?}", a.counters());
    assert_eq!((count(&a, "sim_offered"), count(&a, "sim_delivered")), (sent, came));
    assert_eq!(sent + count(&a, "sim_duplicated"), came + lost + queue + corrupt);
    assert_eq!((count(&a, "sim_held"), count(&a, "sim_no_peer"), count(&a, "sim_blocked")), (0, 0, 0));
}

#[test]
fn a_neighbour_that_does_not_read_makes_frames_late_and_loses_none() {
    let (_folder, mut a, mut b) = pair(&LinkModel::default());
    let (mut now, mut sent) = (0, 0_u32);
    while count(&a, "sim_blocked") == 0 {
        assert!(a.send(&sent.to_le_bytes(), Ecn::NotEct), "the line is full before the kernel is");
        sent += 1;
        now += 1;
        a.flush(now);
    }
    let mut came = Vec::new();
    while came.len() < sent as usize {
        let more = received(&mut b);
        assert!(!more.is_empty(), "{} of {sent}", came.len());
        came.extend(more.into_iter().map(|(payload, _)| u32::from_le_bytes(payload.try_into().unwrap())));
        now = a.deadline_ns().unwrap_or(now + MS);
        a.flush(now);
    }
    assert_eq!(came, (0..sent).collect::<Vec<_>>());
}

#[test]
fn ends_find_each_other_in_any_order_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let [plan_a, plan_b] = plans(folder.path(), &LinkModel::default());
    let mut a = SimLink::open(&plan_a, 42).unwrap();
    a.send(b"early", Ecn::NotEct);
    a.flush(0);
    assert_eq!(count(&a, "sim_no_peer"), 1);
    let mut b = SimLink::open(&plan_b, 42).unwrap();
    a.send(b"hello", Ecn::NotEct);
    a.flush(CONNECT_NS);
    assert_eq!(received(&mut b)[0].0, b"hello");

    // B dies, is started again, and speaks first: A has to notice that its neighbour is another one.
    drop(b);
    let mut b = SimLink::open(&plan_b, 42).unwrap();
    for turn in 2..5 {
        b.send(b"back", Ecn::NotEct);
        b.flush(turn * CONNECT_NS);
        a.send(b"again", Ecn::NotEct);
        a.flush(turn * CONNECT_NS + 1);
    }
    assert_eq!(received(&mut b).last().unwrap().0, b"again");
    assert_eq!(received(&mut a).last().unwrap().0, b"back");
}

#[test]
fn a_socket_of_a_running_node_and_other_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [plan, _] = plans(folder.path(), &LinkModel::default());
    let first = SimLink::open(&plan, 42).unwrap();
    let (path, reason) = SimLink::open(&plan, 42).err().unwrap();
    assert!(path == plan.socket && reason.contains("a running node"), "{reason}");
    // As after kill -9: the file stays.
    let path = plan.socket.clone();
    let left = first.socket.try_clone().unwrap();
    drop(first);
    let stale = UnixDatagram::bind(&path).unwrap();
    drop((stale, left));
    assert!(path.exists());
    drop(SimLink::open(&plan, 42).unwrap());
    assert!(!path.exists());
    fs::write(&path, "notes").unwrap();
    assert!(SimLink::open(&plan, 42).err().unwrap().1.contains("not a socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
}
