//! Advice: a sentence for each cause of a failure.

use super::{excerpt::Excerpt, report::Origin};
use crate::{
    fault::{Fault, Unusable},
    postgres::{Cause, QueryError},
    query::Query,
};

/// Advises on a database that cannot be reached.
pub(super) fn for_database(name: &str, error: &QueryError) -> String {
    match error.cause {
        Cause::Credentials => "correct the file or variable that the configuration refers to".to_owned(),
        Cause::HostName => "this name is not known here: check its spelling; in Kubernetes it is \
                            SERVICE.NAMESPACE.svc, seen from a pod"
            .to_owned(),
        Cause::Refused => "nothing answers there: check host and port, that PostgreSQL runs, that it listens on that \
                           address (listen_addresses), and that no firewall or NetworkPolicy is in between"
            .to_owned(),
        Cause::Silent => format!(
            "the server, or a firewall before it, does not answer: check host, port and NetworkPolicy; if the server \
             is only slow, raise databases.{name}.connect_timeout"
        ),
        Cause::Tls => format!(
            "compare databases.{name}.sslmode and sslrootcert with the server: does it speak TLS (ssl = on), who \
             signed its certificate, and does that name the host"
        ),
        Cause::Authentication => format!(
            "check databases.{name}.user and password, and the server's pg_hba.conf for this role, database, address \
             and encryption"
        ),
        Cause::MissingDatabase => format!("check databases.{name}.dbname; `psql -l` lists what is there"),
        Cause::Full => format!(
            "raise the server's max_connections or the role's CONNECTION LIMIT, or lower databases.{name}.pool_size"
        ),
        Cause::NotReady => "the server is starting or stopping: try again in a moment".to_owned(),
        Cause::WrongServer => format!(
            "name a host of the kind that databases.{name}.target_session_attrs asks for; if it is only behind \
             (max_lag), wait, or GRANT pg_read_all_stats TO the role: without it a standby at rest looks behind"
        ),
        Cause::PrivilegedRole => format!(
            "make a role with deploy/postgres/roles.sql; or, at your own risk, set \
             databases.{name}.require_unprivileged_role to false"
        ),
        _ => "try again; if it stays, the server's log says why".to_owned(),
    }
}

/// Advises on a query that failed.
pub(super) fn for_query(query: &Query, origin: Origin, error: &QueryError, at: Option<&Excerpt>) -> String {
    if let Fault::Unusable(unusable) = error.fault {
        return for_answer(query, unusable).to_owned();
    }
    let (name, database) = (&query.name, &query.database);
    match error.cause {
        Cause::MissingTable if origin == Origin::BuiltIn => format!(
            "`postgres-batch migrate up` makes it; if it is in another schema, set databases.{database}.search_path; \
             if you do not use postgres-batch, never mind"
        ),
        Cause::MissingTable => format!(
            "create it, write its schema before its name, or set databases.{database}.search_path; and is \
             databases.{database}.dbname the right database?"
        ),
        Cause::MissingColumn if matches!(at, Some(Excerpt::Wrapper)) => format!(
            "value_column, activity_column, next_change and group_by of queries.{name} must name columns that its \
             SQL returns"
        ),
        Cause::MissingColumn => format!("correct queries.{name}.sql: the column's name, or its table"),
        Cause::MissingFunction => {
            format!("correct queries.{name}.sql: the function's name, or the types of its arguments (cast them)")
        }
        Cause::Syntax if query.value_column.is_none() => format!(
            "queries.{name}.sql must be one SELECT that only reads, with one column; if it returns several, name the \
             one to report in value_column"
        ),
        Cause::Syntax => format!("queries.{name}.sql must be one SELECT that only reads; try it in psql"),
        Cause::Privilege => "grant it to the role (GRANT SELECT ON ... TO ...; for a schema GRANT USAGE); \
                             deploy/postgres/roles.sql does it for postgres-batch's tables"
            .to_owned(),
        Cause::RowSecurity => "a policy would hide rows from this role, and a count of the others would be a silent \
                               zero: give it BYPASSRLS, or count through a view or a SECURITY DEFINER function of \
                               the table's owner"
            .to_owned(),
        Cause::ReadOnly => format!("queries.{name}.sql writes; every reading is a read-only transaction"),
        Cause::StatementTimeout => format!(
            "make it faster (an index on what WHERE tests, a LIMIT inside the count), or raise queries.{name}.timeout"
        ),
        Cause::LockTimeout => format!(
            "another session holds a lock (ALTER TABLE, VACUUM FULL?): see pg_locks; or raise \
             databases.{database}.lock_timeout"
        ),
        Cause::Datum => format!("correct queries.{name}.sql, or the data that it reads"),
        Cause::Silent | Cause::Connection | Cause::NotReady => "try again; the server's log says why".to_owned(),
        _ => format!("try queries.{name}.sql in psql, as the same role"),
    }
}

fn for_answer(query: &Query, unusable: Unusable) -> &'static str {
    match unusable {
        Unusable::Null => "use coalesce(..., 0); or set on_null: zero, if NULL really means nothing to do",
        Unusable::NoRow => "count(*) without GROUP BY always returns a row; or set on_no_row: zero",
        Unusable::SeveralRows => "aggregate to one row (count, sum); or set group_by, with a row for each key",
        Unusable::Negative => "a count is not negative; use greatest(..., 0)",
        Unusable::NotANumber | Unusable::Infinite => "look for a division by zero or an infinite value",
        Unusable::WrongType if query.value_column.is_some() => "the columns must be numbers, next_change a timestamptz",
        Unusable::WrongType => "the column must be a number",
        Unusable::Masked => {
            "GRANT pg_read_all_stats TO the role; or count through a SECURITY DEFINER function of a role that has it"
        }
        Unusable::NullKey => "leave rows without a key out: WHERE ... IS NOT NULL",
        Unusable::RepeatedKey => "GROUP BY the same column that group_by names",
        Unusable::TooManyKeys => "choose a coarser key; 10,000 is the limit",
    }
}
