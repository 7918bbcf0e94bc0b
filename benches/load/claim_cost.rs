//! The cost of a claim where tables are not quiet, and the bytes that PostgreSQL writes for a clap.

use std::time::Duration;

use tokio_postgres::Client;

use crate::{
    claims::{Length, WAITING, claiming, refill},
    pgbench,
    report::{Row, median},
    support::{database::Database, wait},
    tally::real,
};

/// Claps that are finished behind a snapshot, or that are due at once.
const MANY: u32 = 100_000;

/// Measures in a cluster of its own, whose settings it changes.
pub(crate) async fn rows(database: &Database<'_>, update: &str, length: Length) -> Vec<Row> {
    let turn = Duration::from_secs(length.turn.into());
    let access = database.owner();
    let (mut behind_a_snapshot, mut among_many_due) = (Vec::new(), Vec::new());
    for _ in 0..length.rounds {
        refill(database).await;
        let quiet = claiming(&access, 1, turn).await.rate;
        let holder = finished_behind_a_snapshot(database).await;
        behind_a_snapshot.push(quiet / claiming(&access, 1, turn).await.rate);
        holder.batch_execute("COMMIT").await.expect("the snapshot is let go");
        many_due(database).await;
        among_many_due.push(quiet / claiming(&access, 1, turn).await.rate);
    }
    let times = |what: &str, ratios: Vec<f64>| {
        let ratio = median(ratios);
        println!("{what}: {ratio:.2} times");
        Row {
            what: what.to_owned(),
            baseline: "a claim on quiet tables, 1 worker".to_owned(),
            bar: "<= 3 times".to_owned(),
            measured: format!("{ratio:.2} times"),
            holds: ratio <= 3.0,
        }
    };
    vec![
        times("duration of a claim, 100,000 claps finished behind an open snapshot", behind_a_snapshot),
        times("duration of a claim, 100,000 claps due at once", among_many_due),
        written(database, update, length).await,
    ]
}

async fn finished_behind_a_snapshot(database: &Database<'_>) -> Client {
    refill(database).await;
    database
        .execute(&format!("INSERT INTO make_it_clap (duration_seconds) SELECT 0 FROM generate_series(1, {MANY})"))
        .await;
    let holder = database.connect().await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.expect("a snapshot is taken");
    let running =
        "INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, next_attempt_at)
                   SELECT id, 'RUNNING', id, 1, 5, 'job-' || id, now(), now() - interval '1 hour' + id * interval '1 ms'
                     FROM make_it_clap";
    database.execute(&format!("{running} WHERE id <= {MANY}")).await;
    database.execute("UPDATE clap SET status = 'SUCCESS', finished_at = now()").await;
    database.execute("VACUUM ANALYZE clap, make_it_clap").await;
    holder
}

async fn many_due(database: &Database<'_>) {
    refill(database).await;
    database
        .execute(&format!("INSERT INTO make_it_clap (duration_seconds) SELECT 0 FROM generate_series(1, {MANY})"))
        .await;
    let failed = "INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at)
                  SELECT id, 'FAILED', id, 1, 5, now() FROM make_it_clap";
    database.execute(&format!("{failed} WHERE id <= {MANY}")).await;
    database.execute("VACUUM ANALYZE clap, make_it_clap").await;
}

/// WAL and dead rows for one clap from INSERT to SUCCESS, without the pages that are written whole after a checkpoint.
async fn written(database: &Database<'_>, update: &str, length: Length) -> Row {
    database.execute("ALTER SYSTEM SET full_page_writes = off").await;
    database.execute("SELECT pg_reload_conf()").await;
    refill(database).await;
    database.execute("TRUNCATE clap_attempt, clap, make_it_clap RESTART IDENTITY").await;

    let position = async || database.value::<f64>("SELECT (pg_current_wal_insert_lsn() - '0/0')::float8").await;
    let empty = position().await;
    database
        .execute(&format!("INSERT INTO make_it_clap (duration_seconds) SELECT 0 FROM generate_series(1, {WAITING})"))
        .await;
    let inserted = position().await;
    database.execute("SELECT pg_stat_reset()").await;
    claiming(&database.owner(), 1, Duration::from_secs(length.turn.into())).await;
    let worked = position().await;
    let claimed = database.value::<i64>("SELECT count(*) FROM clap").await;
    let dead = versions(database, "relname IN ('make_it_clap', 'clap', 'clap_attempt')", claimed).await;

    database.execute("SELECT pg_stat_reset()").await;
    let before = position().await;
    pgbench::rate(&database.owner(), update, 1, length.turn).await;
    let update_bytes = (position().await - before) / versions(database, "relname = 'counter'", 1).await;

    let claimed = real(u64::try_from(claimed).expect("a count"));
    let bytes = (inserted - empty) / real(u64::from(WAITING)) + (worked - inserted) / claimed;
    let dead = dead / claimed;
    println!(
        "a clap from INSERT to SUCCESS: {bytes:.0} bytes of WAL, {dead:.1} dead rows; an UPDATE {update_bytes:.0} bytes"
    );
    Row {
        what: "WAL and dead rows of one clap from INSERT to SUCCESS".to_owned(),
        baseline: format!("pgbench's UPDATE by primary key: {update_bytes:.0} bytes, 1 dead row"),
        bar: "published".to_owned(),
        measured: format!("{bytes:.0} bytes ({:.1} times), {dead:.1} dead rows", bytes / update_bytes),
        holds: true,
    }
}

/// Returns how many row versions were left to VACUUM, once the server has counted this many at least.
async fn versions(database: &Database<'_>, tables: &str, at_least: i64) -> f64 {
    let sql = format!("SELECT sum(n_tup_upd + n_tup_del)::int8 FROM pg_stat_user_tables WHERE {tables}");
    let counted = wait::first("the server has counted the rows", Duration::from_secs(30), async || {
        Some(database.value::<i64>(&sql).await).filter(|count| *count >= at_least)
    });
    real(u64::try_from(counted.await).expect("a count"))
}
