//! The two streams, as KEDA uses them: the current state at once, then changes, and an end only with OK.
//!
//! KEDA's rules: pkg/scalers/external_scaler.go and pkg/scaling/scale_handler.go, `external-push`.

use std::time::{Duration, Instant};

use clapometer::proto::{GetMetricSpecResponse, ScaledObjectRef};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::support::{
    cluster::Cluster,
    fixture::{Fixture, Follower, NOTIFIED, SOON, add, clear, configuration, jobs, jobs_trigger, named},
    grpc::{Scaler, trigger},
    proxy::{Mode, Proxy},
    wait,
};

/// A query that is read every second at the least.
const POLLED: &str = "
  jobs: {sql: SELECT count(*) FROM jobs, max_age: 100ms}
";

#[tokio::test]
async fn the_state_comes_at_once_and_each_change_with_its_commit() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
    // Active before and after: nothing new.
    add(&client).await;
    clear(&client).await;
    follower.says(&[false, true, false], SOON).await;
    assert!(follower.is_open());
}

#[tokio::test]
async fn polls_and_streams_tell_the_same() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
    // Both use one reading: after the stream's message the poll has the same answer at once.
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 1.0);
    assert!(fixture.scaler.active(&jobs_trigger()).await.unwrap());
}

#[tokio::test]
async fn without_notify_a_stream_is_read_every_second_and_no_oftener() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let fixture = Fixture::with(&database.scaler(), POLLED).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    let start = Instant::now();
    let before = fixture.statements("jobs").await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
    // The time over which statements are counted; no message may come in it.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let statements = fixture.statements("jobs").await - before;
    let seconds = start.elapsed().as_secs_f64();
    assert!(statements >= 2.0 && statements <= seconds + 1.0, "{statements} statements in {seconds} s");
    assert_eq!(follower.states(), [false, true], "nothing changed, and it was told again");
}

#[tokio::test]
async fn a_stream_is_silent_while_the_database_is_away_and_tells_what_changed_meanwhile() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    let client = database.connect().await;
    let proxy = Proxy::to_cluster(cluster).await;
    let fixture = Fixture::with(&database.scaler().by_way_of(proxy.address()), POLLED).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;

    proxy.set(Mode::Reset);
    add(&client).await;
    fixture
        .reaches_metric("clapometer_database_breaker_open", "database=\"claps\"", 1.0, Duration::from_secs(10))
        .await;
    assert_eq!(follower.states(), [false]);
    assert!(follower.is_open(), "an error leaves KEDA blind for up to a minute");

    proxy.set(Mode::Pass);
    follower.says(&[false, true], Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_stream_opened_while_the_database_is_away_is_open_and_silent_and_then_speaks() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    add(&database.connect().await).await;
    let proxy = Proxy::to_cluster(cluster).await;
    proxy.set(Mode::Reset);
    let fixture = Fixture::with(&database.scaler().by_way_of(proxy.address()), POLLED).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    fixture.reaches_metric("clapometer_database_up", "database=\"claps\"", 0.0, SOON).await;
    assert_eq!(follower.states(), Vec::<bool>::new(), "`false` would be a silent zero");
    assert!(follower.is_open(), "an end with OK would be opened again every two seconds");
    proxy.set(Mode::Pass);
    follower.says(&[true], Duration::from_secs(3)).await;
}

#[tokio::test]
async fn shutdown_ends_both_streams_with_ok() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), POLLED).await;
    let activity = fixture.follow(&jobs_trigger()).await;
    let specs = follow_specs(&fixture.scaler, &jobs_trigger()).await;
    activity.says(&[false], SOON).await;
    let finished = fixture.serving.process.terminate(SOON).await;
    assert_eq!(finished.code(), Some(0));
    activity.ends(SOON).await.unwrap();
    specs.ends(SOON).await.unwrap();
}

#[tokio::test]
async fn the_streams_of_an_old_connection_end_with_ok_over_ten_seconds_however_busy_they_are() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let with_age = configuration(&database.scaler(), NOTIFIED) + "server: {connection_age: 1s}\n";
    let fixture = Fixture::configured(&with_age).await;
    let start = Instant::now();
    let mut followers = Vec::new();
    for name in 0..24 {
        followers.push(fixture.follow(&named(&jobs_trigger(), name)).await);
    }
    let busy = tokio::spawn(async move {
        loop {
            add(&client).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
            clear(&client).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    });
    let mut ends = Vec::new();
    for follower in followers {
        let limit = Duration::from_secs(18).saturating_sub(start.elapsed());
        follower.ends(limit).await.unwrap();
        ends.push(start.elapsed());
    }
    busy.abort();
    // Ends are noted in the order of opening, so this is a lower bound on how far apart they were.
    assert!(ends[23] - ends[0] > Duration::from_millis(200) || ends[0] > Duration::from_secs(3), "{ends:?}");
}

#[tokio::test]
async fn a_slow_reader_gets_the_latest_state_and_no_queue() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let mut stream = narrow(&fixture).activity(&jobs_trigger()).await.unwrap();
    // Nothing is read from here on, and the window holds a message or two.
    for _ in 0..50 {
        add(&client).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        clear(&client).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    add(&client).await;
    fixture.scaler.reaches(&jobs_trigger(), 1.0, SOON).await;
    let mut told: Vec<bool> = Vec::new();
    loop {
        // A busy machine may be slow to send the latest state, and nothing comes after it.
        let silence = if told.last() == Some(&true) { Duration::from_millis(500) } else { SOON };
        let Ok(message) = tokio::time::timeout(silence, stream.message()).await else { break };
        told.push(message.unwrap().unwrap().result);
    }
    assert_eq!(told.last(), Some(&true), "the latest state is missing: {told:?}");
    assert!(told.len() < 20, "{} messages were queued", told.len());
}

/// A client whose streams take no more than a message or two that it has not read.
fn narrow(fixture: &Fixture) -> Scaler {
    let endpoint = Endpoint::from_shared(format!("http://{}", fixture.serving.grpc)).unwrap();
    Scaler::over(endpoint.initial_stream_window_size(16).connect_lazy())
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_at_the_open_as_a_poll_is() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), POLLED).await;
    let refused = [
        (trigger("jobs", &[("divideby", "10")]), Code::InvalidArgument),
        (trigger("jobs", &[("param.queue", "mail")]), Code::InvalidArgument),
        (trigger("keeper", &[("divideBy", "10")]), Code::InvalidArgument),
    ];
    for (trigger, code) in refused {
        assert_eq!(fixture.scaler.activity(&trigger).await.unwrap_err().code(), code, "{trigger:?}");
        assert_eq!(open_specs(&fixture.scaler, &trigger).await.unwrap_err().code(), code, "{trigger:?}");
    }
}

/// KEDA waits for up to a minute after a refusal, and a reload may bring the query any moment.
#[tokio::test]
async fn a_query_that_is_not_there_yet_is_waited_for_in_silence() {
    let database = jobs(Cluster::shared().await).await;
    let with_queries = |queries: &str| configuration(&database.scaler(), queries);
    let fixture = Fixture::configured(&with_queries("\n  other: {sql: SELECT 1}\n")).await;
    let (unknown, sql) = (trigger("jobs", &[]), trigger("SELECT count(*) FROM jobs", &[]));
    assert_eq!(fixture.scaler.value(&unknown).await.unwrap_err().code(), Code::PermissionDenied, "a poll is refused");
    let mut streams = Vec::new();
    for trigger in [&unknown, &sql] {
        streams.push(fixture.scaler.activity(trigger).await.unwrap());
    }
    let mut specs = open_specs(&fixture.scaler, &unknown).await.unwrap();
    let placeholder = specs.message().await.unwrap().unwrap().metric_specs;
    assert_eq!((placeholder[0].metric_name.as_str(), placeholder[0].target_size_float), ("jobs", 1_000_000.0));
    // Another reload that does not bring it changes nothing.
    fixture.reload(&with_queries("\n  other: {sql: SELECT 2}\n")).await;

    fixture.reload(&with_queries("\n  jobs: {sql: SELECT count(*) FROM jobs, target: 5}\n")).await;
    for stream in &mut streams {
        let message = tokio::time::timeout(SOON, stream.message()).await.expect("it is silent").unwrap();
        assert!(!message.expect("it has ended").result, "its first word is not the query's");
    }
    let spec = tokio::time::timeout(SOON, specs.message()).await.expect("it is silent").unwrap().unwrap();
    assert_eq!(spec.metric_specs[0].target_size_float, 5.0);
    add(&database.connect().await).await;
    for stream in &mut streams {
        let message = tokio::time::timeout(SOON, stream.message()).await.expect("it is silent").unwrap();
        assert!(message.expect("it has ended").result);
    }
}

#[tokio::test]
async fn a_namespace_waits_with_250_streams_for_what_it_may_not_use() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), POLLED).await;
    let unknown = |namespace: &str| ScaledObjectRef { namespace: namespace.to_owned(), ..trigger("nothing", &[]) };
    let mut waiting = Vec::new();
    for _ in 0..250 {
        waiting.push(fixture.scaler.activity(&unknown("greedy")).await.unwrap());
    }
    let refused = fixture.scaler.activity(&unknown("greedy")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(fixture.scaler.activity(&unknown("modest")).await.is_ok(), "another namespace has its own places");
    assert!(fixture.scaler.activity(&jobs_trigger()).await.is_ok(), "known queries have theirs");
}

/// The one answer that is zero without a database having said so.
#[tokio::test]
async fn the_keeper_is_never_active_and_never_fails() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().with("enabled", "false".to_owned());
    let fixture = Fixture::with(&access, POLLED).await;
    let keeper = trigger("keeper", &[("scalerAddress", "clapometer:9090")]);
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fixture.scaler.value(&keeper).await.unwrap(), 0.0);
    assert!(!fixture.scaler.active(&keeper).await.unwrap());
    let spec = fixture.scaler.spec(&keeper).await.unwrap();
    assert_eq!((spec.metric_name.as_str(), spec.target_size_float), ("keeper", 1.0));
    let mut stream = fixture.scaler.activity(&keeper).await.unwrap();
    assert!(!stream.message().await.unwrap().unwrap().result);
    let with_keys = trigger("keeper", &[("targetQueryValue", "2"), ("param.queue", "mail")]);
    let refused = fixture.scaler.value(&with_keys).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("param.queue: remove it") && refused.message().contains("targetQueryValue"));
}

#[tokio::test]
async fn a_trigger_has_four_streams_and_gets_its_place_back() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), POLLED).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(fixture.scaler.activity(&jobs_trigger()).await.unwrap());
    }
    assert_eq!(fixture.scaler.activity(&jobs_trigger()).await.unwrap_err().code(), Code::ResourceExhausted);
    assert!(fixture.scaler.activity(&named(&jobs_trigger(), "another")).await.is_ok(), "another trigger has its own");
    streams.pop();
    wait::first("the place is free again", SOON, async || fixture.scaler.activity(&jobs_trigger()).await.ok()).await;
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_costs_nothing_any_more() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), POLLED).await;
    let stream = fixture.scaler.activity(&jobs_trigger()).await.unwrap();
    fixture.reaches_metric("clapometer_streams", "rpc=\"StreamIsActive\"", 1.0, SOON).await;
    // The statement that the open has caused: it goes on without the stream.
    wait::first("a statement is sent", SOON, async || (fixture.statements("jobs").await >= 1.0).then_some(())).await;
    drop(stream);
    fixture.reaches_metric("clapometer_streams", "rpc=\"StreamIsActive\"", 0.0, SOON).await;
    let before = fixture.statements("jobs").await;
    // Nothing may be read meanwhile.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fixture.statements("jobs").await, before, "nobody watches, and it is read");
}

#[tokio::test]
async fn the_spec_comes_at_once_and_then_only_when_a_reload_changes_it() {
    let database = jobs(Cluster::shared().await).await;
    let with_target = |target: u32, extra: &str| {
        configuration(
            &database.scaler(),
            &format!("\n  jobs: {{sql: SELECT count(*) FROM jobs, target: {target}}}\n{extra}"),
        )
    };
    let fixture = Fixture::configured(&with_target(5, "")).await;
    let follower = follow_specs(&fixture.scaler, &jobs_trigger()).await;
    let own_target = follow_specs(&fixture.scaler, &trigger("jobs", &[("targetQueryValue", "7")])).await;
    says_targets(&follower, &[5.0]).await;
    equals_the_poll(&fixture, &follower).await;

    // Every message makes KEDA reconcile the object: nothing is sent that changes nothing.
    fixture.reload(&with_target(5, "  another: {sql: SELECT 1}\n")).await;
    fixture.reload(&with_target(20, "")).await;
    says_targets(&follower, &[5.0, 20.0]).await;
    equals_the_poll(&fixture, &follower).await;
    says_targets(&own_target, &[7.0]).await;
    assert!(follower.is_open() && own_target.is_open());
}

/// KEDA keeps the streamed spec instead of asking: both must be the same.
async fn equals_the_poll(fixture: &Fixture, follower: &Follower<GetMetricSpecResponse>) {
    let streamed = follower.heard().pop().unwrap().1;
    assert_eq!(streamed.metric_specs, [fixture.scaler.spec(&jobs_trigger()).await.unwrap()]);
}

async fn says_targets(follower: &Follower<GetMetricSpecResponse>, targets: &[f64]) {
    wait::eventually(&format!("the targets {targets:?} are told"), SOON, || {
        let heard = follower.heard();
        assert!(heard.iter().all(|(_, message)| message.metric_specs.len() == 1), "never an empty list: {heard:?}");
        let heard: Vec<f64> = heard.iter().map(|(_, message)| message.metric_specs[0].target_size_float).collect();
        assert!(targets.starts_with(&heard), "{heard:?} instead of {targets:?}");
        heard == targets
    })
    .await;
}

async fn follow_specs(scaler: &Scaler, trigger: &ScaledObjectRef) -> Follower<GetMetricSpecResponse> {
    Follower::new(open_specs(scaler, trigger).await.unwrap())
}

async fn open_specs(
    scaler: &Scaler,
    trigger: &ScaledObjectRef,
) -> Result<tonic::Streaming<GetMetricSpecResponse>, tonic::Status> {
    let mut client: clapometer::proto::external_scaler_client::ExternalScalerClient<Channel> = scaler.client();
    let opening = client.stream_metric_spec(trigger.clone());
    Ok(wait::bounded("StreamMetricSpec", SOON, opening).await?.into_inner())
}
