//! What `status` says of how well a link does: the state and its reason, what is measured, the clock error.

use std::fmt::Write as _;

use florelay_dataplane::ipc::{DirectionStatus, LinkStatus, MeasuredStatus, WindowStatus};
use serde_json::{Value, json};

use crate::config::units::show_duration;

/// Lines below the table.
pub(super) fn describe(text: &mut String, link: &LinkStatus) {
    let (name, age) = (&link.name, show_duration(link.state_age_ns));
    let why = link.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    let changes = match link.state_changes {
        1 => "1 change".to_owned(),
        changes => format!("{changes} changes"),
    };
    let _ = writeln!(text, "  {name} is {} for {age} ({changes}){why}", link.state);
    let m = &link.measured;
    if let Some(rtt) = &m.rtt {
        let (least, latest) = (show_duration(rtt.min_ns), show_duration(rtt.latest_ns));
        let jitter = m.jitter_ns.map_or(String::new(), |jitter| format!(", jitter {}", show_duration(jitter)));
        let _ = writeln!(text, "  {name} round trip: shortest {least}, latest {latest}{jitter}");
    }
    if let Some(from) = direction(&m.from_neighbour, true) {
        let _ = writeln!(text, "  {name} from the neighbour: {from}");
    }
    if let Some(to) = m.to_neighbour.as_ref().and_then(|to| direction(to, false)) {
        let _ = writeln!(text, "  {name} to the neighbour: {to}");
    }
    match &m.clock {
        Ok(clock) => {
            let bound = show_duration(clock.bound_ns);
            let sign = if clock.error_ns < 0 { "\u{2212}" } else { "+" };
            let error = show_duration(clock.error_ns.unsigned_abs());
            let (to, from) = (show_duration(clock.to_neighbour_ns), show_duration(clock.from_neighbour_ns));
            let _ = writeln!(text, "  {name} clock error between the ends: {sign}{error} \u{b1} {bound}");
            let _ = writeln!(text, "  {name} one way: {to} to the neighbour, {from} from it, each \u{b1} {bound}");
        }
        Err(why) => {
            let _ = writeln!(text, "  {name} clock error between the ends: unknown, {why}");
        }
    }
}

/// Both windows side by side, within a line of a terminal.
fn direction(direction: &DirectionStatus, reordered: bool) -> Option<String> {
    let percent = |ppm: Option<u32>| ppm.map_or("-".to_owned(), |ppm| format!("{:.2} %", f64::from(ppm) / 1e4));
    let (short, long) = (&direction.short, &direction.long);
    long.loss_ppm?;
    let order = if reordered {
        format!(", out of order {} / {}", percent(short.reorder_ppm), percent(long.reorder_ppm))
    } else {
        String::new()
    };
    let lost = format!("lost {} / {}", percent(short.loss_ppm), percent(long.loss_ppm));
    Some(format!("{lost}{order} of {} / {} frames in 10 s / 60 s", short.expected, long.expected))
}

/// The figures for machines.
pub(super) fn measured_json(m: &MeasuredStatus) -> Value {
    let window = |w: &WindowStatus, reordered: bool| {
        let mut value = json!({ "expected": w.expected, "lost": w.lost, "loss_ppm": w.loss_ppm });
        if reordered {
            (value["reordered"], value["reorder_ppm"]) = (json!(w.reordered), json!(w.reorder_ppm));
        }
        value
    };
    let direction = |d: &DirectionStatus, reordered: bool| json!({ "10s": window(&d.short, reordered), "60s": window(&d.long, reordered) });
    let clock = match &m.clock {
        Ok(clock) => json!({
            "error_ns": clock.error_ns, "bound_ns": clock.bound_ns,
            "to_neighbour_ns": clock.to_neighbour_ns, "from_neighbour_ns": clock.from_neighbour_ns,
        }),
        Err(why) => json!({ "unknown": why }),
    };
    json!({
        "rtt_min_ns": m.rtt.map(|rtt| rtt.min_ns), "rtt_latest_ns": m.rtt.map(|rtt| rtt.latest_ns), "jitter_ns": m.jitter_ns,
        "from_neighbour": direction(&m.from_neighbour, true),
        "to_neighbour": m.to_neighbour.as_ref().map(|to| direction(to, false)), "clock": clock,
    })
}
