//! HDTN's contact plan in JSON (NASA/HDTN, `module/router/contact_plans`): one object with `contacts`, each with node numbers
//! `source` and `dest`, `startTime` and `endTime` in seconds, `rateBitsPerSec` (0 = unlimited) and `owlt`, the one-way light
//! time, in seconds. HDTN counts its seconds from its start, or since 1970 when it was told so.
//!
//! Other keys (`contact`, `finalDestination`, …) say how HDTN routes, and are passed over.

use florelay_dataplane::contacts::{CLOCK_SET_UNIX_NS, check};
use florelay_dataplane::plan::ContactPlan;
use serde_json::Value;

use super::link::MAX_DELAY_NS;

const SECOND_NS: f64 = 1e9;

/// Which of HDTN's contacts are a link's: from one node number to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// HDTN's number of this node.
    pub source: u64,
    /// HDTN's number of the neighbour.
    pub dest: u64,
    /// The link.
    pub link: String,
}

/// Reads a plan: the contacts of each mapped link, in order. `epoch_unix_ns`: what HDTN's time 0 is; 0 = its times are Unix times.
///
/// # Errors
/// For people: what is wrong, and with which contact.
pub fn read(text: &str, mappings: &[Mapping], epoch_unix_ns: u64) -> Result<Vec<(String, Vec<ContactPlan>)>, String> {
    let document: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let contacts = document.get("contacts").and_then(Value::as_array);
    let contacts = contacts.ok_or("no HDTN contact plan: it has no list \"contacts\"")?;
    let mut plans: Vec<(String, Vec<ContactPlan>)> = Vec::new();
    for mapping in mappings {
        let mut plan = Vec::new();
        for (index, contact) in contacts.iter().enumerate() {
            let at = |reason: String| format!("contacts[{index}]: {reason}");
            let node = |key| whole(contact, key).map_err(at);
            if (node("source")?, node("dest")?) != (mapping.source, mapping.dest) {
                continue;
            }
            let contact = one(contact, epoch_unix_ns).map_err(at)?;
            // HDTN lists a contact once for each final destination beyond it.
            if !plan.contains(&contact) {
                plan.push(contact);
            }
        }
        if plan.is_empty() {
            let mut pairs: Vec<_> =
                contacts.iter().filter_map(|c| Some((whole(c, "source").ok()?, whole(c, "dest").ok()?))).collect();
            pairs.sort_unstable();
            pairs.dedup();
            let pairs: Vec<_> = pairs.iter().take(20).map(|(from, to)| format!("{from}:{to}")).collect();
            return Err(format!(
                "the plan has no contact from {} to {}; it has: {}",
                mapping.source,
                mapping.dest,
                pairs.join(", ")
            ));
        }
        plan.sort_by_key(|contact| contact.start_unix_ns);
        match plans.iter_mut().find(|(link, _)| *link == mapping.link) {
            Some(_) => return Err(format!("link {} is mapped twice", mapping.link)),
            None => plans.push((mapping.link.clone(), plan)),
        }
    }
    for (link, plan) in &plans {
        check(plan).map_err(|reason| format!("link {link}: {reason}"))?;
    }
    Ok(plans)
}

fn one(contact: &Value, epoch_unix_ns: u64) -> Result<ContactPlan, String> {
    let time = |key| {
        let at = seconds(contact, key)?;
        at.checked_add(epoch_unix_ns).ok_or_else(|| format!("\"{key}\" is beyond 2554"))
    };
    let (start_unix_ns, end_unix_ns) = (time("startTime")?, time("endTime")?);
    if start_unix_ns < CLOCK_SET_UNIX_NS {
        return Err(
            "\"startTime\" is before 2024: HDTN counts from its start here; say when that is: --epoch TIME".into()
        );
    }
    let rate = whole(contact, "rateBitsPerSec")?;
    let delay_ns = contact.get("owlt").map(|_| seconds(contact, "owlt")).transpose()?;
    if delay_ns.is_some_and(|delay| delay > MAX_DELAY_NS) {
        return Err("\"owlt\" is more than an hour: florelay has no such links".into());
    }
    Ok(ContactPlan { start_unix_ns, end_unix_ns, rate_bps: (rate > 0).then_some(rate), delay_ns })
}

fn whole(contact: &Value, key: &str) -> Result<u64, String> {
    let value = contact.get(key).ok_or_else(|| format!("\"{key}\" is missing"))?;
    value.as_u64().ok_or_else(|| format!("\"{key}\" is {value}, not a whole number"))
}

/// Nanoseconds of a number of seconds, whole or not.
fn seconds(contact: &Value, key: &str) -> Result<u64, String> {
    let value = contact.get(key).ok_or_else(|| format!("\"{key}\" is missing"))?;
    let wrong = || format!("\"{key}\" is {value}, not a number of seconds");
    if let Some(whole) = value.as_u64() {
        return whole.checked_mul(1_000_000_000).ok_or_else(wrong);
    }
    let fraction = value.as_f64().map(|seconds| seconds * SECOND_NS).filter(|ns| (0.0..=u64::MAX as f64).contains(ns));
    fraction.map(|ns| ns as u64).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made for this test, in HDTN's form.
    const PLAN: &str = r#"{ "contacts": [
        { "contact": 0, "source": 1, "dest": 10, "finalDestination": 2, "startTime": 100, "endTime": 160, "rateBitsPerSec": 300000000, "owlt": 1 },
        { "contact": 1, "source": 1, "dest": 10, "finalDestination": 3, "startTime": 100, "endTime": 160, "rateBitsPerSec": 300000000, "owlt": 1 },
        { "contact": 2, "source": 10, "dest": 1, "startTime": 101, "endTime": 161, "rateBitsPerSec": 0, "owlt": 0.25 },
        { "contact": 3, "source": 1, "dest": 10, "startTime": 20, "endTime": 30, "rateBitsPerSec": 1000 }
    ] }"#;
    const EPOCH: u64 = CLOCK_SET_UNIX_NS;

    fn mapping(source: u64, dest: u64, link: &str) -> Mapping {
        Mapping { source, dest, link: link.into() }
    }

    fn contact(start: u64, end: u64, rate_bps: Option<u64>, delay_ns: Option<u64>) -> ContactPlan {
        let at = |seconds: u64| EPOCH + seconds * 1_000_000_000;
        ContactPlan { start_unix_ns: at(start), end_unix_ns: at(end), rate_bps, delay_ns }
    }

    #[test]
    fn contacts_of_the_mapped_nodes_are_the_links() {
        let plans = read(PLAN, &[mapping(1, 10, "up"), mapping(10, 1, "down")], EPOCH).unwrap();
        let up = vec![contact(20, 30, Some(1_000), None), contact(100, 160, Some(300_000_000), Some(1_000_000_000))];
        assert_eq!(plans, [("up".into(), up), ("down".into(), vec![contact(101, 161, None, Some(250_000_000))])]);
    }

    #[test]
    fn what_is_wrong_names_the_contact() {
        let refused = |text: &str, mapping: Mapping, epoch| read(text, &[mapping], epoch).unwrap_err();
        let up = || mapping(1, 10, "up");
        for (text, epoch, part) in [
            ("{", EPOCH, "not JSON"),
            ("[]", EPOCH, "no list \"contacts\""),
            (PLAN, 0, "contacts[0]: \"startTime\" is before 2024"),
            (
                &PLAN.replacen("\"rateBitsPerSec\": 300000000", "\"rate\": 3", 1),
                EPOCH,
                "contacts[0]: \"rateBitsPerSec\" is missing",
            ),
            (
                &PLAN.replacen("\"endTime\": 30", "\"endTime\": 10", 1),
                EPOCH,
                "link up: the contact at 2024-01-01T00:00:20Z ends",
            ),
            (&PLAN.replacen("\"endTime\": 30", "\"endTime\": 101", 1), EPOCH, "begins before"),
            (&PLAN.replacen("\"owlt\": 1 ", "\"owlt\": -1 ", 1), EPOCH, "contacts[0]: \"owlt\" is -1"),
            (
                &PLAN.replacen("\"owlt\": 1 ", "\"owlt\": 3600.5 ", 1),
                EPOCH,
                "contacts[0]: \"owlt\" is more than an hour",
            ),
            (&PLAN.replacen("\"source\": 1", "\"source\": \"a\"", 1), EPOCH, "contacts[0]: \"source\" is \"a\""),
        ] {
            let error = refused(text, up(), epoch);
            assert!(error.contains(part), "{error}");
        }
        assert!(refused(PLAN, mapping(2, 10, "up"), EPOCH).ends_with("it has: 1:10, 10:1"));
        assert!(read(PLAN, &[up(), up()], EPOCH).unwrap_err().contains("mapped twice"));
    }
}
