//! Reads one value of a section by its row of the table, or records a fault that says what would be right.

use std::{borrow::Cow, str::FromStr, time::Duration};

use ::config::{Value, ValueKind};
use serde_json::{Value as Json, json};

use super::{
    duration,
    key::{Key, Kind},
    site::Site,
};
use crate::{
    conninfo::ValueSource,
    diagnostics::{quoted, shown_key},
    query::sql,
};

/// PostgreSQL cuts longer identifiers (NAMEDATALEN - 1), and a channel's name may not be longer.
pub(super) const LONGEST_IDENTIFIER: usize = 63;

/// The text that is shown in place of a password.
pub(super) const REDACTED: &str = "redacted";

/// The fault of a key without a value.
pub(super) const EMPTY: &str = "is empty; give it a value or leave it out";

/// Returns the fault of a value with open questions, as the template of `clapometer init --table` has them.
pub(super) fn still_open(questions: &[&str]) -> String {
    let are = match questions.len() {
        1 => "1 question is open; write the answer in its place".to_owned(),
        count => format!("{count} questions are open; write the answers in their places"),
    };
    let on_one_line = |question: &&str| shown_key(&question.split_whitespace().collect::<Vec<_>>().join(" "));
    format!("{are}: {}", questions.iter().map(on_one_line).collect::<Vec<_>>().join(" "))
}

/// A value that is there, its row of the table and where it stands.
pub(super) struct Entry<'s> {
    pub(super) site: Site<'s>,
    pub(super) key: &'static Key,
    pub(super) value: Cow<'s, Value>,
    /// The reference that the value was read from, if it is not in the configuration itself.
    pub(super) reference: Option<ValueSource>,
}

impl Entry<'_> {
    /// Notes that the value is wrong, quotes it unless it may be secret, and says what would be right.
    pub(super) fn wrong(&self, right: &str) {
        let found = match self.value {
            Cow::Borrowed(value) => format!("found {}, ", found(value)),
            // What a reference leads to may be the wrong file, and a secret.
            Cow::Owned(_) => String::new(),
        };
        self.site.fault(format!("{found}must be {right}"));
    }

    /// Notes the value for `clapometer config` if it is right, and a fault if it is wrong.
    fn checked<T>(&self, value: Option<T>, show: impl FnOnce(&T) -> Json) -> Option<T> {
        match &value {
            Some(value) => self.note(show(value)),
            None => self.wrong(&self.key.right()),
        }
        value
    }

    fn note(&self, shown: Json) {
        self.site.note(self.reference.as_ref().map_or(shown, shown_reference));
    }

    /// The name that the value stands under.
    pub(super) fn name(&self) -> &str {
        self.site.name()
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        let found = match (&self.value.kind, self.lenient_text().as_deref()) {
            (ValueKind::Boolean(found), _) => Some(*found),
            (_, Some("true")) => Some(true),
            (_, Some("false")) => Some(false),
            _ => None,
        };
        if found.is_none() && matches!(as_text(&self.value), Some("true" | "false")) {
            self.wrong("true or false, without quotes");
            return None;
        }
        self.checked(found, |found| json!(found))
    }

    /// A duration in the range of its row, or zero where that has a meaning.
    pub(super) fn duration(&self) -> Option<Duration> {
        let Kind::Duration { range, zero } = &self.key.kind else { return None };
        let parsed = as_text(&self.value).and_then(|text| duration::parse(text.trim()));
        if parsed.is_none() && self.as_number().is_some() {
            self.wrong(&format!("{}; a bare number has no unit", self.key.right()));
            return None;
        }
        let accepted = parsed.filter(|found| range.contains(found) || zero.is_some() && found.is_zero());
        self.checked(accepted, |found| json!(duration::show(*found)))
    }

    /// A number that `accept` takes.
    pub(super) fn number<T>(&self, accept: impl Fn(f64) -> Option<T>) -> Option<T> {
        let number = self.as_number();
        let accepted = number.and_then(accept);
        if accepted.is_none() && self.is_number_in_quotes() {
            self.wrong(&format!("{}, without quotes", self.key.right()));
            return None;
        }
        self.checked(accepted, |_| shown_number(number.unwrap_or_default()))
    }

    /// A whole number in the range of its row.
    pub(super) fn whole<T: TryFrom<u64>>(&self) -> Option<T> {
        let Kind::Whole(range) = &self.key.kind else { return None };
        let found = match self.value.kind {
            ValueKind::I128(number) => u64::try_from(number).ok(),
            _ => self.lenient_text().and_then(|text| text.parse().ok()),
        };
        let found = found.filter(|number| range.contains(number));
        let accepted = found.and_then(|number| T::try_from(number).ok());
        if accepted.is_none() && self.is_number_in_quotes() {
            self.wrong(&format!("{}, without quotes", self.key.right()));
            return None;
        }
        self.checked(accepted, |_| json!(found))
    }

    /// Reads one of the words of its row, and returns its meaning.
    pub(super) fn word<T: Copy>(&self, meanings: &[(&str, T)]) -> Option<T> {
        let text = as_text(&self.value);
        let meaning = meanings.iter().find(|(word, _)| Some(*word) == text).map(|(_, meaning)| *meaning);
        if let (None, Some(meant)) = (meaning, text.and_then(|text| self.key.meant(text))) {
            self.wrong(&format!("{}; did you mean {meant}?", self.key.right()));
            return None;
        }
        self.checked(meaning, |_| json!(text))
    }

    /// Reads a text and parses it.
    pub(super) fn parsed<T: FromStr + ToString>(&self) -> Option<T> {
        let parsed = as_text(&self.value).and_then(|text| text.parse().ok());
        self.checked(parsed, |parsed: &T| json!(parsed.to_string()))
    }

    /// Reads a text; a number or a boolean without quotes is none.
    pub(super) fn text(&self) -> Option<String> {
        let text = as_text(&self.value).map(str::to_owned);
        if text.is_none() {
            self.wrong(match self.value.kind {
                ValueKind::Table(_) | ValueKind::Array(_) | ValueKind::Nil => "text",
                _ => "text (put it in quotes)",
            });
        }
        text
    }

    /// Reads a text without NUL that is not blank; the name of a column is not longer than PostgreSQL takes.
    pub(super) fn filled_text(&self) -> Option<String> {
        let text = self.text()?;
        let fault = if text.trim().is_empty() {
            EMPTY.to_owned()
        } else if let (Kind::Column, Some(question)) = (&self.key.kind, sql::question_for_column(&text)) {
            still_open(&[question])
        } else if text.contains('\0') {
            "has a NUL character, which PostgreSQL cannot take".to_owned()
        } else if matches!(self.key.kind, Kind::Column) && text.len() > LONGEST_IDENTIFIER {
            format!("has {} bytes, must have at most {LONGEST_IDENTIFIER}", text.len())
        } else {
            self.note(json!(text));
            return Some(text);
        };
        self.site.fault(fault);
        None
    }

    /// The texts of a list.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        let ValueKind::Array(values) = &self.value.kind else {
            self.wrong(&self.key.right());
            return None;
        };
        let texts: Option<Vec<String>> = values.iter().map(|value| as_text(value).map(str::to_owned)).collect();
        match &texts {
            Some(texts) => self.note(json!(texts)),
            None => {
                let message = format!("the list has something that is no text, must be {}", self.key.right());
                self.site.fault(message);
            }
        }
        texts
    }

    /// Returns text that may stand for a number or a boolean, because its source has nothing but text: a
    /// variable, a reference or a default, but not the file.
    fn lenient_text(&self) -> Option<String> {
        let is_lenient = matches!(self.value, Cow::Owned(_)) || self.site.is_set_by_variable();
        as_text(&self.value).filter(|_| is_lenient).map(|text| text.trim().to_owned())
    }

    /// Returns the value as a number; in the file a number has no quotes.
    fn as_number(&self) -> Option<f64> {
        match self.value.kind {
            ValueKind::Float(number) => Some(number),
            // Through its text, because not every whole number is a double.
            ValueKind::I128(number) => number.to_string().parse().ok(),
            _ => self.lenient_text()?.parse().ok(),
        }
    }

    fn is_number_in_quotes(&self) -> bool {
        self.lenient_text().is_none() && as_text(&self.value).is_some_and(|text| text.trim().parse::<f64>().is_ok())
    }
}

pub(super) fn as_text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

/// Returns the kind of a value without the value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a mapping",
        ValueKind::Array(_) => "a list",
        _ => "a number",
    }
}

fn found(value: &Value) -> String {
    match &value.kind {
        ValueKind::Boolean(found) => found.to_string(),
        ValueKind::I128(found) => found.to_string(),
        ValueKind::Float(found) => found.to_string(),
        ValueKind::String(found) => quoted(found),
        _ => kind(value).to_owned(),
    }
}

/// A number that is written as such if it is whole.
fn shown_number(number: f64) -> Json {
    number.to_string().parse::<i64>().map_or_else(|_| json!(number), |whole| json!(whole))
}

/// A reference as the file writes it.
pub(super) fn shown_reference(reference: &ValueSource) -> Json {
    match reference {
        ValueSource::Plain(_) => json!(REDACTED),
        ValueSource::File(path) => json!({"file": path.display().to_string()}),
        ValueSource::Variable { name, value: _ } => json!({"env": name}),
    }
}
