//! Durations as the configuration writes them: a whole number and a unit.

use std::time::Duration;

/// The units, largest first, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `1500ms`, `5s`, `10m` or `1h`.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, milliseconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

/// Returns whether a text that [`parse`] does not read has the form of a duration: it is longer than 64 bits can hold.
pub(crate) fn is_too_long(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    !number.is_empty() && UNITS.iter().any(|(name, _)| *name == unit) && parse(text).is_none()
}

/// Writes what [`parse`] reads, with the largest unit that leaves no remainder.
///
/// Parts of a millisecond are dropped; no duration that was parsed has any.
pub(crate) fn show(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let fitting = UNITS.into_iter().find(|(_, size)| milliseconds.is_multiple_of(u128::from(*size)));
    let (unit, size) = fitting.expect("every number is a multiple of one millisecond");
    format!("{}{unit}", milliseconds / u128::from(size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_has_a_whole_number_and_a_unit() {
        for (text, milliseconds) in [("1500ms", 1500), ("5s", 5000), ("10m", 600_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in
            ["", "5", "s", "1.5s", "-1s", "5 s", "5S", "1m30s", "5d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(parse(bad), None, "{bad}");
            assert_eq!(is_too_long(bad), bad.len() > 20, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same(milliseconds in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse(&show(duration)), Some(duration));
        }
    }
}
