//! `florelay contacts`, and what `status` says of contacts.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use florelay_dataplane::ipc::{Answer, ContactStatus, ContactsOfLink, PassUsage, RequestBody};
use florelay_dataplane::plan::ContactPlan;
use florelay_dataplane::wall;
use serde_json::{Value, json};

use super::args::{ContactsVerb, Target};
use super::client::ask;
use super::out::print;
use super::report::warn;
use super::table::{table, terminal_columns};
use super::{Exit, command};
use crate::config::units::{show_bytes, show_duration, show_rate};
use crate::config::{contact, hdtn};

const PLAN_HINT: &str =
    "name a file of [[contact]] tables, or say --always; florelay contacts set --help has an example";
const HDTN_HINT: &str = "name a file with HDTN's contact plan in JSON";

pub(super) fn run(verb: ContactsVerb) -> anyhow::Result<ExitCode> {
    match verb {
        ContactsVerb::Show { link, json, target } => show(&target, link.as_deref(), json),
        ContactsVerb::Set { link, file, always: _, target } => {
            let plan = match &file {
                None => None,
                Some(file) => {
                    let text = contact::read_file(file).map_err(|e| Exit::no_input(file, e, PLAN_HINT))?;
                    let (plan, warnings) = contact::compile(file, &text)?;
                    warn(&warnings);
                    Some(plan)
                }
            };
            command::done(&target, RequestBody::SetContacts { link, plan })
        }
        ContactsVerb::Import { file, maps, epoch, toml, target } => {
            let plans = import(&file, &maps, epoch)?;
            if toml {
                // Contacts of several links would read as those of one.
                let [(link, plan)] = plans.as_slice() else {
                    return Err(Exit::failed("--toml writes the plan of one link: say --map once"));
                };
                print(format_args!("# link {link}\n\n{}", contact::show(plan)))?;
                return Ok(ExitCode::SUCCESS);
            }
            for (link, plan) in plans {
                command::done(&target, RequestBody::SetContacts { link, plan: Some(plan) })?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn import(file: &Path, maps: &[hdtn::Mapping], epoch: Option<u64>) -> anyhow::Result<Vec<(String, Vec<ContactPlan>)>> {
    let failed = |reason: String| Exit::failed(format!("{}: {reason}", file.display()));
    let text = contact::read_file(file).map_err(|e| Exit::no_input(file, e, HDTN_HINT))?;
    hdtn::read(&text, maps, epoch.unwrap_or(0)).map_err(failed)
}

fn show(target: &Target, link: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let Answer::Contacts(mut links) = ask(target, RequestBody::Contacts)? else { bail!("not contact plans") };
    if let Some(link) = link {
        let all: Vec<_> = links.iter().map(|plan| plan.link.clone()).collect();
        links.retain(|plan| plan.link == link);
        if links.is_empty() {
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            return Err(Exit::failed(format!("no link {link} with a contact plan; links that have one: {all}")));
        }
    }
    if as_json {
        print(format_args!("{:#}\n", Value::Array(links.iter().map(of_link_json).collect())))?;
    } else if links.is_empty() {
        print("no link has a contact plan\n")?;
    } else {
        print(plans(&links, wall::now_unix_ns(), terminal_columns()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All plans as one table.
fn plans(links: &[ContactsOfLink], now: u64, columns: Option<usize>) -> String {
    let mut rows = vec![["LINK", "START", "END", "LENGTH", "RATE", "DELAY", ""].map(str::to_owned).to_vec()];
    for of_link in links {
        for contact in &of_link.plan {
            let when = if contact.end_unix_ns <= now {
                "over"
            } else if contact.start_unix_ns <= now {
                "now"
            } else {
                ""
            };
            rows.push(vec![
                of_link.link.clone(),
                wall::show(contact.start_unix_ns),
                wall::show(contact.end_unix_ns),
                show_duration(contact.end_unix_ns - contact.start_unix_ns),
                show_rate(contact.rate_bps),
                contact.delay_ns.map_or("-".to_owned(), show_duration),
                when.to_owned(),
            ]);
        }
    }
    let mut text = table(&rows, &[0], columns);
    for of_link in links {
        if let Some(reason) = &of_link.refused {
            let _ = writeln!(text, "  {} does not follow its plan: {reason}", of_link.link);
        }
    }
    text
}

/// What `status` says of one link.
pub(super) fn describe(text: &mut String, link: &str, status: &ContactStatus) {
    if let Some((contact, usage, left)) = &status.present {
        let end = wall::show(contact.end_unix_ns);
        let _ = writeln!(text, "  {link} in contact until {end}, {} left; {}", show_duration(*left), used(usage));
    }
    if let Some((contact, until)) = &status.next {
        let length = show_duration(contact.end_unix_ns - contact.start_unix_ns);
        let (start, rate) = (wall::show(contact.start_unix_ns), show_rate(contact.rate_bps));
        let _ = writeln!(text, "  {link} next contact at {start}, in {}: {length} at {rate}", show_duration(*until));
    }
    if let Some(usage) = &status.last {
        let _ = writeln!(text, "  {link} last contact, of {}: {}", wall::show(usage.start_unix_ns), used(usage));
    }
}

fn used(usage: &PassUsage) -> String {
    let sent = show_bytes(usage.sent_bytes);
    match (usage.carried_bytes, usage.percent()) {
        (Some(carried), Some(percent)) => format!("{sent} sent of {} ({percent} %)", show_bytes(carried)),
        _ => format!("{sent} sent"),
    }
}

pub(super) fn status_json(status: &ContactStatus) -> Value {
    let present = status.present.as_ref().map(|(contact, usage, left)| {
        let mut object = contact_json(contact);
        object["remaining_ns"] = json!(left);
        object["usage"] = usage_json(usage);
        object
    });
    let next = status.next.as_ref().map(|(contact, until)| {
        let mut object = contact_json(contact);
        object["starts_in_ns"] = json!(until);
        object
    });
    let last = status
        .last
        .as_ref()
        .map(|usage| json!({ "start": wall::show(usage.start_unix_ns), "usage": usage_json(usage) }));
    json!({ "refused": status.refused, "present": present, "next": next, "last": last })
}

fn usage_json(usage: &PassUsage) -> Value {
    json!({
        "sent_bytes": usage.sent_bytes, "carried_bytes": usage.carried_bytes, "capacity_bytes": usage.capacity_bytes,
        "percent": usage.percent(),
    })
}

fn of_link_json(of_link: &ContactsOfLink) -> Value {
    let contacts: Vec<_> = of_link.plan.iter().map(contact_json).collect();
    json!({ "link": of_link.link, "refused": of_link.refused, "contacts": contacts })
}

fn contact_json(contact: &ContactPlan) -> Value {
    json!({
        "start": wall::show(contact.start_unix_ns), "end": wall::show(contact.end_unix_ns),
        "start_unix_ns": contact.start_unix_ns, "end_unix_ns": contact.end_unix_ns,
        "rate_bps": contact.rate_bps, "delay_ns": contact.delay_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_795_264_496_000_000_000;

    fn contact(start_s: u64, end_s: u64) -> ContactPlan {
        let at = |seconds: u64| START + seconds * 1_000_000_000;
        ContactPlan {
            start_unix_ns: at(start_s),
            end_unix_ns: at(end_s),
            rate_bps: Some(300_000_000),
            delay_ns: Some(20_000_000),
        }
    }

    fn usage() -> PassUsage {
        PassUsage {
            start_unix_ns: START,
            sent_bytes: 9_000_000,
            carried_bytes: Some(10_000_000),
            capacity_bytes: Some(20_000_000),
        }
    }

    #[test]
    fn status_says_present_next_and_use() {
        let status = ContactStatus {
            refused: None,
            present: Some((contact(0, 600), usage(), 300_000_000_000)),
            next: Some((contact(5_760, 6_360), 5_460_000_000_000)),
            last: Some(PassUsage { carried_bytes: None, capacity_bytes: None, ..usage() }),
        };
        let mut text = String::new();
        describe(&mut text, "up", &status);
        assert_eq!(
            text,
            "  up in contact until 2026-11-21T12:44:56Z, 5 min 0 s left; 9 MB sent of 10 MB (90 %)
  up next contact at 2026-11-21T14:10:56Z, in 1 h 31 min: 10 min 0 s at 300 Mbit/s
  up last contact, of 2026-11-21T12:34:56Z: 9 MB sent
"
        );
        let json = status_json(&status);
        assert_eq!(
            (&json["present"]["usage"]["percent"], &json["last"]["usage"]["percent"]),
            (&json!(90), &Value::Null)
        );
        assert_eq!(json["next"]["starts_in_ns"], 5_460_000_000_000_u64);
    }

    #[test]
    fn plans_say_what_is_over_and_what_is_refused() {
        let plan = vec![contact(0, 10), contact(20, 30), contact(40, 50)];
        let link = ContactsOfLink { link: "up".into(), plan, refused: Some("no clock".into()) };
        let text = plans(&[link], START + 25_000_000_000, None);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].ends_with("over") && lines[2].ends_with("now") && lines[3].ends_with("20 ms"), "{text}");
        assert_eq!(lines[4], "  up does not follow its plan: no clock");
    }
}
