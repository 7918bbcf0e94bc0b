//! The findings of a check, as the JSON document has them.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use super::{excerpt::Excerpt, tls::TlsReport, warning::Warning};
use crate::{
    command::count_cap,
    config::{Config, Database},
    conninfo::Connection,
    diagnostics::Misconfiguration,
    fault::{Fault, Kind},
    json::number,
    query::Query,
    reading::{Numbers, Reading},
    scaling::{self, Rounding},
};

/// The whole report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The faults of query files. Everything else was checked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) faults: Vec<serde_json::Value>,
    /// With `--offline`: files and variables that the configuration refers to and that are missing here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<serde_json::Value>,
    /// TLS towards KEDA, if it is configured.
    pub(super) serving: Option<TlsReport>,
    pub(super) databases: Vec<DatabaseReport>,
    /// The queries with several databases. The entries of the databases have the numbers of one database each.
    pub(super) sums: Vec<SumReport>,
}

/// A query over several databases.
#[derive(Debug, Serialize)]
pub(super) struct SumReport {
    pub(super) name: String,
    pub(super) databases: Vec<String>,
    #[serde(flatten)]
    pub(super) outcome: QueryOutcome,
}

/// One database with its queries.
#[derive(Debug, Serialize)]
pub(super) struct DatabaseReport {
    pub(super) name: String,
    /// The database's place in the configuration; absent if that cannot be read.
    pub(super) target: Option<DatabaseTarget>,
    #[serde(flatten)]
    pub(super) state: ConnectionState,
    pub(super) warnings: Vec<Warning>,
    pub(super) queries: Vec<QueryReport>,
}

/// The place of a database.
#[derive(Debug, Serialize)]
pub(super) struct DatabaseTarget {
    pub(super) addresses: Vec<String>,
    pub(super) dbname: String,
    pub(super) user: String,
    pub(super) sslmode: &'static str,
}

/// The outcome of connecting.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum ConnectionState {
    /// `enabled: false`.
    Disabled,
    /// `check --offline` connects to nothing.
    NotConnected,
    Unavailable(Problem),
    Reached(ServerInfo),
}

/// Facts that the server reports about itself.
#[derive(Debug, Serialize)]
pub(super) struct ServerInfo {
    pub(super) version: String,
    pub(super) address: Option<String>,
    pub(super) is_standby: bool,
    pub(super) is_read_only: bool,
    pub(super) role: String,
    pub(super) privileges: Vec<&'static str>,
    pub(super) tls: Option<String>,
    pub(super) search_path: String,
}

/// A failure, with the advice for it.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// The reason as the scaler's metrics name it.
    pub(super) reason: &'static str,
    #[serde(skip)]
    pub(super) fault: Fault,
    pub(super) message: String,
    pub(super) further: Vec<String>,
    pub(super) excerpt: Option<Excerpt>,
    pub(super) advice: String,
}

/// The author of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    BuiltIn,
    Configured,
}

/// One query.
#[derive(Debug, Serialize)]
pub(super) struct QueryReport {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) outcome: QueryOutcome,
    pub(super) warnings: Vec<Warning>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) took: Option<Duration>,
    pub(super) plan: Option<PlanReport>,
    /// The answer as the database gave it, for the sum over several.
    #[serde(skip)]
    pub(super) reading: Option<Arc<Reading>>,
}

/// The outcome of a query.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum QueryOutcome {
    Answered(QueryAnswer),
    /// A grouped query: the number of its keys, and the first few.
    Grouped {
        keys: usize,
        first: Vec<(String, QueryAnswer)>,
    },
    /// It needs these parameters.
    Skipped {
        missing: Vec<String>,
    },
    /// A built-in query without its tables, which may be intended.
    Absent(Problem),
    Failed(Problem),
    /// Its database could not be asked; of a sum, one of its databases gave no number.
    NotAsked,
}

/// The answer that KEDA would get.
#[derive(Debug, Clone, Serialize)]
pub(super) struct QueryAnswer {
    #[serde(serialize_with = "number")]
    pub(super) value: f64,
    /// The number that the query returned.
    #[serde(serialize_with = "number")]
    pub(super) undivided: f64,
    #[serde(serialize_with = "number")]
    pub(super) divide_by: f64,
    pub(super) rounding: &'static str,
    /// The number that is compared with the activation threshold.
    #[serde(serialize_with = "number")]
    pub(super) activity: f64,
    #[serde(serialize_with = "number")]
    pub(super) activation: f64,
    pub(super) active: bool,
    /// The count has reached a limit of its own; there may be more.
    pub(super) at_least: bool,
}

/// The server's plan for a query.
#[derive(Debug, Serialize)]
pub(super) struct PlanReport {
    #[serde(serialize_with = "number")]
    pub(super) cost: f64,
    #[serde(serialize_with = "number")]
    pub(super) rows: f64,
    pub(super) relations: Vec<String>,
}

impl Report {
    /// A report that begins with the faults of query files.
    pub(super) fn new(config: &Config, serving: Option<TlsReport>, databases: Vec<DatabaseReport>) -> Self {
        let of_file = |faults: &Misconfiguration| faults.json()["faults"].as_array().cloned().unwrap_or_default();
        Self {
            faults: config.query_files.faults().iter().flat_map(of_file).collect(),
            notes: config.notes.iter().flat_map(of_file).collect(),
            serving,
            databases,
            sums: Vec::new(),
        }
    }

    fn outcomes(&self) -> impl Iterator<Item = &QueryOutcome> {
        self.databases.iter().flat_map(|database| &database.queries).map(|query| &query.outcome)
    }

    /// Counts the queries with such an outcome.
    pub(super) fn count(&self, wanted: impl Fn(&QueryOutcome) -> bool) -> usize {
        self.outcomes().filter(|outcome| wanted(outcome)).count()
    }

    /// Counts the databases that could not be reached.
    pub(super) fn unavailable(&self) -> usize {
        self.databases.iter().filter(|database| matches!(database.state, ConnectionState::Unavailable(_))).count()
    }

    /// Returns whether a database could not be reached, or was lost during a query.
    pub(super) fn has_unavailable(&self) -> bool {
        let is_lost = |outcome: &QueryOutcome| match outcome {
            QueryOutcome::Failed(problem) => problem.fault.kind() == Kind::Unavailable,
            _ => false,
        };
        self.unavailable() > 0 || self.outcomes().any(is_lost)
    }

    /// Returns whether a query has failed, or cannot be added up.
    pub(super) fn has_failed(&self) -> bool {
        let sums = self.sums.iter().map(|sum| &sum.outcome);
        self.outcomes().chain(sums).any(|outcome| matches!(outcome, QueryOutcome::Failed(_)))
    }

    /// Counts the warnings.
    pub(super) fn warnings(&self) -> usize {
        let of_database = |database: &DatabaseReport| {
            database.warnings.len() + database.queries.iter().map(|query| query.warnings.len()).sum::<usize>()
        };
        self.serving.as_ref().map_or(0, |serving| serving.warnings.len())
            + self.databases.iter().map(of_database).sum::<usize>()
    }
}

impl DatabaseReport {
    /// A database whose place is not known here, with its queries.
    pub(super) fn unknown(name: &str, config: &Config) -> Self {
        let queries = config.queries.values().filter(|query| query.databases.iter().any(|database| database == name));
        Self {
            name: name.to_owned(),
            target: None,
            state: ConnectionState::NotConnected,
            warnings: Vec::new(),
            queries: queries.map(|query| QueryReport::not_run(query, QueryOutcome::NotAsked)).collect(),
        }
    }

    /// A database that was not asked, with its queries.
    pub(super) fn not_asked(settings: &Database, config: &Config, state: ConnectionState) -> Self {
        let queries = config.queries.values().filter(|query| query.databases.contains(&settings.name));
        Self {
            name: settings.name.clone(),
            target: settings.connection.resolve().ok().map(|connection| DatabaseTarget::from(&connection)),
            state,
            warnings: Vec::new(),
            queries: queries.map(|query| QueryReport::not_run(query, QueryOutcome::NotAsked)).collect(),
        }
    }
}

impl From<&Connection> for DatabaseTarget {
    fn from(connection: &Connection) -> Self {
        Self {
            addresses: connection.addresses.iter().map(ToString::to_string).collect(),
            dbname: connection.dbname.clone(),
            user: connection.user.clone(),
            sslmode: connection.sslmode.name(),
        }
    }
}

impl QueryReport {
    /// A query that was not run.
    pub(super) fn not_run(query: &Query, outcome: QueryOutcome) -> Self {
        Self { name: query.name.clone(), outcome, warnings: Vec::new(), took: None, plan: None, reading: None }
    }

    /// Returns whether it is built in, and its tables are missing.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.outcome, QueryOutcome::Absent(_))
    }
}

impl QueryAnswer {
    /// The answer to a trigger that overrides nothing.
    pub(super) fn new(query: &Query, numbers: Numbers) -> Self {
        let rounding = query.rounding.unwrap_or_else(|| Rounding::default_for(query.divide_by));
        let value = scaling::reported(numbers.value, query.divide_by, rounding);
        let activity = match query.activity_column {
            Some(_) => numbers.activity.unwrap_or(numbers.value),
            None => value,
        };
        Self {
            value,
            undivided: numbers.value,
            divide_by: query.divide_by.get(),
            rounding: rounding.name(),
            activity,
            activation: query.activation.get(),
            active: query.activation.is_exceeded_by(activity),
            at_least: count_cap::is_read_by(&query.sql) && count_cap::may_be_more(numbers.value),
        }
    }
}

fn seconds<S: Serializer>(took: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    took.map(|took| took.as_secs_f64()).serialize(serializer)
}
