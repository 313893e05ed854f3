//! `degraded` of a link: the thresholds at which it is called that, and no longer.

use std::time::Duration;

use florelay_dataplane::plan::Thresholds;

use super::diagnostic::Source;
use super::read::{Field, Table, unit};
use super::units;

/// Longest growth, jitter and hold time.
const MAX_TIME: Duration = Duration::from_secs(3600);
/// Shortest threshold: what is below is not noticed behind a burst.
const MIN_TIME: Duration = Duration::from_millis(1);
const PPM: f64 = 1e6;

/// Reads the table; the defaults, where there is none. What is wrong is recorded.
pub(super) fn read(source: &mut Source<'_>, link: &mut Table<'_>) -> Thresholds {
    let mut thresholds = Thresholds::default();
    let Some(mut t) = link.table(source, "degraded") else { return thresholds };
    let bad = share(source, &mut t, "loss", 1);
    let clear = share(source, &mut t, "loss-clear", 0);
    if let Some(bad) = &bad {
        (thresholds.loss_ppm, thresholds.loss_clear_ppm) = (bad.value, bad.value / 2);
    }
    if let Some(clear) = clear {
        if clear.value > thresholds.loss_ppm {
            let message = format!("the loss that ends it is above the {} that begin it", percent(thresholds.loss_ppm));
            clear.error(source, message, "at most as much as loss");
        }
        thresholds.loss_clear_ppm = clear.value;
    }
    (thresholds.rtt_growth, thresholds.rtt_growth_clear) = times(source, &mut t, "rtt-growth", "rtt-growth-clear");
    (thresholds.jitter, thresholds.jitter_clear) = times(source, &mut t, "jitter", "jitter-clear");
    if let Some(hold) = time(source, &mut t, "hold", "\"10 s\"", Duration::ZERO) {
        thresholds.hold = hold.value;
    }
    t.close(source);
    thresholds
}

/// A threshold and the lower one.
fn times(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
    name: &'static str,
    clear_name: &'static str,
) -> (Option<Duration>, Option<Duration>) {
    let bad = time(source, t, name, "\"200 ms\"", MIN_TIME).map(|f| f.value);
    let clear = time(source, t, clear_name, "\"100 ms\"", Duration::ZERO);
    if let Some(clear) = &clear {
        match bad {
            None => {
                let hint = format!("add: {name}, or remove it");
                clear.error(source, format!("there is no {name} to fall from"), hint);
            }
            Some(bad) if clear.value > bad => {
                clear.error(source, format!("it is above {name}"), format!("at most as much as {name}"));
            }
            Some(_) => {}
        }
    }
    (bad, clear.map(|f| f.value))
}

fn share(source: &mut Source<'_>, t: &mut Table<'_>, name: &'static str, least_ppm: u32) -> Option<Field<u32>> {
    t.optional(source, name, |value| {
        let share = unit(units::probability, "\"2 %\"; 0.0001 % to 100 %")(value)?;
        let ppm = (share * PPM).round() as u32;
        if ppm < least_ppm {
            return Err(("a loss of 0 % is what every link has".to_owned(), "0.0001 % to 100 %".to_owned()));
        }
        Ok(ppm)
    })
}

fn time(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
    name: &'static str,
    example: &'static str,
    least: Duration,
) -> Option<Field<Duration>> {
    t.optional(source, name, |value| {
        let duration = unit(units::duration, example)(value)?;
        if (least..=MAX_TIME).contains(&duration) {
            return Ok(duration);
        }
        let range = if least.is_zero() { "0 s to 1 h" } else { "1 ms to 1 h" };
        Err((format!("{duration:?} is out of range"), range.to_owned()))
    })
}

fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 1e4)
}
