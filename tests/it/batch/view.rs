//! The cost of a poll, and the rows that it counts.

use serde_json::Value;

use super::ground::{SOON, batch, queue};
use crate::support::{
    cluster::{Cluster, Settings},
    database::Database,
};

const POLL: &str = "SELECT claimable + held, claimable FROM clap_backlog";

/// A queue with so many claps that are finished and that run, and 1,000 requests that wait.
async fn queue_with(cluster: &Cluster, finished: u32, running: u32) -> Database<'_> {
    let database = queue(cluster).await;
    // Triggers off: what they would do is done here for all rows at once.
    database
        .execute(&format!(
            "SET session_replication_role = replica;
             INSERT INTO make_it_clap (pending) SELECT n > {finished} + {running} FROM generate_series(1, {finished} + {running} + 1000) n;
             INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, finished_at, lease_expires_at)
             SELECT n, CASE WHEN n > {finished} THEN 'RUNNING' ELSE 'SUCCESS' END, n, 1, 5, 'job-' || n, now(), now(),
                    now() + interval '1 hour'
               FROM generate_series(1, {finished} + {running}) n"
        ))
        .await;
    database.execute("VACUUM (ANALYZE) make_it_clap, clap").await;
    database
}

async fn buffers(database: &Database<'_>) -> i64 {
    let client = database.connect().await;
    // The first run pays for the session's caches.
    client.query(POLL, &[]).await.unwrap();
    let rows = client.simple_query(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {POLL}")).await.unwrap();
    let plan = rows
        .iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .expect("EXPLAIN says something");
    let plan: Value = serde_json::from_str(plan).unwrap();
    ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|kind| plan[0]["Plan"][kind].as_i64().unwrap()).sum()
}

#[tokio::test]
async fn a_poll_costs_the_same_however_much_is_finished() {
    // VACUUM marks no page whose transactions are not on the disk yet, or that a snapshot (an ANALYZE of
    // autovacuum's) may still not see; the index alone would then not be enough.
    let settings = Settings::default().set("autovacuum", "off").set("synchronous_commit", "on");
    let cluster = Cluster::with_settings(settings).await;
    for (running, at_most) in [(0, 12), (1_000, 60)] {
        let small = buffers(&queue_with(&cluster, 1_000, running).await).await;
        let large = buffers(&queue_with(&cluster, 200_000, running).await).await;
        assert!(large <= small + 2, "{large} buffers with 200,000 finished claps, {small} with 1,000; {running} run");
        assert!(large <= at_most, "{large} buffers; {running} run");
    }
}

#[tokio::test]
async fn the_view_counts_each_clap_where_it_belongs() {
    let database = queue(Cluster::shared().await).await;
    database
        .execute(
            "INSERT INTO make_it_clap SELECT FROM generate_series(1, 10);
             INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, finished_at,
                               lease_expires_at, next_attempt_at) VALUES
             (1, 'RUNNING',   1, 1, 5, 'live',     now(), NULL,  now() + interval '60 s', now()),
             (2, 'RUNNING',   2, 1, 5, 'crashed',  now(), NULL,  now() - interval '1 s',  now()),
             (3, 'RUNNING',   3, 5, 5, 'poison',   now(), NULL,  now() - interval '1 s',  now()),
             (4, 'FAILED',    4, 1, 5, 'reserved', now(), now(), now() + interval '30 s', now() + interval '15 s'),
             (5, 'FAILED',    5, 1, 5, 'waits',    now(), now(), now(),                   now() + interval '15 s'),
             (6, 'FAILED',    6, 1, 5, 'due',      now(), now(), now() - interval '1 s',  now() - interval '1 s'),
             (7, 'SUCCESS',   7, 1, 5, 'done',     now(), now(), now(),                   now()),
             (8, 'DEAD',      8, 5, 5, 'dead',     now(), now(), now(),                   now()),
             (9, 'CANCELLED', 9, 1, 5, 'gone',     now(), now(), now(),                   now())",
        )
        .await;
    let sql = "SELECT format('%s %s %s %s %s %s', pending, due, claimable, held, reserved, waiting) FROM clap_backlog";
    assert_eq!(database.value::<String>(sql).await, "1 3 4 2 1 1");
    let next = "SELECT extract(epoch FROM next_change - now())::float8 FROM clap_backlog";
    let next = database.value::<f64>(next).await;
    assert!((10.0..=15.0).contains(&next), "the first change is the end of a back-off, in {next} s");
}

#[tokio::test]
async fn explain_fails_when_an_index_is_missing() {
    let database = queue(Cluster::shared().await).await;
    let sound = batch(&database, ["explain"]).finish(SOON).await;
    assert_eq!(sound.code(), Some(0), "{}", sound.output);
    assert!(sound.output.starts_with("11 statements: none scans a whole table\n\nscaling: uses"), "{}", sound.output);
    for (index, statement) in [
        ("make_it_clap_pending_idx", "fresh"),
        // Without the first one the other, which also holds nothing but active claps, would do.
        ("clap_active_idx, clap_active_job_key", "take_over"),
        ("clap_attempt_job_idx", "previous_clap"),
    ] {
        let database = queue(Cluster::shared().await).await;
        database.execute(&format!("DROP INDEX {index}")).await;
        let broken = batch(&database, ["explain"]).finish(SOON).await;
        assert_eq!(broken.code(), Some(1), "{index}: {}", broken.output);
        assert!(broken.output.contains(&format!("{statement}: scans the whole of")), "{index}: {}", broken.output);
        let verdict = broken.output.lines().next().unwrap();
        assert!(verdict.contains(" of 11 statements scan a whole table: ") && verdict.contains(statement), "{verdict}");
        let advice = broken.output.lines().filter_map(|line| line.strip_prefix("-> an index is missing: "));
        for create in advice {
            database.execute(create).await;
        }
        let mended = batch(&database, ["explain"]).finish(SOON).await;
        assert_eq!(mended.code(), Some(0), "{index}: {}", mended.output);
    }
}

#[tokio::test]
async fn explain_names_an_index_that_was_never_finished() {
    let database = queue(Cluster::shared().await).await;
    database
        .execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'make_it_clap_pending_idx'::regclass")
        .await;
    let broken = batch(&database, ["explain"]).finish(SOON).await;
    assert_eq!(broken.code(), Some(1), "{}", broken.output);
    let named = "-> the index public.make_it_clap_pending_idx of public.make_it_clap is invalid, ";
    assert!(broken.output.contains(named), "{}", broken.output);
    database.execute("REINDEX INDEX CONCURRENTLY public.make_it_clap_pending_idx").await;
    let mended = batch(&database, ["explain"]).finish(SOON).await;
    assert_eq!(mended.code(), Some(0), "{}", mended.output);
    assert!(!mended.output.contains("\n-> "), "{}", mended.output);
}

/// To the planner an empty table that was analysed has no page, and any way to read it costs the same.
#[tokio::test]
async fn explain_takes_no_empty_table_for_a_missing_index() {
    let database = queue(Cluster::shared().await).await;
    for prepared in [
        "ANALYZE",
        "INSERT INTO make_it_clap (duration_seconds) SELECT 0 FROM generate_series(1, 50000); VACUUM ANALYZE",
        "INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at, finished_at)
         SELECT id, 'SUCCESS', id, 1, 5, now(), now() FROM make_it_clap WHERE id <= 40000; VACUUM ANALYZE",
    ] {
        for statement in prepared.split(';') {
            database.execute(statement).await;
        }
        let explained = batch(&database, ["explain"]).finish(SOON).await;
        assert_eq!(explained.code(), Some(0), "{prepared}: {}", explained.output);
    }
    database.execute("DROP INDEX clap_attempt_job_idx").await;
    assert_eq!(batch(&database, ["explain"]).finish(SOON).await.code(), Some(1), "of an empty table, too");
}

#[tokio::test]
async fn explain_is_content_with_a_large_queue() {
    let database = queue_with(Cluster::shared().await, 50_000, 1_000).await;
    let explained = batch(&database, ["explain", "--json"]).finish(SOON).await;
    assert_eq!(explained.code(), Some(0), "{}", explained.output);
    let plans: Value = serde_json::from_str(&explained.output).unwrap();
    let names: Vec<&str> = plans.as_array().unwrap().iter().map(|plan| plan["statement"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "scaling",
            "fast",
            "mark_dead",
            "resume",
            "take_over",
            "fresh",
            "unread",
            "request",
            "previous_clap",
            "renew",
            "succeed"
        ]
    );
}
