//! Grouped queries: one statement for all keys, and what a wrong shape of rows means.

use std::time::Duration;

use clapometer::proto::{GetMetricsRequest, ScaledObjectRef};
use futures_util::{StreamExt, stream};
use tonic::Code;

use crate::support::{
    cluster::Cluster,
    database::Database,
    fixture::{Fixture, SOON, jobs, named},
    grpc::trigger,
};

/// Jobs by queue.
const BY_QUEUE: &str = "
  queues:
    sql: SELECT queue, count(*) AS jobs FROM jobs GROUP BY queue
    group_by: queue
    value_column: jobs
    max_age: 1m
    notify: {channel: jobs, resync: 1m}
";

fn queue(name: &str) -> ScaledObjectRef {
    named(&trigger("queues", &[("param.queue", name)]), name)
}

async fn put(database: &Database<'_>, rows: &str) {
    database.execute(&format!("INSERT INTO jobs (queue) {rows}")).await;
}

#[tokio::test]
async fn one_statement_answers_a_thousand_triggers() {
    let database = jobs(Cluster::shared().await).await;
    put(&database, "SELECT 'q' || number FROM generate_series(1, 1000) number, generate_series(1, number % 7)").await;
    let fixture = Fixture::with(&database.scaler(), BY_QUEUE).await;
    fixture.listens().await;
    let before = fixture.statements("queues").await;
    let asked = stream::iter(1..=1_000).map(|number| {
        let (scaler, trigger) = (&fixture.scaler, queue(&format!("q{number}")));
        async move { (number, scaler.value(&trigger).await) }
    });
    // A hundred at a time: each answer has a deadline, by which a busy machine may not have served a thousand.
    let answers: Vec<_> = asked.buffer_unordered(100).collect().await;
    assert_eq!(answers.len(), 1_000);
    for (number, value) in answers {
        assert_eq!(value.unwrap(), f64::from(number % 7), "q{number}");
    }
    assert!(fixture.statements("queues").await - before <= 1.0);
}

#[tokio::test]
async fn rows_that_are_no_table_of_keys_are_an_error_and_ten_thousand_keys_are_not() {
    let database = Database::empty(Cluster::shared().await).await;
    let grouped = |name: &str, sql: &str, more: &str| {
        format!("\n  {name}: {{sql: \"{sql}\", group_by: key, value_column: n{more}}}")
    };
    let queries = [
        grouped("null-key", "SELECT NULL::text AS key, 1 AS n UNION ALL SELECT 'a', 2", ""),
        grouped("repeated-key", "SELECT 'a' AS key, 1 AS n UNION ALL SELECT 'a', 1", ""),
        grouped("too-many", "SELECT i::text AS key, i AS n FROM generate_series(1, 10001) i", ""),
        grouped("null-number", "SELECT 'a' AS key, NULL::int AS n", ""),
        grouped("another-is-negative", "SELECT 'a' AS key, 1 AS n UNION ALL SELECT 'b', -1", ""),
        grouped("as-many-as-may-be", "SELECT i::text AS key, i AS n FROM generate_series(1, 10000) i", ""),
        grouped("strict", "SELECT 'b' AS key, 1 AS n", ", on_no_row: error"),
        grouped("no-rows", "SELECT 'b' AS key, 1 AS n WHERE false", ""),
        grouped("numbers-are-keys", "SELECT 10000 AS key, 3 AS n", ""),
    ];
    let fixture = Fixture::with(&database.scaler(), &(queries.concat() + "\n")).await;
    for query in ["null-key", "repeated-key", "too-many", "null-number", "another-is-negative", "strict"] {
        let refusal = fixture.scaler.refusal(&trigger(query, &[("param.key", "a")])).await;
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{query}: {refusal:?}");
    }
    for (query, key, value) in [
        ("as-many-as-may-be", "10000", 10_000.0),
        ("as-many-as-may-be", "10001", 0.0),
        ("no-rows", "a", 0.0),
        ("numbers-are-keys", "10000", 3.0),
    ] {
        let trigger = trigger(query, &[("param.key", key)]);
        assert_eq!(fixture.scaler.value(&trigger).await.unwrap(), value, "{query} {key}");
        assert_eq!(fixture.scaler.active(&trigger).await.unwrap(), value > 0.0, "{query} {key}");
    }
    let without = fixture.scaler.refusal(&trigger("no-rows", &[])).await;
    assert_eq!(without.code(), Code::InvalidArgument, "a trigger must say which key");
}

#[tokio::test]
async fn a_key_that_was_never_there_is_told_and_one_that_was_is_not() {
    let database = jobs(Cluster::shared().await).await;
    put(&database, "VALUES ('mail')").await;
    let fixture = Fixture::with(&database.scaler(), BY_QUEUE).await;
    fixture.listens().await;
    let unseen = async || fixture.metric("clapometer_query_unseen_keys", "query=\"queues\"").await;
    assert_eq!(fixture.scaler.value(&queue("mail")).await.unwrap(), 1.0);
    assert_eq!(unseen().await, Some(0.0));

    let told = "a trigger asks for a key that the grouped query has not returned since start";
    for _ in 0..3 {
        assert_eq!(fixture.scaler.value(&queue("maill")).await.unwrap(), 0.0);
        assert!(!fixture.scaler.active(&queue("maill")).await.unwrap());
    }
    assert_eq!(unseen().await, Some(1.0));
    fixture.logs(told, 1).await;
    assert!(is_marked(&fixture, "maill").await && !is_marked(&fixture, "mail").await);

    // A queue that has run empty is known.
    database.execute("DELETE FROM jobs").await;
    fixture.scaler.reaches(&queue("mail"), 0.0, SOON).await;
    assert_eq!(unseen().await, Some(1.0));
    fixture.logs(told, 1).await;
    assert!(!is_marked(&fixture, "mail").await);

    // The first row of a new queue ends it.
    put(&database, "VALUES ('maill')").await;
    fixture.scaler.reaches(&queue("maill"), 1.0, SOON).await;
    assert_eq!(unseen().await, Some(0.0));
    fixture.logs(told, 1).await;
    assert!(!is_marked(&fixture, "maill").await);
}

/// Returns whether GetMetrics carries the header that `clapometer get` reads.
async fn is_marked(fixture: &Fixture, name: &str) -> bool {
    let request = GetMetricsRequest { scaled_object_ref: Some(queue(name)), metric_name: "queues".to_owned() };
    let response = fixture.scaler.client().get_metrics(request).await.unwrap();
    response.metadata().get("clapometer-unseen-key").is_some()
}

#[tokio::test]
async fn a_stream_of_one_key_says_nothing_of_another() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), BY_QUEUE).await;
    fixture.listens().await;
    let (mail, print) = (fixture.follow(&queue("mail")).await, fixture.follow(&queue("print")).await);
    mail.says(&[false], SOON).await;
    print.says(&[false], SOON).await;
    put(&database, "VALUES ('mail')").await;
    mail.says(&[false, true], SOON).await;
    put(&database, "VALUES ('print')").await;
    print.says(&[false, true], SOON).await;
    // Nothing more may come.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((mail.states(), print.states()), (vec![false, true], vec![false, true]));
}
