//! Tenants: which queries a namespace may see, and that it cannot slow down the others.

use std::{collections::HashSet, time::Duration};

use clapometer::proto::ScaledObjectRef;
use futures_util::FutureExt;
use tonic::Code;

use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    executable::{Executable, Serving},
    grpc::{Scaler, trigger},
    wait,
};

const SOON: Duration = Duration::from_secs(10);

fn in_namespace(namespace: &str, trigger: ScaledObjectRef) -> ScaledObjectRef {
    ScaledObjectRef { namespace: namespace.to_owned(), ..trigger }
}

async fn serving(queries: &str) -> (Serving, Scaler) {
    let database = Database::empty(Cluster::shared().await).await;
    let configuration = format!("databases:\n{}queries:\n{queries}", database.scaler().yaml("claps"));
    let serving = Executable::serve(&configuration).serving().await;
    let scaler = Scaler::at(serving.grpc);
    (serving, scaler)
}

#[tokio::test]
async fn what_a_namespace_may_not_use_looks_to_it_like_what_is_not_there() {
    let queries =
        "  secret: {sql: SELECT 1, target: 77, namespaces: [payments]}\n  open: {sql: SELECT 2, namespaces: [\"*\"]}\n";
    let (_serving, scaler) = serving(queries).await;
    assert_eq!(scaler.value(&in_namespace("payments", trigger("secret", &[]))).await.unwrap(), 1.0);
    assert_eq!(scaler.value(&in_namespace("anybody", trigger("open", &[]))).await.unwrap(), 2.0);

    let (mut seen, mut opened) = (HashSet::new(), Vec::new());
    // By its name, its text, a wrong parameter; and names and texts that do not exist.
    for query in ["secret", "SELECT 1", "secre", "no-such-query", "SELECT 3", "WITH x AS (SELECT 1) SELECT * FROM x"] {
        for namespace in ["shop", "", "payments ", "PAYMENTS", "*", "payments,shop"] {
            for metadata in [&[][..], &[("param.x", "1")], &[("activityColumn", "x")], &[("host", "x")]] {
                let asked = in_namespace(namespace, trigger(query, metadata));
                let refusal = scaler.refusal(&asked).await;
                seen.insert((i32::from(refusal.code()), refusal.message().to_owned()));
                opened.push(scaler.activity(&asked).await.expect("it waits, whatever is there"));
                let spec = scaler.spec(&asked).await.unwrap();
                assert_eq!(spec.target_size_float, 1e6, "the target of {query} is told to {namespace}");
            }
        }
    }
    assert_eq!(seen.len(), 1, "answers tell what is there: {seen:?}");
    assert_eq!(seen.iter().next().unwrap().0, i32::from(Code::PermissionDenied));
    for stream in &mut opened {
        assert!(stream.message().now_or_never().is_none(), "a stream says something");
    }
}

#[tokio::test]
async fn a_trigger_has_four_streams_and_others_have_theirs() {
    let (serving, scaler) = serving("  one: {sql: SELECT 1}\n").await;
    let mine = trigger("one", &[]);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(scaler.activity(&mine).await.unwrap());
    }
    assert_eq!(scaler.activity(&mine).await.expect_err("a fifth stream").code(), Code::ResourceExhausted);
    let other = ScaledObjectRef { name: "other".to_owned(), ..mine.clone() };
    let others = scaler.activity(&other).await.unwrap();
    assert_eq!(scaler.value(&mine).await.unwrap(), 1.0, "calls are not counted among the streams");

    drop(open.pop());
    wait::first("the place is given back", SOON, async || scaler.activity(&mine).await.ok()).await;
    drop((open, others));
    wait::first("no stream is counted", SOON, async || {
        (admin::metric(serving.admin, "clapometer_streams").await == 0.0).then_some(())
    })
    .await;
}

/// A thousand parameters of a slow query, asked by one namespace without end, against one question of another.
#[tokio::test]
async fn a_noisy_namespace_does_not_keep_another_from_its_answer() {
    let queries = "  slow: {sql: 'SELECT $1 FROM pg_sleep(0.4)', parameters: {n: double}, max_age: 0s, timeout: 1s}\n  \
                   fast: {sql: 'SELECT 7 + $1', parameters: {n: double}, max_age: 0s}\n  \
                   common: {sql: SELECT 9, max_age: 0s}\n";
    let (serving, scaler) = serving(queries).await;
    let mut noise = Vec::new();
    for caller in 0..300 {
        let scaler = Scaler::at(serving.grpc);
        noise.push(tokio::spawn(async move {
            let slow = in_namespace("noisy", trigger("slow", &[("param.n", &caller.to_string())]));
            let common = in_namespace("noisy", trigger("common", &[]));
            let (mut one, mut other) = (scaler.client(), scaler.client());
            loop {
                let _ = tokio::join!(one.get_metrics(request(&slow)), other.get_metrics(request(&common)));
            }
        }));
    }
    let quiet =
        [in_namespace("quiet", trigger("fast", &[("param.n", "0")])), in_namespace("quiet", trigger("common", &[]))];
    // From here on the quiet namespace is one that waits in line, too.
    let _ = scaler.value(&quiet[0]).await;
    // Three hundred joined calls mean that every caller waits for `common`, so that its reading stands in the line of
    // the noise.
    let joined = "clapometer_query_joined_calls_total{query=\"common\"";
    wait::first("the noise is at its loudest", SOON * 6, async || {
        let page = admin::get(serving.admin, "/metrics").await;
        let joined = page.lines().find(|line| line.starts_with(joined))?.rsplit(' ').next()?.parse::<u32>().ok()?;
        (joined >= 300 && admin::metric(serving.admin, "clapometer_pool_waiting").await > 250.0).then_some(())
    })
    .await;
    // In a single line it would wait behind thirty seconds of statements, and its calls would fail.
    for _ in 0..20 {
        for (asked, value) in quiet.iter().zip([7.0, 9.0]) {
            assert_eq!(scaler.value(asked).await.unwrap(), value);
        }
    }
    for caller in noise {
        caller.abort();
    }
}

fn request(reference: &ScaledObjectRef) -> clapometer::proto::GetMetricsRequest {
    let metric_name = reference.scaler_metadata["query"].clone();
    clapometer::proto::GetMetricsRequest { scaled_object_ref: Some(reference.clone()), metric_name }
}

#[tokio::test]
async fn a_namespace_holds_a_quarter_of_the_gauges_and_the_others_keep_theirs() {
    let queries = "  echo: {sql: SELECT $1, parameters: {n: double}, max_age: 1h}\n";
    let (serving, scaler) = serving(queries).await;
    let own = in_namespace("quiet", trigger("echo", &[("param.n", "-0.5"), ("activationTargetQueryValue", "1")]));
    // Negative numbers are refused: what counts is that the gauge is there.
    assert_eq!(scaler.refusal(&own).await.code(), Code::FailedPrecondition);
    for first in (0..3_000u32).step_by(100) {
        let asking = (first..first + 100).map(|n| {
            let scaler = &scaler;
            async move {
                scaler.value(&in_namespace("noisy", trigger("echo", &[("param.n", &n.to_string())]))).await.is_ok()
            }
        });
        futures_util::future::join_all(asking).await;
    }
    let gauges = admin::metric(serving.admin, "clapometer_gauges").await;
    assert!(gauges <= 2_501.0, "{gauges} gauges");
    assert!(gauges > 2_000.0, "{gauges} gauges: the test does not reach the limit");
}
