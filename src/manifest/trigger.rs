//! A trigger of a ScaledJob or a ScaledObject.

use super::node::{Node, Value};

/// A trigger, as it is written.
#[derive(Debug, Clone, Copy)]
pub struct Trigger<'a> {
    /// All of it.
    pub node: &'a Node,
}

impl<'a> Trigger<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self { node }
    }

    /// Returns its type; empty if it has none.
    pub fn kind(&self) -> &'a str {
        self.node.text_at(&["type"]).unwrap_or_default()
    }

    /// Returns whether KEDA asks a server over gRPC for it.
    pub fn is_external(&self) -> bool {
        matches!(self.kind(), "external" | "external-push")
    }

    /// Returns its name, if it has one.
    pub fn name(&self) -> Option<&'a str> {
        self.node.text_at(&["name"]).filter(|name| !name.is_empty())
    }

    /// Returns a key of its metadata.
    pub fn metadata(&self, key: &str) -> Option<&'a Node> {
        self.node.get("metadata")?.get(key)
    }

    /// Returns a key of its metadata as text, as KEDA gets it; numbers and booleans never reach KEDA, but are shown.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.metadata(key)?.text().map(str::trim)
    }

    /// Returns a number of its metadata, whether it is quoted or not.
    pub fn number(&self, key: &str) -> Option<f64> {
        match &self.metadata(key)?.value {
            Value::Text(text) => text.trim().parse().ok(),
            Value::Integer(value) => value.to_string().parse().ok(),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the pairs of its metadata that are text.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str, &'a Node)> {
        let entries = self.node.get("metadata").map_or(&[][..], Node::entries);
        entries.iter().filter_map(|(key, node)| node.text().map(|text| (key.as_str(), text, node)))
    }

    /// Returns the line of a key of its metadata, or of the trigger if it is missing.
    pub fn line(&self, key: &str) -> usize {
        self.metadata(key).map_or(self.node.line, |node| node.line)
    }
}
