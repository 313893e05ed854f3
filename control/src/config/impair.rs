//! The impairments of one direction of a link: the keys that a `sim` link and a profile of the link emulator share.

use std::time::Duration;

use florelay_impair::{CorruptMode, LinkModel, Loss, Nanos};
use toml::de::DeValue;

use super::diagnostic::Source;
use super::read::{Field, Table, Wrong, unit, word};
use super::units;

/// Default of `queue`: this much time at the highest rate …
const QUEUE_MS: u64 = 200;
/// … but at least this: twenty full frames.
const QUEUE_BYTES_MIN: u64 = 30_000;
/// Longest delay and jitter, as `delay` of a link.
const MAX_DELAY: Duration = Duration::from_secs(3600);
/// Longest schedule.
const MAX_TIME: Duration = Duration::from_secs(366 * 86_400);
/// Shortest `period`: its steps are walked one by one.
const MIN_PERIOD: Duration = Duration::from_millis(1);

/// Reads the keys; the caller closes the table. What is wrong is recorded and left at its default.
pub(super) fn read(source: &mut Source<'_>, t: &mut Table<'_>, damaged: CorruptMode) -> LinkModel {
    let mut model = LinkModel { corrupt_mode: damaged, ..LinkModel::default() };
    let rate = rate(source, t);
    let queue = t.optional(source, "queue", unit(units::bytes, "\"64 kB\""));
    model.delay = time(source, t, "delay", "\"325 ms\"", Duration::ZERO..=MAX_DELAY).map_or(model.delay, |f| f.value);
    model.jitter = time(source, t, "jitter", "\"10 ms\"", Duration::ZERO..=MAX_DELAY).map_or(model.jitter, |f| f.value);
    model.loss = loss(source, t).unwrap_or(model.loss);
    model.duplicate = share(source, t, "duplicate").unwrap_or(0.0);
    model.corrupt = share(source, t, "corrupt").unwrap_or(0.0);
    let modes: &[_] = &[("drop", CorruptMode::ChecksumDrops), ("deliver", CorruptMode::Deliver)];
    model.corrupt_mode = t.optional(source, "damaged", word(modes)).map_or(damaged, |f| f.value);
    if let Some(mut reorder) = t.table(source, "reorder") {
        model.reorder = reorder.required(source, "share", "\"1 %\"", probability()).map_or(0.0, |f| f.value);
        let by = time(source, &mut reorder, "by", "\"5 ms\"", Duration::ZERO..=MAX_DELAY);
        if by.is_none() && reorder.get("by").is_none() {
            reorder.missing(source, "by", "\"5 ms\"");
        }
        model.reorder_delay = by.map_or(Duration::ZERO, |f| f.value);
        reorder.close(source);
    }
    let period = time(source, t, "period", "\"30 s\"", MIN_PERIOD..=MAX_TIME);
    model.period = period.map_or(Duration::ZERO, |f| f.value);
    model.rate_bps = rate.as_ref().and_then(|f| f.value);
    steps(source, t, &mut model);
    outages(source, t, &mut model);

    let highest = model.rate_steps.iter().map(|step| step.1).chain([model.rate_bps]).flatten().max();
    if let Some(rate) = &rate
        && rate.value == Some(0)
        && model.rate_steps.iter().all(|(_, rate)| *rate == Some(0))
    {
        rate.error(
            source,
            "a rate of 0 carries nothing, and no step changes it",
            "an outage is written: outages = [{ … }]",
        );
    }
    match (queue, highest) {
        (Some(queue), None) => {
            queue.error(source, "there is no queue without a rate", "add: rate = \"10 Mbit/s\", or remove it");
        }
        (Some(queue), Some(_)) => model.queue_bytes = queue.value,
        (None, Some(bps)) => model.queue_bytes = (bps / 8 / 1000 * QUEUE_MS).max(QUEUE_BYTES_MIN),
        (None, None) => {}
    }
    model
}

/// `steps`: from a time on, another rate, delay or loss.
fn steps(source: &mut Source<'_>, t: &mut Table<'_>, model: &mut LinkModel) {
    let mut last = None;
    for mut step in t.tables(source, "steps", None) {
        let at = moment(source, &mut step, "at", "\"20 s\"", last, model.period);
        let rate = rate(source, &mut step);
        let delay = time(source, &mut step, "delay", "\"325 ms\"", Duration::ZERO..=MAX_DELAY);
        let loss = loss(source, &mut step);
        let known = ["rate", "delay", "loss"].into_iter().any(|key| step.get(key).is_some());
        if !known {
            let hint = "add one of: rate, delay, loss";
            source.error(&step.span, step.path.clone(), "this step changes nothing", hint);
        }
        step.close(source);
        let Some(at) = at else { continue };
        last = Some(at);
        model.rate_steps.extend(rate.map(|rate| (at, rate.value)));
        model.delay_steps.extend(delay.map(|delay| (at, delay.value)));
        model.loss_steps.extend(loss.map(|loss| (at, loss)));
    }
}

/// `outages`: when the link is dark.
fn outages(source: &mut Source<'_>, t: &mut Table<'_>, model: &mut LinkModel) {
    let mut last = None;
    for mut outage in t.tables(source, "outages", None) {
        let from = moment(source, &mut outage, "from", "\"20 s\"", last, model.period);
        let to = moment(source, &mut outage, "to", "\"25 s\"", from.or(last), model.period);
        outage.close(source);
        last = to.or(from).or(last);
        model.outages.extend(from.zip(to));
    }
}

/// A required time of a schedule, behind `last` and within the period.
fn moment(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
    name: &'static str,
    example: &'static str,
    last: Option<Nanos>,
    period: Duration,
) -> Option<Nanos> {
    if t.get(name).is_none() {
        t.missing(source, name, example);
        return None;
    }
    let field = time(source, t, name, example, Duration::ZERO..=MAX_TIME)?;
    let at = Nanos::ZERO + field.value;
    if last.is_some_and(|last| at <= last) {
        field.error(source, "it is not later than the time before it", "write them in the order in which they come");
        return None;
    }
    if !period.is_zero() && field.value > period {
        let hint = "times count from the beginning of each period";
        field.error(source, format!("it is beyond the period, {}", show(period)), hint);
        return None;
    }
    Some(at)
}

fn rate(source: &mut Source<'_>, t: &mut Table<'_>) -> Option<Field<Option<u64>>> {
    t.optional(source, "rate", unit(units::rate, "\"10 Mbit/s\" or \"uncapped\""))
}

/// `loss`: a probability, or the chain of Gilbert and Elliott.
fn loss(source: &mut Source<'_>, t: &mut Table<'_>) -> Option<Loss> {
    if !matches!(t.get("loss")?.get_ref(), DeValue::Table(_)) {
        return t.optional(source, "loss", probability()).map(|f| Loss::Bernoulli(f.value));
    }
    let mut chain = t.table(source, "loss")?;
    let to_bad = chain.required(source, "p", "\"1 %\"", probability());
    let to_good = chain.required(source, "q", "\"20 %\"", probability());
    let in_good = share(source, &mut chain, "good").unwrap_or(0.0);
    let in_bad = share(source, &mut chain, "bad").unwrap_or(1.0);
    chain.close(source);
    let (to_bad, to_good) = (to_bad?, to_good?);
    if to_good.value == 0.0 && to_bad.value > 0.0 {
        to_good.error(source, "with q = 0 the first burst of loss never ends", "q is 1 / the mean length of a burst");
    }
    Some(Loss::GilbertElliott { to_bad: to_bad.value, to_good: to_good.value, in_good, in_bad })
}

fn share(source: &mut Source<'_>, t: &mut Table<'_>, name: &'static str) -> Option<f64> {
    t.optional(source, name, probability()).map(|f| f.value)
}

fn probability() -> impl FnOnce(&DeValue<'_>) -> Result<f64, Wrong> {
    unit(units::probability, "\"2 %\"; 0 % to 100 %")
}

fn time(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
    name: &'static str,
    example: &'static str,
    bounds: std::ops::RangeInclusive<Duration>,
) -> Option<Field<Duration>> {
    t.optional(source, name, |value| {
        let duration = unit(units::duration, example)(value)?;
        if bounds.contains(&duration) {
            return Ok(duration);
        }
        let message = format!("{duration:?} is out of range");
        Err((message, format!("{} to {}", show(*bounds.start()), show(*bounds.end()))))
    })
}

fn show(duration: Duration) -> String {
    units::show_duration(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
