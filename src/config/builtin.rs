//! The queries that exist without a configuration: those of the batch in this repository.

use ::config::{Map, Value, ValueKind};

use super::{
    BUILT_IN_QUERIES,
    source::{Path, Tree},
};
use crate::diagnostics::Location;

/// The database that the built-in queries prefer, and the one that libpq's environment names.
pub(crate) const DATABASE: &str = "claps";

/// The blog post's query word for word, with its `;`: it counts the rows without a claim.
const PENDING: &str =
    "SELECT COUNT(1) FROM make_it_clap LEFT JOIN clap ON make_it_clap.id = clap.id WHERE clap.status IS NULL;";

/// Counts the work that is left and the work that can start now, in one snapshot.
const OUTSTANDING: &str = "SELECT claimable + held AS outstanding, claimable, next_change\nFROM clap_backlog";

/// Counts the work that is left. It has no `claimable`, so that a trigger which gives its text means this query
/// and not the one above: a ScaledJob that got this one would start idle Jobs for an orphaned row.
const WORKERS: &str = "SELECT claimable + held AS outstanding, next_change\nFROM clap_backlog";

/// Each query's name and keys.
const QUERIES: [(&str, &[(&str, &str)]); 3] = [
    ("pending-claps", &[("sql", PENDING)]),
    (
        // For a ScaledJob: active only while a new Job would find something to claim.
        "outstanding-claps",
        &[
            ("sql", OUTSTANDING),
            ("value_column", "outstanding"),
            ("activity_column", "claimable"),
            ("next_change", "next_change"),
        ],
    ),
    (
        // For a ScaledObject: active while anything runs, or KEDA scales working replicas to zero.
        "clap-workers",
        &[
            ("sql", WORKERS),
            ("value_column", "outstanding"),
            ("activity_column", "outstanding"),
            ("next_change", "next_change"),
        ],
    ),
];

/// Returns whether this is the name of a built-in query.
pub(crate) fn is_builtin(name: &str) -> bool {
    QUERIES.iter().any(|(builtin, _)| *builtin == name)
}

/// Returns whether a tree leaves the built-in queries out.
pub(crate) fn is_off(tree: &Tree) -> bool {
    tree.values.get(BUILT_IN_QUERIES).is_some_and(|value| value.clone().into_bool().is_ok_and(|is_on| !is_on))
}

/// The built-in queries that `file` does not define, as a tree to put below it.
pub(crate) fn tree(file: &Tree) -> Tree {
    let mut queries = Map::new();
    let mut places = std::collections::HashMap::new();
    for (name, keys) in QUERIES {
        let path: Path = vec!["queries".to_owned(), name.to_owned()];
        if file.places.contains_key(&path) {
            continue;
        }
        places.insert(path, Location::Whole);
        let keys =
            keys.iter().map(|(key, text)| ((*key).to_owned(), Value::new(None, ValueKind::String((*text).to_owned()))));
        queries.insert(name.to_owned(), Value::new(None, ValueKind::Table(keys.collect())));
    }
    let values = Map::from_iter([("queries".to_owned(), Value::new(None, ValueKind::Table(queries)))]);
    Tree { values, places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::sql;

    #[test]
    fn no_two_queries_have_the_same_text() {
        let texts = QUERIES.map(|(name, keys)| {
            let (_, text) = keys.iter().find(|(key, _)| *key == "sql").expect("each has a statement");
            (sql::normalised(text), name)
        });
        let distinct: std::collections::HashMap<_, _> = texts.clone().into_iter().collect();
        assert_eq!(distinct.len(), texts.len(), "{texts:?}");
    }
}
