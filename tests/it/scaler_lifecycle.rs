//! From exec to exit: readiness, health, reflection, streams, SIGTERM among peers that do not cooperate.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb;

use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    executable::{Executable, Serving},
    fixture::RECOVERY,
    grpc::{Scaler, trigger},
    skip, wait,
};

const SOON: Duration = Duration::from_secs(10);

async fn serve(database: &Database<'_>, further: &str) -> Serving {
    Executable::serve(&format!("{further}databases:\n{}", database.scaler().yaml("claps"))).serving().await
}

async fn one_row(cluster: &Cluster) -> Database<'_> {
    let database = Database::seed(cluster).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (40)").await;
    database
}

fn endpoint(serving: &Serving) -> Endpoint {
    Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap()
}

pub(crate) async fn health(serving: &Serving, service: &str) -> Result<ServingStatus, Code> {
    let mut client = HealthClient::new(endpoint(serving).connect_lazy());
    let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

async fn page(serving: &Serving, path: &str) -> String {
    let mut stream = TcpStream::connect(serving.admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: clapometer\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn readiness_and_health_do_not_follow_the_database_which_has_a_name_of_its_own() {
    let cluster = Cluster::private().await;
    let database = one_row(&cluster).await;
    let serving = serve(&database, "").await;
    let scaler = Scaler::at(serving.grpc);
    let reference = trigger("pending-claps", &[]);
    scaler.reaches(&reference, 1.0, SOON).await;
    for service in ["", "externalscaler.ExternalScaler", "db/claps"] {
        assert_eq!(health(&serving, service).await, Ok(ServingStatus::Serving), "{service}");
    }
    assert_eq!(health(&serving, "no-such-service").await, Err(Code::NotFound));

    cluster.stop().await;
    scaler.refuses(&reference, Code::Unavailable, SOON).await;
    wait::first("db/claps is not serving", SOON, async || {
        // The breaker opens after failures in a row, which need calls.
        let _ = scaler.value(&reference).await;
        (health(&serving, "db/claps").await == Ok(ServingStatus::NotServing)).then_some(())
    })
    .await;
    assert_eq!(health(&serving, "").await, Ok(ServingStatus::Serving));
    for path in ["/livez", "/readyz"] {
        assert!(page(&serving, path).await.starts_with("HTTP/1.1 200 "), "{path}");
    }

    cluster.start().await;
    scaler.reaches(&reference, 1.0, RECOVERY).await;
    wait::first("db/claps is serving", SOON, async || {
        (health(&serving, "db/claps").await == Ok(ServingStatus::Serving)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn both_versions_of_reflection_list_what_is_served() {
    let database = Database::empty(Cluster::shared().await).await;
    let serving = serve(&database, "").await;
    let channel = endpoint(&serving).connect().await.unwrap();
    let services = ["externalscaler.ExternalScaler", "grpc.health.v1.Health"];

    let request = pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(pb::v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect().await;
    let listed = format!("{answers:?}");
    assert!(services.iter().all(|service| listed.contains(service)), "v1: {listed}");

    let request = pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(pb::v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = pb::v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect().await;
    let listed = format!("{answers:?}");
    assert!(services.iter().all(|service| listed.contains(service)), "v1alpha: {listed}");
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let database = Database::empty(Cluster::shared().await).await;
    let serving = serve(&database, "server: {reflection: false}\n").await;
    let channel = endpoint(&serving).connect().await.unwrap();
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let refused = client.server_reflection_info(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_stream_tells_the_state_at_once_and_each_change() {
    let database = Database::seed(Cluster::shared().await).await;
    let serving = serve(&database, "").await;
    let scaler = Scaler::at(serving.grpc);
    let mut stream = scaler.activity(&trigger("pending-claps", &[])).await.unwrap();
    let mut next = async || wait::bounded("the next message", SOON, stream.message()).await.unwrap().unwrap().result;

    assert!(!next().await, "nothing is pending");
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (40)").await;
    assert!(next().await, "a row has come");
    database.execute("DELETE FROM make_it_clap").await;
    assert!(!next().await, "the row has gone");
}

#[tokio::test]
async fn a_stream_stays_open_and_silent_while_the_database_is_away() {
    let cluster = Cluster::private().await;
    let database = one_row(&cluster).await;
    let serving = serve(&database, "").await;
    let scaler = Scaler::at(serving.grpc);
    let reference = trigger("pending-claps", &[]);
    let mut stream = scaler.activity(&reference).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().result);

    cluster.stop().await;
    scaler.refuses(&reference, Code::Unavailable, SOON).await;
    let silence = tokio::time::timeout(Duration::from_secs(3), stream.message()).await;
    assert!(silence.is_err(), "the stream spoke or ended: {silence:?}");

    cluster.start().await;
    database.execute("DELETE FROM make_it_clap").await;
    let message = wait::bounded("the change is told", SOON, stream.message()).await.unwrap().unwrap();
    assert!(!message.result);
}

#[tokio::test]
async fn a_stream_with_malformed_metadata_is_refused_like_a_call() {
    let database = Database::seed(Cluster::shared().await).await;
    let serving = serve(&database, "").await;
    let scaler = Scaler::at(serving.grpc);
    let malformed = trigger("pending-claps", &[("divideBy", "0")]);
    assert_eq!(scaler.activity(&malformed).await.unwrap_err().code(), Code::InvalidArgument);
    // A query may still come; metadata does not get better by itself.
    assert!(scaler.activity(&trigger("no-such-query", &[])).await.is_ok());
}

#[tokio::test]
async fn four_streams_of_one_trigger_are_open_and_a_fifth_is_one_too_many() {
    let database = Database::seed(Cluster::shared().await).await;
    let serving = serve(&database, "").await;
    let scaler = Scaler::at(serving.grpc);
    let reference = trigger("pending-claps", &[]);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(scaler.activity(&reference).await.unwrap());
    }
    assert_eq!(scaler.activity(&reference).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(open);
    wait::first("the places are free again", SOON, async || scaler.activity(&reference).await.ok()).await;
}

#[tokio::test]
async fn the_spec_is_streamed_at_once() {
    let database = Database::seed(Cluster::shared().await).await;
    let serving = serve(&database, "").await;
    let mut client = Scaler::at(serving.grpc).client();
    let reference = trigger("pending-claps", &[("targetQueryValue", "2.5")]);
    let mut stream = client.stream_metric_spec(reference).await.unwrap().into_inner();
    let specs = wait::bounded("the spec", SOON, stream.message()).await.unwrap().unwrap().metric_specs;
    assert_eq!(specs.len(), 1);
    assert_eq!((specs[0].metric_name.as_str(), specs[0].target_size_float), ("pending-claps", 2.5));
}

#[tokio::test]
async fn sigterm_ends_streams_with_ok_and_the_process_with_zero_whoever_is_connected() {
    let database = one_row(Cluster::shared().await).await;
    let serving = serve(&database, "").await;
    let scaler = Scaler::at(serving.grpc);
    let mut stream = scaler.activity(&trigger("pending-claps", &[])).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().result);
    let mut specs = scaler.client().stream_metric_spec(trigger("pending-claps", &[])).await.unwrap().into_inner();
    assert!(specs.message().await.unwrap().is_some());
    let silent = TcpStream::connect(serving.grpc).await.unwrap();
    let mut greeted = TcpStream::connect(serving.grpc).await.unwrap();
    greeted.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();

    serving.process.signal(rustix::process::Signal::TERM);
    let end = wait::bounded("the end of the stream", SOON, stream.message()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");
    let end = wait::bounded("the end of the stream of specs", SOON, specs.message()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");
    let finished = serving.process.finish(Duration::from_secs(20 + 10)).await;
    assert_eq!(finished.code(), Some(0), "{}", finished.errors);
    drop((silent, greeted));
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = "queries:\n  slow: {sql: 'SELECT 1 FROM pg_sleep(30)', timeout: 60s}\n";
    let serving = serve(&database, queries).await;
    let scaler = Scaler::at(serving.grpc);
    // A call under way keeps the process until it is answered, for at most 2.5 s.
    let call = tokio::spawn(async move { scaler.value(&trigger("slow", &[])).await });
    wait::first("the statement is running", SOON, async || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND usename = 'scaler'";
        (database.value::<i64>(running).await > 0).then_some(())
    })
    .await;
    let mut process = serving.process;
    process.signal(rustix::process::Signal::TERM);
    process.logged("that it shuts down", SOON, |line| line["message"] == "shutting down").await;
    process.signal(rustix::process::Signal::TERM);
    let finished = process.finish(Duration::from_secs(1)).await;
    assert_eq!(finished.code(), Some(1), "{}", finished.errors);
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn metrics_are_served_as_openmetrics_where_asked_for_and_else_in_the_text_format() {
    let database = one_row(Cluster::shared().await).await;
    let serving = serve(&database, "").await;
    Scaler::at(serving.grpc).reaches(&trigger("pending-claps", &[]), 1.0, SOON).await;
    let text = page(&serving, "/metrics").await;
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{text}");
    assert!(text.contains("# TYPE clapometer_build_info gauge") && !text.contains("# EOF"), "{text}");
    assert!(text.contains("clapometer_query_value{"), "{text}");
    let asking = "GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n";
    let mut socket = TcpStream::connect(serving.admin).await.unwrap();
    socket.write_all(asking.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{text}");
    assert!(text.trim_end().ends_with("# EOF") && text.contains("# TYPE clapometer_build info"), "{text}");

    let Some(promtool) = promtool() else { return skip::skip("no promtool: scripts/prometheus gets it") };
    let text = admin::get(serving.admin, "/metrics").await;
    let checked = Executable::new(&promtool, ["check", "metrics"]).input("metrics", &text).finish(SOON).await;
    assert_eq!((checked.code(), &*checked.output, &*checked.errors), (Some(0), "", ""), "{text}");
}

/// The path at which `scripts/prometheus` puts it.
fn promtool() -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/promtool")).filter(|path| path.exists())
}
