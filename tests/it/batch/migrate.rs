//! The tables are made once, by whoever comes first, and never over somebody else's.

use clapometer::batch::operator::migrate::MIGRATIONS;

use super::ground::{SOON, batch, queue};
use crate::support::{binaries, cluster::Cluster, database::Database, executable::Executable, wait};

#[tokio::test]
async fn migrations_apply_once_and_say_so() {
    let database = Database::empty(Cluster::shared().await).await;
    let missing = batch(&database, ["migrate", "status"]).finish(SOON).await;
    assert_eq!((missing.code(), missing.output.matches("missing").count()), (Some(1), MIGRATIONS.len()), "{missing:?}");

    let first = batch(&database, ["migrate", "up"]).finish(SOON).await;
    let applied = MIGRATIONS.map(|migration| format!("applied {:04} {}\n", migration.version, migration.name));
    assert_eq!(first.output, applied.concat());
    let second = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!((second.code(), &*second.output), (Some(0), "nothing to apply: all 6 migrations are there\n"));
    let status = batch(&database, ["migrate", "status"]).finish(SOON).await;
    assert_eq!((status.code(), status.output.matches("applied 20").count()), (Some(0), MIGRATIONS.len()), "{status:?}");
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
        assert_eq!(super::ground::report(&worked)["outcome"], outcome);
    }
    // Whatever the search_path of whoever books a success: it is one of the function's own queue.
    database.execute("INSERT INTO one.make_it_clap (id) VALUES (7); SET search_path = one; SELECT clap_take(7, 'a', NULL, NULL, NULL, 60, true)").await;
    assert_eq!(database.value::<String>("SELECT status FROM one.clap_succeed(7, 7)").await, "SUCCESS");
    // Whatever the search_path of whoever deletes a clap: its own queue has the request back.
    database.execute("DELETE FROM \"Odd \"\"name\"\"\".clap").await;
    assert_eq!(database.value::<i64>("SELECT pending FROM \"Odd \"\"name\"\"\".clap_backlog").await, 1);
    assert_eq!(database.value::<i64>("SELECT pending FROM one.clap_backlog").await, 0);
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

#[tokio::test]
async fn tables_of_an_earlier_version_are_told_to_be_brought_up_to_date() {
    let database = queue(Cluster::shared().await).await;
    database.execute("DROP FUNCTION clap_take, clap_succeed").await;
    database.execute("DELETE FROM postgres_batch_migrations WHERE version IN (4, 6)").await;
    for command in ["work", "explain"] {
        let finished = batch(&database, [command]).finish(SOON).await;
        assert_eq!(finished.code(), Some(78), "{finished:?}");
        let said = format!("{}{}", finished.output, finished.errors);
        assert!(said.contains("clap_take") && said.contains("run `postgres-batch migrate up`"), "{said}");
    }
    let up = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!(up.output, "applied 0004 functions\napplied 0006 request_columns\n", "{up:?}");
    let worked = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!(worked.code(), Some(0), "{worked:?}");
}

/// Where not everybody may call a function, as after ALTER DEFAULT PRIVILEGES, the roles that may are not locked out.
#[tokio::test]
async fn the_right_to_claim_survives_the_function_that_is_replaced() {
    let database = queue(Cluster::shared().await).await;
    let before = MIGRATIONS.iter().find(|migration| migration.name == "functions").unwrap().sql;
    database
        .execute(&format!(
            "DROP FUNCTION clap_take, clap_succeed; SET ROLE owner; {before};
             REVOKE ALL ON FUNCTION clap_take FROM PUBLIC; GRANT EXECUTE ON FUNCTION clap_take TO scaler;
             DELETE FROM postgres_batch_migrations WHERE version = 6; INSERT INTO make_it_clap DEFAULT VALUES"
        ))
        .await;
    let early = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!(early.code(), Some(78), "{early:?}");
    assert_eq!(database.value::<i64>("SELECT pending FROM clap_backlog").await, 1, "nothing was claimed");

    let up = batch(&database, ["migrate", "up"]).finish(SOON).await;
    assert_eq!(up.output, "applied 0006 request_columns\n", "{up:?}");
    let rights = "SELECT string_agg(grantee::regrole::text, ' ' ORDER BY grantee::regrole::text) FROM pg_proc, aclexplode(proacl)
                   WHERE proname LIKE 'clap_take%'";
    assert_eq!(database.value::<String>(rights).await, "owner scaler", "and not PUBLIC");
    let worked = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!(worked.code(), Some(0), "{worked:?}");
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
    assert_eq!(up.output, "nothing to apply in schema printed: all 6 migrations are there\n", "{up:?}");
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

/// What there is to do changes with a notification, heartbeats without one; as the worker, and in a schema.
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
    let beating = ["--schema", "q", "work", "--lease", "20s", "--beat", "50ms"];
    let worked = batch(&database, beating).finish(SOON).await;
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
        "a claim, a success and the last one; twenty beats are silent"
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
