//! A worker whose database is away, fails over, or answers too late.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use clapometer::batch::{
    store::{Claim, FencingToken, Statement},
    worker::lease::{Event, Lease, Terms},
};

use super::{
    ground::{
        LONG, Overrides, SOON, batch, expire_leases, job, queue, report, request, soon, store_with, transactions,
    },
    program::{SHORT_LEASE, clap, is_gone, pid_in},
};
use crate::support::{
    cluster::{Cluster, Settings},
    executable::{Executable, path},
    proxy::{Mode, Proxy},
    wait::{eventually, first},
};

#[tokio::test]
async fn a_worker_whose_database_is_away_for_longer_than_the_lease_kills_its_program_in_time() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let proxy = Proxy::to_cluster(database.cluster()).await;
    let script = "echo $$ > pid; exec sleep 600";
    let arguments = ["work"].into_iter().chain(SHORT_LEASE).chain(["--", "sh", "-c", script]);
    let process = Executable::postgres_batch(arguments)
        .variables(database.owner().by_way_of(proxy.address()).environment())
        .start();
    let pid = pid_in(&process, "pid").await;
    let observer = database.connect().await;

    proxy.set(Mode::Blackhole);
    eventually("the program is dead", SOON, || is_gone(pid)).await;
    let held = observer.query_one("SELECT lease_expires_at > now() FROM clap", &[]).await.unwrap();
    assert!(held.get::<_, bool>(0), "the program must be dead before anybody may take over");

    let finished = process.finish(SOON).await;
    assert_eq!(finished.code(), Some(75), "{finished:?}");
}

/// A lock on the table of requests, as VACUUM FULL takes it, is not a request that cannot be read.
#[tokio::test]
async fn a_worker_that_cannot_read_its_request_because_of_a_lock_gives_the_clap_back() {
    const WAITS: &str = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                          WHERE NOT l.granted AND a.datname = current_database()";
    let database = queue(Cluster::shared().await).await;
    request(&database, 2, 0).await;
    // The clap that is due first is spent, so that the worker claims the other one without reading. Its first heartbeat
    // waits for this test.
    database
        .execute(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, next_attempt_at)
             VALUES (1, 'RUNNING', 1, 1, 1, 'one', now(), now() - interval '2 h'),
                    (2, 'FAILED', 2, 0, 1, NULL, now(), now() - interval '1 h');
             CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;
             CREATE TRIGGER wait BEFORE UPDATE ON clap FOR EACH ROW
                 WHEN (OLD.unconfirmed AND NOT NEW.unconfirmed) EXECUTE FUNCTION wait()",
        )
        .await;
    let waits = async || database.value::<bool>(WAITS).await.then_some(());
    let holder = database.connect().await;
    holder.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let worker = batch(&database, ["work"]).start();
    first("the heartbeat waits", SOON, waits).await;
    holder.batch_execute("BEGIN; LOCK TABLE make_it_clap; SELECT pg_advisory_unlock(42)").await.unwrap();

    let finished = worker.finish(2 * SOON).await;
    assert_eq!(report(&finished)["outcome"], "UNREACHABLE", "{finished:?}");
    let clap = "SELECT format('%s %s-%s', status, iteration, interruptions) FROM clap WHERE id = 2";
    assert_eq!(database.value::<String>(clap).await, "FAILED 1-1", "it costs no attempt");

    database.execute("UPDATE clap SET next_attempt_at = now() WHERE id = 2").await;
    let worker = batch(&database, ["work"]).start();
    first("the next worker waits", SOON, waits).await;
    holder.batch_execute("COMMIT").await.unwrap();
    let finished = worker.finish(SOON).await;
    assert_eq!((&report(&finished)["outcome"], finished.code()), (&"SUCCESS".into(), Some(0)), "{finished:?}");
}

/// A heartbeat that finds no row says no more than that: the program may have recorded its own success, an operator may
/// have ended the clap or deleted it, or another worker has it.
#[tokio::test]
async fn a_worker_that_cannot_read_how_its_attempt_ended_does_not_guess() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let overrides = Overrides::from([(Statement::Settled, "SELECT outcome FROM nowhere WHERE id = $1".to_owned())]);
    let mut store = store_with(&database, &overrides);
    let terms = Terms { lease: LONG, heartbeat: LONG / 4 };
    let claimed = store.claim(Claim::Fresh, &job("a"), FencingToken::draw(), LONG, soon()).await.unwrap().unwrap();
    let mut lease = Lease::granted(terms, tokio::time::Instant::now());
    assert_eq!(lease.confirm(&mut store, &claimed).await, Ok(()));
    database.execute("DELETE FROM clap").await;
    let Err(Event::Lost(reason)) = lease.confirm(&mut store, &claimed).await else { panic!("the clap is gone") };
    let said = "no running clap has this worker's token, and the attempt cannot be read: ";
    assert!(reason.starts_with(said) && reason.contains("nowhere"), "{reason}");
}

/// A list for programs tries no more than one for people.
#[tokio::test]
async fn a_list_for_programs_connects_once_while_the_database_is_away() {
    let database = queue(Cluster::shared().await).await;
    let proxy = Proxy::to_cluster(database.cluster()).await;
    proxy.set(Mode::Close);
    let access = database.owner().by_way_of(proxy.address());
    let mut tried = Vec::new();
    for command in [&["list"][..], &["list", "--json"], &["show", "1", "--json"]] {
        let before = proxy.accepted();
        let listed = Executable::postgres_batch(command.iter().copied()).variables(access.environment());
        let listed = listed.finish(SOON).await;
        assert_eq!(listed.code(), Some(69), "{listed:?}");
        tried.push(proxy.accepted() - before);
    }
    assert!(tried[0] > 0 && tried.iter().all(|times| *times == tried[0]), "{tried:?}");
}

#[tokio::test]
async fn a_short_outage_costs_nothing() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 3).await;
    let proxy = Proxy::to_cluster(database.cluster()).await;
    let mut process = Executable::postgres_batch(["work", "--lease", "20s", "--beat", "100ms"])
        .variables(database.owner().by_way_of(proxy.address()).environment())
        .start();
    process.logged("that it has claimed", SOON, |line| line["message"] == "claimed").await;
    proxy.set(Mode::Reset);
    let before = proxy.accepted();
    eventually("it has tried again and again", SOON, || proxy.accepted() >= before + 4).await;
    proxy.set(Mode::Pass);
    let finished = process.finish(SOON).await;
    assert_eq!((finished.code(), &*clap(&database).await), (Some(0), "SUCCESS 1-0"), "{finished:?}");
}

#[tokio::test]
async fn a_job_that_gets_no_thread_does_its_work_and_reports_it() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let program = path("postgres-batch");
    let arguments = ["--nproc=0:", "--", program.to_str().unwrap(), "work"];
    let worker = Executable::new(Path::new("prlimit"), arguments).variables(database.owner().environment());
    let finished = worker.unprivileged().finish(SOON).await;
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    assert_eq!(report(&finished)["outcome"], "SUCCESS");
}

/// A failover: the worker's next session is with a server that is not promoted yet, and so is a new Job's first.
#[tokio::test]
async fn a_standby_that_is_not_promoted_yet_is_waited_for() {
    let primary = Cluster::with_settings(Settings::default().durable()).await;
    let database = queue(&primary).await;
    request(&database, 2, 0).await;
    let standby = primary.standby().await;
    let proxy = Proxy::to_cluster(&primary).await;
    let script = "while [ ! -e go ]; do sleep 0.05; done";
    let arguments = ["work", "--lease", "60s", "--beat", "100ms", "--", "sh", "-c", script];
    let mut worker = Executable::postgres_batch(arguments)
        .variables(database.owner().by_way_of(proxy.address()).environment())
        .variable("PGHOST", "127.0.0.1,127.0.0.1")
        .variable("PGPORT", format!("{},{}", proxy.address().port(), standby.port()))
        .start();
    worker.logged("that it has claimed", SOON, |line| line["message"] == "claimed").await;
    standby.catches_up_with(&primary).await;

    primary.kill().await;
    let says = |reason: &'static str| {
        move |line: &serde_json::Value| line["reason"].as_str().is_some_and(|told| told.contains(reason))
    };
    // The primary is gone: the proxy ends the session, and what is left of the list is the standby.
    worker.logged("that only the standby is left", SOON, says("the server is a standby")).await;
    let on_the_standby = database.owner().by_way_of(SocketAddr::from(([127, 0, 0, 1], standby.port())));
    let mut late = Executable::postgres_batch(["work"]).variables(on_the_standby.environment()).start();
    late.logged("that the standby takes no writes", SOON, says("read-write mode during recovery")).await;
    standby.promote().await;

    let finished = late.finish(SOON).await;
    assert_eq!((finished.code(), report(&finished)["clap"].as_i64()), (Some(0), Some(2)), "{finished:?}");
    worker.logged("that it is back", SOON, |line| line["message"] == "the database can be reached again").await;
    fs::write(worker.directory().join("go"), "").unwrap();
    let finished = worker.finish(SOON).await;
    assert_eq!((finished.code(), report(&finished)["outcome"].as_str()), (Some(0), Some("SUCCESS")), "{finished:?}");
}

/// Whatever of a claim's answer is lost, the row is claimed once and its work is done.
#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_found() {
    let database = queue(Cluster::shared().await).await;
    let proxy = Proxy::to_cluster(database.cluster()).await;
    let mut found = 0;
    for limit in (600..10_000).step_by(50) {
        database.execute("TRUNCATE make_it_clap RESTART IDENTITY CASCADE").await;
        request(&database, 1, 0).await;
        let before = proxy.accepted();
        proxy.set(Mode::Truncate(limit));
        let mut process = Executable::postgres_batch(["work"])
            .variables(database.owner().by_way_of(proxy.address()).environment())
            .start();
        eventually("it has connected again, or ended", SOON, || {
            proxy.accepted() > before + 1 || process.ended().is_some()
        })
        .await;
        let cut = proxy.accepted() > before + 1;
        proxy.set(Mode::Pass);
        let finished = process.finish(SOON).await;
        assert_eq!(finished.code(), Some(0), "after {limit} bytes: {finished:?}");
        assert_eq!(clap(&database).await, "SUCCESS 1-0", "after {limit} bytes: {finished:?}");
        found += usize::from(finished.errors.contains("found a claim"));
        if !cut {
            break;
        }
    }
    assert!(found > 0, "no cut fell between a claim and its answer");
}

/// "Nothing was claimed" must be known: here something was, and nobody is left who could tell the worker.
#[tokio::test]
async fn a_claim_whose_answer_stays_lost_is_not_called_unreachable() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let proxy = Proxy::to_cluster(database.cluster()).await;
    let client = database.connect().await;
    client.batch_execute("BEGIN; LOCK TABLE clap_attempt IN SHARE MODE").await.unwrap();
    let process = Executable::postgres_batch(["work"])
        .variables(database.owner().by_way_of(proxy.address()).environment())
        .start();
    let waits = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND usename = 'owner' AND wait_event_type = 'Lock'";
    first("the claim waits", SOON, async || (database.value::<i64>(waits).await == 1).then_some(())).await;

    proxy.set(Mode::Blackhole);
    client.batch_execute("COMMIT").await.unwrap();
    let claimed = "SELECT count(*) FROM clap WHERE status = 'RUNNING'";
    first("the claim is committed", SOON, async || (database.value::<i64>(claimed).await == 1).then_some(())).await;

    let finished = process.finish(Duration::from_secs(60)).await;
    assert_eq!((finished.code(), report(&finished)["outcome"].as_str()), (Some(75), Some("LOST")), "{finished:?}");
    let message = report(&finished)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("a claim may have been committed"), "{message}");
}

/// The claim is in its COMMIT, which waits for a standby that is not there, when the wire breaks. Its absence from the
/// tables is no proof that it never was.
#[tokio::test]
async fn a_claim_whose_commit_is_under_way_is_waited_for() {
    let cluster = Cluster::with_settings(Settings::default().set("synchronous_standby_names", "nobody")).await;
    let database = queue(&cluster).await;
    database
        .execute("INSERT INTO make_it_clap (max_attempts) VALUES (1); ALTER ROLE owner SET synchronous_commit = on")
        .await;
    let proxy = Proxy::to_cluster(&cluster).await;
    let process = Executable::postgres_batch(["work"])
        .variables(database.owner().by_way_of(proxy.address()).environment())
        .start();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()";
    first("the COMMIT waits", SOON, async || (database.value::<i64>(waiting).await == 1).then_some(())).await;
    proxy.set(Mode::Reset);
    let before = proxy.accepted();
    eventually("it has tried again", SOON, || proxy.accepted() > before).await;
    proxy.set(Mode::Pass);
    let looks_up = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    first("the look-up waits", SOON, async || (database.value::<i64>(looks_up).await == 1).then_some(())).await;
    database.execute("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    database.execute("SELECT pg_reload_conf()").await;

    let finished = process.finish(SOON).await;
    assert_eq!((finished.code(), report(&finished)["outcome"].as_str()), (Some(0), Some("SUCCESS")), "{finished:?}");
    assert_eq!(clap(&database).await, "SUCCESS 1-0");
}

/// Nobody confirms an attempt whose worker never learned of it: its row is not used up, and is worked on.
#[tokio::test]
async fn a_row_whose_claim_got_lost_is_not_marked_dead_unworked() {
    let database = queue(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (1)").await;
    let claimed = super::ground::store(&database)
        .claim(Claim::Fast, &job("lost"), FencingToken::draw(), LONG, soon())
        .await
        .unwrap();
    assert!(claimed.is_some());
    expire_leases(&database).await;
    let worked = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!((worked.code(), report(&worked)["iteration"].as_i64()), (Some(0), Some(2)), "{worked:?}");
    assert_eq!(clap(&database).await, "SUCCESS 2-1");
}

/// The server finds out by itself that a client's host is gone, also in the middle of a pipeline.
#[tokio::test]
async fn a_transaction_asks_the_server_to_notice_a_dead_client() {
    let database = queue(Cluster::shared().await).await;
    let sql = "SELECT concat_ws(' ', current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'),
                                current_setting('tcp_keepalives_count'), current_setting('tcp_user_timeout')) AS settings";
    let rows = transactions(&database.owner(), None).run(sql, &[], soon()).await.unwrap();
    assert_eq!(rows[0].get::<_, String>("settings"), "5 2 3 10000");
}
