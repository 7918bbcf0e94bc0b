//! Queries over several databases: one statement for each, their sum, and never a smaller one.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tonic::Code;

use crate::support::{
    cluster::Cluster,
    database::{Access, Database},
    executable::Executable,
    fixture::{Fixture, RECOVERY, REREADS, SOON, add, clear, jobs, jobs_trigger, named},
    grpc::trigger,
    proxy::{Mode, Proxy},
};

/// Returns a configuration with these databases as `s0`, `s1`..., and these queries over all of them.
fn configuration(shards: &[Access], queries: &[(&str, &str)]) -> String {
    let databases: String = shards.iter().zip(0..).map(|(access, number)| access.yaml(&format!("s{number}"))).collect();
    let names: Vec<String> = (0..shards.len()).map(|number| format!("s{number}")).collect();
    let names = names.join(", ");
    let queries = queries.iter().map(|(name, keys)| format!("  {name}: {{databases: [{names}], {keys}}}\n"));
    format!("databases:\n{databases}queries:\n{}", queries.collect::<String>())
}

/// Makes databases with a number of jobs each: one more in each than in the one before.
async fn with_jobs(cluster: &Cluster, count: usize) -> Vec<Database<'_>> {
    let mut databases = Vec::new();
    for number in 0..count {
        let database = jobs(cluster).await;
        database.execute(&format!("INSERT INTO jobs SELECT FROM generate_series(1, {})", number + 1)).await;
        databases.push(database);
    }
    databases
}

fn accesses(databases: &[Database<'_>]) -> Vec<Access> {
    databases.iter().map(|database| database.scaler().with("pool_size", 1)).collect()
}

#[tokio::test]
async fn sixteen_databases_answer_a_thousand_triggers_with_one_statement_each() {
    let databases = with_jobs(Cluster::shared().await, 16).await;
    let notified = "sql: SELECT count(*) FROM jobs, max_age: 1m, notify: {channel: jobs, resync: 1m}";
    let fixture = Fixture::configured(&configuration(&accesses(&databases), &[("jobs", notified)])).await;
    for number in 0..16 {
        fixture.reaches_metric("clapometer_listen_up", &format!("database=\"s{number}\""), 1.0, SOON).await;
    }
    tokio::time::sleep(REREADS).await;
    let sent = async || {
        let mut counts = Vec::new();
        for number in 0..16 {
            let label = format!("query=\"jobs\",database=\"s{number}\"");
            counts.push(fixture.metric("clapometer_query_statements_total", &label).await.unwrap());
        }
        counts
    };
    let before = sent().await;
    let asked = stream::iter(0..1_000).map(|number| {
        let (scaler, trigger) = (&fixture.scaler, named(&jobs_trigger(), number));
        async move { scaler.value(&trigger).await }
    });
    // A hundred at a time: each answer has a deadline, by which a busy machine may not have served a thousand.
    let answers: Vec<_> = asked.buffer_unordered(100).collect().await;
    assert_eq!(answers.len(), 1_000);
    for value in answers {
        assert_eq!(value.unwrap(), 136.0, "1 + 2 + ... + 16");
    }
    let after = sent().await;
    let more: Vec<f64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    assert!(more.iter().all(|more| *more <= 1.0), "{more:?}");

    // A notification from any of them brings its rows, and asks no other again as long as their readings are young.
    for database in [&databases[0], &databases[15]] {
        add(&database.connect().await).await;
    }
    fixture.scaler.reaches(&jobs_trigger(), 138.0, SOON).await;
    let label = "query=\"jobs\",database=\"s7\"";
    let others = fixture.metric("clapometer_query_statements_total", label).await;
    assert_eq!(others, Some(after[7]), "the other databases have said nothing");
    let oldest = fixture.metric("clapometer_query_age_seconds", "query=\"jobs\"").await.expect("there is a reading");
    assert!(oldest > REREADS.as_secs_f64(), "{oldest}: a sum is as old as its oldest part");
}

/// One after the other they would take sixteen seconds; a call has 2.5.
#[tokio::test]
async fn sixteen_slow_databases_are_asked_at_once_within_one_deadline() {
    let databases = with_jobs(Cluster::shared().await, 16).await;
    let slow = "sql: SELECT count(*) FROM jobs CROSS JOIN (SELECT pg_sleep(1)) AS slow, timeout: 2s";
    let fixture = Fixture::configured(&configuration(&accesses(&databases), &[("jobs", slow)])).await;
    // The first call also connects to all of them.
    fixture.scaler.reaches(&jobs_trigger(), 136.0, SOON).await;
    tokio::time::sleep(REREADS).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 136.0);
}

#[tokio::test]
async fn a_stream_becomes_active_by_a_notification_of_any_database() {
    let databases = with_jobs(Cluster::shared().await, 3).await;
    for database in &databases {
        clear(&database.connect().await).await;
    }
    let notified = "sql: SELECT count(*) FROM jobs, max_age: 1m, notify: {channel: jobs, resync: 1m}";
    let fixture = Fixture::configured(&configuration(&accesses(&databases), &[("jobs", notified)])).await;
    for number in 0..3 {
        fixture.reaches_metric("clapometer_listen_up", &format!("database=\"s{number}\""), 1.0, SOON).await;
    }
    let stream = fixture.follow(&jobs_trigger()).await;
    stream.says(&[false], SOON).await;
    let last = databases[2].connect().await;
    add(&last).await;
    stream.says(&[false, true], SOON).await;
    add(&databases[0].connect().await).await;
    clear(&last).await;
    tokio::time::sleep(REREADS).await;
    assert_eq!(stream.states(), [false, true], "a row of another database keeps it active");
}

#[tokio::test]
async fn a_database_that_is_away_slow_or_frozen_never_makes_the_sum_smaller() {
    let databases = with_jobs(Cluster::shared().await, 3).await;
    let wire = Proxy::to_cluster(databases[2].cluster()).await;
    let mut shards = accesses(&databases);
    shards[2] = shards[2].clone().by_way_of(wire.address());
    let shared = "sql: SELECT count(*) FROM jobs, max_age: 0s";
    let fixture = Fixture::configured(&configuration(&shards, &[("jobs", shared)])).await;
    fixture.scaler.reaches(&jobs_trigger(), 6.0, SOON).await;
    for (mode, code) in [
        (Mode::Close, Code::Unavailable),
        (Mode::Reset, Code::Unavailable),
        (Mode::Truncate(3), Code::Unavailable),
        (Mode::Blackhole, Code::DeadlineExceeded),
    ] {
        wire.set(mode);
        let mut is_seen = false;
        // Until the breaker of that database is open, each failure is its own; then none of the others is asked.
        for _ in 0..6 {
            match fixture.scaler.value(&jobs_trigger()).await {
                Ok(value) => assert_eq!(value, 6.0, "{mode:?}"),
                Err(status) => {
                    is_seen |= status.code() == code;
                    assert!([code, Code::Unavailable].contains(&status.code()), "{mode:?}: {status:?}");
                    assert!(!status.message().contains("s2"), "a status names no database: {status:?}");
                }
            }
        }
        assert!(is_seen, "{mode:?}: {code:?} was not seen");
        wire.set(Mode::Pass);
        fixture.scaler.reaches(&jobs_trigger(), 6.0, RECOVERY).await;
    }
    // Slow, but in time.
    wire.set(Mode::Slow(Duration::from_millis(150)));
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 6.0);
}

#[tokio::test]
async fn instances_that_freeze_and_end_are_faults_of_the_whole_and_heal_in_time() {
    let (first, second) = (Cluster::private().await, Cluster::private().await);
    let shared = Cluster::shared().await;
    let mut databases = with_jobs(shared, 1).await;
    databases.extend(with_jobs(&first, 1).await);
    databases.extend(with_jobs(&second, 1).await);
    let strict = "sql: SELECT count(*) FROM jobs, max_age: 0s, timeout: 500ms";
    let fixture = Fixture::configured(&configuration(&accesses(&databases), &[("jobs", strict)])).await;
    fixture.scaler.reaches(&jobs_trigger(), 3.0, SOON).await;
    second.freeze();
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap_err().code(), Code::DeadlineExceeded);
    second.thaw();
    fixture.scaler.reaches(&jobs_trigger(), 3.0, RECOVERY).await;
    first.kill().await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap_err().code(), Code::Unavailable);
    first.start().await;
    fixture.scaler.reaches(&jobs_trigger(), 3.0, RECOVERY).await;
}

#[tokio::test]
async fn while_a_database_is_disabled_its_queries_fail_and_no_other_is_asked_for_them() {
    let databases = with_jobs(Cluster::shared().await, 2).await;
    let mut shards = accesses(&databases);
    shards[1] = shards[1].clone().with("enabled", false);
    let fixture =
        Fixture::configured(&configuration(&shards, &[("jobs", "sql: SELECT count(*) FROM jobs, max_age: 0s")])).await;
    assert_eq!(fixture.scaler.refusal(&jobs_trigger()).await.code(), Code::Unavailable);
    assert!(fixture.scaler.active(&jobs_trigger()).await.is_err());
    assert_eq!(fixture.statements("jobs").await, 0.0);
}

#[tokio::test]
async fn a_database_with_another_schema_is_told_by_name_in_the_log_and_in_the_metric_only() {
    let databases = with_jobs(Cluster::shared().await, 3).await;
    databases[1].execute("ALTER TABLE jobs RENAME TO work").await;
    let shared = "sql: SELECT count(*) FROM jobs, max_age: 0s";
    let mut fixture = Fixture::configured(&configuration(&accesses(&databases), &[("jobs", shared)])).await;
    let refusal = fixture.scaler.refusal(&jobs_trigger()).await;
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert!(!refusal.message().contains("s1"), "{refusal:?}");
    let line = fixture.serving.process.logged("query fails", SOON, |line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("query fails"))
    });
    let line = line.await;
    assert_eq!((&line["query"], &line["database"]), (&Value::from("jobs"), &Value::from("s1")));
    let label = "query=\"jobs\",database=\"s1\",reason=\"rejected\"";
    let body = fixture.metric("clapometer_query_errors_total", label).await;
    assert!(body.is_some_and(|count| count > 0.0), "{body:?}");
    databases[1].execute("ALTER TABLE work RENAME TO jobs").await;
    fixture.scaler.reaches(&jobs_trigger(), 6.0, SOON).await;
}

#[tokio::test]
async fn groups_are_added_up_by_key_and_change_by_the_clock_of_the_first() {
    let databases = with_jobs(Cluster::shared().await, 2).await;
    databases[0].execute("DELETE FROM jobs; INSERT INTO jobs (queue) VALUES ('mail'), ('mail'), ('print')").await;
    databases[1].execute("DELETE FROM jobs; INSERT INTO jobs (queue) VALUES ('mail'), ('fax')").await;
    databases[1].execute("CREATE TABLE due (at timestamptz); GRANT SELECT ON due TO scaler").await;
    databases[0].execute("CREATE TABLE due (at timestamptz); GRANT SELECT ON due TO scaler").await;
    let grouped = "sql: 'SELECT queue, count(*) AS jobs, (SELECT min(at) FROM due WHERE at > now()) AS at FROM jobs \
                   GROUP BY queue', group_by: queue, value_column: jobs, next_change: at, max_age: 1m";
    let fixture = Fixture::configured(&configuration(&accesses(&databases), &[("queues", grouped)])).await;
    let of = |queue: &str| named(&trigger("queues", &[("param.queue", queue)]), queue);
    for shard in ["s0", "s1"] {
        fixture.reaches_metric("clapometer_database_up", &format!("database=\"{shard}\""), 1.0, SOON).await;
    }
    databases[1].execute("INSERT INTO due VALUES (now() + interval '10 seconds')").await;
    for (queue, jobs) in [("mail", 3.0), ("print", 1.0), ("fax", 1.0), ("none", 0.0)] {
        assert_eq!(fixture.scaler.value(&of(queue)).await.unwrap(), jobs, "{queue}");
    }
    for database in &databases {
        database.execute("INSERT INTO jobs (queue) VALUES ('fax')").await;
    }
    assert_eq!(fixture.scaler.value(&of("fax")).await.unwrap(), 1.0, "a reading may be a minute old");
    fixture.scaler.reaches(&of("fax"), 2.0, SOON * 6).await;
    let statements = async |shard| {
        let label = format!("query=\"queues\",database=\"{shard}\"");
        fixture.metric("clapometer_query_statements_total", &label).await
    };
    assert_eq!((statements("s0").await, statements("s1").await), (Some(1.0), Some(2.0)));
}

#[tokio::test]
async fn leftover_keys_may_be_those_of_any_one_database() {
    let databases = with_jobs(Cluster::shared().await, 2).await;
    let shared = "sql: SELECT count(*) FROM jobs";
    let fixture = Fixture::configured(&configuration(&accesses(&databases), &[("jobs", shared)])).await;
    for database in &databases {
        let trigger = trigger("jobs", &[("dbName", database.name()), ("userName", "scaler")]);
        assert_eq!(fixture.scaler.value(&trigger).await.unwrap(), 3.0);
    }
    let refusal = fixture.scaler.refusal(&trigger("jobs", &[("dbName", "another"), ("userName", "scaler")])).await;
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(refusal.message().contains("dbName") && !refusal.message().contains("userName"), "{refusal:?}");
}

#[tokio::test]
async fn check_shows_each_database_and_the_sum() {
    let databases = with_jobs(Cluster::shared().await, 2).await;
    let queries = [("jobs", "sql: SELECT count(*) FROM jobs, divide_by: 2")];
    let check = async |configuration: &str, json: bool| {
        let executable = Executable::clapometer(["check", "--config", "clapometer.yaml"]);
        let executable = if json { executable.argument("--json") } else { executable };
        executable.file("clapometer.yaml", configuration).finish(SOON * 4).await
    };
    let good = configuration(&accesses(&databases), &queries) + "built_in_queries: false\n";
    let shown = check(&good, false).await;
    assert_eq!(shown.code(), Some(0), "{}{}", shown.output, shown.errors);
    let sum = shown.output.split("sums").nth(1).expect("there is a block of sums");
    assert!(sum.contains("2 = 3 / 2, rounded up") && sum.contains("of s0, s1"), "{sum}");
    let shown = check(&good, true).await;
    let document: Value = serde_json::from_str(&shown.output).unwrap();
    let expected = serde_json::json!({"name": "jobs", "databases": ["s0", "s1"], "outcome": "answered", "value": 2,
        "undivided": 3, "divide_by": 2, "rounding": "ceil", "activity": 2, "activation": 0, "active": true,
        "at_least": false});
    assert_eq!(document["sums"], Value::from(vec![expected]));
    assert_eq!(document["databases"][1]["queries"][0]["undivided"], 2);

    let mut shards = accesses(&databases);
    shards[1] = shards[1].clone().with("enabled", false);
    let shown = check(&(configuration(&shards, &queries) + "built_in_queries: false\n"), false).await;
    let sum = shown.output.split("sums").nth(1).expect("there is a block of sums");
    assert!(sum.contains("there is no sum without an answer from each database"), "{sum}");
}
