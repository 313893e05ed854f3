//! The wall clock for people: RFC 3339 in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const NANOS: u64 = 1_000_000_000;
const DAY_SECONDS: u64 = 86_400;

/// Nanoseconds since 1970, now; 0 if the clock is before that.
#[must_use]
pub fn now_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A time as RFC 3339 section 5.6 writes it, e.g. `2026-11-21T12:00:00Z`; fractions only if there are any.
#[must_use]
pub fn show(unix_ns: u64) -> String {
    let (seconds, nanos) = (unix_ns / NANOS, unix_ns % NANOS);
    let (year, month, day) = civil(seconds / DAY_SECONDS);
    let second = seconds % DAY_SECONDS;
    let fraction = match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n => format!(".{n:09}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Nanoseconds since 1970 of a UTC date and time of the proleptic Gregorian calendar, less an offset from UTC in minutes;
/// `None` before 1970 or beyond 2554.
#[must_use]
pub fn unix_ns(date: (u16, u8, u8), time: (u8, u8, u8, u32), offset_minutes: i32) -> Option<u64> {
    let days = i64::try_from(days_since_1970(date.0.into(), date.1.into(), date.2.into())?).ok()?;
    let seconds = days * 86_400 + i64::from(time.0) * 3600 + i64::from(time.1) * 60 + i64::from(time.2);
    let seconds = u64::try_from(seconds - i64::from(offset_minutes) * 60).ok()?;
    seconds.checked_mul(NANOS)?.checked_add(time.3.into())
}

/// Days of the years before `year`, from year 0.
fn days_before(year: u64) -> u64 {
    // Leap years before `year`, year 0 included.
    year * 365 + year.div_ceil(4) - year.div_ceil(100) + year.div_ceil(400)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let before: u64 = (1..month).map(|month| month_days(year, month)).sum();
    (days_before(year) + before + day.checked_sub(1)?).checked_sub(days_before(1970))
}

/// Year, month and day of a day since 1970.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + days_before(1970);
    // Never too late, at most one year too early: a year has at least 365 days, 400 of them 146097.
    let mut year = day * 400 / 146_097;
    while days_before(year + 1) <= day {
        year += 1;
    }
    while days_before(year) > day {
        year -= 1;
    }
    let mut left = day - days_before(year);
    let mut month = 1;
    while left >= month_days(year, month) {
        left -= month_days(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2024-01-01T00:00:00Z", 1_704_067_200),
            ("2026-11-21T12:34:56Z", 1_795_264_496),
            ("2100-02-28T00:00:00Z", 4_107_456_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(show(seconds * NANOS), text);
        }
        assert_eq!(show(1_500_000_000), "1970-01-01T00:00:01.500Z");
        assert_eq!(show(7), "1970-01-01T00:00:00.000000007Z");
        assert_eq!(unix_ns((2026, 11, 21), (13, 34, 56, 5), 60), Some(1_795_264_496 * NANOS + 5));
        assert_eq!(unix_ns((1970, 1, 1), (0, 0, 0, 0), 1), None);
        assert_eq!(unix_ns((9999, 1, 1), (0, 0, 0, 0), 0), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_means_the_same_time(seconds in 0_u64..18_000_000_000) {
            let (year, month, day) = civil(seconds / DAY_SECONDS);
            let at = seconds % DAY_SECONDS;
            let date = (year as u16, month as u8, day as u8);
            let time = ((at / 3600) as u8, (at / 60 % 60) as u8, (at % 60) as u8, 0);
            prop_assert_eq!(unix_ns(date, time, 0), Some(seconds * NANOS));
        }
    }
}
