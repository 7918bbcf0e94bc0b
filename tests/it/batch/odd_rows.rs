//! Rows in every state that the constraints admit, as an application, an operator or a restore may leave them: none of
//! them stops another row, and none starts Jobs for nothing.

use clapometer::batch::worker::{
    claim::{Claimed, claim},
    lease::Terms,
};
use tokio_util::sync::CancellationToken;

use super::ground::{LONG, SOON, batch, job, queue, report, store};
use crate::support::{cluster::Cluster, database::connect};

/// A clap of the odd request 1, by its columns: status, iteration, interruptions, lease, next attempt, owner.
fn claps() -> Vec<Option<String>> {
    let mut claps = vec![None];
    for status in ["RUNNING", "FAILED", "SUCCESS", "DEAD", "CANCELLED"] {
        for lease in ["- interval '1 s'", "+ interval '1 h'"] {
            for next in ["- interval '1 s'", "+ interval '1 h'"] {
                for (iteration, interruptions) in [(0, 0), (1, 0), (1, 1), (2, 0)] {
                    for unconfirmed in if status == "RUNNING" { &[false, true][..] } else { &[false] } {
                        claps.push(Some(format!(
                            "INSERT INTO clap (id, status, session_id, iteration, interruptions, max_attempts, job_uid, started_at,
                                               finished_at, lease_expires_at, next_attempt_at, unconfirmed)
                             VALUES (1, '{status}', 1, {iteration}, {interruptions}, 2, 'odd', now(), now(), now() {lease}, now() {next},
                                     {unconfirmed})"
                        )));
                    }
                }
            }
        }
    }
    claps
}

/// Attempts of the odd clap: none, one that is open, and ones that its row knows nothing of.
const ATTEMPTS: [&str; 4] = [
    "",
    "INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid) VALUES (1, 1, 1, 'odd')",
    "INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, ended_at, outcome)
     SELECT 1, n, n, 'odd', now(), 'FAILED' FROM generate_series(1, 4) n",
    "INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, ended_at, outcome) VALUES (1, 3, 3, 'odd', now(), 'SUCCESS')",
];

#[tokio::test]
async fn no_row_stops_another_or_starts_jobs_for_nothing() {
    let database = queue(Cluster::shared().await).await;
    let client = database.connect().await;
    let mut store = store(&database);
    let terms = Terms { lease: LONG, heartbeat: LONG / 4 };
    let mut tried = 0;
    for clap in claps() {
        for attempts in if clap.is_some() { &ATTEMPTS[..] } else { &ATTEMPTS[..1] } {
            for pending in [true, false] {
                client
                    .batch_execute("TRUNCATE make_it_clap, clap_voided_session RESTART IDENTITY CASCADE")
                    .await
                    .unwrap();
                // As a restore writes: no trigger corrects it.
                let odd = format!(
                    "BEGIN; SET LOCAL session_replication_role = replica; INSERT INTO make_it_clap (pending) VALUES ({pending});
                     {}; {attempts}; COMMIT",
                    clap.as_deref().unwrap_or_default()
                );
                if client.batch_execute(&odd).await.is_err() {
                    client.batch_execute("ROLLBACK").await.unwrap();
                    continue;
                }
                client.batch_execute("INSERT INTO make_it_clap (max_attempts) VALUES (5)").await.unwrap();
                tried += 1;
                let mut claimed = Vec::new();
                for number in 0..5 {
                    let job = job(&format!("job-{number}"));
                    let found = claim(&mut store, &job, terms, &CancellationToken::new()).await;
                    match found.unwrap_or_else(|error| panic!("{odd}: {error}")) {
                        Claimed::Attempt(attempt, _) => claimed.push(attempt.id),
                        Claimed::Nothing => break,
                        other => panic!("{odd}: {other:?}"),
                    }
                }
                assert!(claimed.contains(&2) && claimed.len() <= 2, "{odd}: claimed {claimed:?}");
                let claimable: i64 = client.query_one("SELECT claimable FROM clap_backlog", &[]).await.unwrap().get(0);
                assert_eq!(claimable, 0, "{odd}: nothing is found, and Jobs are started for it; claimed {claimed:?}");
            }
        }
    }
    assert!(tried > 500, "only {tried} states were tried");
}

/// What an ORM does that saves a whole row after it has read it: the triggers know better.
#[tokio::test]
async fn the_flag_of_a_request_is_what_its_clap_says() {
    let database = queue(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (pending) VALUES (false), (true)").await;
    let pending = "SELECT string_agg(pending::text, ' ' ORDER BY id) FROM make_it_clap";
    assert_eq!(database.value::<String>(pending).await, "true true", "a request without a clap is pending");
    // An application that writes requests need not be allowed to read claps.
    database.execute("GRANT INSERT, UPDATE ON make_it_clap TO scaler").await;
    let application = connect(&database.scaler().driver()).await;
    application.batch_execute("INSERT INTO make_it_clap (pending) VALUES (false)").await.unwrap();
    database.execute("DELETE FROM make_it_clap WHERE id = 3").await;
    let worked = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!(report(&worked)["clap"], 1, "{worked:?}");
    database.execute("UPDATE make_it_clap SET pending = true, duration_seconds = 0").await;
    assert_eq!(database.value::<String>(pending).await, "false true");
    database.execute("UPDATE make_it_clap SET pending = false").await;
    assert_eq!(database.value::<String>(pending).await, "false true");
    let refused = database.connect().await.batch_execute("UPDATE clap SET lease_expires_at = 'infinity'").await;
    assert!(refused.is_err(), "a lease without an end keeps its row for ever");
}

#[tokio::test]
async fn a_time_without_an_end_does_not_stop_the_list() {
    let database = queue(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (requested_at) VALUES ('infinity'), ('-infinity'), (now())").await;
    for command in [&["list"][..], &["show", "1"], &["list", "--json"]] {
        let listed = batch(&database, command.iter().copied()).finish(SOON).await;
        assert_eq!(listed.code(), Some(0), "{command:?}: {listed:?}");
    }
}
