//! One direction of the emulated link: the model, the frames under way, and what is counted of them. No I/O.
//!
//! Invariant: in + duplicated = out + dropped + under way, in frames ([`DirectionReport::conserved`]).

use florelay_impair::{Due, Line, LinkDrop, LinkModel, Nanos, Refused};
use hdrhistogram::Histogram;

use super::report::{Count, Delays, DirectionReport, Dropped};

/// Frames that a direction without a rate may hold: 400 MB of full ones.
pub const FRAMES_WITHOUT_RATE: usize = 1 << 18;
/// Most frames of any direction; 1.6 GB of full ones, which only a profile with such a queue and delay can hold.
const FRAMES_MAX: usize = 1 << 20;
/// And at least so many.
const FRAMES_MIN: usize = 1 << 12;
/// Shortest frame (IEEE 802.3 clause 3.2.7, less the FCS): memory is bounded in frames.
const FRAME_BYTES_MIN: u64 = 60;
/// Digits of the histograms.
const DIGITS: u8 = 3;

/// See the module.
pub struct Direction {
    line: Line<Box<[u8]>>,
    /// Due, with the copies that are still to be sent; the interface had no room.
    waiting: Option<Due<Box<[u8]>>>,
    in_: Count,
    out: Count,
    dropped: Dropped,
    duplicated: Count,
    held_high_frames: u64,
    /// From seen to handed over, and from due to handed over, in microseconds.
    delay_us: Histogram<u64>,
    late_us: Histogram<u64>,
}

impl Direction {
    /// Nothing has passed yet.
    ///
    /// # Panics
    /// Never: the histograms' precision is valid.
    #[must_use]
    pub fn new(model: LinkModel, seed: u64) -> Self {
        let limit = frames(&model);
        let histogram = || Histogram::new(DIGITS).expect("three digits are allowed");
        Self {
            line: Line::new(model, seed, limit),
            waiting: None,
            in_: Count::default(),
            out: Count::default(),
            dropped: Dropped::default(),
            duplicated: Count::default(),
            held_high_frames: 0,
            delay_us: histogram(),
            late_us: histogram(),
        }
    }

    /// A frame has been seen.
    pub fn offer(&mut self, now: Nanos, frame: &[u8]) {
        // A frame has at most 4096 bytes.
        let bytes = frame.len() as u32;
        self.in_.add(bytes);
        match self.line.offer(now, bytes, frame.into()) {
            Ok(()) => self.held_high_frames = self.held_high_frames.max(self.line.held() as u64),
            Err(Refused { why, .. }) => self.dropped.of(why).add(bytes),
        }
    }

    /// Hand over what is due, until `send` says that there is no room. Returns how many were sent.
    pub fn release(&mut self, now: Nanos, mut send: impl FnMut(&[u8]) -> bool) -> usize {
        let mut sent = 0;
        while let Some(mut due) = self.waiting.take().or_else(|| self.next(now)) {
            while due.copies > 0 {
                if !send(&due.frame) {
                    self.waiting = Some(due);
                    return sent;
                }
                due.copies -= 1;
                sent += 1;
                self.out.add(due.frame.len() as u32);
                record(&mut self.delay_us, now, due.offered);
                record(&mut self.late_us, now, due.at);
            }
        }
        sent
    }

    fn next(&mut self, now: Nanos) -> Option<Due<Box<[u8]>>> {
        let due = self.line.poll(now)?;
        for _ in 1..due.copies {
            self.duplicated.add(due.frame.len() as u32);
        }
        Some(due)
    }

    /// When [`release`](Self::release) has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        self.waiting.as_ref().map(|due| due.at).or_else(|| self.line.next_due())
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> DirectionReport {
        let line = self.line.counters();
        let waiting = self.waiting.as_ref().map_or(0, |due| u64::from(due.copies));
        DirectionReport {
            link: self.line.model().to_string(),
            input: self.in_,
            output: self.out,
            dropped: self.dropped,
            duplicated: self.duplicated,
            corrupted_frames: line.corrupt_delivered,
            reordered_frames: line.reordered,
            under_way_frames: self.line.held() as u64 + waiting,
            queue_high_bytes: line.queue_high_bytes,
            held_high_frames: self.held_high_frames,
            delay: Delays::of(&self.delay_us),
            late: Delays::of(&self.late_us),
        }
    }
}

/// Frames that the model can have in queue and medium, all of the shortest kind.
fn frames(model: &LinkModel) -> usize {
    let Some(bps) = model.rate_steps.iter().map(|step| step.1).chain([model.rate_bps]).flatten().max() else {
        return FRAMES_WITHOUT_RATE;
    };
    let medium = u128::from(bps) / 8 * model.longest_delay().as_nanos() / 1_000_000_000;
    let bytes = medium + u128::from(model.queue_bytes);
    usize::try_from(bytes / u128::from(FRAME_BYTES_MIN)).unwrap_or(usize::MAX).clamp(FRAMES_MIN, FRAMES_MAX)
}

fn record(histogram: &mut Histogram<u64>, now: Nanos, since: Nanos) {
    // It grows as needed; what is beyond any memory is not worth a failure.
    let _ = histogram.record(u64::try_from((now - since).as_micros()).unwrap_or(u64::MAX));
}

impl Dropped {
    fn of(&mut self, why: Option<LinkDrop>) -> &mut Count {
        match why {
            Some(LinkDrop::Queue) => &mut self.queue,
            Some(LinkDrop::Dark) => &mut self.dark,
            Some(LinkDrop::Lost) => &mut self.lost,
            Some(LinkDrop::Corrupt) => &mut self.corrupt,
            None => &mut self.memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use florelay_impair::{CorruptMode, Loss};

    use super::*;

    const US: u64 = 1000;

    /// Offers numbered frames every `gap` µs and looks every `look` µs; `room` frames can be sent at a look.
    fn run(model: LinkModel, count: u64, gap: u64, look: u64, room: usize) -> (Vec<(u64, u64)>, DirectionReport) {
        let mut direction = Direction::new(model, 11);
        let (mut came, mut offered) = (Vec::new(), 0);
        let mut now = 0;
        while offered < count || direction.next_due().is_some() {
            while offered < count && offered * gap <= now {
                let mut frame = [0; 1000];
                frame[..8].copy_from_slice(&offered.to_le_bytes());
                direction.offer(Nanos(now * US), &frame);
                offered += 1;
            }
            let mut left = room;
            direction.release(Nanos(now * US), |frame| {
                let sent = left > 0;
                if sent {
                    left -= 1;
                    came.push((u64::from_le_bytes(*frame.first_chunk().unwrap()), now));
                }
                sent
            });
            if now % 10_000 == 0 {
                let report = direction.report();
                assert!(report.conserved(), "{report:?}");
            }
            now += look;
        }
        (came, direction.report())
    }

    #[test]
    fn everything_is_counted_once_and_as_it_came_out() {
        let model = LinkModel {
            loss: Loss::Bernoulli(0.1),
            duplicate: 0.05,
            corrupt: 0.02,
            corrupt_mode: CorruptMode::Deliver,
            reorder: 0.02,
            reorder_delay: Duration::from_millis(2),
            ..LinkModel::with_delay(Duration::from_millis(20)).rate(40_000_000, 20_000)
        }
        .outage(Nanos(300_000 * US), Nanos(400_000 * US));
        // 1000 bytes take 200 µs; a frame comes every 150
        let (came, report) = run(model, 10_000, 150, 50, 64);
        assert_eq!(report.output.frames, came.len() as u64);
        assert_eq!((report.input.frames, report.input.bytes), (10_000, 10_000_000));
        assert_eq!(report.output.bytes, report.output.frames * 1000);
        let d = &report.dropped;
        for (name, count) in [("queue", d.queue), ("dark", d.dark), ("lost", d.lost)] {
            assert!(count.frames > 300 && count.bytes == 1000 * count.frames, "{name}: {report:?}");
        }
        assert!(report.duplicated.frames > 200 && report.corrupted_frames > 80 && report.reordered_frames > 80);
        assert_eq!((report.queue_high_bytes, report.under_way_frames, d.memory.frames), (20_000, 0, 0));
        assert!(report.conserved() && report.late.max_us == 0, "{report:?}");
        // 200 µs and 20 ms; up to 20 frames' time in the queue, 2 ms out of order; the histogram has three digits
        assert!(report.delay.min_us >= 20_180 && report.delay.max_us <= 26_020, "{report:?}");
    }

    #[test]
    fn an_interface_without_room_makes_frames_late_and_loses_none() {
        let (came, report) = run(LinkModel::default(), 1000, 10, 100, 5);
        assert_eq!(came.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
        assert!(report.late.max_us > 5_000, "{report:?}");
        assert_eq!(report.output.frames, 1000);
    }

    #[test]
    fn memory_is_bounded_by_queue_and_delay() {
        let geo = LinkModel::with_delay(Duration::from_millis(325)).rate(250_000_000, 20_312_500);
        let bytes = 250_000_000 / 8 * 325 / 1000 + 20_312_500;
        assert_eq!(frames(&geo), bytes / 60);
        assert_eq!(frames(&LinkModel::default()), FRAMES_WITHOUT_RATE);
        assert_eq!(frames(&LinkModel::default().rate(1, u64::MAX)), FRAMES_MAX);
        let mut direction = Direction::new(LinkModel::with_delay(Duration::from_secs(3600)), 1);
        (0..=FRAMES_WITHOUT_RATE as u64).for_each(|i| direction.offer(Nanos(i), &[0; 60]));
        let report = direction.report();
        assert_eq!((report.dropped.memory.frames, report.held_high_frames), (1, FRAMES_WITHOUT_RATE as u64));
        assert!(report.conserved());
    }
}
