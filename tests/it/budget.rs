//! A budget: the keys of a grouped query share a number of Jobs.

use std::time::Duration;

use clapometer::proto::ScaledObjectRef;
use serde_json::Value;
use tonic::Code;

use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    fixture::{Fixture, named},
    grpc::trigger,
    wait,
};

const TABLE: &str = "
    CREATE TABLE work (queue text, outstanding float8, claimable float8, weight float8, latest_claim timestamptz);
    GRANT SELECT ON work TO scaler;
";

const COLUMNS: &str = "sql: TABLE work, group_by: queue, value_column: outstanding, activity_column: claimable, \
                       max_age: 0s";

fn queue(name: &str) -> ScaledObjectRef {
    with(name, &[])
}

fn with(name: &str, more: &[(&str, &str)]) -> ScaledObjectRef {
    named(&trigger("jobs", &[&[("param.queue", name)], more].concat()), name)
}

struct World {
    database: Database<'static>,
    fixture: Fixture,
}

impl World {
    async fn with(budget: &str) -> Self {
        let database = Database::empty(Cluster::shared().await).await;
        database.execute(TABLE).await;
        let queries = format!("\n  jobs: {{{COLUMNS}, budget: {budget}}}\n");
        let fixture = Fixture::with(&database.scaler(), &queries).await;
        Self { database, fixture }
    }

    async fn holds(&self, rows: &str) {
        self.database.execute(&format!("TRUNCATE work; INSERT INTO work VALUES {rows}")).await;
    }

    /// Returns what KEDA is told of each queue: the number of Jobs, and whether one may start.
    async fn told(&self, queues: &[&str]) -> Vec<(f64, bool)> {
        let mut told = Vec::new();
        for name in queues {
            let value = self.fixture.scaler.value(&queue(name)).await.unwrap();
            told.push((value, self.fixture.scaler.active(&queue(name)).await.unwrap()));
        }
        told
    }
}

#[tokio::test]
async fn the_keys_share_the_total_by_weight_and_keep_what_they_hold() {
    let world = World::with("{total: 40, weight_column: weight}").await;
    world.holds("('a', 100, 100, 1, NULL), ('b', 100, 100, 1, NULL), ('c', 100, 100, 2, NULL)").await;
    assert_eq!(world.told(&["a", "b", "c", "none"]).await, [(10.0, true), (10.0, true), (20.0, true), (0.0, false)]);
    world.holds("('a', 100, 60, 1, NULL), ('b', 5, 5, 1, NULL), ('c', 0, 0, 1, NULL)").await;
    assert_eq!(world.told(&["a", "b", "c"]).await, [(40.0, false), (0.0, false), (0.0, false)]);
    world.holds("('a', 100, 65, 1, NULL), ('b', 3, 3, 1, NULL)").await;
    assert_eq!(world.told(&["a", "b"]).await, [(37.0, true), (3.0, true)]);
}

#[tokio::test]
async fn the_key_that_has_waited_longest_comes_first() {
    let world = World::with("{total: 2, since_column: latest_claim}").await;
    world.holds("('a', 9, 9, 1, now()), ('b', 9, 9, 1, now() - interval '1 h'), ('c', 9, 9, 1, NULL)").await;
    assert_eq!(world.told(&["a", "b", "c"]).await, [(0.0, false), (1.0, true), (1.0, true)]);
}

#[tokio::test]
async fn what_no_budget_can_share_is_an_error_and_never_a_zero() {
    let world = World::with("{total: 2, weight_column: weight}").await;
    for rows in [
        "('a', 1.5, 1, 1, NULL)",
        "('a', 2, 1.5, 1, NULL)",
        "('a', 1, 2, 1, NULL)",
        "('a', 2, 1, 0, NULL)",
        "('a', 2, 1, -1, NULL)",
        "('a', 2, 1, 'infinity', NULL)",
        "('a', 2, 1, 'NaN', NULL)",
        "('a', 2, 1, NULL, NULL)",
        "('a', 1e17, 1, 1, NULL)",
        // More keys than Jobs, and nothing says whose turn it is.
        "('a', 1, 1, 1, NULL), ('b', 1, 1, 1, NULL), ('c', 1, 1, 1, NULL)",
    ] {
        world.holds(rows).await;
        let refusal = world.fixture.scaler.refusal(&queue("a")).await;
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{rows}: {refusal:?}");
    }
    // A key without rows needs no Job.
    world.holds("('a', 1, 1, 1, NULL), ('b', 1, 1, 1, NULL), ('c', 0, 0, 1, NULL)").await;
    assert_eq!(world.told(&["a", "b", "c"]).await, [(1.0, true), (1.0, true), (0.0, false)]);
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_told_on_every_surface() {
    let world = World::with("{total: 4}").await;
    let short_keys = async || world.fixture.metric("clapometer_query_short_keys", "query=\"jobs\"").await;
    let json = async |path: &str| -> Value {
        serde_json::from_str(&admin::get(world.fixture.serving.admin, path).await).unwrap()
    };
    let told = "a budget is used up: keys are told fewer Jobs than they have rows";

    world.holds("('a', 2, 2, 1, NULL), ('b', 2, 0, 1, NULL)").await;
    assert_eq!(world.told(&["a"]).await, [(2.0, true)]);
    assert_eq!((short_keys().await, world.fixture.logged(told)), (Some(0.0), 0));
    assert_eq!(json("/api/status").await["problems"].as_array().unwrap().len(), 0);

    world.holds("('a', 9, 9, 1, NULL), ('b', 4, 0, 1, NULL)").await;
    for _ in 0..3 {
        assert_eq!(world.told(&["a"]).await, [(0.0, false)]);
    }
    wait::first("the log says so", Duration::from_secs(60), async || (world.fixture.logged(told) > 0).then_some(()))
        .await;
    assert_eq!((short_keys().await, world.fixture.logged(told)), (Some(1.0), 1));
    let problem = &json("/api/status").await["problems"][0];
    assert_eq!((&problem["word"], &problem["subject"]), (&"budget".into(), &"query jobs".into()));
    assert_eq!(problem["text"], "1 key is told fewer Jobs than it has rows: the budget of 4 is used up");
    let trigger = &json("/api/triggers/default/a").await["triggers"][0];
    assert_eq!((&trigger["budget"], &trigger["short_keys"]), (&4.into(), &1.into()));
}

#[tokio::test]
async fn a_trigger_that_would_count_otherwise_is_refused() {
    let world = World::with("{total: 40}").await;
    world.holds("('a', 3, 3, 1, NULL)").await;
    let as_told = [("targetQueryValue", "1"), ("divideBy", "1"), ("activationTargetQueryValue", "0")];
    let as_told = with("a", &[&as_told[..], &[("rounding", "none"), ("activityColumn", "claimable")]].concat());
    assert_eq!(world.fixture.scaler.value(&as_told).await.unwrap(), 3.0);
    for other in [
        ("targetQueryValue", "5"),
        ("divideBy", "2"),
        ("rounding", "ceil"),
        ("activityColumn", "outstanding"),
        ("activationTargetQueryValue", "1"),
    ] {
        let refusal = world.fixture.scaler.refusal(&with("a", &[other])).await;
        assert_eq!(refusal.code(), Code::InvalidArgument, "{other:?}");
        assert!(refusal.message().contains(other.0), "{refusal:?}");
    }
}
