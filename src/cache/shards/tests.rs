//! Sums over several databases, with readers whose answers the test sets, and a paused clock.

use std::{
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{advance, sleep},
};

use super::*;
use crate::{
    cache::{CacheKey, CachedQuery, Call, QueryCache, QuerySource},
    metrics::{Build, Metrics, QueryLabels},
    query::{Absent, Namespaces, Notify, Value},
    reading::{Breaker, CALL_DEADLINE, ReadResult, Tenant},
    scaling::{Activation, Divisor, Target},
    shutdown::Supervisor,
};

const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);

/// A database that answers with what the test has set, and counts how often it was asked.
struct FakeShard {
    name: String,
    answer: Mutex<Result<Rows, Fault>>,
    changes_in: Mutex<Option<Duration>>,
    /// The time for which it waits for a connection.
    waits: Mutex<Duration>,
    statements: Mutex<u32>,
    is_away: AtomicBool,
    channel: watch::Sender<ChannelState>,
}

impl QueryReader for FakeShard {
    fn database(&self) -> &str {
        &self.name
    }

    fn channel(&self) -> Option<watch::Receiver<ChannelState>> {
        Some(self.channel.subscribe())
    }

    fn breaker(&self) -> watch::Receiver<Breaker> {
        watch::channel(Breaker::Closed).1
    }

    fn refusal(&self) -> Option<Fault> {
        self.is_away.load(Ordering::Relaxed).then_some(Fault::BreakerOpen)
    }

    fn read<'a>(
        &'a self,
        _: &'a [Value],
        _: &'a watch::Receiver<Tenant>,
    ) -> Pin<Box<dyn Future<Output = ReadResult> + Send + 'a>> {
        Box::pin(async move {
            let wait = *self.waits.lock().unwrap();
            sleep(wait).await;
            *self.statements.lock().unwrap() += 1;
            let rows = self.answer.lock().unwrap().clone().map_err(|fault| (fault, String::new()))?;
            let sent_at = Instant::now();
            let changes_at = self.changes_in.lock().unwrap().take().map(|wait| sent_at + wait);
            Ok(Reading { rows, sent_at, changes_at, stalled: Some(1.0), short_keys: Some(1) })
        })
    }
}

/// A queue in shards, with a `max_age` of a second and a `resync` of five.
struct World {
    shards: Vec<Arc<FakeShard>>,
    cached: Arc<CachedQuery>,
    metrics: Arc<Metrics>,
    _cache: Arc<QueryCache>,
}

impl World {
    fn of(answers: Vec<Rows>) -> Self {
        Self::with(answers, Some(5 * SECOND))
    }

    fn with(answers: Vec<Rows>, resync: Option<Duration>) -> Self {
        let shards: Vec<_> = answers
            .into_iter()
            .enumerate()
            .map(|(number, rows)| {
                let healthy = ChannelState { is_healthy: true, invalidated_at: Instant::now() - 10 * SECOND };
                Arc::new(FakeShard {
                    name: format!("s{number}"),
                    answer: Mutex::new(Ok(rows)),
                    changes_in: Mutex::default(),
                    waits: Mutex::default(),
                    statements: Mutex::default(),
                    is_away: AtomicBool::new(false),
                    channel: watch::Sender::new(healthy),
                })
            })
            .collect();
        let query = Arc::new(Query {
            name: "jobs".into(),
            databases: shards.iter().map(|shard| shard.name.clone()).collect(),
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
            notify: Some(Notify { channel: "jobs".into(), resync }),
            namespaces: Namespaces::All,
            budget: None,
            preset: None,
        });
        let readers = shards.iter().map(|shard| {
            let reader: Arc<dyn QueryReader> = shard.clone();
            reader
        });
        let key = CacheKey { source: QuerySource::new(query, readers.collect()), parameters: Vec::new() };
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        let cache = QueryCache::new(Arc::clone(&metrics), &Supervisor::new().0);
        let cached = cache.get_or_insert(&key, "default").unwrap();
        Self { shards, cached, metrics, _cache: cache }
    }

    fn counting(values: &[u32]) -> Self {
        Self::of(values.iter().map(|value| one(f64::from(*value))).collect())
    }

    async fn poll(&self) -> Result<Arc<Reading>, Fault> {
        let came_at = Instant::now();
        self.cached.for_metrics(1, None, Call { came_at, deadline: came_at + CALL_DEADLINE }).await?;
        self.cached.outcome.borrow().result.clone()
    }

    async fn value(&self) -> Result<f64, Fault> {
        Ok(self.poll().await?.rows.of(None).expect("a plain query").value)
    }

    fn set(&self, shard: usize, answer: Result<Rows, Fault>) {
        *self.shards[shard].answer.lock().unwrap() = answer;
    }

    fn notify(&self, shard: usize) {
        self.shards[shard].channel.send_modify(|state| state.invalidated_at = Instant::now());
    }

    fn statements(&self) -> Vec<u32> {
        self.shards.iter().map(|shard| *shard.statements.lock().unwrap()).collect()
    }
}

fn one(value: f64) -> Rows {
    Rows::One(Numbers { value, activity: None })
}

fn keys(rows: &[(&str, f64)]) -> Rows {
    let numbers = |value| Numbers { value, activity: Some(value) };
    Rows::ByKey(rows.iter().map(|(key, value)| ((*key).into(), numbers(*value))).collect())
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_all_databases_are_added_up() {
    let world = World::counting(&[1, 20, 300]);
    let reading = world.poll().await.unwrap();
    assert_eq!((&reading.rows, reading.stalled), (&one(321.0), Some(3.0)));
    assert_eq!(world.statements(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_fails_makes_the_sum_a_fault_and_never_smaller() {
    let world = World::counting(&[1, 20, 300]);
    world.set(1, Err(Fault::Unusable(Unusable::Null)));
    assert_eq!(world.value().await, Err(Fault::Unusable(Unusable::Null)));
    let body = world.metrics.encode();
    let failed = r#"clapometer_query_errors_total{query="jobs",database="s1",reason="null"} 1"#;
    assert!(body.contains(failed), "the metric names the shard: {body}");
    world.set(1, Ok(one(20.0)));
    assert_eq!(world.value().await, Ok(321.0));
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_do_not_ask_the_good_databases_more_often_than_max_age() {
    let world = World::counting(&[1, 20, 300]);
    world.set(1, Err(Fault::Unusable(Unusable::Null)));
    for _ in 0..9 {
        world.value().await.unwrap_err();
        advance(TENTH).await;
    }
    assert_eq!(world.statements(), [1, 9, 1]);
    advance(TENTH).await;
    world.value().await.unwrap_err();
    assert_eq!(world.statements(), [2, 10, 2]);
}

#[tokio::test(start_paused = true)]
async fn while_one_database_is_known_to_be_away_none_is_asked() {
    let world = World::counting(&[1, 20, 300]);
    world.shards[2].is_away.store(true, Ordering::Relaxed);
    assert_eq!(world.value().await, Err(Fault::BreakerOpen));
    assert_eq!(world.statements(), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_waited_for_another_too_long_is_not_told() {
    let world = World::counting(&[1, 20]);
    *world.shards[1].waits.lock().unwrap() = 9 * SECOND;
    assert_eq!(world.value().await, Err(Fault::DeadlineExceeded));
    advance(5 * SECOND).await;
    assert_eq!(world.value().await, Err(Fault::DeadlineExceeded), "nine seconds old, and `max_age` is one");
    assert_eq!(world.statements(), [1, 1]);
    *world.shards[1].waits.lock().unwrap() = Duration::ZERO;
    assert_eq!(world.value().await, Ok(21.0));
    assert_eq!(world.statements(), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_sum_is_as_old_as_its_oldest_part() {
    let world = World::counting(&[1, 20]);
    let first = world.poll().await.unwrap();
    advance(TENTH).await;
    world.set(0, Ok(one(2.0)));
    world.notify(0);
    let second = world.poll().await.unwrap();
    assert_eq!((&second.rows, second.sent_at), (&one(22.0), first.sent_at));
    assert_eq!(world.statements(), [2, 1], "a notification concerns its own database");
}

#[tokio::test(start_paused = true)]
async fn a_notification_reads_all_databases_again_if_a_part_is_older_than_max_age() {
    let world = World::counting(&[1, 20]);
    world.value().await.unwrap();
    advance(2 * SECOND).await;
    assert_eq!(world.value().await, Ok(21.0));
    assert_eq!(world.statements(), [1, 1], "while notifications arrive the sum lives until resync");
    world.set(0, Ok(one(2.0)));
    world.set(1, Ok(one(30.0)));
    world.notify(0);
    assert_eq!(world.value().await, Ok(32.0));
    assert_eq!(world.statements(), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn resync_rules_only_while_every_notification_is_known_to_arrive() {
    let world = World::counting(&[1, 20]);
    world.value().await.unwrap();
    advance(4 * SECOND).await;
    world.value().await.unwrap();
    assert_eq!(world.statements(), [1, 1]);
    world.shards[1].channel.send_modify(|state| state.is_healthy = false);
    world.set(0, Ok(one(2.0)));
    assert_eq!(world.value().await, Ok(22.0), "a sum of which one part may be deaf is as old as max_age allows");
}

#[tokio::test(start_paused = true)]
async fn the_first_change_by_the_clock_ends_the_sum_and_reads_its_own_database() {
    let world = World::counting(&[1, 20]);
    *world.shards[1].changes_in.lock().unwrap() = Some(SECOND);
    let reading = world.poll().await.unwrap();
    assert_eq!(reading.changes_at, Some(reading.sent_at + SECOND));
    world.set(1, Ok(one(21.0)));
    advance(SECOND - TENTH).await;
    assert_eq!(world.value().await, Ok(21.0));
    advance(TENTH).await;
    assert_eq!(world.value().await, Ok(22.0));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_of_a_notification_from_any_database() {
    let world = World::counting(&[1, 20]);
    let mut watch = world.cached.watch(None);
    watch.changed().await;
    assert!(watch.latest().is_ok());
    for (shard, value, sum) in [(1, 30.0, 31.0), (0, 4.0, 34.0)] {
        world.set(shard, Ok(one(value)));
        world.notify(shard);
        tokio::time::timeout(TENTH, watch.changed()).await.expect("before any other rule");
        assert_eq!(watch.latest().unwrap().map(Rows::One), Some(one(sum)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_zero_is_believed_only_if_every_database_says_so_now() {
    let world = World::counting(&[0, 1]);
    assert_eq!(world.value().await, Ok(1.0));
    // A row moves: the notification of the database that has it now is still on its way.
    advance(TENTH).await;
    world.set(0, Ok(one(1.0)));
    world.set(1, Ok(one(0.0)));
    world.notify(1);
    assert_eq!(world.value().await, Ok(1.0));
    assert_eq!(world.statements(), [2, 2]);

    let world = World::of(vec![keys(&[("mail", 0.0)]), keys(&[("mail", 1.0), ("push", 1.0)])]);
    let count = async |key| world.poll().await.unwrap().rows.of(Some(key)).map(|numbers| numbers.value);
    assert_eq!(count("mail").await, Some(1.0));
    advance(TENTH).await;
    world.set(0, Ok(keys(&[("mail", 1.0)])));
    world.set(1, Ok(keys(&[("push", 1.0)])));
    world.notify(1);
    assert_eq!(count("mail").await, Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn keys_are_added_up_and_one_that_a_database_does_not_have_adds_nothing() {
    let world = World::of(vec![keys(&[("mail", 1.0), ("print", 5.0)]), keys(&[("mail", 2.0)]), keys(&[])]);
    assert_eq!(world.poll().await.unwrap().rows, keys(&[("mail", 3.0), ("print", 5.0)]));
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_keys_holds_for_all_databases_together() {
    let of = |start: usize| {
        Rows::ByKey(
            (start..start + 6_000)
                .map(|key| (key.to_string().into(), Numbers { value: 1.0, activity: None }))
                .collect(),
        )
    };
    let overlapping = World::of(vec![of(0), of(4_000)]);
    let Rows::ByKey(rows) = overlapping.poll().await.unwrap().rows.clone() else { panic!("grouped") };
    assert_eq!(rows.len(), MAXIMUM_KEYS);
    let disjoint = World::of(vec![of(0), of(4_001)]);
    assert_eq!(disjoint.poll().await, Err(Fault::Unusable(Unusable::TooManyKeys)));
    assert_eq!(disjoint.poll().await, Err(Fault::Unusable(Unusable::TooManyKeys)));
    assert_eq!(disjoint.statements(), [2, 2], "what cannot be added up is read again");
}

#[tokio::test(start_paused = true)]
async fn a_sum_that_is_too_large_is_a_fault() {
    let world = World::of(vec![one(f64::MAX), one(f64::MAX)]);
    assert_eq!(world.value().await, Err(Fault::Unusable(Unusable::Infinite)));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_tells_of_new_rows_only_need_not_announce_the_end_of_others() {
    for (resync, counted) in [(Some(5 * SECOND), 1), (None, 0)] {
        let world = World::with(vec![one(20.0)], resync);
        for value in [20.0, 19.0, 19.0] {
            world.set(0, Ok(one(value)));
            assert_eq!(world.value().await, Ok(value));
            advance(6 * SECOND).await;
        }
        let labels = QueryLabels { query: "jobs".into(), database: "s0".into() };
        assert_eq!(world.metrics.unannounced_changes.get_or_create(&labels).get(), counted);
    }
}
