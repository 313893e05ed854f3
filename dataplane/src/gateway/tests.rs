use florelay_engine::api::DatagramClass;
use florelay_engine::config::PathMemory;

use super::testing::Bed;
use super::*;
use crate::contacts::CLOCK_SET_UNIX_NS;
use crate::plan::ContactPlan;

#[test]
fn a_datagram_that_no_application_takes_is_counted_for_its_peer() {
    let mut bed = Bed::new();
    for (worker, peer) in [(0, PeerId(0)), (1, PeerId(1)), (1, PeerId(1))] {
        let payload = bytes::Bytes::from_static(b"telemetry");
        bed.says(worker, Event::Datagram { peer, port: 9, class: DatagramClass::Bulk, payload });
    }
    assert_eq!(bed.gateway.untaken, [1, 2]);
}

#[test]
fn a_contact_that_its_link_cannot_use_is_refused_with_the_reason() {
    let mut bed = Bed::new();
    let ask = |bed: &mut Bed, rate_bps| {
        let (start_unix_ns, end_unix_ns) = (CLOCK_SET_UNIX_NS, CLOCK_SET_UNIX_NS + 600_000_000_000);
        let contact = ContactPlan { start_unix_ns, end_unix_ns, rate_bps, delay_ns: None };
        bed.ask(crate::ipc::RequestBody::SetContacts { link: "line-1".into(), plan: Some(vec![contact]) })
    };
    let answer = ask(&mut bed, Some(1));
    let Some(Answer::Failed(reason)) = answer else { panic!("{answer:?}") };
    assert!(reason.contains("link line-1: the contact at 2024-01-01T00:00:00Z: less than"), "{reason}");
    assert!(bed.told(1).is_empty());
    // The same plan at a rate that carries something is refused for the clock, if at all.
    if let Some(Answer::Failed(reason)) = ask(&mut bed, Some(1_000_000)) {
        assert!(reason.contains("clock"), "{reason}");
    }
}

#[test]
fn what_was_measured_of_a_path_is_kept_at_an_orderly_end() {
    let mut bed = Bed::new();
    let ms = Duration::from_millis;
    let memory = PathMemory {
        least_rtt: ms(600),
        smoothed_rtt: ms(650),
        rate_bps: Some(9_000_000),
        planned_rate_bps: None,
        planned_rtt: Some(ms(700)),
    };
    bed.says(1, Event::Path { peer: PeerId(1), memory });
    bed.gateway.stopping = true;
    bed.gateway.run();
    let again = KnownPaths::open(&bed.gateway.plan, crate::wall::now_unix_ns());
    assert_eq!(again.memories(), [None, Some(memory)]);
}
