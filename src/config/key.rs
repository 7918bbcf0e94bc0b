//! A row of the table of keys: the name of a key, the values that it accepts, and its meaning.
//!
//! The rows are plain data and stand in a file for each section, above the function that reads
//! the section: [`super::server`], [`super::admin`], [`super::database`], [`super::query`]. Faults
//! and suggestions, `clapometer config`, the JSON Schema and the reference in
//! docs/configuration.md are all made from them.

use std::{ops::RangeInclusive, time::Duration};

use ::config::{Value, ValueKind};

use super::duration;
use crate::diagnostics::nearest;

/// One key of the configuration.
pub(super) struct Key {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// The values that it accepts.
    pub(super) kind: Kind,
    /// The value that it has if it is not set.
    pub(super) default: DefaultValue,
    /// The description of what it does, and of what a wrong value does, in Markdown.
    pub(super) meaning: &'static str,
    /// Wrong names that people write for it; the fault suggests the right one.
    pub(super) synonyms: &'static [&'static str],
}

/// The value of a key that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DefaultValue {
    /// None: the key must be set. The text says to what.
    Required(&'static str),
    /// This value, as the file would write it.
    Is(&'static str),
    /// A value that the reader works out; the text describes it.
    Derived(&'static str),
}

/// The values that a key accepts.
pub(super) enum Kind {
    /// An IP address and a port.
    Address,
    /// `true` or `false`.
    Boolean,
    /// The name of a column.
    Column,
    /// A duration in a range, or zero where that has the meaning given.
    Duration { range: RangeInclusive<Duration>, zero: Option<&'static str> },
    /// Servers, separated by commas.
    Hosts,
    /// A list of texts.
    List { of: &'static str, such_as: &'static str },
    /// Keys of their own.
    Mapping(&'static [Key]),
    /// Mappings of the same keys under names that the operator chooses.
    Named { keys: &'static [Key], references: References, rules: Option<Rules> },
    /// A finite number above the bound, or from it on.
    Number { least: f64, is_least_included: bool },
    /// Words under names that the operator chooses; the key describes each word.
    Parameters(&'static Key),
    /// A text that is never shown.
    Password,
    /// The path of a file.
    Path,
    /// A port, or one for each host, separated by commas.
    Ports,
    /// Any text that is not blank.
    Text,
    /// A connection string, shown without its password.
    Url,
    /// A whole number in a range.
    Whole(RangeInclusive<u64>),
    /// One of these words; second, what people write in place of some of them.
    Words(&'static [&'static str], &'static [(&'static str, &'static str)]),
}

/// Returns the rules between the keys of a mapping as JSON Schemas that all hold, for what the schema can say of them.
pub(super) type Rules = fn() -> Vec<serde_json::Value>;

/// Says whether scalars of a mapping may be `{file: PATH}` or `{env: NAME}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum References {
    /// They may be references.
    Allowed,
    /// They may not be references.
    Refused,
}

impl Key {
    /// A key without synonyms.
    pub(super) const fn new(name: &'static str, kind: Kind, default: DefaultValue, meaning: &'static str) -> Self {
        Self { name, kind, default, meaning, synonyms: &[] }
    }

    /// The same key with names that people write in its place.
    pub(super) const fn instead_of(mut self, synonyms: &'static [&'static str]) -> Self {
        self.synonyms = synonyms;
        self
    }

    /// Returns the default as a value of the file.
    pub(super) fn default_value(&self) -> Option<Value> {
        let DefaultValue::Is(default) = self.default else { return None };
        let text = |text: &str| Value::new(None, ValueKind::String(text.to_owned()));
        Some(match self.kind {
            Kind::List { .. } => {
                let texts: Vec<String> = serde_json::from_str(default).expect("the default of a list is JSON");
                Value::new(None, ValueKind::Array(texts.iter().map(|each| text(each)).collect()))
            }
            _ => text(default),
        })
    }

    /// Returns the words for what would be right, to follow "must be".
    pub(super) fn right(&self) -> String {
        let such_as = match self.default {
            DefaultValue::Is(default) => format!(", such as {default}"),
            DefaultValue::Required(_) | DefaultValue::Derived(_) => String::new(),
        };
        match &self.kind {
            Kind::Address => format!("an IP address and a port{such_as}"),
            Kind::Boolean => "true or false".into(),
            Kind::Duration { range, zero } => {
                let zero = zero.map(|meaning| format!("0s ({meaning}) or ")).unwrap_or_default();
                let (least, most) = (duration::show(*range.start()), duration::show(*range.end()));
                format!("{zero}a duration from {least} to {most}{such_as}")
            }
            Kind::List { of, such_as } => format!("a list of {of}, {such_as}"),
            Kind::Mapping(_) | Kind::Named { .. } | Kind::Parameters(_) => "a mapping of keys".into(),
            Kind::Number { least, is_least_included: true } => format!("a finite number of at least {least}"),
            Kind::Number { least, is_least_included: false } => format!("a finite number above {least}"),
            Kind::Whole(range) => format!("a whole number from {} to {}", range.start(), range.end()),
            Kind::Words(words, _) => format!("one of {}", words.join(", ")),
            Kind::Column | Kind::Hosts | Kind::Password | Kind::Path | Kind::Ports | Kind::Text | Kind::Url => {
                "text".into()
            }
        }
    }

    /// Returns the word that was probably meant, if the key accepts words.
    pub(super) fn meant(&self, wrong: &str) -> Option<&'static str> {
        let Kind::Words(words, synonyms) = &self.kind else { return None };
        let lower = wrong.to_lowercase();
        let synonym = synonyms.iter().find(|(synonym, _)| *synonym == lower).map(|(_, word)| *word);
        synonym.or_else(|| nearest(wrong, words.iter().copied()))
    }
}

/// Returns a hint at the key that was probably meant, or the names of all keys.
pub(super) fn suggestion(wrong: &str, keys: &[Key]) -> String {
    let synonym = keys.iter().find(|key| key.synonyms.iter().any(|synonym| synonym.eq_ignore_ascii_case(wrong)));
    let names = keys.iter().map(|key| key.name);
    match synonym.map(|key| key.name).or_else(|| nearest(wrong, names.clone())) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known here: {}", names.collect::<Vec<_>>().join(", ")),
    }
}

/// The words of a closed set, in a form that [`Kind::Words`] takes.
pub(super) const fn words<T, const N: usize>(meanings: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut index = 0;
    while index < N {
        words[index] = meanings[index].0;
        index += 1;
    }
    words
}
