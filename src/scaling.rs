//! The arithmetic between a reading and the answer to KEDA: divide, round, clamp, compare.
//!
//! Pure, and the only place that rounds. [`crate::config`] checks numbers into these types,
//! [`crate::scaler`] applies them to readings.
//!
//! KEDA rounds a metric to three decimals, takes the int64 where the double is not above zero,
//! and turns NaN, infinite and negative numbers into zero (pkg/scalers/scaler.go). No such number
//! may leave this module.

/// The smallest value or target that KEDA can tell from zero: it formats metrics with `%.3f`.
pub const SMALLEST: f64 = 0.001;

/// The distance from an integer, relative to its size, within which a quotient is that integer.
///
/// `21 / 0.7` is 30.000000000000004 in binary floating point and must not become 31 Jobs.
const INTEGER_TOLERANCE: f64 = 1e-9;

/// The greatest such distance, however large the quotient: a remainder that KEDA can tell from zero is not dropped.
///
/// From 1e6 on, the relative tolerance alone would reach further; from 5e8 on
/// it would make `ceil` and `floor` round to the nearest. What binary division adds stays below
/// this up to 4e12. Beyond that a remainder may start one Job in 4e12 too many.
const LARGEST_TOLERANCE: f64 = SMALLEST;

/// The treatment of a quotient's fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Up: 61 / 10 is 7.
    Ceil,
    /// Down: 69 / 10 is 6.
    Floor,
    /// To the nearest integer, halves away from zero.
    Nearest,
    /// The fraction stays.
    None,
}

impl Rounding {
    /// All spellings, for messages.
    pub const NAMES: [&str; 4] = ["ceil", "floor", "nearest", "none"];

    /// Returns the rounding where none is configured. A number that is not divided reaches KEDA as it is, as from the
    /// built-in trigger: 0.006 against a target of 0.01 is one replica, and rounded up it would be 100.
    pub fn default_for(divisor: Divisor) -> Self {
        if divisor.get() == 1.0 { Self::None } else { Self::Ceil }
    }

    /// Reads one of [`Rounding::NAMES`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ceil" => Some(Self::Ceil),
            "floor" => Some(Self::Floor),
            "nearest" => Some(Self::Nearest),
            "none" => Some(Self::None),
            _ => None,
        }
    }

    /// Returns the spelling that [`Rounding::parse`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ceil => "ceil",
            Self::Floor => "floor",
            Self::Nearest => "nearest",
            Self::None => "none",
        }
    }
}

/// The numbers below this are exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Returns a number as an integer, if it is one, not negative, and exact.
#[allow(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
pub fn whole(number: f64) -> Option<u64> {
    (number.fract() == 0.0 && (0.0..EXACT).contains(&number)).then_some(number as u64)
}

/// Returns a count as a double, which is exact for those that [`whole`] returns.
#[allow(clippy::as_conversions, clippy::cast_precision_loss, reason = "a count has been a double before")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A finite divisor above zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divisor(f64);

impl Divisor {
    /// What a number must be to be accepted, for messages.
    pub const EXPECTED: &str = "must be a number above 0";

    /// Accepts finite numbers above zero.
    pub fn new(number: f64) -> Option<Self> {
        (number.is_finite() && number > 0.0).then_some(Self(number))
    }

    /// Returns the number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Divisor {
    fn default() -> Self {
        Self(1.0)
    }
}

/// The number of units that one Job or replica is expected to handle: at least [`SMALLEST`], finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target(f64);

impl Target {
    /// What a number must be to be accepted, for messages.
    pub const EXPECTED: &str = "must be a number from 0.001 up";

    /// The target with which an HPA is created when the trigger's own cannot be known: so large that the
    /// HPA does not add replicas when the trigger is corrected.
    pub const PLACEHOLDER: Self = Self(1_000_000.0);

    /// Accepts finite numbers from [`SMALLEST`] up.
    pub fn new(number: f64) -> Option<Self> {
        (number.is_finite() && number >= SMALLEST).then_some(Self(number))
    }

    /// Returns the number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Target {
    fn default() -> Self {
        Self(1.0)
    }
}

/// The number that an activity must exceed: finite, not negative.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Activation(f64);

impl Activation {
    /// What a number must be to be accepted, for messages.
    pub const EXPECTED: &str = "must be a number from 0 up";

    /// Accepts finite numbers from 0 up.
    pub fn new(number: f64) -> Option<Self> {
        (number.is_finite() && number >= 0.0).then_some(Self(number))
    }

    /// Returns the number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Returns whether this activity makes a trigger active: strictly greater, as KEDA's built-in
    /// `postgresql` trigger compares (pkg/scalers/postgresql_scaler.go).
    pub fn is_exceeded_by(self, activity: f64) -> bool {
        activity > self.0
    }
}

/// Divides and rounds a number that a query returned, and returns the number to report.
///
/// `number` is finite and not negative; so is the answer. A quotient too large for a double
/// is the largest double, and one in (0, [`SMALLEST`]) that rounding left there is
/// [`SMALLEST`], because KEDA would read it as zero.
pub fn reported(number: f64, divisor: Divisor, rounding: Rounding) -> f64 {
    // A quotient too small for a double would be zero.
    let smallest = if number > 0.0 { f64::MIN_POSITIVE } else { 0.0 };
    let quotient = snapped(number / divisor.get()).clamp(smallest, f64::MAX);
    let rounded = match rounding {
        Rounding::Ceil => quotient.ceil(),
        Rounding::Floor => quotient.floor(),
        Rounding::Nearest => nearest(quotient),
        Rounding::None => quotient,
    };
    if rounded > 0.0 { rounded.max(SMALLEST) } else { 0.0 }
}

/// Returns the quotient, or the integer that it would be in decimal arithmetic.
fn snapped(quotient: f64) -> f64 {
    let nearest = quotient.round();
    if nearest > 0.0 && (quotient - nearest).abs() <= tolerance(nearest) { nearest } else { quotient }
}

/// Returns the nearest integer, and the next one where decimal arithmetic would give a half, as 7 / 0.56 is 12.5.
fn nearest(quotient: f64) -> f64 {
    let below = quotient.floor();
    let is_half = (quotient - below - 0.5).abs() <= tolerance(quotient);
    if is_half { below + 1.0 } else { quotient.round() }
}

/// Returns what binary division may have added to a quotient of this size.
fn tolerance(quotient: f64) -> f64 {
    (INTEGER_TOLERANCE * quotient).min(LARGEST_TOLERANCE)
}

/// Returns the deprecated int64 that goes beside a double: rounded up, saturating.
///
/// Rounded up because KEDA falls back to it where the double is not above zero, and a value
/// above zero must never read as zero.
pub fn integer(number: f64) -> i64 {
    // `as` from a float saturates at the bounds of i64, which is what is wanted; NaN cannot
    // get here (see `reported` and `Target::new`).
    #[allow(clippy::as_conversions)]
    let integer = number.ceil() as i64;
    integer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive};

    use super::*;

    fn divided(number: f64, divisor: f64, rounding: Rounding) -> f64 {
        reported(number, Divisor::new(divisor).expect("a divisor"), rounding)
    }

    #[test]
    fn the_seeds_ceiling_of_a_tenth() {
        for (count, jobs) in [(0.0, 0.0), (1.0, 1.0), (10.0, 1.0), (60.0, 6.0), (61.0, 7.0)] {
            assert_eq!(divided(count, 10.0, Rounding::Ceil), jobs);
        }
    }

    #[test]
    fn a_binary_remainder_starts_no_job() {
        assert_eq!(divided(21.0, 0.7, Rounding::Ceil), 30.0);
        assert_eq!(divided(0.3, 0.1, Rounding::Floor), 3.0);
        assert_eq!(divided(21.0, 0.7, Rounding::None), 30.0);
    }

    #[test]
    fn a_large_quotient_is_rounded_as_a_small_one() {
        assert_eq!(divided(5_000_000_001.0, 10.0, Rounding::Ceil), 500_000_001.0);
        assert_eq!(divided(5_000_000_009.0, 10.0, Rounding::Floor), 500_000_000.0);
        assert_eq!(divided(1e12 + 1.0, 100.0, Rounding::Ceil), 1e10 + 1.0);
        assert_eq!(divided(1e12 - 1.0, 100.0, Rounding::Floor), 1e10 - 1.0);
        assert_eq!(divided(1e12 + 1.0, 100.0, Rounding::None), 10_000_000_000.01);
        // What the division itself adds is no remainder at this size either.
        for count in 1u32..1_400 {
            let number = f64::from(count) * 2_100_000_000.0;
            assert_eq!(divided(number, 0.7, Rounding::Ceil), f64::from(count) * 3_000_000_000.0, "{number}");
        }
    }

    #[test]
    fn halves_go_away_from_zero() {
        assert_eq!(divided(25.0, 10.0, Rounding::Nearest), 3.0);
        assert_eq!(divided(24.0, 10.0, Rounding::Nearest), 2.0);
        // 12.499999999999998 and 62.50000000000001 in binary.
        assert_eq!(divided(7.0, 0.56, Rounding::Nearest), 13.0);
        assert_eq!(divided(9.0, 0.144, Rounding::Nearest), 63.0);
    }

    #[test]
    fn a_value_that_keda_would_read_as_zero_is_raised() {
        assert_eq!(divided(1.0, 1e6, Rounding::None), SMALLEST);
        assert_eq!(divided(1.0, 1e6, Rounding::Floor), 0.0);
        assert_eq!(divided(0.0, 1e6, Rounding::None), 0.0);
    }

    #[test]
    fn a_quotient_too_small_for_a_double_is_not_zero() {
        assert_eq!(divided(1e-300, 1e300, Rounding::None), SMALLEST);
        assert_eq!(divided(1e-300, 1e300, Rounding::Ceil), 1.0);
        assert_eq!(divided(1e-300, 1e300, Rounding::Floor), 0.0);
    }

    #[test]
    fn the_largest_numbers_stay_finite_and_saturate() {
        assert_eq!(divided(f64::MAX, 1e-3, Rounding::Ceil), f64::MAX);
        assert_eq!(integer(f64::MAX), i64::MAX);
        assert_eq!(integer(0.001), 1);
        assert_eq!(integer(0.0), 0);
    }

    #[test]
    fn activity_must_exceed_the_threshold() {
        let threshold = Activation::new(5.0).expect("a threshold");
        assert!(!threshold.is_exceeded_by(5.0));
        assert!(threshold.is_exceeded_by(5.5));
    }

    #[test]
    fn numbers_out_of_range_are_no_settings() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Divisor::new(bad).is_none());
            assert!(Target::new(bad).is_none());
        }
        assert!(Target::new(0.0009).is_none());
        assert!(Activation::new(-0.1).is_none());
        assert!(Activation::new(f64::NAN).is_none());
    }

    proptest! {
        /// Counts and divisors with up to three decimals agree with decimal arithmetic.
        #[test]
        fn division_agrees_with_decimal_arithmetic(count in 0u32..10_000_000, thousandths in 1u32..1_000_000) {
            let divisor = Decimal::new(thousandths.into(), 3);
            let exact = Decimal::from(count) / divisor;
            let as_double = divisor.to_f64().expect("a double");
            // Within the tolerance of an integer, or of a half, that is the documented answer.
            let tolerance = (exact * Decimal::new(1, 9)).min(Decimal::new(1, 3));
            let snapped = |to: Decimal| if (exact - to).abs() <= tolerance { to } else { exact };
            let half = Decimal::new(5, 1);
            for (rounding, expected) in [
                (Rounding::Ceil, snapped(exact.round()).ceil()),
                (Rounding::Floor, snapped(exact.round()).floor()),
                (
                    Rounding::Nearest,
                    snapped(exact.floor() + half).round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero),
                ),
            ] {
                prop_assert_eq!(
                    divided(count.into(), as_double, rounding),
                    expected.to_f64().expect("a double"),
                    "{} / {} by {:?}", count, divisor, rounding
                );
            }
        }

        #[test]
        fn what_is_reported_is_finite_and_agrees_with_its_integer(number in 0.0f64..1e300, divisor in 1e-6f64..1e6) {
            for rounding in [Rounding::Ceil, Rounding::Floor, Rounding::Nearest, Rounding::None] {
                let value = divided(number, divisor, rounding);
                prop_assert!(value.is_finite() && value >= 0.0);
                prop_assert_eq!(value == 0.0, integer(value) == 0);
                prop_assert!(value == 0.0 || value >= SMALLEST);
            }
        }
    }
}
