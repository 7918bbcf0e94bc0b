//! The cache's guarantees, with a reader that counts its calls, and a paused clock.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::time::{advance, sleep};

use super::*;
use crate::{
    metrics::Build,
    query::{self, Absent, Namespaces, Query, Value},
    reading::{Breaker, ChannelState, Numbers, ReadResult},
    scaling::{Activation, Divisor, Target},
    shutdown::Supervisor,
};

const SECOND: Duration = Duration::from_secs(1);

/// A reader whose answer is the number of statements so far.
struct Ticker {
    takes: Duration,
    statements: AtomicU64,
    fails: fn(u64) -> Option<Fault>,
    rows: fn(u32) -> Rows,
    breaker: cell::Sender<Breaker>,
}

fn the_number_itself(number: u32) -> Rows {
    Rows::One(Numbers { value: number.into(), activity: None })
}

impl QueryReader for Ticker {
    fn database(&self) -> &'static str {
        "claps"
    }

    fn channel(&self) -> Option<cell::Receiver<ChannelState>> {
        None
    }

    fn breaker(&self) -> cell::Receiver<Breaker> {
        self.breaker.subscribe()
    }

    fn refusal(&self) -> Option<Fault> {
        None
    }

    fn read<'a>(
        &'a self,
        _: &'a [Value],
        _: &'a cell::Receiver<Tenant>,
    ) -> Pin<Box<dyn Future<Output = ReadResult> + Send + 'a>> {
        let number = self.statements.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            let sent_at = Instant::now();
            sleep(self.takes).await;
            if let Some(fault) = (self.fails)(number) {
                return Err((fault, String::new()));
            }
            let rows = (self.rows)(u32::try_from(number).expect("few statements"));
            Ok(Reading { rows, sent_at, changes_at: None, stalled: None, short_keys: None })
        })
    }
}

fn query(max_age: Duration) -> Arc<Query> {
    Arc::new(Query {
        name: "ticks".into(),
        databases: vec!["claps".into()],
        sql: "SELECT 1".into(),
        value_column: None,
        activity_column: None,
        next_change: None,
        divide_by: Divisor::default(),
        rounding: None,
        target: Target::default(),
        activation: Activation::default(),
        parameters: vec![query::Parameter { name: "queue".into(), kind: query::ParameterKind::Bigint }],
        group_by: None,
        on_null: Absent::Error,
        on_no_row: Absent::Error,
        timeout: 20 * SECOND,
        max_age,
        notify: None,
        namespaces: Namespaces::All,
        budget: None,
        preset: None,
    })
}

struct World {
    ticker: Arc<Ticker>,
    source: Arc<QuerySource>,
    cache: Arc<QueryCache>,
    metrics: Arc<Metrics>,
}

impl World {
    fn new(max_age: Duration, takes: Duration, fails: fn(u64) -> Option<Fault>) -> Self {
        Self::telling(the_number_itself, max_age, takes, fails)
    }

    fn telling(rows: fn(u32) -> Rows, max_age: Duration, takes: Duration, fails: fn(u64) -> Option<Fault>) -> Self {
        let (statements, breaker) = (AtomicU64::new(0), cell::Sender::new(Breaker::Closed));
        let ticker = Arc::new(Ticker { takes, statements, fails, rows, breaker });
        let source: Arc<dyn QueryReader> = ticker.clone();
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        Self {
            ticker,
            source: QuerySource::new(query(max_age), vec![source]),
            cache: QueryCache::new(Arc::clone(&metrics), &Supervisor::new().0),
            metrics,
        }
    }

    /// Makes the world of a query with a parameter and a key.
    fn grouped(rows: fn(u32) -> Rows) -> Self {
        let world = Self::telling(rows, SECOND, Duration::ZERO, |_| None);
        let query = Query { group_by: Some("key".into()), ..(*query(SECOND)).clone() };
        let reader: Arc<dyn QueryReader> = world.ticker.clone();
        Self { source: QuerySource::new(Arc::new(query), vec![reader]), ..world }
    }

    fn cached(&self, parameter: i64) -> Arc<CachedQuery> {
        self.cached_of(parameter, "default")
    }

    fn cached_of(&self, parameter: i64, namespace: &str) -> Arc<CachedQuery> {
        self.get_or_insert(Value::Bigint(parameter), namespace).expect("there is room")
    }

    fn get_or_insert(&self, parameter: Value, namespace: &str) -> Result<Arc<CachedQuery>, Fault> {
        let key = CacheKey { source: Arc::clone(&self.source), parameters: vec![parameter] };
        self.cache.get_or_insert(&key, namespace)
    }

    fn statements(&self) -> u64 {
        self.ticker.statements.load(Ordering::Relaxed)
    }
}

fn value(numbers: Option<Numbers>) -> f64 {
    numbers.expect("a plain query has a row").value
}

fn soon() -> Call {
    let came_at = Instant::now();
    Call { came_at, deadline: came_at + crate::reading::CALL_DEADLINE }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_at_once_cause_one_statement() {
    let world = World::new(SECOND, SECOND / 10, |_| None);
    let calls: Vec<_> = (0..1_000u64)
        .map(|trigger| {
            let cached = world.cached(1);
            tokio::spawn(async move { cached.for_metrics(trigger, None, soon()).await })
        })
        .collect();
    for call in calls {
        assert_eq!(value(call.await.unwrap().unwrap()), 1.0);
    }
    assert_eq!(world.statements(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_young_reading_is_shared_and_an_old_one_is_not() {
    let world = World::new(SECOND, Duration::ZERO, |_| None);
    let cached = world.cached(1);
    assert_eq!(value(cached.for_metrics(1, None, soon()).await.unwrap()), 1.0);
    advance(SECOND - Duration::from_millis(1)).await;
    assert_eq!(value(cached.for_metrics(2, None, soon()).await.unwrap()), 1.0);
    advance(Duration::from_millis(1)).await;
    assert_eq!(value(cached.for_metrics(3, None, soon()).await.unwrap()), 2.0);
}

#[tokio::test(start_paused = true)]
async fn the_two_calls_of_a_poll_use_one_reading_even_without_max_age() {
    let world = World::new(Duration::ZERO, Duration::ZERO, |_| None);
    let cached = world.cached(1);
    assert_eq!(value(cached.for_metrics(7, None, soon()).await.unwrap()), 1.0);
    assert_eq!(value(cached.for_metrics(8, None, soon()).await.unwrap()), 2.0);
    advance(PIN - Duration::from_millis(1)).await;
    assert_eq!(value(cached.for_activity(7, None, soon()).await.unwrap()), 1.0);
    assert_eq!(value(cached.for_activity(8, None, soon()).await.unwrap()), 2.0);
    advance(Duration::from_millis(1)).await;
    assert_eq!(value(cached.for_activity(7, None, soon()).await.unwrap()), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_ends_every_pin_and_every_memory() {
    let world = World::new(Duration::ZERO, Duration::ZERO, |number| (number == 2).then_some(Fault::LockTimeout));
    let cached = world.cached(1);
    assert_eq!(value(cached.for_metrics(7, None, soon()).await.unwrap()), 1.0);
    assert_eq!(cached.for_metrics(8, None, soon()).await, Err(Fault::LockTimeout));
    assert_eq!(value(cached.for_activity(7, None, soon()).await.unwrap()), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reading_outlives_the_calls_that_asked_for_it() {
    let world = World::new(45 * SECOND, 7 * SECOND, |_| None);
    let cached = world.cached(1);
    assert_eq!(cached.for_metrics(1, None, soon()).await, Err(Fault::DeadlineExceeded));
    advance(3 * SECOND).await;
    assert_eq!(value(cached.for_metrics(1, None, soon()).await.unwrap()), 1.0);
    advance(30 * SECOND).await;
    assert_eq!(value(cached.for_metrics(1, None, soon()).await.unwrap()), 1.0);
    assert_eq!(world.statements(), 1);
}

/// While the process or its machine was paused, the answer arrived and the time limit passed. Both are noticed at the
/// same moment.
#[tokio::test(start_paused = true)]
async fn an_answer_that_waited_for_a_paused_process_is_an_error_unless_max_age_allows_it() {
    for (max_age, is_allowed) in [(Duration::ZERO, false), (45 * SECOND, true)] {
        let world = World::new(max_age, 40 * SECOND, |_| None);
        let cached = world.cached(1);
        assert_eq!(cached.for_metrics(1, None, soon()).await, Err(Fault::DeadlineExceeded));
        advance(37 * SECOND).await;
        let joined = cached.for_metrics(1, None, soon()).await;
        assert_eq!(joined.map(value), if is_allowed { Ok(1.0) } else { Err(Fault::DeadlineExceeded) });
        assert_eq!(world.statements(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_failure_and_the_next_call_asks_again() {
    let world = World::new(SECOND, Duration::ZERO, |number| if number == 1 { panic!("on purpose") } else { None });
    let cached = world.cached(1);
    assert_eq!(cached.for_metrics(1, None, soon()).await, Err(Fault::Bug));
    assert_eq!(value(cached.for_metrics(1, None, soon()).await.unwrap()), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_watched_cached_query_reads_itself_and_an_unwatched_one_does_not() {
    let world = World::new(SECOND, Duration::ZERO, |_| None);
    let cached = world.cached(1);
    let mut watch = cached.watch(None);
    for expected in 1..=5u32 {
        assert_eq!(value(next(&mut watch).await.unwrap()), f64::from(expected));
    }
    drop(watch);
    sleep(10 * SECOND).await;
    assert_eq!(world.statements(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_watched_cached_query_reads_itself_at_once_when_the_database_has_returned() {
    let world = World::new(SECOND, Duration::ZERO, |number| (number == 1).then_some(Fault::BreakerOpen));
    let mut watch = world.cached(1).watch(None);
    assert_eq!(next(&mut watch).await, Err(Fault::BreakerOpen));
    let returned_at = Instant::now();
    world.ticker.breaker.send_replace(Breaker::Closed);
    assert_eq!(value(next(&mut watch).await.unwrap()), 2.0);
    assert!(returned_at.elapsed() < SECOND / 2);
}

/// Waits for a change, and returns the numbers after it.
async fn next(watch: &mut Watch) -> Result<Option<Numbers>, Fault> {
    watch.changed().await;
    watch.latest()
}

/// Returns rows of which the key `ticks` changes with every statement and the key `stands` never does.
fn by_key(number: u32) -> Rows {
    let row = |key: &str, value: u32| (key.into(), Numbers { value: value.into(), activity: None });
    Rows::ByKey([row("ticks", number), row("stands", 7)].into())
}

#[tokio::test(start_paused = true)]
async fn a_watcher_of_a_key_wakes_only_when_its_own_numbers_change() {
    let world = World::telling(by_key, SECOND, Duration::ZERO, |number| (number == 4).then_some(Fault::LockTimeout));
    let cached = world.cached(1);
    let mut ticking = cached.watch(Some("ticks".into()));
    let mut standing = cached.watch(Some("stands".into()));
    let mut absent = cached.watch(Some("absent".into()));
    for watch in [&mut ticking, &mut standing, &mut absent] {
        assert!(next(watch).await.is_ok(), "all hear of the first attempt");
    }
    for _ in 2..=3 {
        assert!(next(&mut ticking).await.is_ok());
        assert!(standing.changed().now_or_never().is_none());
        assert!(absent.changed().now_or_never().is_none());
    }
    for watch in [&mut ticking, &mut standing, &mut absent] {
        assert_eq!(next(watch).await, Err(Fault::LockTimeout), "a failure concerns all");
    }
    for watch in [&mut ticking, &mut standing, &mut absent] {
        assert!(next(watch).await.is_ok(), "its end does, too");
    }
    drop(cached.watch(Some("ticks".into())));
    assert!(next(&mut ticking).await.is_ok(), "another watcher's end concerns nobody");
    assert_eq!(world.statements(), 6);
}

#[tokio::test(start_paused = true)]
async fn who_finds_the_reading_too_old_hears_of_the_next_whatever_it_brings() {
    let world = World::telling(by_key, SECOND, SECOND / 2, |_| None);
    let cached = world.cached(1);
    let mut standing = cached.watch(Some("stands".into()));
    assert!(next(&mut standing).await.is_ok());
    assert!(standing.is_current());
    sleep(SECOND * 3 / 4).await;
    assert!(standing.changed().now_or_never().is_none());
    assert!(!standing.is_current(), "the second attempt is under way");
    assert!(next(&mut standing).await.is_ok());
    assert_eq!(world.statements(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_finds_the_reading_too_old_wakes_nobody_else() {
    let world = World::telling(|_| the_number_itself(7), SECOND, SECOND / 2, |_| None);
    let cached = world.cached(1);
    let mut standing = cached.watch(None);
    assert!(next(&mut standing).await.is_ok());
    sleep(SECOND * 3 / 4).await;
    let mut newcomer = cached.watch(None);
    assert!(next(&mut newcomer).await.is_ok());
    assert_eq!(world.statements(), 2, "the newcomer hears of the attempt that was under way");
    assert!(standing.changed().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn idle_cached_queries_are_dropped_and_watched_ones_are_not() {
    let world = World::new(SECOND, Duration::ZERO, |_| None);
    let kept = world.cached(1);
    let _watch = kept.watch(None);
    let dropped = Arc::downgrade(&world.cached(2));
    sleep(700 * SECOND).await;
    assert!(dropped.upgrade().is_none());
    assert!(Arc::ptr_eq(&kept, &world.cached(1)));
}

#[tokio::test(start_paused = true)]
async fn the_longest_unused_gives_way_within_a_namespace_and_never_beyond_the_caps() {
    let world = World::new(SECOND, Duration::ZERO, |_| None);
    let other = world.get_or_insert(Value::Bigint(-1), "other").unwrap();
    for parameter in 0..20_000 {
        world.cached(parameter);
        if parameter % 64 == 0 {
            advance(Duration::from_millis(1)).await;
        }
    }
    assert!(world.metrics.gauges.get() <= 2_501);
    assert!(Arc::ptr_eq(&other, &world.get_or_insert(Value::Bigint(-1), "default").unwrap()));
}

#[tokio::test(start_paused = true)]
async fn long_parameters_take_room_by_their_bytes() {
    let world = World::new(SECOND, Duration::ZERO, |_| None);
    let long = |number: i32| Value::Text(format!("{number:065000}"));
    let of = |number, namespace: &str| world.get_or_insert(long(number), namespace);
    for number in 0..1_000 {
        assert!(of(number, "default").is_ok());
    }
    assert!((1..=32).contains(&world.metrics.gauges.get()), "2 MiB are one namespace's");
    for number in 0..1_000 {
        assert!(of(number, &number.to_string()).is_ok());
    }
    assert!((33..=129).contains(&world.metrics.gauges.get()), "8 MiB are there for all");

    let watches: Vec<_> = (2_000..2_032).map(|number| of(number, "watching").unwrap().watch(None)).collect();
    assert_eq!(of(2_032, "watching").err(), Some(Fault::Exhausted(crate::fault::Limit::NamespaceQuota)));
    assert!(of(2_032, "other").is_ok());
    drop(watches);
    assert!(of(2_033, "watching").is_ok());
    world.cache.keep_only(&[]);
    assert_eq!(world.metrics.gauges.get(), 0);
    assert!(of(1, "default").is_ok(), "what is gone takes no room");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_cached_queries_are_all_watched_gets_no_more() {
    let world = World::new(SECOND, Duration::ZERO, |_| None);
    let watches: Vec<_> = (0..2_500).map(|parameter| world.cached(parameter).watch(None)).collect();
    let refused = world.get_or_insert(Value::Bigint(9_999), "default");
    assert_eq!(refused.err(), Some(Fault::Exhausted(crate::fault::Limit::NamespaceQuota)));
    assert!(world.get_or_insert(Value::Bigint(9_999), "other").is_ok());
    drop(watches);
    assert!(world.get_or_insert(Value::Bigint(10_000), "default").is_ok());
}

#[tokio::test(start_paused = true)]
async fn readings_with_many_keys_take_room_and_the_longest_unused_give_way() {
    let ten_thousand = |_| {
        let row = |key: u32| (key.to_string().into(), Numbers { value: 1.0, activity: None });
        Rows::ByKey((0..10_000).map(row).collect())
    };
    let world = World::grouped(ten_thousand);
    let poll_at_once = async |parameter, namespace: &str| {
        let cached = world.get_or_insert(Value::Bigint(parameter), namespace)?;
        cached.for_metrics(1, Some("7"), soon()).await
    };
    let poll = async |parameter, namespace: &str| {
        advance(PIN).await;
        poll_at_once(parameter, namespace).await
    };
    let other = world.get_or_insert(Value::Bigint(-1), "other").unwrap();
    assert!(other.for_metrics(1, Some("7"), soon()).await.is_ok());
    for parameter in 0..100 {
        assert_eq!(value(poll(parameter, "greedy").await.unwrap()), 1.0);
    }
    let gauges = world.metrics.gauges.get();
    assert!((15..=22).contains(&gauges), "{gauges}: 24 MiB are one namespace's");
    assert!(Arc::ptr_eq(&other, &world.get_or_insert(Value::Bigint(-1), "other").unwrap()));

    // What a poll was told a moment ago stays for its IsActive, whoever asks for more.
    advance(PIN).await;
    let mut kept = Vec::new();
    let refused = loop {
        let parameter = 1_000 + i64::try_from(kept.len()).unwrap();
        match poll_at_once(parameter, "greedy").await {
            Ok(_) => kept.push(world.cached_of(parameter, "greedy")),
            Err(fault) => break fault,
        }
    };
    assert_eq!(refused, Fault::Exhausted(crate::fault::Limit::NamespaceQuota));
    for (parameter, cached) in (1_000..).zip(&kept) {
        assert!(Arc::ptr_eq(cached, &world.cached_of(parameter, "greedy")), "{parameter} of {}", kept.len());
    }
    drop(kept);
    advance(PIN).await;

    let mut watches: Vec<_> = (70..100).map(|parameter| world.cached_of(parameter, "greedy").watch(None)).collect();
    for watch in &mut watches {
        watch.changed().await;
    }
    let refused = poll(200, "greedy").await;
    assert_eq!(refused, Err(Fault::Exhausted(crate::fault::Limit::NamespaceQuota)));
    assert!(poll(300, "third").await.is_ok());
    drop(watches);
    assert!(poll(201, "greedy").await.is_ok());
}
