//! Advice: a sentence for each cause of a failure.

use super::{excerpt::Excerpt, report::Origin, warning};
use crate::{
    config::{Config, Database},
    fault::{Fault, Unusable},
    postgres::{Cause, QueryError, advice},
    query::{PresetQuery, Query},
};

/// Advises on a database that cannot be reached.
pub(in crate::command) fn for_database(settings: &Database, config: &Config, error: &QueryError) -> String {
    let name = &settings.name;
    if let Some(own) = own_port(settings, config, error.cause) {
        return own;
    }
    match error.cause {
        Cause::Credentials => {
            // The message begins with the key, if it is about a file or a variable of one.
            let key = error.message.split(':').next().unwrap_or_default();
            let place = config.place(&["databases", name, key]).or_else(|| config.place(&["databases", name]));
            let at = place.map_or_else(String::new, |place| format!(" ({place})"));
            format!("correct the file or the variable that is named{at}")
        }
        Cause::Full => format!(
            "raise the server's max_connections or the role's CONNECTION LIMIT (a pooler's: default_pool_size, \
             max_client_conn), or lower databases.{name}.pool_size"
        ),
        Cause::WrongServer => format!(
            "name a host of the kind that {} asks for; if a standby is only behind (max_lag), wait; if it is idle and \
             looks behind, GRANT pg_read_all_stats TO the role",
            settings.connection.name_of("target_session_attrs")
        ),
        Cause::PrivilegedRole => format!(
            "make a role with deploy/postgres/roles.sql; or, at your own risk, set \
             databases.{name}.require_unprivileged_role to false"
        ),
        Cause::Silent => {
            format!("{}; if the server is only slow, raise databases.{name}.connect_timeout", advice::SILENT)
        }
        Cause::MissingPassword if settings.connection.name_of("password").ends_with(".password") => format!(
            "the server asks for a password and there is none: set databases.{name}.password (better {{file: PATH}} or \
             {{env: NAME}}), or add an entry that fits host, port, database and role to the password file; PGPASSWORD \
             counts only where no file configures the database"
        ),
        Cause::Role => format!(
            "the role {} may not log in: was it set NOLOGIN, dropped or renamed? grants.sql of `clapometer init` and \
             deploy/postgres/roles.sql create it",
            settings.connection.name_of("user")
        ),
        Cause::Authentication => format!(
            "check that the role {} exists (grants.sql of `clapometer init` and deploy/postgres/roles.sql create it), \
             its password, and the server's pg_hba.conf for this role, database, address and encryption",
            settings.connection.name_of("user")
        ),
        cause => advice::on_session(cause, &settings.connection),
    }
}

/// Returns the advice for a database whose port is one that the scaler itself serves.
fn own_port(settings: &Database, config: &Config, cause: Cause) -> Option<String> {
    if !matches!(cause, Cause::NotPostgres | Cause::HungUp | Cause::Silent) {
        return None;
    }
    let addresses = settings.connection.resolve().ok()?.addresses;
    let serves = [("server.listen", config.server.listen), ("admin.listen", config.admin.listen)];
    let (key, port) = serves.into_iter().find_map(|(key, listen)| {
        let is_own = addresses.iter().any(|address| address.port() == listen.port());
        is_own.then(|| (key, listen.port()))
    })?;
    Some(format!(
        "{port} is clapometer's own port ({key}): databases.{}.port must be that of PostgreSQL, usually 5432",
        settings.name
    ))
}

/// Advises on a query that failed.
pub(super) fn for_query(
    query: &Query,
    database: &str,
    origin: Origin,
    error: &QueryError,
    at: Option<&Excerpt>,
) -> String {
    if let Fault::Unusable(unusable) = error.fault {
        return for_answer(query, unusable).to_owned();
    }
    let name = &query.name;
    if let Some(advice) = query.preset.as_ref().and_then(|preset| for_preset(query, preset, database, error.cause)) {
        return advice;
    }
    match error.cause {
        Cause::MissingTable if origin == Origin::BuiltIn => format!(
            "`postgres-batch migrate up` makes it; if it is in another schema, set databases.{database}.search_path; \
             ignore this if you do not use postgres-batch"
        ),
        Cause::MissingTable | Cause::MissingColumn if has_capitals(at) => format!(
            "PostgreSQL reads a name without double quotes in lower case: if capital letters are part of it, write it in \
             double quotes in queries.{name}.sql; otherwise correct it"
        ),
        Cause::MissingTable => format!(
            "create it, write its schema before its name, or set databases.{database}.search_path; and is \
             databases.{database}.dbname the right database?"
        ),
        Cause::MissingColumn if matches!(at, Some(Excerpt::Wrapper)) => format!(
            "value_column, activity_column, next_change and group_by of queries.{name} must name columns that its \
             SQL returns"
        ),
        Cause::MissingColumn if points_to_quote(at) => format!(
            "a text is written in single quotes; double quotes make it a column's name: correct queries.{name}.sql"
        ),
        Cause::Reference => {
            format!("write the table's name, or its alias where it has one, before the column in queries.{name}.sql")
        }
        Cause::Grouping => format!(
            "take the column out of queries.{name}.sql; or, to count for each of its values, GROUP BY it and set \
             group_by and value_column"
        ),
        Cause::MissingColumn => format!("correct queries.{name}.sql: the column's name, or its table"),
        Cause::MissingFunction => {
            format!("correct queries.{name}.sql: the function's name, or the types of its arguments (cast them)")
        }
        Cause::MissingOperator if matches!(at, Some(Excerpt::Wrapper)) => {
            format!("next_change of queries.{name} must be a timestamptz, and the other columns numbers")
        }
        Cause::MissingOperator if error.message.contains(" == ") => {
            format!("SQL compares by one =: correct queries.{name}.sql")
        }
        Cause::MissingOperator => format!(
            "the types on both sides differ: cast one in queries.{name}.sql; an enum is compared with a parameter of \
             type text as column::text = $1"
        ),
        Cause::NoCast if matches!(at, Some(Excerpt::Wrapper)) => format!(
            "the reported column must be a number, such as count(*); an enum, a date or JSON is not one \
             (queries.{name}.value_column names the column)"
        ),
        Cause::NoCast => {
            format!("queries.{name}.sql uses a value as a type that it cannot have: look at the marked place")
        }
        Cause::Syntax if error.message.contains("cross-database") => format!(
            "a session reads one database: leave its name out of queries.{name}.sql, and set \
             databases.{database}.dbname, or queries.{name}.database to another entry of databases"
        ),
        Cause::Syntax if error.message.contains("syntax error") && matches!(at, Some(Excerpt::Sql { .. })) => format!(
            "PostgreSQL understands queries.{name}.sql up to the marked place: look for a mistake there or just before it"
        ),
        Cause::Syntax if query.value_column.is_none() => format!(
            "queries.{name}.sql must be one SELECT that only reads, with one column; if it returns several, name the \
             one to report in value_column"
        ),
        Cause::Syntax => format!("queries.{name}.sql must be one SELECT that only reads; try it in psql"),
        Cause::Privilege => match &error.grant {
            Some(grant) => format!("as the owner: {grant}"),
            None => "grant it to the role (GRANT SELECT ON ... TO ...; for a function GRANT EXECUTE); \
                     deploy/postgres/roles.sql does it for postgres-batch's tables"
                .to_owned(),
        },
        Cause::StatementPooling => format!(
            "a reading is a transaction: set pool_mode = transaction for this database in PgBouncer, or point \
             databases.{database} to the server itself"
        ),
        Cause::Full => format!(
            "the pooler has no free connection: raise its default_pool_size, or lower databases.{database}.pool_size"
        ),
        Cause::Backend => advice::BACKEND.to_owned(),
        Cause::RowSecurity => "a policy would hide rows from this role, and a count of the others would be a silent \
                               zero: give it BYPASSRLS, or count through a view or a SECURITY DEFINER function of \
                               the table's owner"
            .to_owned(),
        Cause::ReadOnly => {
            format!("queries.{name}.sql writes, or locks rows (FOR UPDATE); every reading is a read-only transaction")
        }
        Cause::StatementTimeout => format!(
            "make it faster (an index on what WHERE tests, a LIMIT inside the count), or raise queries.{name}.timeout"
        ),
        Cause::LockTimeout => format!(
            "another session holds a lock (ALTER TABLE, VACUUM FULL?): see pg_locks; or raise \
             databases.{database}.lock_timeout"
        ),
        Cause::Datum if error.message.contains("enum") => {
            format!("correct queries.{name}.sql; SELECT unnest(enum_range(NULL::TYPE)) lists the enum's values")
        }
        // The wrapper's own cast, which has no place in the text.
        Cause::Datum if at.is_none() && error.message.contains("double precision") => {
            format!("the reported column must be a number, such as count(*): correct queries.{name}.sql")
        }
        Cause::Datum => format!("correct queries.{name}.sql, or the data that it reads"),
        Cause::Silent | Cause::Connection | Cause::NotReady => "try again; the server's log says why".to_owned(),
        _ => format!("try queries.{name}.sql in psql, as the same role"),
    }
}

/// Returns whether the server points to a name without quotes that is written with capital letters among others.
fn has_capitals(at: Option<&Excerpt>) -> bool {
    let Some(Excerpt::Sql { text, column, .. }) = at else { return false };
    let name = || text.chars().skip(*column).take_while(|c| c.is_alphanumeric() || "_.".contains(*c));
    name().any(char::is_uppercase) && name().any(char::is_lowercase)
}

/// Returns whether the server points to a name in double quotes.
fn points_to_quote(at: Option<&Excerpt>) -> bool {
    matches!(at, Some(Excerpt::Sql { text, column, .. }) if text.chars().nth(*column) == Some('"'))
}

/// Advises on the statement of a preset, whose text the reader cannot correct. Returns `None` if the usual advice
/// holds.
fn for_preset(query: &Query, preset: &PresetQuery, database: &str, cause: Cause) -> Option<String> {
    let (name, expects) = (&query.name, &preset.expects);
    Some(match cause {
        Cause::MissingTable | Cause::MissingType => format!(
            "the preset expects the tables of {expects}; if they are in another schema, set queries.{name}.schema; and \
             is databases.{database}.dbname the right database?"
        ),
        Cause::MissingColumn | Cause::MissingFunction | Cause::MissingOperator | Cause::NoCast => format!(
            "the preset expects the columns of {expects}: update the library and its tables, or write the query \
             yourself, from what `clapometer presets {}` prints",
            preset.name
        ),
        Cause::StatementTimeout => format!("raise queries.{name}.timeout"),
        _ => return None,
    })
}

/// Advises on a queue that has a table of its own, and has none.
pub(super) fn for_queue(query: &Query, queues: &[String]) -> String {
    format!("there is no such queue: correct queries.{}.queue{}, or create it", query.name, warning::others(queues))
}

/// Advises on a sum that failed although each of its databases answered.
pub(super) fn for_sum(query: &Query) -> &'static str {
    match query.group_by {
        Some(_) => "choose a coarser key; 10,000 is the limit of all databases together",
        None => "look for a number that is far too large",
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
        Unusable::UnknownState => {
            "the library is newer than the preset: see `clapometer presets` for the versions that it was tested with"
        }
        Unusable::NullKey => "leave rows without a key out: WHERE ... IS NOT NULL",
        Unusable::RepeatedKey => "GROUP BY the same column that group_by names",
        Unusable::TooManyKeys => "choose a coarser key; 10,000 is the limit",
        Unusable::NotShareable => {
            "value_column and activity_column must be numbers of rows, activity_column at most value_column; weights must be \
             finite and above 0"
        }
        Unusable::NoSinceColumn => "set budget.since_column, or a total of at least the number of keys",
    }
}
