//! What may be asked: the configured queries, found by name or by approved text.
//!
//! Immutable and without I/O; a reload builds a new [`Registry`].

pub mod value;

use std::{collections::HashMap, sync::Arc};

pub use self::value::Value;
use crate::config::{Config, Query, is_metric_name, sql};

/// The configured queries, each as a `T`.
#[derive(Debug)]
pub struct Registry<T> {
    by_name: HashMap<String, T>,
    /// The name of each.
    by_text: HashMap<String, String>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), by_text: HashMap::new() }
    }
}

impl<T> Registry<T> {
    /// Indexes a configuration's queries by name. Of several with the same text, the first by name is found by it.
    pub fn new(config: &Config, of: impl Fn(&Arc<Query>) -> Option<T>) -> Self {
        let mut registry = Self::default();
        for (name, query) in &config.queries {
            let Some(entry) = of(query) else { continue };
            registry.by_name.insert(name.clone(), entry);
            registry.by_text.entry(sql::normalised(&query.sql)).or_insert_with(|| name.clone());
        }
        registry
    }

    /// Finds what a trigger's `query` means: a name, or SQL that the operator has configured.
    pub fn find(&self, name_or_text: &str) -> Option<&T> {
        if is_metric_name(name_or_text) {
            self.named(name_or_text)
        } else {
            self.named(self.by_text.get(&sql::normalised(name_or_text))?)
        }
    }

    /// The query of that name.
    pub fn named(&self, name: &str) -> Option<&T> {
        self.by_name.get(name)
    }

    /// All of them, in no order.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.by_name.values()
    }
}
