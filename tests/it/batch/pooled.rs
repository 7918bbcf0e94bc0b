//! Workers and commands behind a real PgBouncer in transaction mode, with fewer connections than there are workers.

use std::{collections::BTreeMap, fs};

use clapometer::batch::operator::migrate::MIGRATIONS;
use rustix::process::Signal;

use super::ground::{SOON, expire_leases, queue, report, request};
use crate::support::{
    cluster::{Cluster, Settings},
    database::{Access, Database},
    executable::{Executable, Finished, Running},
    pooler::Pooler,
    skip::skip,
    wait::{eventually, first},
};

/// Connections to the database: fewer than any test here has workers.
const POOL: u32 = 2;

/// Works until it is told to end.
const UNTIL_TOLD: &str = "while [ ! -e go ]; do sleep 0.05; done";

/// A pooler in front of the database, and how its owner gets there.
async fn pooled(database: &Database<'_>) -> Option<(Pooler, Access)> {
    let pooler = Pooler::before(&database.owner(), POOL).await?;
    let access = database.owner().by_way_of(pooler.address());
    Some((pooler, access))
}

fn batch<'a>(access: &Access, arguments: impl IntoIterator<Item = &'a str>) -> Executable {
    Executable::postgres_batch(arguments).variables(access.environment())
}

async fn statuses(database: &Database<'_>) -> String {
    let sql = "SELECT string_agg(format('%s %s', status, iteration), ', ' ORDER BY id) FROM clap";
    database.value::<Option<String>>(sql).await.unwrap_or_default()
}

/// Kills a worker and waits until it is gone.
async fn kill(mut worker: Running) {
    worker.signal(Signal::KILL);
    eventually("the worker is dead", SOON, || worker.ended().is_some()).await;
}

fn outcome(finished: &Finished) -> String {
    report(finished)["outcome"].as_str().expect("an outcome").to_owned()
}

#[tokio::test]
async fn migrations_and_commands_go_through_a_pooler() {
    let database = Database::empty(Cluster::shared().await).await;
    let Some((_pooler, access)) = pooled(&database).await else { return skip("PgBouncer is not installed") };

    for schema in ["one", "Odd \"name\""] {
        let together: Vec<_> =
            (0..5).map(|_| batch(&access, ["--schema", schema, "migrate", "up", "--with-notify"]).start()).collect();
        let mut applied = 0;
        for up in together {
            let finished = up.finish(SOON).await;
            assert_eq!(finished.code(), Some(0), "{finished:?}");
            applied += finished.output.matches("applied 0").count();
        }
        assert_eq!(applied, MIGRATIONS.len(), "each migration once, although the sessions are shared");
        let status = batch(&access, ["--schema", schema, "migrate", "status"]).finish(SOON).await;
        assert_eq!(
            (status.code(), status.output.matches("applied 20").count()),
            (Some(0), MIGRATIONS.len()),
            "{status:?}"
        );
    }

    // The search_path is set in the transaction: it must not stay with the session for the next client.
    for (schema, expected) in [("one", "added 3 claps: 1 to 3\n"), ("Odd \"name\"", "added 3 claps: 1 to 3\n")] {
        let added = batch(&access, ["--schema", schema, "add", "--count", "3"]).finish(SOON).await;
        assert_eq!(added.output, expected, "{added:?}");
        let worked = batch(&access, ["--schema", schema, "work"]).finish(SOON).await;
        assert_eq!(outcome(&worked), "SUCCESS");
        for command in [&["list"][..], &["show", "1"], &["cancel", "3"], &["prune", "--older-than", "0s"], &["explain"]]
        {
            let finished = batch(&access, ["--schema", schema].into_iter().chain(command.iter().copied())).finish(SOON);
            let finished = finished.await;
            assert_eq!(finished.code(), Some(0), "{command:?}: {finished:?}");
        }
    }
    let nowhere = batch(&access, ["list"]).finish(SOON).await;
    assert_eq!(nowhere.code(), Some(78), "no schema was asked for, and none is left over from others: {nowhere:?}");
}

#[tokio::test]
async fn more_workers_than_connections_hold_their_claps_at_once_and_do_each_row_once() {
    const WORKERS: usize = 8;
    const ROWS: u32 = 6;
    let database = queue(Cluster::shared().await).await;
    let Some((_pooler, access)) = pooled(&database).await else { return skip("PgBouncer is not installed") };
    request(&database, ROWS, 0).await;

    let options = ["work", "--lease", "20s", "--beat", "200ms", "--", "sh", "-c", UNTIL_TOLD];
    let workers: Vec<_> = (0..WORKERS).map(|_| batch(&access, options).start()).collect();
    let client = database.connect().await;
    // Two heartbeats of each at least: none of them waits for a connection that another keeps.
    let beaten = "SELECT count(*) FROM clap
                   WHERE status = 'RUNNING' AND lease_expires_at > started_at + interval '20.4 seconds'";
    first("six send heartbeats through two connections", SOON, async || {
        (client.query_one(beaten, &[]).await.unwrap().get::<_, i64>(0) == i64::from(ROWS)).then_some(())
    })
    .await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'owner'";
    let sessions: i64 = client.query_one(sessions, &[]).await.unwrap().get(0);
    assert!((1..=i64::from(POOL)).contains(&sessions), "{sessions} connections were opened");

    let mut outcomes = BTreeMap::new();
    for worker in &workers {
        fs::write(worker.directory().join("go"), "").unwrap();
    }
    for worker in workers {
        let finished = worker.finish(SOON).await;
        assert_eq!(finished.code(), Some(0), "{finished:?}");
        *outcomes.entry(outcome(&finished)).or_insert(0) += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([("SUCCESS".to_owned(), 6), ("NOTHING_TO_DO".to_owned(), 2)]));
    assert_eq!(statuses(&database).await, ["SUCCESS 1"; 6].join(", "));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM clap_attempt").await, 6);
}

#[tokio::test]
async fn failures_retries_and_death_are_booked_through_a_pooler() {
    let database = queue(Cluster::shared().await).await;
    let Some((_pooler, access)) = pooled(&database).await else { return skip("PgBouncer is not installed") };
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (5), (1)").await;

    let mut codes = Vec::new();
    for pod in ["a", "b", "c"] {
        let tries = batch(&access, ["work", "--retry-by", "job", "--fail-first", "2"]);
        let finished = tries.variable("JOB_UID", "first").variable("POD_NAME", pod).finish(SOON).await;
        codes.push(finished.code().unwrap());
    }
    let fails = ["work", "--", "sh", "-c", "echo no space >&2; exit 3"];
    codes.push(batch(&access, fails).finish(SOON).await.code().unwrap());

    assert_eq!(codes, [1, 1, 0, 11]);
    assert_eq!(statuses(&database).await, "SUCCESS 3, DEAD 1");
    let error: String = database.value("SELECT last_error FROM clap WHERE id = 2").await;
    assert_eq!(error, "exit code 3: no space");
}

#[tokio::test]
async fn claps_of_killed_workers_come_back_through_a_pooler() {
    let database = queue(Cluster::shared().await).await;
    let Some((_pooler, access)) = pooled(&database).await else { return skip("PgBouncer is not installed") };
    request(&database, 4, 0).await;

    let workers: Vec<_> = (0..4).map(|_| batch(&access, ["work", "--", "sh", "-c", UNTIL_TOLD]).start()).collect();
    let client = database.connect().await;
    first("four work", SOON, async || {
        let running = "SELECT count(*) FROM clap WHERE status = 'RUNNING'";
        (client.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 4).then_some(())
    })
    .await;
    for worker in workers {
        kill(worker).await;
    }
    let idle = batch(&access, ["work"]).finish(SOON).await;
    assert_eq!(outcome(&idle), "NOTHING_TO_DO", "their leases still run");

    expire_leases(&database).await;
    let successors: Vec<_> = (0..6).map(|_| batch(&access, ["work"]).start()).collect();
    let mut outcomes = BTreeMap::new();
    for successor in successors {
        *outcomes.entry(outcome(&successor.finish(SOON).await)).or_insert(0) += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([("SUCCESS".to_owned(), 4), ("NOTHING_TO_DO".to_owned(), 2)]));
    assert_eq!(statuses(&database).await, ["SUCCESS 2"; 4].join(", "));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM clap_attempt WHERE outcome = 'LOST'").await, 4);
}

#[tokio::test]
async fn a_worker_that_is_told_to_go_gives_its_clap_back_through_a_pooler() {
    let database = queue(Cluster::shared().await).await;
    let Some((_pooler, access)) = pooled(&database).await else { return skip("PgBouncer is not installed") };
    request(&database, 1, 0).await;
    let mut worker = batch(&access, ["work", "--", "sleep", "600"]).start();
    worker.logged("that it has claimed", SOON, |line| line["message"] == "claimed").await;
    let finished = worker.terminate(SOON).await;
    assert_eq!(finished.code(), Some(143), "{finished:?}");
    let row: String = database.value("SELECT format('%s %s-%s', status, iteration, interruptions) FROM clap").await;
    assert_eq!(row, "FAILED 1-1");
    assert_eq!(outcome(&batch(&access, ["work"]).finish(SOON).await), "SUCCESS");
}

/// PgBouncer says 08P01, a violation of the protocol, of a server that is gone: to a worker that is an outage.
#[tokio::test]
async fn a_server_that_goes_away_behind_the_pooler_costs_no_attempt() {
    let cluster = Cluster::with_settings(Settings::default().durable()).await;
    let database = queue(&cluster).await;
    let Some((_pooler, access)) = pooled(&database).await else { return skip("PgBouncer is not installed") };
    request(&database, 2, 0).await;
    let options = ["work", "--lease", "60s", "--beat", "100ms", "--", "sh", "-c", UNTIL_TOLD];
    let mut worker = batch(&access, options).start();
    worker.logged("that it has claimed", SOON, |line| line["message"] == "claimed").await;

    // A heartbeat is under way when the server goes: it waits for the row.
    let client = database.connect().await;
    client.batch_execute("BEGIN; SELECT FROM clap FOR UPDATE").await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'owner' AND wait_event_type = 'Lock'";
    let observer = database.connect().await;
    first("a heartbeat waits", SOON, async || {
        (observer.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    cluster.kill().await;
    let unreachable = |line: &serde_json::Value| line["message"] == "the database cannot be reached; trying again";
    let told = worker.logged("that the server is away", SOON, unreachable).await;
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("server conn crashed")), "{told}");
    let late = batch(&access, ["work"]).start();
    cluster.start().await;
    worker.logged("that it is back", SOON, |line| line["message"] == "the database can be reached again").await;

    fs::write(worker.directory().join("go"), "").unwrap();
    let finished = worker.finish(SOON).await;
    assert_eq!((finished.code(), &*outcome(&finished)), (Some(0), "SUCCESS"), "{finished:?}");
    let late = late.finish(SOON).await;
    assert_eq!((late.code(), &*outcome(&late)), (Some(0), "SUCCESS"), "it came while the server was away: {late:?}");
    assert_eq!(statuses(&database).await, "SUCCESS 1, SUCCESS 1");
}
