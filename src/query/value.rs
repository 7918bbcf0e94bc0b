//! Parameter values: text from a trigger, parsed by the type that the query declares.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::ParameterKind;

/// A parsed parameter. Equal values share one cached query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// `text`.
    Text(String),
    /// `bigint`.
    Bigint(i64),
    /// `double`, by its bits so that it can be compared and hashed; never NaN.
    Double(u64),
    /// `boolean`.
    Boolean(bool),
    /// `uuid`.
    Uuid(Uuid),
    /// `timestamptz`.
    Timestamptz(OffsetDateTime),
}

impl Value {
    /// Returns the number of bytes that the value holds on the heap.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bigint(_) | Self::Double(_) | Self::Boolean(_) | Self::Uuid(_) | Self::Timestamptz(_) => 0,
        }
    }

    /// Parses a parameter's text.
    ///
    /// # Errors
    /// Describes the expected form. The text is not repeated, because it may be a secret in the wrong place.
    pub fn parse(kind: ParameterKind, text: &str) -> Result<Self, &'static str> {
        match kind {
            ParameterKind::Text if text.contains('\0') => Err("text without a zero byte"),
            ParameterKind::Text => Ok(Self::Text(text.to_owned())),
            ParameterKind::Bigint => text.parse().map(Self::Bigint).map_err(|_| "a 64-bit integer"),
            ParameterKind::Double => match text.parse::<f64>() {
                // -0 and 0 are one number and must be one cached query.
                Ok(number) if number.is_finite() => Ok(Self::Double((number + 0.0).to_bits())),
                _ => Err("a finite number"),
            },
            ParameterKind::Boolean => match text {
                "true" => Ok(Self::Boolean(true)),
                "false" => Ok(Self::Boolean(false)),
                _ => Err("true or false"),
            },
            ParameterKind::Uuid => Uuid::try_parse(text).map(Self::Uuid).map_err(|_| "a UUID"),
            ParameterKind::Timestamptz => OffsetDateTime::parse(text, &Rfc3339)
                .map(Self::Timestamptz)
                .map_err(|_| "an RFC 3339 time such as 2026-11-24T08:00:00Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_reads_its_own_form_and_nothing_else() {
        let good = [
            (ParameterKind::Text, " any'; DROP TABLE clap; -- "),
            (ParameterKind::Bigint, "-9223372036854775808"),
            (ParameterKind::Double, "1e3"),
            (ParameterKind::Boolean, "true"),
            (ParameterKind::Uuid, "67e55044-10b1-426f-9247-bb680e5fe0c8"),
            (ParameterKind::Timestamptz, "2026-11-24T08:00:00+01:00"),
        ];
        for (kind, text) in good {
            assert!(Value::parse(kind, text).is_ok(), "{kind:?} {text}");
        }
        let bad = [
            (ParameterKind::Text, "a\0b"),
            (ParameterKind::Bigint, "9223372036854775808"),
            (ParameterKind::Bigint, "1.0"),
            (ParameterKind::Double, "NaN"),
            (ParameterKind::Double, "inf"),
            (ParameterKind::Boolean, "yes"),
            (ParameterKind::Uuid, "67e55044"),
            (ParameterKind::Timestamptz, "2026-11-24"),
        ];
        for (kind, text) in bad {
            assert!(Value::parse(kind, text).is_err(), "{kind:?} {text}");
        }
    }

    #[test]
    fn equal_numbers_are_one_parameter() {
        let zero = Value::parse(ParameterKind::Double, "0");
        assert_eq!(zero, Value::parse(ParameterKind::Double, "-0.0"));
    }
}
