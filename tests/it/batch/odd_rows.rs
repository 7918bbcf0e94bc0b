//! Rows in every state that the constraints admit, as an application, an operator or a restore may leave them: none of
//! them stops another row, and none starts Jobs for nothing.

use clapometer::batch::{
    status::Status,
    store::{Claim, FencingToken},
    worker::{
        claim::{Claimed, claim},
        lease::Terms,
    },
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::ground::{LONG, SOON, batch, end_back_off, job, queue, queue_in, report, request, soon, store};
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

/// A restore may leave a clap without its request, and an operator numbers that are as high as they go.
#[tokio::test]
async fn a_clap_that_nobody_can_work_on_is_marked_dead() {
    let database = queue(Cluster::shared().await).await;
    let client = database.connect().await;
    let mut store = store(&database);
    let terms = Terms { lease: LONG, heartbeat: LONG / 4 };
    let high = "iteration = 999999999, interruptions = 999999999";
    let attempt = "INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, ended_at, outcome)
                   VALUES (1, 2147483647, 1, 'odd', now(), 'FAILED')";
    for status in ["RUNNING", "FAILED"] {
        for (odd, reason) in [
            ("DELETE FROM make_it_clap WHERE id = 1".to_owned(), "its request is missing"),
            (format!("UPDATE clap SET {high}"), "its attempts have no higher number left"),
            (attempt.to_owned(), "its attempts have no higher number left"),
        ] {
            client.batch_execute("TRUNCATE make_it_clap RESTART IDENTITY CASCADE").await.unwrap();
            let restored = format!(
                "BEGIN; SET LOCAL session_replication_role = replica;
                 INSERT INTO make_it_clap (pending) VALUES (false);
                 INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at)
                 VALUES (1, '{status}', 1, 1, 5, 'odd', now());
                 {odd}; COMMIT"
            );
            client.batch_execute(&restored).await.unwrap();
            client.batch_execute("INSERT INTO make_it_clap (id) VALUES (2)").await.unwrap();
            let found = claim(&mut store, &job("job"), terms, &CancellationToken::new()).await;
            let claimed = matches!(&found, Ok(Claimed::Attempt(attempt, _)) if attempt.id == 2);
            assert!(claimed, "{restored}: {found:?}");
            let left = "SELECT format('%s %s', status, last_error) FROM clap WHERE id = 1";
            assert_eq!(database.value::<String>(left).await, format!("DEAD {reason}"), "{restored}");
            assert_eq!(database.value::<i64>("SELECT claimable FROM clap_backlog").await, 0, "{restored}");
        }
    }
}

/// A restore of one table may leave thousands of claps without their requests.
#[tokio::test]
async fn claps_that_nobody_can_work_on_hide_no_other_however_many_they_are() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 301, 0).await;
    database
        .execute(
            "BEGIN; SET LOCAL session_replication_role = replica;
             UPDATE make_it_clap SET pending = false;
             INSERT INTO clap (id, status, session_id, iteration, interruptions, max_attempts, started_at, next_attempt_at)
             SELECT n, 'FAILED', 1, CASE WHEN n <= 150 THEN 999999999 ELSE 1 END, CASE WHEN n <= 150 THEN 999999998 ELSE 0 END,
                    5, now(), now() - interval '1 h' + n * interval '1 s'
               FROM generate_series(1, 301) n;
             DELETE FROM make_it_clap WHERE id BETWEEN 151 AND 300; COMMIT",
        )
        .await;
    let worked = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!((&report(&worked)["clap"], worked.code()), (&301.into(), Some(0)), "{worked:?}");
}

#[tokio::test]
async fn dead_claps_without_a_request_are_not_retried_and_can_be_pruned() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 4, 0).await;
    database
        .execute(
            "BEGIN; SET LOCAL session_replication_role = replica;
             UPDATE make_it_clap SET pending = false;
             INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at, finished_at)
             SELECT n, CASE n WHEN 4 THEN 'SUCCESS' ELSE 'DEAD' END, 1, 1, 5, now(), now() - interval '1 h' + n * interval '1 s'
               FROM generate_series(1, 4) n;
             DELETE FROM make_it_clap WHERE id < 4; COMMIT",
        )
        .await;
    let retried = batch(&database, ["retry", "1"]).finish(SOON).await;
    let why = "not retried, because its request is missing (DEAD)";
    assert_eq!((retried.code(), &*retried.output), (Some(1), &*format!("clap 1: {why}\n")), "{retried:?}");
    let all = batch(&database, ["retry", "--all-dead"]).finish(SOON).await;
    let told = format!("clap 1: {why}\nclap 2: {why}\nclap 3: {why}\n");
    assert_eq!((all.code(), all.output), (Some(1), told));
    for which in [&["retry", "1", "5", "--json"][..], &["retry", "--all-dead", "--json"]] {
        let retried = batch(&database, which.iter().copied()).finish(SOON).await;
        let claps: Value = serde_json::from_str(&retried.output).expect("one JSON document");
        let left = json!({"id": 1, "status": "DEAD", "changed": false, "reason": "its request is missing"});
        assert_eq!((retried.code(), &claps[0]), (Some(1), &left), "{which:?}");
        assert!(claps[1]["id"] != 5 || claps[1].get("reason").is_none(), "there is no such clap: {claps}");
    }
    let statuses = "SELECT string_agg(status, ' ' ORDER BY id) FROM clap";
    assert_eq!(database.value::<String>(statuses).await, "DEAD DEAD DEAD SUCCESS");
    let prune = ["prune", "--older-than", "1s", "--status", "DEAD,SUCCESS", "--batch", "2", "--json"];
    let pruned = batch(&database, prune).finish(SOON).await;
    assert_eq!(pruned.output, "{\"deleted\":4}\n", "{pruned:?}");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM clap").await, 0);
}

/// It is reserved for its Job, which would look at it again and again until the lease ends.
#[tokio::test]
async fn a_job_whose_own_clap_has_no_request_ends_at_once() {
    let database = queue(Cluster::shared().await).await;
    database
        .execute(
            "BEGIN; SET LOCAL session_replication_role = replica;
             INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, lease_expires_at, next_attempt_at)
             VALUES (1, 'FAILED', 1, 1, 5, 'mine', now(), now() + interval '1 h', now() + interval '1 h');
             INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, ended_at, outcome)
             VALUES (1, 1, 1, 'mine', now(), 'FAILED'); COMMIT",
        )
        .await;
    let finished = batch(&database, ["work"]).variable("JOB_UID", "mine").finish(SOON).await;
    assert_eq!(report(&finished)["outcome"], "ALREADY_SETTLED", "{finished:?}");
    assert_eq!(database.value::<String>("SELECT status FROM clap").await, "DEAD");
}

/// An operator who wants a clap done once more sets its status.
#[tokio::test]
async fn a_clap_that_somebody_made_due_again_can_succeed_again() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    for _ in 0..2 {
        let worked = batch(&database, ["work"]).finish(SOON).await;
        assert_eq!(report(&worked)["outcome"], "SUCCESS", "{worked:?}");
        database.execute("UPDATE clap SET status = 'FAILED'").await;
    }
    // A worker looks for it in another way when it is behind a clap that it may not take.
    let attempt = store(&database).claim(Claim::TakeOver, &job("last"), FencingToken::draw(), LONG, soon()).await;
    let attempt = attempt.unwrap().expect("it is due");
    assert_eq!(store(&database).succeed(&attempt, soon()).await.unwrap(), Some(Status::Success));
    let attempts = "SELECT string_agg(format('%s %s', outcome, error), ', ' ORDER BY iteration) FROM clap_attempt";
    let again = "LOST succeeded, and somebody made its clap due again";
    assert_eq!(database.value::<String>(attempts).await, format!("{again}, {again}, SUCCESS "));
}

#[tokio::test]
async fn a_success_counts_although_its_attempts_row_was_deleted() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let mut store = store(&database);
    let attempt = store.claim(Claim::Fresh, &job("one"), FencingToken::draw(), LONG, soon()).await.unwrap().unwrap();
    database.execute("TRUNCATE clap_attempt").await;
    assert_eq!(store.succeed(&attempt, soon()).await.unwrap(), Some(Status::Success));
}

/// The claps that are due before it are not for this Job.
#[tokio::test]
async fn a_job_whose_last_attempt_crashed_ends_although_many_others_are_due() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 30, 0).await;
    database
        .execute(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at, next_attempt_at)
             SELECT n, 'FAILED', 1, 1, 5, now(), now() - interval '1 h' FROM generate_series(1, 29) n;
             INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at)
             VALUES (30, 'RUNNING', 30, 5, 5, 'mine', now());
             INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid) VALUES (30, 5, 30, 'mine')",
        )
        .await;
    let finished = batch(&database, ["work"]).variable("JOB_UID", "mine").finish(SOON).await;
    assert_eq!(report(&finished)["outcome"], "ALREADY_SETTLED", "{finished:?}");
    assert_eq!(database.value::<String>("SELECT status FROM clap WHERE id = 30").await, "DEAD");
}

/// The largest numbers that the columns take: for a clap that is to be tried until it succeeds.
#[tokio::test]
async fn a_clap_of_a_thousand_attempts_fails_and_is_retried_as_any_other() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 3, 0).await;
    database
        .execute(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at, finished_at)
             VALUES (1, 'FAILED', 1, 1500, 32767, now(), now()), (2, 'DEAD', 1, 32767, 32767, now(), now()),
                    (3, 'DEAD', 1, 5, 5, now(), now())",
        )
        .await;
    let failed = batch(&database, ["work"]).variable("FINAL_STATE", "FAILED").finish(SOON).await;
    assert_eq!((failed.code(), &report(&failed)["iteration"]), (Some(10), &1501.into()), "{failed:?}");
    let retried = batch(&database, ["retry", "--all-dead"]).finish(SOON).await;
    let told =
        "clap 2: not retried, because it has had as many attempts as there can be (DEAD)\nclap 3: due now (FAILED)\n";
    assert_eq!((retried.code(), &*retried.output), (Some(1), told));
    end_back_off(&database).await;
    database.execute("UPDATE clap_attempt SET started_at = '-infinity'").await;
    let shown = batch(&database, ["show", "1"]).finish(SOON).await;
    assert_eq!(shown.code(), Some(0), "{shown:?}");
}

/// A restore leaves such a request if its triggers did not run and its sequence starts anew.
#[tokio::test]
async fn a_request_that_no_worker_would_find_is_found_after_retry() {
    let database = queue(Cluster::shared().await).await;
    database
        .execute("BEGIN; SET LOCAL session_replication_role = replica; INSERT INTO make_it_clap (id, pending) VALUES (1, false); COMMIT")
        .await;
    let retried = batch(&database, ["retry", "1"]).finish(SOON).await;
    assert_eq!((retried.code(), &*retried.output), (Some(0), "clap 1: due now (PENDING)\n"), "{retried:?}");
    let worked = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!(report(&worked)["clap"], 1, "{worked:?}");
    let added = batch(&database, ["add"]).finish(SOON).await;
    assert!(added.code() == Some(1) && added.errors.contains("SELECT setval("), "{added:?}");
}

/// WIN1252 takes the byte 0x81, and nothing in UTF-8 stands for it: no worker can read such a request.
#[tokio::test]
async fn a_request_that_cannot_be_read_costs_its_attempts_and_stops_no_other() {
    let database = queue_in(Cluster::shared().await, "WIN1252").await;
    let unreadable = "to_jsonb(convert_from('\\x81', 'WIN1252'))";
    database
        .execute(&format!("INSERT INTO make_it_clap (payload, max_attempts) VALUES ({unreadable}, 2), ('{{}}', 5)"))
        .await;
    for (code, clap) in [(10, 1), (11, 1), (0, 2)] {
        let worked = batch(&database, ["work"]).finish(SOON).await;
        assert_eq!((worked.code(), &report(&worked)["clap"]), (Some(code), &clap.into()), "{worked:?}");
        end_back_off(&database).await;
    }
    for command in [&["list"][..], &["show", "1"]] {
        let shown = batch(&database, command.iter().copied()).finish(SOON).await;
        assert!(
            shown.code() == Some(0) && shown.output.contains("the request cannot be read"),
            "{command:?}: {shown:?}"
        );
    }
    for command in [&["list", "--json"][..], &["show", "1", "--json"]] {
        let shown = batch(&database, command.iter().copied()).finish(SOON).await;
        assert_eq!(shown.code(), Some(0), "{command:?}: {shown:?}");
        let document: Value = serde_json::from_str(&shown.output).expect("one JSON document");
        let (odd, others) = match document.as_array() {
            Some(claps) => (&claps[1], &claps[..1]),
            None => (&document["clap"], &[][..]),
        };
        assert_eq!((&odd["id"], &odd["status"], &odd["payload"]), (&1.into(), &"DEAD".into(), &Value::Null), "{odd}");
        assert!(odd["unreadable"]["payload"].as_str().is_some_and(|reason| reason.contains("0x81")), "{odd}");
        assert_eq!(odd["unreadable"].as_object().map(serde_json::Map::len), Some(1), "{odd}");
        for other in others {
            assert_eq!((&other["payload"], other.get("unreadable")), (&serde_json::json!({}), None), "{other}");
            // The columns are read one by one only of a row that cannot be read as a whole.
            let columns = |row: &Value| row.as_object().map(|row| row.keys().cloned().collect::<Vec<_>>());
            let expected = columns(other).map(|keys| keys.into_iter().chain(["unreadable".to_owned()]));
            let (mut expected, mut read) = (expected.unwrap().collect::<Vec<_>>(), columns(odd).unwrap());
            expected.sort();
            read.sort();
            assert_eq!(read, expected);
        }
    }
    assert_eq!(database.value::<i64>("SELECT claimable FROM clap_backlog").await, 0);
}

#[tokio::test]
async fn an_attempt_that_cannot_be_read_hides_no_other() {
    let database = queue_in(Cluster::shared().await, "WIN1252").await;
    request(&database, 1, 0).await;
    database
        .execute(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, started_at) VALUES (1, 'FAILED', 2, 2, 5, now());
             INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, ended_at, outcome, error)
             VALUES (1, 1, 1, 'a', now(), 'FAILED', convert_from('\\x81', 'WIN1252')), (1, 2, 2, 'b', now(), 'FAILED', 'plain')",
        )
        .await;
    let shown = batch(&database, ["show", "1", "--json"]).finish(SOON).await;
    assert_eq!(shown.code(), Some(0), "{shown:?}");
    let document: Value = serde_json::from_str(&shown.output).expect("one JSON document");
    let [odd, plain] = &document["attempts"].as_array().unwrap()[..] else { panic!("{document}") };
    assert_eq!((&odd["error"], &odd["job_uid"], &plain["error"]), (&Value::Null, &"a".into(), &"plain".into()));
    assert!(odd["unreadable"]["error"].is_string() && plain.get("unreadable").is_none(), "{document}");
    assert_eq!(odd.as_object().unwrap().len(), plain.as_object().unwrap().len() + 1, "{document}");
}

/// The requests, as a view that counts each look at a payload, and fails at it: with the first SQLSTATE at the first
/// two looks, then with the second one.
fn failing_payload(first: &str, then: &str) -> String {
    format!(
        "ALTER TABLE make_it_clap RENAME TO requests;
         CREATE SEQUENCE looks;
         CREATE FUNCTION fail() RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
         BEGIN
             IF nextval('looks') <= 2 THEN RAISE 'cannot be read' USING ERRCODE = '{first}'; END IF;
             RAISE 'cannot be read now' USING ERRCODE = '{then}';
         END $$;
         CREATE VIEW make_it_clap AS
         SELECT id, pending, duration_seconds, fail() AS payload, request_key, requested_at, max_attempts FROM requests;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         GRANT ALL ON SEQUENCE looks TO PUBLIC"
    )
}

/// Only what may be about a value is looked at more closely: an outage, a limit and a missing grant are told at once.
#[tokio::test]
async fn rows_are_read_one_by_one_only_if_a_value_may_be_the_trouble() {
    for (first, then, looks, code) in [
        // A value that cannot be converted, one that is damaged, one that is too big for the server's memory.
        ("22021", "22021", 3, 0),
        ("XX001", "XX001", 3, 0),
        ("53200", "53200", 3, 0),
        // A limit, a server that stops, a lock, a grant.
        ("57014", "57014", 1, 69),
        ("57P01", "57P01", 1, 69),
        ("55P03", "55P03", 1, 69),
        ("42501", "42501", 1, 1),
        // The server stops after the row could not be read as a whole.
        ("22021", "57P01", 3, 69),
    ] {
        let database = queue(Cluster::shared().await).await;
        request(&database, 1, 0).await;
        database.execute(&failing_payload(first, then)).await;
        let listed = batch(&database, ["list", "--json"]).finish(SOON).await;
        let seen: i64 = database.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM looks").await;
        assert_eq!((listed.code(), seen), (Some(code), looks), "{first}, {then}: {listed:?}");
        let is_shown = listed.output.contains("\"unreadable\":{\"payload\":");
        assert_eq!(is_shown, code == 0, "{first}, {then}: {listed:?}");
    }
}

/// An ORM may save a whole row after it has read it: the triggers know better.
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
