//! A value of a manifest, with its place in the file.

use std::ops::Range;

use serde_saphyr::{Location, Spanned};

use crate::yaml::Yaml;

/// A value, with the line of its key, or of the item that it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The line, counted from 1.
    pub line: usize,
    /// The bytes of its key in the file; empty for an item of a list.
    pub key: Range<usize>,
    /// The bytes of the value in the file: all of a scalar, with its quotes, and of an alias. Of a list and a mapping
    /// only the bracket that opens it, and nothing if no bracket does.
    pub span: Range<usize>,
    /// The value that stands there.
    pub value: Value,
}

/// The content of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i128),
    /// A number that is written with a fraction, which may be zero, or with an exponent.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys with their values, in their order; a key that stands twice is there twice.
    Mapping(Vec<(String, Node)>),
}

impl Node {
    /// Takes over the tree of a document that begins there in the file.
    pub(super) fn of(root: Spanned<Yaml>, start: Start<'_>) -> Self {
        let span = start.span(&root.referenced);
        Self {
            line: start.line(&root.referenced),
            key: span.start..span.start,
            span,
            value: Value::of(root.value, start),
        }
    }

    /// Returns the value of a key; the last one if it stands several times.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Mapping(entries) = &self.value else { return None };
        entries.iter().rev().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Returns what stands under a path of keys.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Returns the text under a path of keys.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path)?.text()
    }

    /// Returns the text that this is.
    pub fn text(&self) -> Option<&str> {
        let Value::Text(text) = &self.value else { return None };
        Some(text)
    }

    /// Returns the whole number that this is. `10.0` is one: what turns YAML into JSON for the API server writes 10.
    pub fn integer(&self) -> Option<i64> {
        match &self.value {
            Value::Integer(integer) => i64::try_from(*integer).ok(),
            // Its text has no fraction if the number has none.
            Value::Float(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    /// Returns the items of a list; none for anything else.
    pub fn items(&self) -> &[Self] {
        let Value::Sequence(items) = &self.value else { return &[] };
        items
    }

    /// Returns the keys with their values; none for anything else.
    pub fn entries(&self) -> &[(String, Self)] {
        let Value::Mapping(entries) = &self.value else { return &[] };
        entries
    }

    /// Returns whether there is nothing, as with a key without a value.
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }
}

impl Value {
    fn of(yaml: Yaml, start: Start<'_>) -> Self {
        match yaml {
            Yaml::Null => Self::Null,
            Yaml::Boolean(value) => Self::Boolean(value),
            Yaml::Integer(value) => Self::Integer(value),
            Yaml::Float(value) => Self::Float(value),
            Yaml::Text(value) => Self::Text(value),
            Yaml::Sequence(items) => Self::Sequence(items.into_iter().map(|item| Node::of(item, start)).collect()),
            Yaml::Mapping(entries) => Self::Mapping(
                entries
                    .into_iter()
                    .map(|(key, node)| {
                        let place = key.referenced;
                        let mut node = Node::of(node, start);
                        node.line = start.line(&place);
                        node.key = start.span(&place);
                        (key.value, node)
                    })
                    .collect(),
            ),
        }
    }
}

/// The place in a file at which a document begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start<'a> {
    /// The number of lines before it.
    pub(super) lines: usize,
    /// The number of bytes before it.
    pub(super) bytes: usize,
    /// The bytes of the document at which its lines end, as `breaks` returns them.
    pub(super) breaks: &'a [usize],
}

/// Returns the bytes at which the lines of a text end.
pub(super) fn breaks(text: &str) -> Vec<usize> {
    text.match_indices('\n').map(|(at, _)| at).collect()
}

impl Start<'_> {
    /// Returns the line of the file at which something stands.
    ///
    /// For YAML a carriage return alone ends a line, too; for editors, Git and annotations it does not, so the parser's
    /// lines are not those of the file.
    pub(super) fn line(self, location: &Location) -> usize {
        let at = offset(location.span().byte_offset());
        self.lines + self.breaks.partition_point(|end| *end < at) + 1
    }

    fn span(self, location: &Location) -> Range<usize> {
        let begin = self.bytes + offset(location.span().byte_offset());
        begin..begin + offset(location.span().byte_len())
    }
}

fn offset(number: Option<u64>) -> usize {
    number.and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
}
