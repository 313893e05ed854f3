//! Quantities with units, of the configuration and of the command line.
//!
//! Invariants: any text is a quantity or refused; what is a quantity is so with more blanks before the unit too; what is
//! shown of a quantity is short and has a unit; a link key is its own 64 digits.

use std::time::Duration;

use florelay::config::{names, units};
use florelay::hex;

/// One input.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let spaced = text.find(|c: char| !c.is_ascii_digit() && c != '.').map(|at| {
        let (number, unit) = text.split_at(at);
        format!("{number}  {unit}")
    });
    let rate = units::rate(&text);
    if let (Ok(Some(rate)), Some(spaced)) = (&rate, &spaced) {
        assert_eq!(units::rate(spaced), Ok(Some(*rate)));
    }
    if let Ok(rate) = rate {
        shown(&units::show_rate(rate), rate.is_none());
    }
    if let Ok(bytes) = units::bytes(&text) {
        shown(&units::show_bytes(bytes), false);
        assert_eq!(spaced.as_deref().map(units::bytes), Some(Ok(bytes)));
    }
    if let Ok(duration) = units::duration(&text) {
        shown(&units::show_duration(u64::try_from(duration.as_nanos()).expect("64 bits of nanoseconds")), false);
        assert_eq!(spaced.as_deref().map(units::duration), Some(Ok(duration)));
        assert!(duration <= Duration::from_nanos(u64::MAX));
    }
    if let Some(key) = hex::decode32(&text) {
        assert_eq!(hex::encode(&key), text.to_ascii_lowercase());
    }
    let _ = names::check_node(&text);
}

fn shown(text: &str, word: bool) {
    assert!(text.len() <= 24, "{text}");
    assert!(word || text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(' '), "{text}");
}

/// A quantity of each kind, and awkward ones.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "10 Mbit/s",
        "9.6 kbit/s",
        "uncapped",
        "15 kB",
        "64 KiB",
        "325 ms",
        "1.5 s",
        "2 h",
        "99999999999999999999 Gbit/s",
        "0.000000000000000000000000000000000000000000001 h",
        "18446744073709551615 bit/s",
        "1\u{b5}s",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "station-b",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
