//! Contact plans in the configuration and in a file of their own.

use florelay_dataplane::plan::ContactPlan;
use proptest::prelude::*;

use super::*;
use crate::config::link::MAX_DELAY_NS;

const PLAN: &str = r#"
[[link.contact]]
start = 2096-11-21T12:00:00Z
end = "2096-11-21T13:10:00+01:00"
rate = "300 Mbit/s"
delay = "20 ms"

[[link.contact]]
start = 2096-11-21T10:24:00.5Z
end = 2096-11-21T10:34:00Z
rate = "uncapped"
"#;
const NOON: u64 = 4_004_337_600_000_000_000;
const MINUTE: u64 = 60_000_000_000;

/// The good configuration with these keys at the end of link to-a.
fn with(contacts: &str) -> String {
    let end = GOOD.find("\n[[link]]\nname = \"to-c\"").unwrap();
    format!("{}{contacts}{}", &GOOD[..end], &GOOD[end..])
}

#[test]
fn contacts_become_a_plan_in_order() {
    let text = with(&format!("contact-guard = \"5 ms\"\nrequire-synchronised-clock = false\n{PLAN}"));
    let plan = text_only(&text).unwrap();
    let contacts = &plan.links[0].contacts;
    assert_eq!((contacts.guard_ns, contacts.require_synchronised_clock), (Some(5_000_000), false));
    let early = ContactPlan {
        start_unix_ns: NOON - 96 * MINUTE + 500_000_000,
        end_unix_ns: NOON - 86 * MINUTE,
        rate_bps: None,
        delay_ns: None,
    };
    let noon = ContactPlan {
        start_unix_ns: NOON,
        end_unix_ns: NOON + 10 * MINUTE,
        rate_bps: Some(300_000_000),
        delay_ns: Some(20_000_000),
    };
    assert_eq!(contacts.plan.as_deref(), Some(&[early, noon][..]));
    assert_eq!(plan.links[1].contacts, florelay_dataplane::plan::LinkContacts::default());
}

#[test]
fn what_is_wrong_names_line_key_and_hint() {
    for (from, to, key, part) in [
        ("start = 2096-11-21T12:00:00Z", "start = 2096-11-21T12:00:00", "link[to-a].contact[0].start", "no offset"),
        ("start = 2096-11-21T12:00:00Z", "start = 2096-11-21", "link[to-a].contact[0].start", "not a date with a time"),
        ("start = 2096-11-21T12:00:00Z", "start = \"noon\"", "link[to-a].contact[0].start", "RFC 3339"),
        ("start = 2096-11-21T12:00:00Z", "start = 12", "link[to-a].contact[0].start", "an integer where"),
        ("start = 2096-11-21T12:00:00Z", "begin = 12", "link[to-a].contact[0].begin", "unknown key"),
        ("\"2096-11-21T13:10:00+01:00\"", "2096-11-21T12:00:00Z", "link[to-a].contact[0].end", "not after its start"),
        ("rate = \"300 Mbit/s\"", "rate = \"0 bit/s\"", "link[to-a].contact[0].rate", "carries nothing"),
        (
            "end = 2096-11-21T10:34:00Z",
            "end = 2096-11-21T12:00:01Z",
            "link[to-a].contact[0].start",
            "begins before the one in line",
        ),
    ] {
        let text = with(PLAN);
        let at = text.find(from).unwrap_or_else(|| panic!("{from}"));
        let line = text[..at].matches('\n').count() + 1;
        let refusal = text_only(&text.replacen(from, to, 1)).expect_err(to);
        let found = refusal.0.iter().find(|d| d.key == key).unwrap_or_else(|| panic!("{to}: {refusal}"));
        if !key.ends_with("[0].start") || from.starts_with("start") {
            assert_eq!(found.line, line, "{to}: {refusal}");
        }
        assert!(format!("{} {}", found.message, found.hint).contains(part) && !found.hint.is_empty(), "{refusal}");
    }
    let slow = text_only(&with(&PLAN.replace("300 Mbit/s", "1 bit/s"))).expect_err("nothing gets through");
    let found = slow.0.iter().find(|d| d.key == "link[to-a].contact").unwrap_or_else(|| panic!("{slow}"));
    assert!(found.message.contains("2096-11-21T12:00:00Z") && found.message.contains("liveness frame"), "{slow}");
    let twice = text_only(&with(&format!("contact-plan = \"passes.toml\"\n{PLAN}"))).unwrap_err();
    assert_eq!(twice.0[0].key, "link[to-a].contact-plan");
}

#[test]
fn a_plan_that_is_over_or_empty_is_a_warning() {
    let (dir, path) = station();
    let file = dir.path().join("passes.toml");
    fs::write(&path, with("contact-plan = \"passes.toml\"\n")).unwrap();
    let contacts = PLAN.replace("link.", "");
    for (text, part) in [(contacts.replace("2096", "2016"), "every contact is over"), (String::new(), "no contact")] {
        fs::write(&file, text).unwrap();
        let (_, warnings) = load_with_warnings(&path).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].message.contains(part) && warnings[0].file == file, "{}", warnings[0]);
    }
    fs::write(&file, &contacts).unwrap();
    let (plan, warnings) = load_with_warnings(&path).unwrap();
    assert!(warnings.is_empty());
    let read = plan.links[0].contacts.plan.clone().unwrap();
    assert_eq!(read.len(), 2);
    // what is shown reads as the same
    fs::write(&file, contact::show(&read)).unwrap();
    assert_eq!(contact::compile(&file, &contact::read_file(&file).unwrap()).unwrap().0, read);
}

#[test]
fn errors_in_the_file_are_reported_there() {
    let (dir, path) = station();
    let file = dir.path().join("passes.toml");
    fs::write(&path, with("contact-plan = \"passes.toml\"\n")).unwrap();
    let missing = sole(&path);
    assert!(missing.key == "link[to-a].contact-plan" && missing.message.contains("cannot be read"), "{missing}");
    fs::write(&file, "[[contact]]\nstart = 2096-11-21T12:00:00Z\nend = 2096-11-21T12:10:00Z\nrate = \"1 Mbit\"\n")
        .unwrap();
    let wrong = sole(&path);
    assert_eq!((&wrong.file, wrong.line, wrong.key.as_str()), (&file, 4, "contact[0].rate"));
    fs::write(&file, "[[contact]\n").unwrap();
    assert!(sole(&path).message.contains("not TOML"));
    fs::write(&file, "contacts = 1\n").unwrap();
    let refusal = load(&path).unwrap_err();
    assert!(refusal.to_string().contains("did you mean \"contact\"?"), "{refusal}");
}

#[test]
fn a_plan_is_shown_as_people_write_it() {
    let contact = ContactPlan {
        start_unix_ns: 4_000_000_000_000_000_000,
        end_unix_ns: 4_000_000_600_500_000_000,
        rate_bps: Some(10_000_000),
        delay_ns: Some(300_000_000),
    };
    let text = contact::show(&[contact]);
    assert!(text.contains("rate = \"10 Mbit/s\"\ndelay = \"300 ms\"\n"), "{text}");
}

/// In order, some touching, most not: gap and length, rate, delay.
fn plans() -> impl Strategy<Value = Vec<ContactPlan>> {
    const NANOS: u64 = 1_000_000_000;
    // To 2090, so that the longest plan ends within 64 bits. Most people write whole seconds and round rates.
    let start = 0..3_786_912_000 * NANOS;
    let length = prop_oneof![1..1_000_000 * NANOS, (1_u64..1_000_000).prop_map(|seconds| seconds * NANOS)];
    let gap = prop_oneof![Just(0), 0..1_000_000 * NANOS];
    let rate = prop_oneof![1..=u64::MAX, (1_u64..1_000_000).prop_map(|rate| rate * 1_000)];
    let delay = prop_oneof![0..=MAX_DELAY_NS, (0_u64..3_600_000).prop_map(|ms| ms * 1_000_000)];
    let contacts = prop::collection::vec((gap, length, prop::option::of(rate), prop::option::of(delay)), 0..30);
    (start, contacts).prop_map(|(mut at, contacts)| {
        let contact = |(gap, length, rate_bps, delay_ns)| {
            let start_unix_ns = at + gap;
            at = start_unix_ns + length;
            ContactPlan { start_unix_ns, end_unix_ns: at, rate_bps, delay_ns }
        };
        contacts.into_iter().map(contact).collect()
    })
}

proptest! {
    #[test]
    fn what_is_shown_of_a_plan_compiles_to_the_same_plan(plan in plans()) {
        let read = contact::compile(Path::new("passes.toml"), &contact::show(&plan));
        prop_assert_eq!(read.map(|(plan, _)| plan), Ok(plan));
    }
}
