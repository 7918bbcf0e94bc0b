//! The tables: what is applied, what is missing, forward only.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, types::Type};

use crate::batch::transaction::{Error, Parameter, Transactions};
use crate::notify_sql::{Name, Operation, Table, Trigger};

/// One step of the tables' history.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// From one, without gaps.
    pub version: i32,
    /// What it brings.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// All of them, oldest first.
pub const MIGRATIONS: [Migration; 6] = [
    Migration { version: 1, name: "claps", sql: include_str!("../../../migrations/0001_claps.sql") },
    Migration { version: 2, name: "indexes", sql: include_str!("../../../migrations/0002_indexes.sql") },
    Migration { version: 3, name: "backlog_view", sql: include_str!("../../../migrations/0003_backlog_view.sql") },
    Migration { version: 4, name: "functions", sql: include_str!("../../../migrations/0004_functions.sql") },
    Migration { version: 5, name: "truncation", sql: include_str!("../../../migrations/0005_truncation.sql") },
    Migration {
        version: 6,
        name: "request_columns",
        sql: include_str!("../../../migrations/0006_request_columns.sql"),
    },
];

/// Bounds everything: the tables are new, so that only waiting for another migration takes long.
const WITHIN: Duration = Duration::from_secs(60);

/// Not schema_migrations: that belongs to Rails and Ecto.
const HISTORY: &str = "\
CREATE TABLE IF NOT EXISTS postgres_batch_migrations (
    version    integer     PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// One migration at a time in a database, until the transaction's end: also while the schema is not there yet.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('postgres-batch migrate', 0))";

const APPLIED: &str = "\
SELECT version, checksum, to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS\"Z\"') AS applied_at
  FROM postgres_batch_migrations
 ORDER BY version";

/// Tables of our names in the schema.
const FOUND: &str = "\
SELECT c.relname::text AS name,
       (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum)
          FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = current_schema() AND c.relname IN ('make_it_clap', 'clap', 'clap_attempt', 'clap_backlog')
 ORDER BY c.relname DESC";

/// What is known of one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The migration.
    pub version: i32,
    /// Its name; unknown if it is newer than this executable.
    pub name: Option<&'static str>,
    /// When it was applied, UTC.
    pub applied_at: Option<String>,
    /// Whether its text was another one.
    pub differs: bool,
}

/// Why the tables could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database.
    #[error(transparent)]
    Database(#[from] Error),
    /// No schema to create tables in.
    #[error("search_path names no schema that exists: give one with --schema")]
    NoSchema,
    /// Somebody else's tables have our names.
    #[error("{0}")]
    ForeignTables(String),
    /// A migration was applied with another text.
    #[error(
        "migration {version} was applied with another text than this executable's: \
         the tables were made by another build of postgres-batch"
    )]
    Differs {
        /// The migration.
        version: i32,
    },
    /// It took too long.
    #[error("the migration took longer than {} s; nothing of its last step was kept", WITHIN.as_secs())]
    Timeout,
}

impl State {
    /// Whether it is applied as this executable has it.
    pub fn is_good(&self) -> bool {
        self.applied_at.is_some() && !self.differs
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.unwrap_or("(newer than this executable)");
        write!(f, "{:04}  {name:<15}  ", self.version)?;
        match &self.applied_at {
            None => f.write_str("missing"),
            Some(applied_at) if self.differs => write!(f, "applied {applied_at}, with another text than this one's"),
            Some(applied_at) => write!(f, "applied {applied_at}"),
        }
    }
}

impl Migration {
    /// SHA-256 of the text, in hexadecimal.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Applies what is missing, each migration in a transaction of its own, and says which.
///
/// # Errors
/// See [`MigrateError`]; migrations before the one that failed are kept.
pub async fn up(transactions: &mut Transactions) -> Result<Vec<Migration>, MigrateError> {
    let result = timeout(WITHIN, apply(transactions)).await.unwrap_or(Err(MigrateError::Timeout));
    if result.is_err() {
        transactions.abandon();
    }
    result
}

/// Installs the triggers by which the tables tell clapometer that what there is to do has changed.
///
/// Heartbeats set no column that counts, and so cost nothing. It may be run again.
///
/// # Errors
/// See [`MigrateError`]; then neither table has a new trigger.
pub async fn install_notify(transactions: &mut Transactions, channel: Name) -> Result<(), MigrateError> {
    let result = timeout(WITHIN, install(transactions, channel)).await.unwrap_or(Err(MigrateError::Timeout));
    if result.is_err() {
        transactions.abandon();
    }
    result
}

async fn install(transactions: &mut Transactions, channel: Name) -> Result<(), MigrateError> {
    let client = transactions.begin(Instant::now() + WITHIN).await?;
    // CREATE OR REPLACE FUNCTION fails when two make the same one for the first time.
    client.query_typed(LOCK, &[]).await.map_err(Error::from)?;
    let schema = current_schema(client).await?;
    let name = |text: String| Name::new(text).expect("PostgreSQL's own names are names");
    let requests = (vec![Operation::Insert, Operation::Delete], "make_it_clap", Vec::new());
    // A claim, an end, a retry and a cancel set the status; a heartbeat does not.
    let claps =
        (vec![Operation::Insert, Operation::Update, Operation::Delete], "clap", vec![name("status".to_owned())]);
    for (operations, table, columns) in [requests, claps] {
        let table = Table::new(name(schema.clone()), name(table.to_owned()));
        let trigger = Trigger { table, channel: channel.clone(), operations, columns };
        client.batch_execute(&trigger.install()).await.map_err(Error::from)?;
    }
    client.batch_execute("COMMIT").await.map_err(Error::from)?;
    Ok(())
}

/// What is applied and what is missing.
///
/// # Errors
/// The database's; tables that are not there are no error.
pub async fn status(transactions: &mut Transactions) -> Result<Vec<State>, MigrateError> {
    let applied = match transactions.run(APPLIED, &[], Instant::now() + WITHIN).await {
        Err(Error::NotMigrated(_)) => Vec::new(),
        other => other?,
    };
    let mut states: Vec<State> = MIGRATIONS
        .iter()
        .map(|migration| State {
            version: migration.version,
            name: Some(migration.name),
            applied_at: None,
            differs: false,
        })
        .collect();
    for row in &applied {
        let version: i32 = row.get("version");
        let checksum: String = row.get("checksum");
        let known = MIGRATIONS.iter().find(|migration| migration.version == version);
        let state = State {
            version,
            name: known.map(|migration| migration.name),
            applied_at: Some(row.get("applied_at")),
            differs: known.is_some_and(|migration| migration.checksum() != checksum),
        };
        match states.iter_mut().find(|state| state.version == version) {
            Some(slot) => *slot = state,
            None => states.push(state),
        }
    }
    Ok(states)
}

/// Ends the script where it must not run. Plain SQL: whatever client runs it need not be psql.
const REFUSE: &str = "\
DO $$
BEGIN
    IF to_regclass(format('%I.postgres_batch_migrations', current_schema())) IS NOT NULL THEN
        RAISE EXCEPTION 'the schema % has tables of postgres-batch already', current_schema()
              USING HINT = 'Bring them up to date with `postgres-batch migrate up`; this script is for a schema without them.';
    ELSIF to_regclass(format('%I.make_it_clap', current_schema())) IS NOT NULL
       OR to_regclass(format('%I.clap', current_schema())) IS NOT NULL THEN
        RAISE EXCEPTION 'the schema % has tables named make_it_clap or clap that postgres-batch did not make', current_schema()
              USING HINT = 'Give the queue a schema of its own: `postgres-batch --schema batch migrate print`.';
    END IF;
END $$";

/// The SQL of all migrations as one script, one transaction, which leaves the same history as [`up`].
pub fn script(schema: Option<&str>) -> String {
    let mut script = String::from(
        "-- The tables of postgres-batch, in one transaction: after an error nothing of it stays. With psql, add\n\
         -- -v ON_ERROR_STOP=1, or it goes on to the end and exits 0.\nBEGIN;\n",
    );
    if let Some(schema) = schema {
        let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
        let _ = write!(script, "CREATE SCHEMA IF NOT EXISTS {quoted};\nSET LOCAL search_path = {quoted};\n");
    }
    let _ = write!(script, "\n{REFUSE};\n\n{HISTORY};\n\n");
    for migration in MIGRATIONS {
        let (version, checksum) = (migration.version, migration.checksum());
        let record =
            format!("INSERT INTO postgres_batch_migrations (version, checksum) VALUES ({version}, '{checksum}');");
        let _ = write!(script, "{}\n{record}\n\n", migration.sql);
    }
    script.push_str("COMMIT;\n");
    script
}

async fn apply(transactions: &mut Transactions) -> Result<Vec<Migration>, MigrateError> {
    let by = Instant::now() + WITHIN;
    let schema = transactions.schema().map(str::to_owned);
    let client = transactions.begin(by).await?;
    client.query_typed(LOCK, &[]).await.map_err(Error::from)?;
    if let Some(schema) = &schema {
        create_schema(client, schema).await?;
    }
    refuse_foreign_tables(client, &current_schema(client).await?).await?;
    client.batch_execute(HISTORY).await.map_err(Error::from)?;
    client.batch_execute("COMMIT").await.map_err(Error::from)?;

    let mut done = Vec::new();
    for migration in MIGRATIONS {
        let client = transactions.begin(by).await?;
        client.query_typed(LOCK, &[]).await.map_err(Error::from)?;
        if !is_applied(client, &migration).await? {
            client.batch_execute(migration.sql).await.map_err(Error::from)?;
            let checksum = migration.checksum();
            let record = "INSERT INTO postgres_batch_migrations (version, checksum) VALUES ($1, $2)";
            let parameters: [Parameter<'_>; 2] = [(&migration.version, Type::INT4), (&checksum, Type::TEXT)];
            client.query_typed(record, &parameters).await.map_err(Error::from)?;
            done.push(migration);
        }
        client.batch_execute("COMMIT").await.map_err(Error::from)?;
    }
    Ok(done)
}

/// Where tables are created, and found first.
async fn current_schema(client: &Client) -> Result<String, MigrateError> {
    let rows = client.query_typed("SELECT current_schema()::text", &[]).await.map_err(Error::from)?;
    rows.first().and_then(|row| row.get::<_, Option<String>>(0)).ok_or(MigrateError::NoSchema)
}

/// The server quotes the name: DDL takes no parameters.
async fn create_schema(client: &Client, schema: &str) -> Result<(), Error> {
    let exists = client.query_typed("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[(&schema, Type::TEXT)]).await?;
    if exists.is_empty() {
        let quoted = client.query_typed("SELECT quote_ident($1)", &[(&schema, Type::TEXT)]).await?;
        let quoted: String = quoted.first().map(|row| row.get(0)).unwrap_or_default();
        client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {quoted}")).await?;
    }
    Ok(())
}

async fn is_applied(client: &Client, migration: &Migration) -> Result<bool, MigrateError> {
    let sql = "SELECT checksum FROM postgres_batch_migrations WHERE version = $1";
    let rows = client.query_typed(sql, &[(&migration.version, Type::INT4)]).await.map_err(Error::from)?;
    let Some(row) = rows.first() else { return Ok(false) };
    if row.get::<_, String>(0) != migration.checksum() {
        return Err(MigrateError::Differs { version: migration.version });
    }
    Ok(true)
}

/// Tables of our names without our history are the seed's own, or somebody else's: say what is there and how to go on.
async fn refuse_foreign_tables(client: &Client, schema: &str) -> Result<(), MigrateError> {
    let ours = "SELECT to_regclass(quote_ident($1) || '.postgres_batch_migrations') IS NOT NULL";
    let ours = client.query_typed(ours, &[(&schema, Type::TEXT)]).await.map_err(Error::from)?;
    if ours.first().is_some_and(|row| row.get(0)) {
        return Ok(());
    }
    let found = client.query_typed(FOUND, &[]).await.map_err(Error::from)?;
    if found.is_empty() {
        return Ok(());
    }
    let mut text = format!("the schema {schema} has tables of the same names that postgres-batch did not make:\n");
    let mut renames = String::new();
    for row in &found {
        let (name, columns): (String, Option<String>) = (row.get("name"), row.get("columns"));
        let _ = writeln!(text, "  {name} ({})", columns.unwrap_or_default());
        let _ = writeln!(renames, "  ALTER TABLE {name} RENAME TO {name}_before;");
    }
    let _ = write!(
        text,
        "Either give the queue a schema of its own:\n  \
         postgres-batch --schema batch migrate up\n\
         or move them out of the way, migrate, and take over what still waits:\n{renames}  \
         -- postgres-batch migrate up\n  \
         INSERT INTO make_it_clap (duration_seconds) SELECT m.duration_seconds FROM make_it_clap_before m\n    \
         WHERE NOT EXISTS (SELECT 1 FROM clap_before c WHERE c.id = m.id AND c.status = 'SUCCESS') ORDER BY m.id;"
    );
    Err(MigrateError::ForeignTables(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_from_one_without_gaps() {
        assert_eq!(MIGRATIONS.map(|migration| migration.version), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_released_migration_never_changes() {
        let checksums = MIGRATIONS.map(|migration| migration.checksum()[..12].to_owned());
        assert_eq!(
            checksums,
            ["a174b4bf7ca6", "f570f3c560cd", "7d385db5d669", "3a83058ffcc7", "75834dee060d", "377d2ffdeadb"]
        );
    }

    #[test]
    fn a_schemas_name_is_quoted_in_the_script() {
        assert!(script(Some("a\"b")).contains("SET LOCAL search_path = \"a\"\"b\";"));
    }
}
