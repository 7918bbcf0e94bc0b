//! Two replicas behind a headless Service: KEDA's calls go to one and the other in turn.

use std::time::{Duration, Instant};

use clapometer::proto::ScaledObjectRef;
use futures_util::future::join_all;

use crate::support::{
    cluster::Cluster,
    database::Database,
    fixture::{Fixture, named},
    grpc::trigger,
};

const MAX_AGE: Duration = Duration::from_millis(300);

/// The time after GetMetrics for which IsActive of the same trigger answers from the same reading.
const SAME_POLL: Duration = Duration::from_secs(2);

/// The number of commits above which the trigger is active.
const THRESHOLD: usize = 20;

async fn two(database: &Database<'_>, queries: &str) -> [Fixture; 2] {
    let access = database.scaler();
    let (one, other) = tokio::join!(Fixture::with(&access, queries), Fixture::with(&access, queries));
    [one, other]
}

/// A value is no older than `max_age`, an activity no older than that and the two seconds in which it goes with a
/// value.
#[tokio::test]
async fn polls_that_are_spread_over_replicas_tell_nothing_that_is_too_old() {
    let database = Database::empty(Cluster::shared().await).await;
    let table = "CREATE TABLE counter (n int); INSERT INTO counter VALUES (0); GRANT SELECT ON counter TO scaler";
    database.execute(table).await;
    let queries = format!("\n  counter: {{sql: SELECT n FROM counter, max_age: {}ms}}\n", MAX_AGE.as_millis());
    let replicas = two(&database, &queries).await;
    let mut in_turn = replicas.iter().map(|replica| &replica.scaler).cycle();
    let mut next = || in_turn.next().unwrap();
    let trigger = trigger("counter", &[("activationTargetQueryValue", &THRESHOLD.to_string())]);
    let writer = database.connect().await;
    // The moments at which commits were acknowledged: each adds one.
    let mut commits: Vec<Instant> = Vec::new();
    let least = |commits: &[Instant], asked_at: Instant, age: Duration| {
        commits.iter().take_while(|commit| **commit + age <= asked_at).count()
    };
    // Until what is older than both bounds together would be seen.
    while least(&commits, Instant::now(), 2 * (MAX_AGE + SAME_POLL)) <= THRESHOLD {
        writer.batch_execute("UPDATE counter SET n = n + 1").await.unwrap();
        commits.push(Instant::now());
        let most = commits.len();

        next().spec(&trigger).await.unwrap();
        let asked_at = Instant::now();
        let value = next().value(&trigger).await.unwrap();
        let allowed = least(&commits, asked_at, MAX_AGE)..=most;
        assert!(
            allowed.clone().any(|count| f64::from(u32::try_from(count).unwrap()) == value),
            "{value}, not {allowed:?}"
        );

        let asked_at = Instant::now();
        let is_active = next().active(&trigger).await.unwrap();
        assert!(!is_active || most > THRESHOLD, "active after {most} commits");
        let seen = least(&commits, asked_at, MAX_AGE + SAME_POLL);
        assert!(is_active || seen <= THRESHOLD, "inactive, though {seen} commits are older than both bounds");
    }
}

#[tokio::test]
async fn replicas_share_a_budget_alike_in_whatever_order_rows_come() {
    let database = Database::empty(Cluster::shared().await).await;
    let table = "CREATE TABLE work (queue text, outstanding int, claimable int, latest_claim timestamptz);
                 GRANT SELECT ON work TO scaler";
    database.execute(table).await;
    let queries = "\n  jobs: {sql: TABLE work, group_by: queue, value_column: outstanding, activity_column: claimable, \
                   max_age: 0s, budget: {total: 60, since_column: latest_claim}}\n";
    let replicas = two(&database, queries).await;
    let rows = "SELECT 'q' || n, n % 7, n % 7 - n % 3 % (n % 7 + 1), CASE WHEN n % 5 > 0 THEN now() - n % 4 * interval '1 h' END
                  FROM generate_series(1, 50) AS n";
    let mut told = Vec::new();
    for (replica, order) in replicas.iter().zip(["n", "n DESC"]) {
        database.execute(&format!("BEGIN; TRUNCATE work; INSERT INTO work {rows} ORDER BY {order}; COMMIT")).await;
        let answers = (1..=50).map(async |number| {
            let trigger = queue(&format!("q{number}"));
            (replica.scaler.value(&trigger).await.unwrap(), replica.scaler.active(&trigger).await.unwrap())
        });
        told.push(join_all(answers).await);
    }
    assert_eq!(told[0].iter().map(|(value, _)| value).sum::<f64>(), 60.0);
    assert_eq!(told[0], told[1]);
}

fn queue(name: &str) -> ScaledObjectRef {
    named(&trigger("jobs", &[("param.queue", name)]), name)
}
