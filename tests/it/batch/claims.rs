//! Many claim at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use clapometer::batch::store::{Claim, FencingToken, Statement};
use tokio::{sync::Barrier, task::JoinSet};

use super::ground::{LONG, SOON, batch, job, queue, report, request, soon, store};
use crate::support::{cluster::Cluster, wait::first};

/// 64 workers claim 1,000 rows: each row goes to one of them, and nobody goes away empty-handed while rows wait.
#[tokio::test]
async fn every_row_is_claimed_once_and_no_claim_is_empty_while_rows_wait() {
    const WORKERS: usize = 64;
    const ROWS: u32 = 1_000;
    let cluster = Cluster::private().await;
    let database = queue(&cluster).await;
    request(&database, ROWS, 0).await;

    let left = Arc::new(AtomicUsize::new(1_000));
    let together = Arc::new(Barrier::new(WORKERS));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (left, together, mut store) = (Arc::clone(&left), Arc::clone(&together), store(&database));
        // Connects: 64 at once would take a debug build longer than a session may.
        store.mark_dead(&job("nobody"), soon()).await.unwrap();
        workers.spawn(async move {
            let (mut claimed, mut empty_handed) = (Vec::new(), 0);
            together.wait().await;
            for number in 0.. {
                // A row counts as waiting until some claim of it has begun: with fewer rows than
                // workers a claim may rightly find nothing.
                let waiting = left.load(Ordering::SeqCst);
                let job = job(&format!("job-{worker}-{number}"));
                let claim = store.claim(Claim::Fresh, &job, FencingToken::draw(), LONG, soon()).await.unwrap();
                let waiting_still = left.load(Ordering::SeqCst);
                match claim {
                    Some(claim) => {
                        left.fetch_sub(1, Ordering::SeqCst);
                        claimed.push(claim.id);
                        store.succeed(&claim, soon()).await.unwrap().expect("the claim is ours");
                    }
                    None if waiting_still > WORKERS => empty_handed += 1,
                    None if waiting == 0 => break,
                    None => {}
                }
            }
            (claimed, empty_handed)
        });
    }
    let (mut times, mut empty_handed) = (BTreeMap::new(), 0);
    while let Some(worker) = workers.join_next().await {
        let (claimed, empty) = worker.unwrap();
        empty_handed += empty;
        for id in claimed {
            *times.entry(id).or_insert(0) += 1;
        }
    }
    assert_eq!((times.len(), times.values().max()), (1_000, Some(&1)));
    assert_eq!(empty_handed, 0, "claims that found nothing although rows waited");
    assert_eq!(
        database.value::<i64>("SELECT count(*) FROM clap WHERE status = 'SUCCESS' AND iteration = 1").await,
        1_000
    );
}

/// The same with real Jobs, more of them than rows.
#[tokio::test]
async fn jobs_beyond_the_rows_find_nothing_and_say_so() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 12, 0).await;
    let jobs: Vec<_> = (0..20).map(|_| batch(&database, ["work"]).start()).collect();
    let mut outcomes = BTreeMap::new();
    for job in jobs {
        let finished = job.finish(SOON).await;
        assert_eq!(finished.code(), Some(0), "{finished:?}");
        *outcomes.entry(report(&finished)["outcome"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([("SUCCESS".to_owned(), 12), ("NOTHING_TO_DO".to_owned(), 8)]));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM clap_attempt").await, 12);
}

/// Returns how many pages a statement and all that it calls read, after the session has run it once to plan it.
async fn pages_read(client: &tokio_postgres::Client, sql: impl Fn(i64) -> String) -> i64 {
    let mut read = 0;
    for session in [33, 34] {
        // The first line about buffers is that of the whole plan.
        let rows = client.query(&format!("EXPLAIN (ANALYZE, BUFFERS) {}", sql(session)), &[]).await.unwrap();
        let lines: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let buffers = lines.iter().find(|line| line.trim_start().starts_with("Buffers:")).expect("a plan has buffers");
        let pages = |key| {
            buffers.split_once(key).map_or(0, |(_, rest)| {
                rest.split(|letter: char| !letter.is_ascii_digit())
                    .next()
                    .and_then(|number| number.parse().ok())
                    .unwrap_or(0)
            })
        };
        read = pages("hit=") + pages("read=");
    }
    read
}

/// VACUUM cannot remove what finished claps leave at the heads of the indexes while somebody holds an older snapshot.
#[tokio::test]
async fn a_claim_behind_an_old_snapshot_reads_little_and_misses_nothing() {
    const FINISHED: u32 = 30_000;
    let database = queue(Cluster::shared().await).await;
    request(&database, FINISHED + 10, 0).await;
    let holder = database.connect().await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    database
        .execute(&format!(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, next_attempt_at)
             SELECT id, 'RUNNING', 1, 1, 5, 'job-' || id, now(), now() - interval '1 hour' + id * interval '1 ms'
               FROM make_it_clap WHERE id <= {FINISHED}"
        ))
        .await;
    database.execute("UPDATE clap SET status = 'SUCCESS', finished_at = now()").await;
    let take = |session| {
        format!(
            "SELECT id FROM clap_take({session}, 'j{session}', NULL, NULL, NULL, 60, unless_due => true, unconfirmed => true)"
        )
    };
    let renew = |_| Statement::Renew.sql().replace("$1", "30002").replace("$2", "34").replace("$3", "60");
    let client = database.connect().await;
    let (taken, renewed) = (pages_read(&client, take).await, pages_read(&client, renew).await);
    let succeeded =
        pages_read(&client, |session| format!("SELECT * FROM clap_succeed({}, {session})", 29_968 + session)).await;
    assert!(taken.max(renewed).max(succeeded) < 200, "pages read: {taken} to take, {renewed}, {succeeded} to settle");

    // What lies before the newest clap, and what is due, waits for its turn and not for ever.
    database
        .execute(
            "INSERT INTO make_it_clap (id) VALUES (-1);
             UPDATE clap SET status = 'FAILED', finished_at = NULL WHERE id = 7",
        )
        .await;
    let mut claps = Vec::new();
    for _ in 0..10 {
        claps.push(report(&batch(&database, []).finish(SOON).await)["clap"].as_i64().unwrap());
    }
    assert!(claps.contains(&-1) && claps.contains(&7), "{claps:?}");
    let end = report(&batch(&database, []).finish(SOON).await);
    assert_eq!(end["outcome"], "NOTHING_TO_DO");
    holder.batch_execute("COMMIT").await.unwrap();
}

/// Thousands of claps that are due since one moment cost a claim no more than one.
#[tokio::test]
async fn a_claim_among_many_that_are_due_reads_little() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 30_000, 0).await;
    database
        .execute(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at, next_attempt_at)
             SELECT id, 'FAILED', 1, 1, 5, now(), now() FROM make_it_clap",
        )
        .await;
    let client = database.connect().await;
    let take_over = |session: i64| {
        let values = [("$1", session.to_string()), ("$2", format!("'j{session}'")), ("$6", "60".to_owned())];
        let values = values.into_iter().chain(["$3", "$4", "$5"].map(|name| (name, "'x'".to_owned())));
        values.fold(Statement::TakeOver.sql().to_owned(), |sql, (name, value)| sql.replace(name, &value))
    };
    let take =
        |session| format!("SELECT id FROM clap_take(-{session}, 'q{session}', NULL, NULL, NULL, 60, true, true)");
    let quick = pages_read(&client, take).await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM clap WHERE status = 'RUNNING'").await, 2, "taken over");
    // Only a claim that finds nobody can take the first that is due gets here. Until autovacuum has analysed the table,
    // the planner takes all that are due for a few, and sorts them, which takes 0.2 s.
    database.execute("ANALYZE clap").await;
    let (marked, taken) = (
        pages_read(&client, |_| Statement::MarkDead.sql().replace("$1", "'x'")).await,
        pages_read(&client, take_over).await,
    );
    let most = quick.max(marked).max(taken);
    assert!(most < 400, "pages read: {quick} by clap_take, {marked} by mark_dead, {taken} by take_over");
}

/// After a restore or an insert of many rows no statistics say how many are due: what is due must be found in the order
/// of its index all the same, and not by sorting all of it.
#[tokio::test]
async fn a_clap_is_taken_over_without_reading_all_that_are_due() {
    let database = queue(Cluster::shared().await).await;
    database
        .execute(
            "BEGIN; SET LOCAL session_replication_role = replica;
             ALTER TABLE clap SET (autovacuum_enabled = off);
             INSERT INTO make_it_clap (pending) SELECT false FROM generate_series(1, 30000);
             INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at, next_attempt_at)
             SELECT n, 'FAILED', 1, 1, 5, now(), now() - interval '1 h' + n * interval '1 ms' FROM generate_series(1, 30000) n; COMMIT",
        )
        .await;
    let mut store = store(&database);
    let attempt = store.claim(Claim::TakeOver, &job("one"), FencingToken::draw(), LONG, soon()).await.unwrap();
    assert_eq!(attempt.map(|attempt| attempt.id), Some(1));
    // Its session writes its statistics as it ends.
    drop(store);
    let read =
        "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'clap'";
    let rows = first("the session has counted what it read", SOON, async || {
        Some(database.value::<i64>(read).await).filter(|rows| *rows > 0)
    })
    .await;
    assert!(rows < 1_000, "{rows} rows were read");
}
