//! Quantities with units, parsed strictly: a number, optional blanks, one known unit. No unit is not a unit.
//!
//! | quantity | units | examples |
//! |---|---|---|
//! | rate | `bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s` (decimal) | `10 Mbit/s`, `9.6 kbit/s`, `uncapped` |
//! | bytes | `B`, `kB`, `MB`, `GB` (decimal), `KiB`, `MiB`, `GiB` (binary) | `15 kB`, `64 KiB` |
//! | duration | `ns`, `us`, `ms`, `s`, `min`, `h` | `325 ms`, `1.5 s` |
//! | probability | `%` | `2 %`, `16.7 %` |
//!
//! A fraction is allowed as long as the result is a whole number of the smallest unit (bit/s, byte, nanosecond, 1e-9).

use std::time::Duration;

/// Why a quantity was not understood; the text ends a sentence that begins with the quantity itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No digits in front.
    #[error("does not begin with a number")]
    NoNumber,
    /// Digits only.
    #[error("has no unit")]
    NoUnit,
    /// Units are case-sensitive: `mbit/s` would be millibits.
    #[error("has the unknown unit \"{0}\"")]
    UnknownUnit(String),
    /// For example half a byte.
    #[error("is not a whole number of {0}")]
    Fraction(&'static str),
    /// Beyond 64 bits.
    #[error("is too large")]
    TooLarge,
}

const RATE_UNITS: &[(&str, u64)] = &[("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)];
const BYTE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Certainty, in the smallest unit of a probability.
const PROBABILITY_ONE: u64 = 1_000_000_000;
const PROBABILITY_UNITS: &[(&str, u64)] = &[("%", PROBABILITY_ONE / 100)];

/// A rate in bit/s; `None` for `uncapped`.
///
/// # Errors
/// When it is not a rate.
pub fn rate(text: &str) -> Result<Option<u64>, UnitError> {
    if text == "uncapped" { Ok(None) } else { quantity(text, RATE_UNITS, "bit/s").map(Some) }
}

/// A number of bytes.
///
/// # Errors
/// When it is not a number of bytes.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    quantity(text, BYTE_UNITS, "bytes")
}

/// A duration of at most 584 years.
///
/// # Errors
/// When it is not a duration.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    quantity(text, DURATION_UNITS, "nanoseconds").map(Duration::from_nanos)
}

/// A probability, 0 to 1.
///
/// # Errors
/// When it is not one.
pub fn probability(text: &str) -> Result<f64, UnitError> {
    let parts = quantity(text, PROBABILITY_UNITS, "0.0000001 %")?;
    if parts > PROBABILITY_ONE { Err(UnitError::TooLarge) } else { Ok(parts as f64 / PROBABILITY_ONE as f64) }
}

/// A rate as people write it.
#[must_use]
pub fn show_rate(rate_bps: Option<u64>) -> String {
    match rate_bps {
        None => "uncapped".to_owned(),
        Some(r) => show(r as f64, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]),
    }
}

/// The same without rounding: what is written reads as the same rate.
#[must_use]
pub fn exact_rate(rate_bps: Option<u64>) -> String {
    rate_bps.map_or("uncapped".to_owned(), |rate| exact(rate, RATE_UNITS))
}

/// A duration without rounding, in seconds or less.
#[must_use]
pub fn exact_duration(nanos: u64) -> String {
    exact(nanos, &[("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)])
}

/// In the largest of these units, powers of 1000, of which it is at least one.
fn exact(value: u64, units: &[(&str, u64)]) -> String {
    let fitting = units.iter().rev().find(|(_, factor)| *factor <= value).or(units.first());
    let (unit, factor) = fitting.copied().unwrap_or(("", 1));
    let digits = usize::try_from(factor.ilog10()).unwrap_or(0);
    let (whole, rest) = (value / factor, value % factor);
    if rest == 0 {
        return format!("{whole} {unit}");
    }
    let rest = format!("{rest:0digits$}");
    format!("{whole}.{} {unit}", rest.trim_end_matches('0'))
}

/// A number of bytes as people write it, decimal.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    show(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB"])
}

/// A duration as people write it, to three digits or so.
#[must_use]
pub fn show_duration(nanos: u64) -> String {
    match nanos {
        60_000_000_000.. => {
            let seconds = nanos / 1_000_000_000;
            match seconds / 3600 {
                0 => format!("{} min {} s", seconds / 60, seconds % 60),
                hours => format!("{hours} h {} min", seconds % 3600 / 60),
            }
        }
        _ => show(nanos as f64, 1000.0, &["ns", "us", "ms", "s"]),
    }
}

fn show(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        // 999.995 would print as 1000.00
        if value < step - 0.005 {
            break;
        }
        value /= step;
        unit = next;
    }
    let digits = format!("{value:.2}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits} {unit}")
}

fn quantity(text: &str, units: &[(&str, u64)], smallest: &'static str) -> Result<u64, UnitError> {
    let number_end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit = unit.trim_matches(' ');
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(UnitError::NoNumber);
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(UnitError::UnknownUnit(unit.to_owned()));
    };
    let fraction = fraction.trim_end_matches('0');
    // Exact integer arithmetic: digits × factor / 10^places.
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| UnitError::TooLarge)?;
    let places = u32::try_from(fraction.len()).map_err(|_| UnitError::TooLarge)?;
    let scaled = digits.checked_mul(u128::from(*factor)).ok_or(UnitError::TooLarge)?;
    let divisor = 10_u128.checked_pow(places).ok_or(UnitError::Fraction(smallest))?;
    if scaled % divisor != 0 {
        return Err(UnitError::Fraction(smallest));
    }
    u64::try_from(scaled / divisor).map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates() {
        assert_eq!(rate("10 Mbit/s"), Ok(Some(10_000_000)));
        assert_eq!(rate("9.6kbit/s"), Ok(Some(9_600)));
        assert_eq!(rate("2.50 Gbit/s"), Ok(Some(2_500_000_000)));
        assert_eq!(rate("uncapped"), Ok(None));
        assert_eq!(rate("10"), Err(UnitError::NoUnit));
        assert_eq!(rate("10 mbit/s"), Err(UnitError::UnknownUnit("mbit/s".into())));
        assert_eq!(rate("fast"), Err(UnitError::NoNumber));
        assert_eq!(rate("0.5 bit/s"), Err(UnitError::Fraction("bit/s")));
        assert_eq!(rate("-1 bit/s"), Err(UnitError::NoNumber));
        assert_eq!(rate("99999999999 Gbit/s"), Err(UnitError::TooLarge));
    }

    #[test]
    fn bytes_and_durations() {
        assert_eq!(bytes("15 kB"), Ok(15_000));
        assert_eq!(bytes("64 KiB"), Ok(65_536));
        assert_eq!(bytes("1 KB"), Err(UnitError::UnknownUnit("KB".into())));
        assert_eq!(duration("325 ms"), Ok(Duration::from_millis(325)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("1..5 s"), Err(UnitError::NoNumber));
    }

    #[test]
    fn probabilities() {
        assert_eq!(probability("2 %"), Ok(0.02));
        assert_eq!(probability("16.7%"), Ok(0.167));
        assert_eq!(probability("100 %"), Ok(1.0));
        assert_eq!(probability("100.1 %"), Err(UnitError::TooLarge));
        assert_eq!(probability("0.02"), Err(UnitError::NoUnit));
        assert_eq!(probability("-1 %"), Err(UnitError::NoNumber));
    }

    #[test]
    fn shown_for_people() {
        assert_eq!(show_rate(Some(10_000_000)), "10 Mbit/s");
        assert_eq!(show_rate(Some(9_600)), "9.6 kbit/s");
        assert_eq!(show_rate(None), "uncapped");
        assert_eq!(show_bytes(999_999), "1 MB");
        assert_eq!(show_duration(650_000_000), "650 ms");
        assert_eq!(show_duration(3_700_000_000_000), "1 h 1 min");
        assert_eq!(show_duration(61_000_000_000), "1 min 1 s");
    }

    #[test]
    fn shown_without_rounding() {
        assert_eq!(exact_rate(Some(10_000_000)), "10 Mbit/s");
        assert_eq!(exact_rate(Some(9_600)), "9.6 kbit/s");
        assert_eq!(exact_rate(Some(1_000_000_007)), "1.000000007 Gbit/s");
        assert_eq!((exact_rate(Some(0)).as_str(), exact_rate(None).as_str()), ("0 bit/s", "uncapped"));
        assert_eq!(exact_duration(300_000_000), "300 ms");
        assert_eq!(exact_duration(1_280_500_000_000), "1280.5 s");
        assert_eq!(exact_duration(0), "0 ns");
    }

    proptest! {
        #[test]
        fn what_is_shown_without_rounding_reads_as_the_same(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            prop_assert_eq!(rate(&exact_rate(Some(value))), Ok(Some(value)));
            prop_assert_eq!(duration(&exact_duration(value)), Ok(Duration::from_nanos(value)));
        }

        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = (rate(&text), bytes(&text), duration(&text));
        }

        #[test]
        fn whole_numbers_are_exact(n in 0_u64..1_000_000_000) {
            prop_assert_eq!(rate(&format!("{n} Gbit/s")), Ok(Some(n * 1_000_000_000)));
            prop_assert_eq!(bytes(&format!("{n} KiB")), Ok(n << 10));
        }
    }
}
