//! What is configured, ready to be asked: each query with its source, each database with its pool.
//!
//! Immutable; a reload makes a new one that keeps what has not changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{reader::PostgresReader, registry::Registry};
use crate::{
    cache::QuerySource, config::Config, conninfo::Connection, metrics::Metrics, postgres::Database,
    shutdown::Supervisor,
};

/// Queries and databases in force.
#[derive(Default)]
pub struct Catalog {
    sources: Registry<Arc<QuerySource>>,
    databases: BTreeMap<String, Arc<Database>>,
    connections: HashMap<String, Connection>,
}

impl Catalog {
    /// Makes the catalog of a configuration, with the sources and pools of `before` that it does not change.
    ///
    /// Must be called in a runtime. Nothing is connected.
    pub fn new(config: &Config, before: &Self, metrics: &Arc<Metrics>, supervisor: &Supervisor) -> Self {
        let databases: BTreeMap<String, Arc<Database>> = config
            .databases
            .iter()
            .map(|(name, settings)| {
                let kept = before.databases.get(name).filter(|database| database.settings() == settings);
                let database = kept
                    .map_or_else(|| Database::new(Arc::clone(settings), Arc::clone(metrics), supervisor), Arc::clone);
                (name.clone(), database)
            })
            .collect();
        let sources = Registry::new(config, |query| {
            let database = databases.get(&query.database)?;
            let is_kept = before.databases.get(&query.database).is_some_and(|old| Arc::ptr_eq(old, database));
            let kept = before.sources.named(&query.name).filter(|source| is_kept && source.query() == query);
            Some(kept.map_or_else(
                || QuerySource::new(Arc::new(PostgresReader::new(Arc::clone(query), Arc::clone(database)))),
                Arc::clone,
            ))
        });
        let connections = config
            .databases
            .iter()
            .filter_map(|(name, settings)| Some((name.clone(), settings.connection.resolve().ok()?)));
        Self { sources, connections: connections.collect(), databases }
    }

    /// The query that `name_or_text` means, if there is one and this namespace may use it: of several with the same text,
    /// the first by name that it may use.
    pub fn allowed(&self, name_or_text: &str, namespace: &str) -> Option<&Arc<QuerySource>> {
        self.sources.find(name_or_text).find(|source| source.query().namespaces.allow(namespace))
    }

    /// Every query's source.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<QuerySource>> {
        self.sources.all()
    }

    /// Every database by name.
    pub fn databases(&self) -> &BTreeMap<String, Arc<Database>> {
        &self.databases
    }

    /// How a database was to be reached when the catalog was made.
    pub fn connection(&self, database: &str) -> Option<&Connection> {
        self.connections.get(database)
    }
}
