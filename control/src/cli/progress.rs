//! Progress of transfers for people: bars on a terminal, a line now and then where there is none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{TransferState, TransferStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out::say;
use super::table::cut;
use crate::config::units::{show_bytes, show_rate};
use crate::printable::printable;

/// A name's longest in front of a bar.
const NAME_COLUMNS: usize = 30;
/// Most bars beside the one for all.
const MAX_BARS: usize = 8;
/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// A bar for one transfer. Without a terminal, indicatif draws nothing; the end is said in words anyhow.
pub(super) fn new_bar(status: &TransferStatus) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(status.size, ProgressDrawTarget::stderr());
    styled(&bar, status);
    bar
}

fn styled(bar: &ProgressBar, status: &TransferStatus) {
    let template = if status.size.is_some() {
        "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta} {msg}"
    } else {
        "{prefix} {spinner} {decimal_bytes} {decimal_bytes_per_sec} {msg}"
    };
    style(bar, template);
    bar.set_prefix(cut(&printable(&status.name), NAME_COLUMNS));
    begin(bar, status.confirmed);
}

fn style(bar: &ProgressBar, template: &str) {
    // The templates are fixed; the default style is the answer to a mistake in them.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
}

fn begin(bar: &ProgressBar, confirmed: u64) {
    // What an earlier run has sent is neither rate nor ETA of this one.
    bar.set_position(confirmed);
    bar.reset_eta();
    // Redrawn while nothing comes, so that the rate falls and a stall shows.
    bar.enable_steady_tick(Duration::from_millis(250));
}

/// What is new of one transfer.
pub(super) fn show(bar: &ProgressBar, status: &TransferStatus) {
    if let Some(size) = status.size {
        bar.set_length(size);
    }
    bar.set_position(status.confirmed);
    bar.set_message(note(status));
}

fn note(status: &TransferStatus) -> String {
    match &status.state {
        TransferState::Pending { position } => format!("waits, place {position}"),
        TransferState::Paused => "paused".to_owned(),
        TransferState::NoReader => "waits for a reader".to_owned(),
        TransferState::NoWriter => "waits for its writer".to_owned(),
        TransferState::NoFile(reason) => format!("waits for its file: {}", printable(reason)),
        TransferState::Running if status.stalled => "STALLED: waiting for the link".to_owned(),
        TransferState::Running => String::new(),
    }
}

/// Progress of many transfers: a bar for each of the first that run, and one for all.
pub(super) struct Bars {
    /// `None`: of one transfer its own bar says all.
    total: Option<ProgressBar>,
    all: MultiProgress,
    bars: HashMap<u128, ProgressBar>,
    /// Bytes that are confirmed of each transfer that runs.
    confirmed: HashMap<u128, u64>,
    stalled: HashMap<u128, bool>,
    /// Bytes of those that have ended.
    finished: u64,
    ended: usize,
    count: usize,
    bytes: u64,
    /// When a line is due where there is no terminal, and what had been sent at the one before.
    line: Option<(Instant, u64)>,
}

impl Bars {
    /// For so many files with so many bytes. `quiet`: nothing is shown but what is said.
    pub(super) fn new(count: usize, bytes: u64, quiet: bool) -> Self {
        use std::io::IsTerminal as _;
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let all = MultiProgress::with_draw_target(target);
        let total = (count > 1).then(|| {
            let bar = all.add(ProgressBar::new(bytes));
            style(
                &bar,
                "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta} {msg}",
            );
            begin(&bar, 0);
            bar
        });
        let line = (!quiet && !std::io::stderr().is_terminal()).then(|| (Instant::now() + LINE_EVERY, 0));
        let empty = || HashMap::new();
        let mut bars = Self {
            total,
            all,
            bars: HashMap::new(),
            confirmed: empty(),
            stalled: HashMap::new(),
            finished: 0,
            ended: 0,
            count,
            bytes,
            line,
        };
        bars.show_total();
        bars
    }

    /// When [`Self::tick`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.line.map(|(due, _)| due)
    }

    /// Says a line if one is due.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        let Some((due, before)) = self.line.filter(|(due, _)| *due <= now) else { return };
        let sent = self.sent();
        let since = LINE_EVERY + now.duration_since(due);
        let rate = (u128::from(sent.saturating_sub(before)) * 8000).checked_div(since.as_millis()).unwrap_or(0);
        let stalled = if self.is_stalled() { ", STALLED: waiting for the link" } else { "" };
        say(format_args!(
            "florelay: {} of {} files, {} of {}, {}{stalled}",
            self.ended,
            self.count,
            show_bytes(sent),
            show_bytes(self.bytes),
            show_rate(u64::try_from(rate).ok()),
        ));
        self.line = Some((now + LINE_EVERY, sent));
    }

    /// What is new of one of them.
    pub(super) fn status(&mut self, status: &TransferStatus) {
        if status.ended.is_some() {
            return;
        }
        self.confirmed.insert(status.id, status.confirmed);
        self.stalled.insert(status.id, status.stalled);
        let single = self.total.is_none();
        if let Some(bar) = self.bars.get(&status.id) {
            show(bar, status);
        } else if single || (self.bars.len() < MAX_BARS && status.state == TransferState::Running) {
            let bar = self.all.insert(0, ProgressBar::new(status.size.unwrap_or(0)));
            styled(&bar, status);
            show(&bar, status);
            self.bars.insert(status.id, bar);
        }
        self.show_total();
    }

    /// One has ended, well or not; it had so many bytes.
    pub(super) fn ended(&mut self, id: u128, bytes: u64) {
        self.ended += 1;
        self.finished += bytes;
        self.forget(id);
    }

    /// One is not under way any more, and may be later.
    pub(super) fn forget(&mut self, id: u128) {
        self.confirmed.remove(&id);
        self.stalled.remove(&id);
        if let Some(bar) = self.bars.remove(&id) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        self.show_total();
    }

    /// Prints beside the bars.
    pub(super) fn suspended<T>(&self, print: impl FnOnce() -> T) -> T {
        self.all.suspend(print)
    }

    /// A line beside the bars.
    pub(super) fn say(&self, text: &str) {
        self.all.suspend(|| say(text));
    }

    /// The command does not follow them any more.
    pub(super) fn abandon(&self) {
        self.bars.values().chain(&self.total).for_each(ProgressBar::abandon);
    }

    /// Nothing is left to show.
    pub(super) fn clear(&self) {
        self.bars.values().chain(&self.total).for_each(ProgressBar::finish_and_clear);
    }

    fn sent(&self) -> u64 {
        self.finished + self.confirmed.values().sum::<u64>()
    }

    fn is_stalled(&self) -> bool {
        !self.stalled.is_empty() && self.stalled.values().all(|stalled| *stalled)
    }

    fn show_total(&mut self) {
        let Some(total) = &self.total else { return };
        total.set_prefix(format!("{} of {} files", self.ended, self.count));
        total.set_position(self.sent());
        total.set_message(if self.is_stalled() { "STALLED: waiting for the link" } else { "" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: u128, size: Option<u64>, confirmed: u64) -> TransferStatus {
        TransferStatus { id, name: "f".into(), size, confirmed, ..TransferStatus::default() }
    }

    #[test]
    fn templates_are_right() {
        for size in [Some(10), None] {
            let bar = new_bar(&status(1, size, 4));
            show(&bar, &status(1, size, 4));
            assert_eq!((bar.position(), bar.length()), (4, size));
        }
    }

    #[test]
    fn the_bar_for_all_adds_up_and_few_have_their_own() {
        let mut bars = Bars::new(100, 1000, true);
        for id in 0..20 {
            bars.status(&status(id, Some(10), 5));
        }
        assert_eq!((bars.bars.len(), bars.sent()), (MAX_BARS, 100));
        bars.ended(0, 10);
        bars.status(&TransferStatus { stalled: true, ..status(19, Some(10), 7) });
        assert_eq!((bars.sent(), bars.bars.len(), bars.is_stalled()), (107, MAX_BARS, false));
        let total = bars.total.clone().unwrap();
        assert_eq!((total.position(), total.prefix()), (107, "1 of 100 files".to_owned()));
        for id in 0..19 {
            bars.forget(id);
        }
        assert!(bars.is_stalled());
        assert!(Bars::new(1, 10, true).total.is_none());
    }

    #[test]
    fn what_a_transfer_waits_for_is_said() {
        let of = |state| note(&TransferStatus { state, ..TransferStatus::default() });
        assert_eq!(of(TransferState::Pending { position: 3 }), "waits, place 3");
        assert_eq!(of(TransferState::NoFile("gone\u{7}".into())), "waits for its file: gone?");
    }
}
