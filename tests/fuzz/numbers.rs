//! Parameters and division: what is parsed is the same when written and parsed again, and decimals agree.

use clapometer::{
    query::{ParameterKind, Value},
    scaling::{Divisor, Rounding, SMALLEST, integer, reported},
};
use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive};
use time::format_description::well_known::Rfc3339;

const KINDS: [ParameterKind; 6] = [
    ParameterKind::Text,
    ParameterKind::Bigint,
    ParameterKind::Double,
    ParameterKind::Boolean,
    ParameterKind::Uuid,
    ParameterKind::Timestamptz,
];

/// The text as a parameter of each kind.
pub(super) fn check_parameter(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for kind in KINDS {
        match Value::parse(kind, text) {
            Ok(value) => {
                let written = match &value {
                    Value::Text(text) => text.to_string(),
                    Value::Bigint(number) => number.to_string(),
                    Value::Double(bits) => {
                        assert!(f64::from_bits(*bits).is_finite());
                        f64::from_bits(*bits).to_string()
                    }
                    Value::Boolean(flag) => flag.to_string(),
                    Value::Uuid(uuid) => uuid.to_string(),
                    Value::Timestamptz(time) => time.format(&Rfc3339).unwrap(),
                };
                assert_eq!(Value::parse(kind, &written), Ok(value), "{text:?}");
            }
            Err(expected) => assert!(expected.len() < 60),
        }
    }
}

/// Eight bytes are a count and a divisor in thousandths; sixteen are two doubles.
pub(super) fn check_division(input: &[u8]) {
    if let Some((count, thousandths)) = input.first_chunk::<8>().map(|bytes| {
        let (count, thousandths) = bytes.split_at(4);
        (u32::from_le_bytes(count.try_into().unwrap()), u32::from_le_bytes(thousandths.try_into().unwrap()))
    }) {
        check_decimal(count, thousandths.max(1));
    }
    if let Some(bytes) = input.first_chunk::<16>() {
        let (number, divisor) = bytes.split_at(8);
        check_double(f64::from_le_bytes(number.try_into().unwrap()), f64::from_le_bytes(divisor.try_into().unwrap()));
    }
}

fn check_decimal(count: u32, thousandths: u32) {
    let divisor = Decimal::new(thousandths.into(), 3);
    let exact = Decimal::from(count) / divisor;
    let found = |rounding| reported(count.into(), Divisor::new(divisor.to_f64().unwrap()).unwrap(), rounding);
    // Within the documented tolerance of an integer, or of a half, that is the answer. At the tolerance's very edge
    // the quotient is an answer as well: binary division is off by so much.
    let tolerance = (exact * Decimal::new(1, 9)).min(Decimal::new(1, 3));
    let slack = exact * Decimal::new(3, 16);
    let candidates = |to: Decimal| {
        let distance = (exact - to).abs();
        let snaps = (distance <= tolerance + slack).then_some(to);
        let stays = (distance > tolerance - slack).then_some(exact);
        snaps.into_iter().chain(stays)
    };
    let (integer, half) = (exact.round(), exact.floor() + Decimal::new(5, 1));
    for (rounding, expected) in [
        (Rounding::Ceil, candidates(integer).map(|it| it.ceil()).collect::<Vec<_>>()),
        (Rounding::Floor, candidates(integer).map(|it| it.floor()).collect()),
        (
            Rounding::Nearest,
            candidates(half).map(|it| it.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero)).collect(),
        ),
    ] {
        let expected: Vec<f64> = expected.iter().map(|it| it.to_f64().unwrap()).collect();
        let found = found(rounding);
        assert!(expected.contains(&found), "{count} / {divisor} by {rounding:?} is {found}, not {expected:?}");
    }
}

fn check_double(number: f64, divisor: f64) {
    let Some(divisor) = Divisor::new(divisor) else { return };
    if !number.is_finite() || number < 0.0 {
        return;
    }
    for rounding in [Rounding::Ceil, Rounding::Floor, Rounding::Nearest, Rounding::None] {
        let value = reported(number, divisor, rounding);
        assert!(value == 0.0 || (value.is_finite() && value >= SMALLEST), "{number} / {divisor:?}: {value}");
        assert_eq!(value == 0.0, integer(value) == 0, "{number} / {divisor:?}: {value}");
        assert!(number > 0.0 || value == 0.0, "{value} out of nothing");
        assert_eq!(Rounding::parse(rounding.name()), Some(rounding));
    }
}
