//! Numbers in JSON documents.

use serde::{Serialize, Serializer};

/// Writes a whole number without a fraction: `60`, not `60.0`.
pub fn number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match whole(*number) {
        Some(whole) => whole.serialize(serializer),
        None => number.serialize(serializer),
    }
}

/// Returns a number as a JSON value; see [`number`].
pub fn value(number: f64) -> serde_json::Value {
    whole(number).map_or_else(|| number.into(), Into::into)
}

/// Writes a whole number without a fraction, if there is a number.
pub fn number_if_any<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(value).serialize(serializer)
}

/// Writes whole numbers without a fraction, where there are numbers.
pub fn numbers_if_any<S: Serializer>(numbers: &[Option<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(numbers.iter().map(|number| number.map(value)))
}

/// Returns the integer that a double stands for, as long as doubles can tell integers apart.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT).then(|| format!("{number:.0}").parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_no_fraction() {
        let text = |number| value(number).to_string();
        assert_eq!([60.0, 0.0, -0.0, 6.5, 1e300].map(text), ["60", "0", "0", "6.5", "1e+300"]);
    }
}
