//! What may be asked: the configured queries, found by name or by approved text.
//!
//! Immutable and without I/O; a reload builds a new [`Registry`].

pub mod value;

use std::{collections::HashMap, sync::Arc};

pub use self::value::Value;
use crate::config::{Config, Query, is_metric_name, sql};

/// The configured queries.
#[derive(Debug, Default)]
pub struct Registry {
    by_name: HashMap<String, Arc<Query>>,
    by_text: HashMap<String, Arc<Query>>,
}

impl Registry {
    /// Indexes a configuration's queries. Of several with the same text, the first by name is found by it.
    pub fn new(config: &Config) -> Self {
        let by_name = config.queries.iter().map(|(name, query)| (name.clone(), Arc::clone(query))).collect();
        let mut by_text = HashMap::new();
        for query in config.queries.values() {
            by_text.entry(sql::normalised(&query.sql)).or_insert_with(|| Arc::clone(query));
        }
        Self { by_name, by_text }
    }

    /// Finds what a trigger's `query` means: a name, or SQL that the operator has configured.
    pub fn find(&self, name_or_text: &str) -> Option<&Arc<Query>> {
        if is_metric_name(name_or_text) {
            self.by_name.get(name_or_text)
        } else {
            self.by_text.get(&sql::normalised(name_or_text))
        }
    }
}
