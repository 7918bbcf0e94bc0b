//! Reads the answer of `EXPLAIN (FORMAT JSON)`.

use std::{collections::BTreeSet, error::Error as StdError};

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

/// The texts of a node that name what it reads.
const NAMES: [&str; 3] = ["Relation Name", "Alias", "Index Name"];

/// Returns the other texts of a plan, a line each, and each once. The number of an alias is left out of them, so that a
/// thousand partitions of a table, which PostgreSQL numbers, have the same texts.
pub(super) fn expressions(plan: &Explained) -> String {
    let mut texts = BTreeSet::new();
    for node in plan.nodes() {
        let alias = text(node, "Alias").unwrap_or_default();
        for (_, value) in node.as_object().into_iter().flatten().filter(|(key, _)| !NAMES.contains(&key.as_str())) {
            let listed = value.as_array().into_iter().flatten();
            texts.extend(listed.chain([value]).filter_map(Json::as_str).map(|text| unnumbered(text, alias)));
        }
    }
    texts.into_iter().collect::<Vec<_>>().join("\n")
}

/// Returns a text in which an alias such as `job_17` before a column is `job`.
fn unnumbered(text: &str, alias: &str) -> String {
    let is_number = |end: &str| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit());
    let Some((name, _)) = alias.rsplit_once('_').filter(|(_, end)| is_number(end)) else { return text.to_owned() };
    let numbered = format!("{alias}.");
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&numbered) {
        shown.push_str(before);
        let is_end_of_a_name = shown.ends_with(|c: char| c.is_alphanumeric() || "_.\"".contains(c));
        shown.push_str(if is_end_of_a_name { alias } else { name });
        shown.push('.');
        rest = after;
    }
    shown + rest
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn partitions_have_the_same_texts() {
        let scan = |alias: &str| {
            let filter = format!("(({alias}.due <= now()) AND (a{alias}.id = s.id))");
            json!({"Node Type": "Seq Scan", "Alias": alias, "Filter": filter})
        };
        let plan = json!([{"Plan": {"Node Type": "Append", "Plans": [scan("job_1"), scan("job_22"), scan("x")]}}]);
        let expected = "((job.due <= now()) AND (ajob_1.id = s.id))\n((job.due <= now()) AND (ajob_22.id = s.id))\n\
                        ((x.due <= now()) AND (ax.id = s.id))\nAppend\nSeq Scan";
        assert_eq!(expressions(&plan.into()), expected);
    }
}
