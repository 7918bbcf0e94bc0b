//! The operator's commands, as people and as scripts see them.

use serde_json::Value;

use super::ground::{SOON, batch, end_back_off, expire_leases, queue, report};
use crate::support::{cluster::Cluster, database::Database, executable::Finished};

async fn run<'a>(database: &Database<'_>, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
    batch(database, arguments).finish(SOON).await
}

async fn json<'a>(database: &Database<'_>, arguments: impl IntoIterator<Item = &'a str>) -> Value {
    let finished = run(database, arguments.into_iter().chain(["--json"])).await;
    serde_json::from_str(&finished.output).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

async fn statuses(database: &Database<'_>) -> String {
    let sql = "SELECT string_agg(coalesce(status, 'PENDING'), ' ' ORDER BY m.id) FROM make_it_clap m LEFT JOIN clap c USING (id)";
    database.value(sql).await
}

#[tokio::test]
async fn requests_are_added_once_per_key() {
    let database = queue(Cluster::shared().await).await;
    assert_eq!(run(&database, ["add", "--duration", "40"]).await.output, "added clap 1\n");
    assert_eq!(run(&database, ["add", "--count", "60"]).await.output, "added 60 claps: 2 to 61\n");
    let keyed = ["add", "--key", "invoice-7", "--payload", "{\"a\": [1]}", "--max-attempts", "9"];
    assert_eq!(json(&database, keyed).await, serde_json::json!({"ids": [62], "existing": null}));
    assert_eq!(json(&database, keyed).await, serde_json::json!({"ids": [], "existing": 62}));
    let row: String =
        database.value("SELECT format('%s %s', payload, max_attempts) FROM make_it_clap WHERE id = 62").await;
    assert_eq!(row, "{\"a\": [1]} 9");
    for wrong in [&["add", "--payload", "{"][..], &["add", "--count", "0"], &["add", "--count", "2", "--key", "k"]] {
        assert_eq!(run(&database, wrong.iter().copied()).await.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_queue_can_be_looked_at() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--count", "3"]).await;
    let failing = ["work", "--backoff", "1h", "--", "sh", "-c", "echo no space >&2; exit 3"];
    let failed = batch(&database, failing).variable("JOB_UID", "u-1").variable("JOB_NAME", "j-1").finish(SOON).await;
    assert_eq!(failed.code(), Some(10), "{failed:?}");
    run(&database, ["work"]).await;

    let listed = run(&database, ["list"]).await.output;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].starts_with("ID  STATUS   ATTEMPT"), "{listed}");
    assert!(lines[1].starts_with(" 3  PENDING      0/5"), "{listed}");
    assert!(lines[2].starts_with(" 2  SUCCESS      1/5"), "{listed}");
    assert!(lines[3].starts_with(" 1  FAILED       1/5") && lines[3].contains("exit code 3: no space"), "{listed}");
    assert!(lines[5].starts_with("1 pending, 0 due, 0 held by a Job, 1 waiting"), "{listed}");
    assert!(!listed.contains('\x1b'), "no colours in a pipe");

    let only = json(&database, ["list", "--status", "failed,dead"]).await;
    assert_eq!((only.as_array().unwrap().len(), &only[0]["id"], &only[0]["job_name"]), (1, &1.into(), &"j-1".into()));
    assert_eq!(json(&database, ["list", "--job", "u-1", "--since", "1h"]).await[0]["id"], 1);
    assert_eq!(json(&database, ["list", "--job", "nobody"]).await, serde_json::json!([]));

    let shown = run(&database, ["show", "1"]).await.output;
    assert!(shown.starts_with("clap 1  FAILED  attempt 1/5\n"), "{shown}");
    assert!(shown.contains("next attempt  in ") && shown.contains("exit code 3: no space"), "{shown}");
    let shown = json(&database, ["show", "1"]).await;
    assert_eq!((&shown["clap"]["status"], &shown["attempts"][0]["exit_code"]), (&"FAILED".into(), &3.into()));
    let nothing = run(&database, ["show", "99"]).await;
    assert_eq!((nothing.code(), &*nothing.output), (Some(1), "clap 99: there is none\n"));
}

/// The operator's terminal does not obey what a program writes to its stderr.
#[tokio::test]
async fn escape_sequences_of_a_program_do_not_reach_the_terminal() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add"]).await;
    run(&database, ["work", "--", "sh", "-c", "printf 'no \\033[31mred\\033]0;title\\007\\n' >&2; exit 3"]).await;
    for command in [&["list"][..], &["show", "1"]] {
        let shown = run(&database, command.iter().copied()).await.output;
        assert!(shown.contains("[31mred"), "{shown}");
        assert!(!shown.contains(['\u{1b}', '\u{7}']), "{shown:?}");
    }
}

/// Some terminals obey the control characters beyond ASCII as well: U+009B begins a sequence as ESC [ does.
#[tokio::test]
async fn control_characters_of_a_payload_do_not_reach_the_terminal() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--payload", "\"a\u{9b}31mb\u{85}\""]).await;
    for command in [&["show", "1"][..], &["show", "1", "--json"], &["list", "--json"]] {
        let shown = run(&database, command.iter().copied()).await;
        assert!(shown.output.contains("31mb") && !shown.output.contains(['\u{9b}', '\u{85}']), "{shown:?}");
    }
    assert_eq!(json(&database, ["show", "1"]).await["clap"]["payload"], "a\u{9b}31mb\u{85}");
}

#[tokio::test]
async fn a_dead_clap_comes_back_for_one_more_attempt() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--max-attempts", "1"]).await;
    run(&database, ["add"]).await;
    assert_eq!(run(&database, ["work", "--final-state", "FAILED"]).await.code(), Some(11));
    assert_eq!(statuses(&database).await, "DEAD PENDING");

    let retried = run(&database, ["retry", "1", "2", "3"]).await;
    assert_eq!(retried.code(), Some(1), "some could not be retried");
    assert_eq!(retried.output, "clap 1: due now (FAILED)\nclap 2: not retried (PENDING)\nclap 3: there is none\n");
    let worked = run(&database, ["work"]).await;
    assert_eq!((report(&worked)["clap"].as_i64(), report(&worked)["iteration"].as_i64()), (Some(1), Some(2)));
    assert_eq!(statuses(&database).await, "SUCCESS PENDING");

    run(&database, ["work", "--", "sh", "-c", "exit 65"]).await;
    assert_eq!(statuses(&database).await, "SUCCESS DEAD");
    let all = run(&database, ["retry", "--all-dead"]).await;
    assert_eq!((all.code(), &*all.output), (Some(0), "clap 2: due now (FAILED)\n"));
    assert_eq!(run(&database, ["retry", "--all-dead"]).await.output, "no clap is dead\n");
}

/// Sixty thousand lines help nobody.
#[tokio::test]
async fn many_claps_are_summed_up() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--count", "120"]).await;
    let listed = run(&database, ["list"]).await.output;
    assert_eq!(listed.matches("PENDING").count(), 50, "{listed}");
    assert!(
        listed.contains("\nthe newest 50 of 120 claps; --limit N shows more, --status and --since choose\n"),
        "{listed}"
    );
    for whole in [&["list", "--limit", "120"][..], &["list", "--limit", "121"]] {
        let listed = run(&database, whole.iter().copied()).await.output;
        assert!(!listed.contains("the newest") && listed.matches("PENDING").count() == 120, "{listed}");
    }

    database
        .execute(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, finished_at)
             SELECT id, 'DEAD', id, 5, 5, id::text, now(), now() FROM make_it_clap WHERE id <= 60",
        )
        .await;
    let all = run(&database, ["retry", "--all-dead"]).await;
    let said = "60 claps: due now (FAILED): 1, 2, 3 ... 60\n--json names each of them\n";
    assert_eq!((all.code(), &*all.output), (Some(0), said));
    let times: i64 = database.value("SELECT count(DISTINCT next_attempt_at) FROM clap").await;
    assert!(times > 1, "what is retried at once has times of its own, or each claim would sort all of them");

    let ids: Vec<String> = (100..160).map(|id| id.to_string()).collect();
    let some = run(&database, ["cancel"].into_iter().chain(ids.iter().map(String::as_str))).await;
    assert_eq!(some.code(), Some(1), "{some:?}");
    let said =
        "21 claps: cancelled (CANCELLED): 100, 101, 102 ... 120\n39 claps: no such clap: 121, 122, 123 ... 159\n";
    assert!(some.output.starts_with(said), "{}", some.output);
}

#[tokio::test]
async fn what_nobody_works_on_is_cancelled_at_once() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--count", "4"]).await;
    run(&database, ["work"]).await;
    run(&database, ["work", "--final-state", "FAILED"]).await;
    // A third clap whose worker has vanished.
    let vanished = batch(&database, ["work", "--", "sleep", "600"]).start();
    crate::support::wait::first("it is running", SOON, async || {
        (statuses(&database).await == "SUCCESS FAILED RUNNING PENDING").then_some(())
    })
    .await;
    drop(vanished);
    expire_leases(&database).await;

    let cancelled = run(&database, ["cancel", "1", "2", "3", "4"]).await;
    assert_eq!(cancelled.code(), Some(1), "what is done cannot be cancelled");
    assert_eq!(statuses(&database).await, "SUCCESS CANCELLED CANCELLED CANCELLED");
    let open: i64 = database.value("SELECT count(*) FROM clap_attempt WHERE outcome = 'RUNNING'").await;
    assert_eq!(open, 0, "a cancelled clap has no open attempt");
    end_back_off(&database).await;
    assert_eq!(report(&run(&database, ["work"]).await)["outcome"], "NOTHING_TO_DO");

    assert_eq!(run(&database, ["retry", "4"]).await.code(), Some(0));
    assert_eq!(report(&run(&database, ["work"]).await)["clap"], 4, "even one that never began");
}

/// Returns what stands in the column TOOK, of each line in which it is right-aligned.
fn took(table: &str) -> Vec<&str> {
    let mut lines = table.lines().skip_while(|line| !line.contains("TOOK"));
    let end = lines.next().and_then(|heading| heading.find("TOOK")).expect("a heading") + "TOOK".len();
    let rows = lines.take_while(|line| !line.is_empty());
    rows.map(|line| line[..end].rsplit("  ").next().unwrap_or_default().trim()).collect()
}

/// A clap may be cancelled, marked as DEAD, or taken over, long after the last work on it ended.
#[tokio::test]
async fn what_an_attempt_took_is_the_time_of_its_work_or_nothing() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--count", "6", "--max-attempts", "1"]).await;
    for _ in 0..2 {
        run(&database, ["work", "--final-state", "FAILED"]).await;
    }
    // Three whose workers have vanished: one is cancelled, one is marked as DEAD, and one waits for that.
    for take in 1..=3 {
        database.execute(&format!("SELECT clap_take({take}, 'job-{take}', NULL, NULL, NULL, 60, false)")).await;
    }
    database
        .execute(
            "UPDATE clap
                SET started_at = started_at - interval '1 h', finished_at = finished_at - interval '1 h',
                    lease_expires_at = now() - interval '50 min', next_attempt_at = next_attempt_at - interval '1 h',
                    unconfirmed = false;
             UPDATE clap_attempt
                SET started_at = started_at - interval '1 h',
                    ended_at = CASE WHEN outcome <> 'RUNNING' THEN started_at - interval '59 min 50 s' END",
        )
        .await;
    assert_eq!(run(&database, ["retry", "1"]).await.code(), Some(0));
    assert_eq!(run(&database, ["cancel", "1", "3", "6"]).await.code(), Some(0));
    database.execute("UPDATE clap SET lease_expires_at = now() + interval '1 h' WHERE id = 5").await;
    run(&database, ["work"]).await;
    database.execute("UPDATE clap SET lease_expires_at = now() - interval '50 min' WHERE id = 5").await;

    assert_eq!(statuses(&database).await, "CANCELLED DEAD CANCELLED DEAD RUNNING CANCELLED");
    let listed = run(&database, ["list"]).await.output;
    assert_eq!(took(&listed), ["", "", "", "", "10s", "10s"], "{listed}");
    for (id, expected) in [("1", "10s"), ("2", "10s"), ("3", ""), ("4", ""), ("5", "")] {
        let shown = run(&database, ["show", id]).await.output;
        assert_eq!(took(&shown), [expected], "{shown}");
    }
    // One that is worked on: the time so far.
    database.execute("UPDATE clap SET lease_expires_at = now() + interval '1 h' WHERE id = 5").await;
    assert_eq!(took(&run(&database, ["list", "--status", "running"]).await.output), ["1h00m"]);
    assert_eq!(took(&run(&database, ["show", "5"]).await.output), ["1h00m"]);
}

/// The statement's snapshot is older than a claim that it had to wait for.
#[tokio::test]
async fn a_cancel_that_meets_a_claim_reaches_the_clap() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--count", "2"]).await;
    let claiming = database.connect().await;
    let take = "BEGIN; SELECT id FROM clap_take(7, 'job', NULL, 'pod', NULL, 60, true)";
    claiming.batch_execute(take).await.unwrap();
    let cancelling = batch(&database, ["cancel", "1", "2"]).start();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    crate::support::wait::first("the cancel waits for the claim", SOON, async || {
        (database.value::<i64>(waits).await == 1).then_some(())
    })
    .await;
    claiming.batch_execute("COMMIT").await.unwrap();

    let cancelled = cancelling.finish(SOON).await;
    assert_eq!(cancelled.code(), Some(0), "{cancelled:?}");
    let said = "clap 1: is being worked on; stops at its next heartbeat (RUNNING)\nclap 2: cancelled (CANCELLED)\n";
    assert_eq!(cancelled.output, said);
    let asked = "SELECT count(*) FROM clap WHERE id = 1 AND cancel_requested_at IS NOT NULL";
    assert_eq!(database.value::<i64>(asked).await, 1);
}

#[tokio::test]
async fn only_what_has_been_over_for_long_is_pruned() {
    let database = queue(Cluster::shared().await).await;
    run(&database, ["add", "--count", "12"]).await;
    for _ in 0..8 {
        run(&database, ["work"]).await;
    }
    run(&database, ["work", "--", "sh", "-c", "exit 65"]).await;
    run(&database, ["cancel", "10"]).await;
    database.execute("UPDATE clap SET finished_at = now() - interval '8 days' WHERE id > 2").await;

    let would = run(&database, ["prune", "--older-than", "7d", "--dry-run"]).await;
    assert_eq!(would.output, "would delete 1 CANCELLED, 6 SUCCESS\n");
    let pruned = json(&database, ["prune", "--older-than", "7d", "--batch", "2"]).await;
    assert_eq!(pruned, serde_json::json!({"deleted": 7}));
    assert_eq!(statuses(&database).await, "SUCCESS SUCCESS DEAD PENDING PENDING");
    run(&database, ["prune", "--older-than", "7d", "--status", "DEAD"]).await;
    assert_eq!(statuses(&database).await, "SUCCESS SUCCESS PENDING PENDING");
    let left: i64 = database.value("SELECT count(*) FROM clap_attempt").await;
    assert_eq!(left, 2, "attempts go with their clap");
}

#[tokio::test]
async fn without_tables_every_command_says_what_to_do() {
    let database = Database::empty(Cluster::shared().await).await;
    for command in [&["list"][..], &["show", "1"], &["add"], &["cancel", "1"], &["explain"], &["retry", "--all-dead"]] {
        let finished = run(&database, command.iter().copied()).await;
        assert_eq!(finished.code(), Some(78), "{command:?}: {finished:?}");
        assert!(finished.errors.contains("run `postgres-batch migrate up`"), "{command:?}: {finished:?}");
    }
}
