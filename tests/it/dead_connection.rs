//! A connection that dies silently while statements that may take long run on it.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tonic::Code;

use crate::support::{
    cluster::Cluster,
    fixture::{Fixture, RECOVERY, add, jobs, jobs_trigger, named},
    proxy::{Mode, Proxy},
};

#[tokio::test]
async fn statements_lost_in_a_blackhole_are_given_up_long_before_their_own_timeout() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    let proxy = Proxy::to_cluster(cluster).await;
    let patient = "\n  jobs: {sql: SELECT count(*) FROM jobs, timeout: 20s, max_age: 1ms}\n";
    let fixture = Fixture::with(&database.scaler().by_way_of(proxy.address()), patient).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 0.0);

    proxy.set(Mode::Blackhole);
    // The trigger must be one without an answer so far: IsActive would repeat the last answer of GetMetrics.
    let silent = fixture.scaler.refusal(&named(&jobs_trigger(), "another")).await;
    assert_eq!(silent.code(), Code::DeadlineExceeded);
    fixture.scaler.refuses(&jobs_trigger(), Code::Unavailable, Duration::from_secs(8)).await;
    add(&database.connect().await).await;

    proxy.set(Mode::Pass);
    fixture.scaler.reaches(&jobs_trigger(), 1.0, RECOVERY).await;
}

#[tokio::test]
async fn a_statement_that_is_only_slow_is_left_alone() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    let slow = "
  slow: {sql: \"SELECT 7 FROM pg_sleep(6)\", timeout: 20s, max_age: 1h}
";
    // The statement takes the whole pool, so that a probe finds no connection in it.
    let fixture = Fixture::with(&database.scaler().with("pool_size", 1), slow).await;
    let trigger = crate::support::grpc::trigger("slow", &[]);
    assert_eq!(fixture.scaler.refusal(&trigger).await.code(), Code::DeadlineExceeded);
    fixture.scaler.reaches(&trigger, 7.0, Duration::from_secs(12)).await;
    assert_eq!(fixture.statements("slow").await, 1.0, "it was given up and sent again");
    assert_eq!(
        fixture.metric("clapometer_database_failures_total", "database=\"claps\"").await.unwrap_or_default(),
        0.0
    );
}

#[tokio::test]
async fn a_session_serves_any_number_of_readings() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    // PostgreSQL reports application_name at the beginning and at the end of each reading, with as much of the query's
    // name as fits. A kilobyte of reports goes with each six readings.
    let name = "n".repeat(63);
    let query = format!(
        "\n  {name}: {{sql: \"SELECT count(*) + $1 FROM jobs\", parameters: {{number: bigint}}, max_age: 1ms}}\n"
    );
    let fixture = Fixture::with(&database.scaler().with("pool_size", 1), &query).await;
    let owner = database.connect().await;
    let session = async || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'scaler'";
        let rows = owner.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    let asked = async |numbers: std::ops::Range<u32>| {
        let answers = numbers.map(|number| {
            let trigger = crate::support::grpc::trigger(&name, &[("param.number", &number.to_string())]);
            let scaler = fixture.scaler.clone();
            async move { assert_eq!(scaler.value(&trigger).await.unwrap(), f64::from(number)) }
        });
        stream::iter(answers).buffer_unordered(8).collect::<()>().await;
    };
    asked(0..1).await;
    let first = session().await;
    asked(1..5_000).await;
    assert_eq!(session().await, first, "the session was closed and opened again");
}
