use super::*;

const SECOND: u64 = 1_000_000_000;
const GUARD: Duration = Duration::from_millis(10);

fn contact(start: u64, end: u64, rate_bps: u64) -> Contact {
    Contact {
        start: Nanos(start * SECOND),
        end: Nanos(end * SECOND),
        rate: RatePlan { rate_bps: Some(rate_bps), burst_bytes: 3000, control_percent: 50 },
        delay: Duration::from_millis(20),
        key: start,
        name: format!("{start} s").into(),
    }
}

fn schedule(contacts: &[(u64, u64, u64)]) -> Schedule {
    let contacts = contacts.iter().map(|&(start, end, rate)| contact(start, end, rate)).collect();
    let mut schedule = Schedule::default();
    schedule.set(Contacts::Planned(ContactPlan::new(contacts, None).unwrap()));
    schedule
}

fn at(seconds: f64) -> Nanos {
    Nanos((seconds * SECOND as f64) as u64)
}

fn follow(schedule: &mut Schedule, now: Nanos, sent: u64) -> Change {
    schedule.follow(now, sent, |_| GUARD)
}

fn opened(rate_bps: u64) -> Change {
    let Contact { rate, delay, .. } = contact(0, 1, rate_bps);
    Change::Opened { rate, delay }
}

#[test]
fn opens_at_the_start_and_closes_a_guard_before_the_end() {
    let mut schedule = schedule(&[(10, 20, 8_000), (30, 40, 16_000)]);
    assert!(schedule.may_send(at(1.0)), "no plan is followed before it is looked at");
    assert_eq!(follow(&mut schedule, at(1.0), 0), Change::Closed);
    assert_eq!((schedule.next_edge(), schedule.may_send(at(1.0))), (at(10.0), false));
    assert_eq!(&*schedule.reason(at(1.0)), "outside contact; next at 10 s");
    assert!(!schedule.may_send(at(10.0)), "who has not followed the plan sends nothing");

    assert_eq!(follow(&mut schedule, at(10.0), 100), opened(8_000));
    assert_eq!(schedule.next_edge(), at(19.99));
    assert!(schedule.may_send(at(10.0)) && schedule.may_send(Nanos(at(19.99).0 - 1)));
    assert!(!schedule.may_send(at(19.99)), "closed without being told");
    assert_eq!(follow(&mut schedule, at(15.0), 2_600), Change::None);
    let report = schedule.report(at(15.0), 2_600).unwrap();
    let (_, usage, left) = report.present.unwrap();
    assert_eq!((usage.sent_bytes, usage.carried_bytes, usage.capacity_bytes), (2_500, Some(5_000), Some(10_000)));
    assert_eq!((left, report.next.unwrap().1), (Duration::from_secs(5), Duration::from_secs(15)));

    assert_eq!(follow(&mut schedule, at(19.99), 10_000), Change::Closed);
    assert_eq!(schedule.next_edge(), at(20.0));
    assert_eq!(follow(&mut schedule, at(20.0), 10_000), Change::None);
    let last = schedule.report(at(20.0), 10_000).unwrap().last.unwrap();
    assert_eq!((last.sent_bytes, last.carried_bytes), (9_900, Some(10_000)));
    assert_eq!(follow(&mut schedule, at(30.0), 10_000), opened(16_000));
    assert_eq!(follow(&mut schedule, at(41.0), 10_000), Change::Closed);
    assert_eq!(
        (schedule.next_edge(), &*schedule.reason(at(41.0))),
        (Nanos::MAX, "outside contact; the plan has no further one")
    );
    schedule.set(Contacts::Always);
    assert_eq!(follow(&mut schedule, at(42.0), 10_000), Change::Freed);
    assert!(schedule.may_send(at(42.0)));
}

#[test]
fn contacts_that_touch_change_the_rate_without_a_gap() {
    let mut schedule = schedule(&[(10, 20, 8_000), (20, 40, 16_000)]);
    assert_eq!(follow(&mut schedule, at(12.0), 0), {
        // opened late, as after a restart: accounted for from then on
        opened(8_000)
    });
    assert_eq!(schedule.next_edge(), at(20.0));
    assert_eq!(follow(&mut schedule, at(20.0), 7_000), opened(16_000));
    assert!(schedule.may_send(at(20.0)));
    let last = schedule.report(at(20.0), 7_000).unwrap().last.unwrap();
    assert_eq!((last.sent_bytes, last.carried_bytes), (7_000, Some(8_000)));
}

#[test]
fn a_clock_step_moves_the_contact_under_way_and_keeps_its_account() {
    let mut schedule = schedule(&[(10, 20, 8_000)]);
    follow(&mut schedule, at(10.0), 0);
    let moved = |start: f64, end: f64| {
        let contact = Contact { start: at(start), end: at(end), ..contact(10, 20, 8_000) };
        Contacts::Planned(ContactPlan::new(vec![contact], None).unwrap())
    };
    schedule.set(moved(8.0, 18.0));
    assert_eq!(follow(&mut schedule, at(12.0), 1_500), Change::None);
    assert_eq!(schedule.next_edge(), at(17.99));
    let (_, usage, left) = schedule.report(at(12.0), 1_500).unwrap().present.unwrap();
    assert_eq!((usage.sent_bytes, usage.carried_bytes, left), (1_500, Some(2_000), Duration::from_secs(6)));
    // stepped back to before its start: closed until then
    schedule.set(moved(13.0, 23.0));
    assert_eq!(follow(&mut schedule, at(12.0), 1_500), Change::Closed);
    assert_eq!(schedule.next_edge(), at(13.0));
    assert_eq!(follow(&mut schedule, at(13.0), 1_500), opened(8_000));
}

#[test]
fn a_plan_without_the_contact_under_way_ends_it() {
    let mut schedule = schedule(&[(10, 20, 8_000)]);
    follow(&mut schedule, at(10.0), 0);
    schedule.set(Contacts::Planned(ContactPlan::new(vec![contact(30, 40, 8_000)], None).unwrap()));
    assert_eq!(follow(&mut schedule, at(12.0), 500), Change::Closed);
    assert_eq!(schedule.next_edge(), at(30.0));
    let report = schedule.report(at(12.0), 500).unwrap();
    assert!(report.present.is_none());
    let last = report.last.unwrap();
    assert_eq!((last.key, last.sent_bytes, last.carried_bytes), (10, 500, Some(2_000)));
    // another rate for it is another rate, at once
    schedule.set(Contacts::Planned(ContactPlan::new(vec![contact(30, 40, 8_000)], None).unwrap()));
    follow(&mut schedule, at(30.0), 500);
    schedule.set(Contacts::Planned(ContactPlan::new(vec![contact(30, 40, 4_000)], None).unwrap()));
    assert_eq!(follow(&mut schedule, at(31.0), 500), opened(4_000));
    let (_, usage, _) = schedule.report(at(33.0), 500).unwrap().present.unwrap();
    assert_eq!(usage.carried_bytes, Some(2_000));
}

#[test]
fn a_rate_changed_by_hand_counts_for_the_rest_of_the_contact() {
    let mut schedule = schedule(&[(10, 20, 8_000)]);
    follow(&mut schedule, at(10.0), 0);
    schedule.rate_changed(at(12.0), Some(4_000));
    let (_, usage, _) = schedule.report(at(14.0), 0).unwrap().present.unwrap();
    assert_eq!((usage.carried_bytes, usage.capacity_bytes), (Some(3_000), Some(6_000)));
    schedule.rate_changed(at(14.0), None);
    let (_, usage, _) = schedule.report(at(15.0), 0).unwrap().present.unwrap();
    assert_eq!((usage.carried_bytes, usage.capacity_bytes), (None, None));
}

#[test]
fn a_refused_plan_is_closed_for_good_and_says_why() {
    let mut schedule = Schedule::default();
    schedule.set(Contacts::Refused("the clock is not set".into()));
    assert_eq!(follow(&mut schedule, at(1.0), 0), Change::Closed);
    assert_eq!(schedule.next_edge(), Nanos::MAX);
    assert_eq!(&*schedule.reason(at(1.0)), "the contact plan is not followed: the clock is not set");
}

#[test]
fn what_is_no_plan_is_refused() {
    let plan = |contacts: &[(u64, u64, u64)]| {
        ContactPlan::new(contacts.iter().map(|&(s, e, r)| contact(s, e, r)).collect(), None)
    };
    assert_eq!(plan(&[(3, 3, 1)]), Err(ContactError::Empty("3 s".into())));
    assert_eq!(plan(&[(3, 4, 0)]), Err(ContactError::NoRate("3 s".into())));
    assert_eq!(plan(&[(3, 5, 1), (1, 4, 1)]), Err(ContactError::Overlap("1 s".into(), "3 s".into())));
    assert!(plan(&[(3, 5, 1), (1, 3, 1)]).is_ok());
}

#[test]
fn a_guard_longer_than_the_contact_never_opens() {
    let mut schedule = Schedule::default();
    let plan = ContactPlan::new(vec![contact(10, 11, 8_000)], Some(Duration::from_secs(2))).unwrap();
    schedule.set(Contacts::Planned(plan));
    follow(&mut schedule, at(1.0), 0);
    assert_eq!(follow(&mut schedule, at(10.0), 0), Change::None);
    assert!(!schedule.may_send(at(10.0)));
}
