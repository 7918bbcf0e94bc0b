//! Reads YAML into a [`Tree`]: every key with its line, every key that stands twice with both.

use std::fmt;

use ::config::{Map, Value, ValueKind};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};

use super::source::{Path, Tree};
use crate::diagnostics::{Diagnostics, Location};

/// Reads YAML text; notes what is no YAML, and keys that stand twice.
pub(crate) fn tree(text: &str, diagnostics: &Diagnostics) -> Tree {
    let mut tree = Tree::default();
    match serde_saphyr::from_str_with_options::<Spanned<Yaml>>(text, yaml_options()) {
        Ok(Spanned { value: Yaml::Mapping(entries), .. }) => {
            tree.values = tree.table(entries, &Path::new(), diagnostics);
        }
        Ok(Spanned { value: Yaml::Null, .. }) => {
            diagnostics.add(
                Location::Whole,
                "",
                "the file is empty; it needs at least one of server, admin, databases, queries",
            );
        }
        Ok(other) => {
            let place = Location::Line(other.referenced.line());
            diagnostics.add(place, "", format!("found {}, must be a mapping of keys", other.value.kind()));
        }
        Err(error) => {
            let place = error.location().map_or(Location::Whole, |location| Location::Line(location.line()));
            diagnostics.add(place, "", format!("not valid YAML: {}", described(&error)));
        }
    }
    tree
}

/// YAML 1.2's own types: `yes` is text and so is `1_000`. Keys that stand twice come through, so
/// that all of them are reported at once.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // Far more than sharing a few settings takes, and read in milliseconds.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// The parser's words, less what it quotes of the file: that may be a secret.
fn described(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::UnknownAnchor { .. } => {
            "an alias (*name) without its anchor; put text that starts with * in quotes".into()
        }
        Error::UnsupportedTag { .. } => "an unknown tag (!name); put text that starts with ! in quotes".into(),
        Error::MultipleDocuments { .. } => "several documents; there must be one".into(),
        Error::Unexpected { .. } | Error::NullIntoString { .. } => {
            "a key that is no text (a template such as {{ ... }} that nobody has rendered, perhaps)".into()
        }
        Error::QuotingRequired { .. } | Error::InvalidScalar { .. } | Error::NonFiniteFloat { .. } => {
            "a value that cannot be read; put it in quotes".into()
        }
        other => {
            let words = other.to_string();
            let words = words.lines().next().and_then(|line| line.split(" at line ").next()).unwrap_or_default();
            match words.contains("unexpected character") {
                true => "a character that cannot stand there; put the text in quotes".into(),
                false => words.to_owned(),
            }
        }
    }
}

impl Tree {
    fn table(
        &mut self,
        entries: Vec<(Spanned<String>, Spanned<Yaml>)>,
        path: &Path,
        diagnostics: &Diagnostics,
    ) -> Map<String, Value> {
        let mut table = Map::new();
        for (key, node) in entries {
            let mut path = path.clone();
            path.push(key.value.clone());
            let line = key.referenced.line().max(1);
            if let Some(Location::Line(first)) = self.places.get(&path) {
                let message = format!("stands twice; the first is on line {first}");
                diagnostics.add(Location::Line(line), path.join("."), message);
                continue;
            }
            self.places.insert(path.clone(), Location::Line(line));
            let value = self.value(node.value, &path, diagnostics);
            table.insert(key.value, value);
        }
        table
    }

    fn value(&mut self, node: Yaml, path: &Path, diagnostics: &Diagnostics) -> Value {
        let kind = match node {
            Yaml::Null => ValueKind::Nil,
            Yaml::Boolean(value) => ValueKind::Boolean(value),
            Yaml::Integer(value) => ValueKind::I128(value),
            Yaml::Float(value) => ValueKind::Float(value),
            Yaml::Text(value) => ValueKind::String(value),
            Yaml::Sequence(nodes) => {
                let mut list = Vec::with_capacity(nodes.len());
                for (index, node) in nodes.into_iter().enumerate() {
                    let mut path = path.clone();
                    path.push(index.to_string());
                    self.places.insert(path.clone(), Location::Line(node.referenced.line()));
                    list.push(self.value(node.value, &path, diagnostics));
                }
                ValueKind::Array(list)
            }
            Yaml::Mapping(entries) => ValueKind::Table(self.table(entries, path, diagnostics)),
        };
        Value::new(None, kind)
    }
}

/// Any YAML, with the place of every key.
enum Yaml {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Sequence(Vec<Spanned<Yaml>>),
    Mapping(Vec<(Spanned<String>, Spanned<Yaml>)>),
}

impl Yaml {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Boolean(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyYaml)
    }
}

struct AnyYaml;

impl<'de> Visitor<'de> for AnyYaml {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(Yaml::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Yaml, E> {
        Ok(Yaml::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut nodes: A) -> Result<Yaml, A::Error> {
        let mut sequence = Vec::new();
        while let Some(node) = nodes.next_element()? {
            sequence.push(node);
        }
        Ok(Yaml::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Yaml::Mapping(mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_keys_also_behind_aliases() {
        let diagnostics = Diagnostics::default();
        let read = tree("a: &shared\n  b: |\n    text\n  c: 1\nd:\n  <<: *shared\n  e: 2\n", &diagnostics);
        let line =
            |path: &[&str]| read.places.get(&path.iter().map(|key| (*key).to_owned()).collect::<Path>()).cloned();
        assert_eq!(line(&["a", "c"]), Some(Location::Line(4)));
        assert_eq!(line(&["d", "e"]), Some(Location::Line(7)));
        assert!(line(&["d", "c"]).is_some());
        assert!(diagnostics.is_empty());
    }

    #[test]
    fn what_is_no_yaml_is_told_without_being_quoted() {
        for bad in [
            "a: \"hunter2\n",
            "a: @hunter2\n",
            "a: %hunter2\n",
            "a: `hunter2`\n",
            "a: *hunter2\n",
            "a: !hunter2 x\n",
            "a: hunter2: c\n",
            "a: 'x' hunter2\n",
            "a: |hunter2\n",
            "a: &x {b: *x, hunter2: 1}\n",
            "a: \"hunter2\\q\"\n",
            "a: {{ hunter2 }}\n",
            "a: [hunter2\n",
            "- hunter2\nb: 1\n",
            "? [hunter2]\n: 1\n",
            "null: hunter2\n",
            "a: !!int hunter2\n",
            "a: !!float hunter2\n",
            "a: !!bool hunter2\n",
            "a: !!binary hunter2%\n",
            "a: hunter2\n---\nb: 1\n",
            "a: hunter2 # \u{1}\n",
        ] {
            let diagnostics = Diagnostics::default();
            tree(bad, &diagnostics);
            let message = diagnostics.into_error(None).to_string();
            assert!(!message.is_empty() && !message.contains("hunter2"), "{bad}: {message}");
        }
    }

    #[test]
    fn a_flood_of_aliases_or_nesting_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x]\n");
        for level in 1..40 {
            let below = level - 1;
            bomb.push_str(&format!("a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}]\n"));
        }
        for hostile in
            [bomb, format!("a: {}", "[".repeat(100_000)), format!("a: {}x{}", "[".repeat(5_000), "]".repeat(5_000))]
        {
            let diagnostics = Diagnostics::default();
            tree(&hostile, &diagnostics);
            assert!(!diagnostics.is_empty());
        }
    }
}
