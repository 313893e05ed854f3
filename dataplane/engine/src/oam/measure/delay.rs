//! Round trip and jitter of a link, from the echo in liveness.

use std::time::Duration;

use crate::time::Nanos;

/// The round trip of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// Smoothed with the weights of RFC 6298 section 2.
    pub smoothed: Duration,
    /// The shortest since the link came up.
    pub shortest: Duration,
    /// The last one.
    pub latest: Duration,
}

/// Delays of one link.
#[derive(Debug, Clone, Default)]
pub(super) struct Delay {
    round_trip: Option<RoundTrip>,
    /// Of the last message: when it was sent, on the neighbour's clock, and when it came.
    last: Option<(u64, Nanos)>,
    /// Jitter in sixteenths of a nanosecond (RFC 3550 appendix A.8).
    jitter_16: Option<u64>,
}

impl Delay {
    /// A round trip was measured.
    pub(super) fn round_trip(&mut self, rtt: Duration) {
        self.round_trip =
            Some(self.round_trip.map_or(RoundTrip { smoothed: rtt, shortest: rtt, latest: rtt }, |known| RoundTrip {
                smoothed: (known.smoothed * 7 + rtt) / 8,
                shortest: known.shortest.min(rtt),
                latest: rtt,
            }));
    }

    /// A message that was sent at `sent_ns` on the neighbour's clock came at `now`. Of what `follows` another, the difference
    /// of the two transit times goes into the jitter (RFC 3550 section 6.4.1); both clocks cancel out.
    pub(super) fn arrived(&mut self, now: Nanos, sent_ns: u64, follows: bool) {
        let last = self.last.replace((sent_ns, now)).filter(|_| follows);
        let Some((sent_before, came_before)) = last else { return };
        let sent_apart = i128::from(sent_ns) - i128::from(sent_before);
        let came_apart = i128::from(now.0) - i128::from(came_before.0);
        // An hour is beyond every path; it keeps the sixteenths within 64 bits whatever a neighbour's clock says.
        let difference = (came_apart - sent_apart).unsigned_abs().min(3_600_000_000_000) as u64;
        let known = self.jitter_16.unwrap_or(0);
        self.jitter_16 = Some(known + difference - ((known + 8) >> 4));
    }

    /// The link came up: its way may be another one now, and nothing is known of it until it is measured.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// The round trip, once measured.
    #[must_use]
    pub(super) fn rtt(&self) -> Option<RoundTrip> {
        self.round_trip
    }

    /// Jitter of the direction towards here, once two messages came.
    #[must_use]
    pub(super) fn jitter(&self) -> Option<Duration> {
        self.jitter_16.map(|sixteenths| Duration::from_nanos(sixteenths >> 4))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn an_even_pace_has_no_jitter_whatever_the_clocks_say() {
        let mut delay = Delay::default();
        assert_eq!(delay.jitter(), None);
        for n in 0..100 {
            delay.arrived(Nanos(n * 100 * MS + 7), u64::MAX / 2 + n * 100 * MS, true);
        }
        assert_eq!(delay.jitter(), Some(Duration::ZERO));
    }

    #[test]
    fn a_delay_that_alternates_by_d_tends_to_d() {
        let mut delay = Delay::default();
        for n in 0..500 {
            delay.arrived(Nanos(n * 100 * MS + n % 2 * 16 * MS), n * 100 * MS, true);
        }
        let jitter = delay.jitter().unwrap();
        assert!((Duration::from_micros(15_990)..=Duration::from_millis(16)).contains(&jitter), "{jitter:?}");
        // A boot of another clock is no jitter.
        delay.arrived(Nanos(60_000 * MS), 3, false);
        assert_eq!(delay.jitter(), Some(jitter));
    }

    #[test]
    fn the_round_trip_is_smoothed_and_keeps_its_shortest() {
        let mut delay = Delay::default();
        for ms in [80, 160, 80] {
            delay.round_trip(Duration::from_millis(ms));
        }
        let ms = Duration::from_millis;
        assert_eq!(
            delay.rtt(),
            Some(RoundTrip { smoothed: Duration::from_micros(88_750), shortest: ms(80), latest: ms(80) })
        );
        delay.restart();
        assert_eq!((delay.rtt(), delay.jitter()), (None, None));
    }

    proptest! {
        // Jitter stays within the greatest difference, for any clocks, and nothing overflows.
        #[test]
        fn jitter_is_bounded_by_the_differences(stamps in prop::collection::vec((any::<u64>(), 0_u64..1 << 40), 2..50)) {
            let mut delay = Delay::default();
            let mut now = 0;
            let mut most = 0_i128;
            let mut last: Option<(u64, u64)> = None;
            for (sent, pause) in stamps {
                now += pause;
                delay.arrived(Nanos(now), sent, true);
                if let Some((sent_before, came_before)) = last {
                    let apart = i128::from(now - came_before) - (i128::from(sent) - i128::from(sent_before));
                    most = most.max(apart.abs());
                }
                last = Some((sent, now));
            }
            prop_assert!(delay.jitter().unwrap().as_nanos() as i128 <= most + 1);
        }
    }
}
