//! Parsers for the values of the command line. Each returns its own message about a wrong value.

use std::{ops::RangeInclusive, time::Duration};

use super::status::Status;
use crate::{config::duration as configured, notify_sql};

/// The longest duration: ten years. A longer one could overflow a timestamp.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Returns a parser for whole numbers in a range.
pub(super) fn whole<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number =
            text.parse().ok().filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| match (range.start(), range.end()) {
            // A limit that nobody means to reach is told to whoever is beyond it.
            (least, most) if *most >= i32::MAX.into() && !is_above(text, *most) => {
                format!("must be a whole number, {least} or more")
            }
            (least, most) => format!("must be a whole number from {least} to {most}"),
        })
    }
}

/// Returns whether a text is a whole number above another one, however long it is.
fn is_above(text: &str, most: i64) -> bool {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && text.parse::<i64>().map_or(true, |number| number > most)
}

/// Reads the number of a clap.
pub(super) fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "a clap's number is a whole number, the ID in `postgres-batch list`".to_owned())
}

/// A list of exit codes, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitCodes(pub Vec<i32>);

pub(super) fn exit_codes(text: &str) -> Result<ExitCodes, String> {
    let codes = text.split(',').map(str::trim).filter(|code| !code.is_empty());
    let codes = codes.map(|code| match code.parse() {
        Ok(code @ 1..=255) => Ok(code),
        _ => Err(format!("{code} is not an exit code of a failure: 1 to 255, separated by commas")),
    });
    Ok(ExitCodes(codes.collect::<Result<_, _>>()?))
}

/// Reads a duration as the configuration spells it, or in days.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let days = days.map(|days| Duration::from_secs(86_400) * days);
    days.or_else(|| configured::parse(text))
        .or_else(|| (configured::is_too_long(text) || is_days(text)).then_some(Duration::MAX))
        .ok_or_else(|| "a duration is a whole number with a unit: 1500ms, 5s, 10m, 2h, 7d".to_owned())
        .and_then(|duration| match duration <= LONGEST {
            true => Ok(duration),
            false => Err("the longest is ten years, 3650d".to_owned()),
        })
}

/// Returns whether a text is a number of days, however many.
fn is_days(text: &str) -> bool {
    text.strip_suffix('d').is_some_and(|days| !days.is_empty() && days.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads the name of a schema. PostgreSQL would truncate a name of more than 63 bytes, and look for the tables in
/// another schema.
pub(super) fn schema(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a schema's name must not be empty".to_owned());
    }
    if text.len() > 63 {
        return Err(format!("a schema's name has at most 63 bytes, and this one has {}", text.len()));
    }
    Ok(text.to_owned())
}

pub(super) fn channel(text: &str) -> Result<notify_sql::Identifier, notify_sql::IdentifierError> {
    notify_sql::Identifier::new(text)
}

pub(super) fn json_document(text: &str) -> Result<String, String> {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("not a JSON document: {error}{}", json_advice(text))),
    }
}

/// Returns advice on a text that is not JSON. Its first character shows the likely mistake.
fn json_advice(text: &str) -> &'static str {
    match text.trim_start().as_bytes() {
        [b'@', ..] => "; a file's content is given as \"$(cat FILE)\"",
        [b'{' | b'[', ..] if text.contains('\'') && !text.contains('"') => {
            "; JSON has double quotes around names and texts, and the shell's single quotes go around it all: '{\"id\": 7}'"
        }
        [b'{' | b'[' | b'"', ..] => "",
        [] => "; leave it out if there is nothing to say",
        _ => "; a text has double quotes, and the shell's single quotes around them: '\"text\"'",
    }
}

pub(super) fn terminal_status(text: &str) -> Result<Status, String> {
    Status::parse(&text.to_ascii_uppercase())
        .filter(|status| status.is_terminal())
        .ok_or_else(|| "only SUCCESS, DEAD and CANCELLED can be pruned".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_list_that_may_be_empty_or_have_spaces() {
        for (text, codes) in
            [("65", Ok(vec![65])), ("65, 66", Ok(vec![65, 66])), ("", Ok(vec![])), (" 1,2 ,", Ok(vec![1, 2]))]
        {
            assert_eq!(exit_codes(text).map(|codes| codes.0), codes, "{text:?}");
        }
        for wrong in ["0", "256", "x", "65 66", "-1"] {
            assert!(exit_codes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_that_is_too_long_is_told_the_longest() {
        assert_eq!(duration("3650d"), Ok(LONGEST));
        for long in ["3651d", "99999999999d", "99999999999s", "99999999999999999999ms"] {
            assert_eq!(duration(long), Err("the longest is ten years, 3650d".to_owned()), "{long}");
        }
        for wrong in ["", "d", "s", "5", "-5d", "99999999999x"] {
            assert!(duration(wrong).is_err_and(|problem| problem.contains("with a unit")), "{wrong}");
        }
    }

    #[test]
    fn a_number_that_is_wrong_is_told_what_it_may_be() {
        for (text, read) in [
            ("1", Ok(1)),
            ("1000", Ok(1000)),
            ("0", Err("must be a whole number from 1 to 1000")),
            ("3h", Err("must be a whole number from 1 to 1000")),
            ("99999999999999999999", Err("must be a whole number from 1 to 1000")),
        ] {
            assert_eq!(whole::<i16>(1..=1000)(text), read.map_err(str::to_owned), "{text}");
        }
        let open = whole::<u32>(0..=u32::MAX.into());
        for wrong in ["-1", "x", "", "1.5"] {
            assert_eq!(open(wrong), Err("must be a whole number, 0 or more".to_owned()), "{wrong}");
        }
        for above in ["4294967296", "99999999999999999999"] {
            assert_eq!(open(above), Err("must be a whole number from 0 to 4294967295".to_owned()), "{above}");
        }
        assert_eq!(open("4294967295"), Ok(u32::MAX));
        assert!(number("x1").is_err() && number("-5") == Ok(-5));
    }
}
