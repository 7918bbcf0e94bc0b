//! Zeros that PostgreSQL itself would tell: temporary tables of the same name, statistics that are masked.

use std::time::Duration;

use tonic::Code;

use crate::support::{
    cluster::Cluster,
    database::{self, Database},
    executable::Executable,
    fixture::{Fixture, configuration},
    grpc::trigger,
    pooler::Pooler,
    skip::skip,
};

const SOON: Duration = Duration::from_secs(20);

const ROWS: &str = "CREATE TABLE rows (); GRANT SELECT ON rows TO scaler;
    INSERT INTO rows SELECT FROM generate_series(1, 60)";

const COUNT: &str = "\n  rows: {sql: SELECT count(*) FROM rows, max_age: 0s}\n";

#[tokio::test]
async fn a_temporary_table_in_a_pooled_session_is_not_counted() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute(ROWS).await;
    let Some(pooler) = Pooler::before(&database.scaler(), 1).await else { return skip("PgBouncer is not installed") };
    let pooled = database.scaler().by_way_of(pooler.address());
    let other = database::connect(&pooled.driver()).await;
    // Each is what another client may leave behind in the one session that there is.
    other.batch_execute("CREATE TEMPORARY TABLE rows ()").await.unwrap();
    let rows = trigger("rows", &[]);
    for access in [
        pooled.clone(),
        pooled.clone().with("search_path", "public"),
        pooled.clone().with("search_path", "'pg_temp, public'"),
    ] {
        let fixture = Fixture::with(&access, COUNT).await;
        fixture.scaler.reaches(&rows, 60.0, SOON).await;
        assert_eq!(fixture.scaler.value(&rows).await.unwrap(), 60.0);
        other.batch_execute("SET search_path = pg_temp").await.unwrap();
        assert_eq!(fixture.scaler.value(&rows).await.unwrap(), 60.0);
        other.batch_execute("RESET search_path").await.unwrap();
    }
}

const ACTIVE: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = ''active''";

#[tokio::test]
async fn a_count_of_masked_statistics_is_refused_and_check_names_the_grant() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    database
        .execute(
            "CREATE VIEW busy AS SELECT a.pid, a.state FROM pg_stat_activity a WHERE a.state = 'active';
             GRANT SELECT ON busy TO scaler",
        )
        .await;
    let queries = format!(
        "\n  active: {{sql: '{ACTIVE}', max_age: 0s}}\n  view: {{sql: SELECT count(*) FROM busy, max_age: 0s}}\n  \
         sessions: {{sql: 'SELECT count(*) FROM pg_stat_activity WHERE usename = current_user', max_age: 0s}}\n"
    );
    let fixture = Fixture::with(&database.scaler(), &queries).await;
    for masked in ["active", "view", "active"] {
        let refusal = fixture.scaler.refusal(&trigger(masked, &[])).await;
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{masked}: {refusal}");
        assert!(refusal.message().contains("masks"), "{masked}: {refusal}");
    }
    assert!(fixture.scaler.value(&trigger("sessions", &[])).await.unwrap() >= 1.0, "what is never masked is counted");

    let file = configuration(&database.scaler(), &queries);
    let check = || Executable::clapometer(["check", "--config", "clapometer.yaml"]).file("clapometer.yaml", &file);
    let checked = check().finish(SOON).await;
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    assert!(checked.output.contains("GRANT pg_read_all_stats"), "{checked:?}");

    let superuser = database::connect(&cluster.superuser(database.name())).await;
    superuser.batch_execute("GRANT pg_read_all_stats TO scaler").await.unwrap();
    assert_eq!(check().finish(SOON).await.code(), Some(0));
    let granted = Fixture::with(&database.scaler(), &queries).await;
    assert!(granted.scaler.value(&trigger("active", &[])).await.unwrap() >= 1.0);
    assert!(granted.scaler.value(&trigger("view", &[])).await.unwrap() >= 1.0);
}

#[tokio::test]
async fn a_grant_to_see_all_statistics_that_is_revoked_is_missed_at_once() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    let superuser = database::connect(&cluster.superuser(database.name())).await;
    superuser.batch_execute("GRANT pg_read_all_stats TO scaler").await.unwrap();
    // Of the superuser's session the role sees the state only with the grant. The scaler has one session throughout.
    let queries = "
  others: {sql: \"SELECT count(*) FROM pg_stat_activity WHERE state IS NOT NULL AND usename = 'postgres'\", max_age: 0s}
";
    let fixture = Fixture::with(&database.scaler().with("pool_size", "1"), queries).await;
    let others = trigger("others", &[]);
    assert!(fixture.scaler.value(&others).await.unwrap() >= 1.0);
    assert!(fixture.scaler.value(&others).await.unwrap() >= 1.0);
    superuser.batch_execute("REVOKE pg_read_all_stats FROM scaler").await.unwrap();
    // GetMetrics first: IsActive tells what the poll before it was told.
    let refused = fixture.scaler.value(&others).await;
    assert!(refused.as_ref().is_err_and(|status| status.message().contains("masks")), "{refused:?}");
    assert_eq!(fixture.scaler.refusal(&others).await.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn masked_statistics_are_seen_in_every_shape_that_a_plan_shows() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO scaler;
             CREATE VIEW app.inner_view AS SELECT * FROM pg_stat_activity;
             CREATE VIEW app.outer_view AS SELECT pid, wait_event AS waits FROM app.inner_view;
             CREATE VIEW app.pg_stat_activity AS SELECT 1 AS pid, 'active' AS state;
             GRANT SELECT ON ALL TABLES IN SCHEMA app TO scaler;
             CREATE FUNCTION app.busy() RETURNS SETOF int STABLE LANGUAGE sql AS
                 $$SELECT pid FROM pg_catalog.pg_stat_activity WHERE state = 'active'$$;",
        )
        .await;
    let masked = [
        ("replication", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"),
        ("tls", "SELECT count(*) FROM pg_stat_ssl WHERE ssl"),
        ("gss", "SELECT count(*) FROM pg_stat_gssapi WHERE encrypted"),
        ("receiver", "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"),
        ("vacuum", "SELECT count(*) FROM pg_stat_progress_vacuum WHERE heap_blks_total > 0"),
        ("nested-view", "SELECT count(*) FROM app.outer_view WHERE waits IS NOT NULL"),
        (
            "cte",
            "WITH a AS MATERIALIZED (SELECT * FROM pg_stat_activity) SELECT count(*) FROM a WHERE state = 'active'",
        ),
        (
            "union",
            "SELECT count(*) FROM (SELECT pid FROM pg_stat_activity WHERE state = 'idle' UNION ALL SELECT 1 WHERE false) AS u",
        ),
        ("subselect", "SELECT (SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%job%')"),
        (
            "join",
            "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE a.wait_event_type = 'Lock'",
        ),
        (
            "exists",
            "SELECT count(*) FROM pg_locks AS l WHERE EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = l.pid AND a.state = 'active')",
        ),
        ("distinct", "SELECT count(DISTINCT client_addr) FROM pg_stat_activity"),
        ("selected", "SELECT count(*) FROM (SELECT (pg_stat_get_activity(NULL)).state AS s) AS a WHERE s IS NOT NULL"),
        (
            "rows-from",
            "SELECT count(*) FROM ROWS FROM (pg_stat_get_activity(NULL), generate_series(1, 3)) AS a (b, c, d, e, s) WHERE s IS NOT NULL",
        ),
        ("dissolved-function", "SELECT count(*) FROM app.busy()"),
        (
            "scalar",
            "SELECT count(*) FROM pg_stat_get_backend_idset() AS i WHERE pg_stat_get_backend_activity(i) LIKE '%x%'",
        ),
        // In YAML's escapes.
        (
            "line-break-in-a-literal",
            r"SELECT count(*) FROM pg_stat_activity AS s WHERE s.application_name <> E'x\\ny' AND s.state = 'active'",
        ),
        (
            "line-break-in-an-alias",
            r#"SELECT count(*) FROM pg_stat_get_activity(NULL) AS \"it's\\\n\"\"s\" WHERE state = 'active'"#,
        ),
        (
            "quote-in-a-cte",
            r#"WITH \"it's\" AS MATERIALIZED (SELECT * FROM pg_stat_activity) SELECT count(*) FROM \"it's\" WHERE state = 'active'"#,
        ),
    ];
    let plain = [
        ("locks", "SELECT count(*) FROM pg_locks"),
        ("sessions", "SELECT count(*) FROM pg_stat_activity"),
        ("own-name", "SELECT count(*) FROM app.pg_stat_activity WHERE state = 'active'"),
        ("subscriptions", "SELECT 1 + count(*) FROM pg_stat_subscription"),
        ("literal", r"SELECT count(*) FROM pg_stat_activity AS s WHERE s.application_name <> E'x\\ns.state = ''y'"),
    ];
    let mut queries = String::from("\n");
    for (name, sql) in masked.iter().chain(&plain) {
        queries += &format!("  {name}: {{sql: \"{sql}\", max_age: 0s}}\n");
    }
    let fixture = Fixture::with(&database.scaler(), &queries).await;
    let mut wrong = Vec::new();
    for (name, _) in masked {
        let answer = fixture.scaler.value(&trigger(name, &[])).await;
        if !answer.as_ref().is_err_and(|status| status.message().contains("masks")) {
            wrong.push(format!("{name}: {answer:?}"));
        }
    }
    for (name, _) in plain {
        let answer = fixture.scaler.value(&trigger(name, &[])).await;
        if !answer.as_ref().is_ok_and(|value| *value >= 1.0) {
            wrong.push(format!("{name}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_text_is_bound_as_it_was_written_and_a_number_by_its_value() {
    let database = Database::empty(Cluster::shared().await).await;
    let texts =
        ["", " ", "mail", " mail", "mail ", "mail\t", "mail\n", "Mail", "m\u{e4}il", "ma\u{308}il", "'; --", "\\"];
    database.execute("CREATE TABLE job (place int, queue text, number bigint); GRANT SELECT ON job TO scaler").await;
    let client = database.connect().await;
    for (place, text) in (1i32..).zip(texts) {
        let insert = "INSERT INTO job SELECT $1, $2, $1 FROM generate_series(1, $1)";
        client.execute(insert, &[&place, &text]).await.unwrap();
    }
    let queries = "
  one: {sql: SELECT count(*) FROM job WHERE queue = $1, parameters: {queue: text}, max_age: 1m}
  grouped: {sql: 'SELECT queue, count(*) AS n FROM job GROUP BY queue', group_by: queue, value_column: n, max_age: 1m}
  number: {sql: SELECT count(*) FROM job WHERE number = $1, parameters: {n: bigint}, max_age: 1m}
";
    let fixture = Fixture::with(&database.scaler(), queries).await;
    for (place, text) in (1i32..).zip(texts) {
        for query in ["one", "grouped"] {
            let answer = fixture.scaler.value(&trigger(query, &[("param.queue", text)])).await;
            assert_eq!(answer.as_ref().ok(), Some(&f64::from(place)), "{query} {text:?}: {answer:?}");
        }
    }
    for text in ["7", "+7", "007", " 7\n"] {
        assert_eq!(fixture.scaler.value(&trigger("number", &[("param.n", text)])).await.unwrap(), 7.0, "{text:?}");
    }
    for text in ["", "7.0", "0x7", "7 7", "\u{667}", "9223372036854775808"] {
        let refusal = fixture.scaler.refusal(&trigger("number", &[("param.n", text)])).await;
        assert_eq!(refusal.code(), Code::InvalidArgument, "{text:?}: {refusal}");
    }
}

#[tokio::test]
async fn a_number_is_told_or_refused_and_never_lost() {
    let database = Database::empty(Cluster::shared().await).await;
    let told = [
        ("tiny", "SELECT 1e-300::float8", 1e300, 1.0),
        ("small", "SELECT 0.0001", 1.0, 0.001),
        ("fraction", "SELECT 0.006", 1.0, 0.006),
        ("third", "SELECT 1.0 / 3", 1.0, 1.0 / 3.0),
        ("divided", "SELECT 0.3", 0.1, 3.0),
        ("rounded-up", "SELECT 0.0001", 10.0, 1.0),
        ("minus-zero", "SELECT '-0'::float8", 1.0, 0.0),
        ("huge", "SELECT 1e18::numeric", 1.0, 1e18),
        ("text", "SELECT ' 5 '::text", 1.0, 5.0),
    ];
    let refused = [
        ("too-huge", "SELECT 1e400::numeric"),
        ("too-tiny", "SELECT 1e-400::numeric"),
        ("nan", "SELECT 'NaN'::numeric"),
        ("infinite", "SELECT 'Infinity'::float8"),
        ("minus-infinite", "SELECT '-Infinity'::float8"),
        ("negative", "SELECT -1e-300::float8"),
        ("empty", "SELECT ''::text"),
        ("word", "SELECT 'none'::text"),
        ("truth", "SELECT true"),
    ];
    let mut queries = String::from("\n");
    for (name, sql, divisor, _) in told {
        queries += &format!("  {name}: {{sql: \"{sql}\", divide_by: {divisor:?}}}\n");
    }
    for (name, sql) in refused {
        queries += &format!("  {name}: {{sql: \"{sql}\"}}\n");
    }
    let fixture = Fixture::with(&database.scaler(), &queries).await;
    for (name, _, _, value) in told {
        assert_eq!(fixture.scaler.value(&trigger(name, &[])).await.unwrap(), value, "{name}");
        assert_eq!(fixture.scaler.active(&trigger(name, &[])).await.unwrap(), value > 0.0, "{name}");
    }
    for (name, _) in refused {
        let refusal = fixture.scaler.refusal(&trigger(name, &[])).await;
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{name}: {refusal}");
    }
}
