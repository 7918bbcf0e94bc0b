//! The migrations, which only go forward.

use std::{fmt::Write as _, time::Duration};

use postgres_protocol::escape::escape_identifier;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, types::Type};

use crate::{
    batch::transaction::{Error, Parameter, Transactions},
    notify_sql::{Identifier, NotifyTable, NotifyTrigger, Operation},
    postgres::classify::is_lock_timeout,
    terminal::{
        complain,
        style::{ColorChoice, Style},
        table::{self, Align, Cell},
    },
};

/// One step in the history of the tables.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number; they count from one without gaps.
    pub version: i32,
    /// Its name.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// All migrations, the oldest first.
pub const MIGRATIONS: [Migration; 11] = [
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
    Migration {
        version: 7,
        name: "unanswered_claims",
        sql: include_str!("../../../migrations/0007_unanswered_claims.sql"),
    },
    Migration { version: 8, name: "odd_rows", sql: include_str!("../../../migrations/0008_odd_rows.sql") },
    Migration { version: 9, name: "dead_entries", sql: include_str!("../../../migrations/0009_dead_entries.sql") },
    Migration { version: 10, name: "due_claps", sql: include_str!("../../../migrations/0010_due_claps.sql") },
    Migration { version: 11, name: "stray_rows", sql: include_str!("../../../migrations/0011_stray_rows.sql") },
];

/// The longest that `migrate up` may take. The tables are new, so that only waiting for another migration takes long.
const WITHIN: Duration = Duration::from_secs(60);

/// Sets how long a step waits for the locks of its tables.
const BRIEFLY: &str = "SET LOCAL lock_timeout = '500ms'";

/// The pause between two tries of a step, in which claims and heartbeats go on.
const PAUSE: Duration = Duration::from_secs(1);

/// Creates the table that records the migrations. Its name is not schema_migrations: that belongs to Rails and Ecto.
const HISTORY: &str = "\
CREATE TABLE IF NOT EXISTS postgres_batch_migrations (
    version    integer     PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// Lets one migration at a time run in a database, until its transaction ends. An advisory lock works before the
/// schema exists.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('postgres-batch migrate', 0))";

const APPLIED: &str = "\
SELECT version, checksum, to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS\"Z\"') AS applied_at
  FROM postgres_batch_migrations
 ORDER BY version";

/// Lists the relations in the schema that have the names of the batch's.
const FOUND: &str = "\
SELECT c.relname::text AS name,
       (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum)
          FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = current_schema() AND c.relname IN ('make_it_clap', 'clap', 'clap_attempt', 'clap_backlog')
 ORDER BY c.relname DESC";

/// The state of one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The migration's number.
    pub version: i32,
    /// Its name, unless it is newer than this executable.
    pub name: Option<&'static str>,
    /// The time in UTC at which it was applied.
    pub applied_at: Option<String>,
    /// True if it was applied with another text than this executable's.
    pub differs: bool,
}

/// The reason why a migration failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database's error.
    #[error(transparent)]
    Database(#[from] Error),
    /// There is no schema to create the tables in.
    #[error("search_path names no schema that exists: give one with --schema")]
    NoSchema,
    /// Tables of another origin have the same names.
    #[error("{0}")]
    ForeignTables(String),
    /// A migration was applied with another text than this executable's.
    #[error(
        "migration {version} was applied with another text than this executable's: \
         the tables were made by another build of postgres-batch. Use that build, or give an empty schema with --schema"
    )]
    Differs {
        /// The migration's number.
        version: i32,
    },
    /// Somebody holds a lock on the tables.
    #[error("the tables are in use: gave up waiting for {0}; nothing of the last step was kept")]
    InUse(String),
    /// It took too long.
    #[error("the migration took longer than {} s; nothing of its last step was kept", WITHIN.as_secs())]
    Timeout,
}

impl State {
    /// Returns whether it is applied with the text of this executable.
    pub fn is_good(&self) -> bool {
        self.applied_at.is_some() && !self.differs
    }

    fn row(&self) -> Vec<Cell> {
        let name = self.name.unwrap_or("(newer than this executable)");
        let state = match &self.applied_at {
            None => Cell::styled("missing", Style::Warning),
            Some(at) if self.differs => {
                Cell::styled(format!("applied {at}, with another text than this one's"), Style::Bad)
            }
            Some(at) => Cell::from(format!("applied {at}")),
        };
        vec![Cell::from(format!("{:04}", self.version)), Cell::from(name), state]
    }
}

/// Returns the states as a table.
pub fn table(states: &[State], colors: ColorChoice) -> String {
    let heading = [("NUMBER", Align::Right), ("NAME", Align::Left), ("STATE", Align::Left)];
    let rows: Vec<Vec<Cell>> = states.iter().map(State::row).collect();
    // Without a width, since the end of a line says what is wrong.
    table::render(&heading, &rows, None, colors)
}

impl Migration {
    /// Returns the SHA-256 of the text, in hexadecimal.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Lets the functions find their tables where these are now. Each names its schema, because an application's
/// `search_path` may be another; a schema that was renamed, as after a restore, leaves the old name in them.
const FIND_TABLES: &str = "\
DO $$
DECLARE
    lost regprocedure;
BEGIN
    FOR lost IN
        SELECT p.oid
          FROM pg_proc p, unnest(p.proconfig) setting
         WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
           AND p.proname IN ('clap_sync_pending', 'clap_sync_truncated', 'clap_keep_pending', 'clap_succeed')
           AND setting LIKE 'search_path=%'
           AND NOT string_to_array(replace(substr(setting, 13), '\"$user\"', quote_ident(current_user)), ', ')
                   @> ARRAY[quote_ident(current_schema())]
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path FROM CURRENT', lost);
    END LOOP;
END $$";

/// Applies the missing migrations, each in a transaction of its own, and returns them.
///
/// # Errors
/// See [`MigrateError`]. Migrations before the one that failed stay applied.
pub async fn up(transactions: &mut Transactions) -> Result<Vec<Migration>, MigrateError> {
    let result = timeout(WITHIN, apply(transactions)).await.unwrap_or(Err(MigrateError::Timeout));
    if result.is_err() {
        transactions.abandon();
    }
    result
}

/// Installs the triggers that notify clapometer of a change in the backlog.
///
/// Heartbeats set no column that counts, so that they fire no trigger. It may be run again.
///
/// # Errors
/// See [`MigrateError`]. After an error neither table has a new trigger.
pub async fn install_notify(transactions: &mut Transactions, channel: Identifier) -> Result<(), MigrateError> {
    let result = timeout(WITHIN, install(transactions, channel)).await.unwrap_or(Err(MigrateError::Timeout));
    if result.is_err() {
        transactions.abandon();
    }
    result
}

async fn install(transactions: &mut Transactions, channel: Identifier) -> Result<(), MigrateError> {
    // CREATE OR REPLACE FUNCTION fails when two sessions create the same function for the first time: one at a time.
    patiently(transactions, Instant::now() + WITHIN, async |client| {
        let schema = current_schema(client).await?;
        let name = |text: String| Identifier::new(text).expect("PostgreSQL's own names are names");
        let requests = (vec![Operation::Insert, Operation::Delete], "make_it_clap", Vec::new());
        // A claim, an end, a retry and a cancellation set the status; a heartbeat does not.
        let claps =
            (vec![Operation::Insert, Operation::Update, Operation::Delete], "clap", vec![name("status".to_owned())]);
        for (operations, table, columns) in [requests, claps] {
            let table = NotifyTable::new(name(schema.clone()), name(table.to_owned()));
            let trigger = NotifyTrigger { table, channel: channel.clone(), operations, columns };
            client.batch_execute(&trigger.install()).await.map_err(failed)?;
        }
        Ok(())
    })
    .await
}

/// Runs a step in a transaction of its own, one migration at a time in a database.
///
/// A step waits for the locks of its tables only briefly, but again and again. Whoever comes later waits behind it:
/// a longer wait would let leases run out, for one transaction that somebody has left open.
async fn patiently<T>(
    transactions: &mut Transactions,
    by: Instant,
    step: impl AsyncFn(&Client) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    let mut named = String::new();
    loop {
        let client = transactions.begin(by).await?;
        client.query_typed(LOCK, &[]).await.map_err(Error::from)?;
        client.batch_execute(BRIEFLY).await.map_err(Error::from)?;
        match step(client).await {
            Ok(done) => {
                client.batch_execute("COMMIT").await.map_err(Error::from)?;
                return Ok(done);
            }
            Err(MigrateError::InUse(_)) => transactions.abandon(),
            Err(error) => return Err(error),
        }
        let rows = transactions.run(include_str!("../store/operator/lock_holder.sql"), &[], by).await?;
        let holder = rows.first().map(|row| row.try_get::<_, String>("holder")).transpose().map_err(Error::from)?;
        let holder = holder.unwrap_or_else(|| "a transaction that has ended meanwhile".to_owned());
        if Instant::now() + 3 * PAUSE >= by {
            return Err(MigrateError::InUse(holder));
        }
        if holder != named {
            complain(&format!("postgres-batch: the tables are in use; waiting for {holder}"));
            named = holder;
        }
        sleep(PAUSE).await;
    }
}

/// Tells a lock that was waited for in vain from other errors of a step.
fn failed(error: tokio_postgres::Error) -> MigrateError {
    if is_lock_timeout(&error) { MigrateError::InUse(String::new()) } else { Error::from(error).into() }
}

/// Returns the state of every migration.
///
/// # Errors
/// The database's. Missing tables are no error.
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

/// Ends the script in a schema where it must not run. It is plain SQL, since any client may run the script.
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

/// Returns all migrations as one script of one transaction, which records the same history as [`up`].
pub fn script(schema: Option<&str>) -> String {
    let mut script = String::from(
        "-- The tables of postgres-batch, in one transaction: after an error nothing of it stays. With psql, add\n\
         -- -v ON_ERROR_STOP=1, or it goes on to the end and exits 0.\nBEGIN;\n",
    );
    if let Some(schema) = schema {
        let quoted = escape_identifier(schema);
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
        let applied = patiently(transactions, by, async |client| {
            if is_applied(client, &migration).await? {
                return Ok(false);
            }
            client.batch_execute(migration.sql).await.map_err(failed)?;
            let checksum = migration.checksum();
            let record = "INSERT INTO postgres_batch_migrations (version, checksum) VALUES ($1, $2)";
            let parameters: [Parameter<'_>; 2] = [(&migration.version, Type::INT4), (&checksum, Type::TEXT)];
            client.query_typed(record, &parameters).await.map_err(Error::from)?;
            Ok(true)
        })
        .await?;
        done.extend(applied.then_some(migration));
    }
    patiently(transactions, by, async |client| client.batch_execute(FIND_TABLES).await.map_err(failed)).await?;
    Ok(done)
}

/// Returns the schema in which tables are created, and found first.
async fn current_schema(client: &Client) -> Result<String, MigrateError> {
    let rows = client.query_typed("SELECT current_schema()::text", &[]).await.map_err(Error::from)?;
    rows.first().and_then(|row| row.get::<_, Option<String>>(0)).ok_or(MigrateError::NoSchema)
}

/// Creates the schema if it is missing. The server quotes the name, since DDL takes no parameters.
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

/// Refuses a schema that has the batch's tables without its history: they are the seed's own, or of another origin.
/// The error lists them and says how to go on.
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
        assert_eq!(MIGRATIONS.map(|migration| migration.version), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn states_line_up_however_long_a_name_is() {
        let at = || Some("2026-11-30 03:12:00Z".to_owned());
        let state = |version, name, applied_at, differs| State { version, name, applied_at, differs };
        let states = [
            state(1, Some("claps"), at(), false),
            state(7, Some("unanswered_claims"), at(), true),
            state(8, Some("odd_rows"), None, false),
            state(12, None, at(), false),
        ];
        insta::assert_snapshot!(table(&states, ColorChoice::Plain), @r"
        NUMBER  NAME                          STATE
          0001  claps                         applied 2026-11-30 03:12:00Z
          0007  unanswered_claims             applied 2026-11-30 03:12:00Z, with another text than this one's
          0008  odd_rows                      missing
          0012  (newer than this executable)  applied 2026-11-30 03:12:00Z
        ");
    }

    #[test]
    fn a_released_migration_never_changes() {
        let checksums = MIGRATIONS.map(|migration| migration.checksum()[..12].to_owned());
        assert_eq!(
            checksums,
            [
                "a174b4bf7ca6",
                "f570f3c560cd",
                "7d385db5d669",
                "3a83058ffcc7",
                "75834dee060d",
                "377d2ffdeadb",
                "08fa534b9947",
                "d9819df03316",
                "3ddbd3e179a2",
                "03dc280bdba9",
                "a7a356800768",
            ]
        );
    }

    /// The claim is read in `store/schema/`, and installed by the newest migration that has it: they are the same text.
    #[test]
    fn the_newest_migration_installs_the_present_text() {
        for (created, text) in [
            ("FUNCTION clap_take(", include_str!("../store/schema/clap_take.sql")),
            ("FUNCTION clap_succeed(", include_str!("../store/schema/clap_succeed.sql")),
            ("VIEW clap_backlog", include_str!("../store/schema/clap_backlog.sql")),
        ] {
            let creates =
                |sql: &str| sql.contains(&format!("CREATE {created}")) || sql.contains(&format!("REPLACE {created}"));
            assert!(creates(text), "{created}: {text}");
            let newest =
                MIGRATIONS.iter().rfind(|migration| creates(migration.sql)).expect("some migration creates it");
            assert!(newest.sql.contains(text), "{created}: migration {} has another text", newest.version);
        }
    }

    #[test]
    fn a_schemas_name_is_quoted_in_the_script() {
        assert!(script(Some("a\"b")).contains("SET LOCAL search_path = \"a\"\"b\";"));
    }
}
