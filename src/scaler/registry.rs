//! Finds the configured queries by name or by approved text.
//!
//! Immutable and without I/O; a reload builds a new [`Registry`].

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::Config,
    query::{Query, is_metric_name, sql},
};

/// The configured queries, each as a `T`.
#[derive(Debug)]
pub(super) struct Registry<T> {
    by_name: HashMap<String, T>,
    /// For each text, the names of its queries, in order.
    by_text: HashMap<String, Vec<String>>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), by_text: HashMap::new() }
    }
}

impl<T> Registry<T> {
    /// Indexes the queries of a configuration by name and by text.
    pub(super) fn new(config: &Config, entry_of: impl Fn(&Arc<Query>) -> Option<T>) -> Self {
        let mut registry = Self::default();
        for query in config.queries_in_order() {
            let Some(entry) = entry_of(query) else { continue };
            registry.by_name.insert(query.name.clone(), entry);
            registry.by_text.entry(sql::normalised(&query.sql)).or_default().push(query.name.clone());
        }
        registry
    }

    /// Finds the queries that a trigger's `query` can mean: the one of this name, or those with this SQL text. Several
    /// queries may have the same text, for other databases or namespaces; they come in the order of
    /// [`Config::queries_in_order`], so that a query file takes no trigger away from the main file.
    pub(super) fn find<'a>(&'a self, name_or_text: &str) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let (named, names) = match is_metric_name(name_or_text) {
            true => (self.named(name_or_text), None),
            false => (None, self.by_text.get(&sql::normalised(name_or_text))),
        };
        named.into_iter().chain(names.into_iter().flatten().filter_map(|name| self.named(name)))
    }

    /// Returns the query of this name.
    pub(super) fn named(&self, name: &str) -> Option<&T> {
        self.by_name.get(name)
    }

    /// Returns all queries, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.by_name.values()
    }
}
