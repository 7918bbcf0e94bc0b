//! The catalog of queries and databases: each query with its source, each database with its pool.
//!
//! Immutable. A reload makes a new catalog, which takes over whatever has not changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{reader::PostgresReader, registry::Registry};
use crate::{
    cache::{QueryReader, QuerySource},
    config::Config,
    conninfo::Connection,
    metrics::Metrics,
    postgres::Database,
    shutdown::Supervisor,
};

/// The queries and databases in force.
#[derive(Default)]
pub struct Catalog {
    sources: Registry<Arc<QuerySource>>,
    databases: BTreeMap<String, Arc<Database>>,
    connections: HashMap<String, Connection>,
}

impl Catalog {
    /// Makes the catalog of a configuration. Sources and pools of `before` that have not changed are taken over.
    ///
    /// Must be called in a runtime. New databases are connected in the background.
    pub fn new(config: &Config, before: &Self, metrics: &Arc<Metrics>, supervisor: &Supervisor) -> Self {
        let databases: BTreeMap<String, Arc<Database>> = config
            .databases
            .iter()
            .map(|(name, settings)| {
                let kept = before.databases.get(name).filter(|database| database.settings() == settings);
                let connected = || {
                    let database = Database::new(Arc::clone(settings), Arc::clone(metrics), supervisor);
                    database.connect_early();
                    database
                };
                let database = kept.map_or_else(connected, Arc::clone);
                (name.clone(), database)
            })
            .collect();
        let sources = Registry::new(config, |query| {
            let asked: Vec<&Arc<Database>> =
                query.databases.iter().map(|name| databases.get(name)).collect::<Option<_>>()?;
            let is_old = |database: &Arc<Database>| {
                before.databases.get(&database.settings().name).is_some_and(|old| Arc::ptr_eq(old, database))
            };
            let is_kept = asked.iter().all(|database| is_old(database));
            let known = before.sources.named(&query.name);
            let kept = known.filter(|source| is_kept && source.query() == query);
            Some(kept.map_or_else(
                || {
                    let reader = |database: &Arc<Database>| -> Arc<dyn QueryReader> {
                        Arc::new(PostgresReader::new(Arc::clone(query), Arc::clone(database)))
                    };
                    let source = QuerySource::new(Arc::clone(query), asked.into_iter().map(reader).collect());
                    source.show_at_zero(metrics);
                    known.into_iter().for_each(|before| source.follow(before));
                    source
                },
                Arc::clone,
            ))
        });
        let connections =
            config.databases.iter().map(|(name, settings)| (name.clone(), settings.connection.as_loaded().clone()));
        Self { sources, connections: connections.collect(), databases }
    }

    /// Finds the query of this name or text, if this namespace may use it. Of several queries with the same text it is
    /// the first by name that the namespace may use.
    pub fn allowed(&self, name_or_text: &str, namespace: &str) -> Option<&Arc<QuerySource>> {
        self.sources.find(name_or_text).find(|source| source.query().namespaces.allow(namespace))
    }

    /// Returns the source of every query.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<QuerySource>> {
        self.sources.all()
    }

    /// Returns every database, by name.
    pub fn databases(&self) -> &BTreeMap<String, Arc<Database>> {
        &self.databases
    }

    /// Returns the connection parameters of a database as they were when the configuration was loaded.
    pub fn connection(&self, database: &str) -> Option<&Connection> {
        self.connections.get(database)
    }
}
