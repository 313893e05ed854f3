//! What acknowledgements say of a path, one round trip at a time.
//!
//! A round ends with the first acknowledgement of a packet that was sent within it. Its least round trip is what the way
//! and the queues in it cost for its whole length: jitter and acknowledgements that waited for company are above it.

use std::time::{Duration, Instant};

/// One round trip, seen from the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round {
    /// Acknowledged per second, in bits.
    pub(super) rate_bps: u64,
    /// Least time from a packet's sending to its acknowledgement.
    pub(super) rtt: Duration,
    /// Most bytes in flight when an acknowledgement came.
    pub(super) in_flight: u64,
}

/// Tells the packets that were under way while the path was dark, whose clock stood: they say nothing of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Unbroken {
    interruptions: u64,
    stood_at: Option<Instant>,
}

impl Unbroken {
    /// From now on; the path has been dark so many times.
    pub(super) fn new(interruptions: u64) -> Self {
        Self { interruptions, stood_at: None }
    }

    /// Whether a packet sent then and acknowledged now had a path all the time. `rounds` begin anew after the dark.
    pub(super) fn is_so(&mut self, interruptions: u64, now: Instant, sent: Instant, rounds: &mut Rounds) -> bool {
        if interruptions != self.interruptions {
            self.interruptions = interruptions;
            rounds.restart();
            self.stood_at = Some(now);
        }
        self.stood_at.is_none_or(|at| sent > at)
    }
}

/// Cuts time into rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct Rounds {
    since: Option<Instant>,
    delivered: u64,
    rtt: Option<Duration>,
    in_flight: u64,
    /// The same of the round before.
    in_flight_before: u64,
    /// Bytes of the acknowledgement that is being read.
    batch: u64,
    /// It acknowledges a packet of this round.
    over: bool,
}

impl Rounds {
    /// A packet of `bytes` is acknowledged.
    pub(super) fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        let since = *self.since.get_or_insert(now);
        let rtt = now.saturating_duration_since(sent);
        self.rtt = Some(self.rtt.map_or(rtt, |least| least.min(rtt)));
        self.batch += bytes;
        self.over |= sent >= since;
    }

    /// All packets of an acknowledgement were told, `in_flight` bytes are left. A round may end here.
    pub(super) fn end_acks(&mut self, now: Instant, in_flight: u64) -> Option<Round> {
        let batch = std::mem::take(&mut self.batch);
        self.delivered += batch;
        self.in_flight = self.in_flight.max(in_flight + batch);
        let (Some(since), Some(rtt)) = (self.since, self.rtt) else { return None };
        let time = now.saturating_duration_since(since);
        // Two acknowledgements of one burst come at one time.
        if !self.over || time.is_zero() {
            return None;
        }
        let bits = u128::from(self.delivered) * 8_000_000_000 / time.as_nanos();
        let round = Round { rate_bps: u64::try_from(bits).unwrap_or(u64::MAX), rtt, in_flight: self.in_flight };
        *self = Self { since: Some(now), in_flight_before: self.in_flight, ..Self::default() };
        Some(round)
    }

    /// Most bytes in flight in the round that runs and the one before.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.max(self.in_flight_before)
    }

    /// Least round trip in the round that runs; the longest there is before the first.
    pub(super) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(Duration::MAX)
    }

    /// Begin anew with the next acknowledgement.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_round_ends_with_a_packet_sent_in_it() {
        let start = Instant::now();
        let mut rounds = Rounds::default();
        // Sent before the first acknowledgement: they open the round.
        rounds.acked(start + 100 * MS, start, 1000);
        assert_eq!(rounds.end_acks(start + 100 * MS, 9000), None);
        rounds.acked(start + 150 * MS, start + 60 * MS, 1000);
        assert_eq!(rounds.end_acks(start + 150 * MS, 8000), None);
        rounds.acked(start + 200 * MS, start + 100 * MS, 500);
        rounds.acked(start + 200 * MS, start + 105 * MS, 500);
        // 3000 bytes in 100 ms
        let round = Round { rate_bps: 240_000, rtt: 90 * MS, in_flight: 10_000 };
        assert_eq!(rounds.end_acks(start + 200 * MS, 7000), Some(round));
        assert_eq!(rounds.in_flight(), 10_000);
        rounds.acked(start + 201 * MS, start + 199 * MS, 500);
        assert_eq!(rounds.end_acks(start + 201 * MS, 6500), None, "sent before this round");
        assert_eq!(rounds.in_flight(), 10_000);
    }
}
