//! Contact plans: `[[link.contact]]`, or `[[contact]]` in a file of its own that `contact-plan` names.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use florelay_dataplane::contacts::MAX_CONTACTS;
use florelay_dataplane::plan::{ContactPlan, LinkContacts};
use florelay_dataplane::wall;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Refusal, Source};
use super::files::{Checks, read_bounded, resolve};
use super::link::{MAX_DELAY_NS, duration};
use super::read::{Field, Table, Wrong, boolean, string, unit};
use super::units;

/// Longest guard: nobody gives away more of a pass.
const MAX_GUARD_NS: u64 = 60_000_000_000;
/// More than any file of [`MAX_CONTACTS`] contacts needs, ours or HDTN's.
const MAX_FILE_BYTES: u64 = 16 << 20;
const TIME_HINT: &str = "RFC 3339 with an offset, for example 2026-11-21T12:00:00Z";

/// The keys of a link that speak of contacts.
pub(super) fn read(source: &mut Source<'_>, t: &mut Table<'_>, checks: Checks) -> LinkContacts {
    let guard_ns = duration(source, t, "contact-guard", "\"20 ms\"", 0..=MAX_GUARD_NS);
    let require_synchronised_clock = t.optional(source, "require-synchronised-clock", boolean).is_none_or(|f| f.value);
    let file = t.optional(source, "contact-plan", string).map(|f| f.map(PathBuf::from));
    let inline = t.get("contact").map(toml::Spanned::span);
    let tables = t.tables(source, "contact", None);
    let plan = match (file, inline) {
        (Some(file), Some(_)) => {
            file.error(
                source,
                "the link has its contacts in two places",
                "remove contact-plan, or every [[link.contact]]",
            );
            None
        }
        (Some(file), None) => match checks {
            Checks::Full => from_file(source, &file),
            Checks::TextOnly => Some(Vec::new()),
        },
        (None, Some(span)) => Some(contacts(source, tables, &span, &t.key("contact"))),
        (None, None) => None,
    };
    LinkContacts { plan, guard_ns, require_synchronised_clock }
}

/// The text of a file with a contact plan, ours or HDTN's: a regular file of at most 16 MiB.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read_file(path: &Path) -> io::Result<String> {
    let bytes = read_bounded(path, MAX_FILE_BYTES)?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// Compiles the text of a file of `[[contact]]`, as `florelay contacts set` takes it. Also gives what is doubtful in it.
/// `path` is where it came from.
///
/// # Errors
/// Everything that is wrong with it.
pub fn compile(path: &Path, text: &str) -> Result<(Vec<ContactPlan>, Vec<Diagnostic>), Refusal> {
    let mut source = Source::new(path, text);
    let plan = document(&mut source, text);
    match plan {
        Some(plan) if !source.has_errors() => Ok((plan, source.into_warnings())),
        _ => source.refuse(),
    }
}

/// A plan as such a file has it: it compiles to the same plan.
#[must_use]
pub fn show(plan: &[ContactPlan]) -> String {
    plan.iter().fold(String::new(), |mut text, contact| {
        let rate = units::exact_rate(contact.rate_bps);
        let (start, end) = (wall::show(contact.start_unix_ns), wall::show(contact.end_unix_ns));
        text.push_str(&format!("[[contact]]\nstart = {start}\nend = {end}\nrate = \"{rate}\"\n"));
        if let Some(delay) = contact.delay_ns {
            text.push_str(&format!("delay = \"{}\"\n", units::exact_duration(delay)));
        }
        text.push('\n');
        text
    })
}

/// What is wrong in the file is reported there, in the order of the configuration.
fn from_file(source: &mut Source<'_>, file: &Field<PathBuf>) -> Option<Vec<ContactPlan>> {
    let path = resolve(source, &file.value);
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(e) => {
            file.error(source, format!("{} cannot be read: {e}", path.display()), "a file of [[contact]] tables");
            return None;
        }
    };
    let mut inner = Source::new(&path, &text);
    let plan = document(&mut inner, &text);
    source.absorb(&file.span, inner);
    plan
}

fn document(source: &mut Source<'_>, text: &str) -> Option<Vec<ContactPlan>> {
    let document = super::parse(source, text)?;
    let mut root = Table::new(document.get_ref(), 0..0, "");
    let span = root.get("contact").map_or(0..0, toml::Spanned::span);
    let tables = root.tables(source, "contact", None);
    let plan = contacts(source, tables, &span, "contact");
    root.close(source);
    Some(plan)
}

/// One contact as it is read, with the places of its times.
struct Draft {
    start: Field<u64>,
    contact: ContactPlan,
}

fn contacts(source: &mut Source<'_>, tables: Vec<Table<'_>>, span: &Range<usize>, key: &str) -> Vec<ContactPlan> {
    if tables.len() > MAX_CONTACTS {
        source.error(span, key, format!("{} contacts are too many", tables.len()), format!("at most {MAX_CONTACTS}"));
    }
    let mut drafts: Vec<Draft> = tables.into_iter().filter_map(|t| contact(source, t)).collect();
    drafts.sort_by_key(|draft| draft.start.value);
    for pair in drafts.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.start.value < before.contact.end_unix_ns {
            let (line, _) = source.position(before.start.span.start);
            let end = wall::show(before.contact.end_unix_ns);
            after.start.error(
                source,
                format!("this contact begins before the one in line {line} ends, at {end}"),
                "contacts of a link may touch, not overlap",
            );
        }
    }
    let now = wall::now_unix_ns();
    match drafts.last() {
        None => {
            source.warn(span, key, "the plan has no contact", "the link stays down; remove the plan to use it always");
        }
        Some(last) if last.contact.end_unix_ns <= now => {
            let message =
                format!("every contact is over; the last one ended at {}", wall::show(last.contact.end_unix_ns));
            source.warn(span, key, message, "the link stays down until it gets new ones: florelay contacts set");
        }
        Some(_) => {}
    }
    drafts.into_iter().map(|draft| draft.contact).collect()
}

fn contact(source: &mut Source<'_>, mut table: Table<'_>) -> Option<Draft> {
    let t = &mut table;
    let start = t.required(source, "start", "2026-11-21T12:00:00Z", time);
    let end = t.required(source, "end", "2026-11-21T12:10:00Z", time);
    let rate = t.required(source, "rate", "\"300 Mbit/s\"", unit(units::rate, "\"300 Mbit/s\" or \"uncapped\""));
    let delay_ns = duration(source, t, "delay", "\"20 ms\"", 0..=MAX_DELAY_NS);
    if let Some(rate) = &rate
        && rate.value == Some(0)
    {
        rate.error(source, "a contact of rate 0 carries nothing", "leave it out of the plan");
    }
    if let (Some(start), Some(end)) = (&start, &end)
        && end.value <= start.value
    {
        let message = format!("the contact ends at {}, not after its start", wall::show(end.value));
        end.error(source, message, format!("later than {}", wall::show(start.value)));
    }
    table.close(source);
    let (start, end_unix_ns) = (start?, end?.value);
    let contact = ContactPlan { start_unix_ns: start.value, end_unix_ns, rate_bps: rate?.value, delay_ns };
    Some(Draft { start, contact })
}

/// A TOML date with time and offset, or the same in quotes.
fn time(value: &DeValue<'_>) -> Result<u64, Wrong> {
    if matches!(value, DeValue::Datetime(_)) {
        return unix_ns(value);
    }
    parse_time(&string(value).map_err(|(message, _)| (message, TIME_HINT.to_owned()))?)
}

/// A time as RFC 3339 writes it.
///
/// # Errors
/// What is wrong, and a hint.
pub fn parse_time(text: &str) -> Result<u64, (String, String)> {
    let wrong = || (format!("\"{text}\" is not a date and time"), TIME_HINT.to_owned());
    // TOML's dates are those of RFC 3339; nothing but a date may reach the parser.
    if !text.bytes().all(|b| b.is_ascii_digit() || b"-:+. TtZz".contains(&b)) {
        return Err(wrong());
    }
    let assignment = format!("time = {text}");
    let document = DeTable::parse(&assignment).map_err(|_| wrong())?;
    let value = document.get_ref().get("time").ok_or_else(wrong)?;
    if matches!(value.get_ref(), DeValue::Datetime(_)) { unix_ns(value.get_ref()) } else { Err(wrong()) }
}

fn unix_ns(value: &DeValue<'_>) -> Result<u64, Wrong> {
    let DeValue::Datetime(datetime) = value else { return Err(("not a date".to_owned(), TIME_HINT.to_owned())) };
    let wrong = |what: &str| (format!("{datetime} {what}"), TIME_HINT.to_owned());
    let (Some(date), Some(time)) = (datetime.date, datetime.time) else {
        return Err(wrong("is not a date with a time"));
    };
    let Some(offset) = datetime.offset else {
        return Err(wrong("has no offset from UTC: it would mean another time on another machine"));
    };
    let minutes = offset_minutes(&offset.to_string()).ok_or_else(|| wrong("has an offset that is none"))?;
    let time = (time.hour, time.minute, time.second.unwrap_or(0), time.nanosecond.unwrap_or(0));
    wall::unix_ns((date.year, date.month, date.day), time, minutes).ok_or_else(|| wrong("is before 1970 or after 2554"))
}

/// `Z`, or `+01:00`.
fn offset_minutes(offset: &str) -> Option<i32> {
    if offset == "Z" {
        return Some(0);
    }
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = offset.trim_start_matches(['+', '-']).split_once(':')?;
    Some(sign * (hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?))
}
