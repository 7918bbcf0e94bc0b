//! Reads one mapping of the tree by its rows of the table, noting every fault on the way.
//!
//! A value that is missing or wrong comes back as `None`, and reading goes on: the faults that
//! were noted keep the result from being used. Right values are noted, too, for `clapometer config`.

use std::{borrow::Cow, cell::RefCell, path::PathBuf, str::FromStr, time::Duration};

use ::config::{Map, Value, ValueKind};
use serde_json::{Value as Json, json};

use super::{
    entry::{EMPTY, Entry, REDACTED, as_text, kind, shown_reference},
    key::{DefaultValue, Key, Kind, References, suggestion},
    site::{Context, Site},
};
use crate::{
    conninfo::{ValueSource, redacted_url},
    diagnostics::Location,
};

/// One mapping, its rows of the table, and where it stands.
pub(super) struct Section<'a> {
    site: Site<'a>,
    keys: &'static [Key],
    references: References,
    table: Option<&'a Map<String, Value>>,
    read: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// Returns the mapping of the whole file.
    pub(super) fn root(context: &'a Context<'a>, keys: &'static [Key]) -> Self {
        Self {
            site: Site::root(context),
            keys,
            references: References::Refused,
            table: Some(&context.tree.values),
            read: RefCell::default(),
        }
    }

    /// Returns the row of a key, which counts as read from then on.
    fn row(&self, name: &'static str) -> &'static Key {
        self.read.borrow_mut().push(name);
        self.keys
            .iter()
            .find(|key| key.name == name)
            .unwrap_or_else(|| panic!("{name} has no row in the table of keys"))
    }

    /// Returns the value under a key as it is written, and notes a fault if it is empty.
    fn written(&self, name: &str) -> Option<&'a Value> {
        let value = self.table?.get(name)?;
        if matches!(value.kind, ValueKind::Nil) {
            self.fault(name, EMPTY);
            return None;
        }
        Some(value)
    }

    /// Reads the value of a key, through its reference if it has one; else the default of its row.
    pub(super) fn entry(&self, name: &'static str) -> Option<Entry<'_>> {
        self.entry_or(name, None)
    }

    /// Reads the value of a key, through its reference if it has one; else `default`, else that of its row.
    pub(super) fn entry_or(&self, name: &'static str, default: Option<&str>) -> Option<Entry<'_>> {
        let key = self.row(name);
        if !self.has(name) {
            if let (DefaultValue::Required(what), true) = (key.default, self.is_present()) {
                self.fault(name, format!("is missing; give {what}"));
            }
            let default = default.map(|text| Value::new(None, ValueKind::String(text.to_owned())));
            let value = Cow::Owned(default.or_else(|| key.default_value())?);
            return Some(Entry { site: self.site.below(name), key, value, reference: None });
        }
        let value = self.written(name)?;
        let (value, reference) = match (&value.kind, self.references) {
            (ValueKind::Table(reference), References::Allowed) => {
                let reference = self.referred(name, reference)?;
                match reference.read() {
                    Ok(text) => (Cow::Owned(Value::new(None, ValueKind::String(text))), Some(reference)),
                    Err(message) if self.is_elsewhere() && !reference.is_there() => {
                        self.missing(name, message);
                        (Cow::Owned(key.default_value()?), None)
                    }
                    Err(message) => {
                        self.fault(name, message);
                        return None;
                    }
                }
            }
            _ => (Cow::Borrowed(value), None),
        };
        Some(Entry { site: self.site.below(name), key, value, reference })
    }

    /// Returns the scalar of a key without following its reference; it may be a number only if the key accepts ports.
    pub(super) fn scalar(&self, name: &'static str) -> Option<ValueSource> {
        let key = self.row(name);
        let value = self.written(name)?;
        let scalar = match &value.kind {
            ValueKind::Table(reference) => self.referred(name, reference)?,
            ValueKind::I128(number) if matches!(key.kind, Kind::Ports) => ValueSource::plain(number.to_string()),
            ValueKind::String(text) if text.is_empty() => {
                self.fault(name, EMPTY);
                return None;
            }
            ValueKind::String(text) => ValueSource::plain(text.clone()),
            ValueKind::Array(_) => {
                self.fault(name, "found a list, must be text");
                return None;
            }
            // Its digits are not repeated: it may be a password.
            _ => {
                self.fault(name, format!("found {}, must be text (put it in quotes)", kind(value)));
                return None;
            }
        };
        self.note_scalar(name, &scalar);
        Some(scalar)
    }

    /// Notes the value of a key that is not set, and counts its row as read.
    pub(super) fn note_default(&self, name: &'static str, shown: Json) {
        self.row(name);
        self.site.below(name).note(shown);
    }

    /// Notes a scalar in force for `clapometer config`.
    pub(super) fn note_scalar(&self, name: &str, scalar: &ValueSource) {
        let row = self.keys.iter().find(|key| key.name == name).map(|key| &key.kind);
        let shown = match (scalar, row) {
            (ValueSource::Plain(_), Some(Kind::Password)) => json!(REDACTED),
            (ValueSource::Plain(text), Some(Kind::Url)) => {
                json!(redacted_url(text.expose()).unwrap_or_else(|| REDACTED.to_owned()))
            }
            (ValueSource::Plain(text), Some(Kind::Ports)) => match text.expose().parse::<u16>() {
                Ok(port) => json!(port),
                Err(_) => json!(text.expose()),
            },
            (ValueSource::Plain(text), _) => json!(text.expose()),
            (reference, _) => shown_reference(reference),
        };
        self.site.below(name).note(shown);
    }

    /// Reads a reference, `{file: ...}` or `{env: ...}`.
    fn referred(&self, name: &str, reference: &Map<String, Value>) -> Option<ValueSource> {
        let mut entries = reference.iter().map(|(name, value)| (name.as_str(), as_text(value)));
        match (entries.next(), entries.next()) {
            (Some(("file", Some(path))), None) if !path.is_empty() => {
                self.site.note_file(PathBuf::from(path));
                Some(ValueSource::File(PathBuf::from(path)))
            }
            (Some(("env", Some(variable))), None) if !variable.is_empty() => {
                Some(ValueSource::Variable { name: variable.to_owned(), value: self.site.variable(variable) })
            }
            _ => {
                let is_of_pod = |name: &String| name == "valueFrom" || name.ends_with("KeyRef");
                let advice = match reference.keys().any(is_of_pod) {
                    true => "; only a pod has such references: set a variable there, and {env: NAME} here",
                    false => "",
                };
                self.fault(name, format!("found a mapping, must be a scalar, {{file: PATH}} or {{env: NAME}}{advice}"));
                None
            }
        }
    }

    /// Notes a fault if a key is set that must not be, because of another one.
    pub(super) fn refuse(&self, name: &'static str, message: impl Into<String>) {
        self.row(name);
        if self.has(name) {
            self.fault(name, message);
        }
    }

    /// Returns whether a key is set, empty or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(name))
    }

    /// Returns the mapping under a key; where the key is missing, a section without keys.
    pub(super) fn section(&self, name: &'static str) -> Section<'a> {
        let (keys, references) = match &self.row(name).kind {
            Kind::Mapping(keys) => (*keys, References::Refused),
            Kind::Named { keys, references, rules: _ } => (*keys, *references),
            Kind::Parameters(key) => (std::slice::from_ref(*key), References::Refused),
            _ => (&[][..], References::Refused),
        };
        let table = self.written(name).and_then(|value| self.mapping(name, value));
        self.child(name, keys, references, table)
    }

    /// Returns the sections in a mapping of [`Kind::Named`].
    pub(super) fn named(&self) -> Vec<(&'a str, Section<'a>)> {
        let child = |(name, value): (&'a String, &'a Value)| {
            let table = self.mapping(name, value);
            (name.as_str(), self.child(name, self.keys, self.references, table))
        };
        self.table.into_iter().flatten().map(child).collect()
    }

    /// Returns the section of a name that this mapping of [`Kind::Named`] does not have: nothing is set in it.
    pub(super) fn unset(&self, name: &str) -> Section<'a> {
        self.child(name, self.keys, self.references, None)
    }

    /// Returns the entries of a mapping of [`Kind::Parameters`], each with the row that describes them all.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let entries = self.table.into_iter().flatten().zip(self.keys.iter().cycle());
        entries.map(|((name, value), key)| Entry {
            site: self.site.below(name),
            key,
            value: Cow::Borrowed(value),
            reference: None,
        })
    }

    /// Returns the names in this mapping.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.table.into_iter().flat_map(|table| table.keys()).map(String::as_str)
    }

    fn child(
        &self,
        name: &str,
        keys: &'static [Key],
        references: References,
        table: Option<&'a Map<String, Value>>,
    ) -> Section<'a> {
        Section { site: self.site.below(name), keys, references, table, read: RefCell::default() }
    }

    fn mapping(&self, name: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        match &value.kind {
            ValueKind::Table(table) => Some(table),
            _ => {
                let advice = match &value.kind {
                    ValueKind::Array(_) => "; write `name: ...` for each, without a dash",
                    _ => "",
                };
                self.fault(name, format!("found {}, must be a mapping of keys{advice}", kind(value)));
                None
            }
        }
    }

    /// Returns whether the section exists and is a mapping.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Returns the section's path, as messages write it.
    pub(super) fn path(&self) -> String {
        self.site.path()
    }

    /// Returns whether the file or a variable has the section.
    pub(super) fn is_configured(&self) -> bool {
        self.site.location() != Location::Whole
    }

    /// Returns whether neither the file nor a variable sets anything in the section.
    pub(super) fn is_untouched(&self) -> bool {
        self.site.is_untouched()
    }

    /// Notes a fault of a key, which need not be there.
    pub(super) fn fault(&self, name: &str, message: impl Into<String>) {
        self.site.below(name).fault(message);
    }

    /// Notes that the file or variable of a key's reference is missing: a fault where the configuration is served, else
    /// a note.
    pub(super) fn missing(&self, name: &str, message: impl Into<String>) {
        self.site.below(name).missing(message);
    }

    /// Returns whether the configuration may be checked on another machine than the one that serves it.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.site.is_elsewhere()
    }

    /// Notes a fault of the section itself.
    pub(super) fn own_fault(&self, message: impl Into<String>) {
        self.site.fault(message);
    }

    /// Notes a comment for `clapometer config` in place of a key that is not set.
    pub(super) fn remark(&self, name: &str, remark: String) {
        self.site.below(name).remark(remark);
    }

    /// Notes a fault for each key without a row. Must be the last call on a section.
    pub(super) fn finish(&self) {
        let is_known = |name: &str| self.keys.iter().any(|key| key.name == name);
        for name in self.names().filter(|name| !is_known(name)) {
            self.fault(name, format!("unknown key; {}", suggestion(name, self.keys)));
        }
        if cfg!(debug_assertions) {
            let mut read = self.read.take();
            let mut known: Vec<&str> = self.keys.iter().map(|key| key.name).collect();
            read.sort_unstable();
            known.sort_unstable();
            assert_eq!(read, known, "every row of {} is read once", self.path());
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&self, name: &'static str) -> Option<bool> {
        self.entry(name)?.boolean()
    }

    /// Reads a duration in the range of its row.
    pub(super) fn duration(&self, name: &'static str) -> Option<Duration> {
        self.entry(name)?.duration()
    }

    /// Reads a number in the range of its row that `accept` takes.
    pub(super) fn number<T>(&self, name: &'static str, accept: impl Fn(f64) -> Option<T>) -> Option<T> {
        self.entry(name)?.number(accept)
    }

    /// Reads a whole number in the range of its row.
    pub(super) fn whole<T: TryFrom<u64>>(&self, name: &'static str) -> Option<T> {
        self.entry(name)?.whole()
    }

    /// Reads one of the words of its row.
    pub(super) fn word<T: Copy>(&self, name: &'static str, meanings: &[(&str, T)]) -> Option<T> {
        self.entry(name)?.word(meanings)
    }

    /// Reads a text and parses it.
    pub(super) fn parsed<T: FromStr + ToString>(&self, name: &'static str) -> Option<T> {
        self.entry(name)?.parsed()
    }

    /// Reads a text without NUL that is not blank; the name of a column is not longer than PostgreSQL takes.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        self.entry(name)?.filled_text()
    }

    /// Reads a text as [`Self::text`] does, but takes an empty one for an absent key.
    pub(super) fn text_or_none(&self, name: &'static str) -> Option<String> {
        let entry = self.entry(name)?;
        if as_text(&entry.value) == Some("") { None } else { entry.filled_text() }
    }

    /// Reads the texts of a list.
    pub(super) fn texts(&self, name: &'static str) -> Option<Vec<String>> {
        self.entry(name)?.texts()
    }
}
