//! What queues hold, refuse and mark, and what waking them is worth.

use super::*;

#[test]
fn a_closed_link_sends_its_own_oam_only() {
    let mut egress = egress(plan(Some(1_000_000), 15_140, 50));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[500])], control: vec![endless(&[500])], asked: 0 };
    egress.add_flow(peer(0), 1);
    egress.add_flow(FlowKey::Transit(0), 1);
    let queued_before = wire.make(path_frame(200, 7, 100));
    egress.enqueue_oam(queued_before).unwrap();
    egress.set_open(false);
    egress.mark_ready(peer(0), Class::Bulk);
    egress.mark_ready(peer(0), Class::Control);
    let transit = wire.make(path_frame(200, 0, 500));
    egress.enqueue_transit(0, Class::Bulk, transit, Ecn::NotEct).unwrap();
    let refused = wire.make(path_frame(200, 7, 100));
    let refused = egress.enqueue_oam(refused).unwrap_err();
    wire.free(refused);
    let own = wire.make(link_oam());
    egress.enqueue_oam(own).unwrap();
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 1);
    assert_eq!((wire.sent[0].tc, source.asked), (7, 0));
    assert_eq!(egress.next_wakeup(Nanos(0)), None);
    assert_eq!(egress.counters().drops[EgressDrop::Closed.index()], 2);
    egress.set_open(true);
    egress.pull(Nanos(0), LINK, &mut wire, &mut source);
    assert!(wire.sent.iter().any(|s| s.flow == 200), "what waited goes on");
    let held = egress.queued_frames();
    assert_eq!(egress.drain(&mut wire), held);
    assert_eq!(wire.in_hand, 0);
    assert_eq!(egress.counters().drops[EgressDrop::Drained.index()], held as u64);
}

#[test]
fn at_the_end_of_a_contact_oam_goes_and_transit_stays() {
    let plan = plan(Some(1_000_000), 3_028, 50);
    let mut egress = egress(plan);
    let mut wire = Wire::new(None);
    egress.add_flow(FlowKey::Transit(0), 1);
    for _ in 0..3 {
        let own = wire.make(link_oam());
        egress.enqueue_oam(own).unwrap();
    }
    let transit = wire.make(path_frame(200, 0, 500));
    egress.enqueue_transit(0, Class::Bulk, transit, Ecn::NotEct).unwrap();
    egress.drop_oam(&mut wire);
    assert_eq!((wire.in_hand, egress.queued_frames(), egress.queued_bytes()), (1, 1, 500));
    assert_eq!(egress.counters().drops[EgressDrop::Closed.index()], 3);
    // One largest frame, two of them in the ring, a burst of two: 5 × 1514 bytes at 1 Mbit/s.
    assert_eq!(egress.drain_time(plan), std::time::Duration::from_nanos(5 * MAX_FRAME * 8_000));
    assert_eq!(egress.drain_time(RatePlan { rate_bps: None, ..plan }), std::time::Duration::from_millis(1));
    egress.drain(&mut wire);
}

#[test]
fn a_full_transit_queue_gives_the_frame_back() {
    let mut egress = egress(plan(Some(1_000_000), 3_028, 10));
    let mut wire = Wire::new(None);
    for flow in 0..20 {
        egress.add_flow(FlowKey::Transit(flow), 1);
    }
    let mut refusals = |flow: u32, class: Class, bytes: u64, frames: usize| {
        let mut refused = 0;
        for _ in 0..frames {
            let frame = wire.make(path_frame(300, 0, bytes));
            if let Err(frame) = egress.enqueue_transit(flow, class, frame, Ecn::Ect0) {
                wire.free(frame);
                refused += 1;
            }
        }
        refused
    };
    // 13 × 1514 = 19682 of 20000.
    assert_eq!(refusals(0, Class::Bulk, MAX_FRAME, 15), 2);
    assert_eq!(refusals(0, Class::Control, MAX_FRAME, 15), 2);
    assert_eq!(refusals(99, Class::Bulk, 100, 1), 1);
    assert_eq!(refusals(1, Class::Bulk, MAX_FRAME + 1, 1), 1);
    // 100 frames in all, 26 are there.
    assert_eq!((2..20).map(|flow| refusals(flow, Class::Bulk, 100, 5)).sum::<i32>(), 90 - 74);
    let drops = egress.counters().drops;
    assert_eq!(drops[EgressDrop::FlowFull.index()], 4);
    assert_eq!(drops[EgressDrop::UnknownFlow.index()], 1);
    assert_eq!(drops[EgressDrop::Oversize.index()], 1);
    assert_eq!(drops[EgressDrop::PoolFull.index()], 16);
    // Behind 8 frames of its own flow a frame is marked: the 10th to 13th of each.
    assert_eq!(egress.counters().ecn_marked, 8);
    assert_eq!(egress.drain(&mut wire), 100);
    assert_eq!((wire.in_hand, egress.queued_bytes()), (0, 0));
}

#[test]
fn marks_reach_the_port_and_only_capable_frames_are_marked() {
    let mut egress = egress(plan(Some(1_000_000_000), 100_000, 10));
    egress.set_rate(Nanos(0), plan(Some(1_000_000), 100_000, 10));
    let mut wire = Wire::new(None);
    for flow in 0..2 {
        egress.add_flow(FlowKey::Transit(flow), 1);
        for _ in 0..10 {
            let frame = wire.make(path_frame(300 + flow, 0, MAX_FRAME));
            let ecn = if flow == 0 { Ecn::Ect1 } else { Ecn::NotEct };
            egress.enqueue_transit(flow, Class::Bulk, frame, ecn).unwrap();
        }
    }
    run_until(Nanos(10_000_000_000), &mut egress, &mut wire, &mut Source::default(), |_, _, _| {});
    let ecn = |flow: u32| wire.sent.iter().filter(|s| s.flow == 300 + flow).map(|s| s.ecn).collect::<Vec<_>>();
    assert_eq!(ecn(0), [[Ecn::Ect1; 9].as_slice(), &[Ecn::Ce]].concat());
    assert_eq!(ecn(1), [Ecn::NotEct; 10]);
}

/// Flows looked at, queued and pulled for one packet, on average: half of the flows are transit paths, weights differ by a
/// factor of 1000, sizes are mixed; `control` of 64 packets are commands.
fn steps_a_packet(flows: usize, control: usize) -> f64 {
    const ROUNDS: usize = 400;
    let limits = EgressLimits { transit_flow_bytes: 60_000, transit_frames: 20_000 };
    let mut egress = Egress::new(Nanos(0), &link_config(plan(None, 10_000, 100)), limits);
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[60, MAX_FRAME, 700]); flows], ..Source::default() };
    source.control = vec![endless(&[300]); flows];
    let key = |i: usize| if i.is_multiple_of(2) { peer(i) } else { FlowKey::Transit(i as u32) };
    for i in 0..flows {
        egress.add_flow(key(i), [1, 3, 1000][i % 3]);
        egress.mark_ready(key(i), Class::Bulk);
    }
    source.control.iter_mut().for_each(|supply| supply.left = 0);
    let (mut next, before) = (0, egress.flows.steps);
    for _ in 0..ROUNDS {
        for packet in 0..64 {
            next = (next + 7) % flows;
            let class = if packet < control { Class::Control } else { Class::Bulk };
            match key(next) {
                FlowKey::Transit(flow) => {
                    let frame = wire.make(path_frame(300, 0, [60, 1000, MAX_FRAME][packet % 3]));
                    if let Err(frame) = egress.enqueue_transit(flow, class, frame, Ecn::NotEct) {
                        wire.free(frame);
                    }
                }
                local @ FlowKey::Peer(_) => {
                    source.control[next].left += usize::from(class == Class::Control);
                    egress.mark_ready(local, class);
                }
            }
        }
        wire.room = 64;
        assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 64);
    }
    let steps = egress.flows.steps - before;
    egress.drain(&mut wire);
    steps as f64 / (ROUNDS * 64) as f64
}

#[test]
fn what_a_packet_costs_does_not_grow_with_the_number_of_flows() {
    for control in [0, 8, 64] {
        let steps = [1, 100, 10_000].map(|flows| steps_a_packet(flows, control));
        // Queued, looked at in its turn, taken; once more where its turn ends with it, or it has nothing left.
        assert!(steps.iter().all(|steps| *steps <= 5.0), "{steps:?} with {control} commands of 64");
        assert!(steps[2] <= steps[1] + 1.0, "{steps:?} with {control} commands of 64");
    }
}

#[test]
fn flows_beyond_counting_cost_nothing_to_serve() {
    // Work per packet must not depend on the number of flows: a source that is asked once per packet, and once more when dry.
    let mut egress = egress(plan(None, 10_000, 10));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![Supply { left: 2, sizes: vec![100], at: 0 }; 10_000], ..Source::default() };
    for i in 0..10_000 {
        egress.add_flow(peer(i), 1 + (i % 7) as u16);
        egress.mark_ready(peer(i), Class::Bulk);
    }
    assert_eq!(egress.pull(Nanos(0), LINK, &mut wire, &mut source), 20_000);
    assert!(source.asked <= 20_000 + 2 * 10_000, "{}", source.asked);
    assert_eq!(egress.next_wakeup(Nanos(0)), None);
    let asked = source.asked;
    assert_eq!(egress.pull(Nanos(1), LINK, &mut wire, &mut source), 0);
    assert_eq!(source.asked, asked, "dry flows are not asked again");
}

#[test]
fn waking_often_gains_nothing() {
    let mut egress = egress(plan(Some(8_000_000), 3_028, 10));
    let mut wire = Wire::new(None);
    let mut source = Source { bulk: vec![endless(&[MAX_FRAME]), endless(&[100, MAX_FRAME])], ..Source::default() };
    for i in 0..2 {
        egress.add_flow(peer(i), 1);
        egress.mark_ready(peer(i), Class::Bulk);
    }
    run_until(Nanos(4_000_000_000), &mut egress, &mut wire, &mut source, |_, _, _| {});
    let fair = bytes_of(&wire.sent, |s| s.flow == 101);
    // The same, but flow 1 runs dry after every second packet and wakes at once.
    let from = wire.sent.len();
    let end = Nanos(8_000_000_000);
    source.bulk[1].left = 0;
    loop {
        source.bulk[1].left = source.bulk[1].left.max(2);
        egress.mark_ready(peer(1), Class::Bulk);
        egress.pull(wire.now, LINK, &mut wire, &mut source);
        match egress.next_wakeup(wire.now).filter(|at| *at < end) {
            Some(at) => wire.advance(at),
            None => break,
        }
    }
    let often = bytes_of(&wire.sent[from..], |s| s.flow == 101);
    assert!(often <= fair + 3 * MAX_FRAME, "{often} against {fair}");
}
