//! What a check found, before it is put into words.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{advice, serving::Serving};
use crate::{
    command::backlog,
    config::Query,
    conninfo::Connection,
    fault::Fault,
    postgres::{Inspection, Plan, QueryError, Relation, RowSecurity, Server, Statement},
    reading::{CALL_DEADLINE, Numbers, Rows},
    scaling,
};

/// The oldest PostgreSQL that is supported, as `server_version_num` counts.
const OLDEST_SUPPORTED: i32 = 130_000;

/// A table of which every reading reads this much from end to end is worth a hint.
const LARGE: i64 = 8 << 20;

/// How many keys of a grouped query are shown.
const KEYS_SHOWN: usize = 5;

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// TLS towards KEDA, where it is configured.
    pub(super) serving: Option<Serving>,
    pub(super) databases: Vec<OfDatabase>,
}

/// One database with its queries.
#[derive(Debug, Serialize)]
pub(super) struct OfDatabase {
    pub(super) name: String,
    /// Where the configuration says that it is; absent when that cannot be read.
    pub(super) target: Option<Target>,
    #[serde(flatten)]
    pub(super) standing: Standing,
    pub(super) warnings: Vec<Warning>,
    pub(super) queries: Vec<OfQuery>,
}

/// Where a database is to be found.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    pub(super) addresses: Vec<String>,
    pub(super) dbname: String,
    pub(super) user: String,
    pub(super) sslmode: &'static str,
}

/// What became of the connection.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Standing {
    /// `enabled: false`.
    Disabled,
    Unavailable(Trouble),
    Reached(Reached),
}

/// What the server says about itself.
#[derive(Debug, Serialize)]
pub(super) struct Reached {
    pub(super) version: String,
    pub(super) address: Option<String>,
    pub(super) is_standby: bool,
    pub(super) is_read_only: bool,
    pub(super) role: String,
    pub(super) privileges: Vec<&'static str>,
    pub(super) tls: Option<String>,
    pub(super) search_path: String,
}

/// Something to know that is no failure.
#[derive(Debug, Serialize)]
pub(super) struct Warning {
    pub(super) text: String,
    pub(super) advice: Option<String>,
}

/// Something that failed.
#[derive(Debug, Serialize)]
pub(super) struct Trouble {
    /// As the scaler's metrics name it.
    pub(super) reason: &'static str,
    #[serde(skip)]
    pub(super) fault: Fault,
    pub(super) message: String,
    pub(super) further: Vec<String>,
    pub(super) excerpt: Option<Excerpt>,
    pub(super) advice: String,
}

/// Where in a statement the server points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "in", rename_all = "snake_case")]
pub(super) enum Excerpt {
    /// In what the scaler puts around it.
    Wrapper,
    /// In the operator's SQL: the line from 1, its text, and the column from 0.
    Sql { line: usize, text: String, column: usize },
}

/// Who wrote a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Origin {
    BuiltIn,
    Configured,
}

/// One query.
#[derive(Debug, Serialize)]
pub(super) struct OfQuery {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    pub(super) warnings: Vec<Warning>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) took: Option<Duration>,
    pub(super) plan: Option<OfPlan>,
}

/// What became of a query.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    Answered(Answer),
    /// A grouped query's keys: how many, and the first few.
    Grouped {
        keys: usize,
        first: Vec<(String, Answer)>,
    },
    /// It needs these parameters.
    Skipped {
        missing: Vec<String>,
    },
    /// A built-in query whose tables are not there: nobody may need it.
    Absent(Trouble),
    Failed(Trouble),
    /// Its database could not be asked.
    NotAsked,
}

/// What KEDA would be told.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Answer {
    pub(super) value: f64,
    /// The number that the query returned.
    pub(super) undivided: f64,
    pub(super) divide_by: f64,
    pub(super) rounding: &'static str,
    /// The number that is compared with the activation threshold.
    pub(super) activity: f64,
    pub(super) activation: f64,
    pub(super) active: bool,
    /// The count has reached a limit of its own; there may be more.
    pub(super) at_least: bool,
}

/// How the server goes about a query.
#[derive(Debug, Serialize)]
pub(super) struct OfPlan {
    pub(super) cost: f64,
    pub(super) rows: f64,
    pub(super) relations: Vec<String>,
}

impl Report {
    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.databases.iter().flat_map(|database| &database.queries).map(|query| &query.outcome)
    }

    /// How many queries' outcomes are so.
    pub(super) fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes().filter(|outcome| wanted(outcome)).count()
    }

    /// Whether a database could not be asked, or broke away.
    pub(super) fn has_unavailable(&self) -> bool {
        let of_query = |outcome: &Outcome| match outcome {
            Outcome::Failed(trouble) => trouble.fault.kind() == crate::fault::Kind::Unavailable,
            _ => false,
        };
        self.databases.iter().any(|database| matches!(database.standing, Standing::Unavailable(_)))
            || self.outcomes().any(of_query)
    }

    /// Everything to know that is no failure.
    pub(super) fn warnings(&self) -> usize {
        let of_database = |database: &OfDatabase| {
            database.warnings.len() + database.queries.iter().map(|query| query.warnings.len()).sum::<usize>()
        };
        self.serving.as_ref().map_or(0, |serving| serving.warnings.len())
            + self.databases.iter().map(of_database).sum::<usize>()
            + self.count(|outcome| matches!(outcome, Outcome::Absent(_)))
    }
}

impl Target {
    pub(super) fn of(connection: &Connection) -> Self {
        Self {
            addresses: connection.addresses.iter().map(ToString::to_string).collect(),
            dbname: connection.dbname.clone(),
            user: connection.user.clone(),
            sslmode: connection.sslmode.name(),
        }
    }
}

impl Reached {
    /// What a server says about itself, and what to say about that.
    pub(super) fn of(server: Server, search_path: Option<&str>) -> (Self, Vec<Warning>) {
        let mut warnings = Vec::new();
        if !server.privileges.is_empty() {
            warnings.push(Warning {
                text: format!(
                    "the role can do more than read ({}); no read-only transaction holds it back",
                    server.privileges
                ),
                advice: Some("deploy/postgres/roles.sql makes a role that can only read".to_owned()),
            });
        }
        if server.version_number < OLDEST_SUPPORTED {
            warnings.push(Warning {
                text: format!("PostgreSQL {} is older than 13, the oldest that is supported", server.version),
                advice: None,
            });
        }
        if server.is_standby {
            warnings.push(Warning {
                text: "a standby: its counts lag behind the primary's, and NOTIFY cannot be heard on it".to_owned(),
                advice: Some("fine where that is meant; else set target_session_attrs: read-write".to_owned()),
            });
        }
        let is_remote = server.address.as_ref().is_some_and(|address| !is_loopback(address));
        if server.tls.is_none() && is_remote {
            warnings.push(Warning {
                text: "no TLS: whoever is on the way can read and change what is sent".to_owned(),
                advice: Some("turn ssl on in the server, then set sslmode: verify-full and sslrootcert".to_owned()),
            });
        }
        let reached = Self {
            version: server.version,
            address: server.address,
            is_standby: server.is_standby,
            is_read_only: server.is_read_only,
            role: server.role,
            privileges: server.privileges.names().to_vec(),
            tls: server.tls,
            search_path: search_path.map_or(server.search_path, str::to_owned),
        };
        (reached, warnings)
    }
}

impl Trouble {
    /// About a session.
    pub(super) fn of_database(name: &str, error: QueryError) -> Self {
        let advice = advice::for_database(name, &error);
        Self::new(error, None, advice)
    }

    fn of_query(statement: &Statement, origin: Origin, error: QueryError) -> Self {
        let excerpt = error.position.and_then(|position| Excerpt::of(statement.text(), position));
        let advice = advice::for_query(&statement.query, origin, &error, excerpt.as_ref());
        Self::new(error, excerpt, advice)
    }

    fn new(error: QueryError, excerpt: Option<Excerpt>, advice: String) -> Self {
        let QueryError { fault, cause: _, message, further, position: _ } = error;
        Self { reason: fault.reason(), fault, message, further, excerpt, advice }
    }
}

impl Excerpt {
    /// Finds a position (characters from 1) in a statement's text, whose first and last line are the scaler's.
    fn of(text: &str, position: usize) -> Option<Self> {
        let before = text.chars().take(position.checked_sub(1)?);
        let line = before.clone().filter(|c| *c == '\n').count();
        let column = before.clone().collect::<Vec<_>>().rsplit(|c| *c == '\n').next().map_or(0, <[char]>::len);
        let lines: Vec<&str> = text.split('\n').collect();
        if line == 0 || line + 1 >= lines.len() {
            return Some(Self::Wrapper);
        }
        Some(Self::Sql { line, text: (*lines.get(line)?).to_owned(), column })
    }
}

impl OfQuery {
    /// A query that was not run.
    pub(super) fn unasked(query: &Query, outcome: Outcome) -> Self {
        Self { name: query.name.clone(), outcome, warnings: Vec::new(), took: None, plan: None }
    }

    /// A query that was run.
    pub(super) fn inspection(statement: &Statement, origin: Origin, inspection: Inspection) -> Self {
        let query = &statement.query;
        let Inspection { reading, took, plan } = inspection;
        let outcome = match reading {
            Ok(reading) => match reading.rows {
                Rows::One(numbers) => Outcome::Answered(Answer::of(query, numbers)),
                Rows::ByKey(rows) => {
                    let keys = rows.len();
                    let mut rows: Vec<_> = rows.into_iter().collect();
                    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
                    let first = rows.into_iter().take(KEYS_SHOWN);
                    let first = first.map(|(key, numbers)| (key.into(), Answer::of(query, numbers))).collect();
                    Outcome::Grouped { keys, first }
                }
            },
            Err(error) => {
                let is_missing = error.cause == crate::postgres::Cause::MissingTable;
                let trouble = Trouble::of_query(statement, origin, error);
                if is_missing && origin == Origin::BuiltIn {
                    Outcome::Absent(trouble)
                } else {
                    Outcome::Failed(trouble)
                }
            }
        };
        let mut warnings = Vec::new();
        if took > CALL_DEADLINE && matches!(outcome, Outcome::Answered(_) | Outcome::Grouped { .. }) {
            warnings.push(slow(query));
        }
        let counts_nothing = matches!(&outcome, Outcome::Answered(answer) if answer.undivided == 0.0);
        for relation in plan.iter().flat_map(|plan| &plan.relations) {
            warnings.extend(about(relation, counts_nothing));
        }
        let plan = plan.map(|Plan { cost, rows, relations }| OfPlan {
            cost,
            rows,
            relations: relations.iter().map(|relation| format!("{}.{}", relation.schema, relation.name)).collect(),
        });
        Self { name: query.name.clone(), outcome, warnings, took: Some(took), plan }
    }
}

impl Answer {
    /// What a trigger that overrides nothing would be told.
    fn of(query: &Query, numbers: Numbers) -> Self {
        let value = scaling::reported(numbers.value, query.divide_by, query.rounding);
        let activity = match query.activity_column {
            Some(_) => numbers.activity.unwrap_or(numbers.value),
            None => value,
        };
        Self {
            value,
            undivided: numbers.value,
            divide_by: query.divide_by.get(),
            rounding: query.rounding.name(),
            activity,
            activation: query.activation.get(),
            active: query.activation.is_exceeded_by(activity),
            at_least: backlog::is_read_by(&query.sql) && backlog::may_be_more(numbers.value),
        }
    }
}

/// Whether a server's own address and port are this machine's.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn slow(query: &Query) -> Warning {
    Warning {
        text: format!(
            "slower than a call of KEDA may take ({CALL_DEADLINE:?}): its first poll gets DEADLINE_EXCEEDED, and a \
             later one is answered only while this reading is younger than max_age"
        ),
        advice: Some(format!(
            "make it faster; or set queries.{}.timeout above what it takes and max_age above the pollingInterval",
            query.name
        )),
    }
}

fn about(relation: &Relation, counts_nothing: bool) -> Vec<Warning> {
    let Relation { schema, name, is_scanned_whole, rows, bytes, row_security, namesakes } = relation;
    let mut warnings = Vec::new();
    if counts_nothing && !namesakes.is_empty() {
        let others: Vec<String> = namesakes.iter().map(|schema| format!("{schema}.{name}")).collect();
        warnings.push(Warning {
            text: format!("counts nothing in {schema}.{name}; there is also {}", others.join(", ")),
            advice: Some(
                "if that one is meant, write its schema in the SQL or set the database's search_path".to_owned(),
            ),
        });
    }
    if *row_security == RowSecurity::Bypassed {
        warnings.push(Warning {
            text: format!(
                "row level security is on for {schema}.{name}; this role stands above it and counts every row"
            ),
            advice: None,
        });
    }
    if *is_scanned_whole && *bytes >= LARGE {
        let rows = rows.map_or_else(String::new, |rows| format!(", about {rows:.0} rows"));
        warnings.push(Warning {
            text: format!("each reading scans all of {schema}.{name} ({} MB{rows})", bytes >> 20),
            advice: Some("an index on what its WHERE tests makes it cheap".to_owned()),
        });
    }
    warnings
}

fn seconds<S: Serializer>(took: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    took.map(|took| took.as_secs_f64()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_found_in_the_operators_own_lines() {
        let text = "SELECT (SELECT q.*)::float8 FROM (\nSELECT 'é',\n  foo FROM job\n) AS q LIMIT 2";
        let at =
            |needle: &str| text.chars().count() - text[text.find(needle).expect("it is there")..].chars().count() + 1;
        assert_eq!(
            Excerpt::of(text, at("foo")),
            Some(Excerpt::Sql { line: 2, text: "  foo FROM job".to_owned(), column: 2 })
        );
        assert_eq!(
            Excerpt::of(text, at("',")),
            Some(Excerpt::Sql { line: 1, text: "SELECT 'é',".to_owned(), column: 9 })
        );
        assert_eq!(Excerpt::of(text, at("q.*")), Some(Excerpt::Wrapper));
        assert_eq!(Excerpt::of(text, at("LIMIT")), Some(Excerpt::Wrapper));
        assert_eq!(Excerpt::of(text, 0), None);
    }
}
