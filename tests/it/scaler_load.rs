//! Many triggers, slow queries, impatient callers: one PostgreSQL hardly notices.

use std::time::{Duration, Instant};

use clapometer::proto::GetMetricsRequest;
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use tonic::Code;

use crate::support::{
    admin,
    cluster::{Cluster, Settings},
    database::Database,
    executable::{Executable, Serving},
    grpc::{Scaler, trigger},
    wait,
};

const SOON: Duration = Duration::from_secs(10);

async fn serve(database: &Database<'_>, queries: &str) -> Serving {
    let database = database.scaler().yaml("claps");
    Executable::serve(&format!("databases:\n{database}queries:\n{queries}")).serving().await
}

/// Counts the statements of a cluster so far that contain this text.
fn statements(cluster: &Cluster, text: &str) -> usize {
    cluster.log().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_thousand_triggers_on_one_query_cause_one_statement_per_max_age() {
    let cluster = Cluster::with_settings(Settings::default().set("log_statement", "all")).await;
    let database = Database::seed(&cluster).await;
    let serving = serve(&database, "  shared: {sql: SELECT count(*) AS marked FROM make_it_clap, max_age: 2s}\n").await;
    let scaler = Scaler::at(serving.grpc);
    scaler.reaches(&trigger("shared", &[]), 0.0, SOON).await;
    let start = Instant::now();
    for _ in 0..3 {
        let calls: FuturesUnordered<_> = (0..1_000)
            .map(|number| {
                let mut reference = trigger("shared", &[]);
                reference.name = format!("claps-{number}");
                let scaler = scaler.clone();
                async move { scaler.client().is_active(reference).await }
            })
            .collect();
        for active in wait::bounded("a thousand calls", Duration::from_secs(60), calls.collect::<Vec<_>>()).await {
            assert!(!active.unwrap().into_inner().result);
        }
    }
    let most = 2 + usize::try_from(start.elapsed().as_secs() / 2).unwrap();
    let sent = statements(&cluster, "AS marked");
    assert!((1..=most).contains(&sent), "{sent} statements for 3,000 calls in {:?}", start.elapsed());
    let sessions: i64 = database.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'scaler'").await;
    assert!(sessions <= 5, "{sessions} sessions");
}

#[tokio::test]
async fn both_reads_of_a_poll_come_from_one_reading_whatever_happens_between_them() {
    let database = Database::seed(Cluster::shared().await).await;
    let serving = serve(&database, "  fresh: {sql: SELECT count(*) FROM make_it_clap, max_age: 0s}\n").await;
    let scaler = Scaler::at(serving.grpc);
    let reference = trigger("fresh", &[]);
    scaler.reaches(&reference, 0.0, SOON).await;
    assert_eq!(scaler.value(&reference).await.unwrap(), 0.0);
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (1)").await;
    assert!(!scaler.active(&reference).await.unwrap(), "the activity is younger than the value");
    assert_eq!(scaler.value(&reference).await.unwrap(), 1.0, "a value with max_age 0s is a new one");
    assert!(scaler.active(&reference).await.unwrap());
}

#[tokio::test]
async fn a_query_slower_than_a_call_answers_from_the_second_poll_on() {
    let database = Database::empty(Cluster::shared().await).await;
    let slow = "  slow: {sql: 'SELECT 7 FROM pg_sleep(7)', timeout: 20s, max_age: 45s}\n";
    let serving = serve(&database, slow).await;
    let scaler = Scaler::at(serving.grpc);
    let reference = trigger("slow", &[]);
    scaler.refuses(&reference, Code::DeadlineExceeded, SOON).await;
    scaler.reaches(&reference, 7.0, Duration::from_secs(20)).await;
    assert_eq!(scaler.value(&reference).await.unwrap(), 7.0, "the reading is good for max_age");
    assert!(scaler.active(&reference).await.unwrap());
}

#[tokio::test]
async fn ten_thousand_abandoned_calls_leave_nothing_behind() {
    const CALLS: usize = 10_000;
    let cluster = Cluster::private().await;
    let database = Database::seed(&cluster).await;
    let queries = "  slow: {sql: 'SELECT $1 FROM pg_sleep(0.3)', parameters: {n: bigint}}\n";
    let serving = serve(&database, queries).await;
    // One connection, like KEDA's. The stream on it ends if the connection does.
    let scaler = Scaler::at(serving.grpc);
    let pending = trigger("pending-claps", &[]);
    let mut witness = scaler.activity(&pending).await.unwrap();
    assert!(!wait::bounded("the first message", SOON, witness.message()).await.unwrap().unwrap().result);
    let mut calls = FuturesUnordered::new();
    let mut abandoned = 0;
    for number in 0..CALLS {
        let scaler = scaler.clone();
        calls.push(async move {
            let parameter = (number % 50).to_string();
            let reference = trigger("slow", &[("param.n", &parameter)]);
            let mut client = scaler.client();
            tokio::time::timeout(Duration::from_millis(10), client.is_active(reference)).await.is_err()
        });
        if calls.len() == 200 {
            abandoned += usize::from(calls.next().await.unwrap());
        }
    }
    while let Some(was_abandoned) = calls.next().await {
        abandoned += usize::from(was_abandoned);
    }
    assert!(abandoned > CALLS / 2, "only {abandoned} calls were abandoned");

    wait::first("no session of the scaler is busy", Duration::from_secs(30), async || {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'scaler' AND state <> 'idle'";
        (database.value::<i64>(busy).await == 0).then_some(())
    })
    .await;
    let sessions: i64 = database.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'scaler'").await;
    assert!(sessions <= 5, "{sessions} sessions");
    scaler.reaches(&pending, 0.0, SOON).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (1)").await;
    assert!(wait::bounded("the change", SOON, witness.message()).await.unwrap().unwrap().result);
}

#[tokio::test]
async fn three_hundred_queries_in_phase_answer_from_the_second_round_on() {
    const QUERIES: u32 = 300;
    let database = Database::empty(Cluster::shared().await).await;
    let queries: String = (0..QUERIES)
        .map(|number| {
            format!("  q{number}: {{sql: 'SELECT {number} FROM pg_sleep(0.05)', timeout: 20s, max_age: 5m}}\n")
        })
        .collect();
    // Sessions are opened while all the calls come in, which is slow on a busy machine. A call whose session took
    // longer than this would be refused, and not only late.
    let access = database.scaler().with("connect_timeout", "5s").yaml("claps");
    let serving = Executable::serve(&format!("databases:\n{access}queries:\n{queries}")).serving().await;
    let scaler = Scaler::at(serving.grpc);
    scaler.reaches(&trigger("q0", &[]), 0.0, SOON).await;
    // Four connections need 3.75 s for them, a call has 2.4: some are late, none is lost. The late ones end at the same
    // moment, and this thread reads one after the other: no call has a bound of its own.
    let first = (0..QUERIES).map(|number| {
        let name = format!("q{number}");
        let request = GetMetricsRequest { scaled_object_ref: Some(trigger(&name, &[])), metric_name: name };
        let mut client = scaler.client();
        async move { (number, client.get_metrics(request).await) }
    });
    for (number, answer) in wait::bounded("the first round", SOON, join_all(first)).await {
        match answer {
            Ok(response) => assert_eq!(response.into_inner().metric_values[0].metric_value_float, f64::from(number)),
            Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}"),
        }
    }
    wait::first("every query has been read", SOON, async || {
        let read = admin::metric(serving.admin, "clapometer_query_duration_seconds_count").await;
        (read >= f64::from(QUERIES)).then_some(())
    })
    .await;
    let second = (0..QUERIES).map(|number| {
        let scaler = &scaler;
        async move { (number, scaler.value(&trigger(&format!("q{number}"), &[])).await) }
    });
    for (number, answer) in join_all(second).await {
        assert_eq!(answer.unwrap(), f64::from(number));
    }
    let sent = admin::metric(serving.admin, "clapometer_query_duration_seconds_count").await;
    assert_eq!(sent, f64::from(QUERIES), "the second round had readings already");
}

#[tokio::test]
async fn ten_thousand_streams_on_one_connection_begin_at_once_and_end_with_ok() {
    const STREAMS: usize = 10_000;
    /// Opened side by side.
    const AT_ONCE: usize = 200;
    /// The contract's 3 s, and what a debug build on a busy machine adds.
    const FIRST_MESSAGE: Duration = Duration::from_secs(3 + 2);
    /// The contract's 5 s, likewise.
    const END: Duration = Duration::from_secs(5 + 10);
    let database = Database::seed(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (1)").await;
    let serving = serve(&database, "  shared: {sql: SELECT count(*) FROM make_it_clap}\n").await;
    let scaler = Scaler::at(serving.grpc);
    let streams: Vec<_> = futures_util::stream::iter(0..STREAMS)
        .map(|number| {
            let mut reference = trigger("shared", &[]);
            reference.name = format!("claps-{number}");
            let scaler = &scaler;
            async move {
                let opening = async {
                    let mut stream = scaler.activity(&reference).await.unwrap();
                    assert!(stream.message().await.unwrap().unwrap().result);
                    stream
                };
                wait::bounded("the first message", FIRST_MESSAGE, opening).await
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert_eq!(admin::metric(serving.admin, "clapometer_streams").await, 10_000.0);
    assert_eq!(scaler.value(&trigger("shared", &[])).await.unwrap(), 1.0, "unary calls are answered beside them");

    let ends = join_all(streams.into_iter().map(|mut stream| async move {
        // A change or a reminder may come before the end, an error must not.
        while stream.message().await.expect("streams end with OK").is_some() {}
    }));
    let (ended, _) = tokio::join!(serving.process.terminate(END), ends);
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
}
