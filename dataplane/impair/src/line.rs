//! A channel that holds its frames until they are due: what adapters and the emulator drive in real time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use florelay_engine::time::Nanos;

use crate::{Channel, Fate, LinkCounters, LinkDrop, LinkModel};

/// A frame that was not taken, and why.
#[derive(Debug)]
pub struct Refused<T> {
    /// Back to its owner.
    pub frame: T,
    /// `None`: the line holds as many frames as it may.
    pub why: Option<LinkDrop>,
}

/// A frame whose time has come.
#[derive(Debug)]
pub struct Due<T> {
    /// As it arrives: damaged, if that was its fate.
    pub frame: T,
    /// How often it arrives: once or twice.
    pub copies: u8,
    /// When it was offered.
    pub offered: Nanos,
    /// When it was due.
    pub at: Nanos,
}

/// One direction of a link, with the frames under way.
///
/// Holds at most `limit` frames; grows to that and never beyond.
#[derive(Debug)]
pub struct Line<T> {
    channel: Channel,
    held: BinaryHeap<Reverse<Held<T>>>,
    limit: usize,
    order: u64,
}

#[derive(Debug)]
struct Held<T> {
    order: u64,
    due: Due<T>,
}

impl<T: AsMut<[u8]>> Line<T> {
    /// A line that behaves as `model` says and holds at most `limit` frames.
    #[must_use]
    pub fn new(model: LinkModel, seed: u64, limit: usize) -> Self {
        Self { channel: Channel::new(model, seed), held: BinaryHeap::new(), limit, order: 0 }
    }

    /// Put a frame of this many bytes at layer 2 on the line.
    ///
    /// # Errors
    /// The frame comes back: its fate is to be dropped, or there is no [`room`](Self::room), which the model does not count.
    pub fn offer(&mut self, now: Nanos, l2_bytes: u32, mut frame: T) -> Result<(), Refused<T>> {
        if self.room() == 0 {
            return Err(Refused { frame, why: None });
        }
        match self.channel.offer(now, l2_bytes) {
            Fate::Dropped(why) => Err(Refused { frame, why: Some(why) }),
            Fate::Carried { at, copies, damage } => {
                if let Some(damage) = damage {
                    damage.apply(frame.as_mut());
                }
                self.order += 1;
                self.held.push(Reverse(Held { order: self.order, due: Due { frame, copies, offered: now, at } }));
                Ok(())
            }
        }
    }

    /// The next frame that is due by `now`, earliest first.
    pub fn poll(&mut self, now: Nanos) -> Option<Due<T>> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(Held { due, .. }) = self.held.pop()?;
        for _ in 0..due.copies {
            self.channel.arrived();
        }
        Some(due)
    }

    /// When the next frame is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        self.held.peek().map(|Reverse(held)| held.due.at)
    }

    /// Frames under way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Frames that it can still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit - self.held.len()
    }

    /// How it behaves.
    #[must_use]
    pub fn model(&self) -> &LinkModel {
        self.channel.model()
    }

    /// What became of the frames.
    #[must_use]
    pub fn counters(&self) -> &LinkCounters {
        self.channel.counters()
    }
}

impl<T> Held<T> {
    /// First come, first served at one time.
    fn key(&self) -> (Nanos, u64) {
        (self.due.at, self.order)
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Held<T> {}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{CorruptMode, Loss};

    const MS: u64 = 1_000_000;

    #[test]
    fn frames_come_out_when_due_in_order_and_as_often_as_drawn() {
        let model =
            LinkModel { duplicate: 0.3, loss: Loss::Bernoulli(0.2), ..LinkModel::with_delay(Duration::from_millis(5)) };
        let mut line = Line::new(model, 3, 64);
        let (mut arrived, mut copies, mut refused) = (0_u64, 0, 0);
        for i in 0..10_000_u64 {
            let now = Nanos(i * MS);
            while let Some(due) = line.poll(now) {
                assert_eq!((due.at, due.offered), (now, Nanos(now.0 - 5 * MS)));
                assert_eq!(due.frame, (i - 5).to_le_bytes().to_vec());
                arrived += 1;
                copies += u64::from(due.copies);
            }
            if let Err(back) = line.offer(now, 1000, i.to_le_bytes().to_vec()) {
                assert_eq!((back.frame, back.why), (i.to_le_bytes().to_vec(), Some(LinkDrop::Lost)));
                refused += 1;
            }
            assert!(line.counters().conserved());
        }
        let counters = *line.counters();
        assert_eq!((counters.lost, counters.delivered, counters.offered), (refused, copies, 10_000));
        assert_eq!(arrived + refused + line.held() as u64, 10_000);
        assert_eq!(line.next_due(), Some(Nanos(10_000 * MS)));
    }

    #[test]
    fn a_full_line_gives_the_frame_back_uncounted() {
        let mut line = Line::new(LinkModel::with_delay(Duration::from_millis(1)), 1, 2);
        for i in 0..3 {
            assert_eq!(line.offer(Nanos(i), 60, vec![0; 60]).is_err(), i == 2);
        }
        assert_eq!((line.counters().offered, line.room()), (2, 0));
    }

    #[test]
    fn overtaken_frames_come_later_and_damage_is_done_to_the_bytes() {
        let model = LinkModel {
            reorder: 0.5,
            reorder_delay: Duration::from_millis(3),
            corrupt: 1.0,
            corrupt_mode: CorruptMode::Deliver,
            ..LinkModel::default()
        };
        let mut line = Line::new(model, 5, 1000);
        for i in 0..1000_u64 {
            line.offer(Nanos(i * MS), 60, vec![0_u8; 60]).unwrap();
        }
        let (mut last, mut overtaken, mut damaged) = (Nanos::ZERO, 0, 0);
        while let Some(due) = line.poll(Nanos::MAX) {
            overtaken += u64::from(due.at != due.offered);
            damaged += u64::from(due.frame.iter().any(|byte| *byte != 0));
            assert!(due.at >= last);
            last = due.at;
        }
        assert_eq!(overtaken, line.counters().reordered);
        assert!((400..600).contains(&overtaken) && damaged > 980, "{overtaken} {damaged}");
    }
}
