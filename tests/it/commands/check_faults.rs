//! `clapometer check` with broken databases and queries: its messages and its advice.

use super::{SOON, configuration, redacted, run};
use crate::support::{cluster::Cluster, database::Database, executable::Executable};

#[tokio::test]
async fn each_broken_query_is_shown_where_it_is_broken_with_what_to_do() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE TABLE job (n int, queue text); GRANT SELECT ON job TO scaler; INSERT INTO job VALUES (1, 'mail'), (2, NULL);
             CREATE TABLE hidden (); GRANT SELECT ON hidden TO scaler; ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
             CREATE TABLE forbidden (); CREATE TABLE secret (); CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE person (mood mood, born date, tags jsonb); GRANT SELECT ON person TO scaler;
             CREATE SCHEMA app; CREATE TABLE app.hidden ();
             CREATE VIEW through AS SELECT FROM forbidden; CREATE VIEW \"Odd name\" AS SELECT FROM secret;
             CREATE FUNCTION private() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION private() FROM public;
             CREATE SEQUENCE numbers",
        )
        .await;
    let queries = r#"
  absent: {sql: SELECT count(*) FROM nowhere}
  colour: {sql: "SELECT count(*)\n  FROM job\n WHERE colour = 'red'"}
  forbidden: {sql: SELECT count(*) FROM forbidden}
  hidden: {sql: SELECT count(*) FROM hidden}
  no-column: {sql: SELECT count(*) AS n FROM job, value_column: outstanding}
  null: {sql: SELECT max(n) FROM job WHERE n > 5}
  two-columns: {sql: "SELECT 1, 2"}
  two-rows: {sql: SELECT n FROM job}
  no-row: {sql: SELECT n FROM job WHERE n > 5}
  negative: {sql: SELECT -1}
  text: {sql: "SELECT 'many'"}
  text-column: {sql: SELECT queue FROM job WHERE n = 1}
  typing: {sql: "SELECT count(*) FORM job /* which one? */"}
  comma: {sql: "SELECT count(*) FROM job WHERE queue IN ('mail',)"}
  equals: {sql: "SELECT count(*) FROM job WHERE queue == 'mail'"}
  capitals: {sql: SELECT count(*) FROM Job.Items}
  capital-column: {sql: SELECT count(*) FROM job WHERE runAfter < now()}
  writes: {sql: "WITH gone AS (DELETE FROM job RETURNING 1) SELECT count(*) FROM gone"}
  slow: {sql: SELECT count(*) FROM pg_sleep(20), timeout: 2s}
  nan: {sql: "SELECT 'NaN'::float8"}
  nul-key: {sql: "SELECT queue, count(*) AS n FROM job GROUP BY queue", group_by: queue, value_column: n}
  enum-column: {sql: SELECT mood FROM person}
  enum-value: {sql: "SELECT count(*) FROM person WHERE mood = 'glad'"}
  enum-parameter: {sql: "SELECT count(*) FROM person WHERE mood = $1", parameters: {mood: text}}
  date-column: {sql: SELECT max(born) FROM person}
  json-column: {sql: "SELECT tags FROM person"}
  no-function: {sql: SELECT cuont(*) FROM job}
  no-cast: {sql: "SELECT count(*) FROM job WHERE queue"}
  division: {sql: SELECT 1/0 FROM job}
  forbidden-join: {sql: SELECT count(*) FROM secret JOIN forbidden ON true}
  forbidden-view: {sql: SELECT count(*) FROM through}
  forbidden-quoted: {sql: SELECT count(*) FROM "Odd name"}
  forbidden-schema: {sql: SELECT count(*) FROM app.hidden}
  forbidden-function: {sql: SELECT private()}
  forbidden-sequence: {sql: SELECT last_value FROM numbers}
  aggregate: {sql: "SELECT queue, count(*) FROM job"}
  quotes: {sql: "SELECT count(*) FROM job WHERE queue = \"mail\""}
  alias: {sql: SELECT count(*) FROM job AS j WHERE job.n = 1}
  ambiguous: {sql: "SELECT count(*) FROM job AS a, job AS b WHERE n = 1"}
  locks: {sql: SELECT n FROM job FOR UPDATE}
  limit: {sql: SELECT count(*) FROM job LIMIT -1}
  no-schema: {sql: SELECT count(*) FROM nowhere.job}
  other-database: {sql: SELECT count(*) FROM app.public.job}
  infinite: {sql: "SELECT 'Infinity'::float8"}
  key-twice: {sql: "SELECT 'a' AS queue, n FROM job", group_by: queue, value_column: n}
  next-change: {sql: "SELECT 1 AS n, 'soon' AS at", value_column: n, next_change: at}
  pending-claps: {sql: SELECT 1}
  outstanding-claps: {sql: SELECT 2}
  clap-workers: {sql: SELECT 3}
"#
    .replace("  null:", "  \"null\":");
    let finished =
        run(&configuration(&database.scaler(), &queries), &["check", "--param", "enum-parameter.mood=sad"]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(1), ""), "{}", finished.output);
    let version: String = database.value("SHOW server_version").await;
    let port = format!("127.0.0.1:{}", database.cluster().port());
    let known = [(&*version, "<version>"), (&*port, "127.0.0.1:<port>"), (database.name(), "<database>")];
    insta::assert_snapshot!(redacted(&finished.output, &known));
}

#[tokio::test]
async fn a_missing_table_under_a_query_that_was_changed_is_a_failure() {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = "  pending-claps: {sql: SELECT count(*) FROM make_it_clap}\n";
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    assert_eq!(finished.code(), Some(1), "{}", finished.output);
    assert!(finished.output.contains("failed   pending-claps"), "{}", finished.output);
    assert!(
        finished.output.contains("absent   built in for postgres-batch, whose tables are not here: clap-workers,"),
        "{}",
        finished.output
    );
    assert!(!finished.output.contains("warning"), "{}", finished.output);
}

#[tokio::test]
async fn a_database_that_cannot_be_had_exits_with_69_and_the_others_are_checked() {
    let database = Database::empty(Cluster::shared().await).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let queries = "queries:\n  jobs: {sql: SELECT 1, database: good}\n  lost: {sql: SELECT 1, database: gone}\n";
    let yaml = format!(
        "databases:\n{}{}{}{}{queries}",
        database.scaler().yaml("good"),
        database.scaler().by_way_of(nobody).yaml("gone"),
        database.scaler().with_password("canary-wrong").yaml("locked-out"),
        database.scaler().by_way_of(nobody).with("enabled", false).yaml("off"),
    );
    let finished = run(&yaml, &["check"]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(69), ""), "{}", finished.output);
    for expected in [
        "Connection refused",
        "-> nothing answers there: check databases.gone.host and port",
        "unasked  lost",
        "password authentication failed",
        "-> check that the role databases.locked-out.user exists",
        "ok       jobs",
        "enabled: false",
        "2 databases unavailable",
    ] {
        assert!(finished.output.contains(expected), "no {expected} in\n{}", finished.output);
    }
    assert!(!finished.output.contains("canary"), "{}", finished.output);
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_by_its_cause() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut elsewhere = database.scaler();
    elsewhere.dbname = "nowhere".to_owned();
    let mut unknown = database.scaler();
    unknown.host = "db.invalid".to_owned();
    // Accepts connections, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = database.scaler().by_way_of(silent.local_addr().unwrap()).with("connect_timeout", "200ms");
    let powerful = database.superuser().with("require_unprivileged_role", true);
    database
        .execute(
            "CREATE ROLE near LOGIN PASSWORD 'p' IN ROLE scaler; CREATE ROLE behind SUPERUSER NOLOGIN;
             CREATE ROLE between IN ROLE behind; GRANT between TO near;
             CREATE ROLE reader LOGIN PASSWORD 'p'; GRANT EXECUTE ON FUNCTION pg_read_file(text) TO reader",
        )
        .await;
    let as_role = |name: &str| {
        let mut access = database.scaler().with_password("p").with("require_unprivileged_role", true);
        access.user = name.to_owned();
        access
    };
    let (member, reader) = (as_role("near"), as_role("reader"));
    let plain = database.scaler().with("sslmode", "require");
    let cases = [
        (elsewhere, "database \"nowhere\" does not exist", "-> check databases.claps.dbname"),
        (unknown, "db.invalid", "-> this name is not known here"),
        (mute, "no session within 5s", "-> the server, or a firewall before it, does not answer"),
        (powerful, "the role postgres is too privileged: superuser", "-> make a role with deploy/postgres/roles.sql"),
        (member, "the role near is too privileged: member of a superuser", "-> make a role"),
        (reader, "the role reader is too privileged: functions on the server's files", "-> make a role"),
        (plain, "server does not support TLS", "-> turn TLS on in the server"),
    ];
    for (access, message, advice) in cases {
        let finished = run(&configuration(&access, "  jobs: {sql: SELECT 1}\n"), &["check"]).await;
        assert_eq!(finished.code(), Some(69), "{message}: {}", finished.output);
        assert!(finished.output.contains(message), "no {message} in\n{}", finished.output);
        assert!(finished.output.contains(advice), "no {advice} in\n{}", finished.output);
    }
}

#[tokio::test]
async fn a_parameter_that_fits_nothing_is_wrong_usage() {
    let database = Database::empty(Cluster::shared().await).await;
    let configuration = configuration(&database.scaler(), "  jobs: {sql: SELECT $1::int8, parameters: {n: bigint}}\n");
    let cases = [
        ("jobs.m=1", "--param jobs.m: no such parameter; there are jobs.n"),
        ("jobs.n=canary", "--param jobs.n: must be a 64-bit integer"),
        ("canary", "--param must be QUERY.NAME=VALUE"),
    ];
    for (argument, expected) in cases {
        let finished = run(&configuration, &["check", "--param", argument]).await;
        assert_eq!((finished.code(), &*finished.output), (Some(2), ""), "{argument}");
        assert!(finished.errors.contains(expected), "{argument}: {}", finished.errors);
        assert!(!finished.errors.contains("canary"), "{argument}: {}", finished.errors);
    }
}

#[tokio::test]
async fn without_any_database_there_is_nothing_to_check() {
    let finished = Executable::clapometer(["check"]).finish(SOON).await;
    assert_ne!(finished.code(), Some(0), "{}", finished.output);
    assert!(!finished.errors.is_empty() || finished.output.contains("->"), "{}", finished.output);
}
