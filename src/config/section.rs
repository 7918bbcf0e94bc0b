//! Reading one mapping of the tree, key by key, noting every fault on the way.
//!
//! A value that is missing or wrong comes back as `None` or as the default, and checking goes
//! on: the faults that were noted keep the result from being used.

use std::{
    borrow::Cow, cell::RefCell, collections::BTreeSet, fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use ::config::{Map, Value, ValueKind};

use super::{
    duration,
    entry::{Entry, as_text, kind},
    source::{Environment, Path, Tree},
};
use crate::{
    conninfo::{Secret, ValueSource},
    diagnostics::{Diagnostics, Location, suggestion},
};

/// What all sections of one configuration share.
pub(crate) struct Context<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) environment: &'a Environment,
    pub(crate) diagnostics: &'a Diagnostics,
}

/// Whether scalars of a section may be `{file: ...}` or `{env: ...}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum References {
    Allowed,
    Refused,
}

/// One mapping, and where it stands.
pub(crate) struct Section<'a> {
    context: &'a Context<'a>,
    path: Path,
    table: Option<&'a Map<String, Value>>,
    references: References,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    /// The mapping of the whole file.
    pub(crate) fn root(context: &'a Context<'a>) -> Self {
        Self {
            context,
            path: Path::new(),
            table: Some(&context.tree.values),
            references: References::Refused,
            asked: RefCell::default(),
        }
    }

    /// The value under a key as it is written, unless it is empty.
    fn written(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        let value = self.table?.get(key)?;
        if matches!(value.kind, ValueKind::Nil) {
            self.fault(key, "is empty; give it a value or leave it out");
            return None;
        }
        Some(value)
    }

    /// The value under a key, read from where it refers to.
    pub(crate) fn entry(&self, key: &'static str) -> Option<Entry<'_>> {
        let value = self.written(key)?;
        let value = match (&value.kind, self.references) {
            (ValueKind::Table(reference), References::Allowed) => match self.referred(key, reference)?.read() {
                Ok(text) => Cow::Owned(Value::new(None, ValueKind::String(text))),
                Err(message) => {
                    self.fault(key, message);
                    return None;
                }
            },
            _ => Cow::Borrowed(value),
        };
        Some(Entry { section: self, key, value })
    }

    /// The scalar under a key, with what it refers to left unread; a number if `numbers` may
    /// stand there, else text.
    pub(crate) fn scalar(&self, key: &'static str, numbers: bool) -> Option<ValueSource> {
        let value = self.written(key)?;
        match &value.kind {
            ValueKind::Table(reference) => self.referred(key, reference),
            ValueKind::I128(number) if numbers => Some(ValueSource::plain(number.to_string())),
            ValueKind::String(text) if text.is_empty() => {
                self.fault(key, "is empty; give it a value or leave it out");
                None
            }
            ValueKind::String(text) => Some(ValueSource::plain(text.clone())),
            ValueKind::Array(_) => {
                self.fault(key, "found a list, must be text");
                None
            }
            // Its digits are not repeated: it may be a password.
            _ => {
                self.fault(key, format!("found {}, must be text (put it in quotes)", kind(value)));
                None
            }
        }
    }

    /// `{file: ...}` or `{env: ...}`.
    fn referred(&self, key: &str, reference: &Map<String, Value>) -> Option<ValueSource> {
        let mut entries = reference.iter().map(|(name, value)| (name.as_str(), as_text(value)));
        match (entries.next(), entries.next()) {
            (Some(("file", Some(path))), None) if !path.is_empty() => Some(ValueSource::File(PathBuf::from(path))),
            (Some(("env", Some(name))), None) if !name.is_empty() => Some(ValueSource::Variable {
                name: name.to_owned(),
                value: self.context.environment.get(name).map(|value| Secret::new(value.to_owned())),
            }),
            _ => {
                self.fault(key, "found a mapping, must be a scalar, {file: PATH} or {env: NAME}");
                None
            }
        }
    }

    /// Whether the key is there, empty or not.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.asked.borrow_mut().insert(key);
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether a key is there, without making it a known one.
    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The mapping under a key; without the key a section without keys.
    pub(crate) fn section(&self, key: &'static str) -> Section<'a> {
        let table = self.written(key).and_then(|value| self.mapping(key, value));
        self.child(key, table, self.references)
    }

    /// The sections in this mapping by name.
    pub(crate) fn named(&self, references: References) -> Vec<(&'a str, Section<'a>)> {
        let entries = self.table.into_iter().flatten();
        entries
            .map(|(name, value)| {
                let table = self.mapping(name, value);
                (name.as_str(), self.child(name, table, references))
            })
            .collect()
    }

    /// A section that would be in this mapping if anything were set in it.
    pub(crate) fn unset(&self, name: &str) -> Section<'a> {
        self.child(name, None, References::Allowed)
    }

    /// The keys and values as they stand, for mappings whose keys are names of scalars.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let entries = self.table.into_iter().flatten();
        entries.map(|(key, value)| Entry { section: self, key, value: Cow::Borrowed(value) })
    }

    fn child(&self, key: &str, table: Option<&'a Map<String, Value>>, references: References) -> Section<'a> {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        Section { context: self.context, path, table, references, asked: RefCell::default() }
    }

    fn mapping(&self, key: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        match &value.kind {
            ValueKind::Table(table) => Some(table),
            _ => {
                self.fault(key, format!("found {}, must be a mapping of keys", kind(value)));
                None
            }
        }
    }

    /// Whether the section is a mapping that is there.
    pub(crate) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The section's path, as messages write it.
    pub(crate) fn path(&self) -> String {
        self.path.join(".")
    }

    /// Whether the section comes from the file or from variables, not from us.
    pub(crate) fn is_configured(&self) -> bool {
        self.place(&self.path) != Location::Whole
    }

    /// Notes a fault of a key, which need not be there.
    pub(crate) fn fault(&self, key: &str, message: impl Into<String>) {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        self.context.diagnostics.add(self.place(&path), path.join("."), message);
    }

    /// Notes a fault of the section itself.
    pub(crate) fn own_fault(&self, message: impl Into<String>) {
        self.context.diagnostics.add(self.place(&self.path), self.path.join("."), message);
    }

    /// Where the path stands, or the nearest of its parents that stands anywhere.
    fn place(&self, path: &[String]) -> Location {
        (1..=path.len())
            .rev()
            .find_map(|depth| self.context.tree.places.get(&path[..depth]).cloned())
            .unwrap_or(Location::Whole)
    }

    /// Whether a key's value is that of a variable, and so text whatever it stands for.
    pub(super) fn is_set_by_variable(&self, key: &str) -> bool {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        matches!(self.place(&path), Location::Variable(_))
    }

    /// Notes the keys that nobody asked for; the last thing done with a section.
    pub(crate) fn refuse_unknown_keys(&self) {
        let known = self.asked.borrow();
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            if !known.contains(key.as_str()) {
                self.fault(key, format!("unknown key; {}", suggestion(key, known.iter().copied())));
            }
        }
    }

    /// A duration within a range, or exactly zero where that has a meaning.
    pub(crate) fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
        zero: Option<&str>,
    ) -> Duration {
        let Some(entry) = self.entry(key) else { return default };
        let (low, high) = (duration::show(*range.start()), duration::show(*range.end()));
        let or_zero = zero.map(|meaning| format!("0s ({meaning}) or ")).unwrap_or_default();
        let right = format!("{or_zero}a duration from {low} to {high}, such as {}", duration::show(default));
        match as_text(&entry.value).and_then(|text| duration::parse(text.trim())) {
            Some(found) if range.contains(&found) || zero.is_some() && found.is_zero() => return found,
            None if entry.number().is_some() => entry.wrong(&format!("{right}; a bare number has no unit")),
            _ => entry.wrong(&right),
        }
        default
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, key: &'static str, default: bool) -> bool {
        let Some(entry) = self.entry(key) else { return default };
        match (&entry.value.kind, entry.lenient_text().as_deref()) {
            (ValueKind::Boolean(found), _) => *found,
            (_, Some("true")) => true,
            (_, Some("false")) => false,
            _ => {
                entry.wrong("true or false");
                default
            }
        }
    }

    /// A number that `accept` takes.
    pub(crate) fn number<T>(&self, key: &'static str, right: &str, accept: impl Fn(f64) -> Option<T>) -> Option<T> {
        let entry = self.entry(key)?;
        let accepted = entry.number().and_then(accept);
        if accepted.is_none() {
            entry.wrong(right);
        }
        accepted
    }

    /// A whole number within a range.
    pub(crate) fn whole<T>(&self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + Display + PartialOrd + Copy,
    {
        let entry = self.entry(key)?;
        let found = match entry.value.kind {
            ValueKind::I128(number) => Some(number),
            _ => entry.lenient_text().and_then(|text| text.parse().ok()),
        };
        let accepted = found.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if accepted.is_none() {
            entry.wrong(&format!("a whole number from {} to {}", range.start(), range.end()));
        }
        accepted
    }

    /// One of a closed set of words.
    pub(crate) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.entry(key)?.word(words)
    }

    /// Text, where the empty text says the same as leaving the key out.
    pub(crate) fn text_or_none(&self, key: &'static str) -> Option<String> {
        let entry = self.entry(key)?;
        if as_text(&entry.value) == Some("") { None } else { entry.filled_text() }
    }

    /// Text without NUL, of at least one character.
    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        self.entry(key)?.filled_text()
    }
}
