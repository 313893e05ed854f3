//! What a link is like: the numbers, and what they must satisfy.

use std::fmt;
use std::time::Duration;

use florelay_engine::time::Nanos;
use serde::{Deserialize, Serialize};

/// How a link loses frames.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// Each frame alone, with this probability.
    Bernoulli(f64),
    /// In bursts (Gilbert 1960, Elliott 1963): a chain of two states that moves before each frame.
    GilbertElliott {
        /// From good to bad, per frame: `p`.
        to_bad: f64,
        /// From bad to good, per frame: `q`, so that a burst lasts 1/q frames in the mean.
        to_good: f64,
        /// Probability of loss in the good state.
        in_good: f64,
        /// Probability of loss in the bad state.
        in_bad: f64,
    },
}

impl Loss {
    /// Share of frames lost in the long run.
    #[must_use]
    pub fn mean(self) -> f64 {
        match self {
            Self::Bernoulli(p) => p,
            Self::GilbertElliott { to_bad, to_good, in_good, in_bad } if to_bad + to_good > 0.0 => {
                (to_bad * in_bad + to_good * in_good) / (to_bad + to_good)
            }
            Self::GilbertElliott { in_good, .. } => in_good,
        }
    }
}

/// What happens to a frame whose bits were flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CorruptMode {
    /// A checksum finds out: the frame is dropped before anybody sees it.
    ChecksumDrops,
    /// It is delivered as it is, to try the receiver's own defences.
    Deliver,
}

/// Behaviour of one direction of a link. The default is perfect: no limit, no delay, no fault.
///
/// Times of schedules count from the driver's epoch; with a `period` they begin again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkModel {
    /// Bits per second at layer 2; `None` = no bottleneck.
    pub rate_bps: Option<u64>,
    /// From this time on, this rate; ascending times.
    pub rate_steps: Vec<(Nanos, Option<u64>)>,
    /// Bytes at layer 2 that may wait or be in the serialiser; what does not fit is dropped at the tail.
    pub queue_bytes: u64,
    /// One-way delay, after serialisation.
    pub delay: Duration,
    /// For frames that enter the medium from this time on, this delay; ascending times. A shorter delay does not reorder.
    pub delay_steps: Vec<(Nanos, Duration)>,
    /// Uniform additional delay up to this; by itself it never reorders.
    pub jitter: Duration,
    /// Random loss.
    pub loss: Loss,
    /// For frames offered from this time on, this loss; ascending times.
    pub loss_steps: Vec<(Nanos, Loss)>,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that bits of a frame flip.
    pub corrupt: f64,
    /// What then happens.
    pub corrupt_mode: CorruptMode,
    /// Probability that a frame is late by `reorder_delay`, so that later ones overtake it.
    pub reorder: f64,
    /// How late.
    pub reorder_delay: Duration,
    /// Intervals `[start, end)` in which the medium is dark: what enters it or should leave it then is lost.
    pub outages: Vec<(Nanos, Nanos)>,
    /// All schedules (rate, delay, loss, outages) begin again after this; zero = they run once.
    pub period: Duration,
}

impl Default for LinkModel {
    fn default() -> Self {
        Self {
            rate_bps: None,
            rate_steps: Vec::new(),
            queue_bytes: u64::MAX,
            delay: Duration::ZERO,
            delay_steps: Vec::new(),
            jitter: Duration::ZERO,
            loss: Loss::Bernoulli(0.0),
            loss_steps: Vec::new(),
            duplicate: 0.0,
            corrupt: 0.0,
            corrupt_mode: CorruptMode::ChecksumDrops,
            reorder: 0.0,
            reorder_delay: Duration::ZERO,
            outages: Vec::new(),
            period: Duration::ZERO,
        }
    }
}

/// What is wrong with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Outside 0 to 1, or not a number.
    #[error("{0} is not a probability")]
    Probability(&'static str),
    /// Times that do not ascend, or lie beyond the period.
    #[error("the times of {0} do not ascend within the period")]
    Order(&'static str),
    /// A rate of zero for ever.
    #[error("the rate is 0 and no step changes it")]
    NoRate,
}

impl LinkModel {
    /// A perfect link with a delay.
    #[must_use]
    pub fn with_delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// The same with a bottleneck of this rate and a queue of this many bytes.
    #[must_use]
    pub fn rate(self, rate_bps: u64, queue_bytes: u64) -> Self {
        Self { rate_bps: Some(rate_bps), queue_bytes, ..self }
    }

    /// The same with independent loss.
    #[must_use]
    pub fn loss(self, probability: f64) -> Self {
        Self { loss: Loss::Bernoulli(probability), ..self }
    }

    /// The same with one more outage.
    #[must_use]
    pub fn outage(mut self, start: Nanos, end: Nanos) -> Self {
        self.outages.push((start, end));
        self
    }

    /// The longest that a frame can be in the medium.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        let delay = self.delay_steps.iter().map(|&(_, delay)| delay).fold(self.delay, Duration::max);
        let late = if self.reorder > 0.0 { self.reorder_delay } else { Duration::ZERO };
        delay.saturating_add(self.jitter).saturating_add(late)
    }

    /// Whether the numbers make sense; a channel works with any, but not as anybody expects.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ModelError> {
        let mut probabilities =
            vec![("duplicate", self.duplicate), ("corrupt", self.corrupt), ("reorder", self.reorder)];
        for loss in self.loss_steps.iter().map(|step| step.1).chain([self.loss]) {
            match loss {
                Loss::Bernoulli(p) => probabilities.push(("loss", p)),
                Loss::GilbertElliott { to_bad, to_good, in_good, in_bad } => {
                    probabilities.extend([("p", to_bad), ("q", to_good), ("good", in_good), ("bad", in_bad)]);
                }
            }
        }
        if let Some((name, _)) = probabilities.iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
            return Err(ModelError::Probability(name));
        }
        let end = if self.period.is_zero() { Nanos::MAX } else { Nanos::ZERO + self.period };
        let ascend = |times: &[Nanos]| times.is_sorted_by(|a, b| a < b) && times.last().is_none_or(|last| *last <= end);
        let rates: Vec<_> = self.rate_steps.iter().map(|step| step.0).collect();
        let delays: Vec<_> = self.delay_steps.iter().map(|step| step.0).collect();
        let losses: Vec<_> = self.loss_steps.iter().map(|step| step.0).collect();
        let outages: Vec<_> = self.outages.iter().flat_map(|&(start, end)| [start, end]).collect();
        for (name, times) in
            [("rate steps", rates), ("delay steps", delays), ("loss steps", losses), ("outages", outages)]
        {
            if !ascend(&times) {
                return Err(ModelError::Order(name));
            }
        }
        if self.rate_bps == Some(0) && self.rate_steps.iter().all(|(_, rate)| *rate == Some(0)) {
            return Err(ModelError::NoRate);
        }
        Ok(())
    }
}

/// For people: what is not perfect, in one line.
impl fmt::Display for LinkModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let percent = |p: f64| format!("{} %", (p * 1e9).round() / 1e7);
        if let Some(bps) = self.rate_bps {
            parts.push(format!("{bps} bit/s"));
        }
        if self.queue_bytes != u64::MAX {
            parts.push(format!("queue {} B", self.queue_bytes));
        }
        if !self.delay.is_zero() {
            parts.push(format!("delay {:?}", self.delay));
        }
        if !self.jitter.is_zero() {
            parts.push(format!("jitter {:?}", self.jitter));
        }
        match self.loss {
            Loss::Bernoulli(p) if p > 0.0 => parts.push(format!("loss {}", percent(p))),
            Loss::GilbertElliott { to_bad, to_good, .. } => {
                let (p, q, mean) = (percent(to_bad), percent(to_good), percent(self.loss.mean()));
                parts.push(format!("loss in bursts p {p} q {q} (mean {mean})"));
            }
            Loss::Bernoulli(_) => {}
        }
        for (name, p) in [("duplicate", self.duplicate), ("corrupt", self.corrupt)] {
            if p > 0.0 {
                parts.push(format!("{name} {}", percent(p)));
            }
        }
        if self.reorder > 0.0 {
            parts.push(format!("reorder {} by {:?}", percent(self.reorder), self.reorder_delay));
        }
        for (name, count) in [
            ("rate step", self.rate_steps.len()),
            ("delay step", self.delay_steps.len()),
            ("loss step", self.loss_steps.len()),
            ("outage", self.outages.len()),
        ] {
            if count > 0 {
                parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
            }
        }
        if !self.period.is_zero() {
            parts.push(format!("again every {:?}", self.period));
        }
        f.write_str(if parts.is_empty() { "perfect" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        assert_eq!(LinkModel::default().to_string(), "perfect");
        let model = LinkModel {
            loss: Loss::GilbertElliott { to_bad: 0.01, to_good: 0.167, in_good: 0.0, in_bad: 1.0 },
            duplicate: 0.03,
            ..LinkModel::with_delay(Duration::from_millis(325)).rate(10_000_000, 64_000)
        }
        .outage(Nanos(1), Nanos(2));
        assert_eq!(
            model.to_string(),
            "10000000 bit/s, queue 64000 B, delay 325ms, loss in bursts p 1 % q 16.7 % (mean 5.6497175 %), duplicate 3 %, 1 outage"
        );
    }

    #[test]
    fn nonsense_is_named() {
        let ok = LinkModel::default();
        assert_eq!(ok.check(), Ok(()));
        let check = |change: fn(&mut LinkModel)| {
            let mut model = LinkModel { period: Duration::from_nanos(100), ..LinkModel::default() };
            change(&mut model);
            model.check()
        };
        assert_eq!(check(|m| m.corrupt = f64::NAN), Err(ModelError::Probability("corrupt")));
        assert_eq!(check(|m| m.loss = Loss::Bernoulli(1.1)), Err(ModelError::Probability("loss")));
        assert_eq!(check(|m| m.outages = vec![(Nanos(5), Nanos(5))]), Err(ModelError::Order("outages")));
        assert_eq!(check(|m| m.outages = vec![(Nanos(5), Nanos(101))]), Err(ModelError::Order("outages")));
        assert_eq!(check(|m| m.rate_steps = vec![(Nanos(7), None); 2]), Err(ModelError::Order("rate steps")));
        assert_eq!(check(|m| m.rate_bps = Some(0)), Err(ModelError::NoRate));
        assert_eq!(check(|m| m.outages = vec![(Nanos(5), Nanos(100))]), Ok(()));
    }
}
