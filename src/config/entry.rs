//! One value of a section: reading it as what its key wants, or saying what would be right.

use std::{borrow::Cow, str::FromStr};

use ::config::{Value, ValueKind};

use super::section::Section;
use crate::diagnostics::shown;

/// A value that is there, and the key that it stands under.
pub(crate) struct Entry<'s> {
    pub(super) section: &'s Section<'s>,
    pub(crate) key: &'s str,
    pub(super) value: Cow<'s, Value>,
}

impl Entry<'_> {
    /// Notes that the value is wrong, what it is (unless it may be secret) and what would be right.
    pub(crate) fn wrong(&self, right: &str) {
        let found = match self.value {
            Cow::Borrowed(value) => format!("found {}, ", found(value)),
            // What a reference leads to may be the wrong file, and a secret.
            Cow::Owned(_) => String::new(),
        };
        self.section.fault(self.key, format!("{found}must be {right}"));
    }

    /// The texts of a list.
    pub(crate) fn texts(&self, right: &str) -> Option<Vec<String>> {
        let ValueKind::Array(values) = &self.value.kind else {
            self.wrong(right);
            return None;
        };
        let texts: Option<Vec<String>> = values.iter().map(|value| as_text(value).map(str::to_owned)).collect();
        if texts.is_none() {
            self.section.fault(self.key, format!("the list has something that is no text, must be {right}"));
        }
        texts
    }

    /// One of a closed set of words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = as_text(&self.value);
        let meaning = words.iter().find(|(word, _)| Some(*word) == text).map(|(_, meaning)| *meaning);
        if meaning.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(&format!("one of {}", names.join(", ")));
        }
        meaning
    }

    /// Text that reads as something.
    pub(crate) fn parsed<T: FromStr>(&self, right: &str) -> Option<T> {
        let parsed = as_text(&self.value).and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.wrong(right);
        }
        parsed
    }

    /// Text, which a number or a boolean without quotes is not.
    pub(crate) fn text(&self) -> Option<String> {
        let text = as_text(&self.value).map(str::to_owned);
        if text.is_none() {
            self.wrong(match self.value.kind {
                ValueKind::Table(_) | ValueKind::Array(_) | ValueKind::Nil => "text",
                _ => "text (put it in quotes)",
            });
        }
        text
    }

    /// Text without NUL that is not blank.
    pub(crate) fn filled_text(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.section.fault(self.key, "is empty; give it a value or leave it out");
            return None;
        }
        if text.contains('\0') {
            self.section.fault(self.key, "has a NUL character, which PostgreSQL cannot take");
            return None;
        }
        Some(text)
    }

    /// Text that stands for a number or a boolean, as it may where all values are text: in a
    /// variable or behind a reference, not in the file.
    pub(super) fn lenient_text(&self) -> Option<String> {
        let is_lenient = matches!(self.value, Cow::Owned(_)) || self.section.is_set_by_variable(self.key);
        as_text(&self.value).filter(|_| is_lenient).map(|text| text.trim().to_owned())
    }

    /// A number, which in the file has no quotes.
    pub(super) fn number(&self) -> Option<f64> {
        match self.value.kind {
            ValueKind::Float(number) => Some(number),
            // Through its text, because not every whole number is a double.
            ValueKind::I128(number) => number.to_string().parse().ok(),
            _ => self.lenient_text()?.parse().ok(),
        }
    }
}

pub(super) fn as_text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

/// What kind of value it is, without the value.
pub(crate) fn kind(value: &Value) -> &'static str {
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
        ValueKind::String(found) => shown(found),
        _ => kind(value).to_owned(),
    }
}
