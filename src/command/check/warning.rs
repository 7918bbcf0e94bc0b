//! Findings that are no failure, with the advice for each.

use std::time::Duration;

use serde::Serialize;

use crate::{
    config::Database,
    postgres::{Caveat, Function, FunctionSnapshot, Relation, RowSecurity, Server, invalid_index::InvalidIndex},
    query::{PresetQuery, Query},
    reading::{CALL_DEADLINE, stalled_rows},
    terminal::text::number,
};

/// The oldest PostgreSQL that is supported, in the form of `server_version_num`.
const OLDEST_SUPPORTED: i32 = 130_000;

/// The size of a table from which a scan of the whole table at each reading deserves a warning.
const LARGE: i64 = 8 << 20;

/// The value from which its thousandths exceed an int64, in which Kubernetes holds them.
const OVERFLOW: f64 = 9_223_372_036_854_775.0;

/// A finding that is not a failure.
#[derive(Debug, Serialize)]
pub(super) struct Warning {
    pub(super) text: String,
    pub(super) advice: Option<String>,
}

impl Warning {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), advice: None }
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// Returns the warnings about a server and the session's role.
pub(super) fn for_server(server: &Server) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if !server.privileges.is_empty() {
        warnings.push(
            Warning::new(format!(
                "the role can do more than read ({}); a read-only transaction does not prevent that",
                server.privileges
            ))
            .advise("deploy/postgres/roles.sql makes a role that can only read"),
        );
    }
    if server.version_number < OLDEST_SUPPORTED {
        warnings.push(Warning::new(format!(
            "PostgreSQL {} is older than 13, the oldest that is supported",
            server.version
        )));
    }
    if server.is_any_of_several {
        warnings.push(
            Warning::new("target_session_attrs is any: if the first host is away, a standby answers, with numbers that may be old")
                .advise(
                    "leave it out, so that only a primary is asked; or limit the lag of a standby with max_lag",
                ),
        );
    }
    if server.is_standby {
        warnings.push(
            Warning::new("a standby: its counts lag behind the primary's, and NOTIFY cannot be heard on it")
                .advise("if this is not intended, set target_session_attrs: read-write"),
        );
    }
    let is_remote = server.address.as_ref().is_some_and(|address| !is_loopback(address));
    if server.tls.is_none() && is_remote {
        warnings.push(
            Warning::new("no TLS: anybody on the network path can read and change what is sent")
                .advise("turn ssl on in the server, then set sslmode: verify-full and sslrootcert"),
        );
    }
    warnings
}

/// Returns the warnings about the connection to a server.
pub(super) fn for_connection(settings: &Database, server: &Server) -> Vec<Warning> {
    let (name, limit) = (&settings.name, settings.connect_timeout);
    let mut warnings = Vec::new();
    if server.connected_in > limit {
        warnings.push(
            Warning::new(format!("connecting took {:.1?}; the scaler gives up after {limit:?}", server.connected_in))
                .advise(format!(
                    "raise databases.{name}.connect_timeout, or look for what is slow: DNS, TLS, a pooler"
                )),
        );
    }
    if let Some(asked) = settings.connection.connect_timeout().filter(|asked| *asked > limit) {
        warnings.push(
            Warning::new(format!("the connection string's connect_timeout of {asked:?} counts as {limit:?}")).advise(
                format!(
                    "KEDA's calls end before that; to wait longer all the same, set databases.{name}.connect_timeout"
                ),
            ),
        );
    }
    warnings
}

/// Returns the warning about a server or a pooler with room for fewer sessions than the scaler may open.
pub(super) fn for_room(settings: &Database, room: usize, message: &str) -> Warning {
    let (name, size) = (&settings.name, settings.pool_size);
    Warning::new(format!("there is room for {room} of the {size} sessions of pool_size: {message}")).advise(format!(
        "lower databases.{name}.pool_size; or raise default_pool_size of a pooler in session mode, the role's \
         CONNECTION LIMIT, or max_connections"
    ))
}

/// Returns the warning that notifications do not arrive.
pub(super) fn for_notify(settings: &Database, why: &str) -> Warning {
    let name = &settings.name;
    Warning::new(format!("notifications do not arrive: {why}; the queries are polled instead")).advise(format!(
        "if this is a pooler, set databases.{name}.listen_host and listen_port to those of the server itself"
    ))
}

/// Returns the warning with the grants that a role needs that can only read.
pub(super) fn for_grants(grant: &str) -> Warning {
    Warning::new("a role that is used only for these queries needs no more than this").advise(grant)
}

/// Returns a warning about a query that took longer than a call of KEDA may take.
pub(super) fn for_duration(query: &Query, took: Duration) -> Option<Warning> {
    (took > CALL_DEADLINE).then(|| {
        Warning::new(format!(
            "slower than a call of KEDA waits for a reading ({CALL_DEADLINE:?}): its first poll gets DEADLINE_EXCEEDED, and a \
             later one is answered only while this reading is younger than max_age"
        ))
        .advise(format!(
            "make it faster; or set queries.{}.timeout above what it takes and max_age above the pollingInterval",
            query.name
        ))
    })
}

/// Returns the warning that a query's plan, or something of it, was not looked at.
pub(super) fn for_unseen(query: &Query, why: &str) -> Warning {
    Warning::new(format!("its plan was not looked at to the end, so that a warning may be missing: {why}")).advise(
        format!(
            "if PostgreSQL took too long for it, check again, or raise queries.{}.timeout for the check",
            query.name
        ),
    )
}

/// Returns the warnings about a preset's rows.
pub(super) fn for_preset(query: &PresetQuery, stalled: f64, queues_instead: Option<&[String]>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Some(queues) = queues_instead {
        let others = others(queues);
        warnings.push(
            Warning::new("the queue has never been seen in this database")
                .advise(format!("check the spelling of queue{others}; an empty queue looks the same to KEDA")),
        );
    }
    if stalled > 0.0 {
        warnings.push(
            Warning::new(format!("{}, and counted in neither number", stalled_rows(stalled)))
                .advise(format!("{}; `clapometer presets {}` has the states", query.stalled, query.name)),
        );
    }
    warnings
}

/// Names the queues that there are, in parentheses behind the one that there is not.
pub(super) fn others(queues: &[String]) -> String {
    if queues.is_empty() { String::new() } else { format!(" (there are: {})", queues.join(", ")) }
}

/// Returns a warning about a number that KEDA and Kubernetes cannot hold.
pub(super) fn for_value(query: &Query, value: f64) -> Option<Warning> {
    (value >= OVERFLOW).then(|| {
        Warning::new(
            "larger than what Kubernetes counts with, which are 64-bit thousandths: the number overflows, and perhaps \
             nothing is scaled",
        )
        .advise(format!("divide it (queries.{}.divide_by), and the target with it", query.name))
    })
}

/// Returns the warning that a count is all that a LIMIT lets it be.
pub(super) fn for_cap(cap: f64) -> Warning {
    Warning::new(format!(
        "counts {}, which is all that the LIMIT inside its SQL lets it count: there may be more rows",
        number(cap)
    ))
    .advise(
        "a LIMIT keeps a count cheap; raise it above maxReplicaCount times the target, so that it changes no decision",
    )
}

/// Returns the warnings about a table that a query reads.
pub(super) fn for_relation(relation: &Relation, counts_nothing: bool) -> Vec<Warning> {
    let Relation { schema, name, is_scanned_whole, rows, bytes, row_security, namesakes } = relation;
    let mut warnings = Vec::new();
    if counts_nothing && !namesakes.is_empty() {
        let others: Vec<String> = namesakes.iter().map(|schema| format!("{schema}.{name}")).collect();
        warnings.push(
            Warning::new(format!("counts nothing in {schema}.{name}; there is also {}", others.join(", ")))
                .advise("if another one is meant, write its schema in the SQL or set the database's search_path"),
        );
    }
    if *row_security == RowSecurity::Bypassed {
        warnings.push(Warning::new(format!(
            "row level security is on for {schema}.{name}; this role bypasses it and counts every row"
        )));
    }
    if *is_scanned_whole && *bytes >= LARGE {
        let rows = rows.map_or_else(String::new, |rows| format!(", about {rows:.0} rows"));
        warnings.push(
            Warning::new(format!("each reading scans all of {schema}.{name} ({} MB{rows})", bytes >> 20))
                .advise("an index on the columns of its WHERE makes it cheap"),
        );
    }
    warnings
}

/// Returns the warning about an index that no query uses.
pub(super) fn for_invalid_index(index: &InvalidIndex) -> Warning {
    Warning::new(index.problem()).advise(index.remedy())
}

/// Returns the warnings about a function that a query calls.
pub(super) fn for_function(function: &Function) -> Vec<Warning> {
    let Function { name, snapshot, hides_rows } = function;
    let mut warnings = Vec::new();
    if *hides_rows {
        warnings.push(
            Warning::new(format!(
                "{name}() turns row_security on: rows that a policy hides are missing without an error"
            ))
            .advise("take `SET row_security` out of the function, so that hidden rows are an error"),
        );
    }
    match snapshot {
        FunctionSnapshot::None => {}
        FunctionSnapshot::OfCaller => warnings.push(
            Warning::new(format!(
                "{name}() reads with the query's snapshot, which is older than the function's locks: beside \
                 TRUNCATE it can see an empty table that never was empty"
            ))
            .advise("write what it reads as plain SQL in the query, or as a view"),
        ),
        FunctionSnapshot::Own => warnings.push(
            Warning::new(format!(
                "{name}() is VOLATILE and reads with another snapshot for each statement: the numbers of one reading \
                 can be of different moments"
            ))
            .advise("write what it reads as plain SQL in the query, or as a view"),
        ),
    }
    warnings
}

/// Returns the warning that a key of a grouped query may have several spellings; `reason` is a type or a collation.
pub(super) fn for_loose_key(reason: &str) -> Warning {
    Warning::new(format!(
        "the keys are grouped by a {reason}: several spellings are one key, and a trigger that uses another spelling \
         than the answer gets the number of a key without rows"
    ))
    .advise("select and group by one spelling, such as lower(...) or a cast to text, and use it in triggers")
}

/// Returns the warning that a count may differ from the rows that there are now.
pub(super) fn for_caveat(caveat: &Caveat) -> Warning {
    match caveat {
        Caveat::MaterializedView(name) => Warning::new(format!(
            "{name} is a materialized view: it has the rows of its latest REFRESH, however long ago that was"
        ))
        .advise("count the tables behind it, or make it a plain view"),
        Caveat::Subscribed(name) => Warning::new(format!(
            "{name} is filled by logical replication: what has not arrived is not counted, and nothing arrives while the \
             subscription is stopped or in error"
        ))
        .advise("ask the publisher; max_lag bounds the lag of standbys only"),
        Caveat::Foreign(name) => Warning::new(format!(
            "{name} is of another server: rows that a policy hides there are missing without an error, and the lag \
             of that server is not seen"
        ))
        .advise("ask that server itself, as a database of its own"),
        Caveat::SessionZone { column, zone } => Warning::new(format!(
            "{column} has no time zone, so that PostgreSQL compares it in the session's, {zone}: if its writers use another \
             one, rows are due hours too early or too late"
        ))
        .advise("compare it with now() AT TIME ZONE 'UTC' (a parameter: $1 AT TIME ZONE 'UTC'), or the zone that its writers use"),
        Caveat::LostZone { column, written, zone } => {
            let of = written.as_ref().map_or_else(String::new, |written| format!(" (AT TIME ZONE {written})"));
            Warning::new(format!(
                "{column} has a time zone and is compared with a time that has none{of}, which PostgreSQL takes for one \
                 of the session's zone, {zone}: if it is of another one, rows are due hours too early or too late"
            ))
            .advise("compare it with now() or a timestamptz as it is: leave AT TIME ZONE out, or write it a second time")
        }
        Caveat::CaseCounts(column) => Warning::new(format!(
            "{column} is of type citext and is compared with a text, for which PostgreSQL tells upper case from lower case: \
             another spelling of the same word finds no rows"
        ))
        .advise("cast the other side, as in $1::citext"),
        Caveat::Reordered(index) => Warning::new(format!(
            "{index} is of another version of its collation than the server's libraries have now: unless it was rebuilt \
             since, a search for a text may miss rows that are there"
        ))
        .advise(format!(
            "REINDEX INDEX {index}; once all are rebuilt, ALTER DATABASE (or COLLATION) ... REFRESH COLLATION VERSION"
        )),
        Caveat::Statistics => Warning::new(
            "it reads counters or estimates that PostgreSQL keeps about tables: whatever these hold, they are 0 after a \
             crash, after pg_stat_reset() and on a standby that was promoted",
        )
        .advise("count the rows of the tables themselves"),
    }
}

/// Returns whether a server's own address and port are this machine's.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
