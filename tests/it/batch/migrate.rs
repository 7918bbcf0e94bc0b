//! The tables are made once, by whoever comes first, and never over somebody else's.

use clapometer::batch::{
    operator::migrate::MIGRATIONS,
    store::{Claim, FencingToken},
};
use tokio_postgres::types::Type;

use super::ground::{LONG, SOON, batch, expire_leases, job, queue, report, soon, store};
use crate::support::{
    binaries,
    cluster::Cluster,
    database::{Database, connect},
    executable::Executable,
    wait,
};

#[tokio::test]
async fn migrations_apply_once_and_say_so() {
    let database = Database::empty(Cluster::shared().await).await;
    let missing = batch(&database, ["migrate", "status"]).finish(SOON).await;
    assert_eq!((missing.code(), missing.output.matches("missing").count()), (Some(1), MIGRATIONS.len()), "{missing:?}");

    let first = batch(&database, ["migrate", "up"]).finish(SOON).await;
    let applied = MIGRATIONS.map(|migration| format!("applied {:04} {}\n", migration.version, migration.name));
    assert_eq!(first.output, applied.concat());
    let second = batch(&database, ["migrate", "up"]).finish(SOON).await;
    let nothing = format!("nothing to apply: all {} migrations are there\n", MIGRATIONS.len());
    assert_eq!((second.code(), &*second.output), (Some(0), &*nothing));
    let status = batch(&database, ["migrate", "status"]).finish(SOON).await;
    assert_eq!((status.code(), status.output.matches("applied 20").count()), (Some(0), MIGRATIONS.len()), "{status:?}");
}

/// A database runs what the sources show of a function.
#[tokio::test]
async fn the_installed_functions_and_the_view_have_the_text_of_their_files() {
    let database = queue(Cluster::shared().await).await;
    for (name, file) in [
        ("clap_take", include_str!("../../../src/batch/store/schema/clap_take.sql")),
        ("clap_succeed", include_str!("../../../src/batch/store/schema/clap_succeed.sql")),
    ] {
        let installed: String =
            database.value(&format!("SELECT prosrc FROM pg_proc WHERE oid = to_regproc('{name}')")).await;
        let body = file.split("$$").nth(1).unwrap();
        assert_eq!(installed, body, "{name}");
    }
    let file = include_str!("../../../src/batch/store/schema/clap_backlog.sql");
    database.execute(&file.replace("VIEW clap_backlog", "VIEW clap_backlog_of_file")).await;
    let same = "SELECT pg_get_viewdef('clap_backlog'::regclass) = pg_get_viewdef('clap_backlog_of_file'::regclass)";
    assert!(database.value::<bool>(same).await, "clap_backlog");
}

#[tokio::test]
async fn migrations_at_the_same_time_apply_once() {
    let database = Database::empty(Cluster::shared().await).await;
    let all: Vec<_> = (0..6).map(|_| batch(&database, ["--schema", "q", "migrate", "up"]).start()).collect();
    let mut applied = 0;
    for one in all {
        let finished = one.finish(SOON).await;
        assert_eq!(finished.code(), Some(0), "{finished:?}");
        applied += finished.output.matches("applied 0").count();
    }
    assert_eq!(applied, MIGRATIONS.len());
}

#[tokio::test]
async fn a_queue_per_schema_keeps_its_rows_to_itself() {
    let database = Database::empty(Cluster::shared().await).await;
    for schema in ["one", "Odd \"name\""] {
        let up = batch(&database, ["--schema", schema, "migrate", "up"]).finish(SOON).await;
        assert_eq!(up.code(), Some(0), "{up:?}");
    }
    let added = batch(&database, ["--schema", "Odd \"name\"", "add"]).finish(SOON).await;
    assert_eq!(added.output, "added clap 1\n");
    for (schema, outcome) in [("one", "NOTHING_TO_DO"), ("Odd \"name\"", "SUCCESS")] {
        let worked = batch(&database, ["--schema", schema, "work"]).finish(SOON).await;
        assert_eq!(report(&worked)["outcome"], outcome);
    }
    // Whatever the search_path of whoever books a success: it is one of the function's own queue.
    database.execute("INSERT INTO one.make_it_clap (id) VALUES (7); SET search_path = one; SELECT clap_take(7, 'a', NULL, NULL, NULL, 60, true)").await;
    assert_eq!(database.value::<String>("SELECT status FROM one.clap_succeed(7, 7)").await, "SUCCESS");
    // Whatever the search_path of whoever deletes a clap: its own queue has the request back.
    database.execute("DELETE FROM \"Odd \"\"name\"\"\".clap").await;
    assert_eq!(database.value::<i64>("SELECT pending FROM \"Odd \"\"name\"\"\".clap_backlog").await, 1);
    assert_eq!(database.value::<i64>("SELECT pending FROM one.clap_backlog").await, 0);
}

/// A schema that is renamed, as after a restore beside the old one: the command that the error names mends it.
#[tokio::test]
async fn a_queue_whose_schema_was_renamed_works_again_after_migrate_up() {
    let database = Database::empty(Cluster::shared().await).await;
    let run = async |arguments: &[&'static str]| {
        batch(&database, [&["--schema", "New"], arguments].concat()).finish(SOON).await
    };
    batch(&database, ["--schema", "old", "migrate", "up"]).finish(SOON).await;
    database.execute("ALTER SCHEMA old RENAME TO \"New\"").await;
    assert_eq!(run(&["add"]).await.output, "added clap 1\n");
    let refused = run(&["work"]).await;
    assert_eq!(refused.code(), Some(78), "{refused:?}");
    assert!(refused.output.contains("--schema \\\"New\\\" migrate up"), "{refused:?}");
    assert_eq!(run(&["migrate", "up"]).await.code(), Some(0));
    assert_eq!(report(&run(&["work"]).await)["outcome"], "SUCCESS");
}

#[tokio::test]
async fn the_seeds_own_tables_are_left_alone_and_the_way_on_is_told() {
    let database = Database::seed(Cluster::shared().await).await;
    database.execute("ALTER TABLE make_it_clap OWNER TO owner; ALTER TABLE clap OWNER TO owner").await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (1), (2), (3)").await;
    database.execute("INSERT INTO clap (id, status, session_id) VALUES (1, 'SUCCESS', 7), (2, 'FAILED', 8)").await;

    let worked = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!(worked.code(), Some(78), "{worked:?}");
    assert!(worked.output.contains("run `postgres-batch migrate up`"), "{worked:?}");

    let refused = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!(refused.code(), Some(1));
    insta::assert_snapshot!(refused.errors);

    // The way that it told, word for word.
    let lines: Vec<&str> = refused.errors.lines().map(str::trim).collect();
    let renames: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("ALTER TABLE")).collect();
    let insert = refused.errors.split_once("  INSERT").unwrap().1;
    database.execute(&renames.concat()).await;
    let up = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!(up.code(), Some(0), "{up:?}");
    database.execute(&format!("INSERT{insert}")).await;
    let waiting = "SELECT string_agg(duration_seconds::text, ' ' ORDER BY id) FROM make_it_clap WHERE pending";
    assert_eq!(database.value::<String>(waiting).await, "2 3");
}

#[tokio::test]
async fn a_migration_that_was_another_one_is_refused() {
    let database = queue(Cluster::shared().await).await;
    database.execute("UPDATE postgres_batch_migrations SET checksum = 'other' WHERE version = 2").await;
    let up = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!(up.code(), Some(1));
    assert!(up.errors.contains("migration 2 was applied with another text"), "{up:?}");
    let status = batch(&database, ["migrate", "status"]).finish(SOON).await;
    assert_eq!(status.code(), Some(1));
    assert!(status.output.contains("with another text"), "{status:?}");
}

/// The tables as an earlier version left them, made by the role `owner`.
async fn tables_of_version(cluster: &Cluster, version: i32) -> Database<'_> {
    let database = Database::empty(cluster).await;
    let script = printed(["migrate", "print"]).await;
    let last = format!("VALUES ({version}, '");
    let end = script.find(&last).and_then(|at| Some(at + script[at..].find(';')? + 1)).expect("the script has it");
    database.execute(&format!("SET ROLE owner; {} COMMIT", &script[..end])).await;
    database
}

fn applied_since(version: i32) -> String {
    let missing = MIGRATIONS.iter().filter(|migration| migration.version > version);
    missing.map(|migration| format!("applied {:04} {}\n", migration.version, migration.name)).collect()
}

#[tokio::test]
async fn tables_of_an_earlier_version_are_told_to_be_brought_up_to_date() {
    // What the later migrations add is not asked for by a claim.
    for version in 3..7 {
        let database = tables_of_version(Cluster::shared().await, version).await;
        database.execute("INSERT INTO make_it_clap DEFAULT VALUES").await;
        let refused = batch(&database, ["work"]).finish(SOON).await;
        assert_eq!(refused.code(), Some(78), "version {version}: {refused:?}");
        assert!(refused.output.contains("run `postgres-batch migrate up`"), "version {version}: {refused:?}");
        assert_eq!(database.value::<i64>("SELECT pending FROM clap_backlog").await, 1, "nothing was claimed");

        let up = batch(&database, ["migrate", "up"]).finish(SOON).await;
        assert_eq!(up.output, applied_since(version), "version {version}: {up:?}");
        let worked = batch(&database, ["work"]).finish(SOON).await;
        assert_eq!((worked.code(), report(&worked)["outcome"].as_str()), (Some(0), Some("SUCCESS")), "{worked:?}");
    }
}

/// Where not everybody may call a function, as after ALTER DEFAULT PRIVILEGES, the roles that may are not locked out.
#[tokio::test]
async fn the_right_to_claim_survives_the_functions_that_are_replaced() {
    let database = tables_of_version(Cluster::shared().await, 5).await;
    database
        .execute(
            "SET ROLE owner; REVOKE ALL ON FUNCTION clap_take FROM PUBLIC; GRANT EXECUTE ON FUNCTION clap_take TO scaler;
             GRANT SELECT ON make_it_clap TO scaler; GRANT UPDATE (pending) ON make_it_clap TO scaler;
             GRANT SELECT, INSERT, UPDATE ON clap, clap_attempt TO scaler; INSERT INTO make_it_clap DEFAULT VALUES",
        )
        .await;
    let up = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!(up.output, applied_since(5), "{up:?}");
    let rights = "SELECT string_agg(grantee::regrole::text, ' ' ORDER BY grantee::regrole::text) FROM pg_proc, aclexplode(proacl)
                   WHERE proname LIKE 'clap_take%'";
    assert_eq!(database.value::<String>(rights).await, "owner scaler", "and not PUBLIC");
    let worked = Executable::postgres_batch(["work"]).variables(database.scaler().environment()).finish(SOON).await;
    assert_eq!((worked.code(), report(&worked)["outcome"].as_str()), (Some(0), Some("SUCCESS")), "{worked:?}");
    let voids = "INSERT INTO clap_voided_session (session_id) VALUES (1); DELETE FROM clap_voided_session";
    let worker = connect(&database.scaler().driver()).await;
    worker.batch_execute(voids).await.expect("a worker's role may void a session");
}

/// Whoever waits for a table's lock makes everybody wait who comes later: claims and heartbeats go on meanwhile.
#[tokio::test]
async fn a_migration_behind_an_open_transaction_lets_the_others_pass_and_names_it() {
    let database = tables_of_version(Cluster::shared().await, 6).await;
    let open = database.connect().await;
    open.batch_execute("SET application_name = 'forgotten'; BEGIN; SELECT count(*) FROM clap").await.unwrap();
    let mut migrating = batch(&database, ["migrate", "up"]).start();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
                    AND relation = 'clap'::regclass";
    for _ in 0..2 {
        wait::first("the migration waits", SOON, async || (database.value::<i64>(waits).await == 1).then_some(()))
            .await;
        // Behind a migration that waited for all of its time this would take 30 s.
        database.execute("SET lock_timeout = '10s'; UPDATE clap SET lease_expires_at = now() WHERE id = 0").await;
        assert!(migrating.ended().is_none(), "it tries again");
    }
    open.batch_execute("COMMIT").await.unwrap();
    let finished = migrating.finish(SOON).await;
    assert_eq!((finished.code(), finished.output), (Some(0), applied_since(6)), "{}", finished.errors);
    let holder = "the tables are in use; waiting for pid ";
    assert!(finished.errors.contains(holder) && finished.errors.contains("(forgotten)"), "{}", finished.errors);
}

/// A statement of version 6, run as its workers do; returns how many rows it returned.
async fn as_version_6(database: &Database<'_>, sql: &str, job: &str, session: i64) -> usize {
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
        (&session, Type::INT8),
        (&job, Type::TEXT),
        (&job, Type::TEXT),
        (&job, Type::TEXT),
        (&job, Type::TEXT),
        (&60.0, Type::FLOAT8),
    ];
    let client = connect(&database.owner().driver()).await;
    client.query_typed(sql, &parameters).await.expect("the tables still take it").len()
}

const TAKE_6: &str = "SELECT id, iteration, max_attempts, cancel_requested, duration_seconds, payload, job_attempts, request_key, requested_at
  FROM clap_take($1, $2, $3, $4, $5, $6, unless_due => true)";

/// During a rollout workers of both versions share the queue: each takes over what the other has left.
#[tokio::test]
async fn workers_of_the_earlier_version_work_beside_new_ones() {
    let database = tables_of_version(Cluster::shared().await, 6).await;
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (1), (3)").await;
    assert_eq!(as_version_6(&database, TAKE_6, "in flight", 11).await, 1);
    let up = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!(up.output, applied_since(6), "{up:?}");

    // The row that was in flight goes on: its heartbeat and its success are those of version 6.
    let renew: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&1_i64, Type::INT8), (&11_i64, Type::INT8), (&60.0, Type::FLOAT8)];
    let client = connect(&database.owner().driver()).await;
    assert_eq!(client.query_typed(include_str!("version_6/renew.sql"), &renew).await.unwrap().len(), 1);
    assert_eq!(client.query("SELECT * FROM clap_succeed(1, 11)", &[]).await.unwrap().len(), 1);

    // An old worker's crash counts, a new worker takes over, and an old one takes over from a new one.
    assert_eq!(as_version_6(&database, TAKE_6, "old", 12).await, 1);
    expire_leases(&database).await;
    let mut store = store(&database);
    let taken = store.claim(Claim::TakeOver, &job("new"), FencingToken::draw(), LONG, soon()).await.unwrap().unwrap();
    assert_eq!((taken.id, taken.iteration), (2, 2));
    store.renew(&taken, LONG, soon()).await.unwrap().expect("it is ours");
    expire_leases(&database).await;
    assert_eq!(as_version_6(&database, include_str!("version_6/take_over.sql"), "old again", 13).await, 1);
    expire_leases(&database).await;
    assert_eq!(client.query(include_str!("version_6/mark_dead.sql"), &[]).await.unwrap().len(), 1);
    let ended = "SELECT string_agg(format('%s %s-%s', status, iteration, interruptions), ', ' ORDER BY id) FROM clap";
    assert_eq!(database.value::<String>(ended).await, "SUCCESS 1-0, DEAD 3-0");
}

async fn printed<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    let printed = Executable::postgres_batch(arguments).finish(SOON).await;
    assert_eq!(printed.code(), Some(0), "needs no database: {printed:?}");
    printed.output
}

/// By any client: here the driver, which knows SQL and nothing of psql.
#[tokio::test]
async fn the_printed_script_leaves_what_up_leaves() {
    let database = Database::empty(Cluster::shared().await).await;
    let script = printed(["--schema", "printed", "migrate", "print"]).await;
    database.execute(&format!("SET ROLE owner; {script}")).await;
    let up = batch(&database, ["--schema", "printed", "migrate", "up"]).finish(SOON).await;
    let nothing = format!("nothing to apply in schema printed: all {} migrations are there\n", MIGRATIONS.len());
    assert_eq!(up.output, nothing, "{up:?}");
}

#[tokio::test]
async fn the_printed_script_is_for_psql_too() {
    let Some(psql) = binaries::client("psql") else {
        crate::support::skip::skip("psql is not installed");
        return;
    };
    let database = Database::empty(Cluster::shared().await).await;
    let run = Executable::new(&psql, ["-q", "-v", "ON_ERROR_STOP=1", "-f", "script.sql"])
        .file("script.sql", &printed(["migrate", "print"]).await)
        .variables(database.owner().environment())
        .finish(SOON)
        .await;
    assert_eq!((run.code(), &*run.errors), (Some(0), ""), "{run:?}");
    let status = batch(&database, ["migrate", "status"]).finish(SOON).await;
    assert_eq!(status.code(), Some(0), "{status:?}");
}

#[tokio::test]
async fn the_printed_script_touches_no_tables_that_are_there() {
    let cluster = Cluster::shared().await;
    let script = printed(["migrate", "print"]).await;
    for (database, expected) in [
        (Database::seed(cluster).await, "the schema public has tables named make_it_clap or clap"),
        (queue(cluster).await, "the schema public has tables of postgres-batch already"),
    ] {
        let error = database.connect().await.batch_execute(&script).await.unwrap_err();
        let error = error.as_db_error().expect("the server's own");
        assert!(error.message().contains(expected) && error.hint().is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_no_missing_migration() {
    let up = Executable::postgres_batch(["migrate", "up"])
        .variable("PGHOST", "127.0.0.1")
        .variable("PGPORT", "1")
        .variable("PGUSER", "nobody")
        .finish(SOON)
        .await;
    assert_eq!(up.code(), Some(69), "{up:?}");
}

/// Work that comes or goes is notified, and heartbeats are not; as the worker, and in a schema.
#[tokio::test]
async fn the_tables_tell_of_what_counts_and_not_of_heartbeats() {
    let database = Database::empty(Cluster::shared().await).await;
    for _ in 0..2 {
        let up = batch(&database, ["--schema", "q", "migrate", "up", "--with-notify", "claps"]).finish(SOON).await;
        assert_eq!(up.code(), Some(0), "{up:?}");
        assert!(up.output.ends_with("installed the triggers that notify clapometer in schema q\n"), "{up:?}");
    }
    let (client, mut connection) = database.owner().driver().connect(tokio_postgres::NoTls).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                sender.send(notification.channel().to_owned()).unwrap();
            }
        }
    });
    client.batch_execute("LISTEN claps").await.unwrap();
    for statement in [
        "INSERT INTO q.make_it_clap (duration_seconds) VALUES (1)",
        "INSERT INTO q.clap (id, status, session_id, iteration, max_attempts, job_uid, started_at) VALUES (1, 'RUNNING', 7, 1, 5, 'j', now())",
        "UPDATE q.clap SET status = 'SUCCESS', finished_at = now() WHERE id = 1",
        "DELETE FROM q.make_it_clap",
    ] {
        database.execute(statement).await;
        let told = wait::bounded(statement, SOON, heard.recv()).await;
        assert_eq!(told.as_deref(), Some("claps"), "{statement}");
    }
    database.execute("INSERT INTO q.make_it_clap (duration_seconds) VALUES (1)").await;
    wait::bounded("the insert", SOON, heard.recv()).await;
    let heartbeats = ["--schema", "q", "work", "--lease", "20s", "--beat", "50ms"];
    let worked = batch(&database, heartbeats).finish(SOON).await;
    assert_eq!(worked.code(), Some(0), "{worked:?}");
    // What is sent last is heard last.
    client.batch_execute("NOTIFY claps, 'last'").await.unwrap();
    let mut count = 0;
    for _ in 0..3 {
        wait::bounded("a notification", SOON, heard.recv()).await;
        count += 1;
    }
    assert_eq!(
        (count, heard.try_recv().ok()),
        (3, None),
        "a claim, a success and the last one; twenty heartbeats are silent"
    );
}

/// The seed's article, statement by statement.
#[tokio::test]
async fn the_seeds_statements_stay_valid() {
    let database = queue(Cluster::shared().await).await;
    for _ in 0..11 {
        database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (40);").await;
    }
    let waiting =
        "SELECT COUNT(1) FROM make_it_clap LEFT JOIN clap ON make_it_clap.id = clap.id WHERE clap.status IS NULL;";
    assert_eq!(database.value::<i64>(waiting).await, 11);
    let divided = "SELECT ceil(COUNT(1)::decimal / 10)::float8 FROM make_it_clap LEFT JOIN clap ON make_it_clap.id = clap.id WHERE clap.status IS NULL;";
    assert_eq!(database.value::<f64>(divided).await, 2.0);
    let client = database.connect().await;
    let statement = client.prepare("SELECT * FROM clap").await.unwrap();
    let columns: Vec<&str> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
    let seed = ["id", "status", "session_id", "creation_date", "creation_time", "end_time", "iteration"];
    assert_eq!(columns[..7], seed);
}
