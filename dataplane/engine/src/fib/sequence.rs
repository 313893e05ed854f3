//! The control word's sequence: stamped by the sender of a link, watched by its receiver.
//!
//! The sequence belongs to the pair (link, sender), not to a path: every node writes its own at the moment a frame
//! leaves, so the receiver of the link sees this one hop's loss, reorder and duplication and nothing else.
//!
//! Limits: after a silent gap of more than 65535 frames the number lost is known modulo 2^16 only. A frame that comes
//! more than [`WINDOW_FRAMES`] late can no longer be told from a duplicate; it is counted as reordered.

use florelay_wire::link::PATH_HEADER_BYTES;

/// How many of the newest sequence numbers are remembered one by one.
pub const WINDOW_FRAMES: u16 = 128;

/// S bit in the third byte of a label stack entry (RFC 3032 section 2.1).
const S_BIT: u8 = 1;

/// Writes `sequence` into the control word of a path frame. Frames with an associated channel instead of a control
/// word, link-scope OAM and anything too short have none and are left alone; `true` if it was written.
#[inline]
pub fn stamp_sequence(bytes: &mut [u8], sequence: u16) -> bool {
    let Some(header) = bytes.first_chunk_mut::<PATH_HEADER_BYTES>() else {
        return false;
    };
    if header[2] & S_BIT != 0 || header[8] >> 4 != 0 {
        return false;
    }
    let [high, low] = sequence.to_be_bytes();
    header[10] = high;
    header[11] = low;
    true
}

/// Per-hop receive accounting of one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceMonitor {
    /// Frames observed, duplicates included.
    pub received: u64,
    /// Numbers that were skipped and have not come late since.
    pub lost: u64,
    /// Frames that came after one with a higher number.
    pub reordered: u64,
    /// Frames whose number was seen already.
    pub duplicate: u64,
    /// The next number expected; `None` before the first frame.
    next: Option<u16>,
    /// Bit i: number `next − 1 − i` was seen.
    seen: u128,
    /// A number far behind the window; if the one after it follows, the sender has started anew.
    restart: Option<u16>,
    /// The next gap is the link's darkness.
    resumed: bool,
    /// Of `lost`: while the link was dark.
    dark: u64,
}

impl SequenceMonitor {
    /// Nothing observed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A frame with this number was received.
    pub fn observe(&mut self, sequence: u16) {
        self.received += 1;
        let Some(next) = self.next else {
            return self.follow_from(sequence);
        };
        let ahead = sequence.wrapping_sub(next);
        if ahead < 0x8000 {
            self.lost += u64::from(ahead);
            if self.resumed {
                self.resumed = false;
                self.dark += u64::from(ahead);
            }
            let shift = u32::from(ahead) + 1;
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.next = Some(sequence.wrapping_add(1));
            self.restart = None;
            return;
        }
        let behind = next.wrapping_sub(1).wrapping_sub(sequence);
        if behind < WINDOW_FRAMES {
            let bit = 1u128 << behind;
            if self.seen & bit != 0 {
                self.duplicate += 1;
            } else {
                self.seen |= bit;
                self.reordered += 1;
                self.lost = self.lost.saturating_sub(1);
            }
        } else if self.restart == Some(sequence) {
            self.follow_from(sequence);
        } else {
            self.reordered += 1;
            self.restart = Some(sequence.wrapping_add(1));
        }
    }

    /// The link is up again: what is missing before the next number was lost to darkness, and is not a
    /// [`tally`](Self::tally) of how well the link does while it is up.
    pub fn resume(&mut self) {
        self.resumed = true;
    }

    /// Frames while the link was up: `(expected, lost, reordered)`. The first two may fall when frames come late.
    #[must_use]
    pub fn tally(&self) -> (u64, u64, u64) {
        let lost = self.lost.wrapping_sub(self.dark);
        ((self.received - self.duplicate).wrapping_add(lost), lost, self.reordered)
    }

    /// The sender has started anew (its boot id changed): take its next number as the first. Counters stay.
    pub fn restart(&mut self) {
        self.next = None;
        self.restart = None;
    }

    fn follow_from(&mut self, sequence: u16) {
        self.next = Some(sequence.wrapping_add(1));
        // Numbers before the first count as seen: a late one of before the start must not lower `lost`.
        self.seen = u128::MAX;
        self.restart = None;
        self.resumed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn observe(numbers: impl IntoIterator<Item = u16>) -> SequenceMonitor {
        let mut monitor = SequenceMonitor::new();
        for number in numbers {
            monitor.observe(number);
        }
        monitor
    }

    #[test]
    fn counts_in_order_across_the_wrap() {
        let m = observe((0..70_000u32).map(|n| n as u16));
        assert_eq!((m.received, m.lost, m.reordered, m.duplicate), (70_000, 0, 0, 0));
    }

    #[test]
    fn late_frames_are_reordered_and_no_longer_lost() {
        let m = observe([65_534, 1, 65_535, 0, 2]);
        assert_eq!((m.received, m.lost, m.reordered, m.duplicate), (5, 0, 2, 0));
    }

    #[test]
    fn a_restarted_sender_is_followed_after_two_frames() {
        let mut m = observe(30_000..30_100);
        for n in 0..1000 {
            m.observe(n);
        }
        assert_eq!((m.lost, m.reordered, m.duplicate), (0, 1, 0));
    }

    #[test]
    fn what_the_dark_took_is_lost_but_not_tallied() {
        let mut m = observe(0..10);
        m.resume();
        m.observe(110);
        m.observe(113);
        assert_eq!((m.lost, m.tally()), (102, (14, 2, 0)));
        // Two of them were late, not lost; the second is of the dark, as nobody can tell.
        m.observe(111);
        m.observe(109);
        assert_eq!((m.lost, m.tally()), (100, (14, 0, 2)));
    }

    #[test]
    fn stamps_only_control_words() {
        let mut path = [0, 1, 0, 64, 0, 2, 1, 64, 0, 0, 0, 0, 9];
        assert!(stamp_sequence(&mut path, 0x1234));
        assert_eq!(path, [0, 1, 0, 64, 0, 2, 1, 64, 0, 0, 0x12, 0x34, 9]);
        for other in [
            vec![0, 1, 0, 64, 0, 2, 1, 64, 0x10, 0, 0x7f, 0xf9, 9],
            vec![0, 0, 0xdf, 1, 0x10, 0, 0x7f, 0xf8, 1, 1, 1, 1],
            vec![0, 1, 0, 64, 0, 2, 1, 64, 0, 0, 0],
        ] {
            let mut bytes = other.clone();
            assert!(!stamp_sequence(&mut bytes, 0x1234));
            assert_eq!(bytes, other);
        }
    }

    proptest! {
        // Every number is sent; some are dropped, some doubled, neighbours swapped. The monitor must find exactly that.
        #[test]
        fn finds_loss_duplicates_and_reorder(start: u16, fates in prop::collection::vec(0u8..20, 2..600)) {
            let mut wire: Vec<u16> = vec![start.wrapping_sub(1)];
            let (mut dropped, mut doubled) = (0u64, 0u64);
            for (i, fate) in fates.iter().enumerate() {
                let n = start.wrapping_add(i as u16);
                match fate {
                    0 | 1 => dropped += 1,
                    2 => { wire.extend([n, n]); doubled += 1; }
                    _ => wire.push(n),
                }
            }
            // A last frame, so that loss before it is noticed.
            wire.push(start.wrapping_add(fates.len() as u16));
            let in_order = observe(wire.iter().copied());
            prop_assert_eq!((in_order.lost, in_order.duplicate, in_order.reordered), (dropped, doubled, 0));
            prop_assert_eq!(in_order.received, wire.len() as u64);

            let last = wire.len() - 1;
            for pair in wire[1..last].chunks_exact_mut(2) {
                pair.swap(0, 1);
            }
            let swapped = observe(wire.iter().copied());
            prop_assert_eq!((swapped.lost, swapped.duplicate), (dropped, doubled));
        }
    }
}
