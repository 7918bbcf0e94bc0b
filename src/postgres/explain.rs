//! Reads the answer of `EXPLAIN (FORMAT JSON)`.

use std::error::Error as StdError;

use serde_json::Value as Json;
use tokio_postgres::types::{FromSql, Type};

/// A plan as the server describes it: one column of type json.
///
/// The driver reads that type only with a feature that would bring a second JSON library's worth of conversions.
#[derive(Debug)]
pub(crate) struct Explained(Json);

impl Explained {
    /// Returns the node at the top.
    pub(crate) fn root(&self) -> Option<&Json> {
        self.0.get(0)?.get("Plan")
    }

    /// Returns every node, each before those below it, sub-plans included.
    pub(crate) fn nodes(&self) -> Vec<&Json> {
        let mut nodes = Vec::new();
        let mut pending: Vec<&Json> = self.root().into_iter().collect();
        while let Some(node) = pending.pop() {
            nodes.push(node);
            pending.extend(node.get("Plans").and_then(Json::as_array).into_iter().flatten().rev());
        }
        nodes
    }
}

/// Returns a text field of a node.
pub(crate) fn text<'a>(node: &'a Json, key: &str) -> Option<&'a str> {
    node.get(key).and_then(Json::as_str)
}

/// Returns all texts of a plan, a line each.
pub(super) fn expressions(plan: &Explained) -> String {
    let mut texts = String::new();
    for value in plan.nodes().into_iter().filter_map(Json::as_object).flat_map(|node| node.values()) {
        let listed = value.as_array().into_iter().flatten();
        for text in listed.chain([value]).filter_map(Json::as_str) {
            texts.push_str(text);
            texts.push('\n');
        }
    }
    texts
}

impl<'a> FromSql<'a> for Explained {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw)?))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }
}

#[cfg(test)]
impl From<Json> for Explained {
    fn from(document: Json) -> Self {
        Self(document)
    }
}
