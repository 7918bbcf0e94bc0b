//! The two streams, by what KEDA makes of them: current state at once, then changes, an end only with OK.
//!
//! KEDA's rules: pkg/scalers/external_scaler.go and pkg/scaling/scale_handler.go, `external-push`.

pub(crate) mod ground;

use std::time::{Duration, Instant};

use clapometer::wire::{GetMetricSpecResponse, ScaledObjectRef};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use self::ground::{Follower, SOON, Stand, add, clear, configuration, jobs, named, of_jobs};
use crate::support::{
    cluster::Cluster,
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
    let stand = Stand::hearing(&database.scaler()).await;
    let follower = stand.follow(&of_jobs()).await;
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
    let stand = Stand::hearing(&database.scaler()).await;
    let follower = stand.follow(&of_jobs()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
    // One reading for both: what the stream has told, the poll tells at once.
    assert_eq!(stand.scaler.value(&of_jobs()).await.unwrap(), 1.0);
    assert!(stand.scaler.active(&of_jobs()).await.unwrap());
}

#[tokio::test]
async fn without_notify_a_stream_is_read_every_second_and_no_oftener() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let stand = Stand::with(&database.scaler(), POLLED).await;
    let follower = stand.follow(&of_jobs()).await;
    follower.says(&[false], SOON).await;
    let start = Instant::now();
    let before = stand.statements("jobs").await;
    add(&client).await;
    follower.says(&[false, true], Duration::from_secs(3)).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let statements = stand.statements("jobs").await - before;
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
    let stand = Stand::with(&database.scaler().by_way_of(proxy.address()), POLLED).await;
    let follower = stand.follow(&of_jobs()).await;
    follower.says(&[false], SOON).await;

    proxy.set(Mode::Reset);
    add(&client).await;
    stand.shows("clapometer_database_breaker_open", "database=\"claps\"", 1.0, Duration::from_secs(10)).await;
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
    let stand = Stand::with(&database.scaler().by_way_of(proxy.address()), POLLED).await;
    let follower = stand.follow(&of_jobs()).await;
    stand.shows("clapometer_database_up", "database=\"claps\"", 0.0, SOON).await;
    assert_eq!(follower.states(), Vec::<bool>::new(), "`false` would be a silent zero");
    assert!(follower.is_open(), "an end with OK would be opened again every two seconds");
    proxy.set(Mode::Pass);
    follower.says(&[true], Duration::from_secs(3)).await;
}

#[tokio::test]
async fn shutdown_ends_both_streams_with_ok() {
    let database = jobs(Cluster::shared().await).await;
    let stand = Stand::with(&database.scaler(), POLLED).await;
    let activity = stand.follow(&of_jobs()).await;
    let specs = follow_specs(&stand.scaler, &of_jobs()).await;
    activity.says(&[false], SOON).await;
    let finished = stand.serving.process.terminate(SOON).await;
    assert_eq!(finished.code(), Some(0));
    activity.ends(SOON).await.unwrap();
    specs.ends(SOON).await.unwrap();
}

#[tokio::test]
async fn the_streams_of_an_old_connection_end_with_ok_over_ten_seconds_however_busy_they_are() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let with_age = configuration(&database.scaler(), ground::NOTIFIED) + "server: {connection_age: 1s}\n";
    let stand = Stand::configured(&with_age).await;
    let start = Instant::now();
    let mut followers = Vec::new();
    for name in 0..24 {
        followers.push(stand.follow(&named(&of_jobs(), name)).await);
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
    let stand = Stand::hearing(&database.scaler()).await;
    let mut stream = narrow(&stand).activity(&of_jobs()).await.unwrap();
    // Nothing is read from here on, and the window holds a message or two.
    for _ in 0..50 {
        add(&client).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        clear(&client).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    add(&client).await;
    stand.scaler.reaches(&of_jobs(), 1.0, SOON).await;
    let mut told = Vec::new();
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(500), stream.message()).await {
        told.push(message.unwrap().unwrap().result);
    }
    assert_eq!(told.last(), Some(&true), "the latest state is missing: {told:?}");
    assert!(told.len() < 20, "{} messages were queued", told.len());
}

/// A client whose streams take no more than a message or two that it has not read.
fn narrow(stand: &Stand) -> Scaler {
    let endpoint = Endpoint::from_shared(format!("http://{}", stand.serving.grpc)).unwrap();
    Scaler::over(endpoint.initial_stream_window_size(16).connect_lazy())
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_at_the_open_as_a_poll_is() {
    let database = jobs(Cluster::shared().await).await;
    let stand = Stand::with(&database.scaler(), POLLED).await;
    let refused = [
        (trigger("jobs", &[("divideby", "10")]), Code::InvalidArgument),
        (trigger("jobs", &[("param.queue", "mail")]), Code::InvalidArgument),
        (trigger("no-such-query", &[]), Code::PermissionDenied),
        (trigger("SELECT 1", &[]), Code::PermissionDenied),
    ];
    for (trigger, code) in refused {
        assert_eq!(stand.scaler.activity(&trigger).await.unwrap_err().code(), code, "{trigger:?}");
        assert_eq!(open_specs(&stand.scaler, &trigger).await.unwrap_err().code(), code, "{trigger:?}");
    }
}

#[tokio::test]
async fn a_trigger_has_four_streams_and_gets_its_place_back() {
    let database = jobs(Cluster::shared().await).await;
    let stand = Stand::with(&database.scaler(), POLLED).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(stand.scaler.activity(&of_jobs()).await.unwrap());
    }
    assert_eq!(stand.scaler.activity(&of_jobs()).await.unwrap_err().code(), Code::ResourceExhausted);
    assert!(stand.scaler.activity(&named(&of_jobs(), "another")).await.is_ok(), "another trigger has its own");
    streams.pop();
    wait::first("the place is free again", SOON, async || stand.scaler.activity(&of_jobs()).await.ok()).await;
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_costs_nothing_any_more() {
    let database = jobs(Cluster::shared().await).await;
    let stand = Stand::with(&database.scaler(), POLLED).await;
    let stream = stand.scaler.activity(&of_jobs()).await.unwrap();
    stand.shows("clapometer_streams", "rpc=\"StreamIsActive\"", 1.0, SOON).await;
    // The statement that the open has caused: it goes on without the stream.
    stand.shows("clapometer_query_statements_total", "query=\"jobs\"", 1.0, SOON).await;
    drop(stream);
    stand.shows("clapometer_streams", "rpc=\"StreamIsActive\"", 0.0, SOON).await;
    let before = stand.statements("jobs").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(stand.statements("jobs").await, before, "nobody watches, and it is read");
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
    let stand = Stand::configured(&with_target(5, "")).await;
    let follower = follow_specs(&stand.scaler, &of_jobs()).await;
    let own_target = follow_specs(&stand.scaler, &trigger("jobs", &[("targetQueryValue", "7")])).await;
    says_targets(&follower, &[5.0]).await;
    equals_the_poll(&stand, &follower).await;

    // Every message makes KEDA reconcile the object: nothing is sent that changes nothing.
    stand.reload(&with_target(5, "  another: {sql: SELECT 1}\n")).await;
    stand.reload(&with_target(20, "")).await;
    says_targets(&follower, &[5.0, 20.0]).await;
    equals_the_poll(&stand, &follower).await;
    says_targets(&own_target, &[7.0]).await;
    assert!(follower.is_open() && own_target.is_open());
}

/// KEDA keeps the streamed spec instead of asking: both must be the same.
async fn equals_the_poll(stand: &Stand, follower: &Follower<GetMetricSpecResponse>) {
    let streamed = follower.heard().pop().unwrap().1;
    assert_eq!(streamed.metric_specs, [stand.scaler.spec(&of_jobs()).await.unwrap()]);
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
    Follower::of(open_specs(scaler, trigger).await.unwrap())
}

async fn open_specs(
    scaler: &Scaler,
    trigger: &ScaledObjectRef,
) -> Result<tonic::Streaming<GetMetricSpecResponse>, tonic::Status> {
    let mut client: clapometer::wire::external_scaler_client::ExternalScalerClient<Channel> = scaler.client();
    let opening = client.stream_metric_spec(trigger.clone());
    Ok(wait::bounded("StreamMetricSpec", SOON, opening).await?.into_inner())
}
