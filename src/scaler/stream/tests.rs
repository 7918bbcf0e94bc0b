//! Tests what a stream sends and when, with a fake reader and a paused clock.

use std::{collections::HashMap, net::IpAddr, sync::Mutex};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    activity::REMINDER,
    limits::{SPEC_PACE, SPREAD, STREAMS_PER_PROCESS, STREAMS_PER_TRIGGER, WAITING_PER_NAMESPACE, WAITING_PER_PROCESS},
    *,
};
use crate::{
    cache::{CacheKey, QueryCache, QueryReader, QuerySource},
    fault::{Fault, Limit},
    metrics::{Build, Metrics},
    query::{Absent, Namespaces, Query, Value},
    reading::{Breaker, ChannelState, Numbers, ReadResult, Reading, Rows, Tenant},
    scaler::{
        Catalog,
        metadata::{ActivitySource, Trigger},
    },
    scaling::{Activation, Divisor, Rounding, Target},
    shutdown::Supervisor,
};

const SECOND: Duration = Duration::from_secs(1);

/// A reader that returns the result that the test has set.
struct FakeReader(Mutex<Result<f64, Fault>>);

impl FakeReader {
    fn set(&self, answer: Result<f64, Fault>) {
        *self.0.lock().unwrap() = answer;
    }
}

impl QueryReader for FakeReader {
    fn database(&self) -> &'static str {
        "claps"
    }

    fn channel(&self) -> Option<watch::Receiver<ChannelState>> {
        None
    }

    fn breaker(&self) -> watch::Receiver<Breaker> {
        watch::channel(Breaker::Closed).1
    }

    fn refusal(&self) -> Option<Fault> {
        None
    }

    fn read<'a>(
        &'a self,
        _: &'a [Value],
        _: &'a watch::Receiver<Tenant>,
    ) -> Pin<Box<dyn Future<Output = ReadResult> + Send + 'a>> {
        let answer = *self.0.lock().unwrap();
        let sent_at = Instant::now();
        Box::pin(async move {
            let value = answer.map_err(|fault| (fault, String::new()))?;
            Ok(Reading {
                rows: Rows::One(Numbers { value, activity: None }),
                sent_at,
                changes_at: None,
                stalled: None,
                short_keys: None,
            })
        })
    }
}

fn peer() -> Peer {
    Peer::from(IpAddr::from([10, 0, 0, 1]))
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }))
}

/// A stream, and the reader behind it.
struct Opened {
    activity: ActivityUpdates,
    reader: Arc<FakeReader>,
    _catalog: watch::Sender<Arc<Catalog>>,
}

impl Opened {
    fn with(answer: Result<f64, Fault>) -> Self {
        let query = Arc::new(Query {
            name: "jobs".into(),
            databases: vec!["claps".into()],
            sql: "SELECT 1".into(),
            value_column: None,
            activity_column: None,
            next_change: None,
            divide_by: Divisor::default(),
            rounding: None,
            target: Target::default(),
            activation: Activation::default(),
            parameters: Vec::new(),
            group_by: None,
            on_null: Absent::Error,
            on_no_row: Absent::Error,
            timeout: SECOND,
            max_age: SECOND,
            notify: None,
            namespaces: Namespaces::All,
            budget: None,
            preset: None,
        });
        let reader = Arc::new(FakeReader(Mutex::new(answer)));
        let source: Arc<dyn QueryReader> = reader.clone();
        let source = QuerySource::new(query, vec![source]);
        let cache = QueryCache::new(metrics(), &Supervisor::new().0);
        let key = CacheKey { source, parameters: Vec::new() };
        let cached = cache.get_or_insert(&key, "default").unwrap();
        let trigger = Trigger {
            id: 1,
            key,
            group: None,
            target: Target::default(),
            activation: Activation::default(),
            activity_source: ActivitySource::Reported,
            divide_by: Divisor::default(),
            rounding: Rounding::Ceil,
        };
        let reference =
            ScaledObjectRef { name: "jobs".into(), namespace: "default".into(), scaler_metadata: HashMap::new() };
        let (sender, catalog) = watch::channel(Arc::new(Catalog::default()));
        let permit = StreamLimits::new(metrics()).acquire(1, 0, Rpc::StreamIsActive).unwrap();
        let subject = Subject::watching(trigger, &cached);
        let activity =
            ActivityUpdates::new(KeptRequest::new(reference, peer()), permit, subject, catalog, cache, metrics());
        Self { activity, reader, _catalog: sender }
    }

    /// Returns the message that comes within that time, and how long it took.
    async fn next_within(&mut self, within: Duration) -> Option<(bool, Duration)> {
        let start = Instant::now();
        let message = timeout(within, self.activity.next()).await.ok()?;
        Some((message.expect("the query stays").result, start.elapsed()))
    }
}

#[tokio::test(start_paused = true)]
async fn true_is_said_again_every_thirty_seconds_and_false_is_not() {
    let mut opened = Opened::with(Ok(1.0));
    assert_eq!(opened.next_within(SECOND).await, Some((true, Duration::ZERO)));
    for _ in 0..3 {
        let (state, after) = opened.next_within(60 * SECOND).await.unwrap();
        assert!(state && after >= REMINDER && after <= REMINDER + 2 * SECOND, "{state} after {after:?}");
    }
    opened.reader.set(Ok(0.0));
    assert!(matches!(opened.next_within(2 * SECOND).await, Some((false, _))));
    assert_eq!(opened.next_within(600 * SECOND).await, None);
}

#[tokio::test(start_paused = true)]
async fn while_the_database_is_away_nothing_is_said_and_nothing_is_false() {
    let mut opened = Opened::with(Ok(1.0));
    assert_eq!(opened.next_within(SECOND).await, Some((true, Duration::ZERO)));
    opened.reader.set(Err(Fault::Unreachable));
    assert_eq!(opened.next_within(600 * SECOND).await, None);
    // KEDA has not heard `true` for ten minutes: it gets one at once.
    opened.reader.set(Ok(3.0));
    assert!(matches!(opened.next_within(2 * SECOND).await, Some((true, _))));
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_that_changed_nothing_is_no_news() {
    let mut opened = Opened::with(Ok(1.0));
    assert_eq!(opened.next_within(SECOND).await, Some((true, Duration::ZERO)));
    opened.reader.set(Err(Fault::Unreachable));
    assert_eq!(opened.next_within(5 * SECOND).await, None);
    opened.reader.set(Ok(1.0));
    let (state, after) = opened.next_within(60 * SECOND).await.unwrap();
    assert!(state && after >= 20 * SECOND, "{state} after {after:?}");
}

#[test]
fn the_process_and_each_trigger_have_so_many_places_and_get_them_back() {
    let streams = StreamLimits::new(metrics());
    let triggers = u64::try_from(STREAMS_PER_PROCESS / STREAMS_PER_TRIGGER).unwrap();
    let mut permits = Vec::new();
    for trigger in 0..triggers {
        for _ in 0..STREAMS_PER_TRIGGER {
            permits.push(streams.acquire(trigger, 300, Rpc::StreamIsActive).unwrap());
        }
        if permits.len() < STREAMS_PER_PROCESS {
            let refused = streams.acquire(trigger, 300, Rpc::StreamIsActive).err();
            assert_eq!(refused, Some(Fault::Exhausted(Limit::TriggerStreams)));
        }
    }
    assert_eq!(permits.len(), 50_000, "the contract's number");
    for _ in 0..3 {
        assert_eq!(streams.acquire(u64::MAX, 300, Rpc::StreamMetricSpec).err(), Some(Fault::Exhausted(Limit::Streams)));
    }
    permits.pop();
    permits.push(streams.acquire(u64::MAX, 300, Rpc::StreamMetricSpec).unwrap());
    assert_eq!(streams.acquire(0, 300, Rpc::StreamIsActive).err(), Some(Fault::Exhausted(Limit::Streams)));
    drop(permits);
    let open = streams.open();
    assert_eq!((open.admitted, open.bytes, open.by_trigger.len()), (0, 0, 0), "what is not open costs nothing");
}

#[test]
fn streams_whose_triggers_say_much_have_fewer_places() {
    let streams = StreamLimits::new(metrics());
    let placed = (0..).map_while(|trigger| streams.acquire(trigger, 64 * 1024, Rpc::StreamIsActive).ok());
    let permits: Vec<_> = placed.collect();
    assert_eq!(permits.len(), 512);
    assert_eq!(streams.acquire(u64::MAX, 1, Rpc::StreamIsActive).err(), Some(Fault::Exhausted(Limit::Streams)));
    drop(permits);
    assert!(streams.acquire(u64::MAX, 1, Rpc::StreamIsActive).is_ok());
}

/// The lifetime of a stream on a connection that is too old when `is_over` is cancelled.
fn lifetime(streams: &Arc<StreamLimits>, rpc: Rpc, is_over: &CancellationToken, limit: Duration) -> Lifetime {
    Lifetime {
        process: CancellationToken::new(),
        connection: Some(ConnectionAge { is_over: is_over.clone(), limit }),
        ends_at: None,
        streams: Arc::clone(streams),
        rpc,
        opened_at: Instant::now(),
        ended_with: Code::Cancelled,
    }
}

/// The time from the age of their connection to the end of each of so many StreamMetricSpec.
async fn spec_ends(number: u64, limit: Duration) -> Vec<Duration> {
    let (streams, is_over) = (StreamLimits::new(metrics()), CancellationToken::new());
    let _permits: Vec<_> =
        (0..number).map(|trigger| streams.acquire(trigger, 0, Rpc::StreamMetricSpec).unwrap()).collect();
    is_over.cancel();
    let start = Instant::now();
    let ends = (0..number).map(|_| {
        let mut lifetime = lifetime(&streams, Rpc::StreamMetricSpec, &is_over, limit);
        async move {
            lifetime.wait().await;
            start.elapsed()
        }
    });
    futures_util::future::join_all(ends).await
}

#[tokio::test(start_paused = true)]
async fn specs_of_an_old_connection_end_twenty_a_second_or_as_fast_as_its_age_demands() {
    let ends = spec_ends(200, 600 * SECOND).await;
    for second in 0..10 {
        let (from, to) = (second * SECOND, (second + 1) * SECOND);
        let ended = ends.iter().filter(|end| (from..to).contains(*end)).count();
        assert_eq!(ended, 20, "in the second {second}");
    }
    let ends = spec_ends(400, 4 * SECOND).await;
    assert!(ends.iter().all(|end| *end <= 4 * SECOND), "{:?}", ends.iter().max());
    assert!(ends.iter().max() > Some(&(3 * SECOND)), "they end together");
    assert!(SPEC_PACE == SECOND / 20);
}

#[test]
fn waiting_streams_have_places_of_their_own_of_which_a_namespace_gets_a_quarter() {
    let streams = StreamLimits::new(metrics());
    let mut waiting: Vec<_> =
        (0..).map_while(|_| streams.acquire_waiting("greedy", 300, Rpc::StreamIsActive)).collect();
    assert_eq!((waiting.len(), WAITING_PER_NAMESPACE), (250, 250));
    let namespaces = ["a", "b", "c", "d"];
    for namespace in namespaces {
        waiting.extend((0..).map_while(|_| streams.acquire_waiting(namespace, 300, Rpc::StreamIsActive)));
    }
    assert_eq!((waiting.len(), WAITING_PER_PROCESS), (1_000, 1_000), "the contract's numbers");

    // One whose query has become known gives its place to another.
    let mut known = waiting.pop().unwrap();
    known.admit(7).unwrap();
    assert!(!known.is_waiting());
    waiting.push(streams.acquire_waiting("other", 300, Rpc::StreamIsActive).unwrap());
    assert_eq!(streams.open().admitted, 1);
    assert_eq!(streams.open().waiting, 1_000);
    drop((waiting, known));
    let open = streams.open();
    assert_eq!((open.admitted, open.waiting, open.bytes, open.waiting_by_namespace.len()), (0, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_keeper_is_inactive_once_and_then_silent() {
    let streams = StreamLimits::new(metrics());
    let permit = streams.acquire(1, 0, Rpc::StreamIsActive).unwrap();
    let (sender, catalog) = watch::channel(Arc::new(Catalog::default()));
    let cache = QueryCache::new(metrics(), &Supervisor::new().0);
    let scaler_metadata = HashMap::from([("query".to_owned(), "keeper".to_owned())]);
    let reference = ScaledObjectRef { name: "keeper".into(), namespace: "default".into(), scaler_metadata };
    let mut activity =
        ActivityUpdates::new(KeptRequest::new(reference, peer()), permit, Subject::Keeper, catalog, cache, metrics());
    assert_eq!(activity.next().await, Some(IsActiveResponse { result: false }));
    sender.send_replace(Arc::new(Catalog::default()));
    assert!(timeout(600 * SECOND, activity.next()).await.is_err(), "it has something to say");
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_an_old_connection_end_within_the_spread_however_often_they_speak() {
    let streams = StreamLimits::new(metrics());
    let connection = CancellationToken::new();
    let mut lifetime = lifetime(&streams, Rpc::StreamIsActive, &connection, 600 * SECOND);
    assert!(timeout(60 * SECOND, lifetime.wait()).await.is_err(), "it ended before its connection got old");
    connection.cancel();
    let start = Instant::now();
    // Each message drops the wait and begins another.
    while timeout(SECOND / 10, lifetime.wait()).await.is_err() {
        sleep(SECOND / 100).await;
        assert!(start.elapsed() <= SPREAD, "still open after {:?}", start.elapsed());
    }
}
